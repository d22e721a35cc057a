"""Bring what a network reads frame by frame to half the frame rate, for the stages of pyramids that halve time.

At half the rate, frame 0 of the latent stays and every following pair of frames becomes one, which ends with the pair's last
video frame. What holds latents keeps the later one of each pair. What holds video frames keeps every second one; if four of
them are packed in a latent frame, the second, fourth, sixth and eighth of a pair.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from einops import rearrange
from torch import Tensor

from ...pyramid.latent_shape import VAE_TIME

WINDOW = 2 * VAE_TIME
"""Audio frames that HuMo reads for a latent frame: those of its four video frames and two more on each side."""

MARGIN = (WINDOW - VAE_TIME) // 2
"""Audio frames of a window before and after its video frames."""


def halve_pairs(value: Tensor, axis: int) -> Tensor:
    """Return frame 0 and the later one of each following pair."""
    return torch.cat([value.narrow(axis, 0, 1), value.movedim(axis, 0)[2::2].movedim(0, axis)], dim=axis)


def halve_packed_frames(value: Tensor, layout: str, stills: int = 1) -> Tensor:
    """Return groups of four video frames, packed in one latent frame each, at half the frame rate.

    Args:
        value: Such as a mask of given frames, camera rays, or audio.
        layout: Its axes for einops, where ``t`` are latent frames and ``four`` the video frames of each.
        stills: Latent frames at the start that stay as they are: frame 0, and references before it.
    """
    others = [axis for axis in layout.replace("(", "").replace(")", "").split() if axis not in ("t", "four")]
    packed = f"t four {' '.join(others)}"
    groups = rearrange(value, f"{layout} -> {packed}", four=VAE_TIME)
    video = groups[stills:].flatten(0, 1)[1::2]
    whole = len(video) // VAE_TIME
    video = video[: whole * VAE_TIME].reshape(whole, VAE_TIME, *video.shape[1:])
    return rearrange(torch.cat([groups[:stills], video]), f"{packed} -> {layout}")


def halve_mask(mask: Tensor) -> Tensor:
    """Return a mask of given video frames, ``(B, 4, T, H, W)``, or of latent frames, whose channels ComfyUI averages."""
    if mask.shape[1] != VAE_TIME:
        mask = mask.mean(dim=1, keepdim=True).expand(-1, VAE_TIME, -1, -1, -1)
    return halve_packed_frames(mask, "b four t h w")


def halve_camera(rays: Tensor, frames: int) -> Tensor:
    """Return camera rays ``(B, 6 * 4, T, H, W)``: each of the six numbers of a ray has four video frames."""
    if rays.shape[2] != frames:
        return rays
    return halve_packed_frames(rays, "b (c four) t h w") if rays.shape[1] % VAE_TIME == 0 else halve_pairs(rays, 2)


def halve_audio(audio: Tensor) -> Tensor:
    """Return audio ``(B, layers, channels, 4 * T)`` as S2V reads it, four frames for each latent frame."""
    return halve_packed_frames(audio[..., : audio.shape[-1] // VAE_TIME * VAE_TIME], "b l c (t four)")


def halve_audio_windows(windows: Tensor, frames: int) -> Tensor:
    """Return audio ``(B, T, 8, layers, channels)`` as HuMo reads it, in overlapping windows.

    Neighbouring windows share four frames. Joined, they are the audio of all video frames and of two more on each side, of
    which every second frame is cut into windows again. Two frames beyond the end are unknown; the last known one stands in
    for them, which is silence where the audio ends with the video.

    Args:
        windows: The first holds the audio around video frame 0, after three empty frames.
        frames: Latent frames of the video; windows after them stay as they are.
    """
    video, rest = windows[:, :frames], windows[:, frames:]
    empty = WINDOW - 2 * MARGIN - 1
    sound = torch.cat([video[:, 0, empty:], video[:, 1:, -VAE_TIME:].flatten(1, 2)], dim=1)
    coarse = (video.shape[1] + 1) // 2
    times = torch.arange(-MARGIN, VAE_TIME * (coarse - 1) + MARGIN + 1, device=windows.device)
    sound = sound[:, (2 * times + MARGIN).clamp(0, sound.shape[1] - 1)]
    first = torch.cat([video[:, 0, :empty], sound[:, : 2 * MARGIN + 1]], dim=1)
    later = sound[:, 1:].unfold(1, WINDOW, VAE_TIME).movedim(-1, 2)
    return torch.cat([first[:, None], later, rest], dim=1)


def halve_faces(faces: Tensor) -> Tensor:
    """Return a face video ``(B, 3, frames, H, W)`` as Animate reads it.

    Frame 0 of Animate's latent is the reference image, so the first pair has five video frames and the others eight. Animate
    reads, for each latent frame, the faces that end with its last video frame: for the first pair video frame 4.
    """
    return faces[:, :, min(VAE_TIME, faces.shape[2] - 1) :: 2]


def halve_motion_before(latent: Tensor) -> Tensor:
    """Return latents ``(B, C, frames, H, W)`` of the frames before the video: the last one and every second before it."""
    return latent[:, :, (latent.shape[2] - 1) % 2 :: 2]


BY_FRAME: Mapping[tuple[str, int], Callable[[Tensor, int], Tensor]] = {
    ("concat_mask", 5): lambda mask, _: halve_mask(mask),
    ("camera_conditions", 5): halve_camera,
    ("driving_mask_28ch", 5): lambda mask, _: halve_packed_frames(mask, "b t (four c) h w"),
    ("ref_mask_28ch", 5): lambda mask, frames: halve_packed_frames(mask, "b t (four c) h w", mask.shape[1] - frames + 1),
    ("audio_embed", 3): lambda music, _: music,  # WanDancer stretches it over the frames that there are
    ("audio_embed", 4): lambda audio, _: halve_audio(audio),
    ("audio_embed", 5): halve_audio_windows,
    ("audio_embeds", 4): lambda tokens, _: halve_pairs(tokens, 1),  # InfiniteTalk's tokens of each latent frame
    ("face_video_pixels", 5): lambda faces, _: halve_faces(faces),
    ("reference_motion", 5): lambda latent, _: halve_motion_before(latent),
    ("render_video", 4): lambda pictures, _: pictures[::2],  # Uni3C's video of the camera's path
}
"""How what has a layout of its own gets half the frame rate, by its name and number of axes, from it and the latent frames."""
