"""Check that a LATENT can go through a pyramid, and make empty ones."""

from __future__ import annotations

import inspect
import math
from typing import TYPE_CHECKING, Any

import comfy.model_management
import comfy.sample
import torch
from torch import Tensor

from ...pyramid.latent_shape import CHANNELS, VAE_SPACE, LatentShape, video_frames
from ...pyramid.sizes import check_shape
from ...pyramid.stages import PyramidSpec
from .latent_tag import tag_of

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher


SIZE_NOTES = ("downscale_ratio_spacial", "downscale_ratio_temporal")
"""Keys of empty LATENTs by which newer versions of ComfyUI resize them for models with another VAE."""

MAX_VALUES = 2**31
"""Values of a LATENT, in all videos of its batch: 8 GiB."""

MAX_DEVIATION = 1.5
"""Standard deviation within a channel, in the scale of the model, above which a latent cannot be an encoded video; those have
about 1."""


def empty_latent(shape: LatentShape, batch_size: int) -> dict:
    """Return a LATENT of zeros on ComfyUI's intermediate device, with its pixels per latent noted as ComfyUI's own nodes do."""
    size = (batch_size, CHANNELS, shape.frames, shape.height, shape.width)
    if math.prod(size) > MAX_VALUES:
        raise ValueError(
            f"{batch_size} video{'s' * (batch_size > 1)} of {shape.width * VAE_SPACE}x{shape.height * VAE_SPACE} with "
            f"{video_frames(shape.frames)} frames have {math.prod(size):.3g} latent values; expected at most "
            f"{MAX_VALUES:.3g}"
        )
    samples = torch.zeros(size, device=comfy.model_management.intermediate_device())
    return {"samples": samples, SIZE_NOTES[0]: VAE_SPACE}


def full_size(latent: dict, samples: Tensor | None = None) -> tuple[LatentShape, int]:
    """Return the full-resolution size of a LATENT, which may be the output of a stage, and its pixels per latent.

    Args:
        latent: The LATENT.
        samples: Its tensor with the channels of the model; None takes those that it has.

    Raises:
        ValueError: It is no video latent.
    """
    samples = latent["samples"] if samples is None else samples
    if samples.ndim != 5:
        check_layout(samples, CHANNELS)
    pixels = VAE_SPACE if samples.shape[1] == CHANNELS else 2 * VAE_SPACE
    tag = tag_of(latent)
    return LatentShape(*samples.shape[2:]) if tag is None else tag.size, pixels


def spec_at(spec: PyramidSpec, latent: dict, model: ModelPatcher | None = None) -> PyramidSpec:
    """Return the pyramid with the scales that "auto" chooses for a LATENT.

    Args:
        spec: The pyramid.
        latent: LATENT at full resolution, or the output of an earlier run.
        model: Model of the run, which gives an empty LATENT its channels.

    Raises:
        ValueError: It is no video latent.
    """
    if not spec.has_auto_scale:
        return spec
    full, pixels = full_size(latent, None if model is None else fit_channels(model, latent))
    return spec.at_size(full, pixels=pixels)


def fit_channels(model: ModelPatcher, latent: dict) -> Tensor:
    """Return the LATENT's tensor in float32; an empty one gets the model's number of channels and size, as in ComfyUI.

    Raises:
        ValueError: The LATENT holds several tensors.
    """
    fix = comfy.sample.fix_empty_latent_channels
    notes = {name: latent.get(name) for name in SIZE_NOTES if name in inspect.signature(fix).parameters}
    return fix(model, one_tensor(latent), **notes).float()


def one_tensor(latent: dict) -> Tensor:
    """Return the LATENT's tensor.

    Raises:
        ValueError: It holds several.
    """
    samples = latent["samples"]
    if getattr(samples, "is_nested", False):
        raise ValueError("the LATENT holds several tensors (sound and video); the pyramid samples one video latent")
    return samples


def check_layout(samples: Tensor, channels: int) -> None:
    """Check that a LATENT's tensor is a video latent with this many channels.

    Raises:
        ValueError: It has the wrong number of dimensions or channels.
    """
    if samples.ndim != 5:
        raise ValueError(
            f"the LATENT has {samples.ndim} dimensions, a video latent has 5; use 'Pyramidal Empty Latent' "
            "or another empty video latent"
        )
    if samples.shape[1] != channels:
        raise ValueError(
            f"the LATENT has {samples.shape[1]} channels and this model's latents have {channels}: "
            "it was made for another model"
        )


def check_latent(samples: Tensor, spec: PyramidSpec, *, channels: int = CHANNELS, lenient: bool = False) -> None:
    """Check that a LATENT can go through the pyramid.

    Args:
        samples: The LATENT's tensor, with its channels fitted to the model.
        spec: The pyramid.
        channels: Latent channels of the model.
        lenient: Take every size that shrinks, even where ComfyUI pads the patches of a low stage.

    Raises:
        ValueError: It has the wrong number of dimensions, channels, frames or pixels.
    """
    check_layout(samples, channels)
    shape = LatentShape(*samples.shape[2:])
    if not (lenient and _shrinks(shape, spec)):
        check_shape(shape, spec, pixels=VAE_SPACE if channels == CHANNELS else 2 * VAE_SPACE)


def check_holds_no_noise(model: ModelPatcher, samples: Tensor, *, replaces: bool = False) -> None:
    """Check that a LATENT without a tag holds no noise, as a draft does whose tag another node dropped.

    A draft is ``x / (1 - sigma)``: a video plus noise of deviation ``sigma / (1 - sigma)``, which is at least 2 at the end of
    the lowest stage of every preset. Later stages end with less noise and look like videos.

    Args:
        model: Model of the run.
        samples: The LATENT's tensor, ``(B, C, T, H, W)``.
        replaces: Whether the sampler cannot resume drafts, and would make a new video.

    Raises:
        ValueError: Its deviation is above that of any encoded video.
    """
    scaled = model.model.process_latent_in(samples)
    deviation = float((scaled - scaled.mean(dim=(2, 3, 4), keepdim=True)).square().mean().sqrt())
    if deviation > MAX_DEVIATION:
        if replaces:
            raise ValueError(
                f"the LATENT holds noise (deviation {deviation:.2g}; encoded videos have about 1) but no record of its stage, "
                "like a draft, and this sampler would replace it with a new video; resume drafts with 'Pyramidal Sampler'"
            )
        raise ValueError(
            f"the LATENT holds noise (deviation {deviation:.2g}; encoded videos have about 1) but no record of its stage, like "
            "a draft after 'SaveLatent' or 'Rebatch Latents'; save drafts with 'Pyramidal Save Draft' and load them with "
            "'Pyramidal Load Draft'"
        )


def _shrinks(shape: LatentShape, spec: PyramidSpec) -> bool:
    """Return whether the latent can shrink at every transition."""
    try:
        spec.shapes(shape)
    except ValueError:
        return False
    return True


def pixels_per_latent(model: ModelPatcher) -> int:
    """Return how many pixels one latent of a MODEL covers on the height and width axes: 8, or 16 for Wan 2.2 5B."""
    latent_format: Any = model.get_model_object("latent_format")
    wide = latent_format.latent_channels != CHANNELS
    return getattr(latent_format, "spacial_downscale_ratio", 2 * VAE_SPACE if wide else VAE_SPACE)
