"""Tiny random checkpoints in the layout of Wan2.1's: ComfyUI loads them as it loads the real ones.

They are a few megabytes, so everything around the network can be run and tested on a laptop's CPU. The weights are
random: the outputs are finite, depend on every input and look like noise.

Run: .venv/bin/python -m tiny_wan.checkpoints MODELS_FOLDER
writes diffusion_models/tiny_random_wan_{t2v,i2v}.safetensors and vae/tiny_random_wan_vae.safetensors.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from pyramid.flops import HEAD_DIM, PATCH_SHAPE
from pyramid.latent_shape import CHANNELS
from pyramid.training.engine.atomic import atomic_file

StateDict = dict[str, Tensor]
Shapes = Iterator[tuple[str, tuple[int, ...]]]

"""ComfyUI's loader computes the number of heads as the width divided by this."""

TEXT_DIM = 4096
TIME_FREQUENCIES = 256
CLIP_VISION_DIM = 1280
VAE_WIDTHS = (1, 2, 4, 4)


def t2v_state_dict(*, seed: int = 0, dim: int = 128, ffn_dim: int = 256, layers: int = 2) -> StateDict:
    """Return a random text-to-video transformer; ``dim`` is a multiple of 128."""
    return random_state_dict(transformer_shapes(dim=dim, ffn_dim=ffn_dim, layers=layers), seed)


def i2v_state_dict(*, seed: int = 0, dim: int = 128, ffn_dim: int = 256, layers: int = 2) -> StateDict:
    """Return a random image-to-video transformer: 16 latent, 4 mask and 16 image channels as input, and CLIP vision tokens."""
    return random_state_dict(_transformer(dim, ffn_dim, layers, in_channels=2 * CHANNELS + 4, image=True), seed)


def vae_state_dict(*, seed: int = 0, dim: int = 16) -> StateDict:
    """Return a random Wan2.1 VAE, encoder and decoder; ``dim`` is the width at full resolution (96 in the released one)."""
    return random_state_dict(vae_shapes(dim), seed)


def transformer_shapes(*, dim: int, ffn_dim: int, layers: int) -> Shapes:
    """Yield names and shapes of a text-to-video transformer's weights."""
    return _transformer(dim, ffn_dim, layers, in_channels=CHANNELS, image=False)


def vae_shapes(dim: int) -> Shapes:
    """Yield names and shapes of the weights of a VAE of width ``dim``."""
    return _vae(dim)


def random_state_dict(shapes: Shapes, seed: int) -> StateDict:
    """Return random weights of these names and shapes, scaled so that activations keep the size of their inputs."""
    generator = torch.Generator().manual_seed(seed)
    return {name: _weight(name, shape, generator) for name, shape in shapes}


def random_lora(*, seed: int, width: int = HEAD_DIM, rank: int = 2) -> StateDict:
    """Return a small random LoRA of one layer, for a transformer of a width."""
    generator = torch.Generator().manual_seed(seed)
    module = "diffusion_model.blocks.0.self_attn.q"
    up, down = (0.1 * torch.randn(size, generator=generator) for size in ((width, rank), (rank, width)))
    return {f"{module}.lora_up.weight": up, f"{module}.lora_down.weight": down}


def number_of_heads(dim: int) -> int:
    """Return the number of attention heads of a transformer of a width.

    Raises:
        ValueError: The width is not a whole number of heads.
    """
    if dim % HEAD_DIM:
        nearest = max(HEAD_DIM, round(dim / HEAD_DIM) * HEAD_DIM)
        raise ValueError(f"dim {dim} is not a multiple of {HEAD_DIM}, ComfyUI's head size for Wan (nearest: {nearest})")
    return dim // HEAD_DIM


