"""What a finetuning run will cost, before it is started."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..flops import WAN_DIMENSIONS, WanDimensions
from . import costs
from .cache_files import INFO, CacheInfo
from .finetune import FinetuneConfig
from .networks import transformer_dimensions


@dataclass(frozen=True)
class StepEstimate:
    """One optimiser step of one process.

    stages: in running order. plain_tflops: as many samples, all at full size. trained: number of weights. state_gib: weights,
    gradients, optimiser, averages and frozen networks, all in one process. activation_gib: about what a pass keeps.
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
                f"as many samples at full size: {self.plain_tflops:.4g} TFLOPs; the pyramid takes "
                f"{self.tflops / self.plain_tflops:.0%} of that",
                f"memory of one process, estimated: {self.state_gib:.1f} GiB of weights and optimiser "
                f"({self.trained / 1e6:.4g} million trained; parallel 'fsdp2' divides it among the processes) and "
                f"{self.activation_gib:.1f} GiB of activations",
            ]
        )


def estimate_step(config: FinetuneConfig) -> StepEstimate:
    """ValueError in plain words if neither the transformer's file nor its size is known."""
    dimensions = _dimensions(config)
    spec, lora = config.pyramid.spec(), config.adapter.kind == "lora"
    full = config.video.latent
    levels = [stage.level for stage in spec.stages(full)]
    teacher = [float(bool(config.losses.teacher) and level in config.losses.teacher_levels) for level in levels]
    work = costs.Work(1.0, teacher, lora, config.model.gradient_checkpointing)
    samples = config.train.per_stage * config.train.accumulation
    stages = costs.step_costs(spec, full, dimensions, work, samples=samples)
    everything = costs.parameters(dimensions)
    copies = spec.number_of_stages if config.adapter.scope == "per-stage" else 1
    trained = copies * costs.lora_parameters(dimensions, config.adapter.rank, config.adapter.targets) if lora else everything
    frozen = everything if lora else everything * bool(config.losses.teacher)
    return StepEstimate(
        stages=stages,
        plain_tflops=costs.plain_tflops(stages, dimensions, work),
        trained=trained,
        state_gib=costs.state_gib(trained, frozen, ema=bool(config.optimizer.ema)),
        activation_gib=costs.activation_gib(
            stages[-1].tokens, dimensions, config.train.per_stage, checkpointing=config.model.gradient_checkpointing
        ),
    )


def _dimensions(config: FinetuneConfig) -> WanDimensions:
    """Of the file; of the size in the configuration where the file is not there yet."""
    info = Path(config.data.cache) / INFO
    text = CacheInfo.from_json(info.read_text(encoding="utf-8")).text_length if info.is_file() else 512
    if Path(config.model.transformer).exists():
        return transformer_dimensions(config.model.transformer, text=text)
    if config.model.size not in WAN_DIMENSIONS:
        raise ValueError(f"model.size {config.model.size!r} is none of {', '.join(WAN_DIMENSIONS)}")
    return WAN_DIMENSIONS[config.model.size]
