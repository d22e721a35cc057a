"""Wrappers of a stage's model: what other nodes see of the run, and what the sampler sees of the prediction.

A sampler integrates a stage in the stage's own sigma. Everything between the sampler and the network (cfg functions,
skip-layer guidance, timestep ranges, context windows, step caches) sees natural levels instead, together with the levels
of the whole run, so a range means the same part of the run as without a pyramid.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ...pyramid.stages import Stage

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher

WRAPPER_KEY = "pyramidal_wan"
"""Key of this pack's wrappers on a model."""

CleanPrediction = Callable[[Tensor, Tensor, Tensor], Tensor]
"""From the network's input, its reference sigma and ComfyUI's ``denoised`` to the clean prediction."""


def add_outermost_wrapper(model: ModelPatcher, kind: str, wrapper: Callable[..., Any], key: str = WRAPPER_KEY) -> None:
    """Add a wrapper that is called before those of other nodes."""
    model.add_wrapper_with_key(kind, key, wrapper)
    by_key = model.wrappers[kind]
    model.wrappers[kind] = {key: by_key[key], **by_key}


def add_stage_wrappers(
    bound: ModelPatcher, stage: Stage, curve: Sequence[float] | None, clean_prediction: CleanPrediction | None
) -> None:
    """Present natural levels to other nodes, and clean predictions to previews and outputs.

    Args:
        bound: The model of the stage; changed in place.
        stage: The stage.
        curve: Natural levels of the whole run; None where only the stage's sigmas are known.
        clean_prediction: Computes the clean prediction; None where ComfyUI's ``denoised`` already is one.
    """
    latest: dict[str, Tensor] = {}

    def predict_noise(executor: Callable[..., Tensor], x: Tensor, timestep: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        denoised = executor(x, stage.natural_level(timestep), *args, **kwargs)
        if clean_prediction is not None:
            latest["clean"] = clean_prediction(x, timestep, denoised)
        return denoised

    def sampler_sample(
        executor: Callable[..., Tensor], guider: Any, sigmas: Tensor, extra_args: dict, callback: Any, *args: Any, **kwargs: Any
    ) -> Tensor:
        levels = stage.natural_level(sigmas) if curve is None else torch.tensor(curve, dtype=sigmas.dtype, device=sigmas.device)
        options = extra_args["model_options"]
        transformer = {**options.get("transformer_options", {}), "sample_sigmas": levels}
        extra_args = {**extra_args, "model_options": {**options, "transformer_options": transformer}}

        def report(step: int, denoised: Tensor, x: Tensor, total: int) -> None:
            callback(step, latest.get("clean", denoised), x, total)

        try:
            return executor(guider, sigmas, extra_args, callback and report, *args, **kwargs)
        finally:
            latest.clear()

    add_outermost_wrapper(bound, WrappersMP.PREDICT_NOISE, predict_noise)
    add_outermost_wrapper(bound, WrappersMP.SAMPLER_SAMPLE, sampler_sample)
