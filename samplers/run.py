"""One pyramidal run in the host: the loop is the core's, each stage is one ``guider.sample``."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import comfy.model_management
import comfy.patcher_extension
import comfy.sample
import comfy.utils
import latent_preview
import torch
from torch import Tensor

from ..pyramid.noise_pyramid import stage_seed, top_up_seed
from ..pyramid.sampling import sample_pyramid
from ..pyramid.stages import PyramidSpec, Stage
from .comfyui.checkpoint_metadata import check_spec
from .comfyui.conditioning import check_conds, stage_conds
from .comfyui.latent_tag import CLEAN, END, KEY, StageTag, tagged
from .comfyui.stage_model import bind_stage, check_model, check_no_context_windows
from .few_step import BATCH_INDEX
from .schedule import Levels
from .start import Start, find_start
from .supported_samplers import check_sampler


@dataclass(frozen=True)
class Result:
    """LATENTs: the video, the last step's prediction of it, and the last prediction of each stage that ran."""

    output: dict
    denoised: dict
    drafts: list[dict]


@dataclass(frozen=True)
class PyramidRun:
    """What a run is made of: the host's parts as they come over the wires, with an unbound model in the guider.

    levels: natural levels of each stage in running order, empty for those left out. cfgs, models: per stage index, where
    they differ from the guider's own.
    """

    guider: Any
    noise: Any
    sampler: Any
    levels: Levels
    spec: PyramidSpec
    cfgs: Mapping[int, float] = field(default_factory=dict)
    models: Mapping[int, Any] = field(default_factory=dict)

    def sample(self, latent: dict, *, first: int | None = None, last: int | None = None) -> Result:
        """Runs the stages ``first`` to ``last`` (indices in running order); ``latent`` is a LATENT at full resolution, or
        what an earlier run ended with."""
        self._check()
        start = find_start(self.guider.model_patcher, self.noise, latent, self.spec, self.levels, first)
        last = len(start.stages) - 1 if last is None else last
        if last < start.first:
            raise ValueError(f"the run would end with stage {last} before it starts with stage {start.first}")
        self._check_conds(start)
        running = start.stages[start.first : last + 1]
        steps = [max(0, len(self.levels[stage.index]) - 1) for stage in running]
        check_sampler(self.sampler, self.spec, steps)
        progress = _Progress(self.guider.model_patcher, [stage.index for stage in running], steps)
        end = sample_pyramid(
            lambda signal, noise, stage: self._run_stage(signal, noise, stage, progress, latent.get("batch_index")),
            start.noises[: len(running)],
            running,
            signal=start.signal,
            previous=start.previous,
            top_up=lambda stage: self._top_up(stage, start.noises[0], latent.get("batch_index")),
        )
        return self._result(latent, start, running, end, progress)

    def _run_stage(self, signal: Tensor, noise: Tensor, stage: Stage, progress: _Progress, batch_index: Any) -> Tensor:
        comfy.model_management.throw_exception_if_processing_interrupted()
        sigmas = torch.tensor([stage.reference_sigma(natural) for natural in self.levels[stage.index]])
        guider = self._stage_guider(stage, batch_index)
        end = guider.sample(
            noise,
            signal,
            self.sampler,
            sigmas,
            callback=progress.callback(stage),
            disable_pbar=not comfy.utils.PROGRESS_BAR_ENABLED,
            seed=stage_seed(self.noise.seed, stage.index),
        )
        progress.stage_done(stage, guider.model_patcher)
        return end.to(comfy.model_management.intermediate_device())

    def _stage_guider(self, stage: Stage, batch_index: Any) -> Any:
        """A shallow copy of the GUIDER, of any pack, with its own clone of the stage's model and its own conds."""
        base, own = self.guider, copy.copy(self.guider)
        own.model_patcher = bind_stage(self.models.get(stage.index, base.model_patcher), stage, self.spec.number_of_stages)
        if (negative := _model_of_the_negative(base)) is not None:
            own.uncond_model_patcher = bind_stage(negative, stage, self.spec.number_of_stages)
        options = own.model_patcher.model_options
        if base.model_options is not base.model_patcher.model_options:  # somebody gave the guider options of its own
            options = comfy.patcher_extension.merge_nested_dicts(options, base.model_options)
        if batch_index is not None:
            transformer = {**options.get("transformer_options", {}), BATCH_INDEX: batch_index}
            options = {**options, "transformer_options": transformer}
        own.model_options = own.model_patcher.model_options = options
        own.original_conds = stage_conds(base.original_conds, stage.shape.frames, self.spec.downsample_axes[stage.index :])
        if stage.index in self.cfgs:
            own.set_cfg(self.cfgs[stage.index])
        return own

    def _top_up(self, stage: Stage, like: Tensor, batch_index: Any) -> Tensor:
        empty = torch.zeros(*like.shape[:2], *stage.shape)
        seed = top_up_seed(stage_seed(self.noise.seed, stage.index))
        return comfy.sample.prepare_noise(empty, seed, batch_index)

    def _check(self) -> None:
        negative = _model_of_the_negative(self.guider)
        for model in (self.guider.model_patcher, *self.models.values(), *([] if negative is None else [negative])):
            check_model(model)
            check_spec(model, self.spec)
        if self.cfgs and not hasattr(self.guider, "cfg"):
            raise ValueError("this GUIDER has no single cfg that could change from stage to stage; leave cfg empty")

    def _check_conds(self, start: Start) -> None:
        check_conds(self.guider.original_conds, start.full, start.stages)
        for model_options in (self.guider.model_options, *(model.model_options for model in self.models.values())):
            check_no_context_windows(model_options, start.stages)

    def _result(self, latent: dict, start: Start, running: Sequence[Stage], end: Tensor, progress: _Progress) -> Result:
        def pack(samples: Tensor, stage: Stage, state: str) -> dict:
            packed = {**_without_size_notes(latent), "samples": samples}
            if stage.level == 0:
                return packed
            return tagged(packed, StageTag(self.spec, stage.index, start.full, state))

        drafts = [pack(progress.clean[stage.index], stage, CLEAN) for stage in running if stage.index in progress.clean]
        output = pack(end, running[-1], END)
        denoised = drafts[-1] if running[-1].index in progress.clean else output
        return Result(output, denoised, drafts)


