"""Fit conditioning to the size of a stage.

Tensors are recognised by their size: whatever covers the latent's grid, in latents or in pixels, is resized with it, so
conditioning of unknown models works as well. A few kinds with a layout of their own are recognised by name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from einops import rearrange
from torch import Tensor
from torch.nn import functional

from ...pyramid.axes import space_scale
from ...pyramid.latent_shape import VAE_SPACE, VAE_TIME, LatentShape
from ...pyramid.patches import WHOLE
from ...pyramid.resize import make_resize, scaled_sides
from ...pyramid.stages import Stage
from ...pyramid.untrusted import shown
from .finite import key_of_nan, key_of_unusual
from .half_rate import BY_FRAME, halve_pairs

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher

UNSUPPORTED = {
    "control": "a ControlNet",
    "gligen": "GLIGEN boxes",
}
"""Keys of a cond that cannot follow the stages, with the names that error messages use."""

IN_TOKENS = {
    "time_dim_concat": "frames that are read beside the video",
    "context_latents": "reference videos",
}
"""Keys of a cond that the network reads with its own patches, with the names that error messages use."""

MADE_BY_COMFYUI = ("model_conds", "uuid")
"""Keys that ComfyUI adds to a cond."""

NUMBERS = {"start_percent": (0.0, 1.0), "end_percent": (0.0, 1.0), "strength": (0.0, 1000.0)}
"""Numbers of a cond, with their limits."""

SIZE_FREE = frozenset(
    {
        "cross_attn",
        "pooled_output",
        "clip_vision_output",
        "clip_vision_output_ref",
        "clip_vision_output_pose",
        "cross_attn_pose",
        "attention_mask",
        "mask",
        "concat_mask_index",
    }
)
"""Tokens, and masks that ComfyUI scales itself."""

WITHOUT_GRID = frozenset({"audio_embed", "audio_embeds", "face_video_pixels", "render_video"})
"""Audio, crops of a fixed size, and videos that are scaled when they are read."""

STILLS = frozenset({"time_dim_concat", "reference_latents"})
"""Pictures that are read beside the video, in any number."""

TIMED = frozenset(
    {
        "concat_latent_image",
        "vace_frames",
        "vace_mask",
        "control_video",
        "pose_video_latent",
    }
)
"""Keys whose frames can be resampled in time, if there are as many as in the video."""

FROM_FRAME_0 = frozenset({"context_latents", "motion_frames_latent", "init_latents"})
"""Keys of latents whose frames can be resampled in time, in any number from the first frame of the video on."""

MASKS = frozenset({"concat_mask", "driving_mask_28ch", "ref_mask_28ch"})
"""Keys of masks, which are averaged also where latents are lifted."""

COLOURS = 3
"""Length of the axis of colours of a picture."""

LIKE_THE_LATENT = ("concat_latent_image", "concat_mask")
"""Keys that have as many frames as the latent."""

GRID_RATIOS = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
"""Sides of a tensor relative to the latent's that count as covering its grid: latents, pixels, and steps between them."""

Conds = dict[str, list[dict]]
"""The conds of a guider by name ("positive", "negative"), each a dict of tensors and options."""

LatentDown = Callable[[Tensor, str], Tensor]
"""Brings a latent ``(B, C, T, H, W)`` to the next coarser size over the given axes."""


def stage_conds(
    conds: Conds, full: LatentShape, stage: Stage, downsample_axes: Sequence[str], down: LatentDown | None = None
) -> Conds:
    """Return a guider's conds for one stage; the originals stay unchanged.

    Args:
        conds: The guider's conds at full size.
        full: Size of the full-resolution latent.
        stage: The stage.
        downsample_axes: Axes of the transitions after this stage, in running order.
        down: Brings latents to the next coarser size; None averages.

    Raises:
        ValueError: Image conditioning has another number of frames than the latent.
    """
    fit = down or halve_latent
    return {name: [_stage_cond(cond, full, stage, downsample_axes, fit) for cond in group] for name, group in conds.items()}


