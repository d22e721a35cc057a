"""Schedules: the natural levels that each stage visits.

Steps are written in running order, low to high resolution: "20-20-10" is 20 steps at the lowest, 20 at the middle and 10 at
full resolution; "50" is split among the stages. Levels fall from 1 to 0; neighbouring stages share the level of their boundary.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping, Sequence
from itertools import pairwise

from .latent_shape import LatentShape
from .noise_levels import shift_sigma
from .stages import PyramidSpec, Stage
from .untrusted import read_json, shown

GRIDS = ("uniform", "shift")
"""Spacings of the steps of a stage: even in sigma (Pyramidal Flow), or even before a flow shift (Wan)."""

TOLERANCE = 1e-6
"""Difference below which two levels are the same."""

MAX_STEPS = 10_000
"""Steps of a run, as in ComfyUI's samplers."""

LEVELS_KEY = "pyramid_levels"
"""Metadata key of a distilled model's file: the natural levels of its steps, one list per stage in running order."""


def numbers_in(text: str) -> list[str]:
    """Return the parts of a list such as "20-20-10", "20, 20, 10" or "20 20 10"; wrong separators leave empty parts."""
    return re.split(r"\s*[-\u2013,;]\s*|\s+", text.strip())


def parse_steps(text: str, number_of_stages: int) -> tuple[int, ...]:
    """Return the steps of each stage in running order: ``(20, 20, 10)`` for "20-20-10", "20, 20, 10" or "50".

    A single number for several stages is split by ``split_total``. Leading zeros leave stages out; the first stage with steps
    then starts from pure noise.

    Raises:
        ValueError: The text is not one positive number per stage after leading zeros.
    """
    parts = numbers_in(text)
    if not all(part.isdecimal() for part in parts):
        raise ValueError(f"steps must be numbers joined by '-', low to high resolution, such as 20-20-10; got {shown(text)}")
    if any(len(part) > 9 for part in parts) or sum(map(int, parts)) > MAX_STEPS:
        raise ValueError(f"steps {shown(text)} are more than {MAX_STEPS} in all, the most that a run can have")
    steps = tuple(int(part) for part in parts)
    if len(steps) == 1 < number_of_stages:
        steps = split_total(steps[0], number_of_stages)
    if len(steps) != number_of_stages:
        nearest = "-".join(map(str, _fit(steps, number_of_stages)))
        raise ValueError(
            f"steps {shown(text)} has {len(steps)} numbers, but the pyramid has {number_of_stages} stages "
            f"(low to high resolution); for example {nearest}"
        )
    first = next((index for index, count in enumerate(steps) if count), None)
    if first is None:
        raise ValueError(f"steps {shown(text)} has no steps; the last number must be at least 1")
    if 0 in steps[first:]:
        raise ValueError(
            f"steps {shown(text)}: only leading stages can be left out with 0, an inner or the last one needs at least 1"
        )
    return steps


def split_total(total: int, number_of_stages: int) -> tuple[int, ...]:
    """Return the steps of each stage for a number of steps of the whole run, in the proportion of 20-20-10.

    Every stage but the last gets twice as many as the last: 50 is 20-20-10, 30 is 20-10 and 5 is 2-2-1. Where the steps do not
    suffice for all stages, the lowest ones are left out.
    """
    shares = [*[2] * (number_of_stages - 1), 1]
    exact = [total * share / sum(shares) for share in shares]
    steps = [max(1, int(part)) for part in exact]
    while sum(steps) < total:
        index = max(range(number_of_stages), key=lambda index: exact[index] - steps[index])
        steps[index] += 1
    while sum(steps) > total:
        steps[next(index for index, count in enumerate(steps) if count)] -= 1
    return tuple(steps)


def without_skipped(spec: PyramidSpec, steps: Sequence[int]) -> tuple[PyramidSpec, tuple[int, ...]]:
    """Return the pyramid of the stages that run and their steps, without leading zeros."""
    skipped = next(index for index, count in enumerate(steps) if count)
    return spec.starting_at(skipped), tuple(steps[skipped:])


