"""Schedules as nodes speak of them: a text of steps, a grid that may be "auto", SIGMAS on the wire."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..pyramid.schedules import GRIDS, cut, distilled_levels, join, parse_steps, stage_levels, without_skipped
from ..pyramid.stages import PyramidSpec

DISTILLED = "distilled"
GRID_CHOICES = ("auto", *GRIDS, DISTILLED)

Levels = list[tuple[float, ...]]
"""Natural levels of each stage in running order."""


def levels_for(spec: PyramidSpec, steps: str, grid: str, shift: float) -> tuple[PyramidSpec, Levels]:
    """The stages that run and their levels; ValueError in plain words for steps that do not fit.

    The grid "distilled" moves the boundaries of the pyramid to the levels a step-distilled model was trained on.
    """
    spec, counts = without_skipped(spec, parse_steps(steps, spec.number_of_stages))
    if grid == DISTILLED:
        return distilled_levels(spec, counts, shift)
    if grid == "auto":
        grid = "uniform" if spec.field == "pyramidal" else "shift"
    return spec, stage_levels(spec, counts, grid=grid, shift=shift)


def levels_of_student(name: str, own: Levels, wanted: Levels) -> Levels:
    """The levels that a distilled model was trained on; ValueError in plain words for other numbers of steps."""
    counts, asked = (tuple(len(stage) - 1 for stage in levels) for levels in (own, wanted))
    if counts != asked:
        steps, other = ("-".join(map(str, numbers)) for numbers in (counts, asked))
        raise ValueError(
            f"{name} was distilled to the steps {steps} and knows no others, got {other}; set the steps to {steps}, or grid to "
            "'uniform' to try it all the same"
        )
    return own


def to_sigmas(levels: Sequence[Sequence[float]]) -> Tensor:
    """SIGMAS: the whole curve, float32."""
    return torch.tensor(join(levels), dtype=torch.float32)


def from_sigmas(sigmas: Tensor, spec: PyramidSpec) -> Levels:
    """Cuts SIGMAS of natural levels, from our schedule or any other, at the boundaries of the pyramid."""
    return cut(sigmas.tolist(), spec.boundaries)


def steps_problem(steps: str) -> str | None:
    """What is wrong with a text of steps, whatever the pyramid; None if nothing is."""
    try:
        parse_steps(steps, len(steps.split("-")))
    except ValueError as error:
        return str(error)
    return None
