"""Gaussian data in ComfyUI: its closed-form field replaces the output of a tiny Wan model.

The data has independent orthonormal Haar coefficients, with one standard deviation per band for latent frame 0 and one for the
other frames. The field of a stage then scales every band by a number, and the result of a run is known exactly.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from pyramid.latent_shape import LatentShape
from pyramid.resize import missing_band
from pyramid.stages import PyramidSpec, Stage

BAND_STD = ((0.35, 0.25), (0.9, 0.6), (2.0, 1.6))
"""Standard deviations per coefficient (frame 0, other frames) of the band that a level adds to the next coarser one; at the
coarsest level of a pyramid, of the whole latent. In units of the level's latents: ``clean_coarse = down(clean)``."""


class GaussianComfyUI:
    """The field of Gaussian data for a MODEL; the size of ``x`` identifies the stage."""

    def __init__(self, spec: PyramidSpec, full: LatentShape):
        self.stages = spec.stages(full)

    def into(self, model, *, student: bool = False):
        """Return a clone of the model that outputs the field, or a one-step student that ends with the law of the data."""
        gain = _student_velocity if student else _velocity

        def answer(executor, x, timestep, context, clip_fea=None, time_dim_concat=None, transformer_options=None, **kwargs):
            stage = self.stage_of(x)
            sigma = stage.reference_sigma(transformer_options["sigmas"].flatten()[0].double())
            return self.per_band(x[:, :16].double(), stage, sigma, gain).to(x.dtype)

        clone = model.clone()
        clone.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "gaussian_data", answer)
        return clone

    def conditional_mean(self, x: Tensor, sigma: Tensor) -> Tensor:
        """Return ``E[clean | x]`` at the reference sigma of the stage of ``x``, derived without the velocity."""
        return self.per_band(x.double(), self.stage_of(x), sigma.double(), _mean)

    def stage_of(self, x: Tensor) -> Stage:
        return next(stage for stage in self.stages if tuple(stage.shape) == tuple(x.shape[2:]))

    def per_band(self, x: Tensor, stage: Stage, sigma: Tensor, gain: Callable[..., float]) -> Tensor:
        """Multiply each band of ``x`` at a stage by ``gain(std, signal, slope, sigma, kappa, noise)``."""

        def walk(x: Tensor, at: Stage, noise: tuple[float, float]) -> Tensor:
            factors = tuple(gain(BAND_STD[at.level][f], *_path(stage, at, float(sigma), f), noise[f]) for f in (0, 1))
            scale = at.per_frame(factors, x)
            if at.from_coarser is None:
                return scale * x
            fine_per_coarse = at.from_coarser.fine_per_coarse(2)
            coarse = at.from_coarser.down(x)
            below = walk(coarse, self.stages[at.index - 1], (noise[0] / fine_per_coarse[0], noise[1] / fine_per_coarse[1]))
            return scale * (x - at.from_coarser.up(coarse)) + at.from_coarser.up(below)

        return walk(x, stage, (1.0, 1.0))

    def band_std(self, latents: Tensor) -> dict[tuple[int, int], float]:
        """Return the standard deviation per coefficient for each (level, frame) of full-resolution model latents."""
        deviations, x = {}, latents.double()
        for stage in reversed(self.stages):
            if stage.from_coarser is None:
                counts, band = [1.0] * x.shape[2], x
            else:
                band, coarse = missing_band(x, stage.from_coarser), stage.from_coarser.down(x)
                n = stage.from_coarser.fine_per_coarse(2)
                counts = [1 - 1 / n[min(frame, 1)] for frame in range(x.shape[2])]
            for frame, share in enumerate(counts):  # a band has fewer coefficients than samples, or none at all
                if share:
                    deviations[stage.level, frame] = math.sqrt(float(band[:, :, frame].square().mean()) / share)
            x = coarse if stage.from_coarser is not None else x
        return deviations

    def worst_error(self, latents: Tensor) -> float:
        """Return the largest relative error of a band's standard deviation in any frame."""
        return max(abs(std / BAND_STD[level][min(frame, 1)] - 1) for (level, frame), std in self.band_std(latents).items())

    def whitened(self, noise: Tensor) -> Tensor:
        """Return white noise whose bands have exactly unit deviation in every frame, for which a linear run ends exactly."""
        index = len(self.stages) - 1

        def walk(x: Tensor, index: int) -> Tensor:
            stage = self.stages[index]
            if stage.from_coarser is None:
                return x / x.square().mean(dim=(0, 1, 3, 4), keepdim=True).sqrt()
            n = stage.from_coarser.fine_per_coarse((x.shape[2] + 1) // 2 if "T" in stage.from_coarser.axes else x.shape[2])
            coarse = stage.from_coarser.down(x) * torch.tensor(n, dtype=x.dtype).sqrt()[:, None, None]
            low = walk(coarse, index - 1) / torch.tensor(n, dtype=x.dtype).sqrt()[:, None, None]
            band = missing_band(x, stage.from_coarser)
            share = torch.tensor([1 - 1 / n[min(f, 1)] for f in range(x.shape[2])], dtype=x.dtype)[:, None, None]
            scale = (band.square().mean(dim=(0, 1, 3, 4), keepdim=True) / share.clamp_min(1e-9)).sqrt()
            if "T" in stage.from_coarser.axes:  # the frames of a pair share their band
                pairs = scale[:, :, 1:].square().reshape(1, 1, -1, 2, 1, 1).mean(3, keepdim=True).sqrt()
                scale = torch.cat([scale[:, :, :1], pairs.expand(-1, -1, -1, 2, -1, -1).reshape(1, 1, -1, 1, 1)], dim=2)
            return band / torch.where(share > 0, scale, 1.0) + stage.from_coarser.up(low)

        return walk(noise.double(), index).to(noise.dtype)


def _path(running: Stage, at: Stage, sigma: float, frame: int) -> tuple[float, float, float, float]:
    """Return (signal, d signal / d sigma, sigma of the frame, kappa) of the band of level ``at`` while ``running`` runs."""
    clean, noisy = running.clean.sigma[frame], running.noisy.sigma[frame]
    rho = (sigma - running.clean.sigma[1]) / (running.noisy.sigma[1] - running.clean.sigma[1])
    frame_sigma = clean + rho * (noisy - clean)
    if at is running and running.field == "pyramidal" and running.from_coarser is not None:
        return (1 - rho) * (1 - clean), -(1 - clean) / (noisy - clean), frame_sigma, (1 - clean) * noisy / (noisy - clean)
    return 1 - frame_sigma, -1.0, frame_sigma, 1.0


def _velocity(std: float, signal: float, slope: float, sigma: float, kappa: float, noise: float) -> float:
    return (slope * signal * std**2 + sigma * noise) / (signal**2 * std**2 + sigma**2 * noise)


def _mean(std: float, signal: float, slope: float, sigma: float, kappa: float, noise: float) -> float:
    return signal * std**2 / (signal**2 * std**2 + sigma**2 * noise)


def _student_velocity(std: float, signal: float, slope: float, sigma: float, kappa: float, noise: float) -> float:
    """Return the gain whose clean prediction has exactly the deviation of the data: ``(x - kappa * clean) / sigma``."""
    return (1 - kappa * std / math.sqrt(signal**2 * std**2 + sigma**2 * noise)) / sigma
