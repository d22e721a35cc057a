"""Bind a model to one stage of a pyramid.

The stage lives in one object patch, ``model_sampling``: ComfyUI's own flow sampling, extended by what the network is
conditioned on, the sigma rate of each frame and the place of the stage in the whole run. ComfyUI's samplers then integrate the
stage like any other model.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import comfy.model_base
import comfy.model_patcher
import comfy.model_sampling
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ...pyramid.latent_shape import CHANNELS, LatentShape
from ...pyramid.paths import clean_prediction
from ...pyramid.stages import Stage
from .stage_lora import apply_stage_loras

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher

WRAPPER_KEY = "pyramidal_wan"
"""Key of this pack's wrappers on a model."""


def bind_stage(model: ModelPatcher, stage: Stage, number_of_stages: int) -> ModelPatcher:
    """Return a clone of a MODEL that samples one stage with the LoRAs of that stage; the original stays unchanged.

    Raises:
        ValueError: This ComfyUI cannot scale RoPE positions and the stage requires it.
    """
    bound = model.clone()
    bound.add_object_patch("model_sampling", stage_sampling(model.get_model_object("model_sampling"), stage))
    if stage.rope_scale != (1.0, 1.0, 1.0):
        _scale_rope(bound, stage.rope_scale)
    if not _comfyui_prediction_is_clean(stage):
        _report_clean_predictions(bound, stage)
    apply_stage_loras(bound, stage, number_of_stages)
    return bound


def stage_of(model: ModelPatcher) -> Stage | None:
    """Return the stage that a MODEL is bound to, or None."""
    return getattr(model.get_model_object("model_sampling"), "stage", None)


def stage_sampling(base: Any, stage: Stage) -> Any:
    """Return a copy of ComfyUI's flow sampling object ``base`` that is bound to a stage."""
    bound = copy.copy(base)
    bound.__class__ = _stage_class(type(base))
    bound.stage = stage
    return bound


@functools.lru_cache(maxsize=8)
def _stage_class(base: type) -> type:
    """Return a subclass of a flow sampling class that follows a stage.

    Its sigma is the stage's reference sigma, that of the frames other than 0; its tensors are ``(B, C, T, H, W)``.
    """

    class StageSampling(base):
        stage: Stage

        def timestep(self, sigma: Tensor) -> Tensor:
            return self.stage.at(self.stage.natural_level(sigma)).conditioning * self.multiplier

        def calculate_denoised(self, sigma: Tensor, model_output: Tensor, model_input: Tensor) -> Tensor:
            return model_input - model_output * (_spread(sigma) * frame_sigma_rate(self.stage, model_input))

        def noise_scaling(self, sigma: Tensor, noise: Tensor, latent_image: Tensor, max_denoise: bool = False) -> Tensor:
            sigma = self.frame_sigma(sigma, noise)
            return sigma * (getattr(self, "noise_scale", 1.0) * noise) + (1.0 - sigma) * latent_image

        def inverse_noise_scaling(self, sigma: Tensor, latent: Tensor) -> Tensor:
            return latent / (1.0 - self.frame_sigma(sigma, latent))

        def percent_to_sigma(self, percent: float) -> float:
            """Return this stage's sigma at a share of the whole run: a percent gives a natural level first."""
            return float(self.stage.reference_sigma(float(super().percent_to_sigma(percent))))

        def frame_sigma(self, sigma: Tensor, x: Tensor) -> Tensor:
            """Return the sigma of each frame of ``x`` at a reference sigma."""
            if self.stage.frames_agree:
                return _spread(sigma)
            stage = sized(self.stage, x)
            clean, sigma_rate = stage.per_frame(stage.clean.sigma, sigma), stage.per_frame(stage.sigma_rate, sigma)
            return clean + (_spread(sigma) - stage.clean.sigma[1]) * sigma_rate

    return StageSampling


def sized(stage: Stage, x: Tensor) -> Stage:
    """Return the stage at the size of ``x``; a hand-wired graph binds a model before the size of the latent is known."""
    shape = LatentShape(*x.shape[-3:])
    return stage if stage.shape == shape else dataclasses.replace(stage, shape=shape)


def frame_sigma_rate(stage: Stage, x: Tensor) -> Tensor | float:
    """Return d sigma of each frame of ``x`` per d reference sigma; 1.0 where all frames agree."""
    return 1.0 if stage.frames_agree else sized(stage, x).per_frame(stage.sigma_rate, x)


def comfyui_clean_prediction(x: Tensor, sigma: Tensor, denoised: Tensor, stage: Stage) -> Tensor:
    """Return the clean prediction that belongs to ComfyUI's ``denoised``.

    ComfyUI's value is ``x - sigma * sigma_rate * velocity``: its samplers use ``(x - denoised) / sigma`` as the slope. It
    equals the clean prediction only where all frames agree and the path has no blur.

    Args:
        x: Input of the model, ``(B, C, T, H, W)``.
        sigma: Reference sigma of ``x``, ``()`` or ``(B,)``.
        denoised: ComfyUI's value, of the shape of ``x``.
        stage: The stage at any size.
    """
    if _comfyui_prediction_is_clean(stage):
        return denoised
    stage = sized(stage, x)
    velocity = (x - denoised) / (_spread(sigma) * frame_sigma_rate(stage, x))
    natural = stage.natural_level(sigma.reshape(()) if sigma.nelement() == 1 else sigma)
    return clean_prediction(x, velocity, stage, natural)


