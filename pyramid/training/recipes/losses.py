"""The losses of finetuning, as functions of tensors ``(B, C, T, H, W)``; each is a mean over all elements."""

from __future__ import annotations

import torch
from torch import Tensor

from ...forms import FLOW, Form
from ...noise_levels import add_noise
from ...paths import PathSample
from ...stages import Stage
from ..data.batches import StageBatch


def blurred_signal(batch: StageBatch, stage: Stage) -> Tensor:
    """Return the coarser stage's data, upsampled to this stage's size; zeros in the coarsest stage."""
    if stage.from_coarser is None or batch.coarse is None:
        return torch.zeros_like(batch.clean)
    return stage.from_coarser.up(batch.coarse)


def flow_loss(velocity: Tensor, path: PathSample, form: Form = FLOW) -> Tensor:
    """Return L_pyr of one stage: the squared error of ``d x / d sigma`` (PyramidalWan, equation 7).

    In another form it is the squared error of the form's output.
    """
    return (form.scale(path.level.sigma) * (velocity - path.velocity)).square().mean()


def clean_end(path: PathSample, velocity: Tensor, stage: Stage) -> Tensor:
    """Return the clean end of the stage after one step along ``velocity``: ``x - (sigma - sigma_c) * velocity``, per frame."""
    end = stage.per_frame(stage.clean.sigma, velocity)
    return path.x - (path.level.sigma - end) * velocity


def teacher_end(teacher_clean: Tensor, noise: Tensor, stage: Stage) -> Tensor:
    """Return the clean end that the teacher's clean prediction implies: ``(1 - sigma_c) * clean + sigma_c * noise``."""
    return add_noise(teacher_clean, noise, stage.per_frame(stage.clean.sigma, noise))


def teacher_loss(
    path: PathSample, velocity: Tensor, teacher_clean: Tensor, noise: Tensor, stage: Stage, form: Form = FLOW
) -> Tensor:
    """Return L_dist: the student's partially denoised latent against the one that the plain teacher predicts.

    The paper specifies no more than that; to compare at the stage's clean end is a guess. Both ends are divided by the length
    of the stage, which makes the difference an error of a velocity (derived: with a teacher that knows the clean data the loss
    is ``rho ** 2`` times ``flow_loss``, in every form). The teacher gets no gradient.
    """
    ends = stage.per_frame(stage.clean.sigma, noise), stage.per_frame(stage.noisy.sigma, noise)
    difference = clean_end(path, velocity, stage) - teacher_end(teacher_clean.detach(), noise, stage)
    return (form.scale(path.level.sigma) * difference / (ends[1] - ends[0])).square().mean()


def natural_sample(clean: Tensor, noise: Tensor, stage: Stage, natural: Tensor) -> tuple[Tensor, Tensor]:
    """Return the plain teacher's input at natural levels ``(B,)``, and its sigma ``(B,)``.

    The input is a point of the ordinary flow at the stage's size. Frame 0 has the sigma of the other frames, because a plain
    network is conditioned on one sigma for all frames.
    """
    sigma = stage.reference_sigma(natural).to(clean)
    return add_noise(clean, noise, sigma[:, None, None, None, None]), sigma
