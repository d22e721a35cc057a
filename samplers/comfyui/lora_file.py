"""LoRA files in every key format that Wan LoRAs come in.

The host itself knows two formats for Wan. Files of others are renamed to what it knows; without that they load without
any effect and without an error.
"""

# Known to the host: "diffusion_model.<module>" and "lora_unet_<module_with_underscores>".
# Renamed: diffusers ("transformer.", its own module names), peft ("base_model.model."), bare "blocks." and "lora_unet__".

from __future__ import annotations

import json
import re
import weakref
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import comfy.lora
import comfy.lora_convert
import comfy.utils
import torch
from torch import Tensor

from ...pyramid.schedules import levels_from_metadata
from ...pyramid.stages import METADATA_KEY, PyramidSpec

SUFFIXES = (
    r"lora_(up|down|mid)(\.weight)?",
    r"lora_[AB](\.default)?(\.weight)?",
    r"lora\.(up|down)\.weight",
    r"lora_linear_layer\.(up|down)\.weight",
    *("alpha", "dora_scale", "diff", "diff_b", "set_weight", "reshape_weight"),
    *(r"hada_\w+", r"lokr_\w+", r"[abw]\d?_norm"),
)
"""What follows the module's name in a key, after a dot."""

PREFIXES = ("base_model.model.", "transformer.", "model.diffusion_model.", "diffusion_model.")

DIFFUSERS_NAMES = (
    (r"\.attn1\.to_out\.0$", ".self_attn.o"),
    (r"\.attn2\.to_out\.0$", ".cross_attn.o"),
    (r"\.attn1\.to_([qkv])$", r".self_attn.\1"),
    (r"\.attn2\.to_([qkv])$", r".cross_attn.\1"),
    (r"\.attn2\.add_([kv])_proj$", r".cross_attn.\1_img"),
    (r"\.attn1\.norm_([qk])$", r".self_attn.norm_\1"),
    (r"\.attn2\.norm_([qk])$", r".cross_attn.norm_\1"),
    (r"\.ffn\.net\.0\.proj$", ".ffn.0"),
    (r"\.ffn\.net\.2$", ".ffn.2"),
    (r"^(blocks\.\d+)\.norm2$", r"\1.norm3"),
    (r"^condition_embedder\.text_embedder\.linear_1$", "text_embedding.0"),
    (r"^condition_embedder\.text_embedder\.linear_2$", "text_embedding.2"),
    (r"^condition_embedder\.time_embedder\.linear_1$", "time_embedding.0"),
    (r"^condition_embedder\.time_embedder\.linear_2$", "time_embedding.2"),
    (r"^condition_embedder\.time_proj$", "time_projection.1"),
    (r"^proj_out$", "head.head"),
)
"""Module names of diffusers' WanTransformer3DModel and what they are called in Wan's own code, and so in the host."""


@dataclass(frozen=True, eq=False)
class LoraFile:
    """A LoRA file in the host's key names. name: as shown to the artist. spec: the pyramid it was trained for. levels: those
    of a distilled model's steps."""

    name: str
    tensors: dict[str, Tensor] = field(repr=False)
    spec: PyramidSpec | None
    levels: list[tuple[float, ...]] | None = None

    def modules(self) -> list[str]:
        return sorted({module_of(key) for key in self.tensors})


_LOADED: weakref.WeakValueDictionary[tuple[str, int, int], LoraFile] = weakref.WeakValueDictionary()


def load_lora_file(path: str | Path, name: str) -> LoraFile:
    """Reads a file once, as long as some model uses it and it does not change on disk."""
    status = Path(path).stat()
    key = (str(path), status.st_mtime_ns, status.st_size)
    if (known := _LOADED.get(key)) is not None:
        return known
    try:
        tensors, metadata = comfy.utils.load_torch_file(str(path), safe_load=True, return_metadata=True)
    except Exception as error:  # the formats' own errors have no common base class
        raise ValueError(f"the LoRA file '{name}' cannot be read ({str(error).splitlines()[0]})") from None
    metadata = metadata or {}
    spec = PyramidSpec.from_metadata(metadata) if METADATA_KEY in metadata else None
    renamed = {comfyui_key(key): tensor for key, tensor in comfy.lora_convert.convert_lora(tensors).items()}
    levels = levels_from_metadata(metadata, spec) if spec is not None else None
    loaded = LoraFile(name, {**renamed, **_alphas(renamed, metadata)}, spec, levels)
    _LOADED[key] = loaded
    return loaded


