"""Scenes and their pictures: an endless, seeded stream of short clips with exact captions.

A clip lasts one unit of time and is one unit wide and high, whatever its sampling: 5, 9, 17 and 33 frames show the same
movement, 32x32 and 128x128 the same picture. Rendering is area-exact for the background (a pixel holds the mean of its area),
so a small rendering equals an area-downsampled large one, which is what the stages of a pyramid are trained on.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .grammar import SHAPES, Caption, draw_caption

# colours are sRGB values in 0..1
COLOUR_RGB = {
    "red": (0.90, 0.13, 0.13),
    "green": (0.15, 0.80, 0.20),
    "yellow": (0.95, 0.85, 0.12),
    "cyan": (0.15, 0.85, 0.92),
    "magenta": (0.90, 0.20, 0.80),
    "white": (0.96, 0.96, 0.96),
}
GROUND_RGB = {"blue": (0.16, 0.24, 0.52), "grey": (0.38, 0.38, 0.38), "brown": (0.42, 0.27, 0.14)}

PLACE_X = {"left": 0.28, "centre": 0.50, "right": 0.72}  # fraction of the width, mean over the clip
DIRECTION = {"still": (0.0, 0.0), "left": (-1.0, 0.0), "right": (1.0, 0.0), "up": (0.0, -1.0), "down": (0.0, 1.0)}
TRAVEL = 0.26  # fraction of the side that a moving shape covers in one clip
RADIUS = 0.165  # fraction of the shorter side
PATTERN_PERIODS = 10.0  # periods of the texture along the shorter side: 12.8 pixels of 128, not commensurate with a latent cell
PATTERN_CONTRAST = 0.30  # the texture is ground * (1 +- contrast)
LIGHT_SLOPE = (-0.5, -0.2)  # light from the upper left, which makes left and right differ everywhere


@dataclass(frozen=True)
class Scene:
    """A clip's caption and everything that the caption leaves open. Lengths are fractions of the frame, colours 0..1.

    Attributes:
        caption: The prompt.
        centre: Position (x, y) at the middle of the clip.
        travel: Displacement (dx, dy) from the first frame to the last.
        radius: Size of the shape.
        colour: RGB of the shape.
        ground: RGB of the background.
        phase: Phase (x, y) of the texture, in periods.
        slope: Relative change (x, y) of the background's brightness across the frame.
    """

    caption: Caption
    centre: tuple[float, float]
    travel: tuple[float, float]
    radius: float
    colour: tuple[float, float, float]
    ground: tuple[float, float, float]
    phase: tuple[float, float]
    slope: tuple[float, float]


def draw_scene(caption: Caption, rng: np.random.Generator) -> Scene:
    """Draw a scene for the caption: position, size, speed, tint, lighting and texture phase vary within narrow bounds."""
    dx, dy = DIRECTION[caption.motion]
    reach = TRAVEL * rng.uniform(0.88, 1.12)
    tint = rng.uniform(-0.03, 0.03, 6)
    return Scene(
        caption=caption,
        centre=(PLACE_X[caption.place] + rng.uniform(-0.025, 0.025), 0.5 + rng.uniform(-0.07, 0.07)),
        travel=(dx * reach, dy * reach),
        radius=RADIUS * rng.uniform(0.93, 1.07),
        colour=tuple(np.clip(np.array(COLOUR_RGB[caption.colour]) + tint[:3], 0.0, 1.0).tolist()),
        ground=tuple((np.array(GROUND_RGB[caption.ground]) + tint[3:]).tolist()),
        phase=tuple(rng.uniform(0.0, 1.0, 2).tolist()),
        slope=tuple((np.array(LIGHT_SLOPE) + rng.uniform(-0.1, 0.1, 2)).tolist()),
    )


def scene_at(index: int, *, seed: int) -> Scene:
    """Return scene number `index` of the endless stream `seed`, however the stream is cut into batches."""
    rng = np.random.default_rng(np.random.SeedSequence([seed, index]))
    return draw_scene(draw_caption(rng), rng)


def scene_for(caption: Caption, *, seed: int) -> Scene:
    """Return the ground truth for a prompt and a seed."""
    return draw_scene(caption, np.random.default_rng(np.random.SeedSequence([seed, 0x5CE8E])))


def clips(
    *, seed: int, batch: int, frames: int, height: int, width: int, start: int = 0
) -> Iterator[tuple[list[Scene], Tensor]]:
    """Yield the endless stream from scene number `start`: (scenes, video), video (batch, 3, frames, height, width) in -1..1."""
    while True:
        scenes = [scene_at(index, seed=seed) for index in range(start, start + batch)]
        yield scenes, render(scenes, frames=frames, height=height, width=width)
        start += batch


def render(scenes: Sequence[Scene], *, frames: int, height: int, width: int) -> Tensor:
    """Render the scenes: (B, 3, frames, height, width), float32 in -1..1, the value range of Wan's VAE."""
    short = min(height, width)
    ground = _backgrounds(scenes, height, width)  # (B, 3, 1, H, W)
    cover = _coverage(scenes, frames, height, width, 1.0 / short)  # (B, 1, T, H, W)
    colour = torch.tensor([scene.colour for scene in scenes])[:, :, None, None, None]
    return torch.addcmul(ground, cover, colour - ground).mul_(2.0).sub_(1.0)


