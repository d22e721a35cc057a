"""LoRA files of every trainer, as tensors per layer in Wan's own names."""

from __future__ import annotations

import math
import re
import weakref
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import comfy.utils
import torch
from torch import Tensor

from ...pyramid.key_names import Expert, LoraKey, diffusers_name, lora_key
from ...pyramid.schedules import levels_from_metadata
from ...pyramid.stages import METADATA_KEY, NotFlowError, PyramidSpec
from ...pyramid.untrusted import MAX_JSON, decode, first_line, read_json, shown
from .finite import is_finite, tensor_problem
from .patch_files import PatchSet, is_patch_key, patch_set
from .safetensors_file import file_problem

BESIDE = "the 'adapter_config.json' beside it"

UP, DOWN = "lora_up.weight", "lora_down.weight"

MAX_PATTERN, MAX_REPEATS = 300, 4
"""Most characters and repetitions of an untrusted regular expression; more repetitions could run for ever."""


@dataclass(frozen=True, eq=False)
class LoraFile:
    """A LoRA file.

    Attributes:
        name: The name that the artist sees.
        layers: The adapter's tensors per layer, both named as in ``LoraKey``.
        spec: The pyramid that the LoRA was trained for.
        levels: The noise levels of a distilled model's steps.
        patches: The layers with which the coarse stages of a pyramid of patches read latents, if the file has any.
    """

    name: str
    layers: Mapping[str, Mapping[str, Tensor]] = field(repr=False)
    spec: PyramidSpec | None = None
    levels: list[tuple[float, ...]] | None = None
    patches: PatchSet | None = None


_LOADED: weakref.WeakValueDictionary[tuple[str, int, int, Expert | None], LoraFile] = weakref.WeakValueDictionary()


def load_lora_file(path: str | Path, name: str, expert: Expert | None = None) -> LoraFile:
    """Load a LoRA file, cached while a model references it and the file is unchanged.

    Args:
        path: The file.
        name: The name that the artist sees.
        expert: The network of Wan 2.2 to take the LoRA for, from a file that holds one for each.

    Raises:
        ValueError: The file cannot be read, holds several LoRAs, or holds NaN or infinity.
    """
    path = Path(path)
    if problem := file_problem(path):
        raise ValueError(f"the LoRA file '{name}' cannot be read ({problem})")
    status = path.stat()
    key = (str(path), status.st_mtime_ns, status.st_size, expert)
    if (known := _LOADED.get(key)) is not None:
        return known
    tensors, metadata = _read(path, name)
    layers = _layers(tensors, name, expert)
    _check_kinds(layers, name)
    _check_sizes(layers, name)
    try:
        _set_alphas(layers, _peft_config(path, metadata))
        spec = PyramidSpec.from_metadata(metadata) if METADATA_KEY in metadata else None
        levels = levels_from_metadata(metadata, spec) if spec is not None else None
    except NotFlowError as error:
        raise ValueError(f"the LoRA '{name}': {error}") from None
    except ValueError as error:
        raise ValueError(f"the LoRA '{name}' is damaged: {first_line(error)}") from None
    _check_values(layers, name)
    for layer in layers.values():
        _complete(layer)
    loaded = LoraFile(name, layers, spec, levels, patch_set(tensors, metadata, name))
    _LOADED[key] = loaded
    return loaded


def _read(path: Path, name: str) -> tuple[Mapping[str, Any], Mapping[str, str]]:
    """Return the tensors and the metadata of a file."""
    try:
        tensors, metadata = comfy.utils.load_torch_file(str(path), safe_load=True, return_metadata=True)
    except Exception as error:  # the formats' own errors have no common base class
        raise ValueError(f"the LoRA file '{name}' cannot be read ({first_line(error)})") from None
    if not isinstance(tensors, Mapping):
        raise ValueError(f"the LoRA file '{name}' holds {shown(tensors)}; expected tensors by name")
    return tensors, metadata or {}


