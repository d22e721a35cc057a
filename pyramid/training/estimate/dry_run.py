"""Estimate the cost of a run from its configuration."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from ...flops import WAN_DIMENSIONS, WanDimensions, tokens
from ...schedules import parse_steps
from ..config.distill import DistillConfig
from ..config.finetune import FinetuneConfig
from ..config.run_config import RunConfig
from ..data.cache_files import INFO, CacheInfo
from ..models.networks import transformer_dimensions
from ..recipes.adversarial import DiscriminatorHeads
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
    """

    stages: Sequence[costs.StageStep]
    plain_tflops: float
    trained: int
    state_gib: float
    activation_gib: float

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
    work = costs.Work(1.0, teacher, lora, checkpointing)
    stages = costs.step_costs(spec, full, dimensions, work, samples=_samples(config))
    base, trained = costs.parameters(dimensions), _trained(config, dimensions)
    frozen = base if lora or config.losses.teacher else 0
    return StepEstimate(
        stages=stages,
        plain_tflops=costs.plain_tflops(stages, dimensions, work.trained_passes),
        trained=trained,
        state_gib=costs.state_gib(trained, frozen, ema=bool(config.optimizer.ema)),
        activation_gib=_activations(stages, dimensions, config, checkpointing=checkpointing),
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
    counts, steps = [tokens(shape) for shape in spec.shapes(full)], parse_steps(config.schedule, spec.number_of_stages)
    work = costs.matching_work(counts, steps, dimensions, simulated=config.simulates_inputs, **options)
    plain = costs.matching_work(counts[-1:], [1], dimensions, simulated=False, **options).passes(0)
    stages = costs.step_costs(spec, full, dimensions, work, samples=_samples(config))
    base, trained = costs.parameters(dimensions), _trained(config, dimensions)
    student = costs.state_gib(trained, base if lora else 0, ema=bool(config.student.ema))
    critic = costs.state_gib(trained, base, ema=bool(config.critic.ema))  # the frozen part is its base, or the teacher
    return StepEstimate(
        stages=stages,
        plain_tflops=costs.plain_tflops(stages, dimensions, plain),
        trained=2 * trained,
        state_gib=student + critic,
        activation_gib=_activations(stages, dimensions, config, checkpointing=checkpointing),
    )


def _adversarial(config: DistillConfig, dimensions: WanDimensions) -> StepEstimate:
    spec, lora, checkpointing = config.pyramid.spec(), config.adapter.kind == "lora", config.gradient_checkpointing
    work = costs.adversarial_work(
        spec.number_of_stages, updates=config.train.critic_updates, lora=lora, checkpointing=checkpointing
    )
    stages = costs.step_costs(spec, config.video.latent, dimensions, work, samples=_samples(config))
    base, trained, heads = costs.parameters(dimensions), _trained(config, dimensions), _heads(config, dimensions)
    student = costs.state_gib(trained, base if lora else 0, ema=bool(config.student.ema))
    features = costs.state_gib(heads, base, ema=bool(config.critic.ema))
    passes = 2  # gradients pass through the features as well as through the student
    return StepEstimate(
        stages=stages,
        plain_tflops=costs.plain_tflops(stages, dimensions, work.passes(0)),
        trained=trained + heads,
        state_gib=student + features,
        activation_gib=passes * _activations(stages, dimensions, config, checkpointing=checkpointing),
    )


def _samples(config: RunConfig) -> int:
    """Return the number of samples of each stage in an optimiser step of one process."""
    return config.train.per_stage * config.train.accumulation


def _trained(config: RunConfig, dimensions: WanDimensions) -> int:
    """Return the number of trained parameters of one network."""
    if config.adapter.kind == "full":
        return costs.parameters(dimensions)
    copies = config.pyramid.spec().number_of_stages if config.adapter.scope == "per-stage" else 1
    return copies * costs.lora_parameters(dimensions, config.adapter.rank, config.adapter.targets)


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
    text = CacheInfo.from_json(info.read_text(encoding="utf-8")).text_length if info.is_file() else 512
    if Path(transformer).exists():
        return transformer_dimensions(transformer, text=text)
    if size not in WAN_DIMENSIONS:
        raise ValueError(f"unknown model size '{size}'; expected {', '.join(WAN_DIMENSIONS)}")
    return WAN_DIMENSIONS[size]
