"""Gaussian data on a small latent grid, for which the field of a pyramid is known in closed form.

``x = A * clean + sigma * noise`` on a stage's path is jointly Gaussian with its velocity, so ``E[velocity | x]`` is an
affine map. All values are float64 and exact up to rounding.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pyramid.latent_shape import LatentShape
from pyramid.noise_levels import NoiseLevel
from pyramid.paths import stage_path
from pyramid.stages import Stage


def basis(shape: LatentShape) -> Tensor:
    """Return all unit latents, ``(d, 1, T, H, W)``."""
    size = shape.frames * shape.height * shape.width
    return torch.eye(size, dtype=torch.float64).reshape(size, 1, shape.frames, shape.height, shape.width)


def as_matrix(images_of_basis: Tensor) -> Tensor:
    """Return the matrix of a linear map from its values on ``basis``."""
    return images_of_basis.flatten(1).T


@dataclass(frozen=True)
class GaussianData:
    """The Gaussian law of a latent.

    Attributes:
        shape: Size of the latent.
        mean: Mean, ``(d,)``.
        covariance: Covariance, ``(d, d)``.
    """

    shape: LatentShape
    mean: Tensor
    covariance: Tensor

    @classmethod
    def smooth(cls, shape: LatentShape, correlation: float = 0.7) -> GaussianData:
        """Return first-order autoregressive data: bands differ in energy, and so does frame 0."""
        axes = []
        for size in (shape.frames, shape.height, shape.width):
            i = torch.arange(size, dtype=torch.float64)
            axes.append(correlation ** (i[:, None] - i[None, :]).abs())
        covariance = torch.kron(torch.kron(axes[0], axes[1]), axes[2])
        scale = torch.ones(shape.frames, dtype=torch.float64)
        scale[0] = 1.5
        scale = scale.repeat_interleave(shape.height * shape.width)
        mean = torch.linspace(-1, 1, covariance.shape[0], dtype=torch.float64)
        return cls(shape, mean, scale[:, None] * covariance * scale[None, :])

    def coarse(self, stages: tuple[Stage, ...], stage: Stage) -> GaussianData:
        """Return the law of the clean latents of a stage, averaged step by step from full resolution."""
        matrix = basis(self.shape)
        for finer in reversed(stages[stage.index + 1 :]):
            matrix = finer.from_coarser.down(matrix)
        matrix = as_matrix(matrix)
        return GaussianData(stage.shape, matrix @ self.mean, matrix @ self.covariance @ matrix.T)

    def path_maps(self, stage: Stage, natural: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return x and velocity at a level as linear maps of clean data and noise: (A, S, A', I), each ``(d, d)``."""
        unit, zero = basis(self.shape), torch.zeros_like(basis(self.shape))
        blurred = unit if stage.from_coarser is None else stage.from_coarser.up(stage.from_coarser.down(unit))
        level = torch.tensor(natural, dtype=torch.float64)
        of_clean = stage_path(unit, blurred, zero, stage, level)
        of_noise = stage_path(zero, zero, unit, stage, level)
        return tuple(as_matrix(m) for m in (of_clean.x, of_noise.x, of_clean.velocity, of_noise.velocity))

    def moments(self, stage: Stage, natural: float) -> tuple[Tensor, Tensor]:
        """Return the mean and covariance of x on the path."""
        a, s, _, _ = self.path_maps(stage, natural)
        return a @ self.mean, a @ self.covariance @ a.T + s @ s.T


class ExactField:
    """The closed-form velocity of every stage, callable like a network."""

    def __init__(self, data: GaussianData, stages: tuple[Stage, ...]):
        self.stages = stages
        self.data = [data.coarse(stages, stage) for stage in stages]
        self.cache: dict[tuple[int, float], tuple[Tensor, Tensor, Tensor]] = {}

    def affine(self, stage: Stage, natural: float) -> tuple[Tensor, Tensor, Tensor]:
        """Return the gain, the mean of x and the mean of the velocity of ``E[velocity | x]``."""
        key = stage.index, round(natural, 12)
        if key not in self.cache:
            data = self.data[stage.index]
            a, s, da, ds = data.path_maps(stage, natural)
            mean_x, cov_x = data.moments(stage, natural)
            gain = torch.linalg.solve(cov_x, (da @ data.covariance @ a.T + ds @ s.T).T).T
            self.cache[key] = gain, mean_x, da @ data.mean
        return self.cache[key]

    def __call__(self, x: Tensor, level: NoiseLevel, stage: Stage) -> Tensor:
        gain, mean_x, mean_v = self.affine(stage, natural_of(level, stage))
        return (mean_v + (x.flatten(2).double() - mean_x) @ gain.T).reshape(x.shape).to(x.dtype)


class LinearStudent(ExactField):
    """A one-step student: its clean prediction has exactly the law of the clean data at every level of the path.

    ``clean = mean + covariance^(1/2) cov_x^(-1/2) (x - mean_x)``; the velocity follows from it.
    """

    def affine(self, stage: Stage, natural: float) -> tuple[Tensor, Tensor, Tensor]:
        key = stage.index, round(natural, 12)
        if key not in self.cache:
            data = self.data[stage.index]
            mean_x, cov_x = data.moments(stage, natural)
            gain = _root(data.covariance) @ torch.linalg.inv(_root(cov_x))
            self.cache[key] = gain, mean_x, data.mean
        return self.cache[key]

    def __call__(self, x: Tensor, level: NoiseLevel, stage: Stage) -> Tensor:
        clean = super().__call__(x, level, stage)
        raw = clean
        if stage.from_coarser is not None and stage.field == "pyramidal":
            ends = (stage.per_frame(end, x) for end in (stage.clean.sigma, stage.noisy.sigma))
            sigma_c, sigma_n = ends
            low = stage.from_coarser.up(stage.from_coarser.down(clean))
            raw = low + (clean - low) * (1 - sigma_c) * sigma_n / (sigma_n - sigma_c)
        return (x - raw) / level.sigma.to(x)


def natural_of(level: NoiseLevel, stage: Stage) -> float:
    """Return the natural level of a noise level, from the sigma of its last frame."""
    return float(stage.natural_level(level.sigma.flatten()[-1].double()))


def _root(matrix: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(matrix)
    return (vectors * values.clamp_min(0).sqrt()) @ vectors.T
