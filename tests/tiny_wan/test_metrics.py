"""Detail, motion, distance, diversity and intervals, each against a case with a known answer."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tiny_wan.world.grammar import EXAMPLE
from tiny_wan.world.metrics import Interval, bootstrap, detail, diversity, features, frechet_distance, motion, within_margin
from tiny_wan.world.scenes import render, scene_at, scene_for


@pytest.fixture(scope="module")
def video():
    return render([scene_at(index, seed=21) for index in range(96)], frames=9, height=64, width=64)


def blurred(video):
    return F.avg_pool3d(video, (1, 3, 3), stride=1, padding=(0, 1, 1), count_include_pad=False)


def test_detail_is_the_energy_that_block_means_remove():
    checker = torch.tensor([[1.0, -1.0], [-1.0, 1.0]]).repeat(8, 8).expand(1, 3, 2, 16, 16)
    torch.testing.assert_close(detail(checker), torch.tensor([[1.0, 0.0]]))
    coarse = checker[..., :8, :8].repeat_interleave(2, -1).repeat_interleave(2, -2)
    torch.testing.assert_close(detail(coarse), torch.tensor([[0.0, 1.0]]))


def test_a_blur_reduces_detail(video):
    finest, second = (detail(blurred(video)).mean(dim=0) / detail(video).mean(dim=0)).tolist()
    assert finest < 0.45
    assert finest < second < 0.7


def test_motion_is_zero_for_a_still_clip_and_does_not_depend_on_the_frame_rate():
    scenes = [scene_for(EXAMPLE, seed=seed) for seed in range(8)]
    fast, slow = (motion(render(scenes, frames=frames, height=64, width=64)).mean() for frames in (17, 33))
    assert fast == pytest.approx(slow.item(), rel=0.15)
    assert motion(torch.ones(1, 3, 5, 8, 8)).item() == 0.0


def test_the_frechet_distance_of_gaussians_has_its_closed_form():
    generator = torch.Generator().manual_seed(0)
    reference = torch.randn(20_000, 4, generator=generator)
    sample = 2.0 * torch.randn(20_000, 4, generator=generator) + torch.tensor([3.0, 0, 0, 0])
    assert frechet_distance(sample, reference) == pytest.approx(9.0 + 4.0, rel=0.05)
    assert frechet_distance(reference, reference) == pytest.approx(0.0, abs=1e-6)


def test_the_distance_is_larger_to_other_data_than_to_more_of_the_same(video):
    known = features(video)
    fresh = render([scene_at(index, seed=22) for index in range(96)], frames=9, height=64, width=64)
    same = frechet_distance(features(fresh), known)
    other_colours, frozen, one_clip = fresh.flip(1), fresh[:, :, :1].expand_as(fresh), fresh[:8].repeat(12, 1, 1, 1, 1)
    for changed in (other_colours, blurred(fresh), frozen, one_clip):
        assert frechet_distance(features(changed), known) > 1.2 * same


def test_there_are_45_features(video):
    assert features(video[:2]).shape == (2, 45)


def test_diversity_is_one_for_the_data_and_zero_for_copies():
    scenes = [scene_for(EXAMPLE, seed=seed) for seed in range(64)]
    data = features(render(scenes, frames=5, height=64, width=64))
    scale = data.std(dim=0)
    assert diversity(data[:32], scale) == pytest.approx(diversity(data[32:], scale), rel=0.15)
    assert diversity(data[:1].repeat(8, 1), scale) == pytest.approx(0.0, abs=1e-6)


def test_intervals_have_about_their_nominal_coverage():
    rng = np.random.default_rng(0)
    covered = 0
    for draw in range(200):
        interval = bootstrap(rng.normal(0.3, 1.0, 60), resamples=400, seed=draw)
        covered += interval.low <= 0.3 <= interval.high
    assert 0.88 <= covered / 200 <= 0.99


def test_pairing_removes_the_common_variance():
    rng = np.random.default_rng(0)
    difficulty = rng.normal(0.0, 1.0, 256)
    ours, theirs = difficulty + rng.normal(0.1, 0.05, 256), difficulty + rng.normal(0.0, 0.05, 256)
    paired, alone = bootstrap(ours, baseline=theirs), bootstrap(ours)
    assert paired.value == pytest.approx(0.1, abs=0.02)
    assert paired.high - paired.low < 0.2 * (alone.high - alone.low)
    with pytest.raises(ValueError, match="256 scores and 255"):
        bootstrap(ours, baseline=theirs[1:])


@pytest.mark.parametrize(
    ("low", "margin", "holds"), [(-0.04, 0.05, True), (-0.06, 0.05, False), (-0.03, 0.02, False), (0.01, 0.0, True)]
)
def test_the_worse_end_of_the_interval_decides(low, margin, holds):
    assert within_margin(Interval(value=0.2, low=low, high=0.4), margin=margin) is holds
