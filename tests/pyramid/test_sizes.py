"""Sizes that a pyramid can halve, and the errors for those it cannot."""

import pytest

from pyramid.latent_shape import LatentShape
from pyramid.sizes import VideoSize, check_shape, describe_stages, frame_multiple, side_multiple, snap, video_size
from pyramid.stages import PRESETS

WAN = PRESETS["pyramidal-wan"]


def test_sizes_snap_to_the_multiples_of_the_pyramid():
    assert (side_multiple(WAN), frame_multiple(WAN)) == (64, 16)
    assert (side_multiple(PRESETS["training-free"]), frame_multiple(PRESETS["training-free"])) == (32, 4)
    assert snap(VideoSize(832, 480, 81), WAN) == VideoSize(832, 448, 81)
    assert snap(VideoSize(832, 480, 81), WAN, "larger") == VideoSize(832, 512, 81)
    assert snap(VideoSize(10, 10, 1), WAN, "smaller") == VideoSize(64, 64, 1)
    with pytest.raises(ValueError, match="unknown snap 'up'; expected nearest, smaller, larger"):
        snap(VideoSize(832, 480, 81), WAN, "up")


def test_only_the_halved_axes_must_fit():
    check_shape(LatentShape(21, 59, 103), PRESETS["tpdiff"])  # sides that ComfyUI accepts
    check_shape(LatentShape(20, 56, 104), PRESETS["pyramidal-flow"])
    check_shape(LatentShape(20, 59, 103), PRESETS["plain"])
    with pytest.raises(ValueError, match="with 77 frames does not fit a pyramid of 3 stages"):
        check_shape(LatentShape(20, 59, 103), PRESETS["tpdiff"])
    with pytest.raises(ValueError, match="the nearest that fit are 832x448 with 81 frames and 832x512 with 81 frames"):
        check_shape(LatentShape(21, 60, 104), WAN)


def test_sizes_of_latents_and_videos_convert_both_ways():
    assert VideoSize(832, 448, 81).latent == LatentShape(21, 56, 104)
    assert video_size(LatentShape(21, 56, 104)) == VideoSize(832, 448, 81)
    assert "instead of" not in describe_stages(VideoSize(832, 448, 81), VideoSize(832, 448, 81), WAN)


def test_the_message_counts_in_the_pixels_of_the_vae():
    """Wan 2.2 5B has 16 pixels per latent."""
    with pytest.raises(ValueError, match="1280x720 with 17 frames.*multiples of 64.*1280x704.*1280x768"):
        check_shape(LatentShape(5, 45, 80), PRESETS["training-free"], pixels=16)
