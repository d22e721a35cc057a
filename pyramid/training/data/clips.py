"""Clips of the size and frame rate that training wants, out of video files; and a clip in the size of every stage."""

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


class UnusableError(ValueError):
    """A video that gives no clip; the message is the reason."""


@dataclass(frozen=True)
class ClipSize:
    """width and height in pixels, frames, frames per second (0 keeps the file's own)."""

    width: int
    height: int
    frames: int
    fps: float = 16.0


def clips_of(file: BinaryIO, size: ClipSize, *, most: int = 1) -> list[Tensor]:
    """The first clips of a video, one after the other: each ``(3, frames, height, width)`` in -1..1.

    Raises ``Unusable`` for a file that cannot be decoded or is too small, too slow or too short for even one clip.
    """
    clips: list[Tensor] = []
    frames: list[Tensor] = []
    try:
        for frame in _frames(file, size):
            frames.append(frame)
            if len(frames) == size.frames:
                clips.append(torch.stack(frames, dim=1))
                frames = []
                if len(clips) == most:
                    break
    except FFmpegError as error:
        raise UnusableError(f"cannot be decoded ({error})") from None
    if not clips:
        raise UnusableError(f"too short: {len(frames)} frames at {size.fps:g} a second, {size.frames} wanted")
    return clips


def _frames(file: BinaryIO, size: ClipSize) -> Iterator[Tensor]:
    """Frames at the wanted rate, the nearest in time, each ``(3, height, width)`` in -1..1."""
    with av.open(file) as container:
        if not container.streams.video:
            raise UnusableError("has no pictures")
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        rate = float(stream.average_rate or 0)
        if size.fps and rate and rate < 0.95 * size.fps:
            raise UnusableError(f"too slow: {rate:g} frames a second, {size.fps:g} wanted")
        start, wanted, step = None, 0.0, 1 / size.fps if size.fps else 0.0
        for frame in container.decode(stream):
            time = float(frame.time or 0.0)
            start = time if start is None else start
            if time - start >= wanted - 0.5 / (rate or 1e9):
                yield fit(_picture(frame), width=size.width, height=size.height)
                wanted += step


def _picture(frame: av.VideoFrame) -> Tensor:
    """``(3, H, W)`` in 0..1, turned upright where the file says so."""
    picture = torch.from_numpy(frame.to_ndarray(format="rgb24"))
    return picture.rot90(frame.rotation // 90 % 4).permute(2, 0, 1).float() / 255


def fit(picture: Tensor, *, width: int, height: int) -> Tensor:
    """Scales ``(3, H, W)`` in 0..1 down to cover the size, cuts out the middle, and moves it to -1..1."""
    rows, columns = picture.shape[1:]
    if rows < height or columns < width:
        raise UnusableError(f"too small: {columns}x{rows}, at least {width}x{height} wanted")
    scale = max(height / rows, width / columns)
    if scale < 1:
        scaled = (max(height, round(rows * scale)), max(width, round(columns * scale)))
        picture = functional.interpolate(picture[None], size=scaled, mode="bicubic", antialias=True)[0].clamp(0, 1)
    top, left = (picture.shape[1] - height) // 2, (picture.shape[2] - width) // 2
    return picture[:, top : top + height, left : left + width] * 2 - 1


def stage_videos(video: Tensor, spec: PyramidSpec) -> list[Tensor]:
    """A clip ``(3, F, H, W)`` at the size of every stage, in running order: every second frame, means of 2x2 pixels.

    Dropping frames keeps moving things sharp; frame 2k of a stage is frame k of the coarser one, as the grids of latent
    frames want it (1 + 4k pixel frames become 1 + 2k).
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
    """Writes ``(3, T, H, W)`` in -1..1 as an H.264 mp4; the file appears complete."""
    frames = video.clamp(-1, 1).add(1).mul(127.5).round().byte().permute(1, 2, 3, 0).contiguous().cpu().numpy()
    partial = path.with_name(f"{path.stem}.partial{path.suffix}")
    with av.open(str(partial), "w") as container:
        stream = container.add_stream("libx264", rate=fps, options={"crf": "12"})
        stream.height, stream.width, stream.pix_fmt = frames.shape[1], frames.shape[2], "yuv420p"
        for picture in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    partial.replace(path)
