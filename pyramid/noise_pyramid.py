"""All the noise of a pyramidal run out of one full-resolution draw and one seed."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from torch import Tensor

from .resize import OrthonormalResize, missing_band
from .stages import Stage


def noise_pyramid(noise: Tensor, stages: Sequence[Stage]) -> list[Tensor]:
    """Splits white noise ``(B, C, T, H, W)`` at the finest stage's size, in running order.

    First comes the white noise the coarsest stage starts from, then for every finer stage the band it is missing,
    ``z - up(down(z))``. All of them are mutually independent. (White noise for every stage out of one draw is
    impossible: the low band of the full draw *is* the coarser stage's.)
    """
    parts = []
    for stage in reversed(stages[1:]):
        resize = _coarser(stage)
        parts.append(missing_band(noise, resize))
        noise = whiten(resize.down(noise), resize)
    return [noise, *reversed(parts)]


def whiten(low: Tensor, resize: OrthonormalResize) -> Tensor:
    """Averaged white noise, scaled back to unit variance: ``sqrt(n)`` per frame."""
    return low * low.new_tensor(resize.fine_per_coarse(low.shape[2])).sqrt()[:, None, None]


def derive_seed(seed: int, *keys: int | str) -> int:
    """A 64-bit seed for a further draw; every sequence of keys has its own."""
    text = ",".join(map(str, (seed, *keys)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def stage_seed(seed: int, index: int) -> int:
    """The seed of a stage. The first one keeps the run's own, so that one stage is an ordinary run."""
    return derive_seed(seed, "stage", index) if index else seed


def step_seed(stage_seed: int, step: int) -> int:
    """The seed of the noise that few-step sampling adds after a step of a stage."""
    return derive_seed(stage_seed, "step", step)


def top_up_seed(stage_seed: int) -> int:
    """The seed of the noise that tops up frame 0 at the start of a stage ("shared" first-frame rule)."""
    return derive_seed(stage_seed, "top-up")


def _coarser(stage: Stage) -> OrthonormalResize:
    if stage.from_coarser is None:
        raise ValueError("only the first stage of a pyramid has no coarser one")
    return stage.from_coarser
