"""Estimate the cost of a run from its configuration."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from ...flops import PATCH_SHAPE, WAN_DIMENSIONS, WanDimensions, schedule_cost
from ...latent_shape import LatentShape
from ...patches import coarse_cells, least_error
from ...schedules import parse_steps
from ...stage_names import stage_name
from ...stages import PRESETS, PyramidSpec
from ..config.distill import DistillConfig
from ..config.finetune import FinetuneConfig
from ..config.run_config import RunConfig
from ..data.cache_files import INFO, read_info
from ..models.networks import transformer_dimensions
from ..recipes.adversarial import DiscriminatorHeads, check_taps
from . import costs


@dataclass(frozen=True)
class StepEstimate:
    """Cost of one optimiser step, or of one average iteration of distillation, in one process.

    Attributes:
        stages: Costs of the stages in running order.
        plain_tflops: TFLOPs of as many samples, all at full size.
        trained: Number of trained parameters.
        state_gib: Memory of weights, gradients, optimisers, averages and frozen networks, if one process holds them all.
        activation_gib: Estimated memory of activations.
        notes: What else is known about the run before it starts.
    """

    stages: Sequence[costs.StageStep]
    plain_tflops: float
    trained: int
    state_gib: float
    activation_gib: float
    notes: Sequence[str] = ()

    @property
    def tflops(self) -> float:
        """Return the TFLOPs of all stages."""
        return sum(stage.tflops for stage in self.stages)

    def text(self, steps: int) -> str:
        """Return a table of the stages, then operations and memory, for a run of ``steps`` steps."""
        lines = ["stage   latent frames x height x width   tokens   samples   TFLOPs per step"]
        for stage in self.stages:
            size = f"{stage.shape.frames} x {stage.shape.height} x {stage.shape.width}"
            lines.append(f"{stage.name:7} {size:>30} {stage.tokens:>8} {stage.samples:>9} {stage.tflops:>17.4g}")
        return "\n".join(
            [
                *lines,
                f"one process, one optimiser step: {self.tflops:.4g} TFLOPs; "
                f"{self.tflops * steps / 1e6:.3g} EFLOPs in {steps} steps",
                f"as many samples at full size: {self.plain_tflops:.4g} TFLOPs; this run needs "
                f"{self.tflops / self.plain_tflops:.0%} of that",
                f"estimated memory of one process: {self.state_gib:.1f} GiB of weights and optimiser "
                f"({self.trained / 1e6:.4g} million trained parameters; system.parallel 'fsdp2' divides it among the "
                f"processes) and {self.activation_gib:.1f} GiB of activations",
                *self.notes,
            ]
        )


def estimate_step(config: FinetuneConfig) -> StepEstimate:
    """Estimate one optimiser step of finetuning.

    Raises:
        ValueError: The transformer's file does not exist, and ``model.size`` is unknown.
    """
    dimensions = _dimensions(config)
    spec, lora, checkpointing = config.pyramid.spec(), config.adapter.kind == "lora", config.gradient_checkpointing
    full = config.video.latent
    levels = [stage.level for stage in spec.stages(full)]
    teacher = [float(bool(config.losses.teacher) and level in config.losses.teacher_levels) for level in levels]
    finest = spec.number_of_stages - 1
    forward = _forward(spec, full, dimensions)
    if spec.coarse == "patches":  # the teacher reads every stage as plain Wan does
        teacher = [passes * forward[finest] / cost for passes, cost in zip(teacher, forward, strict=True)]
    work = costs.Work([1.0] * spec.number_of_stages, teacher, lora, checkpointing)
    stages = costs.step_costs(spec, full, dimensions, work, samples=_samples(config))
    base, trained = costs.parameters(dimensions), _trained(config, dimensions)
    frozen = base if lora or config.losses.teacher else 0
    return StepEstimate(
        stages=stages,
        plain_tflops=costs.plain_tflops(stages, dimensions, work.trained_passes(finest)),
        trained=trained,
        state_gib=costs.state_gib(trained, frozen, ema=bool(config.optimizer.ema)),
        activation_gib=_activations(stages, dimensions, config, checkpointing=checkpointing),
        notes=_notes(spec, dimensions),
    )


def estimate_iteration(config: DistillConfig) -> StepEstimate:
    """Estimate one iteration of distillation, averaged over iterations with and without an update of the student.

    Raises:
        ValueError: The student's file does not exist, and ``networks.size`` is unknown.
    """
    dimensions = _dimensions(config)
    return (_adversarial if config.traits.adversarial else _matching)(config, dimensions)


def _matching(config: DistillConfig, dimensions: WanDimensions) -> StepEstimate:
    spec, full = config.pyramid.spec(), config.video.latent
    lora, checkpointing = config.adapter.kind == "lora", config.gradient_checkpointing
    options = {"updates": config.train.critic_updates, "lora": lora, "checkpointing": checkpointing}
    forward, steps = _forward(spec, full, dimensions), parse_steps(config.schedule, spec.number_of_stages)
    scores = [forward[-1]] * len(forward) if config.traits.patches else forward
    work = costs.matching_work(forward, scores, steps, simulated=config.simulates_inputs, **options)
    plain = costs.matching_work(forward[-1:], forward[-1:], [1], simulated=False, **options).passes(0)
    stages = costs.step_costs(spec, full, dimensions, work, samples=_samples(config))
    base, trained = costs.parameters(dimensions), _trained(config, dimensions)
    critics = _trained(config, dimensions, PRESETS["plain"]) if config.traits.patches else trained
    student = costs.state_gib(trained, base if lora else 0, ema=bool(config.student.ema))
    critic = costs.state_gib(critics, base, ema=bool(config.critic.ema))  # the frozen part is its base, or the teacher
    return StepEstimate(
        stages=stages,
        plain_tflops=costs.plain_tflops(stages, dimensions, plain),
        trained=trained + critics,
        state_gib=student + critic,
        activation_gib=_activations(stages, dimensions, config, checkpointing=checkpointing),
        notes=_notes(spec, dimensions),
    )


def _adversarial(config: DistillConfig, dimensions: WanDimensions) -> StepEstimate:
    spec, lora, checkpointing = config.pyramid.spec(), config.adapter.kind == "lora", config.gradient_checkpointing
    full, options = config.video.latent, {"updates": config.train.critic_updates, "lora": lora, "checkpointing": checkpointing}
    check_taps(config.discriminator.taps, _teacher_blocks(config))
    forward, steps = _forward(spec, full, dimensions), parse_steps(config.schedule, spec.number_of_stages)
    work = costs.adversarial_work(forward, steps, simulated=config.simulates_inputs, **options)
    plain = costs.adversarial_work(forward[-1:], [1], simulated=False, **options).passes(0)
    stages = costs.step_costs(spec, full, dimensions, work, samples=_samples(config))
    base, trained, heads = costs.parameters(dimensions), _trained(config, dimensions), _heads(config, dimensions)
    student = costs.state_gib(trained, base if lora else 0, ema=bool(config.student.ema))
    features = costs.state_gib(heads, base, ema=bool(config.critic.ema))
    passes = 2  # gradients pass through the features as well as through the student
    return StepEstimate(
        stages=stages,
        plain_tflops=costs.plain_tflops(stages, dimensions, plain),
        trained=trained + heads,
        state_gib=student + features,
        activation_gib=passes * _activations(stages, dimensions, config, checkpointing=checkpointing),
    )


def _teacher_blocks(config: DistillConfig) -> int:
    teacher = config.networks.teacher
    return (transformer_dimensions(teacher) if Path(teacher).exists() else WAN_DIMENSIONS[config.networks.size]).layers


def _samples(config: RunConfig) -> int:
    """Return the number of samples of each stage in an optimiser step of one process."""
    return config.train.per_stage * config.train.accumulation


def _forward(spec: PyramidSpec, full: LatentShape, dimensions: WanDimensions) -> list[float]:
    """Return the TFLOPs of one forward pass of every stage."""
    return [stage.forward_tflops for stage in schedule_cost(spec, full, [0] * spec.number_of_stages, dimensions)]


def _trained(config: RunConfig, dimensions: WanDimensions, spec: PyramidSpec | None = None) -> int:
    """Return the number of trained parameters of one network; spec: its pyramid, None for that of the run."""
    spec = spec or config.pyramid.spec()
    patches = costs.patch_parameters(dimensions, coarse_cells(spec))
    if config.adapter.kind == "full":
        return costs.parameters(dimensions) + patches
    copies = spec.number_of_stages if config.adapter.scope == "per-stage" else 1
    return copies * costs.lora_parameters(dimensions, config.adapter.rank, config.adapter.targets) + patches


def _notes(spec: PyramidSpec, dimensions: WanDimensions) -> list[str]:
    """Return what the width of a token leaves unpredicted in the stages of a pyramid of patches."""
    notes = []
    for index, cell in enumerate(coarse_cells(spec)):
        if left := least_error(dimensions.dim, cell, dimensions.out_channels):
            outputs = math.prod(cell) * math.prod(PATCH_SHAPE) * dimensions.out_channels
            notes.append(
                f"stage {stage_name(index, spec.number_of_stages)}: its head makes {outputs} outputs from {dimensions.dim} "
                f"numbers per token, so whatever is trained, {left:.0%} of the noise in a velocity is left"
            )
    return notes


def _heads(config: DistillConfig, dimensions: WanDimensions) -> int:
    with torch.device("meta"):
        heads = DiscriminatorHeads(dimensions.dim, len(config.discriminator.taps), width=config.discriminator.width)
    return sum(weight.numel() for weight in heads.parameters())


def _activations(
    stages: Sequence[costs.StageStep],
    dimensions: WanDimensions,
    config: RunConfig,
    *,
    checkpointing: bool,
) -> float:
    return costs.activation_gib(stages[-1].tokens, dimensions, config.train.per_stage, checkpointing=checkpointing)


def _dimensions(config: RunConfig) -> WanDimensions:
    """Return the sizes of the transformer: those of its file, or of the configured size if the file does not exist yet."""
    transformer, size, info = config.base_checkpoint, config.base_size, Path(config.data.cache) / INFO
    text = read_info(info.parent).text_length if info.is_file() else 512
    if Path(transformer).exists():
        return transformer_dimensions(transformer, text=text)
    return WAN_DIMENSIONS[size]
