"""Band energies and proposed boundaries of latents with a known spectrum."""

import pytest
import torch
from gaussian_data import GaussianData

from pyramid.latent_shape import LatentShape
from pyramid.noise_levels import shift_sigma
from pyramid.spectrum import band_energies, propose_boundaries
from pyramid.stages import PyramidSpec

SHAPE = LatentShape(5, 8, 8)


def test_measured_energies_equal_those_of_the_covariance():
    data, spec = GaussianData.smooth(SHAPE), PyramidSpec()
    stages = spec.stages(SHAPE)
    root = torch.linalg.cholesky(data.covariance)
    draws = torch.randn(4000, 320, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) @ root.T
    bands = band_energies([draws.reshape(4000, 1, 5, 8, 8)[:1000], draws.reshape(4000, 1, 5, 8, 8)[1000:]], spec)
    for stage, band in zip(stages[1:], bands, strict=True):
        law = data.coarse(stages, stage)
        fine = law.covariance.shape[0]
        coarse = data.coarse(stages, stages[stage.index - 1]).covariance.shape[0]
        fine_per_coarse = torch.tensor(
            stage.from_coarser.fine_per_coarse(stages[stage.index - 1].shape.frames), dtype=torch.float64
        )
        below = data.coarse(stages, stages[stage.index - 1]).covariance.diagonal().reshape(len(fine_per_coarse), -1)
        expected = (law.covariance.trace() - (fine_per_coarse[:, None] * below).sum()) / (fine - coarse)
        assert band.energy == pytest.approx(float(expected), rel=0.03)
        snr = (1 - band.sigma) ** 2 * band.energy / band.sigma**2
        assert snr == pytest.approx(0.1)
        assert band.natural == pytest.approx(shift_sigma(band.sigma, stage.downsample_factor**0.5))


def test_a_lower_threshold_raises_every_boundary():
    data, spec = GaussianData.smooth(SHAPE, correlation=0.95), PyramidSpec()
    root = torch.linalg.cholesky(data.covariance)
    latents = (torch.randn(200, 320, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) @ root.T).reshape(
        -1, 1, 5, 8, 8
    )
    strict, loose = (propose_boundaries(spec, band_energies([latents], spec, threshold=t)) for t in (0.05, 0.5))
    assert all(s > w for s, w in zip(strict.boundaries, loose.boundaries, strict=True))


def test_missing_latents_and_a_zero_threshold_raise_a_clear_error():
    with pytest.raises(ValueError, match="no latents"):
        band_energies([], PyramidSpec())
    with pytest.raises(ValueError, match="above 0"):
        band_energies([torch.zeros(1, 1, 5, 8, 8)], PyramidSpec(), threshold=0)
