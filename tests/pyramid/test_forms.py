"""Epsilon and v are units of the flow's path: targets, steps and whole runs equal the literal formulas of TPDiff and DDIM."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from gaussian_data import ExactField, GaussianData, basis

from pyramid.forms import FLOW, TABLES, make_form, starting_levels, starting_rho, starting_signal
from pyramid.latent_shape import LatentShape
from pyramid.noise_pyramid import noise_pyramid
from pyramid.paths import stage_path
from pyramid.sampling import sample_pyramid, solver_stage
from pyramid.schedules import stage_levels
from pyramid.solvers import euler, heun
from pyramid.stages import PRESETS, PyramidSpec
from pyramid.training.recipes.losses import flow_loss

SHAPE = LatentShape(5, 2, 2)
FORMS = {
    "flow": FLOW,
    **{f"{kind} {name}": make_form(kind, TABLES[name]) for kind in ("epsilon", "v") for name in ("stable-diffusion", "ddpm")},
    "v zero-snr": make_form("v", TABLES["zero-snr"]),
}
EVERY_FORM = pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
VP_FORMS = {name: form for name, form in FORMS.items() if form is not FLOW}
EVERY_VP_FORM = pytest.mark.parametrize("form", VP_FORMS.values(), ids=VP_FORMS)
TPDIFF = PRESETS["tpdiff"]


def exact(value):
    return torch.tensor(value, dtype=torch.float64)


def random(*size, seed=0):
    return torch.randn(size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def samples(spec, *, seed=0):
    """Yield every stage with clean data, blurred data and noise."""
    for stage in spec.stages(SHAPE):
        size = (2, 3, *stage.shape)
        clean, noise = random(*size, seed=seed), random(*size, seed=seed + 1)
        blurred = stage.from_coarser.up(stage.from_coarser.down(clean)) if stage.from_coarser else torch.zeros_like(clean)
        yield stage, clean, blurred, noise


def thirds(table):
    """Return TPDiff's pyramid for a table: the two first stages end at timesteps 667 and 333."""
    odds = [((1 - alpha) / alpha).sqrt() for alpha in exact(table.alphas_cumprod())[[667, 333]]]
    boundaries = [float(n**0.5 * u / (1 + n**0.5 * u)) for n, u in zip((4, 2), odds, strict=True)]
    return replace(TPDIFF, boundaries=tuple(boundaries))


def vp(sigma):
    """Return gamma and the deviation of the noise of a variance-preserving model with the odds of a sigma."""
    odds = sigma / (1 - sigma)
    gamma = 1 / (1 + odds**2).sqrt()
    return gamma, odds * gamma


@pytest.mark.parametrize("name", ["stable-diffusion", "ddpm"])
def test_inputs_and_targets_are_those_of_tpdiff(name):
    """The literal formulas, with a gamma and a sigma per frame: frame 0 does not halve in time."""
    table = TABLES[name]
    epsilon, v = make_form("epsilon", table), make_form("v", table)
    alphas, compared = exact(table.alphas_cumprod()), 0
    for stage, clean, blurred, noise in samples(thirds(table)):
        for t in range(999, 0, -37):
            odds_at_t = ((1 - alphas[t]) / alphas[t]).sqrt()
            natural = stage.natural_level(odds_at_t / (1 + odds_at_t))
            if not stage.clean.natural < natural < stage.noisy.natural:
                continue
            path = stage_path(clean, blurred, noise, stage, natural)
            torch.testing.assert_close(path.level.sigma.flatten()[-1], odds_at_t / (1 + odds_at_t), atol=1e-12, rtol=0)
            literal, slope = literal_tpdiff(stage, clean, blurred, noise, path.level.sigma)
            gamma, deviation = vp(path.level.sigma)
            for expected, got in (
                (literal, epsilon.network_input(path.x, path.level.sigma)),
                (literal, v.network_input(path.x, path.level.sigma)),
                (slope, epsilon.output(path.velocity, path.x, path.level.sigma)),
                (gamma * slope - deviation * clean_of(literal, slope, path.level.sigma),
                 v.output(path.velocity, path.x, path.level.sigma)),
            ):  # fmt: skip
                torch.testing.assert_close(got, expected, atol=1e-12, rtol=0)
            compared += 1
    assert compared > 15


