"""The student of every distillation: one clean prediction from each of a few trained levels of each stage."""

from __future__ import annotations

import json
from collections.abc import Sequence

import torch
from torch import Tensor

from ..noise_levels import NoiseLevel
from ..paths import clean_prediction, stage_path
from ..schedules import parse_steps, stage_levels
from ..stages import PyramidSpec, Stage
from .batches import StageBatch
from .finetune import blurred_signal

LEVELS_KEY = "pyramid_levels"
"""In the header of a student's file: its trained natural levels, one list for each stage in running order."""


def trained_levels(spec: PyramidSpec, schedule: str) -> list[tuple[float, ...]]:
    """Natural levels that each stage's steps start from: rho = 1, 1 - 1/K, ... for K steps (method: a guess)."""
    return [stage[:-1] for stage in stage_levels(spec, parse_steps(schedule, spec.number_of_stages))]


def levels_to_metadata(levels: Sequence[Sequence[float]]) -> dict[str, str]:
    return {LEVELS_KEY: json.dumps([list(stage) for stage in levels])}


def picked_level(pick: Tensor, levels: Sequence[float]) -> Tensor:
    """A trained level for each sample: pick ``(B,)`` in [0, 1) goes through the list evenly."""
    places = (pick * len(levels)).long().clamp(max=len(levels) - 1)
    return torch.tensor(levels, dtype=torch.float32, device=pick.device)[places]


def student_input(batch: StageBatch, stage: Stage, natural: Tensor) -> tuple[Tensor, NoiseLevel]:
    """Data noised to a trained level along the stage's path, as PyramidalWan feeds its students."""
    path = stage_path(batch.clean, blurred_signal(batch, stage), batch.noise, stage, natural)
    return path.x, path.level


def predicted(x: Tensor, velocity: Tensor, stage: Stage, natural: Tensor) -> Tensor:
    """The student's clean prediction, by the same formula as the few-step samplers use."""
    return clean_prediction(x, velocity, stage, natural)