def _model_of_the_negative(guider: Any) -> Any:
    """The second model of the guider that newer hosts have for two; None for every other guider."""
    return getattr(guider, "uncond_model_patcher", None)


class _Progress:
    """One progress bar over all stages, previews, and the last clean prediction of each stage.

    The host's callback is made once, because a preview model may be loaded with it.
    """

    def __init__(self, model: Any, indices: Sequence[int], steps: Sequence[int]):
        self.clean: dict[int, Tensor] = {}
        self._latest: dict[str, Tensor] = {}
        self._steps = dict(zip(indices, steps, strict=True))
        self._comfyui = latent_preview.prepare_callback(model, sum(steps), self._latest)

    def callback(self, stage: Stage) -> Callable[[int, Tensor, Tensor, int], None]:
        offset = sum(count for index, count in self._steps.items() if index < stage.index)
        own, total = self._steps[stage.index], sum(self._steps.values())

        def step_done(step: int, denoised: Tensor, x: Tensor, _total: int) -> None:
            self._comfyui(offset + min(step, own - 1), denoised, x, total)

        return step_done

    def stage_done(self, stage: Stage, model: Any) -> None:
        """Keeps the stage's last clean prediction, as the VAE wants it."""
        if "x0" in self._latest:
            self.clean[stage.index] = model.model.process_latent_out(self._latest.pop("x0").cpu())


def _without_size_notes(latent: dict) -> dict:
    """Keys of a LATENT that still hold for another one; newer hosts note on empty latents how to resize them."""
    dropped = (KEY, "downscale_ratio_spacial", "downscale_ratio_temporal")
    return {key: value for key, value in latent.items() if key not in dropped}
