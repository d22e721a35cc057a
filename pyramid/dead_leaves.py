"""Render short clips with the statistics of natural video, for fitting linear maps between a VAE's latents of two sizes.

The model is "dead leaves": opaque shapes with power-law sizes that occlude one another, each with a texture of its own. It
reproduces the two properties of natural images that matter to a VAE, a power spectrum near 1 / frequency^2 and sharp
occlusion edges at all scales. Shapes move, turn and grow; the camera pans and zooms with parallax.
"""

# Sizes with density r^-3 make the model scale invariant: Lee, Mumford, Huang, "Occlusion models for natural images", 2001.
# Lengths are in units of the frame's shorter side, times in units of 16 frames, colours in 0..1.

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

RADII = (0.02, 0.6)
LEAVES_PER_AREA = 130  # leaves whose centres lie in one square of the shorter side
MARGIN = 0.15  # leaves start up to this far outside the frame
TEXTURE_SIDE = 256
TEXTURES = 6
CHUNK_SAMPLES = 4_000_000  # pixels of all frames that are painted at once


@dataclass(frozen=True)
class _Leaf:
    """One shape and its movement.

    centre, velocity: (x, y) from the middle of the frame at time 0, and per unit of time. radii: half axes. norm: 1 is a
    diamond, 2 an ellipse, inf a rectangle. turn: angle at time 0 and angle per unit of time. depth: 0 far, 1 near.
    colour, contrast: mean colour, and the colour that one standard deviation of the texture adds. texture: index.
    periods: repetitions of the texture per unit of length. phase: offset of the texture.
    """

    centre: np.ndarray
    velocity: np.ndarray
    radii: np.ndarray
    norm: float
    turn: tuple[float, float]
    depth: float
    colour: np.ndarray
    contrast: np.ndarray
    texture: int
    periods: float
    phase: np.ndarray


@dataclass(frozen=True)
class _Scene:
    """Leaves from back to front, the camera's movement (pan per unit of time, rate of zoom), and the textures.

    textures: each texture at its full size and averaged down by 2, 4, ... against aliasing.
    """

    leaves: tuple[_Leaf, ...]
    pan: np.ndarray
    zoom: float
    textures: tuple[tuple[Tensor, ...], ...]


def dead_leaves(*, seed: int, frames: int, height: int, width: int) -> Tensor:
    """Return a clip ``(frames, height, width, 3)``, float32 in 0..1.

    The scene depends on the seed and the aspect ratio only. Another size shows the same scene, up to the rendering's
    sampling error; use ``area_resize`` for an exact smaller version and every second frame for half the frame rate.
    """
    if min(frames, height, width) < 1:
        raise ValueError(f"frames, height and width must be at least 1, got {frames} x {height} x {width}")
    short = min(height, width)
    scene = _draw_scene(np.random.default_rng(np.random.SeedSequence([seed, 0xDEAD])), (width / short, height / short))
    times = (np.arange(frames) - (frames - 1) / 2) / 16
    chunks = np.array_split(times, math.ceil(frames * height * width / max(height * width, CHUNK_SAMPLES)))
    return torch.cat([_paint(scene, chunk, height, width) for chunk in chunks])


def area_resize(video: Tensor, *, height: int, width: int) -> Tensor:
    """Return a clip ``(T, H, W, C)`` at a smaller size: every pixel is the mean of the area it covers.

    The size need not divide the given one.
    """
    if height > video.shape[1] or width > video.shape[2] or min(height, width) < 1:
        raise ValueError(
            f"area_resize only makes a clip smaller: {video.shape[2]}x{video.shape[1]} was given, {width}x{height} requested"
        )
    rows = _area_weights(video.shape[1], height).to(video)
    columns = _area_weights(video.shape[2], width).to(video)
    return torch.einsum("ph,thwc,qw->tpqc", rows, video, columns)


