"""Shared by all nodes: categories, the PYRAMID and LIFT types, and probes for what the running ComfyUI supports."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import sys
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from comfy_api.latest import io

from ..samplers.comfyui.node_inputs import check_inputs

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


MAX_LINE = 40
"""Characters that fit in one line of a text on the narrowest node."""

FRONT_END = "pyramidalwan"
"""Option of a widget that web/pyramidalwan.js reads."""


def setting(widget: Input, values: Mapping[str, Mapping[str, Any]], *, otherwise: str) -> Input:
    """Let a choice set other widgets in the front end.

    Args:
        widget: The combo.
        values: Values of other widgets by choice.
        otherwise: Choice that the combo takes when one of these widgets is changed.
    """
    return _for_front_end(widget, {"sets": {choice: dict(each) for choice, each in values.items()}, "otherwise": otherwise})


def explaining(widget: Input, texts: Mapping[tuple[str, str], str], *, also: str) -> Input:
    """Show in the front end a text on the node that depends on the choices of two combos.

    Args:
        widget: The first combo.
        texts: Texts by the choices of both.
        also: Name of the second combo.
    """
    return _for_front_end(widget, {"texts": {", ".join(both): as_shown(text) for both, text in texts.items()}, "also": also})


def _for_front_end(widget: Input, options: dict[str, Any]) -> Input:
    widget.extra_dict = {**(widget.extra_dict or {}), FRONT_END: options}
    return widget


def checked(run: Callable[..., Any], *, lazy: bool = False) -> Callable[..., Any]:
    """Check every input against the schema before a class method of a node runs.

    Args:
        run: The method, below ``classmethod``.
        lazy: Whether inputs may be missing because they were not evaluated yet.
    """
    signature = inspect.signature(run)

    @functools.wraps(run)
    def checked_run(cls: type[io.ComfyNode], *args: Any, **kwargs: Any) -> Any:
        given = signature.bind(cls, *args, **kwargs).arguments
        check_inputs(cls.define_schema().inputs, {**given, **given.get("inputs", {})}, lazy=lazy)
        return run(cls, *args, **kwargs)

    return checked_run


checked_lazily = functools.partial(checked, lazy=True)
"""``checked`` for methods that run before all inputs are evaluated."""


def show_text(node: type[io.ComfyNode], text: str) -> None:
    """Show a text on the node in the front end; do nothing without a server or where ComfyUI cannot show it."""
    text_reporter(node)(text)


def text_reporter(node: type[io.ComfyNode]) -> Callable[[str], None]:
    """Return a function that shows texts on the node, also after it has run."""
    server = getattr(getattr(sys.modules.get("server"), "PromptServer", None), "instance", None)
    node_id = getattr(node.hidden, "unique_id", None)

    def show(text: str) -> None:
        if server is not None and node_id is not None and hasattr(server, "send_progress_text"):
            server.send_progress_text(as_shown(text), node_id)

    return show


def as_shown(text: str) -> str:
    """Return a text in short lines that can also be read in one.

    The front end's new node design does not break lines where the text does, and the other one breaks long lines inside words.
    """
    *lines, last = text.replace("; ", "\n").splitlines() or [""]
    closed = [*(line if line.endswith(":") else f"{line};" for line in lines), last]
    return "\n".join(
        part for line in closed for part in textwrap.wrap(line, MAX_LINE, break_long_words=False, break_on_hyphens=False)
    )
