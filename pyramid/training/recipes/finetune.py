"""Pyramidization: a plain Wan becomes a pyramidal one (PyramidalWan, arXiv 2601.04792, section 3)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

import torch
from accelerate import Accelerator
from pydantic import Field, model_validator
from torch import Tensor

from ...latent_shape import LatentShape
from ...noise_levels import NoiseLevel
from ...paths import stage_path
from ...stage_names import stage_name
from ...stages import PyramidSpec, Stage
from ..config.settings import Adapter, Data, Keep, Model, Optimizer, Positive, Pyramid, Share, System, Validation, Video, Weight
from ..config.toml_config import Section
from ..data.batches import StageBatch
from ..engine import parallel
from ..engine.trainable import Trainable
from ..models import adapters
from ..models.networks import WanVelocity, open_transformer
from .losses import flow_loss, natural_sample, teacher_loss


class Train(Section):
    """How long, and on how much at a time."""

    steps: Positive = Field(default=5000, description="optimiser steps (PW)")
    per_stage: Positive = Field(
        default=2, description="samples of each stage in a forward pass of one process (PW: 6 in 3 stages)"
    )
    accumulation: Positive = Field(default=1, description="forward passes per optimiser step (PW: batch 6 on each of 2 GPUs)")
    drop_prompt: Share = Field(
        default=0.1, description="share of samples with the empty prompt, for cfg (Pyramidal Flow's value)"
    )
    levels: Literal["stage", "all"] = Field(
        default="stage",
        description="noise levels of a stage: its own, or all of them (natural field: a plain teacher of all sizes)",
    )
    seed: int = Field(default=0, description="of every random choice")


class Losses(Section):
    """L_pyr has weight 1."""

    teacher: Weight = Field(
        default=1.0, description="weight of L_dist, the plain teacher's prediction (guess); 0 leaves it out"
    )
    teacher_levels: tuple[int, ...] = Field(
        default=(0, 1), description="halvings from full size where L_dist acts: plain Wan cannot make the smallest videos (PW)"
    )


class FinetuneConfig(Section):
    """One finetuning run."""

    out: str = Field(description="folder of the run")
    model: Model
    data: Data
    pyramid: Pyramid = Pyramid()
    video: Video = Video()
    train: Train = Train()
    losses: Losses = Losses()
    optimizer: Optimizer = Optimizer()
    adapter: Adapter = Adapter()
    system: System = System()
    keep: Keep = Keep()
    validation: Validation = Validation()

    @model_validator(mode="after")
    def _fits(self) -> FinetuneConfig:
        if self.train.levels == "all" and self.pyramid.spec().field != "natural":
            raise ValueError("train.levels 'all' trains a plain model at several sizes: it goes with pyramid.field 'natural'")
        return self


class Finetuning:
    """The recipe: for every stage, the velocity of its path, and the plain teacher's prediction where it is competent."""

    def __init__(self, config: FinetuneConfig, accelerator: Accelerator) -> None:
        self.config, self.accelerator = config, accelerator
        self.stages = config.pyramid.spec().stages(config.video.latent)
        self.network = WanVelocity(open_transformer(config.model.transformer))
        adapters.prepare(self.network.transformer, config.adapter, len(self.stages), seed=config.train.seed)
        if config.model.gradient_checkpointing:
            self.network.transformer.enable_gradient_checkpointing()
        self._teacher = self._make_teacher()
        parallel.place(self.network, accelerator, config.system)
        self.trainables = {"network": Trainable(self.network, config.optimizer, steps=config.train.steps)}

    def _make_teacher(self) -> WanVelocity | None:
        """A frozen copy of the plain network; with a LoRA the network itself without it."""
        if self.config.losses.teacher == 0 or self.config.adapter.kind == "lora":
            return None
        teacher = WanVelocity(open_transformer(self.config.model.transformer)).requires_grad_(False)
        parallel.place(teacher, self.accelerator, self.config.system)
        return teacher

    @property
    def spec(self) -> PyramidSpec:
        return self.config.pyramid.spec()

    @property
    def shape(self) -> LatentShape:
        return self.config.video.latent

    def step(self, parts: Sequence[Sequence[StageBatch]]) -> dict[str, float]:
        """One optimiser step on samples of all stages, each stage with the same weight; returns what to log."""
        found: dict[str, list[Tensor]] = {}
        norm = self.trainables["network"].update(self._losses(parts, found))
        return {name: float(torch.stack(values).mean()) for name, values in found.items()} | {"gradient": norm}

    def _losses(self, parts: Sequence[Sequence[StageBatch]], found: dict[str, list[Tensor]]) -> Iterator[Callable[[], Tensor]]:
        batches = [batch for part in parts for batch in part]
        for batch in batches:
            yield lambda batch=batch: self._loss(batch, found) / len(batches)

    def _loss(self, batch: StageBatch, found: dict[str, list[Tensor]]) -> Tensor:
        name = stage_name(batch.stage, len(self.stages))
        total = torch.zeros((), device=self.accelerator.device)
        for kind, (weight, value) in self.stage_losses(batch).items():
            found.setdefault(f"{kind}/{name}", []).append(value.detach())
            total = total + weight * value
        found.setdefault("loss", []).append(total.detach())
        return total

    def stage_losses(self, batch: StageBatch) -> dict[str, tuple[float, Tensor]]:
        """Weight and value of every loss of one stage's samples."""
        batch, stage = batch.to(self.accelerator.device), self.stages[batch.stage]
        sigma = batch.rho if self.config.train.levels == "all" else stage.reference_sigma_at(batch.rho)
        natural = stage.natural_level(sigma)
        path = stage_path(batch.clean, blurred_signal(batch, stage), batch.noise, stage, natural)
        velocity = self.velocity(path.x, path.level, stage, batch.context)
        losses = {"flow": (1.0, flow_loss(velocity, path))}
        if self.config.losses.teacher and stage.level in self.config.losses.teacher_levels:
            clean = self.teacher_clean(batch, stage, natural)
            losses["teacher"] = self.config.losses.teacher, teacher_loss(path, velocity, clean, batch.noise, stage)
        return losses

    def velocity(self, x: Tensor, level: NoiseLevel, stage: Stage, context: Tensor) -> Tensor:
        """The network's, with the stage's adapter and positions."""
        adapters.choose(self.network.transformer, self.config.adapter, stage.index)
        with self.accelerator.autocast():
            return self.network(x, level.conditioning.expand(len(x)), context, stage.rope_scale)

    @torch.no_grad()
    def teacher_clean(self, batch: StageBatch, stage: Stage, natural: Tensor) -> Tensor:
        """What the plain teacher takes for clean, from the ordinary flow at the stage's size with the same noise."""
        x, sigma = natural_sample(batch.clean, batch.noise, stage, natural)
        with self._teacher_network() as teacher, self.accelerator.autocast():
            return x - sigma[:, None, None, None, None] * teacher(x, sigma, batch.context)

    @contextmanager
    def _teacher_network(self) -> Iterator[WanVelocity]:
        if self._teacher is not None:
            yield self._teacher
        else:
            with adapters.without_adapters(self.network.transformer):
                yield self.network


def blurred_signal(batch: StageBatch, stage: Stage) -> Tensor:
    """The coarser stage's data at this stage's size; nothing where the pyramid starts."""
    if stage.from_coarser is None or batch.coarse is None:
        return torch.zeros_like(batch.clean)
    return stage.from_coarser.up(batch.coarse)
