"""Adversarial distillation: a student that a discriminator on diffusion features cannot tell from data."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from accelerate import Accelerator
from torch import Tensor

from ...stages import Stage
from ..data.batches import StageBatch
from ..engine.trainable import Trainable
from ..models.networks import WanVelocity
from . import dmd
from .adversarial import DiscriminatorHeads, discriminator_accuracy, hinge_discriminator, hinge_generator, reconstruction
from .distill import DistillConfig, student_of
from .student import each_batch, logged, open_frozen


class AdversarialDistillation:
    """Students against heads on a frozen transformer's features.

    repeat: student's clean prediction from data noised to one of its levels; noise prediction and data alike, take the
    frozen transformer's features of both; move the heads to tell them apart (hinge); every few iterations move the student
    so that they cannot, while it stays near the data (pseudo-Huber).
    adv and adv-od noise along the ordinary flow and take a plain transformer's features, adv-pd the stage's own path and a
    pyramidal one's.
    """

    def __init__(self, config: DistillConfig, accelerator: Accelerator) -> None:
        self.config, self.accelerator, settings = config, accelerator, config.discriminator
        self.student = student_of(config, accelerator)
        teacher = open_frozen(
            config.networks.teacher, accelerator, config.system, checkpointing=config.networks.gradient_checkpointing
        )
        self.features = FrozenFeatures(teacher, settings.taps)
        generator = torch.random.fork_rng(devices=[])
        with generator:
            torch.manual_seed(config.train.seed)
            self.heads = DiscriminatorHeads(self.features.width, len(settings.taps), width=settings.width).to(
                accelerator.device
            )
        moves = -(-config.train.steps // config.train.critic_updates)
        self.trainables = {
            "student": Trainable(self.student.network, config.student, steps=moves),
            "critic": Trainable(self.heads, config.critic, steps=config.train.steps),
        }

    def step(self, parts: Sequence[Sequence[StageBatch]]) -> dict[str, float]:
        """One iteration; the student moves in the first of every ``critic_updates``."""
        found: dict[str, list[Tensor]] = {}
        batches = [batch.to(self.accelerator.device) for part in parts for batch in part]
        norms, stages = {}, len(self.student.stages)
        if self.trainables["critic"].done % self.config.train.critic_updates == 0:
            losses = each_batch(batches, self.student_loss, found, stages)
            norms["gradient/student"] = self.trainables["student"].update(losses)
            self.heads.zero_grad(set_to_none=True)
        norms["gradient/heads"] = self.trainables["critic"].update(each_batch(batches, self.heads_loss, found, stages))
        return {**logged(found, "heads"), **norms}

    def student_loss(self, batch: StageBatch) -> dict[str, tuple[float, Tensor]]:
        clean, settings = self.student.generate(batch), self.config.discriminator
        return {
            "adversarial": (settings.adversarial, hinge_generator(self.logits(clean, batch))),
            "reconstruction": (settings.reconstruction, reconstruction(clean, batch.clean)),
        }

    def heads_loss(self, batch: StageBatch) -> dict[str, tuple[float, Tensor]]:
        with torch.no_grad():
            clean = self.student.generate(batch)
        real, fake = self.logits(batch.clean, batch), self.logits(clean, batch)
        return {"heads": (1.0, hinge_discriminator(real, fake)), "told_apart": (0.0, discriminator_accuracy(real, fake))}

    def logits(self, clean: Tensor, batch: StageBatch) -> Tensor:
        """Of clean latents, data or predictions, noised with the second draw: ``(B, places)``."""
        stage = self.student.stages[batch.stage]
        x, conditioning = self._noised(clean, batch, stage)
        with self.accelerator.autocast():
            features, condition = self.features(x, conditioning, batch.context, stage)
        grid = tuple(side // patch for side, patch in zip(x.shape[-3:], self.features.patch, strict=True))
        return self.heads(features, grid, condition)  # pyright: ignore[reportArgumentType]

    def _noised(self, clean: Tensor, batch: StageBatch, stage: Stage) -> tuple[Tensor, Tensor]:
        assert batch.second_draw is not None, "distillation wants a plan with a second draw"
        noise, rho = batch.second_draw
        rho = self.config.losses.lowest + rho * (self.config.losses.highest - self.config.losses.lowest)
        if self.config.recipe != "adv-pd":
            return dmd.plain_path(clean, noise, rho)[0], rho
        path = dmd.student_path(clean, noise, stage, stage.natural_at(rho))
        return path.x, path.level.conditioning


class FrozenFeatures:
    """Outputs of some blocks of a frozen transformer, and what it makes of noise level and prompt."""

    def __init__(self, network: WanVelocity, taps: Sequence[int]) -> None:
        transformer = network.transformer
        if wrong := [tap for tap in taps if not 0 <= tap < len(transformer.blocks)]:
            raise ValueError(
                f"discriminator.taps: there is no block {wrong[0]}; the teacher has {len(transformer.blocks)}, the first is 0"
            )
        self.network, self.taps = network, tuple(taps)
        config = transformer.config
        self.width = config.num_attention_heads * config.attention_head_dim  # pyright: ignore[reportAttributeAccessIssue]
        self.patch = tuple(config.patch_size)  # pyright: ignore[reportAttributeAccessIssue]

    def __call__(self, x: Tensor, conditioning: Tensor, context: Tensor, stage: Stage) -> tuple[list[Tensor], Tensor]:
        """Features ``(B, tokens, width)`` of every tap, and the condition ``(B, width)``."""
        transformer, kept = self.network.transformer, {}
        watched = {tap: transformer.blocks[tap] for tap in self.taps} | {"condition": transformer.condition_embedder}
        hooks = [
            module.register_forward_hook(lambda _, __, output, name=name: kept.__setitem__(name, output))
            for name, module in watched.items()
        ]
        try:
            self.network(x, conditioning.expand(len(x)), context, stage.rope_scale)
        finally:
            for hook in hooks:
                hook.remove()
        time, _, text, _ = kept["condition"]
        return [kept[tap] for tap in self.taps], time.float() + text.float().mean(dim=1)
