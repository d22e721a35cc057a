"""Wan's VAE and its text encoder, loaded from local files only."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Protocol

import torch
from diffusers.loaders.single_file_utils import convert_wan_vae_to_diffusers
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from safetensors.torch import load_file
from torch import Tensor

from ...latent_shape import CHANNELS
from ..files import check_finite, opening, read_json
from .networks import check_complete, check_fixed, check_shapes, check_sizes, network_files, shapes_of

VAE = "a Wan 2.1 VAE"
VAE_SUPPORTED = (
    "a diffusers folder (config.json of an AutoencoderKLWan, or a folder that contains such a 'vae'), or one .safetensors or "
    ".pth file of the Wan 2.1 VAE with Wan's key names, which ComfyUI uses too"
)
TEXT_SUPPORTED = (
    "a transformers folder with a UMT5 encoder and its tokenizer, or a diffusers folder with 'text_encoder' and 'tokenizer'"
)


VAE_FIXED = {
    "z_dim": CHANNELS, "dim_mult": [1, 2, 4, 4], "num_res_blocks": 2, "attn_scales": [], "in_channels": 3, "out_channels": 3,
    "temperal_downsample": [False, True, True], "is_residual": False, "patch_size": None,
}  # fmt: skip
"""Settings of the Wan 2.1 VAE; with others a latent would stand for a video of another size."""
MAX_VAE_WIDTH = 256
"""Largest width of a VAE's first layer; Wan's is 96."""
MAX_TEXT_SIZES = {
    "d_model": 2**14, "d_kv": 2**10, "d_ff": 2**17, "num_layers": 2**8, "num_heads": 2**10, "vocab_size": 2**20,
    "relative_attention_num_buckets": 2**10,
}  # fmt: skip
"""Largest sizes in the configuration of a text encoder; those of Wan's are 4096, 64, 10240, 24, 64, 256384 and 32."""
TEXT_FIXED = {"feed_forward_proj": "gated-gelu", "relative_attention_max_distance": 128, "layer_norm_epsilon": 1e-6}
"""Settings of UMT5, which its weights do not contradict."""
TEXT_UNUSED = ("decoder.", "lm_head.")
"""Weights of the whole UMT5 that its encoder does not use."""


class TextEncoder(Protocol):
    """A function from prompts to embeddings, each ``(tokens, width)`` without padding."""

    length: int
    """Maximum number of tokens."""

    def __call__(self, prompts: list[str]) -> list[Tensor]:
        """Return the embedding of every prompt."""
        ...


