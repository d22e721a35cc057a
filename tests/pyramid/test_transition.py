"""Transitions have the exact covariance and join the paths of stages; predictions recover clean data exactly."""

import pytest
import torch
from gaussian_data import GaussianData, as_matrix, basis

from pyramid.latent_shape import LatentShape
from pyramid.noise_levels import add_noise
from pyramid.noise_pyramid import noise_pyramid, stage_seed, step_seed, top_up_seed
from pyramid.paths import clean_prediction, stage_path
from pyramid.sampling import into_stage
from pyramid.stages import PyramidSpec
from pyramid.transition import renoise

RESIZES = ["haar", "dct", "db2", "db4", "sym4", "coif3"]
AXES = [("THW", "THW"), ("HW", "HW"), ("T", "T"), ("T", "HW")]
SHAPE = LatentShape(5, 8, 8)


def exact(natural):
    return torch.tensor(natural, dtype=torch.float64)


def law_after_transition(coarse, fine):
    """Return the mean at the fine noisy end as a map of the coarse clean latent, the covariance there, and its sigma."""
    units, zero = basis(coarse.shape), torch.zeros(1, 1, *coarse.shape, dtype=torch.float64)
    fine_units = basis(fine.shape)
    sigma_c, sigma_n = coarse.at(exact(coarse.clean.natural)).sigma, fine.at(exact(fine.noisy.natural)).sigma

    def end(signal, noise, top_up):
        pair = into_stage(signal / (1 - sigma_c), coarse, fine, noise, top_up=lambda _: top_up)
        return as_matrix(add_noise(*pair, sigma_n))

    no_fine = torch.zeros_like(fine_units[:1])
    of_clean = end((1 - sigma_c) * units, no_fine.expand(len(units), -1, -1, -1, -1), no_fine)
    of_coarse_noise = end(sigma_c * units, no_fine.expand(len(units), -1, -1, -1, -1), no_fine)
    of_noise = end(zero.expand(len(fine_units), -1, -1, -1, -1), fine_units, no_fine)
    of_top_up = end(zero.expand(len(fine_units), -1, -1, -1, -1), torch.zeros_like(fine_units), fine_units)
    covariance = sum(m @ m.T for m in (of_coarse_noise, of_noise, of_top_up))
    return of_clean, covariance, sigma_n


@pytest.mark.parametrize("first_frame", ["per-frame", "shared"])
@pytest.mark.parametrize("downsample_axes", AXES)
@pytest.mark.parametrize("resize", RESIZES)
def test_covariance_after_a_transition_is_exact(resize, downsample_axes, first_frame):
    stages = PyramidSpec((0.9, 0.5), downsample_axes, resize=resize, first_frame=first_frame).stages(SHAPE)
    for coarse, fine in zip(stages, stages[1:], strict=False):
        of_clean, covariance, sigma_n = law_after_transition(coarse, fine)
        variances = (sigma_n**2).expand(*fine.shape).flatten()
        torch.testing.assert_close(covariance, torch.diag(variances), atol=1e-10, rtol=0)
        expected = as_matrix((1 - sigma_n) * fine.from_coarser.up(basis(coarse.shape)))
        torch.testing.assert_close(of_clean, expected, atol=1e-10, rtol=0)


def test_a_missing_top_up_raises_a_clear_error():
    low, mid, _ = PyramidSpec(first_frame="shared").stages(SHAPE)
    with pytest.raises(ValueError, match="tops up the noise of frame 0"):
        into_stage(torch.zeros(1, 1, 2, 2, 2), low, mid, torch.zeros(1, 1, 3, 4, 4))


def test_missing_band_equals_the_block_noise_of_pyramidal_flow():
    """Pyramidal Flow: each 2x2 block has covariance (1 + gamma) I - gamma 11^T, scaled by beta; gamma = 1/3."""
    coarse, fine, _ = PyramidSpec((8 / 9, 0.5), ("HW", "HW"), first_frame="shared").stages(LatentShape(1, 8, 8))
    band = fine.from_coarser
    noise = as_matrix(basis(fine.shape) - band.up(band.down(basis(fine.shape)))) * fine.noisy.sigma[1]
    block = (noise @ noise.T)[torch.tensor([0, 1, 4, 5])][:, torch.tensor([0, 1, 4, 5])]
    gamma, a = 1 / 3, 1 - coarse.clean.sigma[1]
    beta = (1 - a) / gamma**0.5 / ((1 + 1 / gamma) ** 0.5 * (1 - a) + a)
    theirs = beta**2 * ((1 + gamma) * torch.eye(4, dtype=torch.float64) - gamma)
    torch.testing.assert_close(block, theirs, atol=1e-12, rtol=0)