def stage_levels(
    spec: PyramidSpec,
    steps: Sequence[int],
    *,
    grid: str = "uniform",
    shift: float = 1.0,
    full: LatentShape | None = None,
) -> list[tuple[float, ...]]:
    """Return the natural levels of each stage, ``steps[i] + 1`` of them, including both ends.

    Args:
        spec: The pyramid.
        steps: Steps of each stage in running order.
        grid: "uniform" spaces levels evenly in the stage's sigma, and so in rho. "shift" spaces them evenly in ``u``, where
            the natural level is ``shift_sigma(u, shift)``; it reproduces Wan's schedule if boundaries lie on its levels.
        shift: Flow shift of the grid "shift".
        full: Size at full resolution, on which the sigmas of a pyramid with scales depend; None for their nominal sigmas.

    Raises:
        ValueError: The grid is unknown.
    """
    if grid not in GRIDS:
        raise ValueError(f"unknown grid {shown(grid)}; expected {', '.join(GRIDS)}")
    stages = spec.nominal_stages() if full is None else spec.stages(full)
    return [_levels(stage, count, grid, shift) for stage, count in zip(stages, steps, strict=True)]


def distilled_levels(
    spec: PyramidSpec, steps: Sequence[int], shift: float, full: LatentShape | None = None
) -> tuple[PyramidSpec, list[tuple[float, ...]]]:
    """Return the pyramid and the levels that give a step-distilled model for plain Wan the timesteps it was trained on.

    Step k of K = ``sum(steps)`` is conditioned on ``shift_sigma(1 - k / K, shift)``: 1000, 937.5, 833.3 and 625 for four steps
    with shift 5. The boundaries move to the first step of each stage.

    Args:
        spec: A pyramid of field "natural".
        steps: Steps of each stage in running order.
        shift: Flow shift that the model was distilled with.
        full: As for ``stage_levels``.

    Raises:
        ValueError: The pyramid needs trained weights, whose boundaries are fixed.
    """
    if spec.coarse == "patches":
        raise ValueError(
            "step-distilled models for plain Wan cannot read larger patches; use a pyramid of latents, such as training-free"
        )
    if spec.field != "natural":
        raise ValueError(
            "step-distilled models for plain Wan require a pyramid of field 'natural', such as training-free; "
            f"got field '{spec.field}'"
        )
    total, done = sum(steps), 0
    visited: list[list[float]] = []
    stages = spec.nominal_stages() if full is None else spec.stages(full)
    for stage, count in zip(stages, steps, strict=True):
        conditioning = [shift_sigma(1 - step / total, shift) for step in range(done, done + count)]
        visited.append([stage.natural_level(level) if spec.timestep_source == "sigma" else level for level in conditioning])
        done += count
    boundaries = tuple(stage[0] for stage in visited[1:])
    levels = [(*stage, end) for stage, end in zip(visited, (*boundaries, 0.0), strict=True)]
    return dataclasses.replace(spec, boundaries=boundaries), levels


def _levels(stage: Stage, count: int, grid: str, shift: float) -> tuple[float, ...]:
    fractions = [1 - step / count for step in range(1, count)]
    if grid == "uniform":
        inner = [stage.natural_at(fraction) for fraction in fractions]
    else:
        noisy, clean = (shift_sigma(level, 1 / shift) for level in (stage.noisy.natural, stage.clean.natural))
        inner = [shift_sigma(clean + fraction * (noisy - clean), shift) for fraction in fractions]
    return (stage.noisy.natural, *inner, stage.clean.natural)


def levels_to_metadata(levels: Sequence[Sequence[float]]) -> dict[str, str]:
    """Return the entry for the header of a safetensors file, without the level at which each stage ends."""
    return {LEVELS_KEY: json.dumps([list(stage) for stage in levels])}


def levels_from_metadata(metadata: Mapping[str, str] | None, spec: PyramidSpec) -> list[tuple[float, ...]] | None:
    """Return the levels of a distilled model, including the level at which each stage ends; None for other files.

    Raises:
        ValueError: The metadata holds no levels that fall through the stages of the pyramid.
    """
    if not metadata or LEVELS_KEY not in metadata:
        return None
    starts = read_json(metadata[LEVELS_KEY], "the list of noise levels")
    if not isinstance(starts, list) or len(starts) != spec.number_of_stages:
        raise ValueError(f"the noise levels are {shown(starts)}; expected a list of {spec.number_of_stages}, one per stage")
    noisy = (1.0, *spec.boundaries)
    levels = [_levels_of_stage(stage, *ends) for stage, ends in zip(starts, pairwise((*noisy, 0.0)), strict=True)]
    if sum(map(len, levels)) - len(levels) > MAX_STEPS:
        raise ValueError(f"the noise levels are of more than {MAX_STEPS} steps")
    return levels


