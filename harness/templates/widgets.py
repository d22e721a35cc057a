"""Names for the widget values of a saved node.

A saved node lists its widget values by position. Their names are the widget inputs of its class, in order, with one more
value after each seed (what to do with it after a run) and after each upload (the button). Widgets that a document does not
have, because it is older than they are, take their defaults.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

NodeInfo = dict[str, dict]
"""ComfyUI's answer to `/object_info`: the definition of each node class by its name."""

EMPTY = {"INT": 0, "FLOAT": 0.0, "STRING": "", "BOOLEAN": False}
WIDGET_TYPES = {*EMPTY, "COMBO", "COLOR", "CURVE", "BOUNDING_BOX"}
DYNAMIC_COMBO = "COMFY_DYNAMICCOMBO_V3"
SHOWN_ONLY = {"IMAGECOMPARE": {"__value__": ["", ""]}}
"""Widgets that only show something, and what the front end sends for them."""
AFTER_SEED = {"fixed", "increment", "decrement", "randomize"}
UPLOADS = {"image_upload", "video_upload", "audio_upload", "animated_image_upload", "file_upload"}
SECTIONS = ("required", "optional")


def widget_values(node: dict, info: dict | None) -> dict[str, Any]:
    """Return the widget values of a saved node by input name.

    Args:
        node: A node of a saved workflow.
        info: The definition of its class; without one nothing is known and the result is empty.
    """
    saved = node.get("widgets_values")
    if isinstance(saved, dict):
        return {name: value for name, value in saved.items() if name != "videopreview"}
    if info is None:
        return {}
    left = list(saved or [])
    if node["type"] == "CustomCombo":
        return _custom_combo(left)
    values: dict[str, Any] = {}
    for name, spec in _inputs(info["input"]):
        _take(name, spec, left, values)
    return values


def saved_values(values: dict[str, Any], info: dict) -> list:
    """Return the widget values of a node as a document saves them: the inverse of `widget_values`.

    Args:
        values: The values by input name; widgets that it leaves out take their defaults.
        info: The definition of the class, which has no dynamic combo and no upload.
    """
    saved = []
    for name, spec in _inputs(info["input"]):
        kind, options = spec[0], spec[1] if len(spec) > 1 else {}
        if _has_widget(kind, options):
            saved.append(values.get(name, _default(kind, options)))
            saved += ["fixed"] if _has_companion(name, kind, options, "fixed") else []
    return saved


def _custom_combo(saved: list) -> dict[str, Any]:
    """Name the widgets of a node whose front-end part makes its own: the choice, its index, and the options."""
    choice, index, *options = saved
    return {"choice": choice, "index": index, **{f"option{number}": text for number, text in enumerate(options, start=1)}}


def _inputs(inputs: dict[str, dict]) -> Iterator[tuple[str, list]]:
    for section in SECTIONS:
        yield from inputs.get(section, {}).items()


def _take(name: str, spec: list, left: list, values: dict[str, Any]) -> None:
    """Move the value of one input, and of the inputs it reveals, from the front of `left` to `values`."""
    kind = spec[0]
    options = spec[1] if len(spec) > 1 and isinstance(spec[1], dict) else {}
    if isinstance(kind, str) and kind in SHOWN_ONLY:
        values[name] = SHOWN_ONLY[kind]
        return
    if not _has_widget(kind, options):
        return
    values[name] = left.pop(0) if left else _default(kind, options)
    if kind == DYNAMIC_COMBO:
        for inner, inner_spec in _revealed(values[name], options):
            _take(f"{name}.{inner}", inner_spec, left, values)
    elif left and _has_companion(name, kind, options, left[0]):
        left.pop(0)


def _revealed(chosen: str, options: dict) -> Iterator[tuple[str, list]]:
    """Yield the inputs that a choice of a dynamic combo brings with it."""
    for option in options["options"]:
        if option["key"] == chosen:
            yield from _inputs(option["inputs"])


def _default(kind: Any, options: dict) -> Any:
    if "default" in options:
        return options["default"]
    if kind == DYNAMIC_COMBO:
        return options["options"][0]["key"]
    choices = kind if isinstance(kind, list) else options.get("options", [])
    return choices[0] if choices else EMPTY.get(kind if isinstance(kind, str) else "")


def _has_companion(name: str, kind: Any, options: dict, following: Any) -> bool:
    """Return whether the value that follows belongs to the same input."""
    if options.get("control_after_generate") or (kind == "INT" and name in ("seed", "noise_seed")):
        return isinstance(following, str) and following in AFTER_SEED
    return (isinstance(kind, list) or kind == "COMBO") and any(options.get(key) for key in UPLOADS)


def _has_widget(kind: Any, options: dict) -> bool:
    if options.get("forceInput") or options.get("rawLink"):
        return False
    return isinstance(kind, list) or kind in WIDGET_TYPES or kind == DYNAMIC_COMBO