def _area_weights(samples: int, size: int) -> Tensor:
    """Return the matrix ``(size, samples)`` whose row j is the share of each sample in the j-th of ``size`` equal parts."""
    edges = np.arange(size + 1) * samples / size
    left = np.maximum(edges[:-1, None], np.arange(samples))
    right = np.minimum(edges[1:, None], np.arange(samples) + 1)
    return torch.from_numpy((right - left).clip(min=0) * size / samples)


def _draw_scene(rng: np.random.Generator, extent: tuple[float, float]) -> _Scene:
    """Draw a scene for a frame of ``extent`` (width, height). Leaf 0 is the background and covers everything."""
    reach = np.array(extent) / 2 + MARGIN
    count = round(LEAVES_PER_AREA * 4 * float(np.prod(reach)))
    leaves = [_draw_leaf(rng, reach, depth=index / count, background=index == 0) for index in range(count)]
    return _Scene(
        leaves=tuple(leaves),
        pan=rng.normal(0.0, 0.12, 2),
        zoom=float(rng.normal(0.0, 0.12)),
        textures=tuple(_averaged_down(_draw_texture(rng, index)) for index in range(TEXTURES)),
    )


def _draw_leaf(rng: np.random.Generator, reach: np.ndarray, *, depth: float, background: bool) -> _Leaf:
    smallest, largest = RADII
    radius = (smallest**-2 + rng.uniform() * (largest**-2 - smallest**-2)) ** -0.5  # inverse distribution of r^-3
    stretch = math.exp(rng.uniform(-0.5, 0.5))
    grey = rng.normal(1.0, 0.25, 3)
    direction = rng.uniform(0.0, 2 * math.pi)
    speed = 0.0 if background else rng.exponential(0.12)
    return _Leaf(
        centre=np.zeros(2) if background else rng.uniform(-reach, reach),
        velocity=speed * np.array([math.cos(direction), math.sin(direction)]),
        radii=np.full(2, 1e3) if background else radius * np.array([stretch, 1 / stretch]),
        norm=(1.0, 2.0, 2.0, math.inf)[rng.integers(4)],
        turn=(rng.uniform(0.0, 2 * math.pi), rng.normal(0.0, 0.4)),
        depth=depth,
        colour=(rng.uniform(0.05, 0.95) + rng.normal(0.0, 0.12, 3)).clip(0.0, 1.0),
        contrast=grey * 0.28 * rng.uniform(0.0, 1.0),
        texture=int(rng.integers(TEXTURES)),
        periods=math.exp(rng.uniform(math.log(0.5), math.log(3.0))),
        phase=rng.uniform(0.0, 1.0, 2),
    )


