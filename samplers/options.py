"""Turn the widgets and sockets of the sampler nodes into runs."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import comfy.samplers
from torch import Tensor

from ..pyramid.axes import AUTO_SCALE
from ..pyramid.schedules import keep_last, numbers_in
from ..pyramid.stage_names import AUTO, stage_index
from ..pyramid.stages import PRESETS, STOCK, PyramidSpec
from ..pyramid.untrusted import shown
from .comfyui.checkpoint_metadata import distilled_for, spec_trained_for
from .comfyui.flow_shift import flow_shift, with_flow_shift
from .comfyui.latents import fit_channels, full_size, spec_at
from .comfyui.stage_model import check_model
from .execution import Result
from .lift.choice import choose_lift
from .lift.video_lift import VideoLift
from .noise import Noise, SeedNoise
from .quality import CUSTOM, Settings, settings_for, settings_text
from .run import PyramidRun
from .schedule import Levels, follow_sigmas, levels_for, levels_of_student, steps_text
from .supported_samplers import make_sampler

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher


MAX_CFG = 100.0
"""Largest cfg, as in ComfyUI's samplers."""


@dataclass(frozen=True)
class StageOptions:
    """The options of both sampler nodes that concern stages and transitions.

    Attributes:
        cfg: "6" or "5-6-4" in running order; empty for the guider's cfg.
        middle_stage_model: MODEL of the stages between the lowest and the highest; None for the main one.
        first_stage_model: MODEL of the lowest stage; None for the main one.
        start_stage: "auto", or the name of the first stage to run.
        end_stage: "auto", or the name of the last stage to run.
        lift: Maps between the latents of the large and the small video; None uses a kept one, see ``choose_lift``.
    """

    cfg: str = ""
    middle_stage_model: ModelPatcher | None = None
    first_stage_model: ModelPatcher | None = None
    start_stage: str = AUTO
    end_stage: str = AUTO
    lift: VideoLift | None = None


def sample_with_conds(
    model: ModelPatcher, positive: Any, negative: Any, latent: dict, pyramid: PyramidSpec | None, options: StageOptions, *,
    seed: int, steps: str, denoise: float, sampler_name: str, grid: str, shift: float, quality: str = CUSTOM,
    report: Callable[[str], None] | None = None,
) -> Result:  # fmt: skip
    """Sample with a CFG guider.

    Args:
        model: MODEL of the run.
        positive: Positive CONDITIONING.
        negative: Negative CONDITIONING.
        latent: LATENT at full resolution, or the output of an earlier run.
        pyramid: The pyramid; None for the one that the models were trained for.
        options: Options per stage.
        seed: Seed of the noise.
        steps: Steps of each stage, such as "20-20-10", or of the whole run.
        denoise: Share of the steps to run, counted from the end.
        sampler_name: Name of a sampler.
        grid: One of ``GRID_CHOICES``.
        shift: Flow shift of the run; 0 for that of ``model``.
        quality: One of ``QUALITY_CHOICES``; any but "custom" replaces steps, cfg, grid and shift.
        report: Shows a text about the run and its progress.

    Raises:
        ValueError: The inputs do not fit together.
    """
    if not 0 < denoise <= 1:
        raise ValueError(f"denoise is {denoise:g}; expected more than 0 and at most 1")
    whole = spec_at(find_spec(pyramid, model, options), latent, model)
    settings, note = settings_for(quality, Settings(steps, options.cfg, grid, shift), whole.number_of_stages)
    model, options, shift = _with_shift(model, options, settings.shift)
    spec, levels = _levels(model, whole, settings, shift, latent)
    effective = settings_text(quality, settings, [len(level) - 1 for level in levels], shift)
    if denoise < 1:
        levels = keep_last(levels, max(1, round(denoise * sum(len(level) - 1 for level in levels))))
    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds(positive, negative)
    cfgs = parse_cfg(settings.cfg, whole.number_of_stages)[-spec.number_of_stages :]
    sampler, notes = make_sampler(sampler_name), [effective, note] if note else [effective]
    return _run(guider, SeedNoise(seed), sampler, levels, spec, latent, cfgs, options, report, notes)


def _levels(
    model: ModelPatcher, whole: PyramidSpec, settings: Settings, shift: float, latent: dict
) -> tuple[PyramidSpec, Levels]:
    """Return the pyramid of the stages that run and their levels; a distilled model has levels of its own."""
    full = full_size(latent, fit_channels(model, latent))[0] if whole.depends_on_size else None
    student = distilled_for(model) if settings.grid == AUTO else None
    if student is None:
        return levels_for(whole, settings.steps, settings.grid, shift, full)
    counts = [len(level) - 1 for level in student[1]]
    one_number = len(numbers_in(settings.steps)) == 1 and settings.steps.strip() == str(sum(counts))
    spec, levels = levels_for(whole, steps_text(counts) if one_number else settings.steps, settings.grid, shift, full)
    return spec, levels_of_student(*student, levels)


