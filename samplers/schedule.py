"""Schedules as the nodes use them: steps as text, a grid that may be "auto", and SIGMAS."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import groupby

import torch
from torch import Tensor

from ..pyramid.latent_shape import LatentShape
from ..pyramid.schedules import (
    GRIDS,
    TOLERANCE,
    distilled_levels,
    merge_schedule,
    numbers_in,
    parse_steps,
    split_schedule,
    stage_levels,
    without_skipped,
)
from ..pyramid.segments import follow_curve, plain_levels, split_at_boundaries
from ..pyramid.stages import PyramidSpec, Stage
from .comfyui.latents import full_size, spec_at

DISTILLED = "distilled"
BOUNDARY = 1e-5
"""Difference between a level and a boundary that rounding in float32 explains."""

GRID_CHOICES = ("auto", *GRIDS, DISTILLED)

Levels = list[tuple[float, ...]]
"""Natural levels of each stage in running order."""


def levels_for(
    spec: PyramidSpec, steps: str, grid: str, shift: float, full: LatentShape | None = None
) -> tuple[PyramidSpec, Levels]:
    """Return the pyramid of the stages that run and their levels.

    Args:
        spec: The whole pyramid.
        steps: Steps of each stage in running order, such as "20-20-10", or of the whole run; see ``steps_per_stage``.
        grid: One of ``GRID_CHOICES``. For stock weights "auto" takes the levels of an ordinary run of as many steps and
            moves the boundaries to them; "distilled" also conditions the low stages on exactly these levels.
        shift: Flow shift of all grids but "uniform".
        full: Size at full resolution, on which the noise levels of a pyramid with scales depend; None where it is not known.

    Raises:
        ValueError: The steps or the grid do not fit the pyramid.
    """
    spec, counts = without_skipped(spec, steps_per_stage(steps, spec, shift))
    if grid == DISTILLED:
        return distilled_levels(spec, counts, shift, full)
    if grid == "auto" and spec.for_stock_weights:
        return plain_levels(spec, counts, shift)
    if grid == "auto":
        grid = "uniform"
    return spec, stage_levels(spec, counts, grid=grid, shift=shift, full=full)


def schedule_for(
    spec: PyramidSpec, steps: str, grid: str, shift: float, latent: dict | None = None
) -> tuple[PyramidSpec, Levels]:
    """Return what ``levels_for`` returns for the size of a LATENT.

    Raises:
        ValueError: The timesteps of a distilled model depend on the size, and there is no LATENT.
    """
    if latent is not None:
        return levels_for(spec_at(spec, latent), steps, grid, shift, full_size(latent)[0])
    if grid == DISTILLED and spec.depends_on_size:
        raise ValueError(
            "the timesteps of the grid 'distilled' depend on the sizes of this pyramid's stages; connect the run's latent to "
            "this node, or set the pyramid's scale to half"
        )
    return levels_for(spec, steps, grid, shift)


def steps_per_stage(steps: str, spec: PyramidSpec, shift: float) -> tuple[int, ...]:
    """Return the steps of each stage; leading zeros leave stages out.

    Args:
        steps: One number per stage, such as "20-20-10", or one for the whole run. With stock weights the steps of such a run
            change stages nearest to the pyramid's boundaries, as with 'Pyramidal Model'; with finetuned weights they are split
            in proportion.
        spec: The whole pyramid.
        shift: Flow shift of the run.

    Raises:
        ValueError: The steps do not fit the pyramid.
    """
    counts = parse_steps(steps, spec.number_of_stages)
    if len(numbers_in(steps)) == 1 < spec.number_of_stages and spec.for_stock_weights:
        return split_at_boundaries(sum(counts), spec, shift)
    return counts


def steps_text(counts: Sequence[int]) -> str:
    """Return the steps of each stage as the widgets take them, such as "20-20-10"."""
    return "-".join(map(str, counts))


def levels_of_student(name: str, trained: Levels, requested: Levels) -> Levels:
    """Return the levels that a distilled model was trained on, if the requested ones have as many steps.

    Raises:
        ValueError: The numbers of steps differ; ``name`` names the model in the message.
    """
    if [len(stage) for stage in trained] != [len(stage) for stage in requested]:
        steps, got = (steps_text([len(stage) - 1 for stage in levels]) for levels in (trained, requested))
        raise ValueError(
            f"{name} was distilled for steps {steps}, got {got}; set steps to {steps}, or grid to 'uniform' to use other steps "
            "anyway"
        )
    return trained


def to_sigmas(levels: Sequence[Sequence[float]]) -> Tensor:
    """Return the levels of all stages as SIGMAS in float32; each boundary occurs once."""
    return torch.tensor(merge_schedule(levels), dtype=torch.float32)


def from_sigmas(sigmas: Tensor, spec: PyramidSpec) -> Levels:
    """Return SIGMAS of natural levels, from any scheduler, cut at the boundaries of the pyramid."""
    return split_schedule(sigmas.tolist(), spec.boundaries)


def follow_sigmas(sigmas: Tensor, spec: PyramidSpec) -> tuple[PyramidSpec, Levels]:
    """Return the pyramid and the levels of its stages that follow SIGMAS of natural levels from any scheduler.

    With stock weights the boundaries move to levels of the schedule. Finetuned weights keep their boundaries, which
    replace the nearest levels; their schedule may end above 0 in the last stage only.

    Raises:
        ValueError: The schedule does not fit the pyramid.
    """
    curve = [level for level, _ in groupby(map(float, sigmas))]  # a step between equal levels changes nothing
    if not all(map(math.isfinite, curve)):
        raise ValueError("the SIGMAS hold NaN or infinity; connect a scheduler for flow models, such as 'Pyramidal Schedule'")
    if spec.for_stock_weights:
        return follow_curve(spec, curve)
    if not curve or curve[-1] <= TOLERANCE:
        return spec, split_schedule(curve, spec.boundaries)
    if spec.boundaries and curve[-1] >= spec.boundaries[-1] - TOLERANCE:
        raise ValueError(
            f"SIGMAS end at {curve[-1]:.4g}, inside a lower stage; with finetuned weights they must end below the last "
            f"boundary, {spec.boundaries[-1]:.4g}"
        )
    levels = split_schedule([*curve, 0.0], spec.boundaries)
    return spec, [*levels[:-1], levels[-1][:-1]]


def levels_by_stage(sigmas: Tensor, spec: PyramidSpec) -> Levels:
    """Return SIGMAS of natural levels, each step in the stage that its level lies in; no level moves.

    Args:
        sigmas: Falling levels. The last one starts no step.
        spec: A pyramid of patches; only the size of the patches changes at a boundary.
    """
    curve, stages = [float(level) for level in sigmas], spec.stages(spec.smallest_shape())
    stage_indices = [stage_at(stages, level).index for level in curve[:-1]]
    levels: Levels = []
    for index in range(len(stages)):
        steps = [step for step, stage_index in enumerate(stage_indices) if stage_index == index]
        levels.append(tuple(curve[steps[0] : steps[-1] + 2]) if steps else ())
    return levels


def stage_at(stages: Sequence[Stage], natural: float) -> Stage:
    """Return the stage that a step from a natural level belongs to; at a boundary that is the finer one."""
    return next((stage for stage in stages if natural > stage.clean.natural + BOUNDARY), stages[-1])


def steps_problem(steps: str) -> str | None:
    """Return the error in a text of steps that no pyramid accepts, or None."""
    try:
        parse_steps(steps, len(numbers_in(steps)))
    except ValueError as error:
        return str(error)
    return None