def literal_tpdiff(stage, clean, blurred, noise, sigma):
    """Return x_t and the epsilon target of a stage (arXiv 2503.09566, equations 8 to 11, with correct shares of the signal)."""
    if stage.from_coarser is None:
        gamma, deviation = vp(sigma)
        return gamma * clean + deviation * noise, noise
    (gamma_c, deviation_c), (gamma_n, deviation_n) = map(vp, stage.end_sigmas(sigma))
    gamma, deviation = vp(sigma)
    start = gamma_n * blurred + deviation_n * noise
    if stage.level == 0:
        end = clean
    else:
        end = gamma_c * clean + deviation_c * noise
    slope = (end / gamma_c - start / gamma_n) / (deviation_c / gamma_c - deviation_n / gamma_n)
    return gamma * (start / gamma_n + (deviation / gamma - deviation_n / gamma_n) * slope), slope


def clean_of(literal, epsilon, sigma):
    gamma, deviation = vp(sigma)
    return (literal - deviation * epsilon) / gamma


@EVERY_FORM
@pytest.mark.parametrize("spec", [TPDIFF, PRESETS["pyramidal-wan"], PRESETS["plain"]], ids=["tpdiff", "wan", "plain"])
def test_the_target_stands_for_the_velocity_and_errors_scale(form, spec):
    shape = LatentShape(5, 4, 4) if spec.downsample_axes and "HW" in spec.downsample_axes[0] else SHAPE
    for stage in spec.stages(shape):
        size = (2, 3, *stage.shape)
        clean, noise, error = (random(*size, seed=seed) for seed in range(3))
        blurred = stage.low_band(clean) if stage.from_coarser else clean
        top = starting_rho(stage, form)
        path = stage_path(clean, blurred, noise, stage, stage.natural_at(exact([0.3, 1.0]) * top))
        sigma, output = path.level.sigma, form.output(path.velocity, path.x, path.level.sigma)
        if form is not FLOW or stage.index:  # v determines the velocity at sigma 1, too
            assert (sigma < 1).all() or form is FORMS["v zero-snr"]
        torch.testing.assert_close(form.velocity(output, path.x, sigma), path.velocity, atol=1e-12, rtol=1e-12)
        wrong = form.output(path.velocity + error, path.x, sigma)
        torch.testing.assert_close(wrong - output, form.scale(sigma) * error, atol=1e-12, rtol=1e-12)
        loss = flow_loss(path.velocity + error, path, form)
        torch.testing.assert_close(loss, (wrong - output).square().mean(), atol=1e-12, rtol=1e-12)


def test_on_the_ordinary_path_epsilon_is_the_noise_and_v_is_that_of_its_definition():
    clean, noise = random(2, 3, *SHAPE), random(2, 3, *SHAPE, seed=1)
    (stage,) = PRESETS["plain"].stages(SHAPE)
    path = stage_path(clean, clean, noise, stage, exact([0.2, 0.7]))
    sigma, (gamma, deviation) = path.level.sigma, vp(path.level.sigma)
    epsilon, v = FORMS["epsilon ddpm"], FORMS["v ddpm"]
    torch.testing.assert_close(epsilon.output(path.velocity, path.x, sigma), noise, atol=1e-12, rtol=0)
    torch.testing.assert_close(v.output(path.velocity, path.x, sigma), gamma * noise - deviation * clean, atol=1e-12, rtol=0)
    torch.testing.assert_close(v.network_input(path.x, sigma), gamma * clean + deviation * noise, atol=1e-12, rtol=0)
    assert not torch.allclose(epsilon.output(path.velocity, path.x, sigma), path.velocity)


