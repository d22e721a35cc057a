"""One progress bar with previews over all stages of a run, and a line about the step and the time left.

The bar counts operations, not steps: a step at low resolution moves it by what that step costs.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import latent_preview
from torch import Tensor

from ..pyramid.stage_names import stage_name
from ..pyramid.stages import Stage
from .comfyui.finite import check_prediction
from .run_report import PlannedStage
from .time_left import StepClock, duration_text

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher


SamplerCallback = Callable[[int, Tensor, Tensor, int], None]
"""Called after each step with its number, the clean prediction, the sample and the number of all steps."""

BAR = 1000
"""Length of the bar for a whole run."""


class Progress:
    """The progress of a run, and the last clean prediction of each stage.

    ComfyUI's callback is made once per run, because making it may load a preview model.

    Attributes:
        clean: Last clean prediction by stage index, in the scale of the VAE.
        clock: Times of the steps.
    """

    def __init__(
        self,
        model: ModelPatcher,
        stages: Sequence[PlannedStage],
        callback: SamplerCallback | None = None,
        report: Callable[[str], None] | None = None,
        known: Callable[[PlannedStage], float | None] | None = None,
    ):
        """Prepare the bar.

        Args:
            model: MODEL of the run.
            stages: The stages that run.
            callback: Callback of the sampler that the run belongs to; None makes ComfyUI's own.
            report: Shows a line after each step.
            known: Returns the seconds of a step of a stage if they were measured before.
        """
        self.clean: dict[int, Tensor] = {}
        self._latest: dict[str, Tensor] = {}
        self._stages = {stage.index: stage for stage in stages}
        self._show = report
        self._weighted = callback is None or _is_comfyuis(callback)
        self._report = callback or latent_preview.prepare_callback(model, BAR, self._latest)
        self.clock = StepClock(stages, known)

    def ends_in(self, stage: Stage) -> bool:
        """Return whether the stage is the last that runs."""
        return stage.index == max(self._stages)

    def callback(self, stage: Stage, model: ModelPatcher, enlarge: Callable[[Tensor], Tensor] | None = None) -> SamplerCallback:
        """Return the callback for the sampler of a stage; it counts over the whole run.

        Args:
            stage: The stage.
            model: MODEL of the stage; the callback raises ValueError for a prediction with NaN or infinity.
            enlarge: Brings clean predictions to the size that they are shown at; None shows them as they are.
        """
        planned = self._stages[stage.index]
        self.clock.stage_starts(stage.index, time.perf_counter())
        self._tell(planned, 0)

        def step_done(step: int, denoised: Tensor, x: Tensor, _total: int) -> None:
            check_prediction(model, denoised, f"stage '{_name(stage)}'")
            self._latest["x0"] = denoised
            shown = denoised if enlarge is None else enlarge(denoised)
            done = min(step + 1, planned.steps)
            self.clock.step_done(stage.index, done, time.perf_counter())
            position, total = self._position(planned, done)
            self._report(position - 1, shown, x, total)
            self._tell(planned, done)

        return step_done

    @property
    def has_stepped(self) -> bool:
        """Return whether the stage that runs has finished a step."""
        return "x0" in self._latest

    def stage_done(self, stage: Stage, model: ModelPatcher) -> None:
        """Keep the stage's last clean prediction, scaled for the VAE."""
        if "x0" in self._latest:
            self.clean[stage.index] = model.model.process_latent_out(self._latest.pop("x0").cpu())

    def _position(self, stage: PlannedStage, done: int) -> tuple[int, int]:
        """Return the place and the length of the bar after ``done`` steps of a stage.

        Callbacks of other packs may look the step up in their own lists, so they get steps.
        """
        before = [earlier for index, earlier in self._stages.items() if index < stage.index]
        if not self._weighted:
            return sum(each.steps for each in before) + done, sum(each.steps for each in self._stages.values())
        cost = sum(each.cost for each in before) + done * stage.step_cost
        whole = sum(each.cost for each in self._stages.values())
        return max(1, math.floor(BAR * cost / whole + 1e-6)), BAR

    def _tell(self, stage: PlannedStage, done: int) -> None:
        """Show the step of the stage and the time left, such as "high 832x480 · 3/10 · about 55 s left"."""
        if self._show is None:
            return
        left = self.clock.seconds_left(stage.index, done)
        self._show(f"{stage.label} · {done}/{stage.steps}" + (f" · about {duration_text(left)} left" if left else ""))


def _is_comfyuis(callback: SamplerCallback) -> bool:
    """Return whether a callback is one that ComfyUI's samplers make; it only counts."""
    return getattr(callback, "__module__", "") == latent_preview.__name__


def _name(stage: Stage) -> str:
    return stage_name(stage.index, stage.index + stage.level + 1)
