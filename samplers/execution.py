"""The stages of one run in ComfyUI: each stage is one ``guider.sample`` of a model that is bound to it."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import comfy.model_management
import comfy.patcher_extension
import comfy.utils
import torch
from torch import Tensor

from ..pyramid.noise_pyramid import stage_seed
from ..pyramid.sampling import sample_pyramid
from ..pyramid.schedules import merge_schedule
from ..pyramid.segments import carry_to_full_size
from ..pyramid.stage_names import stage_name
from ..pyramid.stages import Stage
from .comfyui.conditioning import stage_conds
from .comfyui.finite import check_prediction
from .comfyui.latent_tag import CLEAN, END, TAG_KEY, StageTag, tagged
from .comfyui.latents import SIZE_NOTES
from .comfyui.model_objects import stage_objects
from .comfyui.stage_model import KeptVideo, bind_stage
from .comfyui.stage_patches import share_patches
from .comfyui.step_memory import Cells, StepMemory
from .kept_region import KeptRegion
from .noise import BATCH_INDEX_KEY, top_up_noise
from .progress import Progress
from .run_inputs import RunInputs
from .start import Start

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
class Execution:
    """A run under way.

    Attributes:
        run: What runs.
        start: Where it starts.
        latent: The LATENT it was given.
        progress: Progress bar and clean predictions.
        memory: What other nodes remember from step to step.
    """

    run: RunInputs
    start: Start
    latent: dict
    progress: Progress
    memory: StepMemory = field(default_factory=StepMemory)

    def stages(self, running: Sequence[Stage]) -> Tensor:
        """Run neighbouring stages and return the output of the last, in the scale of the VAE."""
        try:
            return sample_pyramid(
                self._run_stage,
                self.start.noises[: len(running)],
                running,
                signal=self.start.signal,
                previous=self.start.previous,
                top_up=self._top_up,
                correction=self._correction,
            )
        except BaseException:
            self.memory.forget()
            raise
        finally:
            self.memory.end_run()

    def at_full_size(self, end: Tensor, natural: float, stage: Stage) -> Tensor:
        """Return a stage's output at full size, at the natural level that the run ended at.

        Args:
            end: The stage's output, divided by ``1 - sigma``.
            natural: Natural level of ``end``, above 0.
            stage: The stage.

        Returns:
            The full-size sample divided by ``1 - natural``, as ComfyUI's samplers pass it on.
        """
        model, start = self._model, self.start

        def correction(coarse: Stage, fine: Stage) -> Tensor | None:
            if coarse is not stage or (added := self._correction(coarse, fine)) is None:
                return None
            return model.process_latent_in(added) - model.process_latent_in(torch.zeros_like(added))

        finer = start.noises[stage.index + 1 - start.first :]
        signal, stages = self._in_model_scale(end), [stage, *start.stages[stage.index + 1 :]]
        full = carry_to_full_size(signal, natural, stages, finer, top_up=self._top_up, correction=correction)
        if start.region is not None:
            given = self._in_model_scale(start.region.video) + natural / (1 - natural) * start.region.noise
            full = torch.where(start.region.mask.to(full) == 0, given.to(full), full)
        return model.process_latent_out(full)

    def result(self, end: Tensor, ended: Stage, running: Sequence[Stage]) -> Result:
        """Return the LATENTs of a run whose stages ``running`` ended with ``end``, which has the size of ``ended``."""
        clean = self.progress.clean
        drafts = [self._packed(clean[stage.index], stage, CLEAN) for stage in running if stage.index in clean]
        output = self._packed(end, ended, END)
        return Result(output, drafts[-1] if running[-1].index in clean else output, drafts)

    def _packed(self, samples: Tensor, stage: Stage, state: str) -> dict:
        packed = {**_without_size_notes(self.latent), "samples": samples}
        if stage.level == 0:
            return packed
        given = None if self.start.region is None else self.start.region.video
        clean = self.progress.clean.get(stage.index) if state == END else None
        return tagged(packed, StageTag(self.run.spec, stage.index, self.start.full, state, given, clean))

    def _run_stage(self, signal: Tensor, noise: Tensor, stage: Stage) -> Tensor:
        try:
            return self._sample_stage(signal, noise, stage)
        except RuntimeError:  # PyTorch's, for tensors whose sizes do not fit together
            if self.progress.has_stepped or not self.memory.forget():
                raise
            return self._sample_stage(signal, noise, stage)

    def _sample_stage(self, signal: Tensor, noise: Tensor, stage: Stage) -> Tensor:
        comfy.model_management.throw_exception_if_processing_interrupted()
        run, region = self.run, self._region(stage)
        sigmas = torch.tensor([stage.reference_sigma(natural) for natural in run.levels[stage.index]])
        guider, copied = self._stage_guider(stage, self._given(signal, noise, stage, region))
        with self.memory.during_stage(*self._remembering(guider), stage, copied):
            end = guider.sample(
                noise if region is None else region.noise,
                signal if region is None else region.video,
                run.sampler,
                sigmas,
                denoise_mask=None if region is None else region.mask,
                callback=self.progress.callback(stage, guider.model_patcher, self._enlarge(stage)),
                disable_pbar=not comfy.utils.PROGRESS_BAR_ENABLED,
                seed=stage_seed(run.noise.seed, stage.index),
            )
        check_prediction(guider.model_patcher, end, f"stage '{stage_name(stage.index, run.spec.number_of_stages)}'")
        self.progress.stage_done(stage, guider.model_patcher)
        return end.to(comfy.model_management.intermediate_device())

    def _enlarge(self, stage: Stage) -> Callable[[Tensor], Tensor] | None:
        """Return how a stage's clean predictions come to full size for a sampler whose run ends in it; None elsewhere.

        Such a sampler returns the last of them beside the full-size latent.
        """
        if not (self.run.follows_sampler and self.progress.ends_in(stage)) or stage.level == 0:
            return None

        def at_full_size(clean: Tensor) -> Tensor:
            for fine in self.start.stages[stage.index + 1 :]:
                assert fine.from_coarser is not None  # only the first stage of a pyramid has none
                clean = fine.from_coarser.up(clean)
            return clean

        return at_full_size

    def _region(self, stage: Stage) -> KeptRegion | None:
        """Return the part of the video that a mask keeps, at the size of a stage."""
        if self.start.region is None:
            return None
        return self.start.region.at(stage, self.start.stages, self.run.spec, self.run.down)

    def _given(self, signal: Tensor, noise: Tensor, stage: Stage, region: KeptRegion | None) -> KeptVideo | None:
        """Return how the stage starts where a mask keeps a part of the video."""
        if region is None:
            return None
        if stage.index == self.start.first and self.start.previous is None:
            return KeptVideo(region.mask)
        return KeptVideo(region.mask, self._in_model_scale(signal), noise)

    def _stage_guider(self, stage: Stage, given: KeptVideo | None) -> tuple[Any, list[Cells]]:
        """Return a shallow copy of the GUIDER with the stage's model and conds, and the variables that functions assign."""
        run, base, bound = self.run, self.run.guider, copy.copy(self.run.guider)
        count, axes = run.spec.number_of_stages, run.spec.latent_axes[stage.index :]
        bind = functools.partial(bind_stage, stage=stage, number_of_stages=count, curve=merge_schedule(run.levels), given=given)
        bound.model_patcher = bind(run.models.get(stage.index, base.model_patcher))
        if (negative := negative_model(base)) is not None:
            bound.uncond_model_patcher = bind(negative)
            share_patches(bound.model_patcher, bound.uncond_model_patcher, stage)
        options = bound.model_patcher.model_options
        if base.model_options is not base.model_patcher.model_options:  # another node gave the guider separate options
            options = comfy.patcher_extension.merge_nested_dicts(options, base.model_options)
        if (batch_index := self.latent.get("batch_index")) is not None:
            transformer = {**options.get("transformer_options", {}), BATCH_INDEX_KEY: batch_index}
            options = {**options, "transformer_options": transformer}
        bound.model_patcher.model_options = options
        copied = [cells for model in _models(bound) for cells in self._fit_objects(model, axes)]
        bound.model_options = bound.model_patcher.model_options
        bound.original_conds = stage_conds(base.original_conds, self.start.full, stage, axes, run.down)
        if stage.index in run.cfgs:
            bound.set_cfg(run.cfgs[stage.index])
        return bound, copied

    def _fit_objects(self, model: ModelPatcher, downsample_axes: Sequence[str]) -> list[Cells]:
        """Exchange what other nodes attached to a stage's model for copies of the stage's size."""
        attached = {"options": model.model_options, "wrappers": model.wrappers}
        fitted, copied = stage_objects(attached, self.start.full, downsample_axes, self.run.down)
        model.model_options, model.wrappers = fitted["options"], fitted["wrappers"]
        return copied

    def _remembering(self, guider: Any) -> tuple[list, list]:
        """Return what can remember something from step to step: options and wrappers, and networks."""
        models = _models(guider)
        networks: list[Any] = [model.model for model in models]
        return [[model.model_options, model.wrappers] for model in models], [base.diffusion_model for base in networks]

    def _top_up(self, stage: Stage) -> Tensor:
        return top_up_noise(self.run.noise.seed, stage, self.start.noises[0], self.latent.get("batch_index"))

    def _correction(self, coarse: Stage, fine: Stage) -> Tensor | None:
        """Return what the lift adds at the start of a finer stage, in the scale of the VAE."""
        clean = self.progress.clean.get(coarse.index, self.start.clean)
        if self.run.lift is None or clean is None:
            return None
        lacking = self.start.lacking(coarse, self.run.levels[coarse.index][-1])
        return lacking * self.run.lift.correction(clean.float(), fine, self.run.spec.downsample_axes[fine.index - 1])

    def _in_model_scale(self, samples: Tensor) -> Tensor:
        """Return samples in the scale of the network; ComfyUI leaves empty ones as they are."""
        return self._model.process_latent_in(samples) if torch.count_nonzero(samples) else samples

    @property
    def _model(self) -> Any:
        return self.run.guider.model_patcher.model


def _models(guider: Any) -> list[ModelPatcher]:
    """Return the models of a GUIDER."""
    negative = negative_model(guider)
    return [guider.model_patcher, *([] if negative is None else [negative])]


def negative_model(guider: Any) -> ModelPatcher | None:
    """Return the second model of the guiders of newer ComfyUI versions that use two; None for every other guider."""
    return getattr(guider, "uncond_model_patcher", None)


def _without_size_notes(latent: dict) -> dict:
    """Return the keys of a LATENT that hold at any size; newer ComfyUI notes on empty latents how to resize them."""
    dropped = (TAG_KEY, *SIZE_NOTES)
    return {key: value for key, value in latent.items() if key not in dropped}
