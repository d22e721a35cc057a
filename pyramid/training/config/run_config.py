"""The configuration that finetuning and distillation have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod

from pydantic import Field, PositiveInt, model_validator

from ...forms import Form
from ...schedules import parse_steps
from .settings import Adapter, Data, Keep, Name, Optimizer, Pyramid, System, Validation, Video
from .toml_config import Section

MAX_STEPS = 10_000_000
MAX_SAMPLES = 4096


class TrainSection(Section):
    """Length of the run and size of its batches."""

    steps: PositiveInt = Field(default=5000, le=MAX_STEPS, description="optimiser steps (PW)")
    per_stage: PositiveInt = Field(
        default=1, le=MAX_SAMPLES, description="samples of each stage in one forward pass of one process"
    )
    accumulation: PositiveInt = Field(default=1, le=MAX_SAMPLES, description="forward passes per optimiser step")
    seed: int = Field(default=0, ge=0, lt=2**63 - 1, description="of every random choice")


def check_steps(name: str, text: str, stages: int) -> None:
    """Check the steps of a schedule.

    Raises:
        ValueError: The text is not one number per stage, or there are too many steps.
    """
    try:
        parse_steps(text, stages)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None


class RunConfig(Section, ABC):
    """One training run.

    The properties name everything in which the runs differ for the code that starts, validates, estimates and exports them,
    so that none of it depends on the class of a configuration.
    """

    out: Name = Field(description="folder of the run")
    data: Data
    pyramid: Pyramid = Pyramid()
    video: Video = Video()
    train: TrainSection = TrainSection()
    adapter: Adapter = Adapter()
    system: System = System()
    keep: Keep = Keep()
    validation: Validation = Validation()

    @model_validator(mode="after")
    def _check_together(self) -> RunConfig:
        self.video.check_fits(self.pyramid)
        return self

    @property
    @abstractmethod
    def base_checkpoint(self) -> str:
        """Return the path of the transformer that the exported network starts from, and that its LoRA belongs to."""

    @property
    @abstractmethod
    def checkpoints_by_setting(self) -> dict[str, str]:
        """Return the paths of all transformers that the run starts from, by the name of the setting."""

    @property
    @abstractmethod
    def base_size(self) -> str:
        """Return the size of that transformer, for estimates made before its file exists."""

    @property
    @abstractmethod
    def exported_network(self) -> str:
        """Return the name of the exported network among the recipe's trainables."""

    @property
    @abstractmethod
    def exported_optimizer(self) -> Optimizer:
        """Return the optimiser settings of the exported network."""

    @property
    @abstractmethod
    def gradient_checkpointing(self) -> bool:
        """Return whether activations are recomputed in the backward pass."""

    @property
    @abstractmethod
    def needs_videos(self) -> bool:
        """Return whether the cache must hold latents, not only prompts."""

    @property
    @abstractmethod
    def draws_twice(self) -> bool:
        """Return whether samples need a second draw of noise and noise level, for noising predictions."""

    @property
    @abstractmethod
    def aligns_noise(self) -> bool:
        """Return whether the draws of noise in a forward pass are assigned to the nearest clips."""

    @property
    @abstractmethod
    def dropped_prompts(self) -> float:
        """Return the share of samples that are trained with the empty prompt."""

    @property
    @abstractmethod
    def form(self) -> Form:
        """Return what the networks predict."""

    @property
    @abstractmethod
    def student_levels(self) -> list[tuple[float, ...]] | None:
        """Return the natural levels that a few-step student's steps start from, by stage in running order; else None."""
