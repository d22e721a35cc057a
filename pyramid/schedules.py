"""Which natural levels each stage visits.

Steps are written in running order, low to high resolution: "20-20-10" is 20 steps at the lowest, 20 at the middle and
10 at full resolution. Levels fall from 1 to 0; neighbouring stages share the level of their boundary.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from itertools import pairwise

from .noise_levels import shift_sigma
from .stages import PyramidSpec, Stage

GRIDS = ("uniform", "shift")
"""How the steps of a stage are spaced: evenly in sigma (Pyramidal Flow), or evenly before a flow shift (Wan)."""

TOLERANCE = 1e-6

LEVELS_KEY = "pyramid_levels"
"""In the header of a distilled model's file: the natural levels of its steps, a list for each stage in running order."""


def parse_steps(text: str, number_of_stages: int) -> tuple[int, ...]:
    """``"20-20-10"`` to ``(20, 20, 10)``: as many numbers as stages, low to high resolution.

    Leading zeros leave stages out: the first one with steps starts from pure noise. ValueError in plain words for
    anything else that is not a positive number of steps for each stage.
    """
    parts = text.strip().split("-")
    if not all(part.strip().isdecimal() for part in parts):
        raise ValueError(f"steps are numbers joined by '-', low to high resolution, such as 20-20-10; got {text!r}")
    steps = tuple(int(part) for part in parts)
    if len(steps) != number_of_stages:
        nearest = "-".join(map(str, _fit(steps, number_of_stages)))
        raise ValueError(
            f"steps {text!r} has {len(steps)} numbers, but the pyramid has {number_of_stages} stages "
            f"(low to high resolution); for example {nearest}"
        )
    first = next((index for index, count in enumerate(steps) if count), None)
    if first is None:
        raise ValueError(f"steps {text!r} runs no stage at all; the last number must be at least 1")
    if 0 in steps[first:]:
        raise ValueError(
            f"steps {text!r}: only leading stages can be left out with 0, an inner or the last one needs at least 1"
        )
    return steps


def without_skipped(spec: PyramidSpec, steps: Sequence[int]) -> tuple[PyramidSpec, tuple[int, ...]]:
    """Takes leading zeros off: the pyramid of the stages that run, and their steps."""
    skipped = next(index for index, count in enumerate(steps) if count)
    return spec.starting_at(skipped), tuple(steps[skipped:])


def stage_levels(
    spec: PyramidSpec, steps: Sequence[int], *, grid: str = "uniform", shift: float = 1.0
) -> list[tuple[float, ...]]:
    """Natural levels for each stage in running order, ``steps[i] + 1`` of them, both boundaries included.

    grid "uniform": evenly in the stage's sigma, so in rho. grid "shift": evenly in ``u`` where the natural level is
    ``shift_sigma(u, shift)``; 50 steps of Wan with shift 5, cut at its own levels, come out of it unchanged.
    """
    if grid not in GRIDS:
        raise ValueError(f"grid is {grid!r}; allowed are {', '.join(GRIDS)}")
    stages = spec.stages(spec.smallest_shape())
    return [_levels(stage, count, grid, shift) for stage, count in zip(stages, steps, strict=True)]


def distilled_levels(spec: PyramidSpec, steps: Sequence[int], shift: float) -> tuple[PyramidSpec, list[tuple[float, ...]]]:
    """Levels at which the network is told exactly what a step-distilled model for plain Wan was trained on.

    A stage is entered where its first step is due, so the boundaries move there. ValueError for a pyramidal field, whose
    weights know their own boundaries.
    """
    # K = sum(steps) steps tell it shift_sigma(1 - k / K, shift): 1000, 937.5, 833.3 and 625 for four steps of shift 5.
    if spec.field != "natural":
        raise ValueError("step-distilled models for plain Wan go with a pyramid of field 'natural', such as training-free")
    total, done = sum(steps), 0
    visited: list[list[float]] = []
    for stage, count in zip(spec.stages(spec.smallest_shape()), steps, strict=True):
        visited_sigmas = [shift_sigma(1 - step / total, shift) for step in range(done, done + count)]
        visited.append([stage.natural_level(level) if spec.timestep_source == "sigma" else level for level in visited_sigmas])
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
    """For the header of a safetensors file; without the level that the last step ends at."""
    return {LEVELS_KEY: json.dumps([list(stage) for stage in levels])}