@pytest.mark.parametrize("name", TABLES)
def test_levels_of_the_table_are_its_timesteps_and_others_lie_between(name):
    form = make_form("v", TABLES[name])
    steps = torch.arange(1000, dtype=torch.float64)
    torch.testing.assert_close(1000 * form.conditioning(exact(form.sigmas)), steps, atol=1e-6, rtol=0)
    odds = [form.sigmas[t] / (1 - form.sigmas[t]) for t in (400, 401)]
    between = (odds[0] * odds[1]) ** 0.5
    torch.testing.assert_close(1000 * form.conditioning(exact(between / (1 + between))), exact(400.5), atol=1e-9, rtol=0)
    assert form.conditioning(exact([0.0, 1.0])).tolist() == [0.0, 0.999]
    assert form.conditioning(torch.tensor([0.3, 0.6])).dtype == torch.float32


def test_the_tables_are_those_of_the_published_models():
    """Noise at the last timestep: 14.6 times the signal in Stable Diffusion, and none but noise with zero terminal SNR."""
    odds = {name: table.sigmas()[-1] / max(1e-9, 1 - table.sigmas()[-1]) for name, table in TABLES.items()}
    assert odds["stable-diffusion"] == pytest.approx(14.6146, abs=1e-3)
    assert odds["ddpm"] == pytest.approx(157.4, abs=0.1)
    assert TABLES["zero-snr"].sigmas()[-1] == 1
    assert TABLES["zero-snr"].sigmas()[0] == pytest.approx(TABLES["stable-diffusion"].sigmas()[0], abs=1e-12)
    alphas = exact(TABLES["animatediff"].alphas_cumprod())
    torch.testing.assert_close(
        1 - alphas[1:] / alphas[:-1], torch.linspace(0.00085, 0.012, 1000, dtype=torch.float64)[1:], atol=1e-12, rtol=0
    )


@EVERY_VP_FORM
@pytest.mark.parametrize("source", ["natural", "sigma", "pyramid-flow"])
def test_a_run_starts_where_the_network_is_conditioned_on_the_last_timestep(form, source):
    low, *finer = replace(TPDIFF, timestep_source=source).stages(SHAPE)
    top = starting_rho(low, form)
    level = low.at(low.natural_at(exact(top)))
    assert float(1000 * form.conditioning(level.conditioning)) == pytest.approx(999, abs=1e-6)
    assert float(level.conditioning) == pytest.approx(form.highest, abs=1e-9)
    assert all(starting_rho(stage, form) == 1 for stage in finer)
    natural = [1.0, low.natural_at(0.5), low.clean.natural]
    assert [low.rho(level) for level in starting_levels(natural, low, form)] == pytest.approx([top, top / 2, 0], abs=1e-9)
    assert starting_levels(natural, low, FLOW) == tuple(natural)


@EVERY_FORM
def test_a_run_starts_from_what_samplers_of_the_form_start_from(form):
    low = TPDIFF.stages(SHAPE)[0]
    sigma = low.at(low.natural_at(exact(starting_rho(low, form)))).sigma
    noise = random(2, 3, *low.shape)
    x = (1 - sigma) * starting_signal(noise, sigma) + sigma * noise
    torch.testing.assert_close(form.network_input(x, sigma), noise, atol=1e-12, rtol=0)


class Network:
    """The exact network of a form: it sees what the form shows it, and predicts the form's output."""

    def __init__(self, form, field):
        self.form, self.field = form, field

    def __call__(self, seen, level, stage):
        ones = torch.ones((), dtype=torch.float64)
        x = seen / self.form.network_input(ones, level.sigma)
        return self.form.output(self.field(x, level, stage), x, level.sigma)


def velocity_of(form, network):
    """Return the velocity that the core's solvers integrate."""

    def velocity(x, level, stage):
        return form.velocity(network(form.network_input(x, level.sigma), level, stage), x, level.sigma)

    return velocity


