"""Sizes of a MODEL's transformer, which decide what a step costs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ...pyramid.flops import WAN_DIMENSIONS, WanDimensions

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher


def dimensions_of(model: ModelPatcher) -> WanDimensions:
    """Return the sizes of a MODEL's transformer; those of Wan 14B for a network that is not Wan's."""
    return wan_dimensions(model) or WAN_DIMENSIONS["14B"]


def wan_dimensions(model: ModelPatcher) -> WanDimensions | None:
    """Return the sizes of a Wan MODEL's transformer; None for a network without these attributes."""
    network: Any = model.model.diffusion_model
    try:
        return WanDimensions(network.dim, network.ffn_dim, network.num_layers, network.in_dim, network.out_dim)
    except AttributeError:
        return None
