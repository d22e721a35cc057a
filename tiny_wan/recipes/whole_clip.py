"""The host's Wan VAE on whole clips at once.

The host encodes and decodes chunk by chunk with a cache, which is right for long videos and useless for training. These two
functions run the same modules over all frames. They equal the host's result up to rounding, because every convolution is
causal and the cache holds exactly the frames that the convolution's padding would otherwise replace by zeros. Only the
temporal resampling needs care: the first frame goes round it, and when decoding the second one starts its own history.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


def encode(vae: nn.Module, video: Tensor) -> Tensor:
    """(B, 3, 1 + 4k, 8h, 8w) in -1..1 -> the mean of the posterior, a host latent: (B, 16, 1 + k, h, w)."""
    x = vae.encoder.conv1(video)
    for layer in vae.encoder.downsamples:
        x = layer(x)
        if getattr(layer, "mode", None) == "downsample3d" and x.shape[2] > 1:
            x = torch.cat([x[:, :, :1], layer.time_conv(x)], dim=2)
    for layer in (*vae.encoder.middle, *vae.encoder.head):
        x = layer(x)
    return vae.conv1(x).chunk(2, dim=1)[0]


def decode(vae: nn.Module, latent: Tensor) -> Tensor:
    """Host latent (B, 16, 1 + k, h, w) -> video (B, 3, 1 + 4k, 8h, 8w), about -1..1."""
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


def _twice_the_frames(layer: nn.Module, x: Tensor) -> Tensor:
    """(B, C, T, H, W) -> (B, C, 2T, H, W): the temporal convolution makes two frames' channels of each frame."""
    batch, channels, frames, height, width = x.shape
    pairs = layer.time_conv(x).reshape(batch, 2, channels, frames, height, width)
    return torch.stack((pairs[:, 0], pairs[:, 1]), dim=3).reshape(batch, channels, 2 * frames, height, width)