@pytest.mark.parametrize("first_frame", ["per-frame", "shared"])
@pytest.mark.parametrize("resize", RESIZES)
def test_a_transition_ends_where_the_path_of_the_finer_stage_starts(resize, first_frame):
    data = GaussianData.smooth(SHAPE)
    stages = PyramidSpec(resize=resize, first_frame=first_frame).stages(SHAPE)
    for coarse, fine in zip(stages, stages[1:], strict=False):
        of_clean, covariance, _ = law_after_transition(coarse, fine)
        coarse_data, fine_data = data.coarse(stages, coarse), data.coarse(stages, fine)
        mean, expected = fine_data.moments(fine, fine.noisy.natural)
        torch.testing.assert_close(of_clean @ coarse_data.mean, mean, atol=1e-9, rtol=0)
        torch.testing.assert_close(of_clean @ coarse_data.covariance @ of_clean.T + covariance, expected, atol=1e-9, rtol=0)


@pytest.mark.parametrize("field", ["pyramidal", "natural"])
@pytest.mark.parametrize("resize", ["haar", "db2"])
def test_velocity_is_the_derivative_of_the_path_and_recovers_clean_data(resize, field):
    spec = PyramidSpec(resize=resize, field=field, first_frame="shared" if field == "natural" else "per-frame")
    generator = torch.Generator().manual_seed(1)
    for stage in spec.stages(SHAPE):
        size = (2, 3, *stage.shape)
        clean, noise = (torch.randn(size, dtype=torch.float64, generator=generator) for _ in range(2))
        blurred = stage.from_coarser.up(stage.from_coarser.down(clean)) if stage.from_coarser else clean
        for rho in (0.9, 0.5, 0.1):
            point = stage_path(clean, blurred, noise, stage, exact(stage.natural_at(rho)))
            ahead, behind = (stage_path(clean, blurred, noise, stage, exact(stage.natural_at(rho + e))) for e in (1e-5, -1e-5))
            numeric = (ahead.x - behind.x) / (ahead.level.sigma - behind.level.sigma)
            torch.testing.assert_close(point.velocity, numeric, atol=1e-7, rtol=0)
            recovered = clean_prediction(point.x, point.velocity, stage, exact(stage.natural_at(rho)))
            torch.testing.assert_close(recovered, clean, atol=1e-10, rtol=0)
            signal, same = renoise(clean, stage, exact(stage.natural_at(rho)), noise)
            torch.testing.assert_close(add_noise(signal, same, point.level.sigma), point.x, atol=1e-10, rtol=0)


def test_a_batch_of_levels_equals_each_level_alone():
    stage = PyramidSpec().stages(SHAPE)[1]
    clean, noise = (torch.randn(2, 1, 3, 4, 4, dtype=torch.float64) for _ in range(2))
    blurred = stage.from_coarser.up(stage.from_coarser.down(clean))
    together = stage_path(clean, blurred, noise, stage, exact([0.7, 0.85]))
    for i, natural in enumerate((0.7, 0.85)):
        alone = stage_path(clean[i : i + 1], blurred[i : i + 1], noise[i : i + 1], stage, exact(natural))
        torch.testing.assert_close(together.x[i : i + 1], alone.x)
        torch.testing.assert_close(together.velocity[i : i + 1], alone.velocity)
        prediction = clean_prediction(together.x, together.velocity, stage, exact([0.7, 0.85]))
        torch.testing.assert_close(prediction, clean)


@pytest.mark.parametrize("resize", RESIZES)
@pytest.mark.parametrize("downsample_axes", AXES)
def test_noise_of_the_stages_is_white_in_its_band_and_independent(downsample_axes, resize):
    stages = PyramidSpec((0.9, 0.5), downsample_axes, resize=resize).stages(SHAPE)
    parts = [as_matrix(part) for part in noise_pyramid(basis(SHAPE), stages)]
    torch.testing.assert_close(parts[0] @ parts[0].T, torch.eye(len(parts[0]), dtype=torch.float64), atol=1e-10, rtol=0)
    for i, part in enumerate(parts):
        for other in parts[:i]:
            torch.testing.assert_close(
                part @ other.T, torch.zeros(len(part), len(other), dtype=torch.float64), atol=1e-10, rtol=0
            )
        if i:
            low = stages[i].from_coarser
            white = basis(stages[i].shape)
            expected = as_matrix(white - low.up(low.down(white)))
            torch.testing.assert_close(part @ part.T, expected, atol=1e-10, rtol=0)


def test_every_draw_has_a_different_seed_and_the_first_stage_keeps_that_of_the_run():
    stages = [stage_seed(7, index) for index in range(4)]
    seeds = [*stages, *(step_seed(s, step) for s in stages for step in range(4)), *(top_up_seed(s) for s in stages)]
    assert stages[0] == 7
    assert len(set(seeds)) == len(seeds) and all(0 <= seed < 2**64 for seed in seeds)
    assert stages[1] == 15100576067044511011  # saved workflows keep their videos: these never change


def test_a_coarse_stage_that_ends_too_noisy_raises_a_clear_error():
    low, mid, _ = PyramidSpec().stages(SHAPE)
    _, noisier, _ = PyramidSpec((0.8, 0.602)).stages(SHAPE)
    with pytest.raises(ValueError, match="ends with more noise than the fine stage starts with"):
        into_stage(torch.zeros(1, 1, 2, 2, 2), low, noisier, torch.zeros(1, 1, 3, 4, 4))
    into_stage(torch.zeros(1, 1, 2, 2, 2), low, mid, torch.zeros(1, 1, 3, 4, 4))