def _levels_of_stage(starts: object, noisy: float, clean: float) -> tuple[float, ...]:
    """Return the levels in a file at which the steps of a stage start, and the one at which it ends."""
    if not isinstance(starts, list) or not starts:
        raise ValueError(f"the noise levels of a stage are {shown(starts)}; expected a list of numbers")
    for level in starts:
        if isinstance(level, bool) or not isinstance(level, (int, float)):
            raise ValueError(f"a noise level is {shown(level)}; expected a number")
    levels = (*map(float, starts), clean)
    if levels[0] > noisy + TOLERANCE or any(later >= earlier for earlier, later in pairwise(levels)):
        raise ValueError(f"the noise levels of a stage must fall from {noisy:.4g} to {clean:.4g}")
    return levels


def merge_schedule(levels: Sequence[Sequence[float]]) -> list[float]:
    """Return the levels of all stages as one falling curve; each boundary occurs once."""
    running = [stage for stage in levels if stage]
    return [running[0][0], *(level for stage in running for level in stage[1:])]


def split_schedule(curve: Sequence[float], boundaries: Sequence[float]) -> list[tuple[float, ...]]:
    """Return the levels of each stage from one falling curve of natural levels; the inverse of
    ``merge_schedule``.

    A boundary between two levels replaces the nearest inner one, so the number of steps is kept. A curve that starts below 1
    starts in the stage that holds its first level; earlier stages are empty.

    Args:
        curve: Natural levels of the whole run, falling to 0.
        boundaries: Natural levels at the transitions, falling.

    Raises:
        ValueError: The curve does not fall to 0, or leaves a stage without a step.
    """
    curve = [float(level) for level in curve]
    _check_falls(curve)
    if not boundaries:
        return [tuple(curve)]
    if curve[0] > 1 or abs(curve[-1]) > TOLERANCE:
        raise ValueError(f"a schedule must run from a natural level of at most 1 to 0, got {curve[0]:.4g} to {curve[-1]:.4g}")
    inside = [boundary for boundary in boundaries if boundary < curve[0] - TOLERANCE]
    cuts = [_nearest_inner(curve, boundary) for boundary in inside]
    if len(curve) < len(inside) + 2 or any(later <= earlier for earlier, later in pairwise(cuts)):
        raise ValueError(
            f"a schedule of {len(curve) - 1} steps leaves one of {len(inside) + 1} stages without a step: it has too few "
            f"levels near the boundaries {', '.join(f'{b:.4g}' for b in inside)}"
        )
    for step, boundary in zip(cuts, inside, strict=True):
        if abs(curve[step] - boundary) > TOLERANCE:
            curve[step] = boundary
    skipped: list[tuple[float, ...]] = [()] * (len(boundaries) - len(inside))
    return skipped + [tuple(curve[start : end + 1]) for start, end in pairwise([0, *cuts, len(curve) - 1])]


def keep_last(levels: Sequence[tuple[float, ...]], steps: int) -> list[tuple[float, ...]]:
    """Return the last ``steps`` steps of a schedule; earlier stages are empty."""
    kept: list[tuple[float, ...]] = []
    for stage in reversed(levels):
        count = min(len(stage) - 1, steps)
        kept.append(stage[len(stage) - 1 - count :] if count > 0 else ())
        steps -= count
    return kept[::-1]


def _check_falls(curve: list[float]) -> None:
    if len(curve) < 2:
        raise ValueError(f"a schedule must have at least two noise levels, got {len(curve)}")
    for earlier, later in pairwise(curve):
        if not later < earlier:
            raise ValueError(f"the noise levels of a schedule must fall from step to step, got {later:.4g} after {earlier:.4g}")


def _nearest_inner(curve: list[float], boundary: float) -> int:
    """Return the index of the level nearest to a boundary, except for the first and the last."""
    return min(range(1, max(2, len(curve) - 1)), key=lambda step: abs(curve[step] - boundary))


def _fit(steps: tuple[int, ...], number_of_stages: int) -> list[int]:
    """Return similar steps with the right number of stages, for an error message."""
    padded = [max(1, count) for count in steps] or [1]
    return ([padded[0]] * (number_of_stages - len(padded)) + padded)[-number_of_stages:]