def _layers(tensors: Mapping[str, Any], name: str, expert: Expert | None) -> dict[str, dict[str, Tensor]]:
    """Group a file's tensors by layer."""
    keys = {
        key: lora_key(key)
        for key, value in tensors.items()
        if isinstance(key, str) and isinstance(value, Tensor) and not is_patch_key(key)
    }
    if _holds_two_experts(list(keys.values())):
        unnamed, requested = _unnamed(keys), _requested(expert, name)
        keys = {key: read for key, read in keys.items() if (read.expert or unnamed) == requested}
    _check_single(list(keys.values()), name)
    layers: dict[str, dict[str, Tensor]] = {}
    for key, read in keys.items():
        layers.setdefault(read.module, {})[read.tensor] = tensors[key]
    return layers


def _holds_two_experts(keys: list[LoraKey]) -> bool:
    """Return whether a file holds a LoRA for each of Wan 2.2's networks; diffusers' first one has no prefix of its own."""
    experts = {key.expert for key in keys}
    return experts >= {"high", "low"} or (_gives_twice(keys) and len(experts) > 1)


def _unnamed(keys: Mapping[str, LoraKey]) -> Expert:
    """Return the network that keys without a prefix belong to, in a file with LoRAs for both."""
    return "high" if "low" in {key.expert for key in keys.values()} else "low"


def _requested(expert: Expert | None, name: str) -> Expert:
    if expert is None:
        raise ValueError(
            f"the LoRA '{name}' holds two LoRAs, one for each of Wan 2.2's high-noise and low-noise models; "
            "set expert to the one of this model"
        )
    return expert


def _gives_twice(keys: list[LoraKey]) -> bool:
    return len({(key.module, key.tensor) for key in keys}) < len(keys)


def _check_single(keys: list[LoraKey], name: str) -> None:
    """Reject a file that would give one layer two adapters."""
    if _gives_twice(keys):
        adapters = ", ".join(sorted({key.adapter or "unnamed" for key in keys}))
        raise ValueError(f"the LoRA '{name}' holds several adapters ({adapters}); expected a file with one of them")


def _peft_config(path: Path, metadata: Mapping[str, str]) -> dict[str, Any]:
    """Return peft's configuration: from the header, where diffusers writes it, or from the file that peft saves next to it."""
    try:
        if "lora_adapter_metadata" in metadata:
            packed = read_json(metadata["lora_adapter_metadata"], "the configuration in its header")
        elif path.stem == "adapter_model" and (beside := path.with_name("adapter_config.json")).is_file():
            packed = read_json(_text_of(beside), BESIDE)
        else:
            return {}
    except OSError as error:
        raise ValueError(f"{BESIDE} cannot be read ({error.strerror or first_line(error)})") from None
    config = {}
    for key, value in packed.items() if isinstance(packed, dict) else ():
        part, _, option = key.rpartition(".")
        if part in ("", "transformer", "transformer_2", "unet"):
            config[option] = value
    return config


def _text_of(path: Path) -> str:
    """Return the text of peft's configuration, in any UTF encoding; more than JSON may have is not read."""
    with path.open("rb") as file:
        contents = file.read(4 * MAX_JSON)
    try:
        return decode(contents)
    except ValueError as error:
        raise ValueError(f"{BESIDE} {error}") from None


def _set_alphas(layers: dict[str, dict[str, Tensor]], config: Mapping[str, Any]) -> None:
    """Give the layers the alphas of peft's configuration, where the file has none of its own.

    Everyone else scales a LoRA by ``alpha / rank``; rank-stabilised LoRA (arXiv:2312.03732) by ``alpha / sqrt(rank)``.
    """
    patterns = config.get("alpha_pattern") or {}
    if not isinstance(patterns, dict):
        raise ValueError(f"its alpha_pattern is {shown(patterns)}; expected numbers by module")
    for pattern in patterns:
        _check_pattern(pattern)
    for module, layer in layers.items():
        chosen = [alpha for pattern, alpha in patterns.items() if _matches(pattern, module)]
        alpha = chosen[0] if chosen else config.get("lora_alpha")
        if alpha is not None and DOWN in layer and "alpha" not in layer:
            if isinstance(alpha, bool) or not isinstance(alpha, (int, float)):
                raise ValueError(f"its alpha is {shown(alpha)}; expected a number")
            scale = math.sqrt(layer[DOWN].shape[0]) if config.get("use_rslora") else 1.0
            layer["alpha"] = torch.tensor(float(alpha) * scale)


