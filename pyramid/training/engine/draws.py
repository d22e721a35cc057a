"""Every random choice of a training run, as a function of the run's seed and the number of a sample.

Samples are numbered through the whole run and over all processes. Two processes therefore draw the same as one process with
twice the batch, and a resumed run the same as one that was never interrupted.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ...noise_pyramid import derive_seed

Key = int | str


def generator(seed: int, *keys: Key) -> torch.Generator:
    """Return a CPU generator that is independent of those for other sequences of keys."""
    return torch.Generator().manual_seed(derive_seed(seed, *keys) % 2**63)


def white(shape: tuple[int, ...], seed: int, *keys: Key) -> Tensor:
    """Draw white noise of unit variance."""
    return torch.randn(shape, generator=generator(seed, *keys))


def uniform(seed: int, *keys: Key) -> float:
    """Draw a number in [0, 1)."""
    return torch.rand((), generator=generator(seed, *keys), dtype=torch.float64).item()


def stratified(number: int, strata: int, seed: int, *keys: Key) -> float:
    """Draw a number in [0, 1) for sample ``number``; each block of ``strata`` samples has one number in each ``1 / strata``.

    Every number is uniform by itself; the mean over a block has less variance than that of independent draws.
    """
    block, position = divmod(number, strata)
    order = torch.randperm(strata, generator=generator(seed, *keys, "order", block))
    return (int(order[position]) + uniform(seed, *keys, "within", number)) / strata


def shuffled(number: int, count: int, seed: int, *keys: Key) -> int:
    """Return the item, out of ``count``, for sample ``number``; every pass over the items is a new permutation."""
    epoch, position = divmod(number, count)
    return int(torch.randperm(count, generator=generator(seed, *keys, "pass", epoch))[position])
