"""A model bound to one stage of a pyramid.

The stage lives in one object patch, ``model_sampling``: the host's own flow sampling that knows what the network is
told, how fast each frame's sigma runs, and where the stage lies in the whole run. The host's samplers then integrate
the stage as they would any other model.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import comfy.model_base
import comfy.model_patcher
import comfy.model_sampling
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ...pyramid.latent_shape import CHANNELS, LatentShape
from ...pyramid.paths import clean_prediction
from ...pyramid.stages import Stage
from .stage_lora import apply_stage_loras

KEY = "pyramidal_wan"
"""Under this key our wrappers hang on a model."""


def bind_stage(model: Any, stage: Stage, number_of_stages: int) -> Any:
    """A clone of a MODEL (ModelPatcher) that samples one stage, with the LoRAs of that stage; the original stays as it
    is."""
    bound = model.clone()
    bound.add_object_patch("model_sampling", stage_sampling(model.get_model_object("model_sampling"), stage))
    if stage.rope_scale != (1.0, 1.0, 1.0):
        _scale_rope(bound, stage.rope_scale)
    if not _comfyui_prediction_is_clean(stage):
        _hand_out_clean_predictions(bound, stage)
    apply_stage_loras(bound, stage, number_of_stages)
    return bound


def stage_of(model: Any) -> Stage | None:
    """The stage a MODEL is bound to, or None."""
    return getattr(model.get_model_object("model_sampling"), "stage", None)


def stage_sampling(base: Any, stage: Stage) -> Any:
    """The host's flow sampling object ``base``, with everything it knows, bound to a stage."""
    bound = copy.copy(base)
    bound.__class__ = _stage_class(type(base))
    bound.stage = stage
    return bound


@functools.lru_cache(maxsize=8)
def _stage_class(base: type) -> type:
    """Sigma here is the stage's reference sigma, the one of the frames other than 0; tensors are 5-D."""

    class StageSampling(base):
        stage: Stage

        def timestep(self, sigma: Tensor) -> Tensor:
            return self.stage.at(self.stage.natural_level(sigma)).conditioning * self.multiplier

        def calculate_denoised(self, sigma: Tensor, model_output: Tensor, model_input: Tensor) -> Tensor:
            return model_input - model_output * (_spread(sigma) * frame_pace(self.stage, model_input))

        def noise_scaling(self, sigma: Tensor, noise: Tensor, latent_image: Tensor, max_denoise: bool = False) -> Tensor:
            sigma = self.frame_sigma(sigma, noise)
            return sigma * (getattr(self, "noise_scale", 1.0) * noise) + (1.0 - sigma) * latent_image

        def inverse_noise_scaling(self, sigma: Tensor, latent: Tensor) -> Tensor:
            return latent / (1.0 - self.frame_sigma(sigma, latent))

        def percent_to_sigma(self, percent: float) -> float:
            """``percent`` counts over the whole run: it is a natural level first, then this stage's sigma."""
            return float(self.stage.reference_sigma(float(super().percent_to_sigma(percent))))

        def frame_sigma(self, sigma: Tensor, x: Tensor) -> Tensor:
            """What is in each frame of x at a reference sigma."""
            if self.stage.frames_agree:
                return _spread(sigma)
            stage = sized(self.stage, x)
            clean, sigma_rate = stage.per_frame(stage.clean.sigma, sigma), stage.per_frame(stage.sigma_rate, sigma)
            return clean + (_spread(sigma) - stage.clean.sigma[1]) * sigma_rate

    return StageSampling


def sized(stage: Stage, x: Tensor) -> Stage:
    """The stage at the size of x. A hand-wired graph binds a model before it knows the size of the latent."""
    shape = LatentShape(*x.shape[-3:])
    return stage if stage.shape == shape else dataclasses.replace(stage, shape=shape)


def frame_pace(stage: Stage, x: Tensor) -> Tensor | float:
    """d sigma of each frame of x per d reference sigma; a plain 1 where all frames agree."""
    return 1.0 if stage.frames_agree else sized(stage, x).per_frame(stage.sigma_rate, x)


