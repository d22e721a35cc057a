"""Bind a model to one stage of a pyramid.

The stage lives in one object patch, ``model_sampling``: ComfyUI's own flow sampling, extended by what the network is
conditioned on, the sigma rate of each frame and the place of the stage in the whole run. ComfyUI's samplers then integrate the
stage like any other model.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import comfy.model_base
import comfy.model_patcher
import comfy.model_sampling
import torch
from comfy.patcher_extension import WrappersMP
from torch import Tensor, nn

from ...pyramid.latent_shape import LatentShape
from ...pyramid.patches import WHOLE
from ...pyramid.paths import clean_prediction
from ...pyramid.stages import Stage
from ...pyramid.transition import renoise
from .network_size import dimensions_of
from .stage_compile import apply_stage_compiler
from .stage_lora import apply_stage_loras, check_stage_loras
from .stage_patches import check_windows, use_patches
from .stage_wrappers import MODEL_KEY, add_stage_wrappers

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher


@dataclass
class KeptVideo:
    """Initial state of a stage whose latent is partly fixed by a mask.

    Attributes:
        mask: The region that is sampled, ``(B, C, T, H, W)`` at the stage's size; 0 keeps the source video. ComfyUI blends
            values between 0 and 1 in each step.
        signal: What the sampled region starts from besides ``noise``, in the model's scale; None where the stage starts
            from the given video itself.
        noise: Noise of the sampled region.
    """

    mask: Tensor
    signal: Tensor | None = None
    noise: Tensor | None = None


def bind_stage(
    model: ModelPatcher,
    stage: Stage,
    number_of_stages: int,
    *,
    curve: Sequence[float] | None = None,
    given: KeptVideo | None = None,
) -> ModelPatcher:
    """Return a clone of a MODEL that samples one stage with the LoRAs of that stage; the original stays unchanged.

    Args:
        model: The MODEL, not bound to a stage.
        stage: The stage.
        number_of_stages: Stages of the whole pyramid.
        curve: Natural levels of the whole run, which other nodes see; None where they are not known.
        given: Initial state of the stage where a noise mask keeps a part of the video.

    Raises:
        ValueError: This ComfyUI cannot scale RoPE positions and the stage requires it, or the MODEL lacks the layers of the
            stage's patches.
    """
    bound = model.clone()
    sampling = model.get_model_object("model_sampling")
    bound.add_object_patch("model_sampling", stage_sampling(sampling, stage, given))
    if stage.rope_scale != (1.0, 1.0, 1.0):
        _scale_rope(bound, stage.rope_scale)
    if number_of_stages > 1:
        is_clean = _comfyui_prediction_is_clean(stage)
        clean = None if is_clean else functools.partial(comfyui_clean_prediction, stage=stage)
        add_stage_wrappers(bound, stage, sampling, curve, clean)
    if stage.cell != WHOLE:
        use_patches(bound, stage)
    apply_stage_loras(bound, stage, number_of_stages)
    apply_stage_compiler(bound, stage, number_of_stages, dimensions_of(bound))
    return bound


def stage_of(model: ModelPatcher) -> Stage | None:
    """Return the stage that a MODEL is bound to, or None."""
    return getattr(model.get_model_object("model_sampling"), "stage", None)


def stage_sampling(base: Any, stage: Stage, given: KeptVideo | None = None) -> Any:
    """Return a copy of ComfyUI's flow sampling object ``base`` that is bound to a stage."""
    bound = copy.copy(base)
    bound.__class__ = _stage_class(type(base))
    bound.stage, bound.given = stage, given
    return bound


class StageSampling:
    """Follow a stage, as a mixin in front of ComfyUI's flow sampling; tensors are ``(B, C, T, H, W)``.

    The methods that scale noise serve the sampler and take the stage's reference sigma, that of the frames other than 0.
    All others serve the network and take natural levels.
    """

    stage: Stage
    given: KeptVideo | None
    multiplier: float

    def timestep(self, sigma: Tensor) -> Tensor:
        """Return Wan's timestep at a natural level."""
        return self.stage.at(sigma).conditioning * self.multiplier

    def calculate_denoised(self, sigma: Tensor, model_output: Tensor, model_input: Tensor) -> Tensor:
        """Return ``denoised``, such that ``(x - denoised) / sigma`` is the ODE slope, from the velocity at a natural level."""
        sigma = self.stage.reference_sigma(sigma)
        return model_input - model_output * (_broadcast_sigma(sigma) * frame_sigma_rate(self.stage, model_input))

    def noise_scaling(self, sigma: Tensor, noise: Tensor, latent_image: Tensor, max_denoise: bool = False) -> Tensor:
        """Return the sample that a stage starts from, or its given part, at a reference sigma."""
        if self.given is None:
            return self.mix(sigma, noise, latent_image)
        stage = sized(self.stage, latent_image)
        at = stage.natural_level(sigma.reshape(()) if sigma.nelement() == 1 else sigma)
        start = self.mix(sigma, noise, renoise(latent_image, stage, at, noise)[0])
        if self.given.signal is None or self.given.noise is None:
            return start
        sampled = self.mix(sigma, self.given.noise.to(noise), self.given.signal.to(latent_image))
        kept = self.given.mask.to(noise) == 0
        # only the sampler's first call gets the initial latent; later calls re-noise the kept region
        self.given = KeptVideo(self.given.mask)
        return torch.where(kept, start, sampled)

    def mix(self, sigma: Tensor, noise: Tensor, signal: Tensor) -> Tensor:
        """Return the sample at a reference sigma."""
        sigma = self.frame_sigma(sigma, noise)
        return sigma * (getattr(self, "noise_scale", 1.0) * noise) + (1.0 - sigma) * signal

    def inverse_noise_scaling(self, sigma: Tensor, latent: Tensor) -> Tensor:
        """Return a sample divided by the share of its signal at a reference sigma."""
        return latent / (1.0 - self.frame_sigma(sigma, latent))

    def frame_sigma(self, sigma: Tensor, x: Tensor) -> Tensor:
        """Return the sigma of each frame of ``x`` at a reference sigma."""
        if self.stage.frames_agree:
            return _broadcast_sigma(sigma)
        stage = sized(self.stage, x)
        clean, sigma_rate = stage.per_frame(stage.clean.sigma, sigma), stage.per_frame(stage.sigma_rate, sigma)
        return clean + (_broadcast_sigma(sigma) - stage.clean.sigma[1]) * sigma_rate


