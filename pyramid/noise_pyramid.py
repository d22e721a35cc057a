"""Derive all noise of a pyramidal run from one full-resolution draw and one seed."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from torch import Tensor

from .resize import OrthonormalResize, missing_band
from .stages import Stage


def noise_pyramid(noise: Tensor, stages: Sequence[Stage]) -> list[Tensor]:
    """Split one draw of white noise into the independent noise of every stage.

    The coarsest stage gets white noise; every finer stage gets the band that its coarser neighbour cannot hold,
    ``z - up(down(z))``. White noise for every stage is impossible: the low band of the draw is the noise of the coarser stage.

    Args:
        noise: White noise ``(B, C, T, H, W)`` at the finest stage's size.
        stages: Stages in running order.

    Returns:
        The noise of each stage in running order.
    """
    parts = []
    for stage in reversed(stages[1:]):
        resize = _coarser(stage)
        parts.append(missing_band(noise, resize))
        noise = whiten(resize.down(noise), resize)
    return [noise, *reversed(parts)]


def whiten(low: Tensor, resize: OrthonormalResize) -> Tensor:
    """Return averaged white noise scaled back to unit variance: times ``sqrt(n)`` per frame."""
    return low * low.new_tensor(resize.fine_per_coarse(low.shape[2])).sqrt()[:, None, None]


def derive_seed(seed: int, *keys: int | str) -> int:
    """Return a 64-bit seed for a further draw, different for every sequence of keys."""
    text = ",".join(map(str, (seed, *keys)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def stage_seed(seed: int, index: int) -> int:
    """Return the seed of a stage; the first stage keeps the run's seed, so one stage equals an ordinary run."""
    return derive_seed(seed, "stage", index) if index else seed


def step_seed(stage_seed: int, step: int) -> int:
    """Return the seed of the noise that few-step sampling adds after a step of a stage."""
    return derive_seed(stage_seed, "step", step)


def top_up_seed(stage_seed: int) -> int:
    """Return the seed of the noise that tops up frame 0 at the start of a stage (first_frame "shared")."""
    return derive_seed(stage_seed, "top-up")


def _coarser(stage: Stage) -> OrthonormalResize:
    if stage.from_coarser is None:
        raise ValueError(f"stage {stage.index} is the first stage of its pyramid")
    return stage.from_coarser
