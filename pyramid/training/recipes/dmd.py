"""Distribution matching distillation (DMD) on a stage of a pyramid, as functions of tensors ``(B, C, T, H, W)``.

A student's clean prediction is noised along a path, teacher and critic are asked for the velocity there, and their
difference, carried back to the clean prediction, is the gradient of the Kullback-Leibler divergence of student and data at
that noise level. Sources: DMD2 (arXiv 2405.14867) for the plain path; PyramidalWan (arXiv 2601.04792) for the pyramidal one,
whose concrete expressions are derived here and tested against that divergence.
"""

from __future__ import annotations

from torch import Tensor

from ...noise_levels import add_noise
from ...paths import PathSample, stage_path
from ...stages import Stage
from ...transition import path_shares

LEAST = 1e-5
"""Smallest denominator of the weight (rCM)."""


def plain_path(clean: Tensor, noise: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
    """The ordinary flow at sigma ``(B,)``: the noisy latent and its velocity ``noise - clean``."""
    return add_noise(clean, noise, sigma[:, None, None, None, None]), noise - clean


def student_path(clean: Tensor, noise: Tensor, stage: Stage, natural: Tensor) -> PathSample:
    """The stage's path of a student's own clean prediction, whose blurred signal is its own low band."""
    blurred = clean if stage.from_coarser is None else stage.low_band(clean)
    return stage_path(clean, blurred, noise, stage, natural)


def carried_back(difference: Tensor, stage: Stage, natural: Tensor) -> Tensor:
    """Teacher's less critic's velocity on a pyramidal path, carried back to the clean prediction (DMD-PT).

    The low band passes, the high band fades towards the noisy end of the stage: ``P d + h (d - P d)``. DMD-PT* is the
    difference itself, and so is this where the pyramid starts.
    """
    if not stage.has_blur:
        return difference
    low = stage.low_band(difference)
    return low + high_band_share(stage, natural, like=difference) * (difference - low)


def high_band_share(stage: Stage, natural: Tensor, *, like: Tensor) -> Tensor:
    """``h = beta_1 * gamma_1``, both normalised, per frame: 0 at the noisy end, ``1 / kappa`` of ``clean_prediction`` at the
    clean end (1 at full size).

    ``beta_1 = (sigma_n - sigma) / (sigma_n * (1 - sigma))`` says how much of the velocity's high band is noise,
    ``gamma_1 = (1 - rho) * (1 - sigma_c) / (1 - sigma)`` how much of the clean prediction's high band is in the latent.
    """
    sigma = stage.at(natural.to(like)).sigma
    noisy = stage.per_frame(stage.noisy.sigma, natural.to(like))
    clean_share, _ = path_shares(stage, natural, like=like)
    return (noisy - sigma) / (noisy * (1 - sigma)) * clean_share / (1 - sigma)


def weight(sigma: Tensor, teacher: Tensor, velocity: Tensor) -> Tensor:
    """``w_dmd = sigma / mean |teacher - velocity|``, ``(B, 1, 1, 1, 1)``: velocity is the path's own.

    The mean, not the sum of the paper's norm: the scale must not depend on the size of the stage.
    """
    distance = (teacher - velocity).abs().mean(dim=(1, 2, 3, 4), keepdim=True).clamp(min=LEAST)
    return sigma[:, None, None, None, None] / distance


def matching_loss(clean: Tensor, gradient: Tensor) -> Tensor:
    """A scalar whose gradient with respect to ``clean`` is ``gradient`` over the number of elements."""
    target = (clean - gradient).detach()
    return 0.5 * (clean.float() - target.float()).square().mean()


def teach_loss(clean: Tensor, data: Tensor, *, kind: str = "cauchy") -> Tensor:
    """L_teach: the clean prediction against the data it was made from. "cauchy" is ``log(1 + error ** 2)``, as Neodragon's
    (arXiv 2511.06055), per element; "mse" its limit for small errors. PyramidalWan's form was not published."""
    error = (clean - data).square()
    return (error.log1p() if kind == "cauchy" else error).mean()


def guided(conditional: Tensor, empty: Tensor, cfg: float) -> Tensor:
    """``v_u + cfg * (v_c - v_u)``, of the teacher only."""
    return empty + cfg * (conditional - empty)
