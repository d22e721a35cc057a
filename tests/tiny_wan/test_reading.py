"""Attribute reading: right on rendered clips, also with blur and noise, and *wrong* where the picture was changed."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from tiny_wan.world.grammar import ATTRIBUTES, draw_captions
from tiny_wan.world.reading import NOTHING, Reading, accuracy, read
from tiny_wan.world.scenes import TRAVEL, render, scene_for

CLIPS = 48


@pytest.fixture(scope="module")
def truth():
    captions = draw_captions(CLIPS, seed=11)
    scenes = [scene_for(caption, seed=seed) for seed, caption in enumerate(captions)]
    return captions, scenes, render(scenes, frames=9, height=128, width=128)


def shares(video, captions) -> dict[str, float]:
    return accuracy(read(video), captions)


def test_rendered_clips_are_read_correctly(truth):
    captions, _, video = truth
    assert min(shares(video, captions).values()) >= 0.98


@pytest.mark.parametrize(("frames", "height", "width"), [(33, 64, 64), (5, 32, 32), (5, 96, 160)])
def test_other_sizes_are_read_correctly(truth, frames, height, width):
    captions, scenes, _ = truth
    video = render(scenes[:24], frames=frames, height=height, width=width)
    assert min(shares(video, captions[:24]).values()) >= 0.95


def test_longer_clips_at_the_speed_of_short_ones_are_read_correctly(truth):
    """A model that was trained on 17 frames may go on at their speed in 33: twice as far, partly out of the picture."""
    captions, scenes, _ = truth
    farther = [replace(scene, travel=(2 * scene.travel[0], 2 * scene.travel[1])) for scene in scenes[:24]]
    right = shares(render(farther, frames=33, height=64, width=64), captions[:24])
    assert right["motion"] == 1.0 and min(right.values()) >= 0.95


def test_reading_tolerates_blur_and_noise(truth):
    captions, _, video = truth
    blurred = F.avg_pool3d(video, (1, 3, 3), stride=1, padding=(0, 1, 1), count_include_pad=False)
    noisy = blurred + 0.2 * torch.randn(video.shape, generator=torch.Generator().manual_seed(0))
    assert min(shares(noisy, captions).values()) >= 0.95


def test_positions_and_displacements_are_measured(truth):
    _, scenes, video = truth
    for scene, reading in zip(scenes, read(video), strict=True):
        assert reading.centre == pytest.approx(scene.centre, abs=0.025)
        assert reading.travel == pytest.approx(scene.travel, abs=0.15 * TRAVEL)
        assert reading.seen == 1.0


def test_reversing_the_frames_reverses_the_motion(truth):
    captions, _, video = truth
    still = sum(caption.motion == "still" for caption in captions) / CLIPS
    assert shares(video.flip(2), captions)["motion"] == pytest.approx(still, abs=0.02)


def test_a_repeated_frame_is_still(truth):
    captions, _, video = truth
    frozen = video[:, :, 4:5].expand_as(video)
    assert {reading.words["motion"] for reading in read(frozen)} == {"still"}
    assert shares(frozen, captions)["shape"] >= 0.98


def test_mirroring_swaps_left_and_right(truth):
    captions, _, video = truth
    centre = sum(caption.place == "centre" for caption in captions) / CLIPS
    mirrored = shares(video.flip(-1), captions)
    assert mirrored["place"] == pytest.approx(centre, abs=0.02)
    assert mirrored["colour"] == mirrored["shape"] == 1.0


def test_a_blurred_background_loses_only_its_pattern(truth):
    captions, _, video = truth
    plain = sum(caption.pattern == "plain" for caption in captions) / CLIPS
    smooth = F.avg_pool3d(video, (1, 13, 13), stride=1, padding=(0, 6, 6), count_include_pad=False)
    alone = shares(smooth, captions)
    assert alone["pattern"] == pytest.approx(plain, abs=0.05)
    assert alone["ground"] == 1.0


def test_an_empty_scene_has_no_shape(truth):
    captions, _, video = truth
    bare = read(video.amin(dim=2, keepdim=True).amin(dim=(3, 4), keepdim=True).expand_as(video) * 0.0 - 0.5)
    assert {reading.words["shape"] for reading in bare} == {NOTHING}
    assert accuracy(bare, captions)["motion"] == 0.0


def test_permuted_colour_channels_are_read_as_wrong_colours(truth):
    captions, _, video = truth
    assert shares(video.roll(1, dims=1), captions)["colour"] < 0.4


def test_accuracy_counts_each_attribute_and_all(truth):
    captions = truth[0][:2]
    right = [Reading({name: getattr(caption, name) for name in ATTRIBUTES}, (0, 0), (0, 0), 1.0) for caption in captions]
    wrong = Reading(right[1].words | {"shape": NOTHING}, (0, 0), (0, 0), 1.0)
    assert accuracy([right[0], wrong], captions) == dict.fromkeys(ATTRIBUTES, 1.0) | {"shape": 0.5, "all": 0.5}