def comfyui_clean_prediction(x: Tensor, sigma: Tensor, denoised: Tensor, stage: Stage) -> Tensor:
    """The clean prediction behind the host's ``denoised``.

    The host's value is ``x - sigma * pace * velocity``, made so that ``(x - denoised) / sigma`` is the slope of every
    sampler; it is the clean prediction only where all frames agree and nothing was blurred.
    """
    if _comfyui_prediction_is_clean(stage):
        return denoised
    stage = sized(stage, x)
    velocity = (x - denoised) / (_spread(sigma) * frame_pace(stage, x))
    natural = stage.natural_level(sigma.reshape(()) if sigma.nelement() == 1 else sigma)
    return clean_prediction(x, velocity, stage, natural)


def _spread(sigma: Tensor) -> Tensor:
    """() or (B,) to something that broadcasts over ``(B, C, T, H, W)``."""
    return sigma.reshape(()) if sigma.nelement() == 1 else sigma.reshape(-1, 1, 1, 1, 1)


def _comfyui_prediction_is_clean(stage: Stage) -> bool:
    return stage.frames_agree and not (stage.has_blur and stage.level > 0)


def _hand_out_clean_predictions(bound: Any, stage: Stage) -> None:
    """Previews and ``denoised`` outputs see the clean prediction instead of the host's value.

    One wrapper keeps the clean prediction of the latest evaluation, the other hands it to the sampler's callback.
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
        def hand_out(step: int, denoised: Tensor, x: Tensor, total: int) -> None:
            callback(step, latest.get("clean", denoised), x, total)

        try:
            return executor(guider, sigmas, extra_args, callback and hand_out, *args, **kwargs)
        finally:
            latest.clear()

    bound.add_wrapper_with_key(WrappersMP.PREDICT_NOISE, KEY, predict_noise)
    bound.add_wrapper_with_key(WrappersMP.SAMPLER_SAMPLE, KEY, sampler_sample)


def _scale_rope(bound: Any, scale: tuple[float, float, float]) -> None:
    """Multiplies the distance of RoPE positions, on top of what the model already has."""
    if not hasattr(comfy.model_patcher.ModelPatcher, "set_model_rope_options"):
        raise ValueError("this ComfyUI cannot scale RoPE positions, which the pyramid asks for: update ComfyUI")
    options = bound.model_options["transformer_options"] = dict(bound.model_options.get("transformer_options", {}))
    rope = dict(options.get("rope_options") or {})
    for name, factor in zip(("scale_t", "scale_y", "scale_x"), scale, strict=True):
        rope[name] = rope.get(name, 1.0) * factor
    options["rope_options"] = rope


def check_model(model: Any) -> None:
    """ValueError in plain words for a MODEL that no pyramid can sample."""
    name = type(model.model).__name__
    if not isinstance(model.model, comfy.model_base.WAN21):
        raise ValueError(f"the pyramid samples Wan 2.1 and 2.2 video models; this MODEL is {name}")
    channels = model.get_model_object("latent_format").latent_channels
    if channels != CHANNELS:
        raise ValueError(
            f"the pyramid samples Wan 2.1 and Wan 2.2 14B, with latents of {CHANNELS} channels; this MODEL ({name}) has "
            f"{channels}, such as Wan 2.2 5B: load one of the others"
        )
    sampling = model.get_model_object("model_sampling")
    known = vars(comfy.model_sampling)
    foreign = tuple(known[other] for other in ("IMG_TO_IMG_FLOW", "IMG_TO_IMG_VELOCITY") if other in known)
    flow = isinstance(sampling, comfy.model_sampling.CONST) and not (foreign and isinstance(sampling, foreign))
    if not flow or not hasattr(sampling, "multiplier"):
        raise ValueError(
            f"the pyramid samples flow models; this MODEL ({name}) uses {type(sampling).__mro__[-3].__name__} sampling. "
            "Take off nodes that change the sampling type"
        )
    if stage_of(model) is not None:
        raise ValueError("this MODEL is already bound to a stage; the sampler needs the model before 'Pyramidal Stage Model'")


def check_no_context_windows(model_options: dict, stages: tuple[Stage, ...]) -> None:
    """Windows over the frames have no frame 0 of their own, so they cannot run per-frame sigmas."""
    if model_options.get("context_handler") is None or all(stage.frames_agree for stage in stages):
        return
    raise ValueError(
        "context windows cannot run a pyramid whose first frame has sigmas of its own; set the pyramid's first_frame to "
        "'shared', or take the context window node off"
    )
