"""The losses of finetuning, as functions of tensors ``(B, C, T, H, W)``; all are means over everything."""

from __future__ import annotations

from torch import Tensor

from ...noise_levels import add_noise
from ...paths import PathSample
from ...stages import Stage


def flow_loss(velocity: Tensor, path: PathSample) -> Tensor:
    """L_pyr of one stage: the squared error of ``d x / d sigma`` (PyramidalWan, equation 7)."""
    return (velocity - path.velocity).square().mean()


def clean_end(path: PathSample, velocity: Tensor, stage: Stage) -> Tensor:
    """The stage's clean end that a velocity leads to in one step: ``x - (sigma - sigma_c) * velocity``, per frame."""
    end = stage.per_frame(stage.clean.sigma, velocity)
    return path.x - (path.level.sigma - end) * velocity


def teacher_end(teacher_clean: Tensor, noise: Tensor, stage: Stage) -> Tensor:
    """The clean end that the teacher's clean prediction implies: ``(1 - sigma_c) * clean + sigma_c * noise``."""
    return add_noise(teacher_clean, noise, stage.per_frame(stage.clean.sigma, noise))


def teacher_loss(path: PathSample, velocity: Tensor, teacher_clean: Tensor, noise: Tensor, stage: Stage) -> Tensor:
    """L_dist: the student's partially denoised latent against the one that the plain teacher predicts.

    The paper says only that; comparing at the stage's clean end is a guess. Both are divided by the length of the stage,
    so that it is the error of a velocity (derived: with a teacher that knows the clean data, ``rho ** 2`` times ``flow_loss``).
    """
    ends = stage.per_frame(stage.clean.sigma, noise), stage.per_frame(stage.noisy.sigma, noise)
    difference = clean_end(path, velocity, stage) - teacher_end(teacher_clean.detach(), noise, stage)
    return (difference / (ends[1] - ends[0])).square().mean()


def natural_sample(clean: Tensor, noise: Tensor, stage: Stage, natural: Tensor) -> tuple[Tensor, Tensor]:
    """What the plain teacher sees at a natural level ``(B,)``: the ordinary flow at the stage's size, and its sigma ``(B,)``.

    All frames have the sigma of the frames other than 0: a plain network knows one sigma for all.
    """
    sigma = stage.reference_sigma(natural).to(clean)
    return add_noise(clean, noise, sigma[:, None, None, None, None]), sigma
