"""Fit the lifts of a VAE on clips: the artist's own, filled up with rendered ones."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import comfy.utils
import numpy as np
from torch import Tensor

from ..pyramid.axes import space_scale
from ..pyramid.dead_leaves import area_resize, dead_leaves
from ..pyramid.latent_shape import PATCH, VAE_TIME, LatentShape
from ..pyramid.lift import Lift, LinearMap, ResizeDrop, ResizeLift
from ..pyramid.lift_fit import FitReport, FrameFit, fit_drop, fit_lift
from ..pyramid.neighbourhoods import size_of
from ..pyramid.resize import make_resize
from .comfyui.finite import is_finite
from .lift_files import RENDERED, Errors, FittedAxes, FittedMap
from .pixel_lift import encode, pixel_lift

LENGTH = 17
"""Video frames of a clip: five latent frames, or three at half the frame rate."""

SIDE = 16
"""Height and width of a clip in latents, at least; clips for a scale have the next size that it does not round."""

CLIPS, STILLS = 24, 50
"""Clips and single frames of a fit; stills serve latent frame 0, of which a clip has only one."""

MOST_CLIPS = 48
"""Maximum number of clips cropped from the artist's own video."""

HOLD_OUT = 5
"""Every fifth clip is kept out of the fit and measures the errors."""

Pair = tuple[Tensor, Tensor]
"""Latents of the small and of the large version of one clip."""


def fit_axes(vae: Any, axes: Sequence[str], video: Tensor | None) -> dict[str, FittedAxes]:
    """Fit the maps of several sets of axes on the same clips.

    Args:
        vae: VAE of ComfyUI.
        axes: Sets of axes that a transition halves.
        video: Frames ``(N, H, W, 3)`` in 0..1 to crop clips from; None fits on rendered clips alone.

    Raises:
        ValueError: The VAE is not that of a Wan model, or the video is too small.
    """
    by_side: dict[int, list[str]] = {}
    for name in axes:
        by_side.setdefault(_side(name), []).append(name)
    pixels = vae.spacial_compression_encode()
    groups = [(*_clips(side * pixels, video), names) for side, names in by_side.items()]
    bar = comfy.utils.ProgressBar(sum(len(clips) for clips, *_ in groups))
    source, fitted = RENDERED if video is None else source_of(video), {}
    for clips, fitted_on, names in groups:
        pairs: dict[str, list[Pair]] = {name: [] for name in names}
        for clip in clips:
            for name, pair in _encoded(vae, clip(), names).items():
                pairs[name].append(pair)
            bar.update(1)
        fitted |= {name: _fitted(vae, name, pairs[name], source, fitted_on) for name in names}
    return fitted


