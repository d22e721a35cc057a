"""Bring latents to another size through the pixels: decode them, resize the video, and encode it again.

This costs a decode and an encode at every change of size. It is the reference that fitted lifts are compared with.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import comfy.model_management
import comfy.utils
import torch
from torch import Tensor

from ...pyramid.latent_shape import latent_frames, video_frames
from ...pyramid.lift import FunctionLift
from ...pyramid.neighbourhoods import Size

TILE, OVERLAP = 512, 64
"""Side and overlap of tiles in pixels, those of ComfyUI's tiled VAE nodes."""


def pixel_lift(vae: Any) -> FunctionLift:
    """Return the lift through the pixels of a VAE; it serves every change of size, upwards and downwards."""

    def resized(clean: Tensor, size: Size) -> Tensor:
        return torch.cat([_resized_latent(vae, clip, size) for clip in clean.split(1)])

    return FunctionLift(resized)


def encode(vae: Any, video: Tensor) -> Tensor:
    """Return the latent ``(1, C, T, h, w)`` of a video ``(frames, H, W, 3)`` in 0..1, in the scale of the VAE."""
    comfy.model_management.throw_exception_if_processing_interrupted()
    shape = (1, 3, video.shape[0], *video.shape[1:3])
    if hasattr(vae, "encode_tiled") and _exceeds_memory(vae, getattr(vae, "memory_used_encode", None), shape):
        return vae.encode_tiled(video[..., :3], tile_x=TILE, tile_y=TILE, overlap=OVERLAP)
    return vae.encode(video[..., :3])


def encode_clips(vae: Any, clips: Tensor) -> Tensor:
    """Return the latents ``(B, C, T, h, w)`` of small clips ``(B, frames, H, W, 3)`` in 0..1, encoded together.

    ComfyUI crops the frames of a batch to a multiple of the VAE's downsampling in space. The clips are therefore extended to
    such a multiple, and the latent frames of the extension are dropped; a Wan VAE is causal, so the others do not depend on it.
    """
    frames = clips.shape[1]
    if frames == 1 or len(clips) == 1:
        return torch.cat([encode(vae, clip) for clip in clips])
    comfy.model_management.throw_exception_if_processing_interrupted()
    extension = clips[:, -1:].expand(-1, -frames % vae.spacial_compression_encode(), -1, -1, -1)
    return vae.encode(torch.cat([clips, extension], dim=1))[:, :, : latent_frames(frames)]


def decode(vae: Any, latent: Tensor) -> Tensor:
    """Return the video ``(frames, H, W, 3)`` in 0..1 of a latent ``(1, C, T, h, w)`` in the scale of the VAE."""
    comfy.model_management.throw_exception_if_processing_interrupted()
    if hasattr(vae, "decode_tiled") and _exceeds_memory(vae, getattr(vae, "memory_used_decode", None), latent.shape):
        pixels = vae.spacial_compression_decode()
        tile, overlap = TILE // pixels, OVERLAP // pixels
        video = vae.decode_tiled(latent, tile_x=tile, tile_y=tile, overlap=overlap)
    else:
        video = vae.decode(latent)
    return video.reshape(-1, *video.shape[-3:])


def resize_video(video: Tensor, *, frames: int, height: int, width: int) -> Tensor:
    """Return a video ``(T, H, W, 3)`` at another size: bicubic upwards, by area downwards, linear in time."""
    times = torch.linspace(0, video.shape[0] - 1, frames)
    before = times.floor().long()
    after = (before + 1).clamp(max=video.shape[0] - 1)
    video = torch.lerp(video[before], video[after], (times - before).to(video)[:, None, None, None])
    method = "bicubic" if height * width > video.shape[1] * video.shape[2] else "area"
    resized = comfy.utils.common_upscale(video.movedim(-1, 1), width, height, method, "disabled")
    return resized.movedim(1, -1).clamp(0.0, 1.0)


def _resized_latent(vae: Any, latent: Tensor, size: Size) -> Tensor:
    frames, height, width = size
    pixels = vae.spacial_compression_encode()
    video = resize_video(decode(vae, latent), frames=video_frames(frames), height=height * pixels, width=width * pixels)
    return encode(vae, video)


def _exceeds_memory(vae: Any, estimate: Callable[..., float] | None, shape: Sequence[int]) -> bool:
    """Return whether ComfyUI estimates that a whole video needs more memory than the device has."""
    dtype, device = getattr(vae, "vae_dtype", None), getattr(vae, "device", None)
    if estimate is None or dtype is None or device is None:
        return False
    total: Any = comfy.model_management.get_total_memory(device)
    return estimate(shape, dtype) > total
