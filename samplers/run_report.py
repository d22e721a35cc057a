"""One line about a run before it starts: its stages, their sizes and steps, and its cost relative to a plain run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..pyramid.flops import WAN_DIMENSIONS, WanDimensions, forward_tflops, tokens
from ..pyramid.latent_shape import LatentShape
from ..pyramid.sizes import small_stage_note
from ..pyramid.stage_names import stage_name
from ..pyramid.stages import PyramidSpec
from .comfyui.checkpoint_metadata import spec_trained_for
from .comfyui.latents import full_size, pixels_per_latent

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher


def describe_run(
    spec: PyramidSpec, full: LatentShape, levels: Sequence[Sequence[float]], *, pixels: int, dimensions: WanDimensions
) -> str:
    """Return the stages that run, such as "low 416x240 · 10 steps; high 832x480 · 10 steps; 58 % of the operations".

    Args:
        spec: The pyramid.
        full: Size of the full-resolution latent.
        levels: Natural levels of each stage.
        pixels: Pixels per latent on the height and width axes.
        dimensions: Sizes of the transformer.
    """
    parts, cost, plain = [], 0.0, 0.0
    each = forward_tflops(tokens(full), dimensions)
    for index, shape in enumerate(spec.shapes(full)):
        steps = len(levels[index]) - 1
        if steps < 1:
            continue
        name = stage_name(index, spec.number_of_stages)
        parts.append(f"{name} {shape.width * pixels}x{shape.height * pixels} · {steps} step{'s' * (steps > 1)}")
        cost += steps * forward_tflops(tokens(shape), dimensions)
        plain += steps * each
    return f"{'; '.join(parts)}; {100 * cost / plain:.0f} % of the operations of the plain run"


WAN_WIDTHS = {1536, 3072, 5120}
"""Widths of the transformers of Wan 1.3B, 5B and 14B."""


def note_on_sizes(spec: PyramidSpec, latent: dict, model: ModelPatcher) -> list[str]:
    """Return a sentence about a stage that is too small for stock Wan, if the MODEL is one of Wan's and there is such a stage.

    Args:
        spec: The pyramid.
        latent: LATENT of the run.
        model: MODEL of the run.
    """
    if dimensions_of(model).dim not in WAN_WIDTHS or spec_trained_for(model) is not None:
        return []
    try:
        return small_stage_note(spec, full_size(latent)[0], pixels=pixels_per_latent(model))
    except ValueError:  # a size that does not fit, which the run reports
        return []


def dimensions_of(model: ModelPatcher) -> WanDimensions:
    """Return the sizes of a MODEL's transformer; those of Wan 14B for a network that does not tell them."""
    network: Any = model.model.diffusion_model
    try:
        return WanDimensions(dim=network.dim, ffn_dim=network.ffn_dim, layers=network.num_layers)
    except AttributeError:
        return WAN_DIMENSIONS["14B"]