def _backgrounds(scenes: Sequence[Scene], height: int, width: int) -> Tensor:
    """Render the backgrounds, (B, 3, 1, H, W) in 0..1.

    Textures are products of one-dimensional square waves, and so are their pixel means.
    """
    short = min(height, width)
    phase = torch.tensor([scene.phase for scene in scenes])  # (B, 2)
    wave_x = _square_wave(phase[:, 0], width, PATTERN_PERIODS / short)[:, None, :]  # (B, 1, W)
    wave_y = _square_wave(phase[:, 1], height, PATTERN_PERIODS / short)[:, :, None]  # (B, H, 1)
    is_pattern = {
        name: torch.tensor([float(scene.caption.pattern == name) for scene in scenes])[:, None, None]
        for name in ("striped", "banded", "checkered")
    }
    texture = is_pattern["striped"] * wave_x + is_pattern["banded"] * wave_y + is_pattern["checkered"] * (wave_x * wave_y)
    slope = torch.tensor([scene.slope for scene in scenes])[:, :, None, None]
    x = (torch.arange(width) + 0.5) / width - 0.5
    y = (torch.arange(height) + 0.5) / height - 0.5
    light = (1.0 + PATTERN_CONTRAST * texture) * (1.0 + slope[:, 0] * x + slope[:, 1] * y[:, None])  # (B, H, W)
    colour = torch.tensor([scene.ground for scene in scenes])[:, :, None, None]
    return (colour * light[:, None]).clamp_(0.0, 1.0)[:, :, None]


def _square_wave(phase: Tensor, samples: int, frequency: float) -> Tensor:
    """Return the pixel means of a +-1 square wave: (B, samples). `phase` (B,) in periods, `frequency` in periods per pixel.

    The mean over a pixel is the difference of the wave's antiderivative (a triangle wave) at the pixel's two edges.
    """
    edges = phase[:, None] + frequency * torch.arange(samples + 1)
    antiderivative = 0.5 - (edges.remainder(1.0) - 0.5).abs()
    return antiderivative.diff(dim=1) / frequency


def _coverage(scenes: Sequence[Scene], frames: int, height: int, width: int, pixel: float) -> Tensor:
    """Return the share of each pixel that the shape covers, (B, 1, T, H, W), from signed distances to its outline."""
    time = torch.linspace(-0.5, 0.5, frames) if frames > 1 else torch.zeros(1)
    centre, travel = torch.tensor([scene.centre for scene in scenes]), torch.tensor([scene.travel for scene in scenes])
    path = centre[:, :, None] + travel[:, :, None] * time  # (B, 2, T)
    scale_x, scale_y = width * pixel, height * pixel
    x = ((torch.arange(width) + 0.5) / width - path[:, 0, :, None]) * scale_x  # (B, T, W)
    y = ((torch.arange(height) + 0.5) / height - path[:, 1, :, None]) * scale_y  # (B, T, H)
    radius = torch.tensor([scene.radius for scene in scenes])[:, None, None, None]
    cover = torch.empty(len(scenes), frames, height, width)
    for shape in SHAPES:
        rows = [row for row, scene in enumerate(scenes) if scene.caption.shape == shape]
        if rows:
            distance = DISTANCES[shape](x[rows][:, :, None, :], y[rows][:, :, :, None], radius[rows])
            cover[rows] = distance.mul_(-1.0 / pixel).add_(0.5).clamp_(0.0, 1.0)
    return cover[:, None]


def _disc(x: Tensor, y: Tensor, radius: Tensor) -> Tensor:
    return (x.square() + y.square()).sqrt_().sub_(radius)


def _square(x: Tensor, y: Tensor, radius: Tensor) -> Tensor:
    return torch.maximum(x.abs(), y.abs()).sub_(0.89 * radius)


def _triangle(x: Tensor, y: Tensor, radius: Tensor) -> Tensor:
    """Return the distance from an equilateral triangle that points up, with its centroid at the origin and inradius 0.7."""
    return torch.maximum(x.abs() * 0.8660254 - 0.5 * y, y).sub_(0.7 * radius)


def _ring(x: Tensor, y: Tensor, radius: Tensor) -> Tensor:
    return (x.square() + y.square()).sqrt_().sub_(0.82 * radius).abs_().sub_(0.26 * radius)


DISTANCES = {"disc": _disc, "square": _square, "triangle": _triangle, "ring": _ring}
