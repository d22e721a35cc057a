"""ComfyUI's Wan VAE on whole clips at once.

ComfyUI encodes and decodes chunk by chunk with a cache, which suits long videos and does not suit training. These two functions
run the same modules over all frames. They equal ComfyUI's result up to rounding, because every convolution is causal and the
cache holds exactly the frames that the convolution's padding would otherwise replace by zeros. Only the temporal resampling is
special: the first frame bypasses it, and in decoding the second frame starts with an empty history.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from comfy.ldm.wan.vae import WanVAE


def encode(vae: WanVAE, video: Tensor) -> Tensor:
    """Return the mean of the posterior as a ComfyUI latent.

    Args:
        vae: The network.
        video: (B, 3, 1 + 4k, 8h, 8w) in -1..1.

    Returns:
        (B, 16, 1 + k, h, w).
    """
    layer: Any
    x = vae.encoder.conv1(video)
    for layer in vae.encoder.downsamples:
        x = layer(x)
        if getattr(layer, "mode", None) == "downsample3d" and x.shape[2] > 1:
            x = torch.cat([x[:, :, :1], layer.time_conv(x)], dim=2)
    for layer in (*vae.encoder.middle, *vae.encoder.head):
        x = layer(x)
    return vae.conv1(x).chunk(2, dim=1)[0]


def decode(vae: WanVAE, latent: Tensor) -> Tensor:
    """Return the video (B, 3, 1 + 4k, 8h, 8w), about in -1..1, of a ComfyUI latent (B, 16, 1 + k, h, w)."""
    x = vae.decoder.conv1(vae.conv2(latent))
    for layer in vae.decoder.middle:
        x = layer(x)
    for layer in vae.decoder.upsamples:
        if getattr(layer, "mode", None) == "upsample3d" and x.shape[2] > 1:
            x = torch.cat([x[:, :, :1], _twice_the_frames(layer, x[:, :, 1:])], dim=2)
        x = layer(x)
    for layer in vae.decoder.head:
        x = layer(x)
    return x


def _twice_the_frames(layer: Any, x: Tensor) -> Tensor:
    """Double the frames, (B, C, T, H, W) -> (B, C, 2T, H, W): the temporal convolution outputs the channels of two frames."""
    batch, channels, frames, height, width = x.shape
    pairs = layer.time_conv(x).reshape(batch, 2, channels, frames, height, width)
    return torch.stack((pairs[:, 0], pairs[:, 1]), dim=3).reshape(batch, channels, 2 * frames, height, width)
