"""Steps in running order, grids, and cutting a curve of sigmas at the boundaries."""

import pytest
import torch

from pyramid.latent_shape import LatentShape
from pyramid.noise_levels import shift_sigma
from pyramid.schedules import distilled_levels, merge_schedule, parse_steps, split_schedule, stage_levels, without_skipped
from pyramid.stages import PRESETS, PyramidSpec

WAN = PyramidSpec()
ROW_C = PyramidSpec((shift_sigma(0.6, 5), shift_sigma(0.2, 5)))


def test_steps_are_parsed_in_running_order():
    assert parse_steps("20-20-10", 3) == (20, 20, 10)
    assert parse_steps(" 2-2-1 ", 3) == (2, 2, 1)
    assert parse_steps("50", 1) == (50,)
    assert parse_steps("0-0-4", 3) == (0, 0, 4)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("20-20", "2 numbers, but the pyramid has 3 stages.*for example 20-20-20"),
        ("1-2-3-4", "4 numbers"),
        ("20-0-10", "only leading stages"),
        ("20-20-0", "only leading stages"),
        ("0-0-0", "has no steps"),
        ("a-b-c", "numbers joined by '-'"),
        ("2-2--1", "numbers joined by '-'"),
        ("", "numbers joined by '-'"),
    ],
)
def test_wrong_steps_raise_a_clear_error(text, words):
    with pytest.raises(ValueError, match=words):
        parse_steps(text, 3)


def test_a_leading_zero_starts_the_next_stage_at_natural_one():
    spec, steps = without_skipped(WAN, parse_steps("0-3-2", 3))
    levels = stage_levels(spec, steps)
    assert spec.boundaries == (0.602,) and [len(level) - 1 for level in levels] == [3, 2]
    assert levels[0][0] == 1.0 and levels[0][-1] == 0.602


def test_uniform_grid_is_even_in_each_stages_sigma():
    levels = stage_levels(WAN, (4, 3, 2))
    for stage, naturals in zip(WAN.stages(LatentShape(5, 8, 8)), levels, strict=True):
        rhos = [stage.rho(natural) for natural in naturals]
        count = len(rhos) - 1
        assert rhos == pytest.approx([1 - i / count for i in range(count + 1)], abs=1e-12)


def test_50_steps_of_wan_with_shift_5_are_cut_into_20_20_10():
    wan = [shift_sigma(1 - i / 50, 5.0) for i in range(51)]
    joined = merge_schedule(stage_levels(ROW_C, (20, 20, 10), grid="shift", shift=5.0))
    assert joined == pytest.approx(wan, abs=1e-12)
    assert [len(part) - 1 for part in split_schedule(wan, ROW_C.boundaries)] == [20, 20, 10]


def test_distilled_levels_equal_those_of_plain_wan_and_move_the_boundaries():
    free = PRESETS["training-free"]
    spec, levels = distilled_levels(free, (2, 2), 5.0)
    timesteps = [
        float(stage.at(torch.tensor(level, dtype=torch.float64)).conditioning) * 1000
        for stage, stage_levels in zip(spec.stages(LatentShape(5, 8, 8)), levels, strict=True)
        for level in stage_levels[:-1]
    ]
    assert timesteps == pytest.approx([1000, 937.5, 2500 / 3, 625]) and levels[-1][-1] == 0
    assert spec.boundaries == (pytest.approx(5 / 6),) and split_schedule(merge_schedule(levels), spec.boundaries) == levels
    three = PyramidSpec((0.9, 0.6), ("HW", "HW"), field="natural", timestep_source="natural", first_frame="shared")
    spec, levels = distilled_levels(three, (1, 2, 1), 5.0)
    assert [level[0] for level in levels] == pytest.approx([1, 0.9375, 0.625])
    with pytest.raises(ValueError, match="field 'natural', such as training-free"):
        distilled_levels(WAN, (2, 1, 1), 5.0)


def test_cut_is_the_inverse_of_join():
    levels = stage_levels(WAN, (2, 2, 1))
    assert split_schedule(merge_schedule(levels), WAN.boundaries) == [pytest.approx(part) for part in levels]


def test_a_boundary_replaces_the_nearest_inner_level():
    curve = [1.0, 0.95, 0.88, 0.7, 0.6, 0.3, 0.0]
    parts = split_schedule(curve, WAN.boundaries)
    assert parts == [(1.0, 0.95, 0.896), (0.896, 0.7, 0.602), (0.602, 0.3, 0.0)]
    assert sum(len(part) - 1 for part in parts) == len(curve) - 1
    assert split_schedule([1.0, 0.99, 0.4, 0.0], (0.5,)) == [(1.0, 0.99, 0.5), (0.5, 0.0)]
    assert split_schedule([1.0, 0.5, 0.0], (0.1,)) == [(1.0, 0.1), (0.1, 0.0)]  # the last level is not an inner one
    assert split_schedule([1.0, 0.5, 0.0], (0.95,)) == [(1.0, 0.95), (0.95, 0.0)]  # nor is the first


def test_a_curve_that_starts_below_a_boundary_leaves_stages_out():
    assert split_schedule([0.7, 0.65, 0.3, 0.0], WAN.boundaries) == [(), (0.7, 0.602), (0.602, 0.3, 0.0)]
    assert split_schedule([0.602, 0.3, 0.0], WAN.boundaries) == [(), (), (0.602, 0.3, 0.0)]
    assert split_schedule([0.896, 0.602, 0.0], WAN.boundaries) == [(), (0.896, 0.602), (0.602, 0.0)]


def test_a_pyramid_of_one_stage_keeps_the_curve():
    curve = [1.0, 0.77, 0.31, 0.0]
    assert split_schedule(curve, ()) == [tuple(curve)]


@pytest.mark.parametrize(
    ("curve", "words"),
    [
        ([1.0, 0.5, 0.0], "2 steps leaves one of 3 stages without a step"),
        ([1.0, 0.0], "leaves one of 3 stages"),
        ([1.0, 0.75, 0.1, 0.0], "leaves one of 3 stages"),
        ([1.0, 0.5, 0.5, 0.3, 0.0], "must fall from step to step, got 0.5 after 0.5"),
        ([0.0, 0.5, 1.0], "got 0.5 after 0"),
        ([1.0], "at least two noise levels, got 1"),
        ([1.2, 0.896, 0.602, 0.0], "must run from a natural level of at most 1 to 0, got 1.2 to 0"),
        ([1.0, 0.896, 0.602, 0.2], "got 1 to 0.2"),
    ],
)
def test_curves_that_cannot_be_cut_raise_a_clear_error(curve, words):
    with pytest.raises(ValueError, match=words):
        split_schedule(curve, WAN.boundaries)


def test_an_unknown_grid_raises_a_clear_error():
    with pytest.raises(ValueError, match="unknown grid 'even'; expected uniform, shift"):
        stage_levels(WAN, (2, 2, 1), grid="even")
