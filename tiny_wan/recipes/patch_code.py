"""The linear 4x8x8 patch code that fixes the tiny VAE's latent space.

A Wan latent cell stands for 4 frames of 8x8 pixels (a cell of the first latent frame for a single frame, repeated four times
here). The best linear code of such patches with 16 components is their principal components. The tiny VAE's encoder is trained
to compute this code, and its decoder to invert it with the help of the neighbouring cells. The latent space is therefore known
before any training, and the transformer's training clips are encoded by one matrix product.

Components are scaled by the square root of their standard deviation (half-whitened: structure stays stronger than detail, as in
a trained VAE) and mixed by a Hadamard matrix, which distributes the energy evenly: all 16 channels have unit variance, as
ComfyUI expects of model latents.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
from einops import rearrange
from safetensors.torch import load_file, save_file
from torch import Tensor

from pyramid.latent_shape import CHANNELS

from ..world.scenes import clips

PATCH = (4, 8, 8)  # frames, height, width of a latent cell
FIT_SIZES = (  # frames, side, share: mostly the standard clip, some of every smaller stage
    (17, 128, 0.6),
    (9, 64, 0.2),
    (17, 64, 0.1),
    (5, 32, 0.1),
)


@dataclass(frozen=True)
class PatchCode:
    """A linear code of patches, flattened as (p c q r), in -1..1.

    Attributes:
        mean: Mean patch (768,), subtracted before encoding.
        encode: Matrix (768, 16).
        decode: Matrix (16, 768).
    """

    mean: Tensor
    encode: Tensor
    decode: Tensor

    def latents(self, video: Tensor) -> Tensor:
        """Encode videos (B, 3, 1 + 4k, 8h, 8w) in -1..1 as model latents (B, 16, 1 + k, h, w) of about unit variance."""
        return rearrange((patches(video) - self.mean) @ self.encode, "b t h w c -> b c t h w")

    def video(self, latents: Tensor) -> Tensor:
        """Reconstruct videos (B, 3, 1 + 4k, 8h, 8w) linearly, every patch from its own latent cell."""
        values = rearrange(latents, "b c t h w -> b t h w c") @ self.decode + self.mean
        p, q, r = PATCH
        video = rearrange(values, "b t h w (p c q r) -> b c (t p) (h q) (w r)", p=p, q=q, r=r)
        return torch.cat([video[:, :, :p].mean(dim=2, keepdim=True), video[:, :, p:]], dim=2)

    def to(self, device: torch.device | str) -> PatchCode:
        """Return a copy on the device."""
        return PatchCode(self.mean.to(device), self.encode.to(device), self.decode.to(device))

    def save(self, path: Path) -> None:
        """Write the code as a safetensors file."""
        save_file({"mean": self.mean, "encode": self.encode.contiguous(), "decode": self.decode.contiguous()}, path)

    @staticmethod
    def load(path: Path) -> PatchCode:
        """Read a file written by `save`."""
        return PatchCode(**load_file(path))


def patches(video: Tensor) -> Tensor:
    """Cut videos (B, 3, 1 + 4k, 8h, 8w) into patches (B, 1 + k, h, w, 768); the first frame is repeated to fill its patch."""
    p, q, r = PATCH
    if (video.shape[2] - 1) % p or video.shape[3] % q or video.shape[4] % r:
        raise ValueError(
            f"a clip must have 1 + 4k frames and sides divisible by 8; got {tuple(video.shape[2:])} (frames, height, width)"
        )
    video = torch.cat([video[:, :, :1].expand(-1, -1, p, -1, -1), video[:, :, 1:]], dim=2)
    return rearrange(video, "b c (t p) (h q) (w r) -> b t h w (p c q r)", p=p, q=q, r=r)


def fit(*, seed: int, clips_per_size: int = 192) -> PatchCode:
    """Fit the principal components of the generator's patches over `FIT_SIZES`: deterministic, about 10 s on one core."""
    mean, second = torch.zeros(768, dtype=torch.float64), torch.zeros(768, 768, dtype=torch.float64)
    for frames, side, share in FIT_SIZES:
        stream = clips(seed=seed, batch=32, frames=frames, height=side, width=side)
        for _, video in islice(stream, clips_per_size // 32):
            rows = patches(video).flatten(0, 3).double()
            weight = share / (len(rows) * (clips_per_size // 32))
            mean += weight * rows.sum(dim=0)
            second += weight * rows.T @ rows
    variance, axes = torch.linalg.eigh(second - torch.outer(mean, mean))
    variance, axes = variance.flip(0)[:CHANNELS], axes.flip(1)[:, :CHANNELS]
    axes = axes * axes.sum(dim=0).sign()  # an eigenvector's sign is arbitrary: fixed, a refit gives the same code
    scale = variance.pow(0.25) * variance.sqrt().mean().sqrt()  # half-whitened; mean variance of the scaled components is 1
    mix = hadamard(CHANNELS)
    return PatchCode(mean.float(), ((axes / scale) @ mix).float(), (mix.T @ (axes * scale).T).float())


def hadamard(size: int) -> Tensor:
    """Return the orthonormal Hadamard matrix of a power-of-two size, by Sylvester's construction, in float64."""
    matrix = torch.ones(1, 1, dtype=torch.float64)
    while len(matrix) < size:
        matrix = torch.cat([torch.cat([matrix, matrix], 1), torch.cat([matrix, -matrix], 1)], 0)
    return matrix / size**0.5
