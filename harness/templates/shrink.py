"""Shrink a template's sizes, frames and steps, keeping its structure and proportions.

832x480 becomes 128x64, 81 frames become 17, 20 steps with a change of model after 10 become 4 with a change after 2.
Values that come from primitive nodes, through switches and expressions, are shrunk at their source node.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import partial

from pyramid.latent_shape import latent_frames, video_frames

from .graph import Graph, Node, is_link, of_class, title

UNIT, UNIT_LARGE = 64, 128
"""Sides are multiples of this, so that the VAE, the patches and two halvings divide them."""
LARGE = ("5b", "s2v")
"""Models with large units: the 5B VAE has 16 pixels a latent, and S2V's motion frames need 8 latents at half size."""
SCALE = 8
MAX_PIXELS = 192
FEW = 6
"""Step counts up to this are left unchanged, such as those of distilled models."""
OPEN_END = 1000
"""Larger counts stand for 'to the end'."""

SIZES = ("width", "height", "resize_type.width", "resize_type.height", "resize_type.longer_size", "ref_max_size")
MARGINS = ("left", "top", "right", "bottom")
LENGTHS = ("length", "num_frames", "video_frames", "segment_length")
STEPS = ("steps", "start_at_step", "end_at_step", "step")
NOT_SHRUNK = ("Painter",)
LAST_LAYER = "1"
"""The tiny networks have two blocks."""
VALUE_NODES = ("PrimitiveInt", "PrimitiveFloat")


def shrink(graph: Graph) -> None:
    """Shrink a graph in place."""
    rules, done = _rules(graph), set[tuple[str, str]]()
    for name, node in graph.items():
        if node["class_type"] in NOT_SHRUNK:
            continue
        if node["class_type"] == "WanTrackToVideo":
            _shrink_tracks(graph, node)
        for key in list(node["inputs"]):
            rule = rules.get(key)
            if rule is not None:
                for literal in _literals(graph, name, key):
                    _apply(graph, literal, rule, done)
    for _, node in of_class(graph, "ComfyMathExpression"):
        _shrink_literals(node)
    for node in graph.values():
        for key in ("double_layers", "single_layers"):
            if node["inputs"].get(key):
                node["inputs"][key] = LAST_LAYER


def small_size(pixels: int, unit: int = UNIT) -> int:
    """Return the small side for a side in pixels, a multiple of the unit."""
    return min(MAX_PIXELS // unit, max(1, round(pixels / SCALE / unit))) * unit


def few_frames(frames: int) -> int:
    """Return a small number of frames of the form 4 n + 1; short clips and open ends stay."""
    later = latent_frames(frames) - 1
    if later <= 2 or frames > OPEN_END:
        return frames
    return video_frames(1 + max(2, round(later / 5)))


def few_steps(steps: int) -> int:
    """Return a fifth of the steps; few steps and open ends stay."""
    return steps if steps <= FEW or steps > OPEN_END else round(steps / 5)


def _margin(pixels: int) -> int:
    return round(pixels / 5)


def _rules(graph: Graph) -> dict[str, Callable[[int], int]]:
    models = [node["inputs"]["unet_name"].lower() for _, node in of_class(graph, "UNETLoader")]
    is_large = any(part in model for model in models for part in LARGE)
    size = partial(small_size, unit=UNIT_LARGE) if is_large else small_size
    return {**dict.fromkeys(SIZES, size), **RULES}


RULES: dict[str, Callable[[int], int]] = {
    **dict.fromkeys(MARGINS, _margin),
    **dict.fromkeys(LENGTHS, few_frames),
    **dict.fromkeys(STEPS, few_steps),
}


def _literals(graph: Graph, name: str, key: str) -> Iterator[tuple[str, str]]:
    """Yield where the literal values of an input stand: in the input itself or in primitives behind it."""
    value = graph[name]["inputs"].get(key)
    if not is_link(value):
        yield name, key
        return
    source = graph[value[0]]
    kind = source["class_type"]
    if kind in VALUE_NODES:
        yield from _literals(graph, value[0], "value")
    elif kind == "ComfySwitchNode":
        yield from _literals(graph, value[0], "on_false")
        yield from _literals(graph, value[0], "on_true")
    elif kind == "ComfyMathExpression":
        for inner in source["inputs"]:
            if inner.startswith("values."):
                yield from _literals(graph, value[0], inner)


def _apply(graph: Graph, literal: tuple[str, str], rule: Callable[[int], int], done: set[tuple[str, str]]) -> None:
    name, key = literal
    node = graph[name]
    value = node["inputs"].get(key)
    if literal in done or isinstance(value, bool) or not isinstance(value, (int, float)):
        return
    done.add(literal)
    label = title(node).lower()
    if "fps" in label:
        return
    if "duration" in label:
        node["inputs"][key] = type(value)(max(1, round(value / 5)))
    else:
        node["inputs"][key] = rule(int(value))


def _shrink_literals(node: Node) -> None:
    """Shrink the frame counts that a promoted widget puts into an expression."""
    for key, value in node["inputs"].items():
        if key.startswith("values.") and isinstance(value, int) and value > FEW:
            node["inputs"][key] = few_frames(value)


def _shrink_tracks(graph: Graph, node: Node) -> None:
    """Scale the coordinates of point tracks with the picture."""
    link = node["inputs"]["tracks"]
    holder, key = (graph[link[0]]["inputs"], "value") if is_link(link) else (node["inputs"], "tracks")
    scales = {axis: small_size(node["inputs"][side]) / node["inputs"][side] for axis, side in (("x", "width"), ("y", "height"))}
    tracks = json.loads(holder[key])
    holder[key] = json.dumps([[{axis: point[axis] * scales[axis] for axis in "xy"} for point in track] for track in tracks])
