"""Video files, written and read with PyAV."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tiny_wan.world.metrics import motion
from tiny_wan.world.reading import read
from tiny_wan.world.scenes import render, scene_at
from tiny_wan.world.videos import (
    ClipShape,
    clips_in,
    clips_of,
    decode,
    evenly_spaced_frames,
    fit_frame,
    save_video,
    video_files,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Write two videos of 40 and 9 frames, the second in a subfolder, and a file that is not a video."""
    root = tmp_path_factory.mktemp("videos")
    (root / "more").mkdir()
    save_video(root / "long.mp4", render([scene_at(0, seed=1)], frames=40, height=96, width=160)[0])
    save_video(root / "more" / "short.mp4", render([scene_at(1, seed=1)], frames=9, height=64, width=64)[0])
    (root / "notes.txt").write_text("not a video")
    return root


def test_a_video_survives_the_round_trip(folder):
    frames = torch.stack(list(decode(folder / "long.mp4")), dim=1) * 2.0 - 1.0
    truth = render([scene_at(0, seed=1)], frames=40, height=96, width=160)
    assert frames.shape == truth.shape[1:]
    assert (frames - truth[0]).square().mean() < 0.01
    assert read(frames[None])[0].agrees(scene_at(0, seed=1).caption)["motion"]


def test_clips_do_not_overlap_and_an_incomplete_one_is_dropped(folder):
    clips = list(clips_of(folder / "long.mp4", ClipShape(frames=17, height=64, width=64)))
    assert [tuple(clip.shape) for clip in clips] == [(3, 17, 64, 64)] * 2
    assert all(-1.0 <= clip.min() < clip.max() <= 1.0 for clip in clips)
    assert len(list(clips_of(folder / "more" / "short.mp4", ClipShape(frames=17)))) == 0


def test_a_stride_skips_frames(folder):
    every, second = (
        next(clips_of(folder / "long.mp4", ClipShape(frames=5, height=64, width=64, stride=stride))) for stride in (1, 2)
    )
    torch.testing.assert_close(every[:, ::2], second[:, :3])
    assert motion(second[None]) > motion(every[None])


def test_the_videos_of_a_folder_are_read_in_order(folder):
    assert [path.name for path in video_files(folder)] == ["long.mp4", "short.mp4"]
    sources = [path.name for path, _ in clips_in(folder, ClipShape(frames=9, height=64, width=64))]
    assert sources == ["long.mp4"] * 4 + ["short.mp4"]


def test_frames_are_scaled_to_cover_and_cropped_to_the_centre():
    frame = torch.zeros(3, 40, 100)
    frame[:, :, 45:55] = 1.0
    fitted = fit_frame(frame, height=64, width=64)
    assert fitted.shape == (3, 64, 64)
    assert fitted[:, :, 28:36].mean() > 0.9 > 0.1 > fitted[:, :, :16].mean()
    torch.testing.assert_close(fitted, fitted.flip(-1), atol=1e-4, rtol=0)


def test_evenly_spaced_frames_include_the_first_and_the_last(folder):
    frames = list(decode(folder / "long.mp4"))
    chosen = [torch.tensor(np.array(image)).permute(2, 0, 1) / 255 for image in evenly_spaced_frames(folder / "long.mp4", 4)]
    expected = [frames[index] for index in (0, 13, 26, 39)]
    assert all((a - b).abs().max() < 0.02 for a, b in zip(chosen, expected, strict=True))
    assert (expected[0] - expected[1]).abs().max() > 0.1


def test_invalid_folders_and_shapes_are_rejected(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no video in .*\.mp4"):
        video_files(tmp_path)
    with pytest.raises(ValueError, match="1 [+] 4k frames; got 16.*nearest: 17"):
        ClipShape(frames=16)
    with pytest.raises(ValueError, match="multiples of 8; got 100 x 128"):
        ClipShape(height=100)
