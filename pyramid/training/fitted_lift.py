"""The lift that a finetuned pyramid starts its finer stage from: fitted on the run's cache, and kept beside the run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from ..lift import LinearMap
from ..lift_fit import fit_lift
from .config.finetune import FinetuneConfig
from .config.run_config import RunConfig
from .data.cache_files import Cache, CacheInfo
from .engine import parallel
from .engine.checkpoints import FOLDER
from .files import opening, write_tensors

LIFT = "lift.safetensors"
"""The map in the folder of a run, in the model's normalisation of latents."""

MAX_PAIRS = 256
"""Clips of the cache that the map is fitted on; on the tiny world 800 clips leave as much of the variance as 200."""


def check_lift(config: RunConfig, info: CacheInfo) -> None:
    """Check that a cache has pairs to fit a lift on, if the run uses one.

    Raises:
        ValueError: Its coarse latents are averages of the fine ones.
    """
    if isinstance(config, FinetuneConfig) and config.train.lift and info.definition != "pixels":
        raise ValueError(
            f"train.lift requires coarse latents that were encoded from small videos, but the cache has definition "
            f"'{info.definition}'; make a cache of definition 'pixels'"
        )


def fitted_lift(config: FinetuneConfig, cache: Cache) -> LinearMap | None:
    """Return the lift of a run, the same in every process; None if the run has none.

    The main process fits it on the items that are not held out, and keeps it. A resumed run reads what was kept.
    """
    if not config.train.lift:
        return None
    folder = Path(config.out)
    parallel.on_main(lambda: _keep(folder, config, cache))
    return read_lift(folder / LIFT)


def _keep(folder: Path, config: FinetuneConfig, cache: Cache) -> None:
    path = folder / LIFT
    if path.exists() and any((folder / FOLDER).glob("step-*")):
        return
    lift, _ = fit_lift(_pairs(cache, len(cache) - config.data.held_out))
    tensors, metadata = lift.to_tensors()
    write_tensors({name: tensor.contiguous() for name, tensor in tensors.items()}, path, metadata)


def _pairs(cache: Cache, count: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield coarse and fine latents, ``(1, C, T, H, W)``, of at most ``MAX_PAIRS`` of the first ``count`` items."""
    for item in torch.linspace(0, count - 1, min(count, MAX_PAIRS)).round().long().tolist():
        yield cache.latent(item, 0)[None], cache.latent(item, 1)[None]


def read_lift(path: Path) -> LinearMap:
    """Return the map in a file.

    Raises:
        ValueError: The file cannot be read, or holds something else.
    """
    with opening(path, "a fitted lift"), safe_open(path, framework="pt") as file:
        return LinearMap.from_tensors({name: file.get_tensor(name) for name in file.keys()}, file.metadata())  # noqa: SIM118
