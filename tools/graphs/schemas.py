"""Inputs and outputs of nodes, as ComfyUI and the pack declare them."""

from __future__ import annotations

import asyncio
import functools
import importlib
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from harness.in_process import PACKAGE, comfyui_folder

WIDGET_TYPES = {"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO"}
UPLOADS = ("image_upload", "video_upload")
DYNAMIC_COMBO = "COMFY_DYNAMICCOMBO_V3"
"""A combo of newer ComfyUI versions whose choices can have further inputs; a graph saves the choice like that of any combo."""
NOTE = "MarkdownNote"
"""A node that only the front end knows."""


@dataclass(frozen=True)
class Input:
    """An input of a node.

    Attributes:
        name: Its name.
        type: Name of the socket's type; COMBO for a list of choices.
        optional: Whether it can stay unconnected.
        options: Limits, default and choices.
    """

    name: str
    type: str
    optional: bool
    options: dict[str, Any]

    @property
    def is_widget(self) -> bool:
        """True if the front end shows a widget for it."""
        return self.type in WIDGET_TYPES and not self.options.get("forceInput")

    @property
    def extra_widget(self) -> str | None:
        """The widget that the front end adds after this one, with its own value in the saved list."""
        if self.options.get("control_after_generate") or (self.type == "INT" and self.name in ("seed", "noise_seed")):
            return "control_after_generate"
        return "upload" if any(self.options.get(key) for key in UPLOADS) else None


@dataclass(frozen=True)
class NodeSchema:
    """Inputs and (name, type) of outputs of a node, and whether it is one of the pack's."""

    inputs: tuple[Input, ...]
    outputs: tuple[tuple[str, str], ...]
    ours: bool

    @property
    def sockets(self) -> list[Input]:
        return [given for given in self.inputs if not given.is_widget]

    @property
    def widgets(self) -> list[Input]:
        return [given for given in self.inputs if given.is_widget]


@functools.lru_cache(None)
def node_schema(kind: str) -> NodeSchema:
    """Return the schema of a node of this pack, of ComfyUI or of tiny twins; raise KeyError for an unknown one."""
    if kind == NOTE:
        return NodeSchema((Input("text", "STRING", False, {}),), (), False)
    ours = _our_nodes()
    node = {**_stand_ins(), **_comfyui_nodes(), **ours}[kind]
    given = node.INPUT_TYPES()
    inputs = [
        _input(name, spec, optional=part == "optional")
        for part in ("required", "optional")
        for name, spec in given.get(part, {}).items()
    ]
    types = [str(getattr(kind, "value", kind)) for kind in node.RETURN_TYPES]
    names = list(getattr(node, "RETURN_NAMES", None) or types)
    return NodeSchema(tuple(inputs), tuple(zip(names, types, strict=True)), kind in ours)


def _input(name: str, spec: tuple | list, *, optional: bool) -> Input:
    kind, options = spec[0], dict(spec[1]) if len(spec) > 1 else {}
    if isinstance(kind, (list, tuple)):
        return Input(name, "COMBO", optional, {**options, "options": list(kind)})
    if kind == DYNAMIC_COMBO:
        return Input(name, "COMBO", optional, {**options, "options": [choice["key"] for choice in options["options"]]})
    return Input(name, str(getattr(kind, "value", kind)), optional, options)


def _stand_ins() -> dict[str, Any]:
    """Return the nodes that only tiny twins use."""
    return importlib.import_module("harness.templates.stand_ins").NODE_CLASS_MAPPINGS


@functools.lru_cache(None)
def _our_nodes() -> dict[str, Any]:
    __import__(f"{PACKAGE}.nodes")
    return {node.__name__: node for node in sys.modules[f"{PACKAGE}.nodes"].NODES}


@functools.lru_cache(None)
def _comfyui_nodes() -> dict[str, Any]:
    nodes = importlib.import_module("nodes")  # ComfyUI's module, not our folder
    sys.path.insert(0, str(comfyui_folder()))  # nodes.py has inserted a folder with another 'utils' before it
    with ThreadPoolExecutor(1) as thread:  # an event loop may be running in this thread
        thread.submit(asyncio.run, nodes.init_builtin_extra_nodes()).result()
    return nodes.NODE_CLASS_MAPPINGS
