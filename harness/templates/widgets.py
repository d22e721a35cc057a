"""Names for the widget values of a saved node.

A saved node lists its widget values by position. Their names are the widget inputs of its class, in order, with one more
value after each seed (what to do with it after a run) and after each upload (the button).
"""

from __future__ import annotations

from typing import Any

NodeInfo = dict[str, dict]
"""ComfyUI's answer to `/object_info`: the definition of each node class by its name."""

WIDGET_TYPES = {"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO", "COLOR", "CURVE", "BOUNDING_BOX"}
VALUELESS = {"IMAGECOMPARE"}
"""Widgets that only show something; ComfyUI requires their input all the same."""
DYNAMIC_COMBO = "COMFY_DYNAMICCOMBO_V3"
AFTER_SEED = {"fixed", "increment", "decrement", "randomize"}
FRONT_END_WIDGETS = {"CustomCombo": ("choice", "index")}
"""Widgets of nodes whose front-end part adds some that the definition does not list."""
UPLOADS = {"image_upload", "video_upload", "audio_upload", "animated_image_upload", "file_upload"}


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
    if node["type"] in FRONT_END_WIDGETS:
        return dict(zip(FRONT_END_WIDGETS[node["type"]], left))
    values: dict[str, Any] = {}
    for section in ("required", "optional"):
        for name, spec in info["input"].get(section, {}).items():
            _take(name, spec, left, values)
    return values


def _take(name: str, spec: list, left: list, values: dict[str, Any]) -> None:
    """Move the value of one input, and of the inputs it reveals, from the front of `left` to `values`."""
    options = spec[1] if len(spec) > 1 and isinstance(spec[1], dict) else {}
    if not left and spec[0] in VALUELESS:
        values[name] = ""
    if not left or not _has_widget(spec[0], options):
        return
    values[name] = left.pop(0)
    if spec[0] == DYNAMIC_COMBO:
        _take_revealed(name, options, left, values)
    elif left and _has_companion(name, spec[0], options, left[0]):
        left.pop(0)


def _has_companion(name: str, kind: Any, options: dict, following: Any) -> bool:
    """Tell whether the value that follows belongs to the same input."""
    if options.get("control_after_generate") or (kind == "INT" and name in ("seed", "noise_seed")):
        return following in AFTER_SEED
    return (isinstance(kind, list) or kind == "COMBO") and any(options.get(key) for key in UPLOADS)


def _take_revealed(name: str, options: dict, left: list, values: dict[str, Any]) -> None:
    chosen = next((option for option in options["options"] if option["key"] == values[name]), None)
    for section in ("required", "optional") if chosen else ():
        for inner, spec in chosen["inputs"].get(section, {}).items():
            _take(f"{name}.{inner}", spec, left, values)


def _has_widget(kind: Any, options: dict) -> bool:
    if options.get("forceInput") or options.get("rawLink"):
        return False
    return isinstance(kind, list) or kind in WIDGET_TYPES or kind == DYNAMIC_COMBO