@functools.lru_cache(maxsize=8)
def _stage_class(base: type) -> type:
    """Return the flow sampling class ``base`` that follows a stage."""
    return type("StageSampling", (StageSampling, base), {})


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
    velocity = (x - denoised) / (_broadcast_sigma(sigma) * frame_sigma_rate(stage, x))
    natural = stage.natural_level(sigma.reshape(()) if sigma.nelement() == 1 else sigma)
    return clean_prediction(x, velocity, stage, natural)


def _broadcast_sigma(sigma: Tensor) -> Tensor:
    """Return a sigma ``()`` or ``(B,)`` in a shape that broadcasts over ``(B, C, T, H, W)``."""
    return sigma.reshape(()) if sigma.nelement() == 1 else sigma.reshape(-1, 1, 1, 1, 1)


def _comfyui_prediction_is_clean(stage: Stage) -> bool:
    return stage.frames_agree and not (stage.has_blur and stage.level > 0)


def _scale_rope(bound: ModelPatcher, scale: tuple[float, float, float]) -> None:
    """Multiply the distance of RoPE positions (time, height, width) by ``scale``, on top of the model's own scale."""
    if not hasattr(comfy.model_patcher.ModelPatcher, "set_model_rope_options"):
        raise ValueError("rope 'scaled' requires a newer ComfyUI; update it, or set the rope of the pyramid to 'native'")
    options = bound.model_options["transformer_options"] = dict(bound.model_options.get("transformer_options", {}))
    rope = dict(options.get("rope_options") or {})
    for name, factor in zip(("scale_t", "scale_y", "scale_x"), scale, strict=True):
        rope[name] = rope.get(name, 1.0) * factor
    options["rope_options"] = rope


def samples_by_frame(model: ModelPatcher) -> bool:
    """Return whether a MODEL is causal: it samples a few frames after the other, with a cache of the earlier ones."""
    return type(model.model).__name__ == "WAN21_CausalAR"


def check_model(model: ModelPatcher) -> None:
    """Check that a pyramid can sample this MODEL.

    Raises:
        ValueError: It is not a Wan flow model, or it is already bound to a stage.
    """
    name = type(model.model).__name__
    if not isinstance(model.model, comfy.model_base.WAN21):
        raise ValueError(f"only Wan 2.1/2.2 video models are supported; this MODEL is {name}")
    if samples_by_frame(model):
        raise ValueError(
            f"this MODEL ({name}) samples frame by frame with a cache of earlier frames, which a pyramid does not support; "
            "sample it without one"
        )
    sampling = model.get_model_object("model_sampling")
    classes = vars(comfy.model_sampling)
    image_to_image = tuple(classes[other] for other in ("IMG_TO_IMG_FLOW", "IMG_TO_IMG_VELOCITY") if other in classes)
    flow = isinstance(sampling, comfy.model_sampling.CONST) and not isinstance(sampling, image_to_image)
    if not flow or not hasattr(sampling, "multiplier"):
        raise ValueError(
            f"the pyramid samples flow models; this MODEL ({name}) uses {_sampling_kind(sampling)} sampling; "
            "remove nodes that change the sampling type"
        )
    if stage_of(model) is not None:
        raise ValueError("this MODEL is already bound to a stage; the sampler needs the model before 'Pyramidal Stage Model'")
    if model.get_wrappers(WrappersMP.OUTER_SAMPLE, MODEL_KEY):
        raise ValueError(
            "this MODEL already runs the pyramid of 'Pyramidal Model'; connect the model before that node, or use one of "
            "ComfyUI's samplers"
        )
    check_stage_loras(model)


def _sampling_kind(sampling: Any) -> str:
    """Return the name of the prediction type of a sampling object, which ComfyUI composes of it and of a table of sigmas."""
    types = [kind for kind in type(sampling).__mro__ if kind.__module__ == comfy.model_sampling.CONST.__module__]
    return next((kind.__name__ for kind in types if not issubclass(kind, nn.Module)), type(sampling).__name__)


def check_context_windows(model_options: dict, stages: tuple[Stage, ...]) -> None:
    """Check that no context windows run with per-frame sigmas, whose later windows do not begin with frame 0.

    Raises:
        ValueError: Context windows are on and frame 0 has its own sigmas, or they are not made of whole patches.
    """
    check_windows(model_options, stages)
    if model_options.get("context_handler") is None or all(stage.frames_agree for stage in stages):
        return
    raise ValueError(
        "context windows require one sigma for all frames, but this pyramid gives frame 0 its own; set the pyramid's "
        "first_frame to 'shared', or remove the context window node"
    )
