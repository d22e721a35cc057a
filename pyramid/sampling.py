"""The loop over the stages of a pyramid. There is no other."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from .noise_levels import NoiseLevel, add_noise
from .solvers import Solver, Velocity
from .stages import Stage
from .transition import transition


class StageRunner(Protocol):
    """Runs one stage: from ``(1 - sigma_n) * signal + sigma_n * noise`` at its noisy end to its clean end, which it
    hands out over ``1 - sigma_c``. All tensors are ``(B, C, T, H, W)`` at the stage's size."""

    def __call__(self, signal: Tensor, noise: Tensor, stage: Stage) -> Tensor: ...


def sample_pyramid(
    run_stage: StageRunner,
    noises: Sequence[Tensor],
    stages: Sequence[Stage],
    *,
    signal: Tensor | None = None,
    previous: Stage | None = None,
    top_up: Callable[[Stage], Tensor] | None = None,
) -> Tensor:
    """Runs stages in running order with a transition between them; returns what the last one hands out.

    run_stage: how a stage is integrated. noises: one per stage, from ``noise_pyramid``. signal: what the first of the
    stages starts from besides its noise; default nothing, right for a start from pure noise. previous: the stage that
    handed out ``signal``, when a run goes on after it. top_up: more white noise for a stage, for ``transition``.
    """
    signal = torch.zeros_like(noises[0]) if signal is None else signal
    for stage, noise in zip(stages, noises, strict=True):
        if previous is not None:
            signal, noise = into_stage(signal, previous, stage, noise, top_up=top_up)
        signal = run_stage(signal, noise, stage)
        previous = stage
    return signal


def into_stage(
    signal: Tensor, coarse: Stage, fine: Stage, noise: Tensor, *, top_up: Callable[[Stage], Tensor] | None = None
) -> tuple[Tensor, Tensor]:
    """``transition`` from the clean end of one stage to the noisy end of the next."""
    if fine.from_coarser is None:
        raise ValueError("the stages of one pyramid follow each other; this one starts a pyramid of its own")
    ends = _level(coarse, coarse.clean.natural, signal), _level(fine, fine.noisy.natural, signal)
    draw = None if top_up is None else functools.partial(top_up, fine)
    return transition(signal, *ends, fine.from_coarser, noise, draw)


def solver_stage(velocity: Velocity, solver: Solver, levels: Sequence[Sequence[float]]) -> StageRunner:
    """A stage runner out of a velocity and one of ``pyramid.solvers``; ``levels`` are natural, one list per stage."""

    def run(signal: Tensor, noise: Tensor, stage: Stage) -> Tensor:
        naturals = levels[stage.index]
        start, end = _level(stage, naturals[0], noise), _level(stage, naturals[-1], noise)
        x = solver(velocity, add_noise(signal, noise, start.sigma), stage, naturals)
        return x / (1 - end.sigma)

    return run


def _level(stage: Stage, natural: float, like: Tensor) -> NoiseLevel:
    return stage.at(torch.as_tensor(natural, dtype=like.dtype, device=like.device))
