"""ComfyUI's Wan networks and latent format, for recipes and scripts that run outside ComfyUI."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from pyramid.latent_shape import CHANNELS
from tiny_wan.checkpoints import number_of_heads

from .in_process import use_comfyui

if TYPE_CHECKING:
    from comfy.latent_formats import Wan21
    from comfy.ldm.wan.model import WanModel
    from comfy.ldm.wan.vae import WanVAE

VAE_DIM_MULT = (1, 2, 4, 4)


def build_vae(*, dim: int) -> WanVAE:
    """Build ComfyUI's Wan 2.1 VAE of width ``dim`` with uninitialised weights, as its loader does from a state dict."""
    _use_comfyui()
    from comfy.ldm.wan.vae import WanVAE

    return WanVAE(
        dim=dim, z_dim=CHANNELS, dim_mult=list(VAE_DIM_MULT), num_res_blocks=2, temperal_downsample=[False, True, True]
    )


def build_transformer(*, dim: int, ffn_dim: int, layers: int, in_dim: int = CHANNELS) -> WanModel:
    """Build ComfyUI's Wan 2.1 text-to-video transformer with uninitialised weights.

    Args:
        dim: Width, a multiple of 128: ComfyUI's loader takes heads of that size.
        ffn_dim: Width of the feed-forward layers.
        layers: Number of blocks.
        in_dim: Input channels; 36 takes mask and image beside the noisy latent, as Wan 2.2's image-to-video transformer does.
    """
    heads = number_of_heads(dim)
    _use_comfyui()
    import comfy.ops
    from comfy.ldm.wan.model import WanModel

    return WanModel(
        model_type="t2v",
        dim=dim,
        ffn_dim=ffn_dim,
        num_heads=heads,
        num_layers=layers,
        in_dim=in_dim,
        out_dim=CHANNELS,
        dtype=torch.float32,
        operations=comfy.ops.disable_weight_init,
    )


def latent_format() -> Wan21:
    """Return ComfyUI's Wan 2.1 latent format.

    ``process_in`` converts the latents that VAE nodes exchange to those that the model sees, ``process_out`` back.
    """
    _use_comfyui()
    import comfy.latent_formats

    return comfy.latent_formats.Wan21()


@contextmanager
def differentiable() -> Iterator[None]:
    """Let gradients flow through ComfyUI's networks: newer versions use fused operations without gradients outside training."""
    _use_comfyui()
    from comfy import model_management

    before = getattr(model_management, "in_training", None)
    setattr(model_management, "in_training", True)  # noqa: B010  (older versions do not declare it)
    try:
        yield
    finally:
        setattr(model_management, "in_training", before)  # noqa: B010


def _use_comfyui() -> None:
    use_comfyui(cpu=not torch.cuda.is_available(), pack=False)