def check_conds(conds: Conds, full: LatentShape, stages: tuple[Stage, ...]) -> None:
    """Check that the conditioning can be fitted to every stage.

    Args:
        conds: The guider's conds at full size.
        full: Size of the full-resolution latent.
        stages: All stages of the pyramid.

    Raises:
        ValueError: A cond cannot follow the stages.
    """
    if len(stages) == 1:
        return
    time_changes = stages[0].shape.frames != full.frames
    for cond in (cond for group in conds.values() for cond in group):
        for key, name in UNSUPPORTED.items():
            if cond.get(key) is not None:
                raise ValueError(f"the conditioning carries {name}, which cannot be resized; remove it")
        if stages[0].cell != WHOLE:
            _check_read_in_patches(cond)
        area = cond.get("area")
        if area is not None and area[0] != "percentage" and stages[0].cell == WHOLE:
            raise ValueError(
                "the conditioning has an area in pixels, which would be misplaced in the smaller stages; "
                "use 'ConditioningSetAreaPercentageVideo'"
            )
        for key in LIKE_THE_LATENT:
            if isinstance(cond.get(key), Tensor):
                _check_frames(key, cond[key], full.frames)
        if time_changes:
            _check_times(cond, full)


def _check_read_in_patches(cond: dict) -> None:
    """Raise ValueError for a cond that the network would read beside the video, in patches of another size."""
    for key, name in IN_TOKENS.items():
        if cond.get(key) is not None:
            raise ValueError(
                f"the conditioning carries {name}, which patches of several sizes cannot read; use a pyramid of latents, such "
                "as training-free"
            )


def check_finite_conds(conds: Any) -> None:
    """Check that the conds of a guider are prompts of finite numbers.

    Raises:
        ValueError: There are none, or one holds NaN or infinity; the message names it.
    """
    groups = conds if isinstance(conds, Mapping) else {}
    if not groups or not all(isinstance(group, (list, tuple)) and group for group in groups.values()):
        raise ValueError("the GUIDER has no prompts; connect its conditioning")
    for name, group in groups.items():
        for cond in group:
            if not isinstance(cond, Mapping):
                raise ValueError(
                    f"the {name} conditioning is {shown(cond)}; expected the output of 'CLIP Text Encode (Prompt)'"
                )
            values = {key: value for key, value in cond.items() if key not in MADE_BY_COMFYUI}
            if (key := key_of_unusual(values)) is not None:
                raise ValueError(f"the {name} conditioning holds a tensor without plain numbers in '{key}'; encode it again")
            if (nan_key := key_of_nan(values)) is not None:
                raise ValueError(f"the {name} conditioning holds NaN or infinity in '{nan_key}'; encode it again")
            for key, (least, most) in NUMBERS.items():
                number = cond.get(key, least)
                if isinstance(number, bool) or not isinstance(number, (int, float)) or not least <= number <= most:
                    raise ValueError(f"the {name} conditioning has {key} {shown(number)}; expected {least:g} to {most:g}")


def check_widths(conds: Conds, model: ModelPatcher) -> None:
    """Check that the embeddings of prompts are of the text encoder that a MODEL was trained with.

    Raises:
        ValueError: They are of another width or have no tokens.
    """
    try:
        network: Any = model.model.diffusion_model
        width = network.text_embedding[0].in_features
    except (AttributeError, IndexError, TypeError):
        return
    for name, group in conds.items():
        for embedding in (cond["cross_attn"] for cond in group if isinstance(cond.get("cross_attn"), Tensor)):
            if embedding.ndim != 3 or embedding.shape[-1] != width or not embedding.numel():
                size = "x".join(map(str, embedding.shape))
                raise ValueError(
                    f"the {name} conditioning is an embedding of size {size}, but this MODEL takes tokens of width {width}; "
                    "load the text encoder with type 'wan'"
                )


def _check_times(cond: dict, full: LatentShape) -> None:
    """Raise ValueError for a cond with a time axis that cannot be resampled."""
    for key in (key for key in cond if key not in SIZE_FREE | STILLS and key not in MADE_BY_COMFYUI):
        for tensor in _tensors(cond[key]):
            if not follows_time(key, tensor) and (frames := frames_of(tensor, full)):
                raise ValueError(
                    f"the conditioning carries '{key}' with {frames} frames, which a pyramid cannot resize in time; use a "
                    "pyramid that halves height and width only"
                )


