"""Maps between latents of two sizes that a run fits on its cache and keeps: a lift to start from, drops to blur with."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from ..lift import LinearMap
from ..lift_fit import fit_drop, fit_lift
from ..stage_names import stage_name
from .config.distill import DistillConfig
from .config.finetune import FinetuneConfig
from .config.run_config import RunConfig
from .data.cache_files import Cache, CacheInfo
from .engine import parallel
from .engine.checkpoints import FOLDER
from .files import opening, write_tensors

LIFT = "lift.safetensors"
"""The map to the finer stage in the folder of a run, in the model's normalisation of latents."""

DROP = "drop-{}.safetensors"
"""The map from a stage, by name, to the coarser one."""

MAX_PAIRS = 256
"""Clips of the cache that a map is fitted on; on the tiny world 800 clips leave as much of the variance as 200."""

PAIRS = "pixels"
"""Definition of the caches whose coarse latents were encoded from small videos, so that there are pairs to fit a map on."""


def kept_files(config: RunConfig) -> list[str]:
    """Return the names of the files that a run of this pyramid may keep maps in."""
    count = config.pyramid.spec().number_of_stages
    return [LIFT, *(DROP.format(stage_name(index, count)) for index in range(1, count))]


def check_maps(config: RunConfig, info: CacheInfo) -> None:
    """Check that a cache has pairs to fit on, if the run requires it.

    Raises:
        ValueError: Its coarse latents are averages of the fine ones, or there are none.
    """
    required = {
        "train.lift": isinstance(config, FinetuneConfig) and config.train.lift,
        "losses.blurred 'dropped'": isinstance(config, DistillConfig) and config.losses.blurred == "dropped",
    }
    for setting in (name for name, on in required.items() if on and info.definition != PAIRS):
        raise ValueError(
            f"{setting} requires coarse latents that were encoded from small videos, but the cache has definition "
            f"'{info.definition}'; make a cache of definition '{PAIRS}'"
        )


def fitted_lift(config: FinetuneConfig, cache: Cache) -> LinearMap | None:
    """Return the lift of a run, the same in every process; None if the run has none.

    The main process fits it on the items that are not held out, and keeps it. A resumed run reads what was kept.
    """
    return _kept(config, LIFT, lambda: fit_lift(_pairs(config, cache, fine=1))[0]) if config.train.lift else None


def fitted_drops(config: DistillConfig, cache: Cache) -> dict[int, LinearMap]:
    """Return the map from each stage to the coarser one, by the stage's index, where predictions are blurred with it.

    Fitted, kept and read like ``fitted_lift``.
    """
    count = config.pyramid.spec().number_of_stages
    if not config.blurs or config.losses.blurred == "low band" or cache.info.definition != PAIRS:
        return {}

    def drop(fine: int) -> LinearMap:
        return _kept(config, DROP.format(stage_name(fine, count)), lambda: fit_drop(_pairs(config, cache, fine=fine))[0])

    return {fine: drop(fine) for fine in range(1, count)}


def _kept(config: RunConfig, name: str, fit: Callable[[], LinearMap]) -> LinearMap:
    path = Path(config.out) / name
    parallel.on_main(lambda: _keep(path, fit))
    return read_map(path)


def _keep(path: Path, fit: Callable[[], LinearMap]) -> None:
    if path.exists() and any((path.parent / FOLDER).glob("step-*")):
        return
    tensors, metadata = fit().to_tensors()
    write_tensors({name: tensor.contiguous() for name, tensor in tensors.items()}, path, metadata)


def _pairs(config: RunConfig, cache: Cache, *, fine: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield latents of a stage's coarser one and of the stage, ``(1, C, T, H, W)``, of some items that are not held out."""
    count = len(cache) - config.data.held_out
    for item in torch.linspace(0, count - 1, min(count, MAX_PAIRS)).round().long().tolist():
        yield cache.latent(item, fine - 1)[None], cache.latent(item, fine)[None]


def read_map(path: Path) -> LinearMap:
    """Return the map in a file.

    Raises:
        ValueError: The file cannot be read, or holds something else.
    """
    with opening(path, "a fitted map"), safe_open(path, framework="pt") as file:
        return LinearMap.from_tensors({name: file.get_tensor(name) for name in file.keys()}, file.metadata())  # noqa: SIM118
