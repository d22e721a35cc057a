"""Solvers the core owns, for training roll-outs and tests; in ComfyUI the host's samplers integrate a stage.

Each takes a latent at the first of the natural levels to the last one, along one stage. Within a stage every frame's
sigma is linear in rho, so a step is ``x + (sigma_next - sigma) * velocity`` with per-frame sigmas.
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
    """A network, or a closed form: ``d x / d sigma`` per frame, ``(B, C, T, H, W)``."""

    def __call__(self, x: Tensor, level: NoiseLevel, stage: Stage) -> Tensor: ...


class Solver(Protocol):
    def __call__(self, velocity: Velocity, x: Tensor, stage: Stage, naturals: Sequence[float]) -> Tensor: ...


def euler(velocity: Velocity, x: Tensor, stage: Stage, naturals: Sequence[float]) -> Tensor:
    """1st order, one evaluation a step."""
    for here, there in _steps(x, stage, naturals):
        x = x + (there.sigma - here.sigma) * velocity(x, here, stage)
    return x


def heun(velocity: Velocity, x: Tensor, stage: Stage, naturals: Sequence[float]) -> Tensor:
    """2nd order, two evaluations a step, one for a step that ends at 0 (Karras et al. 2022, algorithm 1)."""
    for here, there in _steps(x, stage, naturals):
        slope = velocity(x, here, stage)
        ahead = x + (there.sigma - here.sigma) * slope
        if bool((there.sigma > 0).all()):
            slope = (slope + velocity(ahead, there, stage)) / 2
        x = x + (there.sigma - here.sigma) * slope
    return x


def few_step(fresh_noise: Callable[[int], Tensor]) -> Solver:
    """Predicts clean data and noises it again along the stage's path, each step with ``fresh_noise(step)``.

    For distilled students (method: few-step inference). The last step lands on the stage's clean end, where the
    transition takes over; with fresh noise the two together are exact.
    """

    def solve(velocity: Velocity, x: Tensor, stage: Stage, naturals: Sequence[float]) -> Tensor:
        for step, (natural, following) in enumerate(pairwise(naturals)):
            here = torch.as_tensor(natural, dtype=x.dtype, device=x.device)
            clean = clean_prediction(x, velocity(x, stage.at(here), stage), stage, here)
            if following == 0:
                return clean
            there = torch.as_tensor(following, dtype=x.dtype, device=x.device)
            x = add_noise(*renoise(clean, stage, there, fresh_noise(step)), stage.at(there).sigma)
        return x

    return solve


def _steps(x: Tensor, stage: Stage, naturals: Sequence[float]) -> pairwise[tuple[NoiseLevel, NoiseLevel]]:
    return pairwise(stage.at(torch.as_tensor(natural, dtype=x.dtype, device=x.device)) for natural in naturals)
