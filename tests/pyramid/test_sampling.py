"""On Gaussian data a whole run ends with the mean and covariance of the data; solvers have their order."""

import numpy as np
import pytest
import torch
from gaussian_data import ExactField, GaussianData, LinearStudent, basis

from pyramid.latent_shape import LatentShape
from pyramid.noise_pyramid import noise_pyramid
from pyramid.paths import clean_prediction
from pyramid.sampling import sample_pyramid, solver_stage
from pyramid.schedules import stage_levels
from pyramid.solvers import euler, few_step, heun
from pyramid.stages import PyramidSpec

SHAPE = LatentShape(5, 8, 4)


def run(spec, field_type, solver, steps, *, top_up=None, noise=None, data=None):
    """Return the affine map of a whole run: the result for zero noise, and the matrix that applies to the noise."""
    data = data or GaussianData.smooth(SHAPE)
    stages = spec.stages(SHAPE)
    levels = stage_levels(spec, [steps] * len(stages))
    noise = torch.cat([torch.zeros_like(basis(SHAPE)[:1]), basis(SHAPE)]) if noise is None else noise
    end = sample_pyramid(
        solver_stage(field_type(data, stages), solver, levels), noise_pyramid(noise, stages), stages, top_up=top_up
    ).flatten(1)
    return end[0], (end[1:] - end[0]).T


@pytest.mark.parametrize(
    "spec",
    [
        PyramidSpec(),
        PyramidSpec(resize="db2"),
        PyramidSpec(resize="dct"),
        PyramidSpec((8 / 9, 0.5), ("HW", "HW")),
        PyramidSpec((0.8, 0.4), ("T", "T")),
        PyramidSpec((0.9, 0.6), ("T", "HW"), timestep_source="sigma"),
        PyramidSpec((), ()),
    ],
    ids=["wan", "db2", "dct", "HW", "T", "T-HW", "plain"],
)
def test_a_run_ends_with_the_mean_and_covariance_of_the_data(spec):
    data = GaussianData.smooth(SHAPE)
    mean, matrix = run(spec, ExactField, heun, 100)
    error = (matrix @ matrix.T - data.covariance).abs().max() / data.covariance.abs().max()
    assert error < 2e-3
    assert (mean - data.mean).abs().max() < 2e-3


def test_a_run_with_a_shared_first_frame_ends_with_the_covariance_of_the_data():
    """The top-ups are further draws, so the covariance is the sum over the noise of the pyramid and the top-ups."""
    data, spec = GaussianData.smooth(SHAPE), PyramidSpec(first_frame="shared")
    units = torch.cat([torch.zeros_like(basis(SHAPE)[:1]), basis(SHAPE)])
    zeros = lambda stage: torch.zeros(len(units), 1, *stage.shape, dtype=torch.float64)  # noqa: E731
    _, matrix = run(spec, ExactField, heun, 100, top_up=zeros)
    covariance = matrix @ matrix.T
    for topped in (1, 2):
        shape = spec.stages(SHAPE)[topped].shape
        stage_units = basis(shape)
        no_noise = torch.zeros(len(stage_units) + 1, 1, *SHAPE, dtype=torch.float64)

        def draw(stage, topped=topped, stage_units=stage_units):
            if stage.index == topped:
                return torch.cat([torch.zeros_like(stage_units[:1]), stage_units])
            return torch.zeros(len(stage_units) + 1, 1, *stage.shape, dtype=torch.float64)

        _, extra = run(spec, ExactField, heun, 100, top_up=draw, noise=no_noise)
        covariance = covariance + extra @ extra.T
    assert (covariance - data.covariance).abs().max() / data.covariance.abs().max() < 2e-3