def sample_with_guider(
    noise: Noise,
    guider: Any,
    sampler: Any,
    sigmas: Tensor,
    latent: dict,
    pyramid: PyramidSpec | None,
    options: StageOptions,
    report: Callable[[str], None] | None = None,
) -> Result:
    """Sample with ComfyUI's NOISE, GUIDER and SAMPLER.

    Args:
        noise: NOISE of the run.
        guider: GUIDER with an unbound model.
        sampler: SAMPLER of every stage.
        sigmas: Natural levels of the whole run, falling to 0; below 1 at the start for video to video.
        latent: LATENT at full resolution, or the output of an earlier run.
        pyramid: The pyramid; None for the one that the models were trained for.
        options: Options per stage.
        report: Shows a text about the run and its progress.

    Raises:
        ValueError: The inputs do not fit together.
    """
    spec = spec_at(find_spec(pyramid, guider.model_patcher, options), latent, guider.model_patcher)
    cfgs = parse_cfg(options.cfg, spec.number_of_stages) if options.cfg.strip() else []
    followed, levels = follow_sigmas(sigmas, spec)
    return _run(guider, noise, sampler, levels, followed, latent, cfgs, options, report)


def find_spec(pyramid: PyramidSpec | None, model: ModelPatcher, options: StageOptions) -> PyramidSpec:
    """Return the given pyramid, else the one the models were trained for, else one for stock weights."""
    models = [
        candidate for candidate in (model, options.middle_stage_model, options.first_stage_model) if candidate is not None
    ]
    trained = [spec for spec in map(spec_trained_for, models) if spec is not None]
    return pyramid or (trained[0] if trained else _stock_spec(model, options))


def _stock_spec(model: ModelPatcher, options: StageOptions) -> PyramidSpec:
    """Return the pyramid for stock weights; with two experts the resolution changes where Wan 2.2 changes the expert."""
    if options.first_stage_model is None or options.middle_stage_model is not None:
        return STOCK
    channels = model.get_model_object("latent_format").latent_channels
    takes_image = model.model.diffusion_model.in_dim > channels  # nothing else distinguishes the 2.2 experts
    return PRESETS["wan2.2-i2v" if takes_image else "wan2.2-t2v"].scaled(AUTO_SCALE)


def _with_shift(model: ModelPatcher, options: StageOptions, shift: float) -> tuple[ModelPatcher, StageOptions, float]:
    """Return the models of a run with one flow shift, and that shift."""
    models = {"model": model, "middle_stage_model": options.middle_stage_model, "first_stage_model": options.first_stage_model}
    for candidate in models.values():
        if candidate is not None:
            check_model(candidate)
    shift = flow_shift(shift, model)
    shifted = {name: with_flow_shift(given, shift) for name, given in models.items() if given is not None}
    return shifted.pop("model"), dataclasses.replace(options, **shifted), shift


def _run(
    guider: Any, noise: Noise, sampler: Any, levels: Levels, spec: PyramidSpec, latent: dict, cfgs: list[float],
    options: StageOptions, report: Callable[[str], None] | None, notes: Sequence[str] = (),
) -> Result:  # fmt: skip
    lift, note = choose_lift(options.lift, guider.model_patcher, spec)
    run = PyramidRun(
        guider,
        noise,
        sampler,
        levels,
        spec,
        cfgs=dict(enumerate(cfgs)),
        models=_stage_models(options, spec.number_of_stages),
        lift=lift,
        report=report,
        notes=[*notes, *([note] if note else [])],
    )
    first, last = (
        None if name == AUTO else stage_index(name, spec.number_of_stages) for name in (options.start_stage, options.end_stage)
    )
    return run.sample(latent, first=first, last=last)


def _stage_models(options: StageOptions, number_of_stages: int) -> dict[int, ModelPatcher]:
    """Return the MODEL of each stage that does not use the main one."""
    if options.first_stage_model is not None and number_of_stages < 2:
        raise ValueError("first_stage_model is connected, but a pyramid of 1 stage has no low stage; disconnect it")
    if options.middle_stage_model is not None and number_of_stages < 3:
        raise ValueError(
            f"middle_stage_model is connected, but a pyramid of {number_of_stages} stages has no mid stage; disconnect it"
        )
    models = {}
    if options.middle_stage_model is not None:
        models.update(dict.fromkeys(range(1, number_of_stages - 1), options.middle_stage_model))
    if options.first_stage_model is not None:
        models[0] = options.first_stage_model
    return models


def parse_cfg(text: str, number_of_stages: int) -> list[float]:
    """Return one cfg per stage from a text such as "6", "5-6-4" or "5, 6, 4" (running order).

    Raises:
        ValueError: The text is not such a list, or has the wrong number of values.
    """
    parts = numbers_in(text)
    if not all(re.fullmatch(r"\d+(\.\d*)?|\.\d+", part) for part in parts):
        raise ValueError(f"cfg must be one number, or one per stage joined by '-', such as 5-6-4; got {shown(text)}")
    values = [float(part) for part in parts]
    if max(values) > MAX_CFG:
        raise ValueError(f"cfg {shown(text)} is above {MAX_CFG:g}, the most that ComfyUI's samplers take")
    if len(values) not in (1, number_of_stages):
        raise ValueError(
            f"cfg {shown(text)} has {len(values)} numbers, but the pyramid has {number_of_stages} stages (low to high "
            "resolution); give one for all stages, or one per stage"
        )
    return values * number_of_stages if len(values) == 1 else values


def cfg_problem(text: str) -> str | None:
    """Return the error in a text of cfg numbers that no pyramid accepts, or None."""
    try:
        parse_cfg(text, len(numbers_in(text)))
    except ValueError as error:
        return str(error)
    return None
