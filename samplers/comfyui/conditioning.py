"""Conditioning that follows the stage.

The host fits image conditioning to the latent in height and width, but not in time. Everything that carries frames has
to be resampled here, or be refused in words: a wrong number of frames is a tensor error deep in the model otherwise.
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
"""Keys of a cond that belong to the full length or size, and what an artist calls them."""

RESAMPLED = ("concat_latent_image", "concat_mask")
SIZE_FREE = ("cross_attn", "pooled_output", "clip_vision_output", "reference_latents", "context_latents", "mask")
"""Text and image tokens and reference latents run at any size; the host scales masks itself."""


Conds = dict[str, list[dict]]
"""What a guider keeps: by name ("positive", "negative") a list of conds, each a dict of tensors and options."""


def stage_conds(conds: Conds, frames: int, downsample_axes: Sequence[str]) -> Conds:
    """A guider's conds for one stage: new lists and dicts, tensors shared or replaced, never written into.

    frames: latent frames of the stage. halves: the axes that the transitions after this stage double.
    """
    return {name: [_stage_cond(cond, frames, downsample_axes) for cond in group] for name, group in conds.items()}


def check_conds(conds: Conds, full: LatentShape, stages: tuple[Stage, ...]) -> None:
    """ValueError in plain words for conditioning that cannot follow the stages."""
    if len(stages) == 1:
        return
    time_changes = stages[0].shape.frames != full.frames
    for cond in (cond for group in conds.values() for cond in group):
        for key, what in UNSUPPORTED.items():
            if cond.get(key) is not None:
                raise ValueError(f"the conditioning carries {what}, which a pyramid cannot resize yet; sample without it")
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
                    f"the conditioning carries '{key}' with {full.frames} frames, and a pyramid does not know how to "
                    "resize it in time; use a pyramid that halves height and width only"
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
    """Image conditioning ``(B, C, T, H, W)`` for a coarser stage.

    In time the first frame stays and of each pair after it the later one: the coarse latent stands for the frames of
    both at half the rate, ends with the last of them, and a still stays what it was. In space blocks are averaged
    (odd sides are left to the host).
    """
    if "T" in axes:
        latent = torch.cat([latent[:, :, :1], latent[:, :, 2::2]], dim=2)
    if "HW" in axes and latent.shape[-2] % 2 == 0 and latent.shape[-1] % 2 == 0:
        latent = make_resize("haar", "HW").down(latent)
    return latent


def halve_mask(mask: Tensor, axes: str) -> Tensor:
    """A mask of given pixel frames, ``(B, 1 or 4, T, H, W)``; its four channels are the pixel frames of a latent frame.

    At half the frame rate every second pixel frame is kept, so of the eight of a pair of latent frames the second,
    fourth, sixth and eighth make the coarse one. Height and width are the host's.
    """
    if "T" not in axes:
        return mask
    if mask.shape[1] == 1:
        mask = mask.expand(-1, 4, -1, -1, -1)
    pixels = rearrange(mask[:, :, 1:], "b four t h w -> b (t four) h w")[:, 1::2]
    pixels = pixels[:, : pixels.shape[1] // 4 * 4]
    return torch.cat([mask[:, :, :1], rearrange(pixels, "b (t four) h w -> b four t h w", four=4)], dim=2)


def _check_frames(key: str, value: Tensor, frames: int) -> Tensor:
    got = value.shape[2]
    if key == "concat_mask" and got < frames:
        return value  # the host fills the rest
    if got != frames:
        raise ValueError(
            f"the image conditioning ('{key}') was made for another length than the latent: a stage of {frames} latent "
            f"frames would get {got}; give both the same number of frames"
        )
    return value
