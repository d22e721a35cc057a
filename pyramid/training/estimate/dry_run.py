"""What a run will cost, before it is started."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from ...flops import WAN_DIMENSIONS, WanDimensions, tokens
from ...schedules import parse_steps
from ..data.cache_files import INFO, CacheInfo
from ..models.networks import transformer_dimensions
from ..recipes.adversarial import DiscriminatorHeads
from ..recipes.distill import DistillConfig
from ..recipes.finetune import FinetuneConfig
from . import costs


@dataclass(frozen=True)
class StepEstimate:
    """One optimiser step, or mean iteration of distillation, of one process.

    stages: in running order. plain_tflops: as many samples, all at full size. trained: number of weights. state_gib: weights,
    gradients, optimisers, averages and frozen networks, all in one process. activation_gib: about what a pass keeps.
    """

    stages: Sequence[costs.StageStep]
    plain_tflops: float
    trained: int
    state_gib: float
    activation_gib: float

    @property
    def tflops(self) -> float:
        return sum(stage.tflops for stage in self.stages)

    def text(self, steps: int) -> str:
        """A table of the stages, and a line each for operations and memory."""
        lines = ["stage   latent frames x height x width   tokens   samples   TFLOPs per step"]
        for stage in self.stages:
            size = f"{stage.shape.frames} x {stage.shape.height} x {stage.shape.width}"
            lines.append(f"{stage.name:7} {size:>30} {stage.tokens:>8} {stage.samples:>9} {stage.tflops:>17.4g}")
        return "\n".join(
            [
                *lines,
                f"one process, one optimiser step: {self.tflops:.4g} TFLOPs; "
                f"{self.tflops * steps / 1e6:.3g} EFLOPs in {steps} steps",
                f"as many samples at full size: {self.plain_tflops:.4g} TFLOPs; this run takes "
                f"{self.tflops / self.plain_tflops:.0%} of that",
                f"memory of one process, estimated: {self.state_gib:.1f} GiB of weights and optimiser "
                f"({self.trained / 1e6:.4g} million trained; parallel 'fsdp2' divides it among the processes) and "
                f"{self.activation_gib:.1f} GiB of activations",
            ]
        )


def estimate_step(config: FinetuneConfig) -> StepEstimate:
    """ValueError in plain words if neither the transformer's file nor its size is known."""
    dimensions = _dimensions(config, config.model.transformer, config.model.size)
    spec, lora, checkpointing = config.pyramid.spec(), config.adapter.kind == "lora", config.model.gradient_checkpointing
    full = config.video.latent
    levels = [stage.level for stage in spec.stages(full)]
    teacher = [float(bool(config.losses.teacher) and level in config.losses.teacher_levels) for level in levels]
    work = costs.Work(1.0, teacher, lora, checkpointing)
    stages = costs.step_costs(spec, full, dimensions, work, samples=config.train.per_stage * config.train.accumulation)
    everything, trained = costs.parameters(dimensions), _trained(config, dimensions)
    frozen = everything if lora else everything * bool(config.losses.teacher)
    return StepEstimate(
        stages=stages,
        plain_tflops=costs.plain_tflops(stages, dimensions, work.trained_passes),
        trained=trained,
        state_gib=costs.state_gib(trained, frozen, ema=bool(config.optimizer.ema)),
        activation_gib=_activations(stages, dimensions, config, checkpointing=checkpointing),
    )


def estimate_iteration(config: DistillConfig) -> StepEstimate:
    """The same for distillation, averaged over iterations with and without a move of the student."""
    dimensions = _dimensions(config, config.networks.student, config.networks.size)
    spec, lora, checkpointing = config.pyramid.spec(), config.adapter.kind == "lora", config.networks.gradient_checkpointing
    full, updates = config.video.latent, config.train.critic_updates
    everything, trained = costs.parameters(dimensions), _trained(config, dimensions)
    state = costs.state_gib(trained, everything if lora else 0, ema=bool(config.student.ema))
    adversarial = config.recipe.startswith("adv")
    if adversarial:
        heads = _heads(config, dimensions)
        work = costs.adversarial_work(spec.number_of_stages, updates=updates, lora=lora, checkpointing=checkpointing)
        plain, trained = work.passes(0), trained + heads
        state += costs.state_gib(heads, everything, ema=bool(config.critic.ema))
    else:
        how = {"updates": updates, "lora": lora, "checkpointing": checkpointing}
        counts, steps = [tokens(shape) for shape in spec.shapes(full)], parse_steps(config.schedule, spec.number_of_stages)
        work = costs.matching_work(counts, steps, dimensions, simulated=config.train.inputs == "simulated", **how)
        plain = costs.matching_work(counts[-1:], [1], dimensions, simulated=False, **how).passes(0)
        state += costs.state_gib(trained, everything, ema=bool(config.critic.ema))  # the critic's base, or the teacher
        trained *= 2
    stages = costs.step_costs(spec, full, dimensions, work, samples=config.train.per_stage * config.train.accumulation)
    activations = _activations(stages, dimensions, config, checkpointing=checkpointing)
    if adversarial:
        activations *= 2  # of the features, too, back to the prediction
    return StepEstimate(stages, costs.plain_tflops(stages, dimensions, plain), trained, state, activations)


def _trained(config: FinetuneConfig | DistillConfig, dimensions: WanDimensions) -> int:
    """Weights of one network that is trained."""
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
    config: FinetuneConfig | DistillConfig,
    *,
    checkpointing: bool,
) -> float:
    return costs.activation_gib(stages[-1].tokens, dimensions, config.train.per_stage, checkpointing=checkpointing)


def _dimensions(config: FinetuneConfig | DistillConfig, transformer: str, size: str) -> WanDimensions:
    """Of the file; of the size in the configuration where the file is not there yet."""
    info = Path(config.data.cache) / INFO
    text = CacheInfo.from_json(info.read_text(encoding="utf-8")).text_length if info.is_file() else 512
    if Path(transformer).exists():
        return transformer_dimensions(transformer, text=text)
    if size not in WAN_DIMENSIONS:
        raise ValueError(f"the size {size!r} of the model is none of {', '.join(WAN_DIMENSIONS)}")
    return WAN_DIMENSIONS[size]
