"""What a LATENT must be to go through a pyramid, and sizes that fit."""

from __future__ import annotations

from typing import Any

import comfy.model_management
import comfy.sample
import torch
from torch import Tensor

from ...pyramid.latent_shape import CHANNELS, LatentShape
from ...pyramid.sizes import check_shape
from ...pyramid.stages import PyramidSpec


def empty_latent(shape: LatentShape, batch_size: int) -> dict:
    """A LATENT of zeros."""
    size = (batch_size, CHANNELS, shape.frames, shape.height, shape.width)
    return {"samples": torch.zeros(size, device=comfy.model_management.intermediate_device())}


def fit_channels(model: Any, latent: dict) -> Tensor:
    """The LATENT's tensor in float32, empty ones brought to the model's number of channels as the host does."""
    samples = latent["samples"]
    if getattr(samples, "is_nested", False):
        raise ValueError("the LATENT holds several tensors (sound and video); the pyramid samples one video latent")
    return comfy.sample.fix_empty_latent_channels(model, samples).float()


def check_latent(samples: Tensor, latent: dict, spec: PyramidSpec, *, channels: int = CHANNELS) -> None:
    """ValueError in plain words for a LATENT that cannot go through the pyramid; ``channels`` are the model's."""
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
    if latent.get("noise_mask") is not None:
        raise ValueError("the LATENT has a noise mask, which a pyramid cannot follow yet; remove it ('Set Latent Noise Mask')")
    check_shape(LatentShape(*samples.shape[2:]), spec)