@pytest.mark.parametrize("steps", [1, 2])
@pytest.mark.parametrize("resize", ["haar", "db2"])
def test_few_steps_of_a_linear_student_end_with_the_mean_and_covariance_of_the_data(resize, steps):
    """Each draw is probed with unit vectors while the others are zero; the covariances add up exactly."""
    data, spec = GaussianData.smooth(SHAPE), PyramidSpec(resize=resize)
    stages = spec.stages(SHAPE)
    levels = stage_levels(spec, [steps] * 3)
    student = LinearStudent(data, stages)
    draws = [None] + [(s.index, step) for s in stages for step in range(steps) if (s.level, step) != (0, steps - 1)]
    covariance = torch.zeros_like(data.covariance)
    for active in draws:
        shape = SHAPE if active is None else stages[active[0]].shape
        count = len(basis(shape)) + 1

        def fresh(stage, step, active=active, shape=shape, count=count):
            zero = torch.zeros(count, 1, *stage.shape, dtype=torch.float64)
            return torch.cat([zero[:1], basis(shape)]) if (stage.index, step) == active else zero

        def run_stage(signal, noise, stage, fresh=fresh):
            solver = few_step(lambda step: fresh(stage, step))
            return solver_stage(student, solver, levels)(signal, noise, stage)

        noise = torch.zeros(count, 1, *SHAPE, dtype=torch.float64)
        if active is None:
            noise[1:] = basis(SHAPE)
        end = sample_pyramid(run_stage, noise_pyramid(noise, stages), stages).flatten(1)
        matrix = (end[1:] - end[0]).T
        covariance += matrix @ matrix.T
        torch.testing.assert_close(end[0], data.mean, atol=1e-8, rtol=0)
    torch.testing.assert_close(covariance, data.covariance, atol=1e-8, rtol=0)


def test_the_clean_prediction_of_the_exact_field_is_the_conditional_mean():
    data = GaussianData.smooth(SHAPE)
    stages = PyramidSpec().stages(SHAPE)
    field = ExactField(data, stages)
    for stage in stages:
        natural = torch.tensor(stage.natural_at(0.4), dtype=torch.float64)
        law = data.coarse(stages, stage)
        a, s, _, _ = law.path_maps(stage, float(natural))
        gain = law.covariance @ a.T @ torch.linalg.inv(a @ law.covariance @ a.T + s @ s.T)
        x = torch.randn(3, 1, *stage.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        expected = law.mean + (x.flatten(1) - a @ law.mean) @ gain.T
        got = clean_prediction(x, field(x, stage.at(natural), stage), stage, natural)
        torch.testing.assert_close(got.flatten(1), expected, atol=1e-9, rtol=0)


@pytest.mark.parametrize(("solver", "order"), [(euler, 1), (heun, 2)])
def test_the_error_of_a_solver_falls_with_its_order(solver, order):
    data = GaussianData.smooth(SHAPE)
    spec = PyramidSpec()
    noise = torch.randn(2, 1, *SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    stages = spec.stages(SHAPE)[:1]  # one stage, far from the singular end

    def end(solver, steps):
        runner = solver_stage(ExactField(data, spec.stages(SHAPE)), solver, stage_levels(spec, [steps] * 3))
        return runner(torch.zeros_like(start), start, stages[0])

    start = noise_pyramid(noise, spec.stages(SHAPE))[0]
    reference = end(heun, 1024)
    counts = [8, 16, 32, 64]
    errors = [float((end(solver, n) - reference).norm()) for n in counts]
    slope = -np.polyfit(np.log(counts), np.log(errors), 1)[0]
    assert abs(slope - order) < 0.25


def test_a_resumed_run_equals_an_uninterrupted_one():
    spec = PyramidSpec()
    stages = spec.stages(SHAPE)
    runner = solver_stage(ExactField(GaussianData.smooth(SHAPE), stages), euler, stage_levels(spec, [3, 3, 3]))
    noises = noise_pyramid(torch.randn(1, 1, *SHAPE, dtype=torch.float64), stages)
    whole = sample_pyramid(runner, noises, stages)
    draft = sample_pyramid(runner, noises[:1], stages[:1])
    rest = sample_pyramid(runner, noises[1:], stages[1:], signal=draft, previous=stages[0])
    torch.testing.assert_close(rest, whole, atol=0, rtol=0)
