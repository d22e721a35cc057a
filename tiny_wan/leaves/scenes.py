"""Scenes of dead leaves and their videos: an endless, seeded stream of short clips with exact captions.

A clip lasts one unit of time, whatever its sampling. The camera moves over a map of leaves; a large pale leaf and smaller ones
move in front of it on paths of their own. Clips are rendered with at least 128 pixels along the shorter side and averaged over
blocks, so that a smaller clip is the area-averaged larger one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .grammar import Caption, draw_caption
from .layers import Layer, integral_of, window_means
from .leaf_maps import CELLS, MAP_SIDE, MAPS, leaf_map

RENDERED = 128  # least number of pixels along the shorter side before averaging

# hue of a palette: what it adds to a grey of medium brightness, per channel
TINTS = {
    "red": (0.16, -0.07, -0.09),
    "yellow": (0.09, 0.06, -0.15),
    "green": (-0.09, 0.13, -0.04),
    "blue": (-0.12, -0.02, 0.14),
    "violet": (0.06, -0.13, 0.07),
    "grey": (0.0, 0.0, 0.0),
}
BRIGHTNESS = (0.06, 0.68)  # of the leaves behind
PALE = 0.86  # brightness of the large leaf in front
CHROMA_SPREAD = 0.035  # standard deviation of a leaf's colour per channel
GRAIN = 0.14  # peak to peak, of the texture of every leaf

PLACES = {"left": (-0.25, 0.0), "right": (0.25, 0.0), "top": (0.0, -0.25), "bottom": (0.0, 0.25), "centre": (0.0, 0.0)}
PAN = 0.22  # fraction of the shorter side, over the clip
ZOOM = 0.30  # natural logarithm of the magnification, over the clip
CAMERA = {  # direction in which the leaves behind move, and sign of the zoom
    "still": (0.0, 0.0, 0.0), "left": (1.0, 0.0, 0.0), "right": (-1.0, 0.0, 0.0), "up": (0.0, 1.0, 0.0),
    "down": (0.0, -1.0, 0.0), "in": (0.0, 0.0, 1.0), "out": (0.0, 0.0, -1.0),
}  # fmt: skip
LARGE, SMALL = 0.16, (0.05, 0.10)  # radii in front
SMALL_LEAVES = 4
SMALL_TRAVEL = 0.35  # largest, along each axis
MARGIN = 0.30  # by which the leaves behind exceed the frame, for its movement


@dataclass(frozen=True)
class Leaf:
    """A leaf in front. Lengths are fractions of the shorter side.

    Attributes:
        centre: Place (x, y) at the middle of the clip, from the centre of the frame.
        travel: Displacement (x, y) over the clip.
        axes: Half axes.
        angle: Of the first axis, in radians.
        colour: RGB in 0..1, without the grain.
    """

    centre: tuple[float, float]
    travel: tuple[float, float]
    axes: tuple[float, float]
    angle: float
    colour: tuple[float, float, float]


@dataclass(frozen=True)
class Scene:
    """A clip's caption and everything that the caption leaves open.

    Attributes:
        caption: The prompt.
        number: Number of the map of leaves.
        shift: Place (row, column) of the frame on the map, in cells.
        turns: Quarter turns of the map; four more of its mirror image.
        seed: Of the colours.
        speed: Amount of the camera's movement, relative to `PAN` and `ZOOM`.
        leaves: Leaves in front, from the back.
    """

    caption: Caption
    number: int
    shift: tuple[int, int]
    turns: int
    seed: int
    speed: float
    leaves: tuple[Leaf, ...]


def draw_scene(caption: Caption, rng: np.random.Generator) -> Scene:
    """Draw a scene for the caption."""
    x, y = (place + rng.uniform(-0.03, 0.03) for place in PLACES[caption.layout])
    drift, grey = rng.uniform(-0.04, 0.04, 2), PALE + rng.uniform(-0.03, 0.03)
    axes = LARGE * rng.uniform(0.75, 1.1, 2)
    large = Leaf((x, y), (drift[0], drift[1]), (axes[0], axes[1]), rng.uniform(0, math.pi), (grey, grey, grey))
    small = [_small_leaf(caption, rng) for _ in range(SMALL_LEAVES)]
    return Scene(
        caption=caption,
        number=int(rng.integers(MAPS)),
        shift=(int(rng.integers(MAP_SIDE)), int(rng.integers(MAP_SIDE))),
        turns=int(rng.integers(8)),
        seed=int(rng.integers(2**31)),
        speed=rng.uniform(0.85, 1.15),
        leaves=(*small[: SMALL_LEAVES // 2], large, *small[SMALL_LEAVES // 2 :]),
    )


def _small_leaf(caption: Caption, rng: np.random.Generator) -> Leaf:
    x, y, dx, dy = rng.uniform(-0.5, 0.5, 4).tolist()
    axes = rng.uniform(*SMALL) * rng.uniform(0.6, 1.0, 2)
    colour = np.clip(rng.uniform(*BRIGHTNESS) + 1.3 * np.array(TINTS[caption.palette]), 0.0, 1.0)
    travel = (2 * SMALL_TRAVEL * dx, 2 * SMALL_TRAVEL * dy)
    return Leaf((x, y), travel, (axes[0], axes[1]), rng.uniform(0, math.pi), tuple(colour.tolist()))


def scene_at(index: int, *, seed: int) -> Scene:
    """Return scene number `index` of the endless stream `seed`, however the stream is cut into batches."""
    rng = np.random.default_rng(np.random.SeedSequence([seed, index, 0x1EAF]))
    return draw_scene(draw_caption(rng), rng)


def scene_for(caption: Caption, *, seed: int) -> Scene:
    """Return the ground truth for a prompt and a seed."""
    return draw_scene(caption, np.random.default_rng(np.random.SeedSequence([seed, 0x1EAF5])))


def render(scenes: Sequence[Scene], *, frames: int, height: int, width: int) -> Tensor:
    """Render the scenes: (B, 3, frames, height, width), float32 in -1..1, the value range of Wan's VAE."""
    factor = -(-RENDERED // min(height, width))
    video = torch.stack([_render(scene, frames, factor * height, factor * width) for scene in scenes])
    if factor > 1:
        video = F.avg_pool2d(video.flatten(0, 1), factor).view(len(scenes), frames, 3, height, width)
    return video.transpose(1, 2).contiguous().mul_(2.0).sub_(1.0)


def _render(scene: Scene, frames: int, height: int, width: int) -> Tensor:
    """Render one scene without averaging, (T, 3, H, W) in 0..1."""
    times = torch.linspace(-0.5, 0.5, frames, dtype=torch.float64) if frames > 1 else torch.zeros(1, dtype=torch.float64)
    rng = np.random.default_rng(scene.seed)
    short = min(height, width)
    behind = _behind(scene, rng, height / short, width / short)
    integral, x = integral_of(behind.picture), behind.edges(times, width, short, 0)
    y = behind.edges(times, height, short, 1)
    video = torch.cat([window_means(integral, *edges) for edges in zip(y.split(1), x.split(1), strict=True)])
    for leaf in scene.leaves:
        _put_in_front(video, _in_front(leaf, rng), times)
    return video


def _behind(scene: Scene, rng: np.random.Generator, height: float, width: float) -> Layer:
    """Return the leaves behind as a layer that exceeds the frame (height, width), in shorter sides."""
    rows, columns = (math.ceil((1.0 + MARGIN) * side * CELLS) for side in (height, width))
    leaves = _part(scene.caption.scale, scene.number, scene.shift, scene.turns, rows, columns)
    grain = _part("fine", scene.number + 1, scene.shift, scene.turns + 1, rows, columns)
    count = int(leaves.max()) + 1
    brightness = rng.uniform(*BRIGHTNESS, (count, 1))
    colours = brightness + (0.5 + brightness) * np.array(TINTS[scene.caption.palette])
    colours = colours + rng.normal(0.0, CHROMA_SPREAD, (count, 3))
    picture = torch.from_numpy(np.clip(colours, 0.0, 1.0).T.astype(np.float32))[:, leaves]
    shades = torch.from_numpy(_shades(rng, int(grain.max()) + 1))
    x, y, zoom = CAMERA[scene.caption.motion]
    travel = (scene.speed * PAN * x, scene.speed * PAN * y)
    return Layer((picture + shades[grain]).clamp_(0.0, 1.0), CELLS, (0.0, 0.0), travel, scene.speed * ZOOM * zoom)


def _in_front(leaf: Leaf, rng: np.random.Generator) -> Layer:
    """Return a leaf in front as a layer with opacity."""
    reach = math.ceil(CELLS * max(leaf.axes))
    x = torch.arange(-reach, reach) + 0.5
    cos, sin = math.cos(leaf.angle), math.sin(leaf.angle)
    u, v = cos * x + sin * x[:, None], cos * x[:, None] - sin * x
    opacity = ((u / (CELLS * leaf.axes[0])).square() + (v / (CELLS * leaf.axes[1])).square() < 1.0).float()
    shift = (int(rng.integers(MAP_SIDE)), int(rng.integers(MAP_SIDE)))
    grain = _part("fine", int(rng.integers(MAPS)), shift, 0, 2 * reach, 2 * reach)
    shades = torch.from_numpy(_shades(rng, int(grain.max()) + 1))[grain]
    colour = torch.tensor(leaf.colour)[:, None, None]
    picture = torch.cat([(colour + shades).clamp_(0.0, 1.0) * opacity, opacity[None]])
    return Layer(picture, CELLS, leaf.centre, leaf.travel)


def _shades(rng: np.random.Generator, count: int) -> np.ndarray:
    return (GRAIN * (rng.random(count, dtype=np.float32) - 0.5)).astype(np.float32)


def _part(scale: str, number: int, shift: tuple[int, int], turns: int, rows: int, columns: int) -> Tensor:
    """Return a part of a map (rows, columns), turned and perhaps mirrored; maps continue periodically."""
    leaves = leaf_map(scale, number % MAPS).rot90(turns % 4)
    if turns % 8 >= 4:
        leaves = leaves.flip(1)
    row, column = ((start + torch.arange(count)) % MAP_SIDE for start, count in zip(shift, (rows, columns), strict=True))
    return leaves[row[:, None], column].long()


def _put_in_front(video: Tensor, layer: Layer, times: Tensor) -> None:
    """Lay a layer with opacity over the frames (T, 3, H, W), in place; only the pixels that it can cover are computed."""
    height, width = video.shape[-2:]
    rows, y_edges = _covered(layer, times, height, min(height, width), 1)
    columns, x_edges = _covered(layer, times, width, min(height, width), 0)
    seen = window_means(integral_of(layer.picture), y_edges, x_edges)
    for frame, over, top, left in zip(video, seen, rows, columns, strict=True):
        part = frame[:, max(top, 0) : max(top + over.shape[1], 0), max(left, 0) : max(left + over.shape[2], 0)]
        over = over[:, max(-top, 0) :, max(-left, 0) :][:, : part.shape[1], : part.shape[2]]
        part.mul_(1.0 - over[3:]).add_(over[:3])


def _covered(layer: Layer, times: Tensor, samples: int, short: int, axis: int) -> tuple[list[int], Tensor]:
    """Return which pixels of an axis a layer can cover.

    Returns:
        The first pixel in each frame, which may be outside of it, and the edges (T, n + 1) of n pixels from there.
    """
    edges = layer.edges(times, samples, short, axis)
    step = edges[:, 1:2] - edges[:, :1]
    first = torch.floor(-edges[:, :1] / step)
    count = math.ceil(layer.picture.shape[2 - axis] / step.min().item()) + 1
    return first.flatten().int().tolist(), edges[:, :1] + step * (first + torch.arange(count + 1))
