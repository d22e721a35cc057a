"""Step distillation: a few-step student of a pyramid, by distribution matching or against a discriminator."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

import torch
from accelerate import Accelerator
from pydantic import Field, model_validator
from torch import Tensor

from ...schedules import parse_steps
from ...stages import Stage
from ..config.settings import Adapter, Data, Keep, Optimizer, Positive, Pyramid, Rate, Share, System, Validation, Video, Weight
from ..config.toml_config import Section
from ..data.batches import StageBatch
from ..engine.trainable import Trainable
from ..models import adapters
from ..models.networks import WanVelocity
from . import dmd
from .student import FewStepStudent, ask, each_batch, logged, open_frozen, open_trained, trained_levels


class Networks(Section):
    """Where the three networks start."""

    student: str = Field(description="the few-step model starts from this: the pyramidal one (plain for recipe 'dmd')")
    teacher: str = Field(description="real score, and where the critic starts: pyramidal for dmd-pt, plain for dmd and dmd-ot")
    size: str = Field(default="1.3B", description="1.3B or 14B: for the estimates of --dry-run where the files are not there")
    gradient_checkpointing: bool = Field(default=True, description="recompute activations: a third more time, less memory")


class DistillTrain(Section):
    """How long, and on how much at a time."""

    steps: Positive = Field(default=4000, description="iterations, each of which moves the critic (guess: 3 to 5 thousand)")
    per_stage: Positive = Field(default=1, description="samples of each stage in one forward pass of one process")
    accumulation: Positive = Field(default=1, description="forward passes per optimiser step")
    critic_updates: Positive = Field(default=5, description="iterations for each move of the student (DMD2: 5; Neodragon: 2)")
    inputs: Literal["data", "simulated"] = Field(
        default="data",
        description="what the student predicts from: data noised to its levels (PW), or its own run from noise (DMD2's "
        "backward simulation), which needs prompts only",
    )
    seed: int = Field(default=0, description="of every random choice")


class DistillLosses(Section):
    """The student's gradient has weight 1."""

    teach: Weight = Field(default=0.01, description="weight of L_teach, the pull to the data (PW)")
    teach_kind: Literal["cauchy", "mse"] = Field(default="cauchy", description="form of L_teach (guess: Neodragon's)")
    cfg: Weight = Field(default=5.0, description="of the teacher (guess)")
    lowest: Share = Field(default=0.02, description="smallest level that student samples are noised to (DMD2)")
    highest: Share = Field(default=0.98, description="largest one (DMD2)")


class Discriminator(Section):
    """For the adversarial recipes: heads on features of the frozen teacher."""

    adversarial: Weight = Field(default=1.0, description="weight of the student's hinge loss (PW)")
    reconstruction: Weight = Field(default=2.0, description="weight of the pull to the data, pseudo-Huber (PW)")
    taps: tuple[int, ...] = Field(default=(7, 15, 22, 29), description="transformer blocks whose outputs are looked at (guess)")
    width: Positive = Field(default=256, description="channels inside the heads, a multiple of 4 (guess)")


class DistillConfig(Section):
    """One distillation run."""

    out: str = Field(description="folder of the run")
    recipe: Literal["dmd", "dmd-ot", "dmd-pt", "dmd-pt-star", "adv", "adv-od", "adv-pd"] = Field(
        default="dmd-pt-star",
        description="dmd, adv: plain student; -ot, -od: plain teacher or features; -pt, -pt-star, -pd: pyramidal ones",
    )
    schedule: str = Field(default="2-2-1", description="the student's steps, low to high resolution")
    grid: Literal["uniform", "shift"] = Field(
        default="uniform", description="how a stage's steps are spaced: evenly in its sigma (guess), or evenly before the shift"
    )
    shift: Rate = Field(default=5.0, description="flow shift of grid 'shift' (Wan)")
    networks: Networks
    data: Data
    pyramid: Pyramid = Pyramid()
    video: Video = Video()
    train: DistillTrain = DistillTrain()
    losses: DistillLosses = DistillLosses()
    student: Optimizer = Optimizer(learning_rate=2e-6, warm_up=0, betas=(0.0, 0.999), ema=0.99)
    critic: Optimizer = Optimizer(learning_rate=2e-6, warm_up=0, betas=(0.0, 0.999), ema=0.0)
    discriminator: Discriminator = Discriminator()
    adapter: Adapter = Adapter()
    system: System = System()
    keep: Keep = Keep()
    validation: Validation = Validation(steps="2-2-1", cfg=1.0)

    @property
    def levels(self) -> list[tuple[float, ...]]:
        """Natural levels that the student's steps start from, for each stage in running order."""
        return trained_levels(self.pyramid.spec(), self.schedule, grid=self.grid, shift=self.shift)

    @model_validator(mode="after")
    def _fits(self) -> DistillConfig:
        parse_steps(self.schedule, self.pyramid.spec().number_of_stages)
        if (self.recipe in ("dmd", "adv")) != (self.pyramid.preset == "plain"):
            raise ValueError(
                "recipes 'dmd' and 'adv' are the baselines at full size and go with pyramid.preset 'plain'; the others want a "
                "pyramid"
            )
        if self.train.inputs == "simulated" and (self.recipe.startswith("adv") or self.losses.teach):
            raise ValueError(
                "train.inputs 'simulated' has no data to compare a prediction with: it goes with the dmd recipes, and with "
                "losses.teach = 0"
            )
        if self.losses.lowest >= self.losses.highest:
            raise ValueError(f"losses.lowest {self.losses.lowest} must be smaller than losses.highest {self.losses.highest}")
        return self


