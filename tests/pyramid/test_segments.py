"""Schedules split among stages: properties over random curves, and the carry to full size against exact laws."""

from __future__ import annotations

import math
import random
from itertools import pairwise

import pytest
import torch
from gaussian_data import GaussianData, as_matrix, basis

from pyramid.latent_shape import LatentShape
from pyramid.noise_levels import shift_sigma
from pyramid.schedules import merge_schedule
from pyramid.segments import NEARLY_NOISE, carry_to_full_size, follow_curve, plain_levels
from pyramid.stages import PRESETS, PyramidSpec

FREE = PRESETS["training-free"]


def natural(*boundaries: float, axes: str = "HW") -> PyramidSpec:
    return PyramidSpec(boundaries, (axes,) * len(boundaries), field="natural", timestep_source="sigma", first_frame="shared")


def random_case(seed: int) -> tuple[PyramidSpec, list[float]]:
    """Return a pyramid of up to five stages and a falling curve of up to 30 steps, often with crowded boundaries."""
    draw = random.Random(seed)
    spread = draw.choice([0.02, 0.3, 1.0])
    middle = draw.uniform(0.1, 0.9)
    levels = [min(0.999, max(0.001, middle + spread * draw.uniform(-0.5, 0.5))) for _ in range(draw.randint(1, 4))]
    boundaries = sorted(set(levels), reverse=True)
    start, end = draw.choice([1.0, 0.9997, draw.uniform(0.2, 1)]), draw.choice([0.0, 0.0, draw.uniform(0, 0.19)])
    steps, shift = draw.randint(1, 30), draw.choice([1.0, 5.0, 8.0])
    curve = [end + (start - end) * shift_sigma(1 - step / steps, shift) for step in range(steps + 1)]
    return natural(*boundaries), curve


@pytest.mark.parametrize("first", range(0, 2000, 500))
def test_every_step_is_taken_once_at_its_level(first):
    for seed in range(first, first + 500):
        spec, curve = random_case(seed)
        moved, levels = follow_curve(spec, curve)
        assert len(levels) == spec.number_of_stages
        assert merge_schedule(levels) == curve, seed
        assert sum(len(stage) - 1 for stage in levels if stage) == len(curve) - 1, seed
        ran = [index for index, stage in enumerate(levels) if stage]
        assert ran == list(range(ran[0], ran[-1] + 1)), f"{seed}: a stage between two others has no step"
        assert all(len(stage) >= 2 for stage in levels if stage), seed


@pytest.mark.parametrize("first", range(0, 2000, 500))
def test_boundaries_fall_and_are_the_levels_where_stages_meet(first):
    for seed in range(first, first + 500):
        spec, curve = random_case(seed)
        moved, levels = follow_curve(spec, curve)
        assert all(0 < boundary < 1 for boundary in moved.boundaries), seed
        assert all(later < earlier for earlier, later in pairwise(moved.boundaries)), seed
        stages = moved.stages(moved.smallest_shape())
        for stage, visited in zip(stages, levels, strict=True):
            if visited and stage.index + 1 < len(levels) and levels[stage.index + 1]:
                assert stage.clean.natural == visited[-1] == levels[stage.index + 1][0], seed


def test_a_boundary_moves_to_the_nearest_level():
    moved, levels = follow_curve(FREE, [1.0, 0.9375, 0.8333, 0.625, 0.0])
    assert moved.boundaries == (0.8333,) and levels == [(1.0, 0.9375, 0.8333), (0.8333, 0.625, 0.0)]


def test_the_last_level_of_a_curve_that_ends_above_zero_can_be_the_nearest():
    """Then the fine stage starts with the run that resumes there, as in one run over both curves."""
    whole = [1.0, 0.95, 0.88, 0.79, 0.6, 0.3, 0.0]
    moved, levels = follow_curve(FREE, whole[:4])
    assert levels == [(1.0, 0.95, 0.88, 0.79), ()] and moved.boundaries == (0.79,)
    assert follow_curve(FREE, whole[3:])[1] == [(), (0.79, 0.6, 0.3, 0.0)]


def test_two_runs_over_one_curve_are_split_as_one_run():
    """With two stages, at every cut and for every boundary."""
    for seed in range(400):
        draw = random.Random(seed)
        spec, steps = natural(draw.uniform(0.05, 0.95)), draw.randint(2, 20)
        curve = [shift_sigma(1 - step / steps, draw.choice([1.0, 5.0])) for step in range(steps + 1)]
        if any(later >= earlier for earlier, later in pairwise(curve)):
            continue
        whole = follow_curve(spec, curve)[1]
        for cut in range(1, steps):
            if curve[cut] >= NEARLY_NOISE:
                continue
            first, second = follow_curve(spec, curve[: cut + 1])[1], follow_curve(spec, curve[cut:])[1]
            for index in range(2):
                parts = [part for part in (first[index], second[index]) if part]
                assert (tuple(merge_schedule(parts)) if parts else ()) == whole[index], (seed, cut)


