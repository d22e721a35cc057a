"""Clips of the training size and frame rate from video files, and downsampled clips for the coarser stages."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import BinaryIO, TypeVar

import av
import torch
import torch.nn.functional as functional
from av.error import FFmpegError
from torch import Tensor

from ...axes import space_scale
from ...latent_shape import VAE_SPACE
from ...resize import scaled_sides
from ...stages import PyramidSpec
from ...untrusted import first_line
from ..engine.atomic import atomic_file

T = TypeVar("T")


FORMATS = {"format_whitelist": "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,gif", "protocol_whitelist": "none"}
"""Containers that are opened; a playlist in a file with the name of a video could open other files and addresses."""
MAX_PIXELS = 2**26
"""Pixels of the largest frame that is decoded."""
RATES = (1, 1000)
"""Lowest and highest plausible frame rate, per second."""
MAX_HOLD = 3
"""A frame may be shown during at most so many frames of the clip; after a longer gap the clip would stand still."""


class UnusableError(ValueError):
    """A video from which no clip can be cut; the message is the reason."""


@dataclass(frozen=True)
class ClipSize:
    """Size of a clip.

    Attributes:
        width: In pixels.
        height: In pixels.
        frames: Number of frames.
        fps: Frames per second; 0 keeps each file's frame rate.
    """

    width: int
    height: int
    frames: int
    fps: float = 16.0


def clips_of(file: BinaryIO, size: ClipSize, *, max_clips: int = 1) -> list[Tensor]:
    """Cut the first consecutive clips from a video.

    Args:
        file: The video file.
        size: Size of the clips.
        max_clips: Maximum number of clips.

    Returns:
        Between 1 and ``max_clips`` clips, each ``(3, frames, height, width)`` in -1..1.

    Raises:
        UnusableError: The file cannot be decoded, is too small, too slow or too short for one clip, or has gaps.
    """
    clips: list[Tensor] = []
    frames: list[Tensor] = []
    try:
        for frame in _frames(file, size):
            frames.append(frame)
            if len(frames) == size.frames:
                clips.append(torch.stack(frames, dim=1))
                frames = []
                if len(clips) == max_clips:
                    break
    except UnusableError:
        raise
    except (FFmpegError, OSError, ValueError, ArithmeticError, MemoryError) as error:
        raise UnusableError(f"cannot be decoded ({first_line(error)})") from None
    if not clips:
        rate = f" at {size.fps:g} per second" if size.fps else ""
        raise UnusableError(f"too short: {len(frames)} frames{rate}; at least {size.frames} are required")
    return clips


def _frames(file: BinaryIO, size: ClipSize) -> Iterator[Tensor]:
    """Yield frames at the requested rate, each the nearest in time, ``(3, height, width)`` in -1..1."""
    with av.open(file, options=FORMATS) as container:
        if not container.streams.video:
            raise UnusableError("has no video stream")
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        rate = Fraction(size.fps).limit_denominator(1001) if size.fps else _stated_rate(stream)
        for frame in nearest_frames(_timed(container.decode(stream)), rate, size.frames):
            yield fit(_picture(frame), width=size.width, height=size.height)


def _stated_rate(stream: av.VideoStream) -> Fraction:
    rate = stream.average_rate or Fraction(0)
    if not RATES[0] <= rate <= RATES[1]:
        raise UnusableError(f"says that it has {float(rate):g} frames per second; expected {RATES[0]} to {RATES[1]}")
    return Fraction(rate)


def _timed(frames: Iterator[av.VideoFrame]) -> Iterator[tuple[Fraction, av.VideoFrame]]:
    """Yield frames with their time stamps, in seconds."""
    for number, frame in enumerate(frames):
        if frame.pts is None or frame.time_base is None:
            raise UnusableError(f"has no time stamp at frame {number}")
        if frame.width * frame.height > MAX_PIXELS:
            raise UnusableError(f"too large: {frame.width}x{frame.height}; at most {MAX_PIXELS} pixels are decoded")
        yield frame.pts * Fraction(frame.time_base), frame


def nearest_frames(frames: Iterator[tuple[Fraction, T]], rate: Fraction, count: int) -> Iterator[T]:
    """Yield the frame to show at every instant of a constant rate: the nearest in time, the earlier one in a tie.

    Args:
        frames: Frames with their times in seconds; the intervals may vary.
        rate: Instants per second; the first is at the first frame.
        count: Frames of a clip, for the mean rate that is expected of them.

    Raises:
        UnusableError: The times do not rise, leave a gap, or give a mean rate that is too low or impossible.
    """
    shown: tuple[Fraction, T] | None = None
    start, decoded, instants = Fraction(0), 0, 0
    for time, frame in frames:
        if shown is None:
            start = time
        else:
            measured = _checked_rate(decoded, start, shown[0], time, rate)
            while start + instants / rate <= (shown[0] + time) / 2:
                instants += 1
                if instants % count == 0:
                    _check_rate(measured, rate)
                yield shown[1]
        shown, decoded = (time, frame), decoded + 1
    if shown is not None:
        if decoded > 1:
            _check_rate((decoded - 1) / (shown[0] - start), rate)
        while start + instants / rate < shown[0] + 1 / (2 * rate):
            yield shown[1]
            instants += 1


def _checked_rate(decoded: int, start: Fraction, before: Fraction, time: Fraction, rate: Fraction) -> Fraction:
    """Return the mean rate of the frames until ``time``, which follows ``before``.

    Raises:
        UnusableError: Time does not rise, or leaves a gap.
    """
    if time <= before:
        shown = f"{float(time - start):.3f} s follows {float(before - start):.3f} s"
        raise UnusableError(f"has time stamps that do not rise: {shown}")
    measured = decoded / (time - start)
    if (time - before) * rate > MAX_HOLD:
        if measured * MAX_HOLD < rate:
            _check_rate(measured, rate)
        raise UnusableError(
            f"has a gap of {float(time - before):.3g} s after {float(before - start):.3g} s; at most "
            f"{float(MAX_HOLD / rate):.3g} s is allowed"
        )
    return measured


def _check_rate(measured: Fraction, rate: Fraction) -> None:
    if measured < Fraction(95, 100) * rate:
        raise UnusableError(f"too slow: {float(measured):.4g} frames per second; at least {float(rate):g} are required")
    if measured > RATES[1]:
        raise UnusableError(
            f"has {float(measured):.4g} frames per second, which is impossible; at most {RATES[1]} are expected"
        )


def _picture(frame: av.VideoFrame) -> Tensor:
    """Return the frame's pixels, ``(3, H, W)`` in 0..1, with the file's rotation applied."""
    picture = torch.from_numpy(frame.to_ndarray(format="rgb24"))
    return picture.rot90(frame.rotation // 90 % 4).permute(2, 0, 1).float() / 255


def fit(picture: Tensor, *, width: int, height: int) -> Tensor:
    """Scale a picture down until it just covers the size, crop the centre, and map 0..1 to -1..1.

    Args:
        picture: ``(3, H, W)`` in 0..1.
        width: In pixels.
        height: In pixels.

    Raises:
        UnusableError: The picture is smaller than the size.
    """
    rows, columns = picture.shape[1:]
    if rows < height or columns < width:
        raise UnusableError(f"too small: {columns}x{rows}; at least {width}x{height} is required")
    scale = max(height / rows, width / columns)
    if scale < 1:
        scaled = (max(height, round(rows * scale)), max(width, round(columns * scale)))
        picture = functional.interpolate(picture[None], size=scaled, mode="bicubic", antialias=True)[0].clamp(0, 1)
    top, left = (picture.shape[1] - height) // 2, (picture.shape[2] - width) // 2
    return picture[:, top : top + height, left : left + width] * 2 - 1


def stage_videos(video: Tensor, spec: PyramidSpec) -> list[Tensor]:
    """Return a clip ``(3, F, H, W)`` at the size of every stage, in running order.

    Each coarser stage has every second frame, and the means of 2x2 pixels or a bicubic resize to its scale. Dropping frames,
    unlike averaging them, keeps moving objects sharp. Frame 2k of a stage is frame k of the next coarser one, so ``1 + 4k``
    frames become ``1 + 2k`` and latent frames stay aligned.
    """
    videos = [video]
    for axes in reversed(spec.downsample_axes):
        finer = videos[-1]
        if "T" in axes:
            finer = finer[:, ::2]
        if space_scale(axes) is not None:
            finer = _resized(finer, scaled_sides((finer.shape[2] // VAE_SPACE, finer.shape[3] // VAE_SPACE), axes))
        elif "HW" in axes:
            finer = functional.avg_pool2d(finer.transpose(0, 1), 2).transpose(0, 1)
        videos.append(finer)
    return videos[::-1]


def _resized(video: Tensor, latents: tuple[int, int]) -> Tensor:
    """Return ``(3, F, H, W)`` in -1..1 at a size in latents."""
    size = (latents[0] * VAE_SPACE, latents[1] * VAE_SPACE)
    frames = functional.interpolate(video.transpose(0, 1), size=size, mode="bicubic", antialias=True)
    return frames.clamp(-1, 1).transpose(0, 1)


def save_video(path: Path, video: Tensor, *, fps: int = 16) -> None:
    """Write ``(3, T, H, W)`` in -1..1 as an H.264 mp4, atomically."""
    frames = video.clamp(-1, 1).add(1).mul(127.5).round().byte().permute(1, 2, 3, 0).contiguous().cpu().numpy()
    with atomic_file(path) as partial, av.open(str(partial), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=fps, options={"crf": "12"})
        stream.height, stream.width, stream.pix_fmt = frames.shape[1], frames.shape[2], "yuv420p"
        for picture in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
