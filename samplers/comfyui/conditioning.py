"""Fit conditioning to the size of a stage.

ComfyUI fits image conditioning to the latent in height and width, but not in time. Whatever carries frames is resampled here
or rejected with a clear error; a wrong number of frames would end in a tensor error deep inside the model.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from einops import rearrange
from torch import Tensor

from ...pyramid.latent_shape import LatentShape
from ...pyramid.resize import make_resize
from ...pyramid.stages import Stage

UNSUPPORTED = {
    "vace_frames": "VACE control frames",
    "vace_mask": "a VACE mask",
    "time_dim_concat": "frames appended in time (Phantom, reference video)",
    "camera_conditions": "camera motion",
    "control_video": "a control video",
    "pose_video_latent": "a pose video",
    "face_video_pixels": "a face video",
    "audio_embed": "audio",
    "reference_motion": "a reference motion",
    "control": "a ControlNet",
    "gligen": "GLIGEN boxes",
}
"""Keys of a cond that are tied to the full length or size, with the names that error messages use."""

RESAMPLED = ("concat_latent_image", "concat_mask")
SIZE_FREE = ("cross_attn", "pooled_output", "clip_vision_output", "reference_latents", "context_latents", "mask")
"""Text and image tokens and reference latents run at any size; ComfyUI scales masks itself."""

Conds = dict[str, list[dict]]
"""The conds of a guider by name ("positive", "negative"), each a dict of tensors and options."""


def stage_conds(conds: Conds, frames: int, downsample_axes: Sequence[str]) -> Conds:
    """Return a guider's conds for one stage; the originals stay unchanged.

    Args:
        conds: The guider's conds at full size.
        frames: Latent frames of the stage.
        downsample_axes: Axes of the transitions after this stage, in running order.

    Raises:
        ValueError: Image conditioning has another number of frames than the latent.
    """
    return {name: [_stage_cond(cond, frames, downsample_axes) for cond in group] for name, group in conds.items()}


def check_conds(conds: Conds, full: LatentShape, stages: tuple[Stage, ...]) -> None:
    """Check that the conditioning can be fitted to every stage.

    Args:
        conds: The guider's conds at full size.
        full: Size at full resolution.
        stages: All stages of the pyramid.

    Raises:
        ValueError: A cond is tied to the full length or size.
    """
    if len(stages) == 1:
        return
    time_changes = stages[0].shape.frames != full.frames
    for cond in (cond for group in conds.values() for cond in group):
        for key, name in UNSUPPORTED.items():
            if cond.get(key) is not None:
                raise ValueError(f"the conditioning carries {name}, which a pyramid cannot resize yet; sample without it")
        area = cond.get("area")
        if area is not None and area[0] != "percentage":
            raise ValueError(
                "the conditioning has an area in pixels, which would be misplaced in the smaller stages; "
                "use 'Conditioning (Set Area with Percentage)'"
            )
        for key, value in cond.items():
            known = key in RESAMPLED or key in SIZE_FREE
            if time_changes and not known and isinstance(value, Tensor) and value.ndim == 5 and value.shape[2] == full.frames:
                raise ValueError(
                    f"the conditioning carries '{key}' with {full.frames} frames, which a pyramid cannot resize in time; use a "
                    "pyramid that halves height and width only"
                )


def _stage_cond(cond: dict, frames: int, downsample_axes: Sequence[str]) -> dict:
    cond = dict(cond)
    latent, mask = cond.get("concat_latent_image"), cond.get("concat_mask")
    for axes in reversed(downsample_axes):
        if latent is not None:
            latent = halve_latent(latent, axes)
        if mask is not None:
            mask = halve_mask(mask, axes)
    for key, value in (("concat_latent_image", latent), ("concat_mask", mask)):
        if value is not None:
            cond[key] = _check_frames(key, value, frames)
    return cond


def halve_latent(latent: Tensor, axes: str) -> Tensor:
    """Return image conditioning ``(B, C, T, H, W)`` halved over ``axes``.

    In time, the first frame and the later one of each following pair are kept. A coarse latent frame covers the video frames
    of its pair at half the rate and ends with the last of them; a still image is unchanged. In space, blocks of 2x2 are
    averaged; odd sides are left to ComfyUI.
    """
    if "T" in axes:
        latent = torch.cat([latent[:, :, :1], latent[:, :, 2::2]], dim=2)
    if "HW" in axes and latent.shape[-2] % 2 == 0 and latent.shape[-1] % 2 == 0:
        latent = make_resize("haar", "HW").down(latent)
    return latent


def halve_mask(mask: Tensor, axes: str) -> Tensor:
    """Return a mask of given video frames, ``(B, 1 or 4, T, H, W)``, halved over ``axes``.

    The four channels are the video frames of a latent frame. At half the frame rate every second video frame is kept: the
    second, fourth, sixth and eighth of a pair of latent frames become the channels of the coarse one. ComfyUI fits height and
    width itself.
    """
    if "T" not in axes:
        return mask
    if mask.shape[1] == 1:
        mask = mask.expand(-1, 4, -1, -1, -1)
    pixels = rearrange(mask[:, :, 1:], "b four t h w -> b (t four) h w")[:, 1::2]
    pixels = pixels[:, : pixels.shape[1] // 4 * 4]
    return torch.cat([mask[:, :, :1], rearrange(pixels, "b (t four) h w -> b four t h w", four=4)], dim=2)


def _check_frames(key: str, value: Tensor, frames: int) -> Tensor:
    """Return ``value`` if it has the stage's number of latent frames."""
    got = value.shape[2]
    if key == "concat_mask" and got < frames:
        return value  # ComfyUI pads the rest
    if got != frames:
        raise ValueError(
            f"the image conditioning ('{key}') was made for another length than the latent: a stage of {frames} latent "
            f"frames would get {got}; give both the same number of frames"
        )
    return value
