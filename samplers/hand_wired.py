"""The parts of a pyramidal run, for graphs wired by hand around ComfyUI's own sampler.

For each stage a model is bound to it and ComfyUI's sampler runs it at the stage's sigmas; transitions connect the stages. The
result equals that of the sampler node.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import torch
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ..pyramid.latent_shape import LatentShape
from ..pyramid.noise_pyramid import derive_seed, noise_pyramid, stage_seed
from ..pyramid.sampling import into_stage
from ..pyramid.stage_names import stage_index, stage_name
from ..pyramid.stages import PyramidSpec, Stage
from ..pyramid.transition import renoise
from .comfyui.checkpoint_metadata import check_spec
from .comfyui.conditioning import LatentDown, check_conds, check_finite_conds, check_widths, stage_conds
from .comfyui.finite import check_prediction, is_finite
from .comfyui.latent_tag import CLEAN, START, StageTag, check_same_pyramid, tag_of, tagged
from .comfyui.latents import SIZE_NOTES, check_latent, full_size, spec_at
from .comfyui.model_objects import check_objects, stage_objects
from .comfyui.node_inputs import check_latent_input
from .comfyui.stage_lora import check_lora_stages
from .comfyui.stage_model import bind_stage, check_context_windows, check_model, sized, stage_of
from .comfyui.stage_patches import check_patches, with_shared_patches
from .comfyui.stage_wrappers import add_outermost_wrapper
from .comfyui.step_memory import StepMemory
from .execution import negative_model
from .lift.video_lift import VideoLift
from .noise import DerivedNoise, Noise, full_noise, seeded_noise, top_up_noise
from .schedule import from_sigmas
from .supported_samplers import check_sampler

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher

TOLERANCE = 1e-4
"""Allowed difference between SIGMAS and the ends of a stage."""


def stage_start(noise: Noise, latent: dict, spec: PyramidSpec) -> tuple[dict, DerivedNoise]:
    """Return the first stage's empty LATENT and its NOISE.

    Args:
        noise: NOISE of the run.
        latent: An empty LATENT at full resolution.
        spec: The pyramid.

    Raises:
        ValueError: The LATENT does not fit the pyramid, or belongs to a stage.
    """
    samples = latent["samples"]
    if tag_of(latent) is not None:
        raise ValueError("this LATENT is already a stage output; a run starts from a full-resolution LATENT")
    if latent.get("noise_mask") is not None:
        raise ValueError("the LATENT has a noise mask, which stages wired by hand do not follow; use 'Pyramidal Sampler'")
    spec = spec_at(spec, latent)
    check_latent(samples, spec)
    full = LatentShape(*samples.shape[2:])
    stages = spec.stages(full)
    coarse = torch.zeros(*samples.shape[:2], *stages[0].shape, device=samples.device)

    def draw(stage_latent: dict) -> Tensor:
        return noise_pyramid(_new_noise(noise, stage_latent, (*samples.shape[:2], *full)), stages)[0]

    kept = {key: value for key, value in latent.items() if key not in SIZE_NOTES}  # ComfyUI would resize the empty stage
    start = tagged({**kept, "samples": coarse}, StageTag(spec, 0, full, START))
    return start, DerivedNoise(stage_seed(noise.seed, 0), draw)


def _new_noise(noise: Noise, latent: dict, size: Sequence[int]) -> Tensor:
    """Return the draw of a run wired by hand.

    Raises:
        ValueError: It is empty.
    """
    draw = full_noise(noise, latent, size)
    if not torch.count_nonzero(draw):
        raise ValueError(
            "every stage of a pyramid starts with new noise, but the NOISE is empty ('DisableNoise'); connect one "
            "'RandomNoise' to every 'Pyramidal Stage Start' and 'Pyramidal Stage Transition'"
        )
    return draw


def stage_transition(
    latent: dict, noise: Noise, spec: PyramidSpec, stage: str, *, denoised: dict | None = None, lift: VideoLift | None = None
) -> tuple[dict, DerivedNoise]:
    """Return the next stage's LATENT and NOISE.

    Args:
        latent: Output of ``stage``.
        noise: NOISE of the run.
        spec: The pyramid.
        stage: Name of the stage that ends.
        denoised: The stage's clean prediction, for the lift.
        lift: Maps between the latents of the large and the small video; None resizes latents.

    Raises:
        ValueError: The LATENT is not the output of this stage, the stage is the last one, or the lift lacks its input.
    """
    index, spec = stage_index(stage, spec.number_of_stages), spec_at(spec, latent)
    tag = _checked_tag(latent, spec, index, "Pyramidal Stage Transition")
    if index + 1 == spec.number_of_stages:
        raise ValueError(f"stage '{stage}' is the last one and has no transition; decode its output")
    stages = spec.stages(tag.size)
    coarse, fine = stages[index : index + 2]
    samples = _sized_samples(latent, coarse, spec)

    def top_up(fine: Stage) -> Tensor:
        return top_up_noise(noise.seed, fine, samples, latent.get("batch_index"))

    def enter(band: Tensor) -> tuple[Tensor, Tensor]:
        return into_stage(samples.to(band.device), coarse, fine, band, top_up=top_up)

    def draw(stage_latent: dict) -> Tensor:
        full = _new_noise(noise, stage_latent, (*samples.shape[:2], *tag.size))
        return enter(noise_pyramid(full, stages)[fine.index])[1]

    signal, _ = enter(samples.new_zeros(*samples.shape[:2], *fine.shape))
    if lift is not None:
        signal = signal + _correction(lift, denoised, coarse, fine, spec).to(signal)
    start = tagged({**latent, "samples": signal}, StageTag(spec, fine.index, tag.size, START))
    return start, DerivedNoise(stage_seed(noise.seed, fine.index), draw)


def stage_renoise(latent: dict, noise: Noise, spec: PyramidSpec, stage: str, level: float) -> tuple[dict, DerivedNoise]:
    """Return the LATENT and NOISE that take a stage's clean prediction back to a natural level of that stage.

    Args:
        latent: Clean prediction of ``stage``.
        noise: NOISE of the run.
        spec: The pyramid.
        stage: Name of the stage.
        level: Natural level to noise to.

    Raises:
        ValueError: The LATENT is not of this stage, or the level lies outside it.
    """
    index, tag = stage_index(stage, spec.number_of_stages), tag_of(latent)
    if tag is not None or index + 1 == spec.number_of_stages:
        spec = spec_at(spec, latent)
    if tag is not None:
        check_same_pyramid(tag, spec)
        _check_stage(tag, index, spec)
    samples = latent["samples"].float()
    size = tag.size if tag is not None else spec.full_shape(LatentShape(*samples.shape[2:]), index)
    running = spec.stages(size)[index]
    samples = _sized_samples(latent, running, spec)
    if not running.clean.natural < level <= running.noisy.natural:
        raise ValueError(
            f"level {level:g} is not in stage '{stage}', which runs from {running.noisy.natural:.4g} to "
            f"{running.clean.natural:.4g}"
        )
    signal, _ = renoise(samples, running, level, torch.zeros_like(samples))
    seed = derive_seed(stage_seed(noise.seed, index), "renoise", f"{level:.6f}")

    def draw(stage_latent: dict) -> Tensor:
        return seeded_noise(samples.shape, seed, stage_latent.get("batch_index"))

    return tagged({**latent, "samples": signal}, StageTag(spec, index, size, START)), DerivedNoise(seed, draw)


def stage_sigmas(sigmas: Tensor, spec: PyramidSpec, stage: str, latent: dict | None = None) -> Tensor:
    """Return one stage's SIGMAS for ComfyUI's samplers.

    Args:
        sigmas: Natural levels of the whole run.
        spec: The pyramid.
        stage: Name of the stage.
        latent: LATENT of the run; only a pyramid whose noise levels depend on the size requires it.

    Raises:
        ValueError: The schedule does not fit the pyramid, has no step in this stage, or the size is not known.
    """
    stages, _ = _stages_for(spec, latent)
    index = stage_index(stage, spec.number_of_stages)
    levels = from_sigmas(sigmas, spec)[index]
    if not levels:
        raise ValueError(f"the schedule starts below stage '{stage}' and has no step in it")
    running = stages[index]
    return torch.tensor([running.reference_sigma(level) for level in levels])


def stage_model(
    model: ModelPatcher, spec: PyramidSpec, stage: str, *, lift: VideoLift | None = None, latent: dict | None = None
) -> ModelPatcher:
    """Return a MODEL that samples one stage in ComfyUI's own sampler nodes and resizes its conditioning.

    Args:
        model: The MODEL, not bound to a stage.
        spec: The pyramid.
        stage: Name of the stage.
        lift: Maps between the latents of the large and the small video; None averages conditioning.
        latent: LATENT of the run; only a pyramid whose sizes are rounded requires it.

    Raises:
        ValueError: The model cannot be sampled with this pyramid, or the size is not known.
    """
    stages, full = _stages_for(spec, latent)
    index = stage_index(stage, spec.number_of_stages)
    spec = spec if latent is None else spec_at(spec, latent)
    _check_stage_model(model, spec, index, lift)
    bound = bind_stage(model, stages[index], spec.number_of_stages)
    check_context_windows(bound.model_options, stages)

    def outer_sample(
        executor: Any, noise: Tensor, latent: Tensor, sampler: Any, sigmas: Tensor, *args: Any, **kwargs: Any
    ) -> Tensor:
        running = _sized_stage(stages[index], noise, full)
        _check_stage_sigmas(sigmas, running, stage)
        check_sampler(sampler, spec, [len(sigmas) - 1])
        check_finite_conds(executor.class_obj.conds)
        check_widths(executor.class_obj.conds, bound)
        check_latent_input("the sampler", {"samples": latent})
        size = full or spec.full_shape(running.shape, index)
        fitted, memory = _fit_run(executor, spec, size, running, None if lift is None else lift.down)
        with memory:
            end = fitted(noise, latent, sampler, sigmas, *args, **kwargs)
        check_prediction(bound, end, f"stage '{stage}'")
        return end

    add_outermost_wrapper(bound, WrappersMP.OUTER_SAMPLE, outer_sample)
    return bound


def _check_stage_model(model: ModelPatcher, spec: PyramidSpec, index: int, lift: VideoLift | None) -> None:
    check_model(model)
    check_spec(model, spec)
    check_lora_stages(model, spec.number_of_stages)
    check_patches(model, spec, [index])
    if lift is not None:
        latent_format: Any = model.get_model_object("latent_format")
        lift.check(spec, latent_format.latent_channels)


def _stages_for(spec: PyramidSpec, latent: dict | None) -> tuple[tuple[Stage, ...], LatentShape | None]:
    """Return the stages, and the full size of the run if the pyramid depends on it.

    Raises:
        ValueError: It does, and there is no LATENT.
    """
    if not spec.depends_on_size:
        return spec.nominal_stages(), None
    if latent is None:
        raise ValueError(
            "the sizes of this pyramid depend on the video; connect the run's latent to this node, or set the pyramid's scale "
            "to half"
        )
    spec, (full, _) = spec_at(spec, latent), full_size(latent)
    return spec.stages(full), full


def _sized_stage(stage: Stage, x: Tensor, full: LatentShape | None) -> Stage:
    """Return the stage at the size of ``x``.

    Raises:
        ValueError: The stage was bound for another size.
    """
    shape = LatentShape(*x.shape[-3:])
    if full is not None and shape != stage.shape:
        got, expected = ("x".join(map(str, sides)) for sides in (shape, stage.shape))
        raise ValueError(
            f"the sampler got {got} latents, but 'Pyramidal Stage Model' was made for {expected}; connect the run's latent "
            "to it"
        )
    return sized(stage, x)


def _fit_run(
    executor: Any, spec: PyramidSpec, full: LatentShape, stage: Stage, down: LatentDown | None
) -> tuple[Any, AbstractContextManager]:
    """Return the rest of a sampling run, with conds and the objects of other nodes at the size of a stage, and their memory."""
    guider, axes = executor.class_obj, spec.latent_axes[stage.index :]
    check_conds(guider.conds, full, spec.stages(full))
    guider.conds = stage_conds(guider.conds, full, stage, axes, down)
    attached = {"options": guider.model_options, "wrappers": executor.wrappers}
    check_objects(attached, full, spec.stages(full))
    fitted, copied = stage_objects(attached, full, axes, down)
    guider.model_options = fitted["options"]
    models = [guider.model_patcher]
    if (negative := negative_model(guider)) is not None:
        _check_negative(negative, stage, spec)
        guider.model_options = with_shared_patches(guider.model_options, guider.model_patcher, negative, stage)
        models.append(negative)
    memory = StepMemory().during_stage(fitted, [model.model.diffusion_model for model in models], stage, copied)
    return executor.new_class_executor(executor.original, guider, fitted["wrappers"], executor.idx), memory


def _check_negative(model: ModelPatcher, stage: Stage, spec: PyramidSpec) -> None:
    """Check the MODEL that a guider with two calls for the negative prompt.

    Raises:
        ValueError: It is not bound to the same stage.
    """
    bound = stage_of(model)
    if bound is None or _at_any_size(bound) != _at_any_size(stage):
        name = stage_name(stage.index, spec.number_of_stages)
        raise ValueError(
            f"the model for the negative prompt is not bound to stage '{name}' of this pyramid; connect it through a "
            "'Pyramidal Stage Model' of its own"
        )


def _at_any_size(stage: Stage) -> tuple[object, ...]:
    return stage.index, stage.noisy, stage.clean, stage.cell


def _check_stage_sigmas(sigmas: Tensor, stage: Stage, name: str) -> None:
    if not len(sigmas):
        raise ValueError("the SIGMAS are empty; take them from 'Pyramidal Stage Sigmas'")
    first, last = float(sigmas[0]), float(sigmas[-1])
    noisy, clean = stage.noisy.sigma[1], stage.clean.sigma[1]
    if not (is_finite(sigmas) and first <= noisy + TOLERANCE and abs(last - clean) <= TOLERANCE):
        raise ValueError(
            f"these SIGMAS run from {first:.4g} to {last:.4g}, but stage '{name}' of this pyramid from {noisy:.4g} to "
            f"{clean:.4g}; take them from 'Pyramidal Stage Sigmas' with the same pyramid and stage"
        )


def _checked_tag(latent: dict, spec: PyramidSpec, index: int, node: str) -> StageTag:
    """Return the tag of a LATENT that is the output of stage ``index``."""
    tag = tag_of(latent)
    if tag is None:
        raise ValueError(f"this LATENT is not the output of a stage; connect '{node}' to the sampler of a stage")
    check_same_pyramid(tag, spec)
    if tag.state == CLEAN:
        raise ValueError("this LATENT is a clean prediction; the next stage starts from the 'output' of the previous sampler")
    _check_stage(tag, index, spec)
    return tag


def _correction(lift: VideoLift, denoised: dict | None, coarse: Stage, fine: Stage, spec: PyramidSpec) -> Tensor:
    """Return what a lift adds to the signal at the start of the finer stage."""
    clean = _clean_prediction(denoised, coarse, spec)
    lift.check(spec, clean.shape[1])
    return lift.correction(clean, fine, spec.downsample_axes[coarse.index])


def _clean_prediction(denoised: dict | None, stage: Stage, spec: PyramidSpec) -> Tensor:
    """Return the clean prediction of a stage in float32.

    Raises:
        ValueError: There is none, or it is of another stage or size.
    """
    if denoised is None:
        raise ValueError("a lift requires the clean prediction; connect the sampler's 'denoised_output' to denoised")
    if (tag := tag_of(denoised)) is not None:
        check_same_pyramid(tag, spec)
        _check_stage(tag, stage.index, spec)
    return _sized_samples(denoised, stage, spec)


def _check_stage(tag: StageTag, index: int, spec: PyramidSpec) -> None:
    if tag.stage != index:
        got, expected = (stage_name(stage, spec.number_of_stages) for stage in (tag.stage, index))
        raise ValueError(f"this LATENT is of stage '{got}', but the node is set to '{expected}'")


def _sized_samples(latent: dict, stage: Stage, spec: PyramidSpec) -> Tensor:
    """Return the LATENT's tensor in float32, if it has the size of the stage."""
    samples = latent["samples"]
    if tuple(samples.shape[2:]) != tuple(stage.shape):
        name = stage_name(stage.index, spec.number_of_stages)
        raise ValueError(
            f"the LATENT has {'x'.join(map(str, samples.shape[2:]))} latents, but stage '{name}' has "
            f"{'x'.join(map(str, stage.shape))}: it was resized or comes from another run"
        )
    return samples.float()
