"""The one loop over the stages of a pyramid, for sampling in ComfyUI and for training."""

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
    """The integration of one stage."""

    def __call__(self, signal: Tensor, noise: Tensor, stage: Stage) -> Tensor:
        """Return ``x / (1 - sigma_c)`` at the clean end, starting from ``(1 - sigma_n) * signal + sigma_n * noise``.

        All tensors are ``(B, C, T, H, W)`` at the stage's size.
        """
        ...


def sample_pyramid(
    run_stage: StageRunner,
    noises: Sequence[Tensor],
    stages: Sequence[Stage],
    *,
    signal: Tensor | None = None,
    previous: Stage | None = None,
    top_up: Callable[[Stage], Tensor] | None = None,
    correction: Callable[[Stage, Stage], Tensor | None] | None = None,
) -> Tensor:
    """Run stages in running order with a transition between them.

    Args:
        run_stage: Integrates a stage.
        noises: One per stage, from ``noise_pyramid``.
        stages: Neighbouring stages of one pyramid.
        signal: What the first stage starts from besides its noise; None for pure noise.
        previous: The stage whose output ``signal`` is, for a run that resumes after it.
        top_up: Draws more white noise for a stage, for ``transition``.
        correction: Returns what a coarse stage's upsampled signal lacks at the start of the finer one, in the scale of
            the signal; None for nothing.

    Returns:
        The output of the last stage.
    """
    signal = torch.zeros_like(noises[0]) if signal is None else signal
    for stage, noise in zip(stages, noises, strict=True):
        if previous is not None:
            signal, noise = into_stage(signal, previous, stage, noise, top_up=top_up)
            if correction is not None and (added := correction(previous, stage)) is not None:
                signal = signal + added.to(signal)
        signal = run_stage(signal, noise, stage)
        previous = stage
    return signal


def into_stage(
    signal: Tensor, coarse: Stage, fine: Stage, noise: Tensor, *, top_up: Callable[[Stage], Tensor] | None = None
) -> tuple[Tensor, Tensor]:
    """Return the signal and noise at the noisy end of a stage, from the output of the stage before it.

    Args:
        signal: Output of ``coarse``.
        coarse: The stage that ends.
        fine: The stage that starts.
        noise: Noise of ``fine``.
        top_up: Draws more white noise for a stage, see ``transition``.

    Raises:
        ValueError: ``fine`` is the first stage of a pyramid.
    """
    if fine.from_coarser is None:
        raise ValueError(f"stage {fine.index} is the first stage of its pyramid")
    ends = _level(coarse, coarse.clean.natural, signal), _level(fine, fine.noisy.natural, signal)
    draw = None if top_up is None else functools.partial(top_up, fine)
    return transition(signal, *ends, fine.from_coarser, noise, draw)


def solver_stage(velocity: Velocity, solver: Solver, levels: Sequence[Sequence[float]]) -> StageRunner:
    """Return a stage runner that integrates a velocity with one of ``pyramid.solvers``.

    Args:
        velocity: A network or an analytic formula.
        solver: Solver of a stage.
        levels: Natural levels of each stage, by stage index.
    """

    def run(signal: Tensor, noise: Tensor, stage: Stage) -> Tensor:
        naturals = levels[stage.index]
        start, end = _level(stage, naturals[0], noise), _level(stage, naturals[-1], noise)
        x = solver(velocity, add_noise(signal, noise, start.sigma), stage, naturals)
        return x / (1 - end.sigma)

    return run


def _level(stage: Stage, natural: float, like: Tensor) -> NoiseLevel:
    return stage.at(torch.as_tensor(natural, dtype=like.dtype, device=like.device))
