"""Maps of occluding leaves: which leaf is seen where, without colours.

Leaves with random places, angles and shapes occlude each other, and the number of leaves of radius r is proportional to r^-3.
Every octave of radii then covers the same area, which makes the picture scale-invariant and its power spectrum close to 1/f^2,
as in photographs (Ruderman 1997, "Origins of scaling in natural images"; Lee, Mumford and Huang 2001, "Occlusion models for
natural images").
"""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from torch import Tensor

from .grammar import SCALES

MAP_SIDE = 512  # cells of a map, which continues periodically
CELLS = 256  # map cells along the shorter side of a frame
MAPS = 24  # of each scale; a scene shifts, turns, mirrors and colours one of them
RADII = {"fine": (1.5, 60.0), "medium": (4.0, 75.0), "coarse": (10.0, 90.0)}  # smallest and largest leaf, in map cells
COVER = 6.0  # mean number of leaves over a cell
MAP_SEED = 20261129


@cache
def leaf_map(scale: str, number: int) -> Tensor:
    """Return a map of leaf numbers, (512, 512) int32, periodic: a function of its arguments alone."""
    rng = np.random.default_rng(np.random.SeedSequence([MAP_SEED, SCALES.index(scale), number]))
    radii = draw_radii(rng, RADII[scale])
    order = np.zeros(MAP_SIDE * MAP_SIDE, dtype=np.int32)
    numbers = rng.permutation(len(radii)).astype(np.int32) + 1  # the leaf with the largest number is in front
    octave = np.floor(np.log2(radii))
    for size in np.unique(octave):
        members = np.flatnonzero(octave == size)
        for part in np.array_split(members, 1 + len(members) * 4 ** int(size + 2) // 500_000):
            _paint(order, radii[part], numbers[part], rng)
    return torch.from_numpy(order.reshape(MAP_SIDE, MAP_SIDE))


def draw_radii(rng: np.random.Generator, bounds: tuple[float, float]) -> np.ndarray:
    """Draw radii with a density proportional to r^-3 between the bounds, as many as cover a map `COVER` times."""
    low, high = (bound**-2.0 for bound in bounds)
    mean_area = AREA * 2.0 * np.log(bounds[1] / bounds[0]) / (low - high)
    count = round(COVER * MAP_SIDE**2 / mean_area)
    return (low + rng.random(count) * (high - low)) ** -0.5


ASPECT = (0.5, 1.0)  # shorter over longer half axis
RECTANGLES = 0.3  # share of leaves that are rectangles; the others are ellipses
AREA = np.mean(ASPECT) * (RECTANGLES * 2.0 + (1.0 - RECTANGLES) * np.pi)  # of a leaf of radius 1


def _paint(order: np.ndarray, radii: np.ndarray, numbers: np.ndarray, rng: np.random.Generator) -> None:
    """Draw leaves of similar size into the map, in front of those with smaller numbers."""
    reach = int(np.ceil(radii.max()))
    offset = np.arange(-reach, reach + 1, dtype=np.float32)
    count = len(radii)
    centre = rng.random((count, 2)) * MAP_SIDE
    cell = np.floor(centre)
    within = (centre - cell).astype(np.float32)
    angle, aspect = rng.uniform(0.0, np.pi, count), rng.uniform(*ASPECT, count)
    cos, sin = (values.astype(np.float32)[:, None, None] for values in (np.cos(angle), np.sin(angle)))
    x = offset[None, None, :] + 0.5 - within[:, 0, None, None]
    y = offset[None, :, None] + 0.5 - within[:, 1, None, None]
    u = (cos * x + sin * y) / radii.astype(np.float32)[:, None, None]
    v = (cos * y - sin * x) / (radii * aspect).astype(np.float32)[:, None, None]
    u, v = np.square(u), np.square(v)
    rectangle = rng.random(count)[:, None, None] < RECTANGLES
    inside = np.where(rectangle, np.maximum(u, v) < 0.5, u + v < 1.0)
    row = (cell[:, 1, None, None].astype(np.int64) + offset[None, :, None].astype(np.int64)) % MAP_SIDE
    column = (cell[:, 0, None, None].astype(np.int64) + offset[None, None, :].astype(np.int64)) % MAP_SIDE
    where = (row * MAP_SIDE + column)[inside]
    np.maximum.at(order, where, np.broadcast_to(numbers[:, None, None], inside.shape)[inside])