def levels_from_metadata(metadata: Mapping[str, str] | None, spec: PyramidSpec) -> list[tuple[float, ...]] | None:
    """The levels of a distilled model, each stage with the one it ends at; None for a file of any other model."""
    if not metadata or LEVELS_KEY not in metadata:
        return None
    starts = json.loads(metadata[LEVELS_KEY])
    return [(*stage, end) for stage, end in zip(starts, (*spec.boundaries, 0.0), strict=True)]


def join(levels: Sequence[Sequence[float]]) -> list[float]:
    """The levels of all stages as one falling curve; each boundary stands in it once."""
    running = [stage for stage in levels if stage]
    return [running[0][0], *(level for stage in running for level in stage[1:])]


def cut(curve: Sequence[float], boundaries: Sequence[float]) -> list[tuple[float, ...]]:
    """Cuts one falling curve of natural levels that ends at 0 into stages, the inverse of ``join``.

    A boundary that falls between two levels replaces the nearest inner one, so the number of steps stays. A curve that
    starts below 1 starts in the stage that holds its first level; the stages before it come out empty. ValueError if the
    curve does not fall to 0 or if a stage would be left without a step.
    """
    curve = [float(level) for level in curve]
    if len(curve) < 2 or any(later >= earlier for earlier, later in pairwise(curve)):
        raise ValueError("a schedule is at least two noise levels that fall from step to step")
    if not boundaries:
        return [tuple(curve)]
    if curve[0] > 1 or abs(curve[-1]) > TOLERANCE:
        raise ValueError(f"a schedule runs from natural level 1 or less to 0; this one from {curve[0]:.4g} to {curve[-1]:.4g}")
    inside = [boundary for boundary in boundaries if boundary < curve[0] - TOLERANCE]
    places = [_nearest_inner(curve, boundary) for boundary in inside]
    if len(curve) < len(inside) + 2 or any(later <= earlier for earlier, later in pairwise(places)):
        raise ValueError(
            f"a schedule of {len(curve) - 1} steps leaves a stage of the {len(inside) + 1} without a step: its levels are "
            f"too few, or too far apart, around the boundaries {', '.join(f'{b:.4g}' for b in inside)}"
        )
    for place, boundary in zip(places, inside, strict=True):
        if abs(curve[place] - boundary) > TOLERANCE:
            curve[place] = boundary
    skipped: list[tuple[float, ...]] = [()] * (len(boundaries) - len(inside))
    return skipped + [tuple(curve[start : end + 1]) for start, end in pairwise([0, *places, len(curve) - 1])]


def keep_last(levels: Sequence[tuple[float, ...]], steps: int) -> list[tuple[float, ...]]:
    """The last ``steps`` steps of a schedule; stages before them come out empty."""
    kept: list[tuple[float, ...]] = []
    for stage in reversed(levels):
        own = min(len(stage) - 1, steps)
        kept.append(stage[len(stage) - 1 - own :] if own > 0 else ())
        steps -= own
    return kept[::-1]


def _nearest_inner(curve: list[float], boundary: float) -> int:
    return min(range(1, max(2, len(curve) - 1)), key=lambda place: abs(curve[place] - boundary))


def _fit(steps: tuple[int, ...], number_of_stages: int) -> list[int]:
    """Some steps with the right number of stages, for an error message."""
    padded = [max(1, count) for count in steps] or [1]
    return ([padded[0]] * (number_of_stages - len(padded)) + padded)[-number_of_stages:]