def _draw_texture(rng: np.random.Generator, index: int) -> Tensor:
    """Return a tileable image of mean 0 and variance 1: noise with power near 1 / f^2, its sign, stripes or a chequerboard."""
    fx, fy = np.meshgrid(np.fft.fftfreq(TEXTURE_SIDE), np.fft.fftfreq(TEXTURE_SIDE))
    frequency = np.hypot(fx, fy)
    frequency[0, 0] = np.inf
    noise = np.fft.ifft2(np.fft.fft2(rng.normal(size=frequency.shape)) / frequency**0.8).real
    if index == TEXTURES - 3:
        noise = np.sign(noise)
    if index >= TEXTURES - 2:
        step = TEXTURE_SIDE // int(2 ** rng.integers(3, 6))
        x, y = (np.sign(np.arange(TEXTURE_SIDE) // (step // 2) % 2 - 0.5) for _ in range(2))
        noise = np.tile(x, (TEXTURE_SIDE, 1)) if index == TEXTURES - 2 else y[:, None] * x
    return torch.from_numpy((noise - noise.mean()) / noise.std()).float()


def _averaged_down(texture: Tensor) -> tuple[Tensor, ...]:
    levels = [texture]
    while levels[-1].shape[0] > 8:
        levels.append(F.avg_pool2d(levels[-1][None], 2)[0])
    return tuple(levels)


def _paint(scene: _Scene, times: np.ndarray, height: int, width: int) -> Tensor:
    """Render the frames at these times: ``(T, height, width, 3)``."""
    canvas = torch.zeros(len(times), height, width, 3)
    for leaf in scene.leaves:
        _paint_leaf(canvas, leaf, scene, times)
    return canvas.clamp_(0.0, 1.0)


def _paint_leaf(canvas: Tensor, leaf: _Leaf, scene: _Scene, times: np.ndarray) -> None:
    """Paint one leaf over the canvas, within the box that holds it at all times."""
    size = np.array(canvas.shape[2:0:-1])  # columns, rows
    short = float(size.min())
    growth = np.exp(scene.zoom * (0.5 + leaf.depth) * times)
    middle = growth[:, None] * (leaf.centre + leaf.velocity * times[:, None]) + scene.pan * (0.3 + leaf.depth) * times[:, None]
    radius = math.sqrt(2) * float(leaf.radii.max()) * growth[:, None] + 1 / short
    low = np.floor(((middle - radius).min(axis=0) * short + size / 2).clip(0, size)).astype(int)
    high = np.ceil(((middle + radius).max(axis=0) * short + size / 2).clip(0, size)).astype(int)
    if (low >= high).any():
        return
    x, y = ((torch.arange(a, b) + 0.5 - n / 2) / short for a, b, n in zip(low, high, size, strict=True))
    u, v = _leaf_coordinates(x, y, leaf, middle, growth, times)
    ratio = _norm(u / leaf.radii[0], v / leaf.radii[1], leaf.norm)
    distance = (ratio - 1.0) * (float(leaf.radii.min()) * short)
    cover = (0.5 - distance).clamp_(0.0, 1.0)[..., None]
    halvings = max(0, round(math.log2(TEXTURE_SIDE * leaf.periods / short)))  # until a texel is about a pixel
    textures = scene.textures[leaf.texture]
    value = _sample(
        textures[min(halvings, len(textures) - 1)], leaf.periods * u + leaf.phase[0], leaf.periods * v + leaf.phase[1]
    )
    colour, contrast = (torch.from_numpy(values).float() for values in (leaf.colour, leaf.contrast))
    box = canvas[:, low[1] : high[1], low[0] : high[0]]
    box.lerp_(torch.addcmul(colour, value[..., None], contrast), cover)


def _leaf_coordinates(
    x: Tensor, y: Tensor, leaf: _Leaf, middle: np.ndarray, growth: np.ndarray, times: np.ndarray
) -> tuple[Tensor, Tensor]:
    """Return the positions ``(T, h, w)`` of the pixels in the leaf's own frame: shifted, turned back, and shrunk."""
    angle = torch.from_numpy(leaf.turn[0] + leaf.turn[1] * times).float()[:, None, None]
    centre = torch.from_numpy(middle).float()[:, :, None, None]
    scale = torch.from_numpy(growth).float()[:, None, None]
    x, y = (x - centre[:, 0]) / scale, (y[:, None] - centre[:, 1]) / scale
    return torch.cos(angle) * x + torch.sin(angle) * y, torch.cos(angle) * y - torch.sin(angle) * x


def _norm(x: Tensor, y: Tensor, order: float) -> Tensor:
    if order == 1.0:
        return (x.abs() + y.abs()).mul_(math.sqrt(0.5))
    return torch.hypot(x, y) if order == 2.0 else torch.maximum(x.abs(), y.abs())


def _sample(texture: Tensor, u: Tensor, v: Tensor) -> Tensor:
    """Sample a tileable image at positions in units of its side, bilinearly."""
    side = texture.shape[0]
    padded = F.pad(texture[None, None], (1, 1, 1, 1), mode="circular")
    grid = torch.stack([u.remainder(1.0), v.remainder(1.0)], dim=-1).mul_(side).add_(0.5).mul_(2 / (side + 1)).sub_(1.0)
    frames, rows, columns, _ = grid.shape
    flat = grid.reshape(1, frames * rows, columns, 2)
    return F.grid_sample(padded, flat, align_corners=True).reshape(frames, rows, columns)
