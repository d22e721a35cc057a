"""The dead leaves: seeded, scale-invariant, equal at every size, and read back from their videos."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tiny_wan.leaves.grammar import ATTRIBUTES, MOTIONS, VOCABULARY, Caption, draw_captions
from tiny_wan.leaves.layers import Layer, integral_of, window_means
from tiny_wan.leaves.leaf_maps import COVER, MAP_SIDE, RADII, draw_radii, leaf_map
from tiny_wan.leaves.reading import Scales, agrees, camera_movement, read
from tiny_wan.leaves.scenes import PAN, ZOOM, render, scene_at, scene_for


def rendered(captions, *, seed, frames=5, side=128):
    scenes = [scene_for(caption, seed=seed + row) for row, caption in enumerate(captions)]
    return render(scenes, frames=frames, height=side, width=side)


@pytest.fixture(scope="module")
def scenes():
    return [scene_at(index, seed=5) for index in range(4)]


def test_a_word_that_is_not_in_the_grammar_is_rejected():
    with pytest.raises(
        ValueError, match="scale 'tiny' is not in the grammar of the dead leaves; allowed: fine, medium, coarse"
    ):
        Caption("green", "tiny", "left", "right")
    assert str(Caption("green", "fine", "left", "in")) == "fine green leaves behind a pale leaf on the left, zooming in"


def test_drawn_captions_are_balanced():
    captions = draw_captions(630, seed=1)
    for name, words in VOCABULARY.items():
        counts = [sum(getattr(caption, name) == word for caption in captions) for word in words]
        assert max(counts) - min(counts) <= 1


def test_the_stream_is_seeded_and_does_not_depend_on_the_batch(scenes):
    assert scene_at(2, seed=5) == scenes[2] != scene_at(2, seed=6)
    together = render(scenes, frames=2, height=64, width=64)
    assert torch.equal(together[2:3], render(scenes[2:3], frames=2, height=64, width=64))
    assert not torch.equal(together[2], together[3])


@pytest.mark.parametrize(("frames", "height", "width"), [(9, 32, 32), (1, 48, 80), (2, 136, 128)])
def test_clips_of_any_size_and_length_are_rendered(scenes, frames, height, width):
    video = render(scenes[:2], frames=frames, height=height, width=width)
    assert video.shape == (2, 3, frames, height, width) and video.dtype == torch.float32
    assert -1.0 <= video.min() < video.max() <= 1.0


def test_a_small_video_is_the_area_averaged_large_one_and_fewer_frames_show_the_same_movement(scenes):
    large, small = (render(scenes, frames=5, height=side, width=side) for side in (128, 32))
    torch.testing.assert_close(F.avg_pool3d(large, (1, 4, 4)), small, atol=1e-6, rtol=0)
    torch.testing.assert_close(render(scenes, frames=3, height=128, width=128), large[:, :, ::2], atol=1e-6, rtol=0)
    larger = F.avg_pool3d(render(scenes[:1], frames=3, height=256, width=256), (1, 2, 2))
    assert (larger - large[:1, :, ::2]).abs().mean() < 1e-3  # leaves in front are blended at the rendered size


def test_pixels_are_means_over_their_areas_of_any_place_and_size():
    """A pixel of 1.5 cells from cell 0.75 on holds a quarter of cell 0, cell 1, and a quarter of cell 2."""
    picture = torch.arange(12.0).view(1, 3, 4).square()
    y, x = (torch.tensor([edges], dtype=torch.float64) for edges in ([0.5, 2.0], [0.75, 2.25]))
    rows, columns = torch.tensor([0.5, 1.0, 0.0]) / 1.5, torch.tensor([0.25, 1.0, 0.25, 0.0]) / 1.5
    torch.testing.assert_close(window_means(integral_of(picture), y, x).flatten(), (rows @ picture @ columns).flatten())
    outside = window_means(integral_of(picture), y, x + 4.0)
    assert outside.item() == 0.0


def test_a_layer_moves_and_zooms_about_the_centre_of_the_frame():
    layer = Layer(torch.zeros(1, 8, 8), 4.0, (0.0, 0.0), (0.5, 0.0), zoom=np.log(4.0))
    times = torch.tensor([0.0, 0.5], dtype=torch.float64)
    x, y = layer.edges(times, 2, 2, 0), layer.edges(times, 2, 2, 1)
    assert x.tolist() == [[2.0, 4.0, 6.0], [2.0, 3.0, 4.0]]  # half a side is 2 cells; then magnified twice and moved by 1
    assert y.tolist() == [[2.0, 4.0, 6.0], [3.0, 4.0, 5.0]]


def test_every_octave_of_radii_covers_the_same_area():
    radii = np.concatenate([draw_radii(np.random.default_rng(seed), (2.0, 32.0)) for seed in range(40)])
    octave = np.floor(np.log2(radii)).astype(int)
    areas = np.bincount(octave, weights=radii**2)[1:]
    assert octave.min() == 1 and octave.max() == 4
    assert areas == pytest.approx(areas.mean(), rel=0.1)


def test_a_map_is_covered_and_continues_periodically():
    leaves = leaf_map("coarse", 0)
    assert torch.equal(leaves, leaf_map("coarse", 0)) and not torch.equal(leaves, leaf_map("coarse", 1))
    assert (leaves == 0).float().mean() < 2 * np.exp(-COVER)
    across = [(leaves[:, column] != leaves[:, column - 1]).float().mean() for column in range(MAP_SIDE)]
    assert across[0] < 3 * np.median(across)
    assert RADII["fine"][0] < RADII["medium"][0] < RADII["coarse"][0]


def test_the_power_of_the_leaves_behind_falls_with_the_square_of_the_frequency():
    """Radially averaged, as in photographs: exponent -1.9 for fine leaves; a random set of pixels would have 0."""
    captions = [Caption("grey", "fine", "centre", "still")] * 32
    scenes = [dataclasses.replace(scene_for(caption, seed=row), leaves=()) for row, caption in enumerate(captions)]
    light = render(scenes, frames=1, height=128, width=128)[:, :, 0].mean(dim=1)
    window = torch.hann_window(128, periodic=False)
    power = torch.fft.fft2((light - light.mean(dim=(1, 2), keepdim=True)) * window * window[:, None]).abs().square().mean(dim=0)
    frequency = torch.fft.fftfreq(128) * 128
    radius = (frequency.square() + frequency[:, None].square()).sqrt().round()
    cycles = torch.arange(4, 33)
    radial = torch.stack([power[radius == value].mean() for value in cycles])
    slope = np.polyfit(np.log(cycles), np.log(radial), 1)[0]
    assert slope == pytest.approx(-2.0, abs=0.25)


@pytest.fixture(scope="module")
def scales():
    captions = draw_captions(42, seed=11)
    return Scales.of(rendered(captions, seed=100), captions)


def test_attributes_are_read_from_rendered_clips(scales):
    captions = draw_captions(105, seed=12)
    right = [
        agrees(words, caption) for words, caption in zip(read(rendered(captions, seed=500), scales), captions, strict=True)
    ]
    shares = {name: sum(row[name] for row in right) / len(right) for name in ATTRIBUTES}
    assert min(shares.values()) >= 0.97, shares


def test_attributes_are_those_of_the_video_and_not_of_the_caption(scales):
    caption = Caption("red", "coarse", "left", "in")
    mirrored_backwards = rendered([caption], seed=3).flip(4).flip(2)
    other_colours = mirrored_backwards[:, [2, 0, 1]]
    assert read(other_colours, scales) == [{"palette": "green", "scale": "coarse", "layout": "right", "motion": "out"}]


OF_LEAVES_BEHIND = {
    "still": (0, 0, 0), "left": (1, 0, 0), "right": (-1, 0, 0), "up": (0, 1, 0), "down": (0, -1, 0), "in": (0, 0, 1),
    "out": (0, 0, -1),
}  # fmt: skip


@pytest.mark.parametrize("motion", MOTIONS)
def test_the_leaves_behind_move_against_the_camera_and_are_measured(motion):
    scenes = [scene_for(Caption("blue", "medium", "top", motion), seed=seed) for seed in range(4)]
    measured = camera_movement(render(scenes, frames=9, height=128, width=128)) / torch.tensor([PAN, PAN, ZOOM])
    expected = torch.tensor([scene.speed for scene in scenes])[:, None] * torch.tensor(OF_LEAVES_BEHIND[motion])
    torch.testing.assert_close(measured, expected, atol=0.12, rtol=0)
