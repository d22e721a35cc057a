"""Energies and patches in octaves of space, each against a case with a known answer."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from tiny_wan.leaves.scenes import render, scene_at
from tiny_wan.world.metrics import detail
from tiny_wan.world.octaves import MOMENTS, OCTAVES, octave_energies, octaves_of, patch_distances, patch_moments


@pytest.fixture(scope="module")
def video():
    return render([scene_at(index, seed=8) for index in range(24)], frames=9, height=128, width=128)


def blurred(video):
    return F.avg_pool3d(video, (1, 3, 3), stride=1, padding=(0, 1, 1), count_include_pad=False)


def distances(sample, reference):
    return patch_distances(patch_moments(sample).mean(dim=0), patch_moments(reference).mean(dim=0)).tolist()


def test_octaves_are_orthogonal_and_the_first_two_are_the_detail(video):
    energies = octave_energies(video)
    torch.testing.assert_close(energies[:, :2], detail(video))
    rest = F.avg_pool3d(video, (1, 2**OCTAVES, 2**OCTAVES)).square().mean(dim=(1, 2, 3, 4))
    torch.testing.assert_close(energies.sum(dim=1) + rest, video.square().mean(dim=(1, 2, 3, 4)))
    assert [octave.shape[-1] for octave in octaves_of(video[:1])] == [128, 64, 32, 16]


def test_the_distance_is_zero_for_the_same_clips_and_one_for_nothing(video):
    assert patch_moments(video[:2]).shape == (2, OCTAVES, MOMENTS)
    assert distances(video, video) == pytest.approx([0.0] * OCTAVES, abs=1e-4)
    assert distances(torch.zeros_like(video), video) == pytest.approx([1.0] * OCTAVES, abs=0.1)


def test_a_blur_is_farther_in_finer_octaves_and_a_still_video_is_farther_than_others(video):
    other = render([scene_at(index, seed=9) for index in range(24)], frames=9, height=128, width=128)
    same, blur, still = (distances(sample, video) for sample in (other, blurred(other), other[:, :, :1].expand_as(other)))
    assert blur[0] > 0.15 > blur[1] > blur[2] and blur[0] > 10 * same[0]
    assert still[0] > 2 * same[0]


def test_halving_the_contrast_leaves_a_quarter_of_the_variance_and_of_the_distance(video):
    """Without means, the Fréchet distance of two proportional Gaussians is the square of the difference of their deviations."""
    assert distances(0.5 * video, video)[0] == pytest.approx(0.25, abs=0.01)
