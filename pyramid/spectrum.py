"""Measure the band that each stage adds, and propose boundaries from it.

A stage can start at the noise level where noise masks the band that its coarser neighbour lacks (derived; PyramidalWan reports
a spectral analysis of the latents without a formula; SwD, arXiv 2503.16397, does the same for Wan's VAE).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor

from .latent_shape import LatentShape
from .resize import missing_band
from .stages import PyramidSpec, Stage


@dataclass(frozen=True)
class BandEnergy:
    """The band between a stage and its coarser neighbour.

    Attributes:
        level: Halvings of the finer stage from full resolution.
        energy: Mean square of the band's orthonormal coefficients.
        sigma: Sigma of the finer stage at which the band's signal-to-noise ratio falls below the threshold.
        natural: The same as a natural level: the proposed boundary.
    """

    level: int
    energy: float
    sigma: float
    natural: float


def band_energies(latents: Sequence[Tensor], spec: PyramidSpec, *, threshold: float = 0.1) -> list[BandEnergy]:
    """Return the band energies of clean latents in running order.

    Coarser stages get the averaged latents (definition 1 of the paper: ``clean_coarse = down(clean)``).

    Args:
        latents: Clean latents ``(B, C, T, H, W)`` in the scale of the model, one tensor per group of clips of equal size.
        spec: The pyramid.
        threshold: Signal-to-noise ratio (of variances) below which noise masks a band.

    Raises:
        ValueError: There are no latents, or the threshold is not positive.
    """
    if not latents:
        raise ValueError("no latents to measure")
    if not threshold > 0:
        raise ValueError(f"threshold must be a ratio of variances above 0, got {threshold}")
    sums = [[0.0, 0] for _ in spec.boundaries]
    finer: list[Stage] = []
    for latent in latents:
        _, _, frames, height, width = latent.shape
        finer = list(spec.stages(LatentShape(frames, height, width))[1:])
        for slot, (squares, count) in zip(sums, _band_sums(latent, finer), strict=True):
            slot[0] += squares
            slot[1] += count
    return [_band(stage, squares / count, threshold) for stage, (squares, count) in zip(finer, sums, strict=True)]


def propose_boundaries(spec: PyramidSpec, bands: Sequence[BandEnergy]) -> PyramidSpec:
    """Return the spec with measured boundaries.

    Raises:
        ValueError: The boundaries do not fall from stage to stage.
    """
    levels = [band.natural for band in bands]
    if any(later >= earlier for earlier, later in pairwise(levels)):
        raise ValueError(
            f"the measured boundaries {', '.join(f'{level:.4g}' for level in levels)} do not fall from stage to stage: these "
            "clips hold as much energy in fine as in coarse detail; measure more typical clips, or use fewer stages"
        )
    return dataclasses.replace(spec, boundaries=tuple(band.natural for band in bands))


def _band_sums(latent: Tensor, finer: Sequence[Stage]) -> list[tuple[float, int]]:
    """Return the sum of squares and the number of coefficients of each missing band in running order."""
    sums = []
    for stage in reversed(finer):
        resize = stage.from_coarser
        assert resize is not None  # only the first stage has none, and it is not among the finer ones
        band = missing_band(latent, resize)
        coarse = resize.down(latent)
        sums.append((float(band.square().sum()), latent.numel() - coarse.numel()))
        latent = coarse
    return sums[::-1]


def _band(stage: Stage, energy: float, threshold: float) -> BandEnergy:
    """Return the band with the sigma that solves ``(1 - sigma)^2 energy / sigma^2 = threshold``."""
    sigma = math.sqrt(energy) / (math.sqrt(energy) + math.sqrt(threshold))
    return BandEnergy(level=stage.level, energy=energy, sigma=sigma, natural=stage.natural_level(sigma))
