"""Step distillation: a few-step student of a pyramid, by distribution matching or against a discriminator."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

import torch
from accelerate import Accelerator
from pydantic import Field, model_validator
from torch import Tensor

from ..schedules import parse_steps
from ..stages import LatentShape, PyramidSpec, Stage, stage_name
from . import adapters, dmd, parallel
from .batches import StageBatch
from .finetune import rho_to_sigma
from .networks import WanVelocity, open_transformer
from .settings import Adapter, Data, Keep, Optimizer, Positive, Pyramid, Share, System, Validation, Video, Weight
from .student import picked_level, predicted, student_input, trained_levels
from .toml_config import Section
from .trainable import Trainable


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
    seed: int = Field(default=0, description="of every random choice")


class DistillLosses(Section):
    """The student's gradient has weight 1."""

    teach: Weight = Field(default=0.01, description="weight of L_teach, the pull to the data (PW)")
    teach_kind: Literal["cauchy", "mse"] = Field(default="cauchy", description="form of L_teach (guess: Neodragon's)")
    cfg: Weight = Field(default=5.0, description="of the teacher (guess)")
    lowest: Share = Field(default=0.02, description="smallest level that student samples are noised to (DMD2)")
    highest: Share = Field(default=0.98, description="largest one (DMD2)")


class DistillConfig(Section):
    """One distillation run."""

    out: str = Field(description="folder of the run")
    recipe: Literal["dmd", "dmd-ot", "dmd-pt", "dmd-pt-star"] = Field(
        default="dmd-pt-star", description="dmd: plain student; dmd-ot: plain teacher; dmd-pt, dmd-pt-star: pyramidal teacher"
    )
    schedule: str = Field(default="2-2-1", description="the student's steps, low to high resolution")
    networks: Networks
    data: Data
    pyramid: Pyramid = Pyramid()
    video: Video = Video()
    train: DistillTrain = DistillTrain()
    losses: DistillLosses = DistillLosses()
    student: Optimizer = Optimizer(learning_rate=2e-6, warm_up=0, betas=(0.0, 0.999), ema=0.99)
    critic: Optimizer = Optimizer(learning_rate=2e-6, warm_up=0, betas=(0.0, 0.999), ema=0.0)
    adapter: Adapter = Adapter()
    system: System = System()
    keep: Keep = Keep()
    validation: Validation = Validation(steps="2-2-1", cfg=1.0)

    @model_validator(mode="after")
    def _fits(self) -> DistillConfig:
        parse_steps(self.schedule, self.pyramid.spec().number_of_stages)
        if (self.recipe == "dmd") != (self.pyramid.preset == "plain"):
            raise ValueError(
                "recipe 'dmd' is the baseline at full size and goes with pyramid.preset 'plain'; the others want a pyramid"
            )
        if self.losses.lowest >= self.losses.highest:
            raise ValueError(f"losses.lowest {self.losses.lowest} must be smaller than losses.highest {self.losses.highest}")
        return self