def _weight(name: str, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Draw a weight that keeps the variance of activations: scaled by fan-in, gains of norms near 1, biases near 0."""
    noise = torch.randn(shape, generator=generator)
    if name.endswith("modulation"):
        return noise / math.sqrt(shape[-1])
    if name.endswith("bias"):
        return 0.1 * noise
    if name.endswith("gamma") or len(shape) == 1:
        return 1 + 0.1 * noise
    return noise / math.sqrt(math.prod(shape[1:]))


def _transformer(dim: int, ffn_dim: int, layers: int, *, in_channels: int, image: bool) -> Shapes:
    number_of_heads(dim)  # raises where there is no such network
    yield from _layer("patch_embedding", dim, in_channels, *PATCH_SHAPE)
    yield from _layer("text_embedding.0", dim, TEXT_DIM)
    yield from _layer("text_embedding.2", dim, dim)
    yield from _layer("time_embedding.0", dim, TIME_FREQUENCIES)
    yield from _layer("time_embedding.2", dim, dim)
    yield from _layer("time_projection.1", 6 * dim, dim)
    for index in range(layers):
        yield from _transformer_block(f"blocks.{index}", dim, ffn_dim, image=image)
    yield "head.modulation", (1, 2, dim)
    yield from _layer("head.head", math.prod(PATCH_SHAPE) * CHANNELS, dim)
    if image:
        yield from _layer("img_emb.proj.0", CLIP_VISION_DIM)
        yield from _layer("img_emb.proj.1", CLIP_VISION_DIM, CLIP_VISION_DIM)
        yield from _layer("img_emb.proj.3", dim, CLIP_VISION_DIM)
        yield from _layer("img_emb.proj.4", dim)


def _transformer_block(name: str, dim: int, ffn_dim: int, *, image: bool) -> Shapes:
    yield f"{name}.modulation", (1, 6, dim)
    for attention in ("self_attn", "cross_attn"):
        for projection in "qkvo":
            yield from _layer(f"{name}.{attention}.{projection}", dim, dim)
        for norm in ("norm_q", "norm_k"):
            yield f"{name}.{attention}.{norm}.weight", (dim,)
    if image:
        for projection in ("k_img", "v_img"):
            yield from _layer(f"{name}.cross_attn.{projection}", dim, dim)
        yield f"{name}.cross_attn.norm_k_img.weight", (dim,)
    yield from _layer(f"{name}.norm3", dim)
    yield from _layer(f"{name}.ffn.0", ffn_dim, dim)
    yield from _layer(f"{name}.ffn.2", dim, ffn_dim)


def _vae(dim: int) -> Shapes:
    yield from _vae_encoder(dim)
    yield from _layer("conv1", 2 * CHANNELS, 2 * CHANNELS, 1, 1, 1)
    yield from _layer("conv2", CHANNELS, CHANNELS, 1, 1, 1)
    yield from _vae_decoder(dim)


def _vae_encoder(dim: int) -> Shapes:
    """List the encoder: three halvings, the first in space only, the others in time as well."""
    widths = [dim * factor for factor in VAE_WIDTHS]
    yield from _layer("encoder.conv1", dim, 3, 3, 3, 3)
    number, width = 0, dim
    for level, out in enumerate(widths):
        for _ in range(2):
            yield from _residual(f"encoder.downsamples.{number}", width, out)
            number, width = number + 1, out
        if level < len(widths) - 1:
            yield from _layer(f"encoder.downsamples.{number}.resample.1", out, out, 3, 3)
            if level > 0:
                yield from _layer(f"encoder.downsamples.{number}.time_conv", out, out, 3, 1, 1)
            number += 1
    yield from _vae_middle("encoder.middle", width)
    yield "encoder.head.0.gamma", (width, 1, 1, 1)
    yield from _layer("encoder.head.2", 2 * CHANNELS, width, 3, 3, 3)


def _vae_decoder(dim: int) -> Shapes:
    """List the decoder: three doublings, the last in space only. Each halves the width, which the next level then sets."""
    widths = [dim * factor for factor in reversed(VAE_WIDTHS)]
    yield from _layer("decoder.conv1", widths[0], CHANNELS, 3, 3, 3)
    yield from _vae_middle("decoder.middle", widths[0])
    number, width = 0, widths[0]
    for level, out in enumerate(widths):
        for _ in range(3):
            yield from _residual(f"decoder.upsamples.{number}", width, out)
            number, width = number + 1, out
        if level < len(widths) - 1:
            width = out // 2
            yield from _layer(f"decoder.upsamples.{number}.resample.1", width, out, 3, 3)
            if level < len(widths) - 2:
                yield from _layer(f"decoder.upsamples.{number}.time_conv", 2 * out, out, 3, 1, 1)
            number += 1
    yield "decoder.head.0.gamma", (width, 1, 1, 1)
    yield from _layer("decoder.head.2", 3, width, 3, 3, 3)


def _vae_middle(name: str, width: int) -> Shapes:
    yield from _residual(f"{name}.0", width, width)
    yield f"{name}.1.norm.gamma", (width, 1, 1)
    yield from _layer(f"{name}.1.to_qkv", 3 * width, width, 1, 1)
    yield from _layer(f"{name}.1.proj", width, width, 1, 1)
    yield from _residual(f"{name}.2", width, width)


def _residual(name: str, width: int, out: int) -> Shapes:
    yield f"{name}.residual.0.gamma", (width, 1, 1, 1)
    yield from _layer(f"{name}.residual.2", out, width, 3, 3, 3)
    yield f"{name}.residual.3.gamma", (out, 1, 1, 1)
    yield from _layer(f"{name}.residual.6", out, out, 3, 3, 3)
    if out != width:
        yield from _layer(f"{name}.shortcut", out, width, 1, 1, 1)


def _layer(name: str, *shape: int) -> Shapes:
    """List weight and bias of a linear layer, a convolution or (one axis) a norm."""
    yield f"{name}.weight", shape
    yield f"{name}.bias", shape[:1]


CHECKPOINTS: dict[str, Callable[[], StateDict]] = {
    "diffusion_models/tiny_random_wan_t2v.safetensors": t2v_state_dict,
    "diffusion_models/tiny_random_wan_i2v.safetensors": i2v_state_dict,
    "vae/tiny_random_wan_vae.safetensors": lambda: vae_state_dict(dim=4),  # narrow: decoding dominates the time on a CPU
}


def write_checkpoints(models: Path) -> list[Path]:
    """Write the checkpoints into ComfyUI's ``models`` folder, each atomically, and return their paths."""
    for name, state_dict in CHECKPOINTS.items():
        with atomic_file(models / name) as partial:
            save_file(state_dict(), partial)
    return [models / name for name in CHECKPOINTS]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Write tiny random Wan2.1 checkpoints into ComfyUI's models folder.")
    parser.add_argument("models", type=Path, help="for example .host/base/models")
    for path in write_checkpoints(parser.parse_args().models):
        print(path)
