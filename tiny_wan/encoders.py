"""Tiny random text encoder, CLIP vision encoder and Wan2.2 VAE of ComfyUI's own classes.

ComfyUI's loaders take the sizes of these three from constants, so the files carry theirs in the metadata, under
`config`, and `harness/templates/stand_ins.py` has the loaders that read them.
"""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import sentencepiece
import torch
from safetensors.torch import save_file

from pyramid.training.engine.atomic import atomic_file

from .checkpoints import TEXT_DIM, StateDict, random_state_dict
from .variants import shapes

TEXT_CONFIG = {
    "d_ff": 16,
    "d_kv": 8,
    "d_model": TEXT_DIM,
    "dense_act_fn": "gelu_pytorch_tanh",
    "is_gated_act": True,
    "model_type": "umt5",
    "num_heads": 2,
    "num_layers": 1,
    "vocab_size": 128,
}
VISION_CONFIG = {
    "hidden_act": "gelu",
    "hidden_size": 1280,
    "image_size": 224,
    "intermediate_size": 32,
    "model_type": "clip_vision_model",
    "num_attention_heads": 16,
    "num_channels": 3,
    "num_hidden_layers": 2,
    "patch_size": 14,
    "projection_dim": 16,
}
"""Two layers, because Wan reads the penultimate one; the width and the number of tokens are those of the released encoder."""
VAE22_CONFIG = {"dim": 8, "dec_dim": 8}
"""Widths of the encoder and the decoder; 160 and 256 in the released VAE."""

ALPHABET = "the quick brown fox jumps over the lazy dog 0123456789 .,;:'-"


def text_encoder_state_dict(*, seed: int = 0) -> StateDict:
    """Return a text encoder of one layer with the width of umt5-xxl, and a tokenizer of single characters."""
    import comfy.ops
    import comfy.text_encoders.t5

    network = comfy.text_encoders.t5.T5(TEXT_CONFIG, torch.float32, "meta", comfy.ops.disable_weight_init)
    weights = random_state_dict(shapes(network), seed)
    return {**weights, "spiece_model": torch.ByteTensor(list(_tokenizer()))}


def clip_vision_state_dict(*, seed: int = 0) -> StateDict:
    """Return a CLIP vision encoder of two layers."""
    import comfy.clip_model
    import comfy.ops

    network = comfy.clip_model.CLIPVisionModelProjection(VISION_CONFIG, torch.float32, "meta", comfy.ops.disable_weight_init)
    return {name: weight.half() for name, weight in random_state_dict(shapes(network), seed).items()}


def vae22_state_dict(*, seed: int = 0) -> StateDict:
    """Return a Wan2.2 VAE with 48 latent channels, encoder and decoder."""
    import comfy.ldm.wan.vae2_2

    with torch.device("meta"):
        network = comfy.ldm.wan.vae2_2.WanVAE(**VAE22_CONFIG, z_dim=48, temperal_downsample=[False, True, True])
    return random_state_dict(shapes(network), seed)


def _tokenizer() -> bytes:
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([ALPHABET]),
        model_writer=model,
        model_type="char",
        vocab_size=TEXT_CONFIG["vocab_size"],
        hard_vocab_limit=False,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        minloglevel=2,
    )
    return model.getvalue()


def write_encoders(models: Path) -> None:
    """Write the three files under `models`; each is there as a whole or not at all."""
    write_text_encoder(models)
    _write(models / "clip_vision" / "tiny_random_clip_vision.safetensors", clip_vision_state_dict(), VISION_CONFIG)
    write_vae22(models)


def write_text_encoder(models: Path) -> None:
    """Write the text encoder under `models`."""
    _write(models / "text_encoders" / "tiny_random_umt5.safetensors", text_encoder_state_dict(), TEXT_CONFIG)


def write_vae22(models: Path) -> None:
    """Write the VAE under `models`."""
    _write(models / "vae" / "tiny_random_wan22_vae.safetensors", vae22_state_dict(), VAE22_CONFIG)


def _write(path: Path, weights: StateDict, config: dict[str, Any]) -> None:
    with atomic_file(path) as partial:
        save_file(weights, partial, {"config": json.dumps(config)})
