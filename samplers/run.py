"""One pyramidal run in ComfyUI: ``pyramid.sampling`` loops over the stages, and each stage is one ``guider.sample``."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import comfy.model_management
import comfy.patcher_extension
import comfy.utils
import torch
from torch import Tensor

from ..pyramid.latent_shape import LatentShape
from ..pyramid.noise_pyramid import stage_seed
from ..pyramid.sampling import sample_pyramid
from ..pyramid.schedules import TOLERANCE, join
from ..pyramid.segments import rise
from ..pyramid.stage_names import stage_name
from ..pyramid.stages import PyramidSpec, Stage
from .comfyui.checkpoint_metadata import check_spec
from .comfyui.conditioning import check_conds, stage_conds
from .comfyui.latent_tag import CLEAN, END, TAG_KEY, StageTag, tagged
from .comfyui.stage_model import GivenVideo, bind_stage, check_model, check_no_context_windows
from .given_region import GivenRegion
from .noise import BATCH_INDEX_KEY, Noise, top_up_noise
from .progress import Progress, SamplerCallback
from .schedule import Levels
from .start import Start, find_start
from .supported_samplers import check_sampler

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher


@dataclass(frozen=True)
class Result:
    """The LATENTs that a run ends with.

    Attributes:
        output: The video, or the output of the last stage that ran.
        denoised: The last step's prediction of the clean video.
        drafts: The last clean prediction of each stage that ran.
    """

    output: dict
    denoised: dict
    drafts: list[dict]


@dataclass(frozen=True)
class PyramidRun:
    """A run and the ComfyUI objects it is made of.

    Attributes:
        guider: GUIDER of any pack; its model must not be bound to a stage.
        noise: NOISE of the run.
        sampler: SAMPLER of every stage.
        levels: Natural levels of each stage in running order; empty for the stages that are left out.
        spec: The pyramid.
        cfgs: cfg by stage index, where it differs from the guider's.
        models: MODEL by stage index, where it differs from the guider's.
        callback: Callback of the sampler that the run belongs to; None shows ComfyUI's progress bar.
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
    callback: SamplerCallback | None = None
    follows_sampler: bool = False

    def sample(self, latent: dict, *, first: int | None = None, last: int | None = None) -> Result:
        """Run the stages ``first`` to ``last``.

        Args:
            latent: A LATENT at full resolution, or the output of an earlier run.
            first: Index of the first stage in running order; None for the one that fits the LATENT.
            last: Index of the last stage; None for the finest.

        Raises:
            ValueError: The parts of the run do not fit together.
        """
        self._check()
        start = find_start(
            self.guider.model_patcher, self.noise, latent, self.spec, self.levels, first, lenient=self.follows_sampler
        )
        running = self._running(start, last)
        self._check_conds(start)
        steps = [len(self.levels[stage.index]) - 1 for stage in running]
        check_sampler(self.sampler, self.spec, steps)
        progress = Progress(self.guider.model_patcher, [stage.index for stage in running], steps, self.callback)
        batch_index = latent.get("batch_index")

        def top_up(stage: Stage) -> Tensor:
            return top_up_noise(self.noise.seed, stage, start.noises[0], batch_index)

        end = sample_pyramid(
            lambda signal, noise, stage: self._run_stage(signal, noise, stage, start, progress, batch_index),
            start.noises[: len(running)],
            running,
            signal=start.signal,
            previous=start.previous,
            top_up=top_up,
        )
        if last is None and (natural := self.levels[running[-1].index][-1]) > TOLERANCE:
            end = self._at_full_size(end, natural, running[-1], start, top_up)
            return self._result(latent, start, running, (end, start.stages[-1]), progress)
        return self._result(latent, start, running, (end, running[-1]), progress)

    def _running(self, start: Start, last: int | None) -> tuple[Stage, ...]:
        """Return the stages that run: from the start to the one asked for, or to the last that has steps."""
        with_steps = max(index for index, levels in enumerate(self.levels) if len(levels) > 1)
        last = with_steps if last is None else last
        if last < start.first:
            ends, starts = (stage_name(index, self.spec.number_of_stages) for index in (last, start.first))
            raise ValueError(f"the run would end with stage '{ends}' before it starts with '{starts}'; set a later end_stage")
        return start.stages[start.first : last + 1]

    def _run_stage(
        self, signal: Tensor, noise: Tensor, stage: Stage, start: Start, progress: Progress, batch_index: Any
    ) -> Tensor:
        comfy.model_management.throw_exception_if_processing_interrupted()
        sigmas = torch.tensor([stage.reference_sigma(natural) for natural in self.levels[stage.index]])
        region = None if start.region is None else start.region.at(stage, start.stages, self.spec)
        given = self._given(signal, noise, stage, start, region)
        guider = self._stage_guider(stage, start.full, batch_index, given)
        end = guider.sample(
            noise if region is None else region.noise,
            signal if region is None else region.video,
            self.sampler,
            sigmas,
            denoise_mask=None if region is None else region.mask,
            callback=progress.callback(stage),
            disable_pbar=not comfy.utils.PROGRESS_BAR_ENABLED,
            seed=stage_seed(self.noise.seed, stage.index),
        )
        progress.stage_done(stage, guider.model_patcher)
        if region is not None and stage.index in progress.clean:
            clean, mask = progress.clean[stage.index], region.mask.to(progress.clean[stage.index])
            progress.clean[stage.index] = clean * mask + region.video.to(clean) * (1 - mask)
        return end.to(comfy.model_management.intermediate_device())

    def _given(
        self, signal: Tensor, noise: Tensor, stage: Stage, start: Start, region: GivenRegion | None
    ) -> GivenVideo | None:
        """Return how the stage starts where a mask keeps a part of the video."""
        if region is None:
            return None
        if stage.index == start.first and start.previous is None:
            return GivenVideo(region.mask)
        return GivenVideo(region.mask, self._in_model_scale(signal), noise)

    def _in_model_scale(self, samples: Tensor) -> Tensor:
        """Return samples in the scale of the network; ComfyUI leaves empty ones as they are."""
        return self.guider.model_patcher.model.process_latent_in(samples) if torch.count_nonzero(samples) else samples

    def _at_full_size(
        self, end: Tensor, natural: float, stage: Stage, start: Start, top_up: Callable[[Stage], Tensor]
    ) -> Tensor:
        """Return a run that ended above level 0 at full size, divided by ``1 - natural`` as samplers of ComfyUI expect it."""
        model = self.guider.model_patcher.model
        finer = start.noises[stage.index + 1 - start.first :]
        full = rise(self._in_model_scale(end), natural, start.stages[stage.index :], finer, top_up=top_up)
        if start.region is not None:
            mask = start.region.mask.to(full)
            given = self._in_model_scale(start.region.video) + natural / (1 - natural) * start.region.noise
            full = full * mask + given.to(full) * (1 - mask)
        return model.process_latent_out(full)

    def _stage_guider(self, stage: Stage, full: LatentShape, batch_index: Any, given: GivenVideo | None) -> Any:
        """Return a shallow copy of the GUIDER with the stage's model and conds."""
        base, bound = self.guider, copy.copy(self.guider)
        bind = functools.partial(
            bind_stage, stage=stage, number_of_stages=self.spec.number_of_stages, curve=join(self.levels), given=given
        )
        bound.model_patcher = bind(self.models.get(stage.index, base.model_patcher))
        if (negative := _negative_model(base)) is not None:
            bound.uncond_model_patcher = bind(negative)
        options = bound.model_patcher.model_options
        if base.model_options is not base.model_patcher.model_options:  # another node gave the guider separate options
            options = comfy.patcher_extension.merge_nested_dicts(options, base.model_options)
        if batch_index is not None:
            transformer = {**options.get("transformer_options", {}), BATCH_INDEX_KEY: batch_index}
            options = {**options, "transformer_options": transformer}
        bound.model_options = bound.model_patcher.model_options = options
        bound.original_conds = stage_conds(base.original_conds, full, stage, self.spec.downsample_axes[stage.index :])
        if stage.index in self.cfgs:
            bound.set_cfg(self.cfgs[stage.index])
        return bound

    def _check(self) -> None:
        negative = _negative_model(self.guider)
        for model in (self.guider.model_patcher, *self.models.values(), *([] if negative is None else [negative])):
            check_model(model)
            check_spec(model, self.spec)
        if self.cfgs and not hasattr(self.guider, "cfg"):
            raise ValueError("this GUIDER has no single cfg that could change from stage to stage; leave cfg empty")

    def _check_conds(self, start: Start) -> None:
        check_conds(self.guider.original_conds, start.full, start.stages)
        for model_options in (self.guider.model_options, *(model.model_options for model in self.models.values())):
            check_no_context_windows(model_options, start.stages)

    def _result(
        self, latent: dict, start: Start, running: Sequence[Stage], end: tuple[Tensor, Stage], progress: Progress
    ) -> Result:
        given = None if start.region is None else start.region.video

        def pack(samples: Tensor, stage: Stage, state: str) -> dict:
            packed = {**_without_size_notes(latent), "samples": samples}
            if stage.level == 0:
                return packed
            return tagged(packed, StageTag(self.spec, stage.index, start.full, state, given))

        drafts = [pack(progress.clean[stage.index], stage, CLEAN) for stage in running if stage.index in progress.clean]
        output = pack(*end, END)
        denoised = drafts[-1] if running[-1].index in progress.clean else output
        return Result(output, denoised, drafts)


def _negative_model(guider: Any) -> ModelPatcher | None:
    """Return the second model of the guiders of newer ComfyUI versions that use two; None for every other guider."""
    return getattr(guider, "uncond_model_patcher", None)


def _without_size_notes(latent: dict) -> dict:
    """Return the keys of a LATENT that hold at any size; newer ComfyUI notes on empty latents how to resize them."""
    dropped = (TAG_KEY, "downscale_ratio_spacial", "downscale_ratio_temporal")
    return {key: value for key, value in latent.items() if key not in dropped}
