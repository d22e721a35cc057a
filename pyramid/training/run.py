"""Run a training from its configuration to the exported files."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

from accelerate import Accelerator

from ..lift import Lift
from ..stages import PyramidSpec
from .config.distill import DistillConfig
from .config.finetune import FinetuneConfig
from .config.run_config import RunConfig
from .config.run_folder import CONFIG, check_unchanged
from .config.toml_config import to_toml
from .data.batches import Plan, StageBatch, StepDataset, steps_from
from .data.cache_files import Cache, CacheInfo
from .engine import atomic, parallel
from .engine.checkpoints import FOLDER
from .engine.digests import files_digest
from .engine.locks import locked
from .engine.loop import Recipe, TrainingLoop
from .engine.run_log import BOARD, LOG
from .export import EXPORT, export
from .files import read_json
from .fitted_drops import check_drops, fitted_drops, kept_files
from .models.network_form import check_forms
from .models.networks import transformer_dimensions, transformer_files
from .recipes.adversarial import check_taps
from .recipes.distill import DistributionMatching
from .recipes.distill_adversarial import AdversarialDistillation
from .recipes.finetune import Finetuning
from .validation import SAMPLES, FinetuneValidation, StudentValidation

INPUTS = "inputs.json"
"""Digests of what a run reads, by the setting that names it."""


def run_finetuning(config: FinetuneConfig) -> list[Path]:
    """Train to the last step, resuming what is in the folder, and export.

    Returns:
        The exported files; none in processes other than the main one.

    Raises:
        ValueError: The settings do not fit the cache, the checkpoint or the run in the folder, or it is in use.
        StoppedError: The run ended before its last step.
    """
    with _started(config) as (accelerator, cache):
        recipe = Finetuning(config, accelerator)
        return _train(config, recipe, FinetuneValidation(recipe, cache), cache, accelerator)


def run_distillation(config: DistillConfig) -> list[Path]:
    """Train a few-step student, and export it; otherwise like ``run_finetuning``."""
    with _started(config) as (accelerator, cache):
        recipe = make_distillation(config, accelerator, fitted_drops(config, cache))
        return _train(config, recipe, StudentValidation(recipe, cache), cache, accelerator)


def make_distillation(
    config: DistillConfig, accelerator: Accelerator, drops: Mapping[int, Lift] | None = None
) -> DistributionMatching | AdversarialDistillation:
    """Return the recipe that the configuration names; ``drops`` blur predictions, by the index of their stage."""
    kind = AdversarialDistillation if config.traits.adversarial else DistributionMatching
    return kind(config, accelerator, drops)


@contextmanager
def _started(config: RunConfig) -> Iterator[tuple[Accelerator, Cache]]:
    """Check what can be checked before networks are loaded, and hold the lock of the run's folder."""
    accelerator = parallel.start(config.system)
    cache = open_cache(config)
    check_cache(config, cache)
    check_drops(config, cache.info)
    check_texts(config, cache)
    check_forms(config.checkpoints_by_setting, config.form)
    if isinstance(config, DistillConfig) and config.traits.adversarial:
        check_taps(config.discriminator.taps, transformer_dimensions(config.networks.teacher).layers)
    with ExitStack() as held:
        parallel.on_main(lambda: _claim(config, cache, held))
        yield accelerator, cache


def _claim(config: RunConfig, cache: Cache, held: ExitStack) -> None:
    folder = Path(config.out)
    held.enter_context(locked(folder))
    for name in (FOLDER, SAMPLES, EXPORT, BOARD):
        atomic.check_folder(folder / name)
    for name in (INPUTS, CONFIG, LOG, *kept_files(config)):
        atomic.check_target(folder / name)
    for each in (folder, folder / FOLDER, folder / SAMPLES):
        atomic.remove_leftovers(each)
    digests = input_digests(config, cache)
    if any((folder / FOLDER).glob("step-*")):  # before the first checkpoint there is nothing to resume
        check_unchanged(config, folder)
        check_inputs(digests, folder)
    atomic.write_text(folder / INPUTS, json.dumps(digests, indent=1))
    atomic.write_text(folder / CONFIG, to_toml(config))


def open_cache(config: RunConfig) -> Cache:
    """Open the cache of a run, with the stages of its pyramid."""
    spec = config.pyramid.spec()
    return Cache(config.data.cache, stages=spec.number_of_stages, all_full_size=spec.coarse == "patches")


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
    if config.pyramid.spec().coarse == "latents":
        _check_stages(config.pyramid.spec(), info)
    if config.needs_videos and not cache.has_videos:
        raise ValueError(
            f"the cache in {cache.folder} holds only prompts, which requires distillation with train.inputs 'simulated'"
        )
    if len(cache) <= config.data.held_out:
        raise ValueError(f"data.held_out is {config.data.held_out}, but the cache has only {len(cache)} items")


def check_texts(config: RunConfig, cache: Cache) -> None:
    """Check that the networks of a run read text embeddings as wide as those in the cache.

    Raises:
        ValueError: The cache was made with another text encoder, or a path is not a transformer.
    """
    width = cache.empty.shape[1]
    for setting, path in config.checkpoints_by_setting.items():
        read = transformer_dimensions(path).text_dim
        if read != width:
            raise ValueError(
                f"{setting} {path} reads text embeddings of width {read}, but those in the cache {cache.folder} have width "
                f"{width}; make another cache with the text encoder of this model"
            )


def _check_stages(spec: PyramidSpec, info: CacheInfo) -> None:
    """Raise ValueError unless a cache has the latents of every stage of a pyramid of latents."""
    cached = info.spec
    if cached.downsample_axes[len(cached.downsample_axes) - len(spec.downsample_axes) :] != spec.downsample_axes:
        raise ValueError(
            f"pyramid.downsample_axes is {list(spec.downsample_axes)}, but the cache has {list(cached.downsample_axes)}; "
            "use the cache's pyramid or make another cache"
        )
    if info.definition == "latents" and spec.downsample_axes and cached.resize != spec.resize:
        raise ValueError(f"pyramid.resize is '{spec.resize}', but the cache averages latents with '{cached.resize}'")


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
        align_noise=config.aligns_noise,
        process=accelerator.process_index,
        processes=accelerator.num_processes,
    )
    dataset = StepDataset(cache, plan)
    return lambda start: steps_from(dataset, start, config.train.steps, workers=config.data.workers)


def input_digests(config: RunConfig, cache: Cache) -> dict[str, str]:
    """Return digests of the cache and of the networks that a run starts from, by setting; their names do not matter."""
    digests = {name: files_digest(transformer_files(path)) for name, path in config.checkpoints_by_setting.items()}
    return {**digests, "data.cache": cache.fingerprint()}


def check_inputs(digests: Mapping[str, str], folder: Path) -> None:
    """Check that the run in a folder was started with the same inputs.

    Raises:
        ValueError: It was started with other contents.
    """
    before = read_json(folder / INPUTS, "the inputs of a run")
    changed = [name for name, digest in digests.items() if before.get(name) != digest]
    if changed:
        shown = ", ".join(f"{name} (was {before.get(name)}, is {digests[name]})" for name in changed)
        raise ValueError(
            f"{folder} holds a run that was started with other contents of {shown}; restore them or choose another 'out'"
        )