class DistributionMatching:
    """DMD on every stage of a pyramid.

    repeat: student's clean prediction from data noised to one of its levels; every few iterations, noise the prediction,
    ask teacher and critic for the velocity there, and move the student along their difference (plus the pull to the data);
    always, move the critic towards the velocity of the student's own noised predictions.
    dmd and dmd-ot noise along the ordinary flow at the stage's size, dmd-pt and dmd-pt-star along the stage's own path.
    """

    def __init__(self, config: DistillConfig, accelerator: Accelerator) -> None:
        self.config, self.accelerator = config, accelerator
        self.spec: PyramidSpec = config.pyramid.spec()
        self.shape: LatentShape = config.video.latent
        self.stages = self.spec.stages(self.shape)
        self.levels = trained_levels(self.spec, config.schedule)
        self.student = self._open(config.networks.student, config.adapter, seed=config.train.seed)
        self.critic = self._open(config.networks.teacher, config.adapter, seed=config.train.seed + 1)
        self._teacher = None if config.adapter.kind == "lora" else self._open_frozen(config.networks.teacher)
        moves = -(-config.train.steps // config.train.critic_updates)
        self.trainables = {
            "student": Trainable(self.student, config.student, steps=moves),
            "critic": Trainable(self.critic, config.critic, steps=config.train.steps),
        }

    def _open(self, path: str, adapter: Adapter, *, seed: int) -> WanVelocity:
        network = WanVelocity(open_transformer(path))
        adapters.prepare(network.transformer, adapter, len(self.stages), seed=seed)
        if self.config.networks.gradient_checkpointing:
            network.transformer.enable_gradient_checkpointing()
        parallel.place(network, self.accelerator, self.config.system)
        return network

    def _open_frozen(self, path: str) -> WanVelocity:
        network = WanVelocity(open_transformer(path)).requires_grad_(False)
        parallel.place(network, self.accelerator, self.config.system)
        return network

    def step(self, parts: Sequence[Sequence[StageBatch]]) -> dict[str, float]:
        """One iteration; the student moves in the first of every ``critic_updates``."""
        found: dict[str, list[Tensor]] = {}
        batches = [batch.to(self.accelerator.device) for part in parts for batch in part]
        norms = {}
        if self.trainables["critic"].done % self.config.train.critic_updates == 0:
            norms["gradient/student"] = self.trainables["student"].update(self._each(batches, self.student_loss, found))
        norms["gradient/critic"] = self.trainables["critic"].update(self._each(batches, self.critic_loss, found))
        means = {name: float(torch.stack(values).mean()) for name, values in found.items()}
        critic = [value for name, value in means.items() if name.startswith("critic/")]
        return {"loss": sum(critic) / len(critic), **means, **norms}

    def _each(
        self, batches: Sequence[StageBatch], loss: Callable[[StageBatch], dict[str, tuple[float, Tensor]]], found: dict
    ) -> Iterator[Callable[[], Tensor]]:
        def one(batch: StageBatch) -> Tensor:
            total = torch.zeros((), device=self.accelerator.device)
            for kind, (weight, value) in loss(batch).items():
                found.setdefault(f"{kind}/{stage_name(batch.stage, len(self.stages))}", []).append(value.detach())
                total = total + weight * value
            return total / len(batches)

        for batch in batches:
            yield lambda batch=batch: one(batch)

    def generate(self, batch: StageBatch) -> Tensor:
        """The student's clean prediction, from data noised to one of its trained levels."""
        stage = self.stages[batch.stage]
        assert batch.pick is not None, "distillation wants a plan with a second draw"
        natural = picked_level(batch.pick, self.levels[batch.stage])
        x, level = student_input(batch, stage, natural)
        velocity = self.ask(self.student, x, level.told, batch.context, stage)
        return predicted(x, velocity, stage, natural)

    def student_loss(self, batch: StageBatch) -> dict[str, tuple[float, Tensor]]:
        """The matching gradient and L_teach, with weights."""
        clean = self.generate(batch)
        losses = {"match": (1.0, dmd.matching_loss(clean, self.matching_gradient(clean.detach(), batch)))}
        if self.config.losses.teach:
            teach = dmd.teach_loss(clean, batch.clean, kind=self.config.losses.teach_kind)
            losses["teach"] = self.config.losses.teach, teach
        return losses

    @torch.no_grad()
    def matching_gradient(self, clean: Tensor, batch: StageBatch) -> Tensor:
        """``w * (teacher - critic)`` at the noised prediction, carried back to it."""
        stage = self.stages[batch.stage]
        x, told, sigma, natural, own = self._noised(clean, batch, stage)
        conditional = self._ask_teacher(x, told, batch.context, stage)
        empty = self._ask_teacher(x, told, batch.empty.expand_as(batch.context), stage)
        teacher = dmd.guided(conditional, empty, self.config.losses.cfg)
        difference = teacher - self.ask(self.critic, x, told, batch.context, stage)
        if self.config.recipe == "dmd-pt":
            difference = dmd.carried_back(difference, stage, natural)
        return dmd.weight(sigma, teacher, own) * difference

    def critic_loss(self, batch: StageBatch) -> dict[str, tuple[float, Tensor]]:
        """Flow matching on the student's own predictions."""
        stage = self.stages[batch.stage]
        with torch.no_grad():
            clean = self.generate(batch)
        x, told, _, _, own = self._noised(clean, batch, stage)
        velocity = self.ask(self.critic, x, told, batch.context, stage)
        return {"critic": (1.0, (velocity - own).square().mean())}

    def _noised(self, clean: Tensor, batch: StageBatch, stage: Stage) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """A prediction noised with the second draw: latent, what the networks are told, sigma, natural level, velocity."""
        assert batch.again is not None, "distillation wants a plan with a second draw"
        noise, rho = batch.again
        rho = self.config.losses.lowest + rho * (self.config.losses.highest - self.config.losses.lowest)
        if self.config.recipe in ("dmd", "dmd-ot"):
            x, own = dmd.plain_path(clean, noise, rho)
            return x, rho, rho, rho, own
        sigma = rho_to_sigma(rho, stage)
        natural = stage.natural_level(sigma)
        path = dmd.student_path(clean, noise, stage, natural)
        return path.x, path.level.told, sigma, natural, path.velocity

    def ask(self, network: WanVelocity, x: Tensor, told: Tensor, context: Tensor, stage: Stage) -> Tensor:
        adapters.choose(network.transformer, self.config.adapter, stage.index)
        with self.accelerator.autocast():
            return network(x, told.expand(len(x)), context, stage.rope_scale)

    def _ask_teacher(self, x: Tensor, told: Tensor, context: Tensor, stage: Stage) -> Tensor:
        with self._teacher_network() as teacher, self.accelerator.autocast():
            return teacher(x, told.expand(len(x)), context, stage.rope_scale)

    @contextmanager
    def _teacher_network(self) -> Iterator[WanVelocity]:
        """A frozen copy; with a LoRA the critic without it."""
        if self._teacher is not None:
            yield self._teacher
        else:
            with adapters.without_adapters(self.critic.transformer):
                yield self.critic
