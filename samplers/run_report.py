"""One line about a run before it starts: its stages, their sizes and steps, and its cost relative to a plain run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..pyramid.flops import WAN_DIMENSIONS, WanDimensions, forward_tflops, tokens
from ..pyramid.latent_shape import LatentShape
from ..pyramid.stage_names import stage_name
from ..pyramid.stages import PyramidSpec

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


def dimensions_of(model: ModelPatcher) -> WanDimensions:
    """Return the sizes of a MODEL's transformer; those of Wan 14B for a network that does not tell them."""
    network: Any = model.model.diffusion_model
    try:
        return WanDimensions(dim=network.dim, ffn_dim=network.ffn_dim, layers=network.num_layers)
    except AttributeError:
        return WAN_DIMENSIONS["14B"]
