"""Distribution matching distillation (DMD) on a stage of a pyramid, as functions of tensors ``(B, C, T, H, W)``.

A student's clean prediction is noised along a path, where teacher and critic predict the velocity. Their difference, carried
back to the clean prediction, is the gradient of the Kullback-Leibler divergence between student and data at that noise level.
Sources: DMD2 (arXiv 2405.14867) for the plain path; PyramidalWan (arXiv 2601.04792) for the pyramidal one, whose expressions
are derived here and tested against that divergence.
"""

from __future__ import annotations

from torch import Tensor

from ...lift import Lift
from ...neighbourhoods import size_of
from ...noise_levels import add_noise
from ...paths import PathSample, stage_path
from ...stages import Stage
from ...transition import path_shares

MIN_DISTANCE = 1e-5
"""Lower bound of the denominator of the weight (rCM)."""


def plain_path(clean: Tensor, noise: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
    """Return the point of the ordinary flow at sigma ``(B,)`` and its velocity ``noise - clean``."""
    return add_noise(clean, noise, sigma[:, None, None, None, None]), noise - clean


def student_path(clean: Tensor, noise: Tensor, stage: Stage, natural: Tensor, drop: Lift | None = None) -> PathSample:
    """Return the point of the stage's path for a student's clean prediction.

    Args:
        clean: The prediction, ``(B, C, T, H, W)``.
        noise: White noise of the same shape.
        stage: The stage.
        natural: Natural level, ``(B,)``.
        drop: Map to the latents of the coarser stage's video; upsampled, they are the blurred signal, as in the training of a
            teacher whose coarse stages are encoded small videos (definition 2). None for the low band of the prediction
            (definition 1).
    """
    if stage.from_coarser is None:
        return stage_path(clean, clean, noise, stage, natural)
    if drop is None:
        return stage_path(clean, stage.low_band(clean), noise, stage, natural)
    coarse = drop(clean, size_of(stage.from_coarser.down(clean)))
    return stage_path(clean, stage.from_coarser.up(coarse), noise, stage, natural)


def carried_back(difference: Tensor, stage: Stage, natural: Tensor) -> Tensor:
    """Carry ``teacher - critic`` on a pyramidal path back to the clean prediction (DMD-PT).

    The result is ``P d + h (d - P d)`` with the projection ``P`` onto the low band and ``h = high_band_share``. In the first
    stage it is ``d`` itself. DMD-PT* uses ``d`` in every stage. Exact where the blurred signal is the low band of the
    prediction; with a drop in its place, an approximation.

    Args:
        difference: Velocity of the teacher less that of the critic, ``d``.
        stage: The stage.
        natural: Natural level, ``(B,)``.
    """
    if not stage.has_blur:
        return difference
    low = stage.low_band(difference)
    return low + high_band_share(stage, natural, like=difference) * (difference - low)


def high_band_share(stage: Stage, natural: Tensor, *, like: Tensor) -> Tensor:
    """Return ``h = beta_1 * gamma_1`` per frame: the factor of the high band in ``carried_back``.

    ``beta_1 = (sigma_n - sigma) / (sigma_n * (1 - sigma))`` is the normalised share of noise in the velocity's high band, and
    ``gamma_1 = (1 - rho) * (1 - sigma_c) / (1 - sigma)`` that of the clean prediction in the latent's. Their product is 0 at
    the noisy end and ``1 / kappa`` of ``clean_prediction`` at the clean end, which is 1 at full size (derived).
    """
    sigma = stage.at(natural.to(like)).sigma
    noisy = stage.per_frame(stage.noisy.sigma, natural.to(like))
    clean_share, _ = path_shares(stage, natural, like=like)
    return (noisy - sigma) / (noisy * (1 - sigma)) * clean_share / (1 - sigma)


def weight(sigma: Tensor, teacher: Tensor, velocity: Tensor) -> Tensor:
    """Return ``w_dmd = sigma / mean |teacher - velocity|``, ``(B, 1, 1, 1, 1)``.

    The mean replaces the sum in the paper's norm, so that the scale does not depend on the size of the stage.

    Args:
        sigma: Sigma of the noised prediction, ``(B,)``.
        teacher: Velocity of the teacher.
        velocity: Velocity of the path.
    """
    distance = (teacher - velocity).abs().mean(dim=(1, 2, 3, 4), keepdim=True).clamp(min=MIN_DISTANCE)
    return sigma[:, None, None, None, None] / distance


def matching_loss(clean: Tensor, gradient: Tensor) -> Tensor:
    """Return a scalar whose gradient with respect to ``clean`` is ``gradient`` divided by the number of elements."""
    target = (clean - gradient).detach()
    return 0.5 * (clean.float() - target.float()).square().mean()


def teach_loss(clean: Tensor, data: Tensor, *, kind: str = "cauchy") -> Tensor:
    """Return L_teach: the distance of the clean prediction to the data it was made from.

    PyramidalWan's form was not published.

    Args:
        clean: The prediction.
        data: The data.
        kind: "cauchy" for ``log(1 + error ** 2)`` per element (Neodragon, arXiv 2511.06055), or "mse", its limit for small
            errors.
    """
    error = (clean - data).square()
    return (error.log1p() if kind == "cauchy" else error).mean()


def guided(conditional: Tensor, empty: Tensor, cfg: float) -> Tensor:
    """Return the guided velocity ``v_u + cfg * (v_c - v_u)``.

    ``v_u`` is of the empty prompt, as in finetuning. Self-Forcing and CausVid guide Wan with its long negative prompt instead.
    """
    return empty + cfg * (conditional - empty)
