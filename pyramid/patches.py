"""Patches of several sizes on latents of full size (Pyramidal Patchification Flow, arXiv 2506.23543).

A coarse stage reads a cell of ``t x h x w`` latents where Wan reads one. Folded, the cells are a small latent with more
channels, and Wan's patches of 1x2x2 on it cover 1x2x2 cells. Every stage has an embedding and a head of its own; the blocks
between them are shared. Latent frame 0 holds one video frame and has no partner in time, so it is repeated to fill its cell.

Layers are stored in the layout of Wan's own: the embedding as the kernel of a convolution with stride, the rows of the head
ordered by time, height, width and channel. The last stage's are Wan's.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from einops import rearrange, reduce, repeat
from torch import Tensor

from .latent_shape import CHANNELS, PATCH
from .stages import PyramidSpec

Cell = tuple[int, int, int]
"""Latents per cell on the time, height and width axes."""

WHOLE: Cell = (1, 1, 1)
"""The cell of a stage that reads latents as they are."""

PREFIX = "patch_stages."
"""Prefix of the layers of coarse stages in files: ``patch_stages.<stage>.patch_embedding.weight`` and so on."""

LAYERS = ("patch_embedding.weight", "patch_embedding.bias", "head.weight", "head.bias")

WAN_LAYERS = ("patch_embedding.weight", "patch_embedding.bias", "head.head.weight", "head.head.bias")
"""Names of the same layers in Wan's own network."""


def fold(x: Tensor, cell: Cell) -> Tensor:
    """Return the cells of a latent as channels: ``(B, C, 1+t*m, h*H, w*W)`` becomes ``(B, C*t*h*w, 1+m, H, W)``.

    Channels are ordered by channel, then time, height and width inside the cell. Frame 0 is repeated to fill its cell.

    Raises:
        ValueError: The latent is not made of whole cells.
    """
    t, h, w = cell
    if (x.shape[2] - 1) % t or x.shape[3] % h or x.shape[4] % w:
        sides = "x".join(map(str, x.shape[2:]))
        raise ValueError(
            f"a latent of {sides} (frames x height x width) cannot be read in cells of {t}x{h}x{w}: it must have 1 plus a "
            f"multiple of {t} frames, and sides that are multiples of {h} and {w}"
        )
    still = torch.cat([x[:, :, :1].expand(-1, -1, t - 1, -1, -1), x], dim=2)
    return rearrange(still, "b c (m t) (y h) (x w) -> b (c t h w) m y x", t=t, h=h, w=w)


def unfold(y: Tensor, cell: Cell) -> Tensor:
    """Return the latent whose cells are channels; the inverse of ``fold``. Frame 0 is the mean over its cell."""
    t, h, w = cell
    still = rearrange(y, "b (c t h w) m y x -> b c (m t) (y h) (x w)", t=t, h=h, w=w)
    return torch.cat([reduce(still[:, :, :t], "b c t y x -> b c 1 y x", "mean"), still[:, :, t:]], dim=2)


@dataclass(frozen=True)
class PatchLayers:
    """Embedding and head of a coarse stage.

    Attributes:
        embedding: ``(D, C, t, 2h, 2w)`` for cells of ``t x h x w``.
        embedding_bias: ``(D,)``.
        head: ``(t*2h*2w*C', D)``; C' can be smaller than C, which counts the channels of conditioning images, too.
        head_bias: ``(t*2h*2w*C',)``.
    """

    embedding: Tensor
    embedding_bias: Tensor
    head: Tensor
    head_bias: Tensor

    @property
    def cell(self) -> Cell:
        """Return the cell, inferred from the size of the embedding."""
        t, h, w = self.embedding.shape[2:]
        return t, h // PATCH, w // PATCH

    def named(self) -> dict[str, Tensor]:
        """Return the tensors by the names in ``LAYERS``."""
        return dict(zip(LAYERS, (self.embedding, self.embedding_bias, self.head, self.head_bias), strict=True))


def embedding_matrix(embedding: Tensor) -> Tensor:
    """Return the embedding as a matrix ``(D, inputs)`` that acts on ``tokens_of`` of a folded latent."""
    return rearrange(embedding, "d c t (p h) (q w) -> d (c t h w p q)", p=PATCH, q=PATCH)


def tokens_of(folded: Tensor) -> Tensor:
    """Return Wan's patches of a folded latent ``(B, C, M, 2Y, 2X)``, one token per row: ``(B, M, Y, X, inputs)``."""
    return rearrange(folded, "b c m (y p) (x q) -> b m y x (c p q)", p=PATCH, q=PATCH)


def head_matrix(head: Tensor, cell: Cell) -> Tensor:
    """Return a head or its bias with rows in the order of Wan's patches of a folded latent.

    Args:
        head: ``(rows, D)`` or ``(rows,)``.
        cell: Latents per cell.
    """
    t, h, w = cell
    return rearrange(head, "(t p h q w c) ... -> (p q c t h w) ...", t=t, h=h, w=w, p=PATCH, q=PATCH)


