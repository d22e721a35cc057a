"""Distribution matching distillation: a few-step student of a pyramid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from torch import Tensor

from ...lift import Lift
from ...stages import PRESETS, Stage
from ..config.distill import DistillConfig
from ..data.batches import DistillBatch
from ..engine.trainable import Trainable
from . import dmd
from .stage_losses import LossLog, each_batch
from .stage_network import open_teacher, open_trained
from .student import FewStepStudent


@dataclass(frozen=True)
class NoisedPrediction:
    """A student's clean prediction, noised for teacher and critic.

    Attributes:
        x: The noisy latent, ``(B, C, T, H, W)``.
        conditioning: Noise level that the networks are conditioned on, ``(B,)``.
        sigma: Sigma of the frames other than 0, ``(B,)``.
        natural: Natural level, ``(B,)``.
        velocity: ``d x / d sigma`` along the path, of the shape of ``x``.
    """

    x: Tensor
    conditioning: Tensor
    sigma: Tensor
    natural: Tensor
    velocity: Tensor


class DistributionMatching:
    """The DMD recipes, on every stage of a pyramid.

    The student makes a clean prediction from one of its levels, which starts from noised data or from its own run. The
    prediction is noised again, along the ordinary flow at the stage's size (dmd, dmd-ot, dmd-ppf) or along the stage's path
    (dmd-pt, dmd-pt-star). With dmd-ppf all predictions have full size, where teacher and critic read them as plain Wan does.

    In every iteration the critic learns the velocity there. In every ``critic_updates``-th one the student first moves along
    the difference of teacher and critic, and towards the data (L_teach).

    Attributes:
        student: The few-step student.
        critic: The network that learns the velocity of the student's predictions.
        teacher: The frozen network; with a LoRA, the base of ``critic``.
        stages: The stages of the pyramid, in running order.
        drops: Maps to the coarser stage that blur predictions on a stage's path, by the stage's index; without one, their low
            band does.
        trainables: "student" and "critic" with their optimisers.
    """

    def __init__(self, config: DistillConfig, accelerator: Accelerator, drops: Mapping[int, Lift] | None = None) -> None:
        """Open the three networks."""
        self.config, self.accelerator, self.drops, path = config, accelerator, drops or {}, config.networks.teacher
        self.student = FewStepStudent(config, accelerator)
        self.stages = self.student.stages
        self.score_spec = PRESETS["plain"] if config.traits.patches else config.pyramid.spec()
        self.critic = open_trained(path, config, accelerator, seed=config.train.seed + 1, spec=self.score_spec)
        self.teacher = open_teacher(path, self.critic, config, accelerator)
        self.trainables = {
            "student": Trainable(self.student.model.network, config.student, steps=config.student_updates),
            "critic": Trainable(self.critic.network, config.critic, steps=config.train.steps),
        }

    def step(self, parts: Sequence[Sequence[DistillBatch]]) -> dict[str, float]:
        """Take one iteration; the student is updated in the first of every ``critic_updates``. Return numbers to log."""
        log, norms = LossLog(len(self.stages)), {}
        batches = [batch.to(self.accelerator.device) for part in parts for batch in part]
        if self.trainables["critic"].done % self.config.train.critic_updates == 0:
            norms["gradient/student"] = self.trainables["student"].update(each_batch(batches, self.student_losses, log))
        norms["gradient/critic"] = self.trainables["critic"].update(each_batch(batches, self.critic_losses, log))
        return {"loss": log.mean_over_stages("critic"), **log.means(), **norms}

    def student_losses(self, batch: DistillBatch) -> dict[str, tuple[float, Tensor]]:
        """Return weight and value of the matching loss and, if it is used, of L_teach."""
        clean = self.student.generate(batch)
        losses = {"match": (1.0, dmd.matching_loss(clean, self.matching_gradient(clean.detach(), batch)))}
        if self.config.losses.teach:
            teach = dmd.teach_loss(clean, batch.clean, kind=self.config.losses.teach_kind)
            losses["teach"] = self.config.losses.teach, teach
        return losses

    @torch.no_grad()
    def matching_gradient(self, clean: Tensor, batch: DistillBatch) -> Tensor:
        """Return ``w * (teacher - critic)`` at the noised prediction, carried back to the prediction ``clean``."""
        stage = self.score_stage(batch)
        noised = self.noised(clean, batch, stage)
        empty_context = batch.empty.expand_as(batch.context)
        conditional, empty = (
            self.teacher.velocity(noised.x, noised.conditioning, context, stage) for context in (batch.context, empty_context)
        )
        teacher = dmd.guided(conditional, empty, self.config.losses.cfg)
        difference = teacher - self.critic.velocity(noised.x, noised.conditioning, batch.context, stage)
        if self.config.traits.full_gradient:
            difference = dmd.carried_back(difference, stage, noised.natural)
        return dmd.weight(noised.sigma, teacher, noised.velocity) * difference

    def critic_losses(self, batch: DistillBatch) -> dict[str, tuple[float, Tensor]]:
        """Return the flow-matching loss of the critic on the student's predictions."""
        stage = self.score_stage(batch)
        with torch.no_grad():
            clean = self.student.generate(batch)
        noised = self.noised(clean, batch, stage)
        velocity = self.critic.velocity(noised.x, noised.conditioning, batch.context, stage)
        return {"critic": (1.0, (velocity - noised.velocity).square().mean())}

    def score_stage(self, batch: DistillBatch) -> Stage:
        """Return the stage at which teacher and critic read a prediction of a batch's stage."""
        stage = self.stages[batch.stage]
        return self.score_spec.stages(stage.shape)[0] if self.config.traits.patches else stage

    def noised(self, clean: Tensor, batch: DistillBatch, stage: Stage) -> NoisedPrediction:
        """Return a clean prediction noised with the batch's second draw."""
        noise, losses = batch.second_noise, self.config.losses
        if self.config.traits.plain_path:
            rho = losses.second_rho(batch.second_rho, shift=losses.shift)
            x, velocity = dmd.plain_path(clean, noise, rho)
            return NoisedPrediction(x, conditioning=rho, sigma=rho, natural=rho, velocity=velocity)
        sigma = stage.reference_sigma_at(losses.second_rho(batch.second_rho))
        natural = stage.natural_level(sigma)
        path = dmd.student_path(clean, noise, stage, natural, self.drops.get(batch.stage))
        return NoisedPrediction(path.x, path.level.conditioning, sigma, natural, path.velocity)
