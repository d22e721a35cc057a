"""One finetuning run from configuration to exported files, and its estimate beforehand."""

from __future__ import annotations

import os
from pathlib import Path

from accelerate import Accelerator

from ..flops import WAN_DIMENSIONS, WanDimensions
from . import costs, parallel
from .batches import Plan, StepDataset
from .cache_files import Cache
from .export import export
from .finetune import FinetuneConfig, Finetuning
from .loop import TrainingLoop
from .networks import transformer_dimensions
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


def estimate(config: FinetuneConfig, processes: int = 1) -> str:
    """Stages, TFLOPs and memory of an optimiser step, as text."""
    dimensions = _dimensions(config)
    spec, lora = config.pyramid.spec(), config.adapter.kind == "lora"
    stages = spec.stages(config.video.latent)
    teacher = [float(bool(config.losses.teacher) and stage.level in config.losses.teacher_levels) for stage in stages]
    work = costs.Work(1.0, teacher, lora, config.model.gradient_checkpointing)
    samples = config.train.per_stage * config.train.accumulation * processes
    steps = costs.step_costs(spec, config.video.latent, dimensions, work, samples=samples)
    total, plain = sum(step.tflops for step in steps), costs.plain_tflops(steps, dimensions, work)
    lines = ["stage   latent frames x height x width   tokens   samples   TFLOPs per step"]
    for step in steps:
        size = f"{step.shape.frames} x {step.shape.height} x {step.shape.width}"
        lines.append(f"{step.name:7} {size:>30} {step.tokens:>8} {step.samples:>9} {step.tflops:>17.1f}")
    lines += [
        f"together {total:.1f} TFLOPs per optimiser step, {total * config.train.steps / 1e6:.3g} EFLOPs in all steps",
        f"as many samples at full size: {plain:.1f} TFLOPs, so the pyramid takes {total / plain:.0%} of it",
        _memory(config, dimensions, max(step.tokens for step in steps)),
    ]
    return "\n".join(lines)


def _dimensions(config: FinetuneConfig) -> WanDimensions:
    if Path(config.model.transformer).exists():
        return transformer_dimensions(config.model.transformer)
    if config.model.size not in WAN_DIMENSIONS:
        raise ValueError(f"model.size {config.model.size!r} is none of {', '.join(WAN_DIMENSIONS)}")
    return WAN_DIMENSIONS[config.model.size]


def _memory(config: FinetuneConfig, dimensions: WanDimensions, tokens: int) -> str:
    everything, lora = costs.parameters(dimensions), config.adapter.kind == "lora"
    copies = config.pyramid.spec().number_of_stages if config.adapter.scope == "per-stage" else 1
    trained = copies * costs.lora_parameters(dimensions, config.adapter.rank, config.adapter.targets) if lora else everything
    frozen = everything if lora else everything * bool(config.losses.teacher)
    state = costs.state_gib(trained, frozen, ema=bool(config.optimizer.ema))
    activations = costs.activation_gib(
        tokens, dimensions, config.train.per_stage, checkpointing=config.model.gradient_checkpointing
    )
    return (
        f"memory of one process, estimated: {state:.1f} GiB of weights and optimiser ({trained / 1e6:.0f} million trained; "
        f"divided among the processes with parallel 'fsdp2') and {activations:.1f} GiB of activations"
    )
