"""Every random choice of a training run, as a function of the run's seed and of which sample it is for.

Samples are numbered through the whole run and over all processes, so a run with two processes draws what one process
with the double batch draws, and a resumed run draws what it would have drawn.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ...noise_pyramid import derive_seed

Key = int | str


def generator(seed: int, *keys: Key) -> torch.Generator:
    """A CPU generator for one purpose; every sequence of keys has its own."""
    return torch.Generator().manual_seed(derive_seed(seed, *keys) % 2**63)


def white(shape: tuple[int, ...], seed: int, *keys: Key) -> Tensor:
    """White noise of unit variance."""
    return torch.randn(shape, generator=generator(seed, *keys))


def uniform(seed: int, *keys: Key) -> float:
    """A number in [0, 1)."""
    return torch.rand((), generator=generator(seed, *keys), dtype=torch.float64).item()


def stratified(number: int, strata: int, seed: int, *keys: Key) -> float:
    """A number in [0, 1) for sample ``number``: every run of ``strata`` samples has one in each of as many equal parts.

    Uniform in itself, with less variance in a batch than independent draws.
    """
    block, place = divmod(number, strata)
    order = torch.randperm(strata, generator=generator(seed, *keys, "order", block))
    return (int(order[place]) + uniform(seed, *keys, "within", number)) / strata


def shuffled(number: int, count: int, seed: int, *keys: Key) -> int:
    """Which of ``count`` items sample ``number`` is: every pass over the data is a permutation of its own."""
    turn, place = divmod(number, count)
    return int(torch.randperm(count, generator=generator(seed, *keys, "pass", turn))[place])
