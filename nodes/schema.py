"""What all our nodes share: the category, the one type of our own, and probes for what the running host knows."""

from __future__ import annotations

import dataclasses
import sys
from typing import Any, TypeVar

from comfy_api.latest import io

CATEGORY = "PyramidalWan"

Pyramid = io.Custom("PYRAMID")
"""Carries a ``PyramidSpec``."""

Input = TypeVar("Input", bound=io.Input)

_KNOWN = {field.name for field in dataclasses.fields(io.Schema)}


def schema(**fields: Any) -> io.Schema:
    """An ``io.Schema`` with those of the fields that this host has; newer ones, such as search words, are optional."""
    return io.Schema(**{"category": CATEGORY, **{key: value for key, value in fields.items() if key in _KNOWN}})


def advanced(widget: Input) -> Input:
    """Marks an expert widget; hosts that do not know the mark show it like any other."""
    widget.extra_dict = {**(widget.extra_dict or {}), "advanced": True}
    return widget


def tell(node: type[io.ComfyNode], text: str) -> None:
    """Shows a text on the node in the front end. Without a server, or on a host that cannot, nothing happens."""
    server = getattr(getattr(sys.modules.get("server"), "PromptServer", None), "instance", None)
    node_id = getattr(node.hidden, "unique_id", None)
    if node_id is not None and hasattr(server, "send_progress_text"):
        server.send_progress_text(text, node_id)
