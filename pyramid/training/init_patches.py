"""Write the checkpoint that training with patches of several sizes starts from: a Wan model with layers made from its own."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from ..key_names import wan_name
from ..latent_shape import PATCH
from ..patches import PREFIX as PATCHES
from ..patches import WAN_LAYERS, PatchLayers, check_sizes, coarse_cells, lifted, to_tensors, wan_layers
from ..stages import METADATA_KEY, PyramidSpec
from .export import PROVENANCE_KEY
from .files import check_finite, check_output, opening, write_tensors
from .models.networks import (
    PREFIXES,
    SUPPORTED,
    TRANSFORMER,
    UNQUANTISED,
    files_at,
    is_folder_of_diffusers,
    open_transformer,
    opened_safetensors,
)

FLOATS = (torch.float32, torch.float16, torch.bfloat16)


def write_initial_checkpoint(path: str | Path, spec: PyramidSpec, to: str | Path | None = None) -> Path:
    """Write a checkpoint of a pyramid of patches whose coarse stages act like Wan's own layers on averages.

    All weights of the file are copied as they are, so that image-to-video models can be initialised, too.

    Args:
        path: A diffusers folder, or one safetensors file of a Wan transformer.
        spec: The pyramid of patches.
        to: File to write; default: next to the model, with ``_ppf`` in its name.

    Returns:
        The file.

    Raises:
        ValueError: The pyramid has no patches, the path is not a Wan transformer or holds NaN or infinity, or the file to
            write would replace it.
    """
    path = Path(path)
    if spec.coarse != "patches":
        raise ValueError(f"coarse must be 'patches' for layers of larger patches, got '{spec.coarse}'")
    target = Path(to) if to else path.with_name(f"{path.stem}_ppf.safetensors")
    check_output(target, {"the model": [path, *files_at(path)]})
    weights, metadata = _weights(path)
    wan = _wan_layers(weights, path)
    dtype = weights[WAN_LAYERS[-1]].dtype
    layers = to_tensors([lifted(wan, cell) for cell in coarse_cells(spec)])
    provenance = json.dumps({"base": path.name, "initialised": "patches"})
    header = {**metadata, METADATA_KEY: spec.to_json(), PROVENANCE_KEY: provenance}
    kept = {name: value for name, value in weights.items() if not name.startswith(PATCHES)}
    write_tensors({**kept, **{name: value.to(dtype).contiguous() for name, value in layers.items()}}, target, header)
    return target


def _wan_layers(weights: Mapping[str, Tensor], path: Path) -> PatchLayers:
    """Return Wan's own layers.

    Raises:
        ValueError: The weights lack them or are quantised, or any weight holds NaN or infinity.
    """
    layers = {name: weights[name] for name in WAN_LAYERS if name in weights}
    sizes = [layers[name].ndim for name in WAN_LAYERS if name in layers]
    if sizes != [5, 1, 2, 1] or layers[WAN_LAYERS[0]].shape[2:] != (1, PATCH, PATCH):
        raise ValueError(f"{path} is not {TRANSFORMER}; use {SUPPORTED}")
    quantised = (value for value in weights.values() if value.is_floating_point() and value.element_size() == 1)
    if any(layer.dtype not in FLOATS for layer in (*layers.values(), *quantised)):
        raise ValueError(f"{path} is quantised and cannot be trained; use {UNQUANTISED}")
    check_finite(weights, path)
    full_size = wan_layers(layers)
    check_sizes(full_size, f"{path} is not {TRANSFORMER}: its layers")
    return full_size


def _weights(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the weights of a transformer by Wan's key names, and the metadata of its file."""
    if is_folder_of_diffusers(path):
        network = open_transformer(path)
        return {wan_name(name): value.contiguous() for name, value in network.state_dict().items()}, {}
    if path.suffix != ".safetensors" or not path.exists():
        raise ValueError(f"there is no transformer at {path}; expected {SUPPORTED}")
    with opened_safetensors(path, TRANSFORMER) as file, opening(path, TRANSFORMER):
        weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - safe_open is not a dict
        metadata = file.metadata() or {}
    for prefix in PREFIXES:
        if all(name.startswith(prefix) for name in weights):
            weights = {name.removeprefix(prefix): value for name, value in weights.items()}
    return weights, metadata
