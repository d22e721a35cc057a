"""Shared by all nodes: categories, the PYRAMID and LIFT types, and probes for what the running ComfyUI supports."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from comfy_api.latest import io

CATEGORY = "PyramidalWan"
BY_HAND = f"{CATEGORY}/wired by hand"
ANALYSIS = f"{CATEGORY}/analysis"
CONDITIONING = f"{CATEGORY}/conditioning"

Pyramid = io.Custom("PYRAMID")
"""Carries a ``PyramidSpec``."""

Lift = io.Custom("LIFT")
"""Carries a ``VideoLift``."""

Input = TypeVar("Input", bound=io.Input)

_SUPPORTED = {field.name for field in dataclasses.fields(io.Schema)}


def schema(
    *,
    node_id: str,
    display_name: str,
    description: str,
    inputs: Sequence[io.Input],
    outputs: Sequence[io.Output],
    search_aliases: Sequence[str],
    category: str = CATEGORY,
    hidden: Sequence[io.Hidden] = (),
    is_output_node: bool = False,
) -> io.Schema:
    """Build an ``io.Schema``; fields that are newer than the running ComfyUI are left out.

    Every field is a parameter, so a misspelt one raises a TypeError instead of being dropped as unsupported.
    """
    newer: dict[str, Any] = {"search_aliases": list(search_aliases)}
    return io.Schema(
        node_id=node_id,
        display_name=display_name,
        category=category,
        description=description,
        inputs=list(inputs),
        outputs=list(outputs),
        hidden=list(hidden),
        is_output_node=is_output_node,
        **{name: value for name, value in newer.items() if name in _SUPPORTED},
    )


def advanced(widget: Input) -> Input:
    """Mark a widget as advanced; a ComfyUI that does not know the mark shows it like any other."""
    widget.extra_dict = {**(widget.extra_dict or {}), "advanced": True}
    return widget


def tell(node: type[io.ComfyNode], text: str) -> None:
    """Show a text on the node in the front end; do nothing without a server or where ComfyUI cannot show it."""
    teller(node)(text)


def teller(node: type[io.ComfyNode]) -> Callable[[str], None]:
    """Return a function that shows texts on the node, also after it has run."""
    server = getattr(getattr(sys.modules.get("server"), "PromptServer", None), "instance", None)
    node_id = getattr(node.hidden, "unique_id", None)

    def show(text: str) -> None:
        if server is not None and node_id is not None and hasattr(server, "send_progress_text"):
            server.send_progress_text(text, node_id)

    return show
