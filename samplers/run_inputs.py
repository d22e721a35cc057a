"""The ComfyUI objects and settings that a run is made of."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..pyramid.stages import PyramidSpec
from .comfyui.conditioning import LatentDown
from .lift.video_lift import VideoLift
from .noise import Noise
from .progress import SamplerCallback
from .schedule import Levels

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher


@dataclass(frozen=True)
class RunInputs:
    """Hold the parts that a run is made of.

    Attributes:
        guider: GUIDER of any pack; its model must not be bound to a stage.
        noise: NOISE of the run.
        sampler: SAMPLER of every stage.
        levels: Natural levels of each stage in running order; empty for the stages that are left out.
        spec: The pyramid.
        cfgs: cfg by stage index, where it differs from the guider's.
        models: MODEL by stage index, where it differs from the guider's.
        lift: Maps between the latents of the large and the small video; None upsamples and averages.
        callback: Callback of the sampler that the run belongs to; None shows ComfyUI's progress bar.
        report: Shows a text about the run: a summary, and above it the step while it runs.
        notes: Further lines of the summary.
        follows_sampler: Whether the run belongs to a sampler of ComfyUI and takes whatever that takes: every size that
            halves, and empty latents at every level.
    """

    guider: Any
    noise: Noise
    sampler: Any
    levels: Levels
    spec: PyramidSpec
    cfgs: Mapping[int, float] = field(default_factory=dict)
    models: Mapping[int, ModelPatcher] = field(default_factory=dict)
    lift: VideoLift | None = None
    callback: SamplerCallback | None = None
    report: Callable[[str], None] | None = None
    notes: Sequence[str] = ()
    follows_sampler: bool = False

    @property
    def down(self) -> LatentDown | None:
        """The map of clean latents to the next coarser size; None averages them."""
        return None if self.lift is None else self.lift.down
