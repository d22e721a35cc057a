"""One run from configuration to exported files."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from accelerate import Accelerator

from .config.toml_config import load_config, to_toml
from .data.batches import Plan, StepDataset
from .data.cache_files import Cache
from .engine import parallel
from .engine.loop import Recipe, TrainingLoop
from .export import export
from .recipes.distill import DistillConfig, DistributionMatching
from .recipes.distill_adversarial import AdversarialDistillation
from .recipes.finetune import FinetuneConfig, Finetuning
from .validation import FinetuneValidation, StudentValidation

CONFIG = "config.toml"


def run_finetuning(config: FinetuneConfig) -> list[Path]:
    """Trains to the last step, or goes on with what is in the folder, and exports; returns the exported files."""
    accelerator, cache = _start(config)
    recipe = Finetuning(config, accelerator)
    return _train(config, recipe, FinetuneValidation(recipe, cache), cache, accelerator)


def run_distillation(config: DistillConfig) -> list[Path]:
    """The same for a few-step student."""
    accelerator, cache = _start(config)
    recipe = distillation_of(config, accelerator)
    return _train(config, recipe, StudentValidation(recipe, cache), cache, accelerator)


def distillation_of(config: DistillConfig, accelerator: Accelerator) -> DistributionMatching | AdversarialDistillation:
    kind = AdversarialDistillation if config.recipe.startswith("adv") else DistributionMatching
    return kind(config, accelerator)


def _start(config: FinetuneConfig | DistillConfig) -> tuple[Accelerator, Cache]:
    accelerator = parallel.start(config.system)
    cache = Cache(config.data.cache, stages=config.pyramid.spec().number_of_stages)
    check_cache(config, cache)
    if accelerator.is_main_process:
        keep_config(config, Path(config.out))
    return accelerator, cache


def _train(
    config: FinetuneConfig | DistillConfig,
    recipe: Recipe,
    validate: Callable[[int], dict[str, float]],
    cache: Cache,
    accelerator: Accelerator,
) -> list[Path]:
    loop = TrainingLoop(
        recipe,
        StepDataset(cache, plan_of(config, cache, accelerator)),
        accelerator,
        Path(config.out),
        config.keep,
        steps=config.train.steps,
        workers=config.data.workers,
        validate=validate,
        validate_every=config.validation.every,
    )
    loop.run()
    files = export(config) if accelerator.is_main_process else []
    accelerator.wait_for_everyone()
    accelerator.end_training()
    return files


def check_cache(config: FinetuneConfig | DistillConfig, cache: Cache) -> None:
    """ValueError in plain words for a cache that is for something else."""
    info, video = cache.info, config.video
    if info.latent != video.latent:
        raise ValueError(
            f"the cache is of {info.width}x{info.height} with {info.frames} frames, the run of {video.width}x{video.height} "
            f"with {video.frames}: change [video], or make another cache"
        )
    spec = config.pyramid.spec()
    if info.spec.downsample_axes[len(info.spec.downsample_axes) - len(spec.downsample_axes) :] != spec.downsample_axes:
        raise ValueError(
            f"the stages of the cache and of the run differ in size: downsample_axes {list(info.spec.downsample_axes)} in the "
            f"cache and {list(spec.downsample_axes)} in the run"
        )
    if info.definition == "latents" and spec.downsample_axes and info.spec.resize != spec.resize:
        raise ValueError(f"the cache averages latents with '{info.spec.resize}', the run wants '{spec.resize}'")
    if not cache.has_videos and not (isinstance(config, DistillConfig) and config.train.inputs == "simulated"):
        raise ValueError(
            f"the cache in {cache.folder} holds prompts alone; only distillation with train.inputs 'simulated' does without "
            "videos"
        )
    if len(cache) - config.data.held_out < 1:
        raise ValueError(f"the cache has {len(cache)} items and {config.data.held_out} are held out: nothing to train on")


def plan_of(config: FinetuneConfig | DistillConfig, cache: Cache, accelerator: Accelerator) -> Plan:
    """Distillation takes every prompt as it is, and draws twice."""
    finetuning = isinstance(config, FinetuneConfig)
    return Plan(
        seed=config.train.seed,
        per_stage=config.train.per_stage,
        accumulation=config.train.accumulation,
        first=0,
        last=len(cache) - config.data.held_out,
        drop=config.train.drop_prompt if finetuning else 0.0,
        draw_twice=not finetuning,
        process=accelerator.process_index,
        processes=accelerator.num_processes,
    )


FREE = ("keep", "validation", "system", "out")
"""Tables that may change when a run goes on."""
FREE_KEYS = (("train", "steps"), ("data", "workers"))
"""Settings of other tables that may; anything else would make another run of it."""


def keep_config(config: FinetuneConfig | DistillConfig, folder: Path) -> None:
    """Writes the resolved configuration; refuses to go on with another one."""
    path = folder / CONFIG
    if path.exists():
        before, now = (one.model_dump() for one in (load_config(type(config), path), config))
        changed = [
            f"{table}.{key}".rstrip(".")
            for table in now
            if table not in FREE
            for key in (now[table] if isinstance(now[table], dict) else [""])
            if _value(before, table, key) != _value(now, table, key) and (table, key) not in FREE_KEYS
        ]
        if changed:
            raise ValueError(f"{folder} holds a run with other settings: {', '.join(changed)} changed. Choose another 'out'")
    folder.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{CONFIG}.partial")
    partial.write_text(to_toml(config), encoding="utf-8")
    os.replace(partial, path)


def _value(tables: dict, table: str, key: str) -> object:
    return tables[table][key] if key else tables[table]
