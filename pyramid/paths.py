"""The path of a stage: training pairs from clean data, and the clean data that a prediction implies."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .noise_levels import NoiseLevel
from .stages import Stage
from .transition import path_shares


@dataclass(frozen=True)
class PathSample:
    """A point on a stage's path.

    Attributes:
        x: The noisy latent, ``(B, C, T, H, W)``.
        level: Noise level of ``x`` and conditioning of the network.
        velocity: ``d x / d sigma`` per frame, the regression target, of the shape of ``x``; equals Wan's ``noise - clean``
            where the path has no blur.
    """

    x: Tensor
    level: NoiseLevel
    velocity: Tensor


def stage_path(clean: Tensor, blurred: Tensor, noise: Tensor, stage: Stage, natural: float | Tensor) -> PathSample:
    """Return the point of the stage's path at a natural level.

    ``x = (1 - rho) * y_c + rho * y_n`` with the ends ``y`` of the stage (PyramidalWan, section 3). The target is divided by
    ``sigma_n - sigma_c``; Pyramidal Flow trains the undivided one.

    Args:
        clean: Data at the stage's size, ``(B, C, T, H, W)``.
        blurred: Data of the coarser stage, upsampled to this one; ignored on a natural path and in the first stage.
        noise: White noise, the same for both ends of the stage.
        stage: The stage.
        natural: Natural level, ``()`` or ``(B,)``.
    """
    natural = torch.as_tensor(natural, dtype=clean.dtype, device=clean.device)
    level = stage.at(natural)
    if not stage.has_blur:
        return PathSample((1 - level.sigma) * clean + level.sigma * noise, level, noise - clean)
    clean_share, blurred_share = path_shares(stage, natural, like=clean)
    sigma_clean, sigma_noisy = stage.end_sigmas(natural)
    slope = ((1 - sigma_clean) * clean - (1 - sigma_noisy) * blurred) / (sigma_noisy - sigma_clean)
    return PathSample(clean_share * clean + blurred_share * blurred + level.sigma * noise, level, noise - slope)


def clean_prediction(x: Tensor, velocity: Tensor, stage: Stage, natural: float | Tensor) -> Tensor:
    """Return the clean data that a velocity implies; ``E[clean | x]`` for the exact field.

    ``x - sigma * velocity`` is right in the low band. In the high band of a pyramidal stage it is too large by the factor
    ``kappa = (1 - sigma_c) * sigma_n / (sigma_n - sigma_c)`` per frame (derived; kappa is 1 at both ends of the pyramid).

    Args:
        x: Noisy latent, ``(B, C, T, H, W)``.
        velocity: ``d x / d sigma`` per frame, of the shape of ``x``.
        stage: The stage of ``x``.
        natural: Natural level of ``x``, ``()`` or ``(B,)``.
    """
    natural = torch.as_tensor(natural, dtype=x.dtype, device=x.device)
    raw = x - stage.at(natural).sigma * velocity
    if not stage.has_blur or stage.level == 0:
        return raw
    clean, noisy = stage.end_sigmas(natural)
    kappa = (1 - clean) * noisy / (noisy - clean)
    low = stage.low_band(raw)
    return low + (raw - low) / kappa
