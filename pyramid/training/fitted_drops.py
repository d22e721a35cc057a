"""The maps that blur a student's predictions: fitted on a run's cache, and kept beside the run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from ..lift import LinearMap
from ..lift_fit import fit_drop
from ..stage_names import stage_name
from .config.distill import DistillConfig
from .config.run_config import RunConfig
from .data.cache_files import Cache, CacheInfo
from .engine import parallel
from .engine.checkpoints import FOLDER
from .files import opening, write_tensors

DROP = "drop-{}.safetensors"
"""The map from a stage, by name, to the coarser one, in the model's normalisation of latents."""

MAX_PAIRS = 256
"""Clips of the cache that a map is fitted on; on the tiny world 800 clips leave as much of the variance as 200."""

PAIRS = "pixels"
"""Definition of the caches whose coarse latents were encoded from small videos, so that there are pairs to fit a map on."""


def kept_files(config: RunConfig) -> list[str]:
    """Return the names of the files that a run of this pyramid may keep maps in."""
    count = config.pyramid.spec().number_of_stages
    return [DROP.format(stage_name(index, count)) for index in range(1, count)]


def check_drops(config: RunConfig, info: CacheInfo) -> None:
    """Check that a cache has pairs to fit on, if the run requires it.

    Raises:
        ValueError: Its coarse latents are averages of the fine ones, or there are none.
    """
    if isinstance(config, DistillConfig) and config.losses.blurred == "dropped" and info.definition != PAIRS:
        raise ValueError(
            "losses.blurred 'dropped' requires coarse latents that were encoded from small videos, but the cache has "
            f"definition '{info.definition}'; make a cache of definition '{PAIRS}'"
        )


def fitted_drops(config: DistillConfig, cache: Cache) -> dict[int, LinearMap]:
    """Return the map from each stage to the coarser one, by the stage's index, where predictions are blurred with it.

    They are the same in every process: the main process fits them on items that are not held out, and keeps them. A resumed
    run reads what was kept.
    """
    count = config.pyramid.spec().number_of_stages
    if not config.blurs or config.losses.blurred == "low band" or cache.info.definition != PAIRS:
        return {}
    names = {fine: DROP.format(stage_name(fine, count)) for fine in range(1, count)}
    return {fine: _kept(config, cache, fine, Path(config.out) / name) for fine, name in names.items()}


def _kept(config: RunConfig, cache: Cache, fine: int, path: Path) -> LinearMap:
    parallel.on_main(lambda: _keep(config, cache, fine, path))
    return read_drop(path)


def _keep(config: RunConfig, cache: Cache, fine: int, path: Path) -> None:
    if path.exists() and any((path.parent / FOLDER).glob("step-*")):
        return
    drop, _ = fit_drop(_pairs(cache, len(cache) - config.data.held_out, fine))
    tensors, metadata = drop.to_tensors()
    write_tensors({name: tensor.contiguous() for name, tensor in tensors.items()}, path, metadata)


def _pairs(cache: Cache, count: int, fine: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield latents of the coarser stage and of a stage, ``(1, C, T, H, W)``, of some of the first ``count`` items."""
    for item in torch.linspace(0, count - 1, min(count, MAX_PAIRS)).round().long().tolist():
        yield cache.latent(item, fine - 1)[None], cache.latent(item, fine)[None]


def read_drop(path: Path) -> LinearMap:
    """Return the map in a file.

    Raises:
        ValueError: The file cannot be read, or holds something else.
    """
    with opening(path, "a fitted map"), safe_open(path, framework="pt") as file:
        return LinearMap.from_tensors({name: file.get_tensor(name) for name in file.keys()}, file.metadata())  # noqa: SIM118
