"""Adversarial distillation: a few-step student against a discriminator on diffusion features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from accelerate import Accelerator
from torch import Tensor

from ...lift import Lift
from ...stages import Stage
from ..config.distill import DistillConfig
from ..data.batches import DistillBatch
from ..engine.trainable import Trainable
from ..models.networks import WanVelocity
from . import dmd
from .adversarial import (
    DiscriminatorHeads,
    check_taps,
    discriminator_accuracy,
    hinge_discriminator,
    hinge_generator,
    reconstruction,
)
from .stage_losses import LossLog, each_batch
from .stage_network import open_frozen
from .student import FewStepStudent


class AdversarialDistillation:
    """The adversarial recipes, on every stage of a pyramid.

    The student makes a clean prediction from data noised to one of its levels, or from its own run. Prediction and data are
    noised alike: along the ordinary flow for a plain transformer (adv, adv-od), along the stage's path for a pyramidal one
    (adv-pd). In every iteration the heads learn to discriminate the transformer's features of the two (hinge loss). In every
    ``critic_updates``-th one the student first learns to raise the logits of its predictions, and to stay near the data
    (pseudo-Huber).

    Attributes:
        student: The few-step student.
        features: The frozen transformer.
        heads: The discriminator.
        drops: Maps to the coarser stage that blur predictions and data on a stage's path, as in ``DistributionMatching``.
        trainables: "student" and "critic" (the heads) with their optimisers.
    """

    def __init__(self, config: DistillConfig, accelerator: Accelerator, drops: Mapping[int, Lift] | None = None) -> None:
        """Open the networks and create the heads.

        Raises:
            ValueError: A tap is not a block of the teacher.
        """
        self.config, self.accelerator, self.drops, settings = config, accelerator, drops or {}, config.discriminator
        self.student = FewStepStudent(config, accelerator)
        checkpointing = config.gradient_checkpointing
        teacher = open_frozen(config.networks.teacher, config, accelerator, checkpointing=checkpointing)
        self.features = FrozenFeatures(teacher, settings.taps)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.train.seed)
            heads = DiscriminatorHeads(self.features.width, len(settings.taps), width=settings.width)
        self.heads = heads.to(accelerator.device)
        self.trainables = {
            "student": Trainable(self.student.model.network, config.student, steps=config.student_updates),
            "critic": Trainable(self.heads, config.critic, steps=config.train.steps),
        }

    def step(self, parts: Sequence[Sequence[DistillBatch]]) -> dict[str, float]:
        """Take one iteration; the student is updated in the first of every ``critic_updates``. Return numbers to log."""
        log, norms = LossLog(len(self.student.stages)), {}
        batches = [batch.to(self.accelerator.device) for part in parts for batch in part]
        if self.trainables["critic"].done % self.config.train.critic_updates == 0:
            norms["gradient/student"] = self.trainables["student"].update(each_batch(batches, self.student_losses, log))
            self.heads.zero_grad(set_to_none=True)
        norms["gradient/heads"] = self.trainables["critic"].update(each_batch(batches, self.heads_losses, log))
        return {"loss": log.mean_over_stages("heads"), **log.means(), **norms}

    def student_losses(self, batch: DistillBatch) -> dict[str, tuple[float, Tensor]]:
        """Return weight and value of the hinge loss and of the reconstruction loss."""
        clean, settings = self.student.generate(batch), self.config.discriminator
        return {
            "adversarial": (settings.adversarial, hinge_generator(self.logits(clean, batch))),
            "reconstruction": (settings.reconstruction, reconstruction(clean, batch.clean)),
        }

    def heads_losses(self, batch: DistillBatch) -> dict[str, tuple[float, Tensor]]:
        """Return weight and value of the hinge loss, and the pairwise accuracy with weight 0."""
        with torch.no_grad():
            clean = self.student.generate(batch)
        real, fake = self.logits(batch.clean, batch), self.logits(clean, batch)
        return {"heads": (1.0, hinge_discriminator(real, fake)), "accuracy": (0.0, discriminator_accuracy(real, fake))}

    def logits(self, clean: Tensor, batch: DistillBatch) -> Tensor:
        """Return the heads' logits ``(B, N)`` of clean latents (data or predictions), noised with the second draw."""
        stage = self.student.stages[batch.stage]
        x, conditioning = self._noised(clean, batch, stage)
        with self.accelerator.autocast():
            features, condition = self.features(x, conditioning, batch.context, stage)
        grid = tuple(side // patch for side, patch in zip(x.shape[-3:], self.features.patch, strict=True))
        return self.heads(features, grid, condition)  # pyright: ignore[reportArgumentType]

    def _noised(self, clean: Tensor, batch: DistillBatch, stage: Stage) -> tuple[Tensor, Tensor]:
        """Return the noisy latent, and the noise level that the transformer is conditioned on."""
        noise, rho = batch.second_noise, self.config.losses.second_rho(batch.second_rho)
        if self.config.traits.plain_path:
            return dmd.plain_path(clean, noise, rho)[0], rho
        path = dmd.student_path(clean, noise, stage, stage.natural_at(rho), self.drops.get(batch.stage))
        return path.x, path.level.conditioning


class FrozenFeatures:
    """Outputs of some blocks of a frozen transformer, and its embedding of noise level and prompt.

    Attributes:
        width: Width of the features.
        patch: Latent frames, rows and columns of one token.
    """

    def __init__(self, network: WanVelocity, taps: Sequence[int]) -> None:
        """Tap the blocks with the indices ``taps``.

        Raises:
            ValueError: There is no such block.
        """
        transformer = network.transformer
        check_taps(taps, len(transformer.blocks))
        self.network, self.taps = network, tuple(taps)
        config = transformer.config
        self.width = config.num_attention_heads * config.attention_head_dim  # pyright: ignore[reportAttributeAccessIssue]
        self.patch = tuple(config.patch_size)  # pyright: ignore[reportAttributeAccessIssue]

    def __call__(self, x: Tensor, conditioning: Tensor, context: Tensor, stage: Stage) -> tuple[list[Tensor], Tensor]:
        """Return the features of every tap, ``(B, tokens, width)``, and the condition, ``(B, width)``."""
        transformer, outputs = self.network.transformer, {}
        tapped = {tap: transformer.blocks[tap] for tap in self.taps} | {"condition": transformer.condition_embedder}
        hooks = [
            module.register_forward_hook(lambda _, __, output, name=name: outputs.__setitem__(name, output))
            for name, module in tapped.items()
        ]
        try:
            self.network(x, conditioning.expand(len(x)), context, stage)
        finally:
            for hook in hooks:
                hook.remove()
        time, _, text, _ = outputs["condition"]
        return [outputs[tap] for tap in self.taps], time.float() + text.float().mean(dim=1)
