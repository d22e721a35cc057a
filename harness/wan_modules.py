"""Where ComfyUI is, and its two Wan classes, for recipes and scripts that run outside it."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from pyramid.latent_shape import CHANNELS

ROOT = Path(__file__).resolve().parents[1]
VAE_DIM_MULT = (1, 2, 4, 4)


def host_folder() -> Path:
    """ComfyUI's folder: `$COMFYUI_DIR`, the checkout in .host, or the host that this pack is installed in."""
    candidates = [os.environ.get("COMFYUI_DIR"), ROOT / ".host" / "ComfyUI", ROOT.parents[1]]
    for folder in filter(None, candidates):
        if (Path(folder) / "comfy" / "ldm" / "wan").is_dir():
            return Path(folder)
    tried = ", ".join(str(folder) for folder in candidates if folder)
    raise FileNotFoundError(f"ComfyUI not found; looked in {tried}. Set COMFYUI_DIR to its folder, or run `make set-up`")


def use_host() -> None:
    """Make `comfy` importable, on the CPU where there is no accelerator. The command line stays ours."""
    if "comfy" not in sys.modules and str(host_folder()) not in sys.path:
        sys.path.insert(0, str(host_folder()))
    import comfy.cli_args

    if "comfy.model_management" not in sys.modules and not torch.cuda.is_available():
        comfy.cli_args.args.cpu = True


def build_vae(*, dim: int) -> torch.nn.Module:
    """The host's Wan 2.1 VAE of width `dim`, weights uninitialised. Its loader builds the same from a state dict."""
    use_host()
    from comfy.ldm.wan.vae import WanVAE

    return WanVAE(
        dim=dim, z_dim=CHANNELS, dim_mult=list(VAE_DIM_MULT), num_res_blocks=2, temperal_downsample=[False, True, True]
    )


def build_transformer(*, dim: int, ffn_dim: int, layers: int, in_dim: int = CHANNELS) -> torch.nn.Module:
    """The host's Wan 2.1 text-to-video transformer, weights uninitialised. The host's loader wants heads of 128.

    in_dim: 36 takes mask and image beside the noisy latent, as Wan 2.2's image-to-video transformer does.
    """
    if dim % 128:
        nearest = max(128, round(dim / 128) * 128)
        raise ValueError(f"dim {dim} must be a multiple of 128, the host's head size for Wan (nearest: {nearest})")
    use_host()
    import comfy.ops
    from comfy.ldm.wan.model import WanModel

    return WanModel(
        model_type="t2v",
        dim=dim,
        ffn_dim=ffn_dim,
        num_heads=dim // 128,
        num_layers=layers,
        in_dim=in_dim,
        out_dim=CHANNELS,
        dtype=torch.float32,
        operations=comfy.ops.disable_weight_init,
    )


def latent_format():
    """The host's Wan 2.1 latent format: `process_in` and `process_out` between host latents and model latents."""
    use_host()
    import comfy.latent_formats

    return comfy.latent_formats.Wan21()


@contextmanager
def differentiable() -> Iterator[None]:
    """The host's networks give gradients: newer hosts have fused operations that do not, and leave them out in training."""
    use_host()
    from comfy import model_management

    before = getattr(model_management, "in_training", None)
    model_management.in_training = True
    try:
        yield
    finally:
        model_management.in_training = before
