"""Pyramidization: finetune a plain Wan into a pyramidal one (PyramidalWan, arXiv 2601.04792, section 3)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from accelerate import Accelerator
from torch import Tensor

from ...forms import Form, starting_rho
from ...latent_shape import LatentShape
from ...noise_levels import NoiseLevel
from ...paths import stage_path
from ...stages import PyramidSpec, Stage
from ..config.finetune import FinetuneConfig
from ..data.batches import StageBatch
from ..engine.trainable import Trainable
from .losses import blurred_signal, flow_loss, natural_sample, teacher_loss
from .stage_losses import LossLog, each_batch
from .stage_network import Teacher, open_teacher, open_trained


class Finetuning:
    """The finetuning recipe.

    At every stage the network learns the velocity of the stage's path (L_pyr). At the stages where the plain teacher is
    competent, it also learns the teacher's prediction (L_dist).

    Attributes:
        model: The network.
        teacher: The plain teacher; None if L_dist is switched off.
        stages: The stages of the pyramid, in running order.
        form: What the network and the teacher predict.
        trainables: The network with its optimiser, as "network".
    """

    def __init__(self, config: FinetuneConfig, accelerator: Accelerator) -> None:
        """Open the network and, if there is one, the teacher."""
        self.config, self.accelerator = config, accelerator
        self.stages, self.form = self.spec.stages(self.shape), config.form
        path = config.model.transformer
        self.model = open_trained(path, config, accelerator, seed=config.train.seed)
        self.teacher = open_teacher(path, self.model, config, accelerator) if config.losses.teacher else None
        self.trainables = {"network": Trainable(self.model.network, config.optimizer, steps=config.train.steps)}

    @property
    def spec(self) -> PyramidSpec:
        """Return the pyramid that is trained."""
        return self.config.pyramid.spec()

    @property
    def shape(self) -> LatentShape:
        """Return the size of the latents at full resolution."""
        return self.config.video.latent

    def step(self, parts: Sequence[Sequence[StageBatch]]) -> dict[str, float]:
        """Take one optimiser step on samples of all stages, which have equal weight; return numbers to log."""
        log = LossLog(len(self.stages))
        batches = [batch for part in parts for batch in part]
        norm = self.trainables["network"].update(each_batch(batches, self.stage_losses, log))
        return {"loss": log.mean_total(), **log.means(), "gradient": norm}

    def stage_losses(self, batch: StageBatch) -> dict[str, tuple[float, Tensor]]:
        """Return weight and value of every loss on samples of one stage."""
        batch, stage = batch.to(self.accelerator.device), self.stages[batch.stage]
        rho = batch.rho * starting_rho(stage, self.form)
        sigma = batch.rho if self.config.train.levels == "all" else stage.reference_sigma_at(rho)
        natural = stage.natural_level(sigma)
        path = stage_path(batch.clean, blurred_signal(batch, stage), batch.noise, stage, natural)
        velocity = self.velocity(path.x, path.level, stage, batch.context)
        losses = {"flow": (1.0, flow_loss(velocity, path, self.form))}
        if self.teacher is not None and stage.level in self.config.losses.teacher_levels:
            clean = teacher_clean(self.teacher, batch, stage, natural, self.form)
            value = teacher_loss(path, velocity, clean, batch.noise, stage, self.form)
            losses["teacher"] = self.config.losses.teacher, value
        return losses

    def velocity(self, x: Tensor, level: NoiseLevel, stage: Stage, context: Tensor) -> Tensor:
        """Return the ``d x / d sigma`` that the network's output stands for; see ``StageNetwork.velocity``."""
        seen, conditioning = self.form.network_input(x, level.sigma), self.form.conditioning(level.conditioning)
        return self.form.velocity(self.model.velocity(seen, conditioning, context, stage), x, level.sigma)


@torch.no_grad()
def teacher_clean(teacher: Teacher, batch: StageBatch, stage: Stage, natural: Tensor, form: Form) -> Tensor:
    """Return the plain teacher's clean prediction from the ordinary flow at the stage's size, with the same noise."""
    x, level = natural_sample(batch.clean, batch.noise, stage, natural)
    sigma = level[:, None, None, None, None]
    output = teacher.velocity(form.network_input(x, sigma), form.conditioning(level), batch.context)
    return x - sigma * form.velocity(output, x, sigma)
