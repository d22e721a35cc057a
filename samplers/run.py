"""A pyramidal run in ComfyUI, and the checks before it starts."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Real
from typing import TYPE_CHECKING, Any

import comfy.samplers

from ..pyramid.schedules import TOLERANCE
from ..pyramid.stage_names import stage_name
from ..pyramid.stages import Stage
from ..pyramid.untrusted import shown
from .comfyui.checkpoint_metadata import check_spec
from .comfyui.conditioning import check_conds, check_finite_conds, check_widths
from .comfyui.model_objects import check_objects
from .comfyui.node_inputs import is_number
from .comfyui.stage_lora import check_lora_stages
from .comfyui.stage_model import check_context_windows, check_model
from .comfyui.stage_patches import check_patches
from .execution import Execution, Result, negative_model
from .progress import Progress
from .run_inputs import RunInputs
from .run_plan import RunPlan
from .start import Start, find_start
from .supported_samplers import check_sampler

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher


@dataclass(frozen=True)
class PyramidRun(RunInputs):
    """A run of a pyramid."""

    def sample(self, latent: dict, *, first: int | None = None, last: int | None = None) -> Result:
        """Run the stages ``first`` to ``last``.

        Args:
            latent: A LATENT at full resolution, or the output of an earlier run.
            first: Index of the first stage in running order; None for the one that fits the LATENT.
            last: Index of the last stage; None for the last that has steps. A run that then ends above level 0 is
                carried to full size.

        Raises:
            ValueError: The parts of the run do not fit together.
        """
        self._check()
        model, lenient = self.guider.model_patcher, self.follows_sampler
        start = find_start(model, self.noise, latent, self.spec, self.levels, first, lenient=lenient, down=self.down)
        running = self._running(start, last)
        self._check_conds(start)
        steps = [len(self.levels[stage.index]) - 1 for stage in running]
        check_sampler(self.sampler, self.spec, steps)
        plan = RunPlan.of(self, start, [stage.index for stage in running])
        with plan.reporting() as report:
            progress = Progress(model, plan.running, self.callback, report, plan.known_seconds)
            execution = Execution(self, start, latent, progress)
            end, ended = execution.stages(running), running[-1]
            natural = self.levels[ended.index][-1]
            if last is None and natural > TOLERANCE and ended.level > 0:
                end, ended = execution.at_full_size(end, natural, ended), start.stages[-1]
            plan.keep_times(progress.clock.seconds)
            return execution.result(end, ended, running)

    def _running(self, start: Start, last: int | None) -> tuple[Stage, ...]:
        """Return the stages that run: from the start to the one asked for, or to the last that has steps."""
        last = max(index for index, levels in enumerate(self.levels) if len(levels) > 1) if last is None else last
        if last < start.first:
            ends, starts = (stage_name(index, self.spec.number_of_stages) for index in (last, start.first))
            raise ValueError(f"the run would end with stage '{ends}' before it starts with '{starts}'; set a later end_stage")
        return start.stages[start.first : last + 1]

    def _check(self) -> None:
        negative = negative_model(self.guider)
        for model in (self.guider.model_patcher, *self.models.values(), *([] if negative is None else [negative])):
            check_model(model)
            check_spec(model, self.spec)
            check_lora_stages(model, self.spec.number_of_stages)
            if self.lift is not None:
                latent_format: Any = model.get_model_object("latent_format")
                self.lift.check(self.spec, latent_format.latent_channels)
        self._check_patches(negative)
        check_finite_conds(self.guider.original_conds)
        for model in (self.guider.model_patcher, *self.models.values()):
            check_widths(self.guider.original_conds, model)
        if self.cfgs:
            _check_takes_cfg(self.guider, self.cfgs)
        _check_cfg(self.guider)

    def _check_patches(self, negative: ModelPatcher | None) -> None:
        """Check that the MODEL of every stage with steps has the layers of the stage's patches."""
        for index in (index for index, levels in enumerate(self.levels) if len(levels) > 1):
            for model in (self.models.get(index, self.guider.model_patcher), *([] if negative is None else [negative])):
                check_patches(model, self.spec, [index])

    def _check_conds(self, start: Start) -> None:
        check_conds(self.guider.original_conds, start.full, start.stages)
        models = [self.guider.model_patcher, *self.models.values()]
        for model_options in (self.guider.model_options, *(model.model_options for model in models[1:])):
            check_context_windows(model_options, start.stages)
        for model in models:
            check_objects({"options": model.model_options, "wrappers": model.wrappers}, start.full, start.stages)


def _check_cfg(guider: Any) -> None:
    """Raise ValueError for a guider whose cfg is not a number; guiders of other packs may hold other values."""
    plain = type(guider).predict_noise is comfy.samplers.CFGGuider.predict_noise
    for name, cfg in vars(guider).items():
        if name.startswith("cfg") and not is_number(cfg) and (plain or isinstance(cfg, Real)):
            raise ValueError(f"the {name} of the GUIDER is {shown(cfg)}; expected a number such as 6")


def _check_takes_cfg(guider: Any, cfgs: Mapping[int, float]) -> None:
    """Raise ValueError for a guider whose cfg cannot be set to one number per stage."""
    try:
        inspect.signature(guider.set_cfg).bind(1.0)
    except (AttributeError, TypeError, ValueError):
        raise ValueError("this GUIDER has no single cfg that could change from stage to stage; leave cfg empty") from None
    plain = type(guider).predict_noise is comfy.samplers.CFGGuider.predict_noise
    if plain and "negative" not in guider.original_conds and any(cfg != 1 for cfg in cfgs.values()):
        raise ValueError("this GUIDER has no negative prompt, so it has no cfg; leave cfg empty, or use 'CFGGuider'")
