"""Clips of the training size and frame rate from video files, and downsampled clips for the coarser stages."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import av
import torch
import torch.nn.functional as functional
from av.error import FFmpegError
from torch import Tensor

from ...stages import PyramidSpec
from ..engine.atomic import atomic_file


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
        UnusableError: The file cannot be decoded, or is too small, too slow or too short for one clip.
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
    except FFmpegError as error:
        raise UnusableError(f"cannot be decoded ({error})") from None
    if not clips:
        rate = f" at {size.fps:g} per second" if size.fps else ""
        raise UnusableError(f"too short: {len(frames)} frames{rate}; at least {size.frames} are required")
    return clips


def _frames(file: BinaryIO, size: ClipSize) -> Iterator[Tensor]:
    """Yield frames at the requested rate, each the nearest in time, ``(3, height, width)`` in -1..1."""
    with av.open(file) as container:
        if not container.streams.video:
            raise UnusableError("has no video stream")
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        rate = float(stream.average_rate or 0)
        if size.fps and rate and rate < 0.95 * size.fps:
            raise UnusableError(f"too slow: {rate:g} frames per second; at least {size.fps:g} are required")
        start, next_time, interval = None, 0.0, 1 / size.fps if size.fps else 0.0
        for frame in container.decode(stream):
            time = float(frame.time or 0.0)
            start = time if start is None else start
            if time - start >= next_time - 0.5 / (rate or 1e9):
                yield fit(_picture(frame), width=size.width, height=size.height)
                next_time += interval


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

    Each coarser stage has every second frame and the means of 2x2 pixels. Dropping frames, unlike averaging them, keeps
    moving objects sharp. Frame 2k of a stage is frame k of the next coarser one, so ``1 + 4k`` frames become ``1 + 2k`` and
    latent frames stay aligned.
    """
    videos = [video]
    for axes in reversed(spec.downsample_axes):
        finer = videos[-1]
        if "T" in axes:
            finer = finer[:, ::2]
        if "HW" in axes:
            finer = functional.avg_pool2d(finer.transpose(0, 1), 2).transpose(0, 1)
        videos.append(finer)
    return videos[::-1]


def save_video(path: Path, video: Tensor, *, fps: int = 16) -> None:
    """Write ``(3, T, H, W)`` in -1..1 as an H.264 mp4, atomically."""
    frames = video.clamp(-1, 1).add(1).mul(127.5).round().byte().permute(1, 2, 3, 0).contiguous().cpu().numpy()
    with atomic_file(path) as partial, av.open(str(partial), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=fps, options={"crf": "12"})
        stream.height, stream.width, stream.pix_fmt = frames.shape[1], frames.shape[2], "yuv420p"
        for picture in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