def follows_time(key: str, value: Tensor) -> bool:
    """Return whether a value of that name is brought to the frames of a stage."""
    return (key, value.ndim) in BY_FRAME or (key in TIMED | FROM_FRAME_0 and value.ndim == 5)


def _tensors(value: Any) -> Iterator[Tensor]:
    """Yield the tensors among nested values."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (list, tuple, Mapping)):
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from _tensors(item)


def frames_of(value: Tensor, size: LatentShape) -> int | None:
    """Return the number of frames of a tensor with a time axis as long as a video or its latent, or None.

    Which axis is time is not known, so each is taken for it but those that are something else: the rows and columns of what
    covers the latent's grid, three colours, and the batch. Pictures in a row, which have no other axis for it, have their
    frames where a batch would be.
    """
    lengths = {size.frames, VAE_TIME * (size.frames - 1) + 1} - {1}
    return next((length for length in _lengths_without_meaning(value, size) if length in lengths), None)


def _lengths_without_meaning(value: Tensor, size: LatentShape) -> list[int]:
    """Return the lengths of a tensor's axes that are neither batch nor rows, columns or colours."""
    shape = list(value.shape)
    if len(shape) < 3:
        return shape[-1:]
    if len(shape) > 3 and shape[-1] == COLOURS and grid_ratio(value[..., 0], size) is not None:
        return shape[:1] if len(shape) == 4 else shape[1:-3]
    ratio = grid_ratio(value, size)
    others = shape[1:] if ratio is None else shape[1:-2]
    if len(shape) > 3 and others[0] == COLOURS and (ratio is None or ratio > 1):
        del others[0]
    return others or shape[:1]


def _stage_cond(cond: dict, full: LatentShape, stage: Stage, downsample_axes: Sequence[str], down: LatentDown) -> dict:
    cond = dict(cond)
    for key in cond.keys() - SIZE_FREE:
        cond[key] = coarser_entry(key, cond[key], full, downsample_axes, down)
    for key in LIKE_THE_LATENT:
        if isinstance(cond.get(key), Tensor):
            _check_frames(key, cond[key], stage.shape.frames)
    return cond


def coarser_entry(
    key: str, value: Any, full: LatentShape, downsample_axes: Sequence[str], down: LatentDown | None = None
) -> Any:
    """Return a value of any type at the size of a stage; what does not cover the latent's grid is returned as it is.

    Args:
        key: Name of the value, which selects the treatment of a few kinds with a layout of their own.
        value: A tensor at full size, a list or tuple of such, or anything else.
        full: Size of the full-resolution latent.
        downsample_axes: Axes of the transitions after the stage, in running order.
        down: Brings latents to the next coarser size; None averages.
    """
    size = full
    for axes in reversed(downsample_axes):
        coarser = size.coarser(axes)
        value = _coarser(key, value, size, coarser, axes, down or halve_latent)
        size = coarser
    return value


def _coarser(key: str, value: Any, size: LatentShape, coarser: LatentShape, axes: str, down: LatentDown) -> Any:
    """Return one entry of a cond at the next coarser size; what does not cover the latent's grid stays as it is."""
    if isinstance(value, (list, tuple)):
        return type(value)(_coarser(key, item, size, coarser, axes, down) for item in value)
    if not isinstance(value, Tensor) or value.ndim < 4:
        return value
    if key == "vace_mask":
        return halve_block_mask(value, axes)
    by_frame = BY_FRAME.get((key, value.ndim))
    if by_frame is not None and "T" in axes:
        value = by_frame(value, size.frames)
    if key in WITHOUT_GRID:
        return value
    ratio = grid_ratio(value, size)
    if key in MASKS and value.ndim == 5:
        return _resized(value, ratio, coarser, axes)  # ComfyUI would crop a mask to the same shape
    in_time = axes if _follows_in_time(key, value, size.frames) else axes.replace("T", "")
    if "T" in axes and key in TIMED and value.ndim == 5 and value.shape[2] == size.frames - 1:
        value = value[:, :, 1::2]  # without the frame of a reference image, which is frame 0 of the latent
    if "T" in in_time:
        value = value[:, :, : (value.shape[2] - 1) | 1]  # a frame without its pair says nothing
    if ratio is None:
        return halve_latent(value, in_time.replace("HW", "")) if "T" in in_time else value
    if ratio == 1.0 and value.ndim == 5:
        return down(value, in_time)
    value = halve_latent(value, "T") if "T" in in_time else value
    return _resized(value, ratio, coarser, axes)


