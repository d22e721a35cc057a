"""Files with the layers of coarse stages, as functions that read latents in larger patches.

A stage folds the latent into cells, and its embedding and head stand in for the network's in that call. ComfyUI then sees a
small latent of more channels, so that its padding and positions are right, and no weight of the MODEL changes: a switch loads
nothing. Conditioning images are channels of the network's input and fold with it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.nn import functional

from ...pyramid.patches import (
    PREFIX,
    Cell,
    PatchLayers,
    embedding_matrix,
    fold,
    from_tensors,
    head_matrix,
    in_place_of,
    tokens_of,
    unfold,
)
from ...pyramid.schedules import levels_from_metadata
from ...pyramid.stages import METADATA_KEY, PyramidSpec
from ...pyramid.untrusted import first_line
from .device_copies import OnDevice
from .finite import is_finite, tensor_problem
from .safetensors_file import read_safetensors


class PatchStage:
    """Embedding and head of a coarse stage as functions that stand in for the network's."""

    def __init__(self, layers: PatchLayers) -> None:
        """Bring the layers into the order in which Wan reads folded latents."""
        self.cell = layers.cell
        self.sizes = (*layers.embedding.shape[:2], layers.head.shape[0] // layers.embedding[0, 0].numel())
        self._embedding, self._bias = OnDevice(embedding_matrix(layers.embedding)), OnDevice(layers.embedding_bias)
        self._head, self._head_bias = (OnDevice(head_matrix(part, self.cell)) for part in (layers.head, layers.head_bias))

    def embed(self, folded: Tensor) -> Tensor:
        """Return ``(B, D, M, Y, X)`` for a folded latent, as Wan's convolution does."""
        tokens = tokens_of(folded)
        return functional.linear(tokens, self._embedding(tokens), self._bias(tokens)).movedim(-1, 1)

    def predict(self, tokens: Tensor) -> Tensor:
        """Return the outputs of the head, ``(B, tokens, outputs)``."""
        return functional.linear(tokens, self._head(tokens), self._head_bias(tokens))

    def call(self, executor: Callable[..., Tensor], x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Call a network on the cells of a latent. Wrapper of the kind ``DIFFUSION_MODEL``."""
        network: Any = executor.class_obj  # pyright: ignore[reportFunctionMemberAccess] - ComfyUI's WrapperExecutor
        channels = network.out_dim * math.prod(self.cell)
        stand_ins = [
            (network, "patch_embedding", self.embed),
            (network.head, "head", self.predict),
            (network, "out_dim", channels),
        ]
        folded = fold(x, self.cell)
        with in_place_of(stand_ins):
            return unfold(executor(folded, *args, **kwargs), self.cell)


@dataclass(frozen=True, eq=False)
class PatchSet:
    """The layers of coarse stages in one file.

    Attributes:
        name: The name of the file that the artist sees.
        stages: What reads latents in cells, by cell.
        spec: The pyramid that the layers were trained for.
        levels: The noise levels of a distilled model's steps.
    """

    name: str
    stages: Mapping[Cell, PatchStage] = field(repr=False)
    spec: PyramidSpec | None = None
    levels: list[tuple[float, ...]] | None = None


def patch_set(tensors: Mapping[str, Any], metadata: Mapping[str, str], name: str) -> PatchSet | None:
    """Return the layers of coarse stages among a file's tensors; None if it has none.

    Raises:
        ValueError: They are incomplete, or hold NaN or infinity, or the file's pyramid is invalid.
    """
    bare = {
        PREFIX + key.partition(PREFIX)[2]: value
        for key, value in tensors.items()
        if isinstance(key, str) and is_patch_key(key) and isinstance(value, Tensor)
    }
    if not bare:
        return None
    for key, value in bare.items():
        if problem := tensor_problem(value) or ("a tensor of complex numbers" if value.is_complex() else None):
            raise ValueError(f"'{name}' is damaged: its {key} is {problem}; expected real numbers")
        if not is_finite(value):
            raise ValueError(f"'{name}' holds NaN or infinity: its {key}")
    layers = from_tensors({key: value.float() for key, value in bare.items()}, f"'{name}'")
    try:
        spec = PyramidSpec.from_metadata(metadata) if METADATA_KEY in metadata else None
        levels = levels_from_metadata(metadata, spec) if spec is not None else None
    except ValueError as error:
        raise ValueError(f"'{name}': {first_line(error)}") from None
    return PatchSet(name, {cell: PatchStage(each) for cell, each in layers.items()}, spec, levels)


def is_patch_key(key: str) -> bool:
    """Return whether a tensor of a file belongs to a coarse stage, with or without a prefix such as ``diffusion_model.``."""
    return key.startswith(PREFIX) or f".{PREFIX}" in key


def read_patches(path: str | Path, name: str) -> PatchSet | None:
    """Read the layers of coarse stages from a safetensors file, and no other tensor; None if it has none.

    Raises:
        ValueError: The file cannot be read, or its layers are damaged.
    """
    return patch_set(*read_safetensors(path, f"'{name}'", keep=is_patch_key), name)
