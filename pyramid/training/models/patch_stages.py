"""Coarse stages that read latents in larger patches, as trainable layers beside Wan's transformer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from diffusers.models.transformers.transformer_wan import WanTransformer3DModel
from torch import Tensor, nn
from torch.nn import functional

from ...key_names import diffusers_name
from ...patches import (
    WAN_LAYERS,
    Cell,
    PatchLayers,
    coarse_cells,
    embedding_matrix,
    head_matrix,
    in_place_of,
    lifted,
    tokens_of,
    wan_layers,
)
from ...sizes import patch_text
from ...stages import PyramidSpec


class Layer(nn.Module):
    """Weight and bias in the layout of files."""

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        """Copy the tensors."""
        super().__init__()
        self.weight, self.bias = nn.Parameter(weight.detach().clone()), nn.Parameter(bias.detach().clone())


class PatchStage(nn.Module):
    """Embedding and head of a coarse stage.

    Attributes:
        cell: Latents that the stage reads as one on the time, height and width axes.
    """

    def __init__(self, layers: PatchLayers) -> None:
        """Copy the layers; parameters have the names and the layout of files."""
        super().__init__()
        self.cell = layers.cell
        self.patch_embedding = Layer(layers.embedding, layers.embedding_bias)
        self.head = Layer(layers.head, layers.head_bias)

    def embed(self, folded: Tensor) -> Tensor:
        """Return ``(B, D, M, Y, X)`` for a folded latent, as Wan's convolution does."""
        rows = functional.linear(tokens_of(folded), embedding_matrix(self.patch_embedding.weight), self.patch_embedding.bias)
        return rows.movedim(-1, 1)

    def predict(self, tokens: Tensor) -> Tensor:
        """Return the outputs of the head, ``(B, tokens, outputs)``."""
        return functional.linear(tokens, head_matrix(self.head.weight, self.cell), head_matrix(self.head.bias, self.cell))

    @contextmanager
    def in_place_of(self, transformer: WanTransformer3DModel) -> Iterator[None]:
        """Let the layers stand in for the transformer's inside the ``with`` block."""
        with in_place_of([(transformer, "patch_embedding", self.embed), (transformer, "proj_out", self.predict)]):
            yield


def stage_layers(
    transformer: WanTransformer3DModel, spec: PyramidSpec, stored: Mapping[Cell, PatchLayers], where: str
) -> nn.ModuleList:
    """Return the coarse stages of a pyramid of patches in running order; none for a pyramid of latents.

    Args:
        transformer: Gives the layers of stages that are not stored.
        spec: The pyramid.
        stored: Layers in the transformer's file.
        where: Name of the file, for the message.

    Raises:
        ValueError: The file has patches of other sizes than the pyramid.
    """
    cells = coarse_cells(spec)
    if stored and cells and not set(cells) <= stored.keys():
        raise ValueError(
            f"{where} has layers for patches of {', '.join(map(patch_text, stored))}, but the pyramid reads patches of "
            f"{', '.join(map(patch_text, cells))}; use its pyramid, or start from a plain transformer"
        )
    return nn.ModuleList(PatchStage(stored[cell] if cell in stored else initial_layers(transformer, cell)) for cell in cells)


def initial_layers(transformer: WanTransformer3DModel, cell: Cell) -> PatchLayers:
    """Return layers that act like the transformer's own on averages of cells."""
    return lifted(wan_layers(transformer.state_dict(), [diffusers_name(name) for name in WAN_LAYERS]), cell)