def test_boundaries_of_left_out_stages_leave_the_others_alone():
    """Four stages, of which the first two are left out: the third still ends at a level of the curve."""
    moved, levels = follow_curve(natural(0.95, 0.9, 0.5), [0.7, 0.6, 0.5, 0.3, 0.0])
    assert levels == [(), (), (0.7, 0.6, 0.5), (0.5, 0.3, 0.0)] and moved.boundaries[2] == 0.5
    moved, levels = follow_curve(natural(0.95, 0.9, 0.5), [1.0, 0.6, 0.0])
    assert levels[-1] and merge_schedule(levels) == [1.0, 0.6, 0.0]


def test_three_boundaries_on_one_step_take_three_steps():
    _, levels = follow_curve(natural(0.52, 0.5, 0.48), [1.0, 0.9, 0.8, 0.7, 0.5, 0.2, 0.0])
    assert [len(stage) - 1 for stage in levels] == [2, 1, 1, 2]


@pytest.mark.parametrize(
    ("curve", "message"),
    [
        ([1.0], "at least two"),
        ([1.0, 0.5, 0.5, 0.0], "must fall"),
        ([1.2, 0.5, 0.0], "between 0 and 1; this schedule runs from 1.2 to 0"),
        ([1.0, 0.5, -0.1], "between 0 and 1"),
    ],
)
def test_curves_that_no_run_follows_are_rejected(curve, message):
    with pytest.raises(ValueError, match=message):
        follow_curve(FREE, curve)


def test_plain_levels_are_those_of_one_run():
    for seed in range(200):
        draw = random.Random(seed)
        steps = [draw.randint(1, 9) for _ in range(draw.randint(1, 4))]
        shift = draw.choice([1.0, 3.0, 5.0, 8.0])
        spec = natural(*(0.9 - 0.1 * index for index in range(len(steps) - 1)))
        moved, levels = plain_levels(spec, steps, shift)
        assert merge_schedule(levels) == [shift_sigma(1 - step / sum(steps), shift) for step in range(sum(steps) + 1)]
        assert [len(stage) - 1 for stage in levels] == steps
        assert moved.boundaries == tuple(stage[-1] for stage in levels[:-1])


@pytest.mark.parametrize("axes", [("HW",), ("THW",), ("THW", "HW"), ("T", "HW")], ids="-".join)
@pytest.mark.parametrize("ended", [0.9, 0.45])
@pytest.mark.parametrize("resize", ["haar", "dct"])
def test_carry_to_full_size_has_the_law_of_a_full_size_sample_without_detail(axes, ended, resize):
    """Mean and covariance at one level: the low band of the data, and white noise of that level in every band."""
    full = LatentShape(3 if len(axes) == 1 else 5, 4 if axes.count("HW") + axes.count("THW") < 2 else 8, 4)
    boundaries = (0.8, 0.6)[: len(axes)]
    spec = PyramidSpec(boundaries, axes, resize=resize, field="natural", timestep_source="sigma", first_frame="shared")
    stages = spec.stages(full)
    data = GaussianData.smooth(full)
    coarse = data.coarse(stages, stages[0])
    sigma = float(stages[0].reference_sigma(ended))
    odds = sigma / (1 - sigma)

    def carried(signal, noises, tops):
        return as_matrix(carry_to_full_size(signal, ended, stages, noises, top_up=lambda stage: tops[stage.index - 1]))

    def zeros(stage, batch):
        return torch.zeros(batch, 1, *stage.shape, dtype=torch.float64)

    def law_of(part: int, source: torch.Tensor) -> torch.Tensor:
        inputs = [zeros(stage, len(source)) for stage in (stages[0], *stages[1:], *stages[1:])]
        inputs[part] = source
        finer = len(stages) - 1
        return carried(inputs[0], inputs[1 : 1 + finer], inputs[1 + finer :])

    of_signal = law_of(0, basis(stages[0].shape))
    covariance = of_signal @ (coarse.covariance + odds**2 * torch.eye(len(coarse.mean), dtype=torch.float64)) @ of_signal.T
    for part in range(1, 2 * len(stages) - 1):
        of_noise = law_of(part, basis(stages[1 + (part - 1) % (len(stages) - 1)].shape))
        covariance = covariance + of_noise @ of_noise.T
    low = basis(full)
    for stage in reversed(stages[1:]):
        low = stage.from_coarser.down(low)
    for stage in stages[1:]:
        low = stage.from_coarser.up(low)
    low = as_matrix(low)
    natural_odds = ended / (1 - ended)
    wanted = low @ data.covariance @ low.T + natural_odds**2 * torch.eye(len(data.mean), dtype=torch.float64)
    torch.testing.assert_close(of_signal @ coarse.mean, low @ data.mean, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(covariance, wanted, atol=2e-5 * math.ceil(natural_odds**2), rtol=1e-5)


def test_carry_to_full_size_adds_a_correction_between_its_stages():
    stages = FREE.stages(LatentShape(1, 4, 4))
    noise, added = torch.zeros(1, 1, 1, 4, 4), torch.full((1, 1, 1, 4, 4), 0.25)
    made = carry_to_full_size(torch.ones(1, 1, 1, 2, 2), 0.5, stages, [noise], correction=lambda coarse, fine: added)
    torch.testing.assert_close(made, torch.full_like(noise, 1.25))


def test_carry_to_full_size_within_the_last_stage_is_nothing():
    stages = FREE.stages(LatentShape(1, 4, 4))
    signal = torch.randn(1, 1, 1, 4, 4)
    assert torch.equal(carry_to_full_size(signal, 0.3, stages[1:], []), signal)
