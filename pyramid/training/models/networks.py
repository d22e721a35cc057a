"""Opens Wan transformers of every file layout as diffusers' network, and calls it in the core's terms."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel
from safetensors import safe_open
from torch import Tensor, nn

from ...flops import WanDimensions
from .key_names import diffusers_name
from .rope import ScaledRope

SUPPORTED = (
    "a folder of diffusers (config.json of a WanTransformer3DModel, or one with such a 'transformer' folder in it), or one "
    ".safetensors file of a Wan 2.1 or 2.2 text-to-video transformer in Wan's own layout or ComfyUI's, unquantised"
)
PREFIXES = ("model.diffusion_model.", "diffusion_model.")
HEAD_DIM = 128

Shapes = Mapping[str, tuple[int, ...]]


class WanVelocity(nn.Module):
    """A Wan transformer that is told a noise level: ``d x / d sigma`` of a latent."""

    def __init__(self, transformer: WanTransformer3DModel) -> None:
        super().__init__()
        config: Any = transformer.config
        self.rope = ScaledRope(config.attention_head_dim, tuple(config.patch_size))
        transformer.rope = self.rope  # pyright: ignore[reportAttributeAccessIssue]
        self.transformer = transformer

    def forward(
        self, x: Tensor, conditioning: Tensor, context: Tensor, rope_scale: tuple[float, float, float] = (1.0, 1.0, 1.0)
    ) -> Tensor:
        """x ``(B, C, T, H, W)``, told ``(B,)`` in [0, 1], context ``(B, L, text width)`` to ``(B, C, T, H, W)``, float32."""
        self.rope.scale = rope_scale
        velocity = self.transformer(
            hidden_states=x, timestep=1000.0 * conditioning, encoder_hidden_states=context, return_dict=False
        )[0]
        return velocity.float()


def open_transformer(path: str | Path) -> WanTransformer3DModel:
    """The network in float32, on the CPU. ValueError in plain words for what is not supported."""
    path = Path(path)
    if (folder := _diffusers_folder(path)) is not None:
        _check_text_to_video(_config(folder)["in_channels"], path)
        return WanTransformer3DModel.from_pretrained(folder, torch_dtype=torch.float32, local_files_only=True)
    with safe_open(_single_file(path), framework="pt") as file:
        names = _wan_names(file, path)
        network = WanTransformer3DModel(**_dimensions_of_file(file, names, path))
        weights = {diffusers_name(wan): file.get_tensor(name).float() for wan, name in names.items()}
    network.load_state_dict(weights, assign=True)
    return network


def transformer_dimensions(path: str | Path, *, text: int = 512) -> WanDimensions:
    """Its sizes, read off config or header; no weight is loaded. text: number of text tokens."""
    path = Path(path)
    if (folder := _diffusers_folder(path)) is not None:
        config = _config(folder)
    else:
        with safe_open(_single_file(path), framework="pt") as file:
            config = _dimensions_of_file(file, _wan_names(file, path), path)
    return WanDimensions(
        dim=config["num_attention_heads"] * config["attention_head_dim"],
        ffn_dim=config["ffn_dim"],
        layers=config["num_layers"],
        in_channels=config["in_channels"],
        out_channels=config["out_channels"],
        text=text,
        text_dim=config["text_dim"],
    )


def _diffusers_folder(path: Path) -> Path | None:
    for folder in (path, path / "transformer"):
        if (folder / "config.json").is_file() and _config(folder).get("_class_name") == "WanTransformer3DModel":
            return folder
    return None


def _config(folder: Path) -> dict:
    return json.loads((folder / "config.json").read_text(encoding="utf-8"))


def _single_file(path: Path) -> Path:
    if not path.exists():
        raise ValueError(f"there is no transformer at {path}; supported: {SUPPORTED}")
    if path.is_dir() or path.suffix != ".safetensors":
        raise ValueError(f"{path} is no transformer that can be opened; supported: {SUPPORTED}")
    return path


def _wan_names(file, path: Path) -> dict[str, str]:
    """Wan's own name of every tensor, and the one that it has in the file."""
    names = {}
    for name in file.keys():  # noqa: SIM118 - it is no dict
        bare = name
        for prefix in PREFIXES:
            bare = bare.removeprefix(prefix)
        names[bare] = name
    if any("scaled_fp8" in name or name.endswith((".scale_weight", ".weight_scale", ".comfy_quant")) for name in names):
        raise ValueError(f"{path} is quantised and cannot be trained; take the fp16, bf16 or fp32 file of the same model")
    if "patch_embedding.weight" not in names or "head.modulation" not in names:
        raise ValueError(f"{path} is no Wan transformer; supported: {SUPPORTED}")
    if any("img_emb" in name or "k_img" in name or name.startswith(("vace", "control_adapter")) for name in names):
        _check_text_to_video(36, path)
    return names


def _dimensions_of_file(file, names: dict[str, str], path: Path) -> dict:
    """diffusers' configuration out of the shapes, as ComfyUI infers it."""

    def shape(name: str) -> tuple[int, ...]:
        return tuple(file.get_slice(names[name]).get_shape())

    dim, in_channels, *patch = shape("patch_embedding.weight")
    _check_text_to_video(in_channels, path)
    if file.get_slice(names["blocks.0.self_attn.q.weight"]).get_dtype() not in ("F32", "F16", "BF16"):
        raise ValueError(f"{path} is quantised and cannot be trained; take the fp16, bf16 or fp32 file of the same model")
    return {
        "patch_size": tuple(patch),
        "num_attention_heads": dim // HEAD_DIM,
        "attention_head_dim": HEAD_DIM,
        "in_channels": in_channels,
        "out_channels": shape("head.head.weight")[0] // (patch[0] * patch[1] * patch[2]),
        "text_dim": shape("text_embedding.0.weight")[1],
        "freq_dim": shape("time_embedding.0.weight")[1],
        "ffn_dim": shape("blocks.0.ffn.0.weight")[0],
        "num_layers": 1 + max(int(name.split(".")[1]) for name in names if name.startswith("blocks.")),
    }


def _check_text_to_video(in_channels: int, path: Path) -> None:
    if in_channels != 16:
        raise ValueError(
            f"{path} is no text-to-video transformer (it takes {in_channels} channels, T2V takes 16): image to video and "
            "control models cannot be trained yet"
        )