def _check_pattern(pattern: str) -> None:
    """Raise ValueError for a pattern that is not a regular expression, or that could run for ever."""
    repeats = len(re.findall(r"[*+{]", pattern))
    if len(pattern) > MAX_PATTERN or repeats > MAX_REPEATS or re.search(r"\)[*+{]", pattern):
        raise ValueError(f"its alpha_pattern {shown(pattern)} is too complex; expected the name of a module")
    try:
        re.fullmatch(pattern, "")
    except (re.error, RecursionError, OverflowError) as error:
        raise ValueError(f"its alpha_pattern {shown(pattern)} is not a regular expression ({first_line(error)})") from None


def _matches(pattern: str, module: str) -> bool:
    """Return whether one of peft's patterns, a regular expression for the end of a name, matches a module."""
    return any(re.fullmatch(rf"(.*\.)?({pattern})", name) for name in _own_names(module))


def _own_names(module: str) -> Iterator[str]:
    """Yield a module's names in Wan's and diffusers' network."""
    yield module
    try:
        yield diffusers_name(module)
    except ValueError:  # a layer that only Wan's own network has
        return


def _complete(layer: dict[str, Tensor]) -> None:
    """Write the tensors that only peft knows, and those that ComfyUI requires, as ComfyUI reads them."""
    if DOWN in layer and "dora_scale" in layer and layer["dora_scale"].ndim == 1:
        layer["dora_scale"] = layer["dora_scale"].reshape(-1, *[1] * (layer[DOWN].ndim - 1))
    if DOWN in layer and "lora_up.bias" in layer and "diff_b" not in layer:
        layer["diff_b"] = layer.pop("lora_up.bias") * lora_scale(layer)
    if "oft_blocks" in layer and layer["oft_blocks"].ndim == 4:  # BOFT, whose alpha is a constraint and 0 means none
        layer.setdefault("alpha", torch.tensor(0.0))


def lora_scale(layer: Mapping[str, Tensor]) -> float:
    """Return the factor of a low-rank product: alpha / rank, or 1 without an alpha."""
    return float(layer["alpha"]) / layer[DOWN].shape[0] if "alpha" in layer else 1.0


def _check_kinds(layers: Mapping[str, Mapping[str, Tensor]], name: str) -> None:
    """Raise ValueError for tensors that cannot be computed with; ComfyUI would drop the imaginary part of complex ones."""
    for module, layer in layers.items():
        for tensor, value in layer.items():
            if problem := tensor_problem(value) or ("a tensor of complex numbers" if value.is_complex() else None):
                raise ValueError(f"the LoRA '{name}' is damaged: its {module}.{tensor} is {problem}; expected real numbers")


def _check_sizes(layers: Mapping[str, Mapping[str, Tensor]], name: str) -> None:
    for module, layer in layers.items():
        for tensor, value in layer.items():
            if value.numel() == 0:
                size = "x".join(map(str, value.shape))
                raise ValueError(f"the LoRA '{name}' is damaged: its {module}.{tensor} has size {size} and holds nothing")
        if DOWN in layer and layer[DOWN].ndim == 0:
            raise ValueError(f"the LoRA '{name}' is damaged: its {module}.{DOWN} is a single number")


def _check_values(layers: Mapping[str, Mapping[str, Tensor]], name: str) -> None:
    for module, layer in layers.items():
        if "alpha" in layer and layer["alpha"].numel() != 1:
            raise ValueError(f"the LoRA '{name}' has {layer['alpha'].numel()} alphas for {module}; expected one number")
        for tensor, value in layer.items():
            if not is_finite(value):
                raise ValueError(f"the LoRA '{name}' holds NaN or infinity: its {module}.{tensor}")
