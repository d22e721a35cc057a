"""Sizes of a MODEL's transformer, which decide what a step costs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ...pyramid.flops import WAN_DIMENSIONS, WanDimensions

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher


def dimensions_of(model: ModelPatcher) -> WanDimensions:
    """Return the sizes of a MODEL's transformer; those of Wan 14B for a network without these attributes."""
    network: Any = model.model.diffusion_model
    try:
        return WanDimensions(dim=network.dim, ffn_dim=network.ffn_dim, layers=network.num_layers)
    except AttributeError:
        return WAN_DIMENSIONS["14B"]
