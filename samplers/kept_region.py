"""The region of a video that a noise mask keeps, at the size of each stage."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import comfy.sampler_helpers
from torch import Tensor

from ..pyramid.masks import coarser_mask
from ..pyramid.noise_pyramid import whiten
from ..pyramid.stages import PyramidSpec, Stage
from .comfyui.conditioning import LatentDown


@dataclass(frozen=True)
class KeptRegion:
    """A given video with the mask of what may change, all of one size.

    Attributes:
        video: The given video, ``(B, C, T, H, W)`` in the scale of the VAE.
        mask: The same shape; 1 is sampled, 0 keeps the video.
        noise: White noise that the kept region carries.
    """

    video: Tensor
    mask: Tensor
    noise: Tensor

    def at(self, stage: Stage, stages: Sequence[Stage], spec: PyramidSpec, down: LatentDown | None = None) -> KeptRegion:
        """Return the region at the size of a stage: the low band of the video, the largest mask value of each block."""
        video, mask, noise = self.video, self.mask, self.noise
        for finer in reversed(stages[stage.index + 1 :]):
            assert finer.from_coarser is not None  # only the first stage of a pyramid has none
            axes = spec.latent_axes[finer.index - 1]
            video = finer.from_coarser.down(video) if down is None else down(video, axes)
            noise = whiten(finer.from_coarser.down(noise), finer.from_coarser)
            mask = coarser_mask(mask, axes)
        return KeptRegion(video, mask, noise)


def kept_region(video: Tensor, mask: Tensor | None, noise: Tensor) -> KeptRegion | None:
    """Return the region that a LATENT's ``noise_mask`` describes at full size; None without a mask.

    Args:
        video: The LATENT's samples, ``(B, C, T, H, W)``.
        mask: The mask in any shape that ComfyUI takes.
        noise: The run's full-size noise.
    """
    if mask is None:
        return None
    values = mask if mask.is_floating_point() else mask.float()  # ComfyUI cannot resize booleans and whole numbers
    return KeptRegion(video, comfy.sampler_helpers.prepare_mask(values, video.shape, video.device).float(), noise)
