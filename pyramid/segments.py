"""Runs over a part of the noise levels: schedules of other samplers, and runs that end before the video is clean.

The natural level of stock weights is the sigma of an ordinary full-size run. A schedule of any sampler is therefore a
curve of natural levels; a pyramid follows it by moving its boundaries to steps of the curve, so that every step keeps its
level. All formulas hold for the field "natural", where every stage follows the ordinary flow at its own size.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from .noise_levels import add_noise, shift_sigma
from .schedules import TOLERANCE
from .stages import PyramidSpec, Stage
from .transition import transition

NEARLY_NOISE = 0.99
"""Schedules that start above this level start from noise: ComfyUI's "ddim_uniform" starts at 0.9997."""

Levels = list[tuple[float, ...]]
"""Natural levels of each stage in running order; empty for a stage that does not run."""


def follow_curve(spec: PyramidSpec, curve: Sequence[float]) -> tuple[PyramidSpec, Levels]:
    """Split a falling curve of natural levels among the stages by moving the boundaries to its levels.

    A boundary moves to the nearest level inside the curve; a curve that starts below 1 may also start at a finer stage.
    Boundaries below the end of the curve move to that end: the run then ends in a coarse stage, and ``carry_to_full_size``
    carries it to full size at the same level. Where the curve has too few steps, the coarsest stages are left out.

    Args:
        spec: A pyramid of field "natural".
        curve: At least two natural levels in [0, 1] that fall from step to step.

    Returns:
        The pyramid with the moved boundaries and the levels of each of its stages.

    Raises:
        ValueError: The curve does not fall, or leaves [0, 1].
    """
    levels = [float(level) for level in curve]
    if len(levels) < 2 or not all(later < earlier for earlier, later in pairwise(levels)):
        raise ValueError("a schedule needs at least two noise levels, and they must fall from step to step")
    if levels[0] > 1 + TOLERANCE or levels[-1] < -TOLERANCE:
        raise ValueError(f"noise levels must be between 0 and 1; this schedule runs from {levels[0]:.4g} to {levels[-1]:.4g}")
    indices = _boundary_indices(spec.boundaries, levels)
    starts = [0, *indices]
    stages = [tuple(levels[start : end + 1]) if end > start else () for start, end in pairwise([*starts, len(levels) - 1])]
    return dataclasses.replace(spec, boundaries=_boundaries(indices, levels)), stages


def _boundary_indices(boundaries: Sequence[float], levels: Sequence[float]) -> list[int]:
    """Return the index in ``levels`` where each boundary goes; 0 skips the stage before it, the last index the one after.

    The first level counts only where the curve starts below noise, the last one only where it ends above 0: two runs that
    follow one curve in turn then change stages where one run does.
    """
    last = len(levels) - 1
    inner = range(0 if levels[0] < NEARLY_NOISE else 1, last + 1 if levels[-1] > TOLERANCE else last) or range(0, 1)
    indices = []
    for boundary in boundaries:
        if boundary >= levels[0] - TOLERANCE:
            indices.append(0)
        elif boundary <= levels[-1] + TOLERANCE:
            indices.append(inner[-1])
        else:
            indices.append(min(inner, key=lambda index: abs(levels[index] - boundary)))
    for index in range(len(indices) - 1, 0, -1):  # move the coarser of two boundaries one step earlier
        if indices[index] != last:
            indices[index - 1] = min(indices[index - 1], max(indices[index] - 1, 0))
    return indices


def _boundaries(indices: Sequence[int], levels: Sequence[float]) -> tuple[float, ...]:
    """Return the level at each index, strictly falling between 0 and 1.

    Only stages that do not run share a level, the first or the last. Their boundaries carry no meaning and are spread above
    the first level or below the last one.
    """
    skipped, last = indices.count(0), len(levels) - 1
    top = min(levels[0], 1 - TOLERANCE)
    boundaries = [top + (1 - top) * (1 - (index + 1) / skipped) for index in range(skipped)]
    boundaries += [levels[index] for index in indices if 0 < index < last]
    unused = len(indices) - len(boundaries)
    return (*boundaries, *(levels[-1] * (1 - index / unused) for index in range(unused)))


def plain_levels(spec: PyramidSpec, steps: Sequence[int], shift: float) -> tuple[PyramidSpec, Levels]:
    """Return the levels of an ordinary run of ``sum(steps)`` steps, split among the stages after ``steps[i]`` steps each.

    Every step has the level it has without a pyramid, which step-distilled models need: 1, 0.9375, 0.8333 and 0.625 for
    four steps of shift 5.

    Args:
        spec: A pyramid of field "natural".
        steps: Steps of each stage in running order.
        shift: Flow shift of the model.
    """
    total = sum(steps)
    curve = [shift_sigma(1 - step / total, shift) for step in range(total + 1)]
    ends = [sum(steps[: index + 1]) for index in range(len(steps))]
    levels = [tuple(curve[end - count : end + 1]) for end, count in zip(ends, steps, strict=True)]
    return dataclasses.replace(spec, boundaries=tuple(curve[end] for end in ends[:-1])), levels


def split_at_boundaries(total: int, spec: PyramidSpec, shift: float) -> tuple[int, ...]:
    """Return the steps of each stage if an ordinary run of ``total`` steps changes stages nearest to the boundaries.

    Args:
        total: Number of steps.
        spec: A pyramid of field "natural".
        shift: Flow shift of the model.
    """
    curve = [shift_sigma(1 - step / total, shift) for step in range(total + 1)]
    return tuple(max(0, len(levels) - 1) for levels in follow_curve(spec, curve)[1])


def carry_to_full_size(
    signal: Tensor,
    natural: float,
    stages: Sequence[Stage],
    noises: Sequence[Tensor],
    *,
    top_up: Callable[[Stage], Tensor] | None = None,
    correction: Callable[[Stage, Stage], Tensor | None] | None = None,
) -> Tensor:
    """Carry the end of a coarse stage to full size without changing its natural level.

    For the field "natural" the result is distributed as a full-size sample at that level whose missing bands hold noise
    only: it is the transition, applied at one level instead of at the boundaries.

    Args:
        signal: End of ``stages[0]`` divided by ``1 - sigma``, ``(B, C, T, h, w)``.
        natural: Natural level it ended at, between 0 and 1.
        stages: The stage that ended and all finer ones, in running order.
        noises: White noise of each finer stage at its size, as from ``noise_pyramid``.
        top_up: Draws more white noise for a stage, for ``transition``.
        correction: As for ``pyramid.sampling.sample_pyramid``.

    Returns:
        The full-size sample divided by ``1 - natural``.
    """
    for coarse, fine, noise in zip(stages[:-1], stages[1:], noises, strict=True):
        if fine.from_coarser is None:
            raise ValueError(f"stage {fine.index} has no coarser stage to upsample from")
        level = torch.tensor(natural, dtype=signal.dtype, device=signal.device)
        ends = coarse.at(level), fine.at(level)
        draw = None if top_up is None else (lambda fine=fine: top_up(fine))
        carried, fresh = transition(signal, *ends, fine.from_coarser, noise, draw)
        if correction is not None and (added := correction(coarse, fine)) is not None:
            carried = carried + added.to(carried)
        sigma = ends[1].sigma
        signal = add_noise(carried, fresh.to(carried), sigma) / (1 - sigma)
    return signal
