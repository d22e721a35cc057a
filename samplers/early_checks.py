"""Checks of a run before its models are loaded: widgets, the LATENT, the conditioning."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import comfy.sampler_helpers
from torch import Tensor

from ..pyramid.latent_shape import LatentShape
from ..pyramid.schedules import numbers_in, without_skipped
from ..pyramid.stage_names import AUTO, stage_index
from ..pyramid.stages import STOCK, PyramidSpec
from .comfyui.conditioning import check_conds
from .comfyui.flow_shift import flow_shift
from .comfyui.latent_tag import tag_of
from .comfyui.latents import check_latent, one_tensor, spec_at
from .options import StageOptions, parse_cfg
from .quality import CUSTOM, Settings, settings_for
from .schedule import follow_sigmas, levels_for, steps_per_stage
from .start import check_can_resume
from .supported_samplers import check_sampler, check_sampler_name


def check_widgets(
    spec: PyramidSpec | None, options: StageOptions, *, steps: str, sampler_name: str, grid: str, shift: float,
    quality: str = CUSTOM,
) -> PyramidSpec | None:  # fmt: skip
    """Check the widgets of the sampler node.

    Returns:
        The pyramid of the stages that run; None if it is not known before the models are loaded. Then only values that no
        pyramid accepts are rejected.

    Raises:
        ValueError: A widget has a wrong value.
    """
    check_sampler_name(sampler_name, spec or STOCK)
    count = None if spec is None else spec.number_of_stages
    settings, _ = settings_for(quality, Settings(steps, options.cfg, grid, shift), count)
    shift = flow_shift(settings.shift)
    if spec is None:
        parse_cfg(settings.cfg, len(numbers_in(settings.cfg)))
        return None
    running, _ = levels_for(spec, settings.steps, settings.grid, shift)
    parse_cfg(settings.cfg, spec.number_of_stages)
    _check_stages(running, options)
    return without_skipped(spec, steps_per_stage(settings.steps, spec, shift))[0]


def check_parts(spec: PyramidSpec, options: StageOptions, *, sigmas: Tensor, sampler: Any) -> None:
    """Check the inputs of the advanced sampler node.

    Raises:
        ValueError: The SIGMAS, the SAMPLER or the cfg do not fit the pyramid.
    """
    _, levels = follow_sigmas(sigmas, spec)
    check_sampler(sampler, spec, [len(level) - 1 for level in levels])
    if options.lift is not None:
        options.lift.check_axes(spec)
    if options.cfg.strip():
        parse_cfg(options.cfg, spec.number_of_stages)


def check_inputs(spec: PyramidSpec, latent: dict, conditionings: Sequence[Any] = ()) -> None:
    """Check the LATENT, and the conditionings that are known already, against the pyramid.

    Args:
        spec: The pyramid of the stages that run.
        latent: LATENT of the run.
        conditionings: CONDITIONING, such as the positive and the negative one.

    Raises:
        ValueError: The size, the mask or a conditioning cannot go through the pyramid.
    """
    if one_tensor(latent).ndim == 4:
        return  # a picture, which ComfyUI may extend
    spec = spec_at(spec, latent)
    full = _full_size(latent, spec)
    conds = {str(index): comfy.sampler_helpers.convert_cond(given) for index, given in enumerate(conditionings)}
    check_conds(conds, full, spec.stages(full))


def _full_size(latent: dict, spec: PyramidSpec) -> LatentShape:
    """Return the size of the video at full resolution, after checking it."""
    if (tag := tag_of(latent)) is not None:
        check_can_resume(tag, latent, spec.number_of_stages)
        return tag.size
    samples = latent["samples"]
    check_latent(samples, spec, channels=samples.shape[1])
    return LatentShape(*samples.shape[2:])


def _check_stages(spec: PyramidSpec, options: StageOptions) -> None:
    """Raise ValueError for a lift or names of stages that do not fit the pyramid of the stages that run."""
    if options.lift is not None:
        options.lift.check_axes(spec)
    for name in (options.start_stage, options.end_stage):
        if name != AUTO:
            stage_index(name, spec.number_of_stages)
