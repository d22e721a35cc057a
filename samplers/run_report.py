"""Describe a run on its node: its stages with sizes and steps, its cost, its settings, and warnings about them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..pyramid.flops import WanDimensions, schedule_cost
from ..pyramid.latent_shape import LatentShape
from ..pyramid.schedules import TOLERANCE, merge_schedule
from ..pyramid.segments import NEARLY_NOISE
from ..pyramid.sizes import small_stage_note, stage_labels
from ..pyramid.stages import PyramidSpec
from .comfyui.checkpoint_metadata import distilled_for, expert_of, spec_trained_for
from .comfyui.latents import pixels_per_latent
from .comfyui.network_size import dimensions_of
from .supported_samplers import FEW_STEP

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher

IGNORES_LATENT = "the LATENT holds a video, but a run from pure noise (denoise 1) does not use it"

MAX_FEW_STEPS = 8
"""Steps up to which a run is one for step-distilled weights; stock Wan requires about 20 at least."""


@dataclass(frozen=True)
class PlannedStage:
    """A stage of a run.

    Attributes:
        index: Its index in running order.
        label: Its name and size, such as "low 416x240".
        tokens: Tokens that the network reads.
        steps: Number of its steps; 0 for a stage that is left out.
        tflops: TFLOPs of one forward pass of one video with one prompt.
        calls: Forward passes per step and video: 2 with classifier-free guidance, otherwise 1.
    """

    index: int
    label: str
    tokens: int
    steps: int
    tflops: float
    calls: int = 1

    @property
    def step_cost(self) -> float:
        """TFLOPs of one step of one video."""
        return self.tflops * self.calls

    @property
    def cost(self) -> float:
        """TFLOPs of all steps of one video."""
        return self.step_cost * self.steps


def plan(
    spec: PyramidSpec, full: LatentShape, steps: Sequence[int], *, pixels: int, dimensions: WanDimensions,
    cfgs: Mapping[int, float] | None = None,
) -> list[PlannedStage]:  # fmt: skip
    """Return all stages of a run in running order.

    Args:
        spec: The pyramid.
        full: Size of the full-resolution latent.
        steps: Steps of each stage; 0 for those that are left out.
        pixels: Pixels per latent on the height and width axes.
        dimensions: Sizes of the transformer.
        cfgs: cfg by stage index; 1 halves the cost of a step.
    """
    stages = []
    labels = stage_labels(spec, full, pixels=pixels)
    for cost in schedule_cost(spec, full, steps, dimensions):
        calls = 1 if cfgs is None or cfgs.get(cost.index, 1.0) == 1 else 2
        stages.append(PlannedStage(cost.index, labels[cost.index], cost.tokens, cost.steps, cost.forward_tflops, calls))
    return stages


def describe_run(stages: Sequence[PlannedStage]) -> str:
    """Return the stages that run, such as "low 416x240 · 10 steps; high 832x480 · 10 steps; 58 % of the operations"."""
    running = [stage for stage in stages if stage.steps]
    parts = [f"{stage.label} · {stage.steps} step{'s' * (stage.steps > 1)}" for stage in running]
    cost = sum(stage.steps * stage.tflops for stage in running)
    plain = sum(stage.steps for stage in running) * stages[-1].tflops
    return f"{'; '.join(parts)}; {100 * cost / plain:.0f} % of the operations of the plain run"


WAN_WIDTHS = {1536, 3072, 5120}
"""Widths of the transformers of Wan 1.3B, 5B and 14B."""


def note_on_sizes(spec: PyramidSpec, full: LatentShape, model: ModelPatcher) -> list[str]:
    """Return a sentence about a stage that is too small for stock Wan, if the MODEL is one of Wan's and there is such a stage.

    Args:
        spec: The pyramid.
        full: Size at full resolution.
        model: MODEL of the run.
    """
    if dimensions_of(model).dim not in WAN_WIDTHS or spec_trained_for(model) is not None:
        return []
    return small_stage_note(spec, full, pixels=pixels_per_latent(model))


def setting_warnings(
    model: ModelPatcher, spec: PyramidSpec, levels: Sequence[Sequence[float]], sampler: str | None, cfgs: Sequence[float],
    first_stage_model: ModelPatcher | None = None,
) -> list[str]:  # fmt: skip
    """Return sentences about settings that run but cannot give a good video together.

    Args:
        model: MODEL of the run.
        spec: The pyramid.
        levels: Natural levels of each stage; empty for the stages that are left out.
        sampler: Name of the sampler; None for one of another pack.
        cfgs: cfg of each stage; empty where the guider has none.
        first_stage_model: MODEL of the lowest stage, if it has one of its own.
    """
    warnings, curve = [], merge_schedule(levels)
    total, whole = len(curve) - 1, curve[0] >= NEARLY_NOISE and curve[-1] <= TOLERANCE
    guided = next((cfg for cfg in cfgs if cfg != 1), None)
    student = distilled_for(model)
    if student is not None:
        if guided is not None:
            warnings.append(f"{student[0]} was distilled to run with cfg 1, got {guided:g}")
        if not spec.for_stock_weights and sampler not in (FEW_STEP, None):
            warnings.append(f"{student[0]} was distilled for the sampler '{FEW_STEP}', got '{sampler}'")
    elif sampler == FEW_STEP and (guided is not None or total > MAX_FEW_STEPS):
        got = f"cfg {guided:g}" if guided is not None else f"{total} steps"
        warnings.append(f"'{FEW_STEP}' is for distilled models, few steps and cfg 1, got {got}; use euler for other models")
    elif guided is not None and whole and total <= MAX_FEW_STEPS:
        warnings.append(
            f"{total} steps with cfg {guided:g}: a step-distilled LoRA requires cfg 1, a model without one about 30 steps"
        )
    if first_stage_model is not None and (expert_of(model), expert_of(first_stage_model)) == ("high", "low"):
        warnings.append("the two experts look swapped: the high-noise model belongs in first_stage_model")
    return warnings