class WanVae:
    """Wan's VAE between videos ``(B, 3, 1+4k, 8h, 8w)`` in -1..1 and normalised latents ``(B, 16, 1+k, h, w)``."""

    def __init__(self, network: AutoencoderKLWan) -> None:
        """Freeze the network."""
        self.network: Any = network.requires_grad_(False).eval()
        self.mean = torch.tensor(self.network.config.latents_mean)[:, None, None, None]
        self.deviation = torch.tensor(self.network.config.latents_std)[:, None, None, None]

    def to(self, device: torch.device) -> WanVae:
        """Move the network to a device, and return this object."""
        self.network.to(device)
        return self

    @torch.no_grad()
    def encode(self, video: Tensor) -> Tensor:
        """Return the mean of the posterior, normalised to about unit variance per channel; float32 on the CPU."""
        raw = self.network.encode(video.to(self.network.device, self.network.dtype)).latent_dist.mode()
        return (raw.float().cpu() - self.mean) / self.deviation

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Return the video of normalised latents, clamped to -1..1; float32 on the CPU."""
        raw = latents.float().cpu() * self.deviation + self.mean
        return self.network.decode(raw.to(self.network.device, self.network.dtype)).sample.float().cpu().clamp(-1, 1)


def open_vae(path: str | Path) -> WanVae:
    """Load a Wan 2.1 VAE in float32, on the CPU.

    Args:
        path: Any of the layouts in ``VAE_SUPPORTED``.

    Raises:
        ValueError: The path has none of these layouts.
    """
    path = Path(path)
    if (folder := _vae_folder(path)) is not None:
        _check_config(folder / "config.json")
        with opening(folder, VAE):
            network, info = AutoencoderKLWan.from_pretrained(  # pyright: ignore[reportGeneralTypeIssues]
                folder, local_files_only=True, output_loading_info=True
            )
        check_complete(info, folder)
    else:
        network = _open_single_file(_single_file(path))
    check_finite(dict(network.named_parameters()), path)
    return WanVae(network)


def _check_config(path: Path) -> None:
    """Check the settings of a diffusers VAE.

    Raises:
        ValueError: It is not the Wan 2.1 VAE, or cannot normalise latents.
    """
    config = read_json(path, "the configuration of a VAE")
    check_fixed(config, VAE_FIXED, path)
    width = config.get("base_dim", 96)
    if type(width) is not int or not 1 <= width <= MAX_VAE_WIDTH:
        raise ValueError(f"{path}: base_dim is {width!r:.60}; expected a whole number from 1 to {MAX_VAE_WIDTH}")
    for name, least in (("latents_mean", -math.inf), ("latents_std", 0.0)):
        if name in config and not _are_numbers(config[name], above=least):
            kind = "positive numbers" if least == 0 else "numbers"
            raise ValueError(f"{path}: {name} is {config[name]!r:.60}; expected {CHANNELS} {kind}, one for each channel")


def _are_numbers(values: object, *, above: float) -> bool:
    return (
        isinstance(values, list)
        and len(values) == CHANNELS
        and all(type(value) in (int, float) and above < value < math.inf for value in values)
    )


def vae_files(path: str | Path) -> list[Path]:
    """Return the files that determine a VAE, in a fixed order.

    Raises:
        ValueError: The path has none of the layouts in ``VAE_SUPPORTED``.
    """
    folder = _vae_folder(Path(path))
    return [_single_file(Path(path))] if folder is None else network_files(folder)


def _vae_folder(path: Path) -> Path | None:
    for folder in (path, path / "vae"):
        config = folder / "config.json"
        if config.is_file() and read_json(config, "the configuration of a VAE").get("_class_name") == "AutoencoderKLWan":
            return folder
    return None


def _single_file(path: Path) -> Path:
    if not path.is_file() or path.suffix not in (".safetensors", ".pth"):
        raise ValueError(f"there is no VAE at {path}; expected {VAE_SUPPORTED}")
    return path


def _open_single_file(path: Path) -> AutoencoderKLWan:
    with opening(path, VAE):
        if path.suffix == ".safetensors":
            weights = load_file(path)
        else:
            weights = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(weights, dict) or not all(map(_is_plain, weights.values())):
        raise ValueError(f"{path} is not {VAE}; expected {VAE_SUPPORTED}")
    first, last = (weights.get(name, torch.empty(0)) for name in ("encoder.conv1.weight", "conv2.weight"))
    if first.ndim != 5 or last.ndim != 5 or last.shape[1] != CHANNELS or not 1 <= len(first) <= MAX_VAE_WIDTH:
        raise ValueError(f"{path} is not {VAE}; expected {VAE_SUPPORTED}")
    with opening(path, VAE):
        converted = convert_wan_vae_to_diffusers(dict(weights))
        with torch.device("meta"):
            network = AutoencoderKLWan(base_dim=len(first))
    check_shapes(shapes_of(converted), shapes_of(network.state_dict()), f"{path} is not {VAE}")
    with opening(path, VAE):
        network.load_state_dict({name: value.float() for name, value in converted.items()}, assign=True)
    return network


def _is_plain(value: object) -> bool:
    return isinstance(value, Tensor) and value.layout == torch.strided and value.device.type == "cpu" and not value.is_quantized


class Umt5:
    """Wan's text encoder, UMT5; longer prompts are truncated to ``length`` tokens."""

    def __init__(self, folder: str | Path, *, length: int = 512) -> None:
        """Load encoder and tokenizer.

        Args:
            folder: Any of the layouts in ``TEXT_SUPPORTED``.
            length: Maximum number of tokens.

        Raises:
            ValueError: The folder has none of these layouts.
        """
        from transformers import AutoTokenizer, UMT5EncoderModel  # slow to import

        self.length = length
        encoder, tokenizer = _text_folders(Path(folder))
        config = read_json(encoder / "config.json", "the configuration of a text encoder")
        if config.get("model_type") != "umt5":
            raise ValueError(f"{encoder} is not a UMT5; expected {TEXT_SUPPORTED}")
        check_sizes(config, {name: most for name, most in MAX_TEXT_SIZES.items() if name in config}, encoder / "config.json")
        check_fixed(config, TEXT_FIXED, encoder / "config.json")
        with opening(tokenizer, "the tokenizer of a text encoder"):
            self.tokenizer = AutoTokenizer.from_pretrained(tokenizer, local_files_only=True)
        with opening(encoder, "a UMT5 text encoder"):
            network, info = UMT5EncoderModel.from_pretrained(  # pyright: ignore[reportGeneralTypeIssues]
                encoder, local_files_only=True, output_loading_info=True
            )
        check_complete(info, encoder, unused=TEXT_UNUSED)
        self._check_words(network.config.vocab_size, tokenizer)
        self.network: Any = network.requires_grad_(False).eval()
        check_finite(dict(self.network.named_parameters()), encoder)

    def _check_words(self, words: int, folder: Path) -> None:
        """Raise ValueError unless the encoder knows every token of the tokenizer."""
        last = max(self.tokenizer.get_vocab().values(), default=0)
        if last >= words:
            raise ValueError(
                f"{folder} has tokens up to number {last}, but the text encoder knows {words}; use the tokenizer of this model"
            )

    def to(self, device: torch.device) -> Umt5:
        """Move the network to a device, and return this object; on a GPU in bfloat16, in which Wan's own code runs it."""
        self.network.to(device, dtype=torch.bfloat16 if device.type == "cuda" else None)
        return self

    @torch.no_grad()
    def __call__(self, prompts: list[str]) -> list[Tensor]:
        """Return the embedding of every prompt, ``(tokens, width)`` without padding; float32 on the CPU."""
        tokens = self.tokenizer(
            [" ".join(prompt.split()) for prompt in prompts],
            padding=True, truncation=True, max_length=self.length, add_special_tokens=True, return_tensors="pt",
        ).to(self.network.device)  # fmt: skip
        hidden = self.network(input_ids=tokens.input_ids, attention_mask=tokens.attention_mask).last_hidden_state
        counts = tokens.attention_mask.sum(1).tolist()
        return [rows[:count].float().cpu() for rows, count in zip(hidden, counts, strict=True)]


def text_files(folder: str | Path) -> list[Path]:
    """Return the files that determine a text encoder and its tokenizer, in a fixed order.

    Raises:
        ValueError: The folder has none of the layouts in ``TEXT_SUPPORTED``.
    """
    encoder, tokenizer = _text_folders(Path(folder))
    return network_files(encoder) + (network_files(tokenizer) if tokenizer != encoder else [])


def _text_folders(root: Path) -> tuple[Path, Path]:
    """Return the folders of the encoder and of the tokenizer."""
    encoder = root / "text_encoder" if (root / "text_encoder").is_dir() else root
    tokenizer = root / "tokenizer" if (root / "tokenizer").is_dir() else root
    if not (encoder / "config.json").is_file():
        raise ValueError(f"there is no text encoder at {root}; expected {TEXT_SUPPORTED}")
    return encoder, tokenizer