def _follows_in_time(key: str, value: Tensor, frames: int) -> bool:
    """Return whether a value has the frames of the video from the first on; a pose video may end early."""
    if value.ndim != 5:
        return False
    count = value.shape[2]
    if key in FROM_FRAME_0:
        return 1 < count <= frames
    return key in TIMED and (count == frames or (key == "pose_video_latent" and 1 < count < frames - 1))


def _resized(value: Tensor, ratio: float | None, coarser: LatentShape, axes: str) -> Tensor:
    """Return ``(..., H, W)`` averaged down to its share of the next coarser size, if the axes change height and width."""
    if "HW" not in axes or ratio is None:
        return value
    return _area(value, round(coarser.height * ratio), round(coarser.width * ratio))


def grid_ratio(value: Tensor, size: LatentShape) -> float | None:
    """Return the sides of a tensor relative to the latent's, or None for one that does not cover its grid."""
    height, width = value.shape[-2] / size.height, value.shape[-1] / size.width
    return height if height == width and height in GRID_RATIOS else None


def _area(value: Tensor, height: int, width: int) -> Tensor:
    """Return ``(..., H, W)`` averaged down to a size."""
    flat = value.reshape(-1, 1, *value.shape[-2:])
    return (
        functional.interpolate(flat.float(), (height, width), mode="area").reshape(*value.shape[:-2], height, width).to(value)
    )


def halve_latent(latent: Tensor, axes: str) -> Tensor:
    """Return image conditioning ``(B, C, T, H, W)`` smaller over ``axes``.

    In time, the first frame and the later one of each following pair are kept. A coarse latent frame covers the video frames
    of its pair at half the rate and ends with the last of them; a still image is unchanged. In space, blocks of 2x2 are
    averaged, and a scale keeps the lowest DCT coefficients; odd sides that are halved are left to ComfyUI.
    """
    if "T" in axes:
        latent = halve_pairs(latent, 2)
    if space_scale(axes) is not None:
        return make_resize("dct", axes.replace("T", "")).down(latent)
    if "HW" in axes and latent.shape[-2] % 2 == 0 and latent.shape[-1] % 2 == 0:
        latent = make_resize("haar", "HW").down(latent)
    return latent


def halve_block_mask(mask: Tensor, axes: str) -> Tensor:
    """Return a VACE mask ``(B, 64, T, H, W)``, whose channels are the 8x8 pixels of a latent, smaller over ``axes``."""
    if "T" in axes:
        mask = halve_latent(mask, "T")
    if "HW" not in axes:
        return mask
    pixels = rearrange(mask, "b (y x) t h w -> b t (h y) (w x)", y=VAE_SPACE, x=VAE_SPACE)
    height, width = scaled_sides(mask.shape[-2:], axes)
    pixels = _area(pixels, height * VAE_SPACE, width * VAE_SPACE)
    return rearrange(pixels, "b t (h y) (w x) -> b (y x) t h w", y=VAE_SPACE, x=VAE_SPACE)


def _check_frames(key: str, value: Tensor, frames: int) -> None:
    """Raise ValueError unless image conditioning has the stage's number of latent frames."""
    got = value.shape[2]
    if got != frames and not (key == "concat_mask" and got < frames):  # ComfyUI pads a shorter mask
        raise ValueError(
            f"the image conditioning ('{key}') was made for a different length than the latent: a stage of {frames} latent "
            f"frames would get {got}; give both the same number of frames"
        )
