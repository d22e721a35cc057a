"""Masks of the region that a run may change, at the size of each stage."""

from __future__ import annotations

import torch
from einops import reduce
from torch import Tensor
from torch.nn import functional

from .axes import space_scale
from .resize import scaled_sides


def coarser_mask(mask: Tensor, axes: str) -> Tensor:
    """Return a mask for the next coarser stage: the largest value among the latents that each coarse one overlaps.

    A coarse latent that covers any part of the region is sampled as a whole. The finer stages restore the rest exactly.

    Args:
        mask: ``(B, C, T, H, W)``; 1 is sampled, 0 keeps the given video.
        axes: What shrinks, see ``pyramid.axes``.
    """
    if "T" in axes:
        mask = torch.cat([mask[:, :, :1], reduce(mask[:, :, 1:], "b c (t two) h w -> b c t h w", "max", two=2)], dim=2)
    if space_scale(axes) is not None:
        return functional.adaptive_max_pool3d(mask, (mask.shape[2], *scaled_sides(mask.shape[-2:], axes)))
    if "HW" in axes:
        mask = reduce(mask, "b c t (h two) (w too) -> b c t h w", "max", two=2, too=2)
    return mask
