"""Solvers of one stage, for roll-outs in training and for tests; in ComfyUI its own samplers integrate a stage.

Within a stage the sigma of every frame is linear in rho, so a step is ``x + (sigma_next - sigma) * velocity`` with per-frame
sigmas.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Protocol

import torch
from torch import Tensor

from .noise_levels import NoiseLevel, add_noise
from .paths import clean_prediction
from .stages import Stage
from .transition import renoise


class Velocity(Protocol):
    """A velocity field: a network or an analytic formula."""

    def __call__(self, x: Tensor, level: NoiseLevel, stage: Stage) -> Tensor:
        """Return ``d x / d sigma`` per frame, of the shape ``(B, C, T, H, W)`` of ``x``."""
        ...


class Solver(Protocol):
    """The integration of one stage over given levels."""

    def __call__(self, velocity: Velocity, x: Tensor, stage: Stage, naturals: Sequence[float]) -> Tensor:
        """Return the latent at the last of the natural levels; ``x`` is at the first."""
        ...


def euler(velocity: Velocity, x: Tensor, stage: Stage, naturals: Sequence[float]) -> Tensor:
    """Integrate with the first-order Euler method, one evaluation per step; see ``Solver``."""
    for level, next_level in _steps(x, stage, naturals):
        x = x + (next_level.sigma - level.sigma) * velocity(x, level, stage)
    return x


def heun(velocity: Velocity, x: Tensor, stage: Stage, naturals: Sequence[float]) -> Tensor:
    """Integrate with Heun's second-order method; see ``Solver``.

    A step takes two evaluations, or one if it ends at 0 (Karras et al. 2022, algorithm 1).
    """
    for level, next_level in _steps(x, stage, naturals):
        slope = velocity(x, level, stage)
        ahead = x + (next_level.sigma - level.sigma) * slope
        if bool((next_level.sigma > 0).all()):
            slope = (slope + velocity(ahead, next_level, stage)) / 2
        x = x + (next_level.sigma - level.sigma) * slope
    return x


def few_step(fresh_noise: Callable[[int], Tensor]) -> Solver:
    """Return a solver for distilled students: predict clean data, then noise it again along the stage's path.

    The last step ends at the stage's clean end, where the transition follows; with fresh noise, the step plus the
    transition are exact.

    Args:
        fresh_noise: Draws white noise of the stage's size for a step.
    """

    def solve(velocity: Velocity, x: Tensor, stage: Stage, naturals: Sequence[float]) -> Tensor:
        for step, (start, end) in enumerate(pairwise(naturals)):
            natural = torch.as_tensor(start, dtype=x.dtype, device=x.device)
            clean = clean_prediction(x, velocity(x, stage.at(natural), stage), stage, natural)
            if end == 0:
                return clean
            next_natural = torch.as_tensor(end, dtype=x.dtype, device=x.device)
            x = add_noise(*renoise(clean, stage, next_natural, fresh_noise(step)), stage.at(next_natural).sigma)
        return x

    return solve


def _steps(x: Tensor, stage: Stage, naturals: Sequence[float]) -> pairwise[tuple[NoiseLevel, NoiseLevel]]:
    return pairwise(stage.at(torch.as_tensor(natural, dtype=x.dtype, device=x.device)) for natural in naturals)