def _side(axes: str) -> int:
    """Return the sides of clips in latents, such that those of the small video are whole patches."""
    scale = space_scale(axes)
    step = 1 if scale is None else PATCH * scale.denominator
    return -(-SIDE // step) * step


def source_of(video: Tensor) -> str:
    """Return a name for the frames of a video, by which a fit on the same frames is recognised."""
    digest = hashlib.sha256(str(tuple(video.shape)).encode())
    for frame in video[:: max(1, video.shape[0] // 16)]:
        digest.update(frame.float().cpu().contiguous().numpy().tobytes())
    return f"clips {digest.hexdigest()[:16]}"


def check_vae(vae: Any) -> None:
    """Check that a VAE encodes videos as those of the Wan models do.

    Raises:
        ValueError: It does not.
    """
    time = getattr(vae, "temporal_compression_decode", lambda: None)()
    if getattr(vae, "latent_dim", None) != 3 or time != VAE_TIME:
        raise ValueError("a lift requires the VAE of a Wan model; this VAE is for images or for another video model")


def _clips(side: int, video: Tensor | None) -> tuple[list[Callable[[], Tensor]], str]:
    """Return functions that make the clips ``(LENGTH or 1, side, side, 3)``, clips before stills, and a description."""
    clips, parts = [], []
    for frames, least, most, unit in ((LENGTH, CLIPS, MOST_CLIPS, "clips"), (1, STILLS, STILLS, "frames")):
        given = [] if video is None else crops(video, frames, side, most)
        number = max(0, least - len(given))
        render = functools.partial(dead_leaves, frames=frames, height=side, width=side)
        clips += [functools.partial(_same, clip) for clip in given]
        clips += [functools.partial(render, seed=seed) for seed in range(number)]
        parts += [f"{count} {kind} {unit}" for count, kind in ((len(given), "given"), (number, "rendered")) if count]
    return clips, ", ".join(parts)


def _same(clip: Tensor) -> Tensor:
    return clip


def crops(video: Tensor, frames: int, side: int, most: int) -> list[Tensor]:
    """Return up to ``most`` disjoint crops ``(frames, side, side, 3)`` of a video, spread over its times and places."""
    count, height, width = video.shape[0] // frames, video.shape[1] // side, video.shape[2] // side
    if not height or not width:
        raise ValueError(
            f"clips of {video.shape[2]}x{video.shape[1]} pixels are too small to fit a lift on; use {side}x{side} or more"
        )
    top, left = (video.shape[1] - height * side) // 2, (video.shape[2] - width * side) // 2
    chosen = np.sort(np.random.default_rng(0).permutation(count * height * width)[:most])
    times, rows, columns = np.unravel_index(chosen, (count, height, width)) if len(chosen) else ((), (), ())
    return [
        video[time * frames : (time + 1) * frames, top + row * side : top + (row + 1) * side,
              left + column * side : left + (column + 1) * side, :3]
        for time, row, column in zip(times, rows, columns, strict=True)
    ]  # fmt: skip


def _encoded(vae: Any, clip: Tensor, axes: Iterable[str]) -> dict[str, Pair]:
    large, pixels = encode(vae, clip), vae.spacial_compression_encode()
    pairs = {}
    for name in axes:
        small = clip[::2] if "T" in name else clip
        if "HW" in name:
            _, height, width = LatentShape(1, *large.shape[-2:]).coarser(name.replace("T", ""))
            small = area_resize(small, height=height * pixels, width=width * pixels)
        pairs[name] = encode(vae, small).float().cpu(), large.float().cpu()
        if not all(map(is_finite, pairs[name])):
            raise ValueError("the VAE encodes a clip to NaN or infinity; load another file, or the VAE in another precision")
    return pairs


def _fitted(vae: Any, axes: str, pairs: Sequence[Pair], source: str, fitted_on: str) -> FittedAxes:
    resize, pixels = make_resize("haar", axes, size_of(pairs[0][1])[1:]), pixel_lift(vae)
    upwards = pairs[HOLD_OUT - 1 :: HOLD_OUT]
    downwards = [(large, small) for small, large in upwards]
    lift = _with_references(fit_lift(pairs, hold_out=HOLD_OUT), upwards, ResizeLift(resize), pixels)
    drop = _with_references(fit_drop(pairs, hold_out=HOLD_OUT), downwards, ResizeDrop(resize), pixels)
    return FittedAxes(lift, drop, source, fitted_on)


def _with_references(fitted: tuple[LinearMap, FitReport], held_out: Sequence[Pair], resize: Lift, pixels: Lift) -> FittedMap:
    """Return the map with its errors, and those of the resize and of the way through the pixels on the same clips."""
    linear, report = fitted
    of_resize, of_pixels = (_errors_of(function, held_out) for function in (resize, pixels))
    first, rest = (
        Errors(fit.mean_error, of_resize[place], of_pixels[place], _mean_variance(fit))
        for place, fit in enumerate((report.first, report.rest))
    )
    return FittedMap(linear, first, rest)


def _errors_of(function: Lift, pairs: Sequence[Pair]) -> tuple[float, float]:
    """Return the mean square error of a function for latent frame 0 and for the other frames."""
    sums, counts = [0.0, 0.0], [0, 0]
    for source, target in pairs:
        squares = (function(source, size_of(target)) - target).square()
        for place, part in enumerate((squares[:, :, :1], squares[:, :, 1:])):
            sums[place] += float(part.sum())
            counts[place] += part.numel()
    return sums[0] / counts[0], sums[1] / counts[1]


def _mean_variance(fit: FrameFit) -> float:
    return sum(fit.variance) / len(fit.variance)