def lifted(wan: PatchLayers, cell: Cell) -> PatchLayers:
    """Return layers of a coarse stage that act like Wan's own on averages of cells (PPFlow, initialisation).

    The embedding equals averaging the cells and embedding the averages; the head equals Wan's with every output repeated over
    its cell.

    Args:
        wan: Wan's layers, of cells of one latent.
        cell: Latents per cell.
    """
    t, h, w = cell
    spread = "(p q c) ... -> (t p h q w c) ..."
    return PatchLayers(
        repeat(wan.embedding, "d c 1 p q -> d c t (p h) (q w)", t=t, h=h, w=w) / (t * h * w),
        wan.embedding_bias.clone(),
        repeat(wan.head, spread, t=t, h=h, w=w, p=PATCH, q=PATCH),
        repeat(wan.head_bias, spread, t=t, h=h, w=w, p=PATCH, q=PATCH),
    )


def least_error(width: int, cell: Cell, channels: int = CHANNELS) -> float:
    """Return the least mean square error per element of a velocity, in frames other than 0, whatever is trained (derived).

    The head maps tokens of ``width`` numbers to more outputs than that, so its outputs lie in an affine space of as many
    dimensions. The velocity holds white noise, which fills all of them: ``1 - width / outputs`` of its variance is left.

    Args:
        width: Numbers per token.
        cell: Latents per cell.
        channels: Channels of the latent.
    """
    return max(0.0, 1 - width / (math.prod(cell) * PATCH**2 * channels))


def wan_layers(weights: Mapping[str, Tensor], names: Sequence[str] = WAN_LAYERS) -> PatchLayers:
    """Return Wan's own layers in float32.

    Args:
        weights: Weights of a Wan network by name.
        names: Names of the layers, in the order of ``WAN_LAYERS``.
    """
    embedding, embedding_bias, head, head_bias = (weights[name].float() for name in names)
    return PatchLayers(embedding, embedding_bias, head, head_bias)


def coarse_cells(spec: PyramidSpec) -> list[Cell]:
    """Return the cells of the stages with layers of their own, in running order; none for a pyramid of latents."""
    return [] if spec.coarse == "latents" else [spec.cell(index) for index in range(len(spec.boundaries))]


def to_tensors(layers: Sequence[PatchLayers]) -> dict[str, Tensor]:
    """Return the layers of coarse stages, in running order, by their names in files."""
    return {f"{PREFIX}{stage}.{name}": value for stage, each in enumerate(layers) for name, value in each.named().items()}


def from_tensors(tensors: Mapping[str, Tensor], where: str) -> dict[Cell, PatchLayers]:
    """Return the layers of coarse stages by cell.

    Args:
        tensors: Tensors by their names in files; others than ``patch_stages.*`` are ignored.
        where: Name of the file, for the message.

    Raises:
        ValueError: A stage lacks a tensor, or its tensors have sizes that do not belong together.
    """
    stages = dict.fromkeys(name.removeprefix(PREFIX).split(".")[0] for name in tensors if name.startswith(PREFIX))
    by_cell = {}
    for stage in stages:
        names = [f"{PREFIX}{stage}.{name}" for name in LAYERS]
        if missing := [name for name in names if name not in tensors]:
            raise ValueError(f"{where} has no {missing[0]}: its patches are incomplete; export the run again")
        layers = PatchLayers(*(tensors[name] for name in names))
        check_sizes(layers, f"{where}: the patches of stage {stage}")
        by_cell[layers.cell] = layers
    return by_cell


def check_sizes(layers: PatchLayers, what: str) -> None:
    """Check that embedding and head belong to one stage of one network.

    Raises:
        ValueError: They do not; the message begins with ``what``.
    """
    embedding, head = tuple(layers.embedding.shape), tuple(layers.head.shape)
    fits = (
        len(embedding) == 5
        and len(head) == 2
        and min(*embedding, *head) > 0
        and not (embedding[3] % PATCH or embedding[4] % PATCH)
        and head[0] % (embedding[2] * embedding[3] * embedding[4]) == 0
        and (head[1], layers.embedding_bias.shape, layers.head_bias.shape) == (embedding[0], embedding[:1], head[:1])
    )
    if not fits:
        raise ValueError(f"{what} have sizes that do not belong together: embedding {embedding}, head {head}")


@contextmanager
def in_place_of(replacements: Sequence[tuple[Any, str, Any]]) -> Iterator[None]:
    """Let values stand in for attributes of objects inside the ``with`` block.

    An attribute of an object comes before a submodule that a network registered under its name, whose weights stay as they are.

    Args:
        replacements: Object, name of its attribute, and the value that stands in.
    """
    kept = [(vars(owner), name, name in vars(owner), vars(owner).get(name)) for owner, name, _ in replacements]
    try:
        for owner, name, value in replacements:
            vars(owner)[name] = value
        yield
    finally:
        for attributes, name, existed, value in kept:
            if existed:
                attributes[name] = value
            else:
                attributes.pop(name, None)
