"""Statistics of clips in octaves of space: energies, and the Fréchet distance of patches.

Octave k is what a block mean of 2^(k + 1) pixels removes from one of 2^k pixels: a level of the Laplacian pyramid. Clips are
(B, 3, T, H, W) in -1..1.
"""

from __future__ import annotations

from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from .metrics import frechet_distance_of_gaussians

OCTAVES = 4
PATCH = (4, 8, 8)  # frames, height and width in pixels of the octave
PROJECTIONS = 16
MOMENTS = PROJECTIONS + PROJECTIONS * (PROJECTIONS + 1) // 2
PROJECTION_SEED = 20261129


def octaves_of(video: Tensor) -> list[Tensor]:
    """Return the octaves, from the finest: (B, 3, T, H / 2^k, W / 2^k) each."""
    levels, batch = [], len(video)
    fine = video.transpose(1, 2).flatten(0, 1)
    for _ in range(OCTAVES):
        coarse = F.avg_pool2d(fine, 2)
        levels.append((fine - F.interpolate(coarse, scale_factor=2.0)).unflatten(0, (batch, -1)).transpose(1, 2))
        fine = coarse
    return levels


def octave_energies(video: Tensor) -> Tensor:
    """Return the mean square of every octave, (B, 4), from the finest."""
    return torch.stack([octave.square().mean(dim=(1, 2, 3, 4)) for octave in octaves_of(video)], dim=1)


@cache
def _projections() -> Tensor:
    """Return orthonormal random directions of patches, (768, 16)."""
    frames, height, width = PATCH
    generator = torch.Generator().manual_seed(PROJECTION_SEED)
    return torch.linalg.qr(torch.randn(3 * frames * height * width, PROJECTIONS, generator=generator))[0]


def patch_moments(video: Tensor) -> Tensor:
    """Return the moments of random projections of each clip's patches, (B, 4, 152), for every octave.

    As in the sliced Wasserstein distance of Karras et al. 2018 (arXiv 1710.10196, section 5), patches are those of the
    Laplacian pyramid; these extend over four frames, too. The mean over clips is the mean over all patches.

    Returns:
        16 means, and the 136 entries of the second moment on and above its diagonal, row by row.
    """
    p, q, r = PATCH
    row, column = torch.triu_indices(PROJECTIONS, PROJECTIONS)
    moments = []
    for octave in octaves_of(video):
        whole = octave[:, :, octave.shape[2] % p :]  # the first latent frame is a single frame
        patches = whole.unfold(2, p, p).unfold(3, q, q).unfold(4, r, r).permute(0, 2, 3, 4, 1, 5, 6, 7).flatten(4).flatten(1, 3)
        values = patches @ _projections()
        second = values.mT @ values / values.shape[1]
        moments.append(torch.cat([values.mean(dim=1), second[:, row, column]], dim=1))
    return torch.stack(moments, dim=1)


def patch_distances(sample: Tensor, reference: Tensor) -> Tensor:
    """Return the Fréchet distances of patches in every octave, (4,), in units of the reference's variance.

    0 is equal; 1 is about that of clips without any energy in the octave.

    Args:
        sample: Moments (4, 152): the mean over clips.
        reference: Moments (4, 152) of the data.
    """
    distances = []
    for ours, theirs in zip(sample.double(), reference.double(), strict=True):
        gaussians = [_gaussian(moments) for moments in (ours, theirs)]
        distances.append(frechet_distance_of_gaussians(*gaussians[0], *gaussians[1]) / gaussians[1][1].trace())
    return torch.stack(distances).clamp(min=0.0)  # rounding


def _gaussian(moments: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean (16,) and covariance (16, 16) of moments (152,)."""
    mean, row, column = moments[:PROJECTIONS], *torch.triu_indices(PROJECTIONS, PROJECTIONS)
    second = torch.zeros(PROJECTIONS, PROJECTIONS, dtype=moments.dtype)
    second[row, column] = second[column, row] = moments[PROJECTIONS:]
    return mean, second - torch.outer(mean, mean)