def run(form, spec, solver, steps):
    """Return mean and covariance at the end of a run that starts with the law of the data at the form's highest level."""
    data, stages = GaussianData.smooth(SHAPE), spec.stages(SHAPE)
    levels = stage_levels(spec, [steps] * len(stages))
    levels[0] = starting_levels(levels[0], stages[0], form)
    coarse = data.coarse(stages, stages[0])
    units, signals = basis(SHAPE), basis(stages[0].shape)
    noise = torch.cat([torch.zeros_like(units[:1]), units, torch.zeros(len(signals), *units.shape[1:])])
    signal = coarse.mean.reshape(1, 1, *stages[0].shape).expand(len(noise), -1, -1, -1, -1).clone()
    signal[1 + len(units) :] += signals
    network = Network(form, ExactField(data, stages))
    end = sample_pyramid(
        solver_stage(velocity_of(form, network), solver, levels), noise_pyramid(noise, stages), stages, signal=signal
    ).flatten(1)
    of_noise, of_signal = ((end[1:] - end[0]).T).split([len(units), len(signals)], dim=1)
    return data, end[0], of_noise @ of_noise.T + of_signal @ coarse.covariance @ of_signal.T


@EVERY_FORM
@pytest.mark.parametrize(("solver", "order", "counts"), [(euler, 1, (40, 80)), (heun, 2, (16, 32))], ids=["euler", "heun"])
def test_a_run_ends_with_the_law_of_the_data_with_the_order_of_its_solver(form, solver, order, counts):
    errors = []
    for steps in counts:
        data, mean, covariance = run(form, TPDIFF, solver, steps)
        errors.append(float((covariance - data.covariance).abs().max() / data.covariance.abs().max()))
        assert (mean - data.mean).abs().max() < 2 * max(errors[-1], 1e-3)
    slope = np.log(errors[0] / errors[1]) / np.log(counts[1] / counts[0])
    assert abs(slope - order) < 0.3
    assert errors[-1] < (0.05 if solver is euler else 5e-3)


@pytest.mark.parametrize("name", ["stable-diffusion", "ddpm"])
def test_a_run_of_euler_equals_ddim_with_the_transition_of_tpdiff(name):
    """DDIM in ``z = x / gamma``: steps in the odds; at a transition ``z`` is upsampled and gets the missing band."""
    form, spec = make_form("epsilon", TABLES[name]), thirds(TABLES[name])
    stages = spec.stages(SHAPE)
    levels = stage_levels(spec, [5, 4, 3])
    levels[0] = starting_levels(levels[0], stages[0], form)
    noises = noise_pyramid(random(2, 1, *SHAPE), stages)
    network = Network(form, ExactField(GaussianData.smooth(SHAPE), stages))
    start = stages[0].at(exact(levels[0][0])).sigma
    signal = starting_signal(noises[0], start)
    ours = sample_pyramid(solver_stage(velocity_of(form, network), euler, levels), noises, stages, signal=signal)

    z = noises[0] / vp(start)[0]
    for stage, noise, naturals in zip(stages, noises, levels, strict=True):
        if stage.index:
            sigma = stage.end_sigmas(noise)[1]
            z = stage.from_coarser.up(z) + sigma / (1 - sigma) * noise
        for natural, following in itertools.pairwise(naturals):
            level, next_sigma = stage.at(exact(natural)), stage.at(exact(following)).sigma
            gamma, _ = vp(level.sigma)
            epsilon = network(gamma * z, level, stage)
            z = z + (next_sigma / (1 - next_sigma) - level.sigma / (1 - level.sigma)) * epsilon
    torch.testing.assert_close(ours, z, atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize(
    ("name", "table", "message"),
    [
        ("eps", None, "unknown form 'eps'; expected flow, epsilon, v"),
        ("flow", "ddpm", "form 'flow' has no noise table; leave it out"),
        ("v", None, "form 'v' requires a noise table; expected stable-diffusion, animatediff, ddpm, zero-snr"),
        ("epsilon", "zero-snr", "form 'epsilon' requires a table that ends below pure noise, .* use 'v'"),
    ],
)
def test_a_form_that_does_not_exist_is_an_error(name, table, message):
    with pytest.raises(ValueError, match=message):
        make_form(name, TABLES.get(table))


def test_a_first_stage_above_the_table_is_an_error():
    low = PyramidSpec((0.95, 0.5), ("T", "T")).stages(SHAPE)[0]
    with pytest.raises(ValueError, match=r"ends at noise level 0.95, .* no level above 0.936; use smaller boundaries"):
        starting_rho(low, FORMS["epsilon stable-diffusion"])
