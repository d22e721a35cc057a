"""One finetuning run from configuration to exported files, and its estimate beforehand."""

from __future__ import annotations

import os
from pathlib import Path

from accelerate import Accelerator

from . import parallel
from .batches import Plan, StepDataset
from .cache_files import Cache
from .export import export
from .finetune import FinetuneConfig, Finetuning
from .loop import TrainingLoop
from .toml_config import load_config, to_toml
from .validation import Validation

CONFIG = "config.toml"


def run(config: FinetuneConfig) -> list[Path]:
    """Trains to the last step, or goes on with what is in the folder, and exports; returns the exported files."""
    accelerator = parallel.start(config.system)
    folder, cache = Path(config.out), Cache(config.data.cache)
    check_cache(config, cache)
    if accelerator.is_main_process:
        _keep_config(config, folder)
    recipe = Finetuning(config, accelerator)
    loop = TrainingLoop(
        recipe,
        StepDataset(cache, _plan(config, cache, accelerator)),
        accelerator,
        folder,
        config.keep,
        steps=config.train.steps,
        workers=config.data.workers,
        validate=Validation(recipe, cache, accelerator, folder),
        validate_every=config.validation.every,
    )
    loop.run()
    files = export(config) if accelerator.is_main_process else []
    accelerator.wait_for_everyone()
    accelerator.end_training()
    return files


def check_cache(config: FinetuneConfig, cache: Cache) -> None:
    """ValueError in plain words for a cache that is for something else."""
    info, video = cache.info, config.video
    if info.latent != video.latent:
        raise ValueError(
            f"the cache is of {info.width}x{info.height} with {info.frames} frames, the run of {video.width}x{video.height} "
            f"with {video.frames}: change [video], or make another cache"
        )
    spec = config.pyramid.spec()
    if info.spec.halves != spec.halves:
        raise ValueError(
            f"the cache halves {', '.join(info.spec.halves) or 'nothing'}, the run {', '.join(spec.halves) or 'nothing'}: "
            "its stages have other sizes"
        )
    if info.definition == "latents" and info.spec.resize != spec.resize:
        raise ValueError(f"the cache averages latents with '{info.spec.resize}', the run wants '{spec.resize}'")
    if len(cache) - config.data.held_out < 1:
        raise ValueError(f"the cache has {len(cache)} items and {config.data.held_out} are held out: nothing to train on")


def _plan(config: FinetuneConfig, cache: Cache, accelerator: Accelerator) -> Plan:
    return Plan(
        seed=config.train.seed,
        per_stage=config.train.per_stage,
        accumulation=config.train.accumulation,
        first=0,
        last=len(cache) - config.data.held_out,
        drop=config.train.drop_prompt,
        process=accelerator.process_index,
        processes=accelerator.num_processes,
    )


FREE = ("keep", "validation", "system", "out")
"""Tables that may change when a run goes on; anything else would make another run of it. So may train.steps."""


def _keep_config(config: FinetuneConfig, folder: Path) -> None:
    """Writes the resolved configuration; refuses to go on with another one."""
    path = folder / CONFIG
    if path.exists():
        before, now = (one.model_dump() for one in (load_config(FinetuneConfig, path), config))
        changed = [
            f"{table}.{key}"
            for table in now
            if table not in FREE
            for key in now[table]
            if before[table][key] != now[table][key] and (table, key) not in (("train", "steps"), ("data", "workers"))
        ]
        if changed:
            raise ValueError(f"{folder} holds a run with other settings: {', '.join(changed)} changed. Choose another 'out'")
    folder.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{CONFIG}.partial")
    partial.write_text(to_toml(config), encoding="utf-8")
    os.replace(partial, path)
