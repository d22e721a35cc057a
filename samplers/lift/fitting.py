"""Fit the lifts of a VAE on clips: the artist's own, filled up with rendered ones."""

from __future__ import annotations

import functools
import hashlib
import itertools
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import comfy.utils
import numpy as np
import torch
from torch import Tensor

from ...pyramid.axes import space_scale
from ...pyramid.dead_leaves import area_resize, dead_leaves
from ...pyramid.latent_shape import PATCH, VAE_TIME, LatentShape
from ...pyramid.lift import Lift, LinearMap, ResizeDrop, ResizeLift
from ...pyramid.lift_fit import DROP_RIDGE, LIFT_RIDGE, FitReport, RunningFit
from ...pyramid.neighbourhoods import size_of
from ...pyramid.resize import make_resize
from ..comfyui.finite import damaged_weights, is_finite
from .files import RENDERED, Errors, FittedAxes, FittedMap
from .pixels import encode_clips, pixel_lift

LENGTH = 17
"""Video frames of a clip: five latent frames, or three at half the frame rate."""

SIDE = 16
"""Height and width of a clip in latents, at least; clips for a scale have the next size that it does not round."""

CLIPS, STILLS = 25, 50
"""Maximum number of clips and single frames of a fit; stills serve latent frame 0, of which a clip has only one."""

MAX_CLIPS = 50
"""Maximum number of clips cropped from the artist's own video."""

HOLD_OUT = 5
"""Every fifth clip and every fifth still is kept out of the fit and measures the errors."""

BATCH = 5
"""Clips that are encoded together, which is faster on a CPU and on a card."""

REFERENCES = 6
"""Held-out clips and stills for measuring the round trip through pixels, which is slower than fitting on as many."""

FLAT = 0.002
"""The fit ends when five more clips explain less than this additional share of the variance."""

Pair = tuple[Tensor, Tensor]
"""Latents of the small and of the large version of one clip."""


@dataclass(frozen=True)
class _Source:
    """A clip to fit on: a function that makes it, ``(frames, side, side, 3)``, and what it is in words."""

    make: Callable[[], Tensor]
    frames: int
    kind: str


class _AxesFit:
    """Growing fits of both directions of one set of axes, and the pairs that are kept out of them."""

    def __init__(self) -> None:
        self.lift, self.drop = RunningFit(ridge=LIFT_RIDGE), RunningFit(ridge=DROP_RIDGE)
        self.held_out: list[Pair] = []
        self._before: tuple[LinearMap, LinearMap] | None = None

    def add(self, pair: Pair, *, held_out: bool) -> None:
        small, large = pair
        self.lift.add(small, large, held_out=held_out)
        self.drop.add(large, small, held_out=held_out)
        if held_out:
            self.held_out.append(pair)

    def is_flat(self) -> bool:
        """Return whether the pairs since the last call improved neither direction."""
        gains = [fit.gain(before) for fit, before in zip((self.lift, self.drop), self._before or (), strict=False)]
        self._before = self.lift.solve()[0], self.drop.solve()[0]
        return bool(gains) and max(gains) < FLAT


