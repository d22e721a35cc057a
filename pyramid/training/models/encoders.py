"""Wan's VAE and its text encoder, opened from local files only."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import torch
from diffusers.loaders.single_file_utils import convert_wan_vae_to_diffusers
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from safetensors.torch import load_file
from torch import Tensor

VAE_SUPPORTED = (
    "a folder of diffusers (config.json of an AutoencoderKLWan, or one with such a 'vae' folder in it), or one .safetensors "
    "or .pth file of the Wan 2.1 VAE in Wan's own layout, which is ComfyUI's, too"
)
TEXT_SUPPORTED = (
    "a folder of transformers with a UMT5 encoder and its tokenizer, or one of diffusers with 'text_encoder' and 'tokenizer'"
)


class TextEncoder(Protocol):
    """Prompts to embeddings, each ``(tokens, width)`` without padding."""

    length: int

    def __call__(self, prompts: list[str]) -> list[Tensor]: ...


class WanVae:
    """Videos ``(B, 3, 1+4k, 8h, 8w)`` in -1..1 to normalised latents ``(B, 16, 1+k, h, w)`` and back."""

    def __init__(self, network: AutoencoderKLWan) -> None:
        self.network: Any = network.requires_grad_(False).eval()
        self.mean = torch.tensor(self.network.config.latents_mean)[:, None, None, None]
        self.deviation = torch.tensor(self.network.config.latents_std)[:, None, None, None]

    def to(self, device: torch.device) -> WanVae:
        self.network.to(device)
        return self

    @torch.no_grad()
    def encode(self, video: Tensor) -> Tensor:
        """The mean of the posterior, with every channel at about unit variance; on the CPU."""
        raw = self.network.encode(video.to(self.network.device, self.network.dtype)).latent_dist.mode()
        return (raw.float().cpu() - self.mean) / self.deviation

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        raw = latents.float().cpu() * self.deviation + self.mean
        return self.network.decode(raw.to(self.network.device, self.network.dtype)).sample.float().cpu().clamp(-1, 1)


def open_vae(path: str | Path) -> WanVae:
    """ValueError in plain words for what is not supported."""
    path = Path(path)
    for folder in (path, path / "vae"):
        if (folder / "config.json").is_file() and "AutoencoderKLWan" in (folder / "config.json").read_text():
            return WanVae(AutoencoderKLWan.from_pretrained(folder, local_files_only=True))
    if not path.is_file() or path.suffix not in (".safetensors", ".pth"):
        raise ValueError(f"there is no VAE at {path}; supported: {VAE_SUPPORTED}")
    if path.suffix == ".safetensors":
        weights = load_file(path)
    else:
        weights = torch.load(path, map_location="cpu", weights_only=True)
    if "encoder.conv1.weight" not in weights or weights["conv2.weight"].shape[1] != 16:
        raise ValueError(f"{path} is no Wan 2.1 VAE; supported: {VAE_SUPPORTED}")
    network = AutoencoderKLWan(base_dim=weights["encoder.conv1.weight"].shape[0])
    converted = convert_wan_vae_to_diffusers({name: value.float() for name, value in weights.items()})
    network.load_state_dict(converted)
    return WanVae(network)


class Umt5:
    """Wan's text encoder: UMT5, up to ``length`` tokens."""

    def __init__(self, folder: str | Path, *, length: int = 512) -> None:
        from transformers import AutoTokenizer, UMT5EncoderModel  # slow to import

        root, self.length = Path(folder), length
        encoder = root / "text_encoder" if (root / "text_encoder").is_dir() else root
        tokenizer = root / "tokenizer" if (root / "tokenizer").is_dir() else root
        if not (encoder / "config.json").is_file():
            raise ValueError(f"there is no text encoder at {root}; supported: {TEXT_SUPPORTED}")
        self.tokenizer = AutoTokenizer.from_pretrained(tokenizer, local_files_only=True)
        self.network: Any = UMT5EncoderModel.from_pretrained(encoder, local_files_only=True).requires_grad_(False).eval()

    def to(self, device: torch.device) -> Umt5:
        self.network.to(device)
        return self

    @torch.no_grad()
    def __call__(self, prompts: list[str]) -> list[Tensor]:
        tokens = self.tokenizer(
            [" ".join(prompt.split()) for prompt in prompts],
            padding=True, truncation=True, max_length=self.length, add_special_tokens=True, return_tensors="pt",
        ).to(self.network.device)  # fmt: skip
        hidden = self.network(input_ids=tokens.input_ids, attention_mask=tokens.attention_mask).last_hidden_state
        counts = tokens.attention_mask.sum(1).tolist()
        return [rows[:count].float().cpu() for rows, count in zip(hidden, counts, strict=True)]
