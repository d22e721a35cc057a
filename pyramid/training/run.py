"""Run a training from its configuration to the exported files."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from accelerate import Accelerator

from .config.distill import DistillConfig
from .config.finetune import FinetuneConfig
from .config.run_config import RunConfig
from .config.toml_config import load_config, to_toml
from .data.batches import Plan, StageBatch, StepDataset, steps_from
from .data.cache_files import Cache
from .engine import atomic, parallel
from .engine.loop import Recipe, TrainingLoop
from .export import export
from .recipes.distill import DistributionMatching
from .recipes.distill_adversarial import AdversarialDistillation
from .recipes.finetune import Finetuning
from .validation import FinetuneValidation, StudentValidation

CONFIG = "config.toml"


def run_finetuning(config: FinetuneConfig) -> list[Path]:
    """Train to the last step, resuming what is in the folder, and export.

    Returns:
        The exported files; none in processes other than the main one.

    Raises:
        ValueError: The settings do not fit the cache, the checkpoint or the run in the folder.
        StoppedError: The run ended before its last step.
    """
    accelerator, cache = _start(config)
    recipe = Finetuning(config, accelerator)
    return _train(config, recipe, FinetuneValidation(recipe, cache), cache, accelerator)


def run_distillation(config: DistillConfig) -> list[Path]:
    """Train a few-step student, and export it; otherwise like ``run_finetuning``."""
    accelerator, cache = _start(config)
    recipe = make_distillation(config, accelerator)
    return _train(config, recipe, StudentValidation(recipe, cache), cache, accelerator)


def make_distillation(config: DistillConfig, accelerator: Accelerator) -> DistributionMatching | AdversarialDistillation:
    """Return the recipe that the configuration names."""
    kind = AdversarialDistillation if config.traits.adversarial else DistributionMatching
    return kind(config, accelerator)


def _start(config: RunConfig) -> tuple[Accelerator, Cache]:
    accelerator = parallel.start(config.system)
    cache = Cache(config.data.cache, stages=config.pyramid.spec().number_of_stages)
    check_cache(config, cache)
    if accelerator.is_main_process:
        keep_config(config, Path(config.out))
    return accelerator, cache


def _train(
    config: RunConfig,
    recipe: Recipe,
    validate: Callable[[int], dict[str, float]],
    cache: Cache,
    accelerator: Accelerator,
) -> list[Path]:
    loop = TrainingLoop(
        recipe,
        step_batches(config, cache, accelerator),
        accelerator,
        Path(config.out),
        config.keep,
        steps=config.train.steps,
        validate=validate,
        validate_every=config.validation.every,
    )
    loop.run()
    files = export(config) if accelerator.is_main_process else []
    accelerator.wait_for_everyone()
    accelerator.end_training()
    return files


def check_cache(config: RunConfig, cache: Cache) -> None:
    """Check that a run can be trained on a cache.

    Raises:
        ValueError: Sizes or pyramids differ, the cache lacks videos, or all of its items are held out.
    """
    info, video = cache.info, config.video
    if info.latent != video.latent:
        raise ValueError(
            f"[video] is {video.width}x{video.height}, {video.frames} frames, but the cache has {info.width}x{info.height}, "
            f"{info.frames} frames; change [video] or make another cache"
        )
    spec, cached = config.pyramid.spec(), info.spec
    if cached.downsample_axes[len(cached.downsample_axes) - len(spec.downsample_axes) :] != spec.downsample_axes:
        raise ValueError(
            f"pyramid.downsample_axes is {list(spec.downsample_axes)}, but the cache has {list(cached.downsample_axes)}; "
            "use the cache's pyramid or make another cache"
        )
    if info.definition == "latents" and spec.downsample_axes and cached.resize != spec.resize:
        raise ValueError(f"pyramid.resize is '{spec.resize}', but the cache averages latents with '{cached.resize}'")
    if config.needs_videos and not cache.has_videos:
        raise ValueError(
            f"the cache in {cache.folder} holds only prompts, which requires distillation with train.inputs 'simulated'"
        )
    if len(cache) <= config.data.held_out:
        raise ValueError(f"data.held_out is {config.data.held_out}, but the cache has only {len(cache)} items")


def step_batches(
    config: RunConfig, cache: Cache, accelerator: Accelerator
) -> Callable[[int], Iterator[list[list[StageBatch]]]]:
    """Return a function that iterates over this process's batches of every step, from a given step to the last one."""
    plan = Plan(
        seed=config.train.seed,
        per_stage=config.train.per_stage,
        accumulation=config.train.accumulation,
        first=0,
        last=len(cache) - config.data.held_out,
        drop=config.dropped_prompts,
        draw_twice=config.draws_twice,
        process=accelerator.process_index,
        processes=accelerator.num_processes,
    )
    dataset = StepDataset(cache, plan)
    return lambda start: steps_from(dataset, start, config.train.steps, workers=config.data.workers)


FREE_TABLES = ("keep", "validation", "system", "out")
"""Tables that may change when a run is resumed."""
FREE_KEYS = (("train", "steps"), ("data", "workers"))
"""Single settings that may change; all others would make it a different run."""


def keep_config(config: RunConfig, folder: Path) -> None:
    """Write the resolved configuration to the folder of the run.

    Raises:
        ValueError: The folder holds a run with different settings.
    """
    path = folder / CONFIG
    if path.exists():
        before, now = (each.model_dump() for each in (load_config(type(config), path), config))
        changed = [
            f"{table}.{key}".rstrip(".")
            for table in now
            if table not in FREE_TABLES
            for key in (now[table] if isinstance(now[table], dict) else [""])
            if _value(before, table, key) != _value(now, table, key) and (table, key) not in FREE_KEYS
        ]
        if changed:
            raise ValueError(
                f"{folder} holds a run with different settings: {', '.join(changed)} changed; restore them or choose another "
                "'out'"
            )
    atomic.write_text(path, to_toml(config))


def _value(tables: dict, table: str, key: str) -> object:
    return tables[table][key] if key else tables[table]
