"""What the widgets and sockets of the sampler nodes mean."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import comfy.sample
import comfy.samplers
from torch import Tensor

from ..pyramid.schedules import keep_last
from ..pyramid.stage_names import AUTO, stage_index
from ..pyramid.stages import PRESETS, PyramidSpec
from .comfyui.checkpoint_metadata import distilled_for, spec_trained_for
from .run import PyramidRun, Result
from .schedule import Levels, from_sigmas, levels_for, levels_of_student
from .supported_samplers import check_sampler, check_sampler_name, make_sampler


class SeedNoise:
    """NOISE from a seed, as the host's RandomNoise makes it."""

    def __init__(self, seed: int):
        self.seed = seed

    def generate_noise(self, latent: dict) -> Any:
        return comfy.sample.prepare_noise(latent["samples"], self.seed, latent.get("batch_index"))


@dataclass(frozen=True)
class StageOptions:
    """What both sampler nodes offer per stage, as their widgets and sockets say it.

    cfg: "6" or "5-6-4" in running order, empty for the guider's own. model_mid, model_low: MODELs for the stages below
    the highest. start_stage, end_stage: "auto", or a stage's name.
    """

    cfg: str = ""
    model_mid: Any = None
    model_low: Any = None
    start_stage: str = AUTO
    end_stage: str = AUTO


def sample_with_conds(
    model: Any,
    positive: Any,
    negative: Any,
    latent: dict,
    pyramid: PyramidSpec | None,
    options: StageOptions,
    *,
    seed: int,
    steps: str,
    denoise: float,
    sampler_name: str,
    grid: str,
    shift: float,
) -> Result:
    """Samples with a CFG guider; ``denoise`` below 1 runs only that share of the steps, the last ones."""
    whole = find_spec(pyramid, model, options)
    spec, levels = levels_for(whole, steps, grid, shift)
    if grid == AUTO and (student := distilled_for(model)) is not None:
        levels = levels_of_student(*student, levels)
    if denoise < 1:
        levels = keep_last(levels, max(1, round(denoise * sum(len(level) - 1 for level in levels))))
    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds(positive, negative)
    cfgs = parse_cfg(options.cfg, whole.number_of_stages)[-spec.number_of_stages :]
    return _run(guider, SeedNoise(seed), make_sampler(sampler_name), levels, spec, latent, cfgs, options)


def sample_with_guider(
    noise: Any,
    guider: Any,
    sampler: Any,
    sigmas: Tensor,
    latent: dict,
    pyramid: PyramidSpec | None,
    options: StageOptions,
) -> Result:
    """Samples with the host's own parts; ``sigmas`` are natural levels and may start below 1."""
    spec = find_spec(pyramid, guider.model_patcher, options)
    cfgs = parse_cfg(options.cfg, spec.number_of_stages) if options.cfg.strip() else []
    return _run(guider, noise, sampler, from_sigmas(sigmas, spec), spec, latent, cfgs, options)


def check_widgets(
    spec: PyramidSpec | None, options: StageOptions, *, steps: str, sampler_name: str, grid: str, shift: float
) -> None:
    """What can be wrong with the widgets of the sampler node, before a model is loaded.

    Without a pyramid the model's LoRAs may bring one, so only what no pyramid takes is refused.
    """
    check_sampler_name(sampler_name, spec or PRESETS["training-free"])
    if spec is None:
        parse_cfg(options.cfg, len(options.cfg.split("-")))
        return
    running, _ = levels_for(spec, steps, grid, shift)
    parse_cfg(options.cfg, spec.number_of_stages)
    for name in (options.start_stage, options.end_stage):
        if name != AUTO:
            stage_index(name, running.number_of_stages)


def check_parts(spec: PyramidSpec, options: StageOptions, *, sigmas: Tensor, sampler: Any) -> None:
    """The same for the advanced node."""
    levels = from_sigmas(sigmas, spec)
    check_sampler(sampler, spec, [len(level) - 1 for level in levels])
    if options.cfg.strip():
        parse_cfg(options.cfg, spec.number_of_stages)


def find_spec(pyramid: PyramidSpec | None, model: Any, options: StageOptions) -> PyramidSpec:
    """The pyramid given, or the one the models were trained for, or the training-free one."""
    models = [candidate for candidate in (model, options.model_mid, options.model_low) if candidate is not None]
    trained = [spec for spec in map(spec_trained_for, models) if spec is not None]
    return pyramid or (trained[0] if trained else PRESETS["training-free"])


def _run(
    guider: Any, noise: Any, sampler: Any, levels: Levels, spec: PyramidSpec, latent: dict, cfgs: list[float],
    options: StageOptions,
) -> Result:  # fmt: skip
    run = PyramidRun(
        guider,
        noise,
        sampler,
        levels,
        spec,
        cfgs=dict(enumerate(cfgs)),
        models=_stage_models(options, spec.number_of_stages),
    )
    first, last = (
        None if name == AUTO else stage_index(name, spec.number_of_stages) for name in (options.start_stage, options.end_stage)
    )
    return run.sample(latent, first=first, last=last)


def _stage_models(options: StageOptions, number_of_stages: int) -> dict[int, Any]:
    """MODELs by stage index, where they are not the main one."""
    if options.model_low is not None and number_of_stages < 2:
        raise ValueError("model_low is connected, but a pyramid of 1 stage has no lower one; disconnect it")
    if options.model_mid is not None and number_of_stages < 3:
        raise ValueError(f"model_mid is connected, but a pyramid of {number_of_stages} stages has no middle one; disconnect it")
    models = {}
    if options.model_mid is not None:
        models.update(dict.fromkeys(range(1, number_of_stages - 1), options.model_mid))
    if options.model_low is not None:
        models[0] = options.model_low
    return models


def parse_cfg(text: str, number_of_stages: int) -> list[float]:
    """``"6"`` or ``"5-6-4"``, in running order, to one number per stage; ValueError in plain words."""
    parts = [part.strip() for part in text.split("-")]
    if not all(re.fullmatch(r"\d+(\.\d*)?|\.\d+", part) for part in parts):
        raise ValueError(f"cfg is one number, or one for each stage joined by '-', such as 5-6-4; got '{text}'")
    values = [float(part) for part in parts]
    if len(values) not in (1, number_of_stages):
        raise ValueError(
            f"cfg '{text}' has {len(values)} numbers, but the pyramid has {number_of_stages} stages (low to high "
            "resolution); give one for all, or one for each"
        )
    return values * number_of_stages if len(values) == 1 else values


def cfg_problem(text: str) -> str | None:
    """What is wrong with a text of cfg numbers, whatever the pyramid; None if nothing is."""
    try:
        parse_cfg(text, len(text.split("-")))
    except ValueError as error:
        return str(error)
    return None
