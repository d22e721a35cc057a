"""Metrics of a set of clips: detail, motion, distance to the data, diversity; and bootstrap intervals.

Clips are (B, 3, T, H, W) in -1..1. Nothing is learned: every feature is a simple statistic of pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

CELLS = 3  # features are computed in 3 x 3 cells of the frame


def detail(video: Tensor) -> Tensor:
    """Return the mean square in the two finest octaves of space, (B, 2): the energy that a 2x2 (then a 4x4) block mean removes.

    Divide the mean over a set by the mean over data of the same size: 1 is as sharp as the data, 0 is blurred.
    """
    flat = video.transpose(1, 2).flatten(0, 1)  # (B T, 3, H, W)
    energies, coarse = [], flat
    for _ in range(2):
        fine, coarse = coarse, F.avg_pool2d(coarse, 2)
        energies.append((fine - F.interpolate(coarse, scale_factor=2.0)).square().mean(dim=(1, 2, 3)))
    return torch.stack(energies, dim=-1).view(video.shape[0], -1, 2).mean(dim=1)


def motion(video: Tensor) -> Tensor:
    """Return the dynamic degree, (B,): root mean square change per frame interval, summed over the clip.

    Measured after a 4x4 block mean, in units of the value range per clip. A clip and the same clip at half the frame rate have
    about the same dynamic degree.
    """
    small = F.avg_pool3d(video, (1, 4, 4))
    return small.diff(dim=2).square().mean(dim=(1, 3, 4)).sqrt().sum(dim=1)


def features(video: Tensor) -> Tensor:
    """Return the features that `frechet_distance` and `diversity` compare, (B, 45), from brightness and colour in 3 x 3 cells.

    27: mean colour of each cell over the clip; 9: root mean square change in time in each cell, from frame to frame;
    9: log10 of the energies of horizontal, vertical and diagonal differences at 1, 2 and 4 pixels.
    """
    colour = F.adaptive_avg_pool3d(video, (1, CELLS, CELLS)).flatten(1)
    change = F.adaptive_avg_pool2d(video.diff(dim=2).square().mean(dim=(1, 2)), CELLS).sqrt().flatten(1)
    light, energies = video.mean(dim=1), []  # (B, T, H, W)
    for _ in range(3):
        a, b, c, d = light[..., 0::2, 0::2], light[..., 0::2, 1::2], light[..., 1::2, 0::2], light[..., 1::2, 1::2]
        energies += [band.square().mean(dim=(1, 2, 3)) / 16 for band in (a - b + c - d, a + b - c - d, a - b - c + d)]
        light = (a + b + c + d) / 4
    return torch.cat([colour, change, torch.stack(energies, dim=1).clamp(min=1e-8).log10()], dim=1)


def frechet_distance(sample: Tensor, reference: Tensor) -> float:
    """Return the Fréchet distance of two sets of features, as Gaussians: |m1 - m2|^2 + tr(C1 + C2 - 2 (C1^1/2 C2 C1^1/2)^1/2).

    Features are first divided by the reference's standard deviations, which weighs them equally. The estimate is biased upwards
    for small sets: compare only values from the same number of clips.
    """
    scale = reference.double().std(dim=0).clamp(min=1e-6)
    sample, reference = sample.double() / scale, reference.double() / scale
    ours, theirs = ((values.mean(dim=0), torch.cov(values.T)) for values in (sample, reference))
    return frechet_distance_of_gaussians(*ours, *theirs).item()


def frechet_distance_of_gaussians(mean: Tensor, covariance: Tensor, other_mean: Tensor, other_covariance: Tensor) -> Tensor:
    """Return the Fréchet distance of two Gaussians of means (n,) and covariances (n, n), as in `frechet_distance`: ()."""
    root = _root(other_covariance)
    cross = _root(root @ covariance @ root).trace()
    spread = covariance.trace() + other_covariance.trace() - 2.0 * cross
    return (mean - other_mean).square().sum() + spread


def _root(matrix: Tensor) -> Tensor:
    """Return the symmetric square root of a positive semi-definite matrix."""
    values, vectors = torch.linalg.eigh((matrix + matrix.T) / 2)
    return vectors @ torch.diag(values.clamp(min=0.0).sqrt()) @ vectors.T


def diversity(sample: Tensor, scale: Tensor) -> float:
    """Return the mean distance per feature between clips of one prompt and n seeds.

    Divide it by the diversity of as many real clips of that prompt: 1 varies as the data does, 0 is one clip for every seed.

    Args:
        sample: Features (n, 45).
        scale: Standard deviations (45,) of the data's features, the unit of the distances.
    """
    scaled = sample.double() / scale.double().clamp(min=1e-6)
    pairs = len(sample) * (len(sample) - 1) / 2
    return (torch.pdist(scaled).sum() / pairs / sample.shape[1] ** 0.5).item()


@dataclass(frozen=True)
class Interval:
    """An estimate with its bootstrap interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3g} [{self.low:.3g}, {self.high:.3g}]"


def bootstrap(
    scores: np.ndarray, *, baseline: np.ndarray | None = None, resamples: int = 4000, level: float = 0.95, seed: int = 0
) -> Interval:
    """Return a mean with its bootstrap percentile interval.

    Args:
        scores: One score for each clip, (n,).
        baseline: Scores (n,) to subtract; element i of both must be the same prompt and seed. Pairing removes the
            difficulty of the prompts from the interval.
        resamples: Number of bootstrap samples.
        level: Coverage of the interval.
        seed: Seed of the resampling.
    """
    values = np.asarray(scores, dtype=float)
    if baseline is not None:
        if len(baseline) != len(values):
            raise ValueError(f"got {len(values)} scores and {len(baseline)} baseline scores; pairing requires as many of both")
        values = values - np.asarray(baseline, dtype=float)
    rng = np.random.default_rng(seed)
    means = values[rng.integers(0, len(values), (resamples, len(values)))].mean(axis=1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Interval(values.mean().item(), low.item(), high.item())


def within_margin(difference: Interval, *, margin: float) -> bool:
    """Return whether scores are not worse by more than the margin, by the worse end of the interval; higher is better."""
    return difference.low >= -margin
