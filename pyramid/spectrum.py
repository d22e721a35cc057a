"""How much of a latent each stage cannot hold, and the boundaries that follow from it.

A stage may start at the noise level where the band its coarser neighbour is missing drowns in noise (derived; the paper
reports a spectral analysis of the latents but not its formula; SwD, arXiv 2503.16397, does the same for Wan's VAE).
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

    energy: mean square of its orthonormal coefficients. level: halvings of the finer of the two.
    sigma: level at that stage where the band's signal-to-noise ratio falls below the threshold. natural: the same as a
    natural level, the proposed boundary.
    """

    level: int
    energy: float
    sigma: float
    natural: float


def band_energies(latents: Sequence[Tensor], spec: PyramidSpec, *, threshold: float = 0.1) -> list[BandEnergy]:
    """Measures clean model latents ``(B, C, T, H, W)``, one tensor per group of clips of equal size.

    threshold: signal-to-noise ratio (of variances) under which a band counts as drowned. Running order. The
    coarser stages see the averaged latents (definition 1 of the paper: ``clean_coarse = down(clean)``).
    """
    if not latents:
        raise ValueError("no latents to measure")
    if not threshold > 0:
        raise ValueError(f"threshold is a ratio of variances above 0, got {threshold}")
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
    """The spec with measured boundaries; ValueError if they do not fall from stage to stage."""
    levels = [band.natural for band in bands]
    if any(later >= earlier for earlier, later in pairwise(levels)):
        raise ValueError(
            f"the measured boundaries {', '.join(f'{level:.4g}' for level in levels)} do not fall from stage to stage: these "
            "clips hold as much in their fine detail as in their coarse; measure more typical ones, or use fewer stages"
        )
    return dataclasses.replace(spec, boundaries=tuple(band.natural for band in bands))


def _band_sums(latent: Tensor, finer: Sequence[Stage]) -> list[tuple[float, int]]:
    """Sum of squares and number of coefficients of each missing band, running order."""
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
    """``(1 - sigma)^2 energy / sigma^2 = threshold``, solved for sigma."""
    sigma = math.sqrt(energy) / (math.sqrt(energy) + math.sqrt(threshold))
    return BandEnergy(level=stage.level, energy=energy, sigma=sigma, natural=stage.natural_level(sigma))
