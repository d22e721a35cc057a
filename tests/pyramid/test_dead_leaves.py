"""Dead leaves: the statistics of natural video, one scene at every size, and area-exact smaller versions."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from pyramid import dead_leaves as module
from pyramid.dead_leaves import area_resize, dead_leaves


@pytest.fixture(scope="module")
def pictures():
    return [dead_leaves(seed=seed, frames=1, height=128, width=128)[0] for seed in range(8)]


def spectral_slope(images):
    """Exponent of the power spectrum, averaged over orientations, between 3 and 32 periods per picture."""
    side = images[0].shape[0]
    window = np.hanning(side)[:, None] * np.hanning(side)
    grey = [image.mean(dim=-1).numpy() for image in images]
    power = np.mean([np.abs(np.fft.fft2((g - g.mean()) * window)) ** 2 for g in grey], axis=0)
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(side), np.fft.fftfreq(side)))
    edges = np.geomspace(3 / side, 0.25, 8)
    bands = [(frequency >= low) & (frequency < high) for low, high in zip(edges, edges[1:], strict=False)]
    centres = np.sqrt(edges[1:] * edges[:-1])
    return np.polyfit(np.log(centres), np.log([power[band].mean() for band in bands]), 1)[0]


def kurtosis(values):
    values = values - values.mean()
    return float((values**4).mean() / (values**2).mean() ** 2)


def test_a_clip_has_the_requested_form():
    clip = dead_leaves(seed=0, frames=5, height=48, width=80)
    assert clip.shape == (5, 48, 80, 3) and clip.dtype == torch.float32
    assert clip.min() >= 0 and clip.max() <= 1 and clip.std() > 0.1


def test_the_seed_decides_the_clip(monkeypatch):
    clip = dead_leaves(seed=3, frames=9, height=32, width=48)
    assert torch.equal(clip, dead_leaves(seed=3, frames=9, height=32, width=48))
    assert (clip - dead_leaves(seed=4, frames=9, height=32, width=48)).abs().mean() > 0.05
    monkeypatch.setattr(module, "CHUNK_SAMPLES", 2 * 32 * 48)
    in_chunks = dead_leaves(seed=3, frames=9, height=32, width=48)
    assert (in_chunks - clip).abs().mean() < 1e-5  # rounding decides on which side of an edge a few pixels fall


def test_the_power_spectrum_falls_like_that_of_natural_images(pictures):
    assert -2.6 < spectral_slope(pictures) < -1.7


def test_there_are_occlusion_edges(pictures):
    """Differences of neighbouring pixels have heavy tails; Gaussian noise of the same spectrum has a kurtosis of 3."""
    assert kurtosis(torch.stack(pictures).mean(dim=-1).diff(dim=-1)) > 6


def test_things_move_continuously():
    clip = dead_leaves(seed=1, frames=17, height=96, width=96)
    near, far = (clip[1:] - clip[:-1]).abs().mean(), (clip[16] - clip[0]).abs().mean()
    assert near > 0.002 and far > 3 * near


def test_movement_is_in_frames_of_a_fixed_rate():
    """The middle of a longer clip shows what the shorter one shows."""
    short, long = (dead_leaves(seed=2, frames=frames, height=32, width=32) for frames in (5, 9))
    assert (long[2:7] - short).abs().mean() < 1e-5 < 1e-3 < (long[:5] - short).abs().mean()


@pytest.mark.parametrize("size", [(64, 64), (96, 96)])
def test_another_size_shows_the_same_scene(size):
    height, width = size
    large = dead_leaves(seed=5, frames=3, height=192, width=192)
    small = dead_leaves(seed=5, frames=3, height=height, width=width)
    other = dead_leaves(seed=6, frames=3, height=height, width=width)
    shrunk = area_resize(large, height=height, width=width)
    assert (shrunk - small).abs().mean() < 0.02 < 0.1 < (shrunk - other).abs().mean()


def test_area_resize_takes_the_mean_of_the_area():
    clip = torch.rand(2, 12, 24, 3, generator=torch.Generator().manual_seed(0))
    channels_first = clip.permute(0, 3, 1, 2)
    halved = F.avg_pool2d(channels_first, 2).permute(0, 2, 3, 1)
    torch.testing.assert_close(area_resize(clip, height=6, width=12), halved)
    tripled = channels_first.repeat_interleave(3, 2).repeat_interleave(3, 3)
    torch.testing.assert_close(area_resize(clip, height=9, width=18), F.avg_pool2d(tripled, 4).permute(0, 2, 3, 1))
    torch.testing.assert_close(area_resize(clip, height=12, width=24), clip)
    torch.testing.assert_close(area_resize(clip, height=5, width=7).mean(dim=(1, 2)), clip.mean(dim=(1, 2)))


def test_sizes_that_make_no_sense_are_errors():
    with pytest.raises(ValueError, match="only makes a clip smaller: 8x8 was given, 4x9 requested"):
        area_resize(torch.zeros(1, 8, 8, 3), height=9, width=4)
    with pytest.raises(ValueError, match="at least 1, got 0 x 8 x 8"):
        dead_leaves(seed=0, frames=0, height=8, width=8)
