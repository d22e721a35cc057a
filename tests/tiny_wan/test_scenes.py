"""The generator: seeded, independent of batching, with the same movement and picture at every resolution and frame count."""

from __future__ import annotations

from itertools import islice

import pytest
import torch
import torch.nn.functional as F

from tiny_wan.world.grammar import PATTERNS, SHAPES, Caption
from tiny_wan.world.scenes import clips, render, scene_at, scene_for


def caption(**words) -> Caption:
    chosen = {
        "shape": "disc",
        "colour": "red",
        "motion": "left",
        "place": "centre",
        "pattern": "plain",
        "ground": "blue",
    }
    return Caption(**(chosen | words))


def test_the_stream_does_not_depend_on_the_batch():
    whole = next(clips(seed=5, batch=6, frames=5, height=32, width=32))
    parts = list(islice(clips(seed=5, batch=2, frames=5, height=32, width=32), 3))
    assert whole[0] == [scene for scenes, _ in parts for scene in scenes]
    assert torch.equal(whole[1], torch.cat([video for _, video in parts]))


def test_different_seeds_give_different_scenes():
    assert scene_at(0, seed=1) != scene_at(0, seed=2) != scene_at(1, seed=2)
    assert scene_for(caption(), seed=1) != scene_for(caption(), seed=2)


@pytest.mark.parametrize(("frames", "height", "width"), [(17, 128, 128), (33, 64, 64), (1, 32, 32), (9, 48, 80)])
def test_clips_of_any_size_and_length_are_rendered(frames, height, width):
    video = render([scene_at(index, seed=0) for index in range(3)], frames=frames, height=height, width=width)
    assert video.shape == (3, 3, frames, height, width)
    assert video.dtype == torch.float32
    assert -1.0 <= video.min() < video.max() <= 1.0


@pytest.mark.parametrize("pattern", PATTERNS)
def test_the_background_of_a_small_rendering_is_the_mean_of_the_large_one(pattern):
    """The equality is exact, also for stripes finer than two small pixels; a stage's training data depend on it."""
    scenes = [scene_for(caption(pattern=pattern, place="left", motion="still"), seed=seed) for seed in range(4)]
    large, small = (render(scenes, frames=1, height=side, width=side)[:, :, 0] for side in (128, 32))
    right = slice(20, None)  # without the shape
    torch.testing.assert_close(F.avg_pool2d(large, 4)[..., right], small[..., right], atol=2e-3, rtol=0)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_shape_of_a_small_rendering_is_close_to_the_mean_of_the_large_one(shape):
    scenes = [scene_for(caption(shape=shape), seed=seed) for seed in range(4)]
    large, small = (render(scenes, frames=5, height=side, width=side) for side in (128, 64))
    assert (F.avg_pool3d(large, (1, 2, 2)) - small).square().mean() < 1e-3


def test_fewer_frames_show_the_same_movement():
    scenes = [scene_at(index, seed=0) for index in range(4)]
    many, few = (render(scenes, frames=frames, height=64, width=64) for frames in (17, 5))
    torch.testing.assert_close(many[:, :, ::4], few, atol=2e-5, rtol=0)


@pytest.mark.parametrize(
    ("motion", "dx", "dy"), [("left", -1, 0), ("right", 1, 0), ("up", 0, -1), ("down", 0, 1), ("still", 0, 0)]
)
def test_shapes_move_in_the_direction_of_the_caption(motion, dx, dy):
    scene = scene_for(caption(motion=motion), seed=0)
    video = render([scene], frames=9, height=64, width=64)[0, 0]  # a red disc over blue: the red channel is the disc
    weight = (video > 0.4).float()
    grid = (torch.arange(64) + 0.5) / 64
    x, y = (weight.sum(dim=axis) @ grid / weight.sum(dim=(1, 2)) for axis in (1, 2))
    travelled = torch.stack([x[-1] - x[0], y[-1] - y[0]])
    torch.testing.assert_close(travelled, torch.tensor(scene.travel), atol=0.01, rtol=0)
    assert torch.equal(travelled.round(decimals=1).sign(), torch.tensor([dx, dy], dtype=torch.float32))
