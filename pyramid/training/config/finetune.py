"""Configuration of a finetuning run."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, NonNegativeFloat, PositiveInt, model_validator

from ...forms import FLOW, TABLES, Form, named_form, starting_rho
from .run_config import MAX_SAMPLES, RunConfig, TrainSection, check_steps
from .settings import Model, Optimizer, Share
from .toml_config import Section


class FinetuneTrain(TrainSection):
    """Length of the run and size of its batches."""

    per_stage: PositiveInt = Field(
        default=2, le=MAX_SAMPLES, description="samples of each stage in one forward pass of one process (PW: 6 in 3 stages)"
    )
    accumulation: PositiveInt = Field(
        default=1, le=MAX_SAMPLES, description="forward passes per optimiser step (PW: batch 6 on each of 2 GPUs)"
    )
    drop_prompt: Share = Field(
        default=0.1, description="share of samples with the empty prompt, for cfg (Pyramidal Flow's value)"
    )
    levels: Literal["stage", "all"] = Field(
        default="stage",
        description="noise levels of a stage: its own range, or all levels (natural field: a plain teacher for all sizes)",
    )
    form: Literal["flow", "epsilon", "v"] = Field(
        default="flow", description="what the network predicts and the loss compares; Wan and ComfyUI's video models: flow"
    )
    noise_table: str | None = Field(
        default=None, description=f"noise schedule of an epsilon or v model, one of {', '.join(TABLES)}"
    )
    align_noise: bool = Field(
        default=False,
        description="data-noise alignment (TPDiff): assign a stage's draws of noise in one forward pass to the nearest clips",
    )


class FinetuneLosses(Section):
    """Weights of the losses; L_pyr has weight 1."""

    teacher: NonNegativeFloat = Field(
        default=1.0, le=1e6, description="weight of L_dist, the plain teacher's prediction (guess); 0 switches it off"
    )
    teacher_levels: tuple[int, ...] = Field(
        default=(0, 1),
        max_length=64,
        description="halvings from full size where L_dist acts: plain Wan cannot make the smallest videos (PW)",
    )


class FinetuneConfig(RunConfig):
    """One finetuning run."""

    model: Model
    train: FinetuneTrain = FinetuneTrain()
    losses: FinetuneLosses = FinetuneLosses()
    optimizer: Optimizer = Optimizer()

    @property
    def base_checkpoint(self) -> str:
        """Return the plain transformer."""
        return self.model.transformer

    @property
    def checkpoints_by_setting(self) -> dict[str, str]:
        """Return the transformers by setting."""
        return {"model.transformer": self.model.transformer}

    @property
    def base_size(self) -> str:
        """Return ``model.size``."""
        return self.model.size

    @property
    def exported_network(self) -> str:
        """Return the name of the only network."""
        return "network"

    @property
    def exported_optimizer(self) -> Optimizer:
        """Return the only optimiser."""
        return self.optimizer

    @property
    def gradient_checkpointing(self) -> bool:
        """Return ``model.gradient_checkpointing``."""
        return self.model.gradient_checkpointing

    @property
    def needs_videos(self) -> bool:
        """Return True: the targets are made from latents."""
        return True

    @property
    def draws_twice(self) -> bool:
        """Return False: nothing is noised a second time."""
        return False

    @property
    def aligns_noise(self) -> bool:
        """Return ``train.align_noise``."""
        return self.train.align_noise

    @property
    def dropped_prompts(self) -> float:
        """Return ``train.drop_prompt``."""
        return self.train.drop_prompt

    @property
    def form(self) -> Form:
        """Return what ``train.form`` and ``train.noise_table`` name."""
        return named_form(self.train.form, self.train.noise_table)

    @property
    def student_levels(self) -> None:
        """Return None: the network can be sampled with any steps."""
        return None

    @model_validator(mode="after")
    def _check_levels(self) -> FinetuneConfig:
        field = self.pyramid.spec().field
        check_steps("validation.steps", self.validation.steps, self.pyramid.spec().number_of_stages)
        if self.train.levels == "all" and field != "natural":
            raise ValueError(f"train.levels 'all' requires pyramid.field 'natural'; got '{field}'")
        return self

    @model_validator(mode="after")
    def _check_teacher_levels(self) -> FinetuneConfig:
        levels, stages = self.losses.teacher_levels, self.pyramid.spec().number_of_stages
        last = max(1, stages - 1)  # the default fits an ordinary run, too
        if len(set(levels)) < len(levels) or not all(0 <= level <= last for level in levels):
            raise ValueError(
                f"losses.teacher_levels is {list(levels)!s:.100}; expected different numbers from 0 (full size) to {last}, as "
                f"the pyramid has {stages} stage{'s' * (stages > 1)}"
            )
        return self

    @model_validator(mode="after")
    def _check_form(self) -> FinetuneConfig:
        try:
            form = self.form
            for stage in self.pyramid.spec().nominal_stages():
                starting_rho(stage, form)
        except ValueError as error:
            raise ValueError(f"train.form and train.noise_table: {error}") from None
        if self.train.levels == "all" and form is not FLOW:
            raise ValueError(f"train.levels 'all' serves distillation, which requires train.form 'flow'; got '{form.name}'")
        return self