def _spread(sigma: Tensor) -> Tensor:
    """Return a sigma ``()`` or ``(B,)`` in a shape that broadcasts over ``(B, C, T, H, W)``."""
    return sigma.reshape(()) if sigma.nelement() == 1 else sigma.reshape(-1, 1, 1, 1, 1)


def _comfyui_prediction_is_clean(stage: Stage) -> bool:
    return stage.frames_agree and not (stage.has_blur and stage.level > 0)


def _report_clean_predictions(bound: ModelPatcher, stage: Stage) -> None:
    """Pass the clean prediction to previews and ``denoised`` outputs in place of ComfyUI's value.

    One wrapper keeps the clean prediction of the latest evaluation, the other passes it to the sampler's callback.
    """
    latest: dict[str, Tensor] = {}

    def predict_noise(executor: Callable[..., Tensor], x: Tensor, timestep: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        denoised = executor(x, timestep, *args, **kwargs)
        latest["clean"] = comfyui_clean_prediction(x, timestep, denoised, stage)
        return denoised

    def sampler_sample(
        executor: Callable[..., Tensor],
        guider: Any,
        sigmas: Tensor,
        extra_args: dict,
        callback: Any,
        *args: Any,
        **kwargs: Any,
    ) -> Tensor:
        def report(step: int, denoised: Tensor, x: Tensor, total: int) -> None:
            callback(step, latest.get("clean", denoised), x, total)

        try:
            return executor(guider, sigmas, extra_args, callback and report, *args, **kwargs)
        finally:
            latest.clear()

    bound.add_wrapper_with_key(WrappersMP.PREDICT_NOISE, WRAPPER_KEY, predict_noise)
    bound.add_wrapper_with_key(WrappersMP.SAMPLER_SAMPLE, WRAPPER_KEY, sampler_sample)


def _scale_rope(bound: ModelPatcher, scale: tuple[float, float, float]) -> None:
    """Multiply the distance of RoPE positions (time, height, width) by ``scale``, on top of the model's own scale."""
    if not hasattr(comfy.model_patcher.ModelPatcher, "set_model_rope_options"):
        raise ValueError("this ComfyUI cannot scale RoPE positions, which rope 'scaled' requires; update ComfyUI")
    options = bound.model_options["transformer_options"] = dict(bound.model_options.get("transformer_options", {}))
    rope = dict(options.get("rope_options") or {})
    for name, factor in zip(("scale_t", "scale_y", "scale_x"), scale, strict=True):
        rope[name] = rope.get(name, 1.0) * factor
    options["rope_options"] = rope


def check_model(model: ModelPatcher) -> None:
    """Check that a pyramid can sample this MODEL.

    Raises:
        ValueError: It is not a Wan flow model with 16 latent channels, or it is already bound to a stage.
    """
    name = type(model.model).__name__
    if not isinstance(model.model, comfy.model_base.WAN21):
        raise ValueError(f"the pyramid samples Wan 2.1 and 2.2 video models; this MODEL is {name}")
    channels = model.get_model_object("latent_format").latent_channels
    if channels != CHANNELS:
        raise ValueError(
            f"the pyramid samples Wan 2.1 and Wan 2.2 14B, with latents of {CHANNELS} channels; this MODEL ({name}) has "
            f"{channels}, as Wan 2.2 5B does; load a supported model"
        )
    sampling = model.get_model_object("model_sampling")
    classes = vars(comfy.model_sampling)
    image_to_image = tuple(classes[other] for other in ("IMG_TO_IMG_FLOW", "IMG_TO_IMG_VELOCITY") if other in classes)
    flow = isinstance(sampling, comfy.model_sampling.CONST) and not isinstance(sampling, image_to_image)
    if not flow or not hasattr(sampling, "multiplier"):
        raise ValueError(
            f"the pyramid samples flow models; this MODEL ({name}) uses {type(sampling).__mro__[-3].__name__} sampling; "
            "remove nodes that change the sampling type"
        )
    if stage_of(model) is not None:
        raise ValueError("this MODEL is already bound to a stage; the sampler needs the model before 'Pyramidal Stage Model'")


def check_no_context_windows(model_options: dict, stages: tuple[Stage, ...]) -> None:
    """Check that no context windows run with per-frame sigmas: later windows do not begin with frame 0.

    Raises:
        ValueError: Context windows are on and frame 0 has its own sigmas.
    """
    if model_options.get("context_handler") is None or all(stage.frames_agree for stage in stages):
        return
    raise ValueError(
        "context windows require one sigma for all frames, but this pyramid gives frame 0 its own; set the pyramid's "
        "first_frame to 'shared', or remove the context window node"
    )
