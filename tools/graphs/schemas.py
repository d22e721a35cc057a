"""What the running host and the pack say about a node's inputs and outputs."""

from __future__ import annotations

import asyncio
import functools
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from harness.in_process import PACKAGE, comfyui_folder

WIDGET_TYPES = {"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO"}
UPLOADS = ("image_upload", "video_upload")
DYNAMIC_COMBO = "COMFY_DYNAMICCOMBO_V3"
"""A combo of newer hosts whose choices may bring inputs of their own; a graph saves the choice like any combo's."""
NOTE = "MarkdownNote"
"""Known to the front end only."""


@dataclass(frozen=True)
class Input:
    """type: the name of the socket's type; of a list of choices it is COMBO. options: limits, default, choices."""

    name: str
    type: str
    optional: bool
    options: dict[str, Any]

    @property
    def is_widget(self) -> bool:
        return self.type in WIDGET_TYPES and not self.options.get("forceInput")

    @property
    def extra_widget(self) -> str | None:
        """What the front end puts after the widget, with a value of its own in the saved list."""
        if self.options.get("control_after_generate") or (self.type == "INT" and self.name in ("seed", "noise_seed")):
            return "control_after_generate"
        return "upload" if any(self.options.get(key) for key in UPLOADS) else None


@dataclass(frozen=True)
class NodeSchema:
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
    """Return the schema of a node of this pack or of ComfyUI; raise KeyError for an unknown one."""
    if kind == NOTE:
        return NodeSchema((Input("text", "STRING", False, {}),), (), False)
    ours, comfyuis = _our_nodes(), _comfyui_nodes()
    node = ours[kind] if kind in ours else comfyuis[kind]
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


@functools.lru_cache(None)
def _our_nodes() -> dict[str, Any]:
    __import__(f"{PACKAGE}.nodes")
    return {node.__name__: node for node in sys.modules[f"{PACKAGE}.nodes"].NODES}


@functools.lru_cache(None)
def _comfyui_nodes() -> dict[str, Any]:
    import nodes

    sys.path.insert(0, str(comfyui_folder()))  # nodes.py has put a folder in front that holds another 'utils'
    with ThreadPoolExecutor(1) as thread:  # on this one a loop may be running already
        thread.submit(asyncio.run, nodes.init_builtin_extra_nodes()).result()
    return nodes.NODE_CLASS_MAPPINGS