def student_of(config: DistillConfig, accelerator: Accelerator) -> FewStepStudent:
    return FewStepStudent(
        config.networks.student, config.pyramid.spec(), config.video.latent, config.levels, config.adapter, accelerator,
        system=config.system, seed=config.train.seed, checkpointing=config.networks.gradient_checkpointing,
        simulated=config.train.inputs == "simulated",
    )  # fmt: skip


class DistributionMatching:
    """DMD on every stage of a pyramid.

    repeat: student's clean prediction from one of its levels (from data noised to it, or from its own run); every few
    iterations, noise the prediction, ask teacher and critic for the velocity there, and move the student along their
    difference (plus the pull to the data); always, move the critic towards the velocity of the student's own noised
    predictions.
    dmd and dmd-ot noise along the ordinary flow at the stage's size, dmd-pt and dmd-pt-star along the stage's own path.
    """

    def __init__(self, config: DistillConfig, accelerator: Accelerator) -> None:
        self.config, self.accelerator = config, accelerator
        self.student = student_of(config, accelerator)
        self.stages = self.student.stages
        self.critic = open_trained(
            config.networks.teacher, config.adapter, len(self.stages), accelerator, system=config.system,
            seed=config.train.seed + 1, checkpointing=config.networks.gradient_checkpointing,
        )  # fmt: skip
        lora = config.adapter.kind == "lora"
        self._teacher = None if lora else open_frozen(config.networks.teacher, accelerator, config.system)
        moves = -(-config.train.steps // config.train.critic_updates)
        self.trainables = {
            "student": Trainable(self.student.network, config.student, steps=moves),
            "critic": Trainable(self.critic, config.critic, steps=config.train.steps),
        }

    def step(self, parts: Sequence[Sequence[StageBatch]]) -> dict[str, float]:
        """One iteration; the student moves in the first of every ``critic_updates``."""
        found: dict[str, list[Tensor]] = {}
        batches = [batch.to(self.accelerator.device) for part in parts for batch in part]
        norms = {}
        if self.trainables["critic"].done % self.config.train.critic_updates == 0:
            losses = each_batch(batches, self.student_loss, found, len(self.stages))
            norms["gradient/student"] = self.trainables["student"].update(losses)
        losses = each_batch(batches, self.critic_loss, found, len(self.stages))
        norms["gradient/critic"] = self.trainables["critic"].update(losses)
        return {**logged(found, "critic"), **norms}

    def student_loss(self, batch: StageBatch) -> dict[str, tuple[float, Tensor]]:
        """The matching gradient and L_teach, with weights."""
        clean = self.student.generate(batch)
        losses = {"match": (1.0, dmd.matching_loss(clean, self.matching_gradient(clean.detach(), batch)))}
        if self.config.losses.teach:
            teach = dmd.teach_loss(clean, batch.clean, kind=self.config.losses.teach_kind)
            losses["teach"] = self.config.losses.teach, teach
        return losses

    @torch.no_grad()
    def matching_gradient(self, clean: Tensor, batch: StageBatch) -> Tensor:
        """``w * (teacher - critic)`` at the noised prediction, carried back to it."""
        stage = self.stages[batch.stage]
        x, conditioning, sigma, natural, own = self._noised(clean, batch, stage)
        conditional = self._ask_teacher(x, conditioning, batch.context, stage)
        empty = self._ask_teacher(x, conditioning, batch.empty.expand_as(batch.context), stage)
        teacher = dmd.guided(conditional, empty, self.config.losses.cfg)
        difference = teacher - self._ask_critic(x, conditioning, batch.context, stage)
        if self.config.recipe == "dmd-pt":
            difference = dmd.carried_back(difference, stage, natural)
        return dmd.weight(sigma, teacher, own) * difference

    def critic_loss(self, batch: StageBatch) -> dict[str, tuple[float, Tensor]]:
        """Flow matching on the student's own predictions."""
        stage = self.stages[batch.stage]
        with torch.no_grad():
            clean = self.student.generate(batch)
        x, conditioning, _, _, own = self._noised(clean, batch, stage)
        velocity = self._ask_critic(x, conditioning, batch.context, stage)
        return {"critic": (1.0, (velocity - own).square().mean())}

    def _noised(self, clean: Tensor, batch: StageBatch, stage: Stage) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """A prediction noised with the second draw: latent, what the networks are told, sigma, natural level, velocity."""
        assert batch.second_draw is not None, "distillation wants a plan with a second draw"
        noise, rho = batch.second_draw
        rho = self.config.losses.lowest + rho * (self.config.losses.highest - self.config.losses.lowest)
        if self.config.recipe in ("dmd", "dmd-ot"):
            x, own = dmd.plain_path(clean, noise, rho)
            return x, rho, rho, rho, own
        sigma = stage.reference_sigma_at(rho)
        natural = stage.natural_level(sigma)
        path = dmd.student_path(clean, noise, stage, natural)
        return path.x, path.level.conditioning, sigma, natural, path.velocity

    def _ask_critic(self, x: Tensor, conditioning: Tensor, context: Tensor, stage: Stage) -> Tensor:
        return ask(self.critic, x, conditioning, context, stage, self.config.adapter, self.accelerator)

    def _ask_teacher(self, x: Tensor, conditioning: Tensor, context: Tensor, stage: Stage) -> Tensor:
        with self._teacher_network() as teacher, self.accelerator.autocast():
            return teacher(x, conditioning.expand(len(x)), context, stage.rope_scale)

    @contextmanager
    def _teacher_network(self) -> Iterator[WanVelocity]:
        """A frozen copy; with a LoRA the critic without it."""
        if self._teacher is not None:
            yield self._teacher
        else:
            with adapters.without_adapters(self.critic.transformer):
                yield self.critic