def fit_axes(vae: Any, axes: Sequence[str], video: Tensor | None) -> dict[str, FittedAxes]:
    """Fit the maps of several sets of axes on the same clips, until more clips no longer improve them.

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
    groups = [(_sources(side * pixels, video), names) for side, names in by_side.items()]
    bar = comfy.utils.ProgressBar(sum(len(part) for parts, _ in groups for part in parts))
    name, fitted = RENDERED if video is None else source_of(video), {}
    for parts, names in groups:
        fits, used = _fits_on(vae, parts, names, bar)
        fitted |= {axis: _fitted(vae, axis, fit, name, _described(used)) for axis, fit in fits.items()}
    return fitted


def _side(axes: str) -> int:
    """Return the sides of clips in latents, such that those of the small video are whole patches."""
    scale = space_scale(axes)
    step = 1 if scale is None else PATCH * scale.denominator
    return -(-SIDE // step) * step


def _fits_on(
    vae: Any, parts: Sequence[list[_Source]], axes: Sequence[str], bar: comfy.utils.ProgressBar
) -> tuple[dict[str, _AxesFit], list[_Source]]:
    """Fit several sets of axes on parts of the clips until a part brings no gain; also return the clips used."""
    fits, used = {name: _AxesFit() for name in axes}, []
    for part in parts:
        count = itertools.count(1)
        for together in _batches(part):
            for pairs in _encoded(vae, torch.stack([source.make() for source in together]), axes):
                held_out = next(count) % HOLD_OUT == 0
                for name, pair in pairs.items():
                    fits[name].add(pair, held_out=held_out)
            bar.update(len(together))
        used += part
        if all([fit.is_flat() for fit in fits.values()]):
            break
    bar.update(sum(map(len, parts)) - len(used))
    return fits, used


def _batches(part: Sequence[_Source]) -> Iterator[Sequence[_Source]]:
    """Divide a part into batches of clips of one length, which are encoded together."""
    for _, clips in itertools.groupby(part, lambda source: source.frames):
        same = list(clips)
        yield from (same[start : start + BATCH] for start in range(0, len(same), BATCH))


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


def check_vae_weights(vae: Any) -> None:
    """Check that the weights of a VAE are finite, before minutes of work with them.

    Raises:
        ValueError: One holds NaN or infinity; the message names it.
    """
    damaged = next(damaged_weights(vae.get_sd().items()), None)
    if damaged is not None:
        raise ValueError(f"the VAE holds NaN or infinity in '{damaged}'; load another file, or the VAE in another precision")


def _sources(side: int, video: Tensor | None) -> list[list[_Source]]:
    """Return clips and stills of this many pixels in parts, each with as large a share of both."""
    kinds = []
    for frames, least, most, unit in ((LENGTH, CLIPS, MAX_CLIPS, "clips"), (1, STILLS, STILLS, "frames")):
        given = [] if video is None else crops(video, frames, side, most)
        render = functools.partial(dead_leaves, frames=frames, height=side, width=side)
        kinds.append(
            [_Source(functools.partial(_same, clip), frames, f"given {unit}") for clip in given]
            + [_Source(functools.partial(render, seed=seed), frames, f"rendered {unit}") for seed in range(least - len(given))]
        )
    clips, stills = kinds
    parts = max(1, len(clips) // HOLD_OUT)
    share = HOLD_OUT * max(1, len(stills) // (parts * HOLD_OUT))
    return [_part(clips, index, HOLD_OUT, parts) + _part(stills, index, share, parts) for index in range(parts)]


def _part(sources: list[_Source], index: int, size: int, parts: int) -> list[_Source]:
    """Return part ``index`` of ``parts`` parts of this size; the last one has the rest, too."""
    return sources[index * size : (index + 1) * size if index < parts - 1 else None]


def _same(clip: Tensor) -> Tensor:
    return clip


def _described(sources: Sequence[_Source]) -> str:
    return ", ".join(f"{count} {kind}" for kind, count in Counter(source.kind for source in sources).items())


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


def _encoded(vae: Any, clips: Tensor, axes: Iterable[str]) -> list[dict[str, Pair]]:
    """Return for every clip ``(frames, side, side, 3)`` of a batch the pairs of these axes."""
    large, pixels = encode_clips(vae, clips), vae.spacial_compression_encode()
    pairs: list[dict[str, Pair]] = [{} for _ in clips]
    for name in axes:
        small = clips[:, ::2] if "T" in name else clips
        if "HW" in name:
            _, height, width = LatentShape(1, *large.shape[-2:]).coarser(name.replace("T", ""))
            small = torch.stack([area_resize(clip, height=height * pixels, width=width * pixels) for clip in small])
        both = encode_clips(vae, small).float().cpu(), large.float().cpu()
        if not all(map(is_finite, both)):
            raise ValueError("the VAE encodes a clip to NaN or infinity; load another file, or the VAE in another precision")
        for pair, one, other in zip(pairs, *(latents.split(1) for latents in both), strict=True):
            pair[name] = one, other
    return pairs


def _fitted(vae: Any, axes: str, fit: _AxesFit, source: str, fitted_on: str) -> FittedAxes:
    resize, pixels = make_resize("haar", axes, size_of(fit.held_out[0][1])[1:]), pixel_lift(vae)
    downwards = [(large, small) for small, large in fit.held_out]
    lift = _with_references(fit.lift.solve(), fit.held_out, ResizeLift(resize), pixels)
    drop = _with_references(fit.drop.solve(), downwards, ResizeDrop(resize), pixels)
    return FittedAxes(lift, drop, source, fitted_on)


def _with_references(fitted: tuple[LinearMap, FitReport], held_out: Sequence[Pair], resize: Lift, pixels: Lift) -> FittedMap:
    """Return the map with its errors, and those of the resize and of the round trip through pixels.

    The latter is measured on the first pairs, relative to the map there, and scaled to the map's error on all of them.

    Raises:
        ValueError: An error is not finite.
    """
    linear, report = fitted
    few = held_out[:REFERENCES]
    of_resize, of_pixels, of_linear = _errors_of(resize, held_out), _errors_of(pixels, few), _errors_of(linear, few)
    scales = [
        fit.mean_error / error if error else 1.0 for fit, error in zip((report.first, report.rest), of_linear, strict=True)
    ]
    first, rest = (
        Errors(fit.mean_error, of_resize[index], of_pixels[index] * scales[index], fit.mean_variance)
        for index, fit in enumerate((report.first, report.rest))
    )
    if not all(math.isfinite(error) for errors in (first, rest) for error in vars(errors).values()):
        raise ValueError("the VAE decodes a clip to NaN or infinity; load another file, or the VAE in another precision")
    return FittedMap(linear, first, rest)


def _errors_of(function: Lift, pairs: Sequence[Pair]) -> tuple[float, float]:
    """Return the mean square error of a function for latent frame 0 and for the other frames."""
    sums, counts = [0.0, 0.0], [0, 0]
    for source, target in pairs:
        squares = (function(source, size_of(target)) - target).square()
        for index, part in enumerate((squares[:, :, :1], squares[:, :, 1:])):
            sums[index] += float(part.sum())
            counts[index] += part.numel()
    return sums[0] / counts[0], sums[1] / counts[1]
