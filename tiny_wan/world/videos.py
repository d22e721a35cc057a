"""Video files: decoding with PyAV, and cutting into clips of the shape that training requires."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import av
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from pyramid.latent_shape import VAE_SPACE, VAE_TIME, video_frames
from pyramid.training.data import clips

SUFFIXES = (".mp4", ".mkv", ".webm", ".mov", ".avi", ".m4v", ".gif")


@dataclass(frozen=True)
class ClipShape:
    """The shape of a clip.

    Attributes:
        frames: Number of frames, 1 + 4k.
        height: Pixels, a multiple of 8.
        width: Pixels, a multiple of 8.
        stride: Every stride-th frame of the file is kept.
    """

    frames: int = 17
    height: int = 128
    width: int = 128
    stride: int = 1

    def __post_init__(self):
        if self.frames % VAE_TIME != 1 or self.frames < 1:
            nearest = video_frames(max(0, round((self.frames - 1) / VAE_TIME)) + 1)
            raise ValueError(f"a Wan clip has 1 + 4k frames; got {self.frames} (nearest: {nearest})")
        if self.height % VAE_SPACE or self.width % VAE_SPACE or min(self.height, self.width) < VAE_SPACE:
            raise ValueError(f"height and width must be multiples of 8; got {self.height} x {self.width}")
        if self.stride < 1:
            raise ValueError(f"stride must be at least 1; got {self.stride}")


def video_files(folder: Path) -> list[Path]:
    """Return the video files of a folder and its subfolders, sorted.

    Raises:
        FileNotFoundError: There is none.
    """
    files = sorted(path for path in Path(folder).rglob("*") if path.suffix.lower() in SUFFIXES)
    if not files:
        raise FileNotFoundError(f"no video in {folder}; supported: {', '.join(SUFFIXES)}")
    return files


def decode(path: Path) -> Iterator[Tensor]:
    """Yield the frames of a file in order: (3, H, W) in 0..1, rotated as the file's metadata say."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        for frame in container.decode(stream):
            picture = torch.from_numpy(frame.to_ndarray(format="rgb24"))
            yield picture.rot90(frame.rotation // 90 % 4).permute(2, 0, 1).float() / 255.0


def evenly_spaced_frames(path: Path, count: int) -> list[Image.Image]:
    """Return `count` frames of a file at equal distances, the first and the last among them."""
    with av.open(str(path)) as container:
        frames = [frame.to_image() for frame in container.decode(video=0)]
    return [frames[round(index * (len(frames) - 1) / max(1, count - 1))] for index in range(count)]


def fit_frame(frame: Tensor, *, height: int, width: int) -> Tensor:
    """Scale a frame (3, H, W) until it covers height x width, antialiased, and crop the centre."""
    scale = max(height / frame.shape[1], width / frame.shape[2])
    size = (max(height, round(frame.shape[1] * scale)), max(width, round(frame.shape[2] * scale)))
    frame = F.interpolate(frame[None], size=size, mode="bicubic", antialias=True)[0].clamp(0.0, 1.0)
    top, left = (size[0] - height) // 2, (size[1] - width) // 2
    return frame[:, top : top + height, left : left + width]


def clips_of(path: Path, shape: ClipShape) -> Iterator[Tensor]:
    """Yield consecutive clips of one file without overlap, (3, frames, height, width) in -1..1; drop an incomplete last one."""
    kept = (fit_frame(frame, height=shape.height, width=shape.width) for frame in islice(decode(path), 0, None, shape.stride))
    while len(clip := list(islice(kept, shape.frames))) == shape.frames:
        yield torch.stack(clip, dim=1) * 2.0 - 1.0


def clips_in(folder: Path, shape: ClipShape) -> Iterator[tuple[Path, Tensor]]:
    """Yield all clips of all videos of a folder, each with its file."""
    for path in video_files(folder):
        for clip in clips_of(path, shape):
            yield path, clip


def save_video(path: Path, video: Tensor, *, fps: int = 8, scale: int = 1) -> None:
    """Write a video (3, T, H, W) in -1..1 as an H.264 mp4, enlarged by an integer `scale`."""
    clips.save_video(path, video.repeat_interleave(scale, 2).repeat_interleave(scale, 3), fps=fps)
