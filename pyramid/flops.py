"""Cost of a pyramidal run: tokens and floating point operations of Wan's transformer.

One multiply-add counts as two operations; 1 TFLOPs is 10^12 operations. The count reproduces every cost that PyramidalWan
publishes (arXiv 2601.04792, table 1) to the printed digit.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from .latent_shape import CHANNELS, PATCH, LatentShape
from .stages import PyramidSpec

PATCH_SHAPE = (1, PATCH, PATCH)
"""Latents per token on the time, height and width axes (Wan)."""

HEAD_DIM = 128
"""Width of an attention head, the same in all Wan models."""


@dataclass(frozen=True)
class WanDimensions:
    """Sizes of a Wan transformer.

    Attributes:
        dim: Width of a token.
        ffn_dim: Width of the hidden layer of the MLPs.
        layers: Number of transformer blocks.
        in_channels: Input channels; 36 for image to video.
        out_channels: Output channels.
        text: Number of text tokens.
        text_dim: Width of a text embedding.
    """

    dim: int
    ffn_dim: int
    layers: int
    in_channels: int = CHANNELS
    out_channels: int = CHANNELS
    text: int = 512
    text_dim: int = 4096


WAN_DIMENSIONS = {
    "1.3B": WanDimensions(dim=1536, ffn_dim=8960, layers=30),
    "14B": WanDimensions(dim=5120, ffn_dim=13824, layers=40),
}


def tokens(shape: LatentShape) -> int:
    """Return the number of tokens of one latent; sides that do not fill a patch are padded."""
    sides = zip((shape.frames, shape.height, shape.width), PATCH_SHAPE, strict=True)
    count = 1
    for side, patch in sides:
        count *= -(-side // patch)
    return count


def forward_tflops(tokens: int, dimensions: WanDimensions, *, cell: int = 1) -> float:
    """Return the TFLOPs of one forward pass of one latent with one prompt.

    Counted per layer: four projections of self-attention and two of cross-attention on the video tokens (``6 d^2``), the MLP,
    attention to video and text tokens, and two cross-attention projections of the text. Counted once: the embeddings of
    patches and text, and the output head. Left out: normalisations, modulation, RoPE and the time embedding (< 0.1 %).

    Args:
        tokens: Tokens of the latent.
        dimensions: Sizes of the transformer.
        cell: Latents that a pyramid of patches reads as one; every token then covers as many more.
    """
    d, n, text = dimensions.dim, tokens, dimensions.text
    projections = 2 * n * (6 * d**2 + 2 * d * dimensions.ffn_dim)
    attention = 4 * n**2 * d + 4 * n * text * d
    text_projections = 2 * text * 2 * d**2
    patch = math.prod(PATCH_SHAPE) * cell
    ends = 2 * n * d * patch * (dimensions.in_channels + dimensions.out_channels)
    text_embedding = 2 * text * (dimensions.text_dim * d + d**2)
    return (dimensions.layers * (projections + attention + text_projections) + ends + text_embedding) / 1e12


@dataclass(frozen=True)
class StageCost:
    """Cost of one stage of a schedule.

    Attributes:
        index: Index of the stage in running order.
        shape: Size of its latent.
        tokens: Tokens of its latent.
        steps: Number of its steps.
        forward_tflops: TFLOPs of one forward pass.
        tflops: TFLOPs of all steps, including those of cfg.
        cell: Latents that the network reads as one on the time, height and width axes.
    """

    index: int
    shape: LatentShape
    tokens: int
    steps: int
    forward_tflops: float
    tflops: float
    cell: tuple[int, int, int] = (1, 1, 1)


def schedule_cost(
    spec: PyramidSpec, full: LatentShape, steps: Sequence[int], dimensions: WanDimensions, *, cfg: bool = False
) -> list[StageCost]:
    """Return the cost of each stage in running order.

    Args:
        spec: The pyramid.
        full: Size at full resolution.
        steps: Steps of each stage; leading stages can be left out with 0.
        dimensions: Sizes of the transformer.
        cfg: Whether classifier-free guidance doubles the cost.
    """
    costs = []
    grids = spec.grids(full)
    for stage, grid, count in zip(spec.stages(full), grids, steps, strict=True):
        n = tokens(grid)
        forward = forward_tflops(n, dimensions, cell=math.prod(stage.cell))
        tflops = forward * count * (2 if cfg else 1)
        costs.append(StageCost(stage.index, stage.shape, n, count, forward, tflops, stage.cell))
    return costs


def total_tflops(costs: Sequence[StageCost]) -> float:
    """Return the TFLOPs of all stages."""
    return sum(cost.tflops for cost in costs)