def comfyui_key(key: str) -> str:
    """A LoRA key in the name the host knows; unknown ones come out as they are."""
    module = module_of(key)
    rest = key.removeprefix(module).replace(".default", "")
    if module.startswith("lora_unet_"):
        return "lora_unet_" + module.removeprefix("lora_unet_").lstrip("_") + rest
    stripped = module
    for prefix in PREFIXES:
        stripped = stripped.removeprefix(prefix)
    for pattern, wan in DIFFUSERS_NAMES:
        stripped = re.sub(pattern, wan, stripped)
    return f"diffusion_model.{stripped}{rest}"


def module_of(key: str) -> str:
    suffix = re.search(rf"\.({'|'.join(SUFFIXES)})$", key)
    return key[: suffix.start()] if suffix else key


def _alphas(tensors: dict[str, Tensor], metadata: dict[str, str]) -> dict[str, Tensor]:
    """peft keeps alpha in a config, which diffusers writes into the header: ``alpha`` tensors for all modules."""
    try:
        config = json.loads(metadata["lora_adapter_metadata"])
    except (KeyError, json.JSONDecodeError):
        return {}
    config = {key.removeprefix("transformer."): value for key, value in config.items()}
    default, pattern = config.get("lora_alpha"), config.get("alpha_pattern") or {}
    pattern = {module_of(comfyui_key(f"{module}.alpha")): alpha for module, alpha in pattern.items()}
    found = {}
    for module in {module_of(key) for key in tensors}:
        alpha = pattern.get(module, default)
        if alpha is not None and f"{module}.alpha" not in tensors:
            found[f"{module}.alpha"] = torch.tensor(float(alpha))
    return found


def match(lora: LoraFile, model: Any) -> dict[str, Any]:
    """The host's patches for a MODEL, by the name of the weight; ValueError if nothing of the file fits."""
    names = comfy.lora.model_lora_keys_unet(model.model, {})
    patches = comfy.lora.load_lora(dict(lora.tensors), names, log_missing=False)
    weights = model.model.state_dict()
    patches = {key: patch for key, patch in patches.items() if key in weights}
    if not patches:
        theirs = ", ".join(lora.modules()[:3]) or "none"
        ours = ", ".join(sorted(key.removesuffix(".weight") for key in weights if "attn" in key)[:3])
        raise ValueError(
            f"nothing in the LoRA '{lora.name}' fits this model: it has modules such as {theirs}; the model has {ours}"
        )
    _check_shapes(lora, patches, weights)
    return patches


def unmatched(lora: LoraFile, patches: dict[str, Any], model: Any) -> list[str]:
    """Modules of the file that found no weight in the model."""
    names = comfy.lora.model_lora_keys_unet(model.model, {})
    hit = set(patches) | {key.removesuffix(".bias") + ".weight" for key in patches}
    return [module for module in lora.modules() if names.get(module) not in hit]


def _check_shapes(lora: LoraFile, patches: dict[str, Any], weights: dict[str, Tensor]) -> None:
    """A LoRA of another model size would only be a logged warning in the host."""
    for key, patch in patches.items():
        low_rank = getattr(patch, "weights", None)
        if low_rank is None or type(patch).__name__ != "LoRAAdapter":
            continue
        made, own = (low_rank[0].shape[0], low_rank[1].flatten(1).shape[1]), weights[key].flatten(1).shape
        if low_rank[3] is None and low_rank[5] is None and made != tuple(own):
            raise ValueError(
                f"the LoRA '{lora.name}' is for a model of another size: its {key} is {made[0]}x{made[1]}, this "
                f"model's is {own[0]}x{own[1]}"
            )
