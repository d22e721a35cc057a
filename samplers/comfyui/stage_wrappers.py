"""Wrappers of a stage's model: what other nodes see of the run, and what the sampler sees of the prediction.

A sampler integrates a stage in the stage's own sigma. Everything between the sampler and the network (cfg functions,
skip-layer guidance, timestep ranges, context windows, step caches) sees natural levels instead, together with the levels
of the whole run, so a range means the same part of the run as without a pyramid.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from typing import TYPE_CHECKING, Any

import torch
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ...pyramid.stages import Stage

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher

WRAPPER_KEY = "pyramidal_wan"
"""Key of this pack's wrappers on a model."""

MODEL_KEY = "pyramidal_wan_model"
"""Key of the wrapper of 'Pyramidal Model', which runs the pyramid in any sampler."""

SAME_LEVEL = 1e-5
"""Difference of two natural levels that rounding in float32 explains."""

CleanPrediction = Callable[[Tensor, Tensor, Tensor], Tensor]
"""From the network's input, its reference sigma and ComfyUI's ``denoised`` to the clean prediction."""


def add_outermost_wrapper(model: ModelPatcher, kind: str, wrapper: Callable[..., Any], key: str = WRAPPER_KEY) -> None:
    """Add a wrapper that is called before those of other nodes."""
    model.add_wrapper_with_key(kind, key, wrapper)
    by_key = model.wrappers[kind]
    model.wrappers[kind] = {key: by_key[key], **by_key}


@dataclass(frozen=True)
class Replaced:
    """A stand-in for an object with one attribute replaced.

    Attributes:
        original: The object.
        name: Name of the attribute.
        value: Its value instead.
    """

    original: Any
    name: str
    value: Any

    def __getattr__(self, name: str) -> Any:
        """Return an attribute of the original, or the one that replaces it."""
        return self.value if name == self.name else attrgetter(name)(self.original)


def add_stage_wrappers(
    bound: ModelPatcher, stage: Stage, sampling: Any, curve: Sequence[float] | None, clean_prediction: CleanPrediction | None
) -> None:
    """Present natural levels to other nodes, and clean predictions to previews and outputs.

    Args:
        bound: The model of the stage; changed in place.
        stage: The stage.
        sampling: ComfyUI's sampling object of the model, not bound to the stage.
        curve: Natural levels of the whole run; None where only the stage's sigmas are known.
        clean_prediction: Computes the clean prediction; None where ComfyUI's ``denoised`` already is one.
    """
    view = _StageView(stage, sampling, curve, clean_prediction)
    add_outermost_wrapper(bound, WrappersMP.PREDICT_NOISE, view.predict_noise)
    add_outermost_wrapper(bound, WrappersMP.SAMPLER_SAMPLE, view.sampler_sample)


@dataclass(frozen=True)
class _StageView:
    """The view that other nodes have of a stage; the arguments are those of ``add_stage_wrappers``.

    Attributes:
        latest: The clean prediction of the last call, under "clean".
    """

    stage: Stage
    sampling: Any
    curve: Sequence[float] | None
    clean_prediction: CleanPrediction | None
    latest: dict[str, Tensor] = field(default_factory=dict)

    def predict_noise(
        self, executor: Callable[..., Tensor], x: Tensor, timestep: Tensor, model_options: dict, *args: Any, **kwargs: Any
    ) -> Tensor:
        """Pass a natural level on in place of the sampler's sigma."""
        levels = model_options.get("transformer_options", {}).get("sample_sigmas")
        denoised = executor(x, self._natural(timestep, levels), model_options, *args, **kwargs)
        if self.clean_prediction is not None:
            self.latest["clean"] = self.clean_prediction(x, timestep, denoised)
        return denoised

    def sampler_sample(
        self,
        executor: Callable[..., Tensor],
        guider: Any,
        sigmas: Tensor,
        extra_args: dict,
        callback: Any,
        noise: Tensor,
        latent: Tensor | None = None,
        mask: Tensor | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> Tensor:
        """Pass the levels of the whole run on, and clean predictions to the callback."""
        options = self._options(extra_args["model_options"], self._levels(sigmas))
        given = guider.model_patcher.get_model_object("model_sampling").given
        if given is not None and given.signal is not None and (change := options.get("denoise_mask_function")) is not None:
            given.mask = change(sigmas[:1], mask, extra_options={"model": guider, "sigmas": sigmas})

        def report(step: int, denoised: Tensor, x: Tensor, total: int) -> None:
            clean = self.latest.get("clean")
            if clean is not None:
                denoised = clean if mask is None or latent is None else clean * mask + latent * (1 - mask)
            callback(step, denoised, x, total)

        extra_args = {**extra_args, "model_options": options}
        try:
            return executor(guider, sigmas, extra_args, callback and report, noise, latent, mask, *args, **kwargs)
        finally:
            self.latest.clear()

    def _levels(self, sigmas: Tensor) -> Tensor:
        """Return the natural levels of the whole run."""
        if self.curve is None:
            return self.stage.natural_level(sigmas)
        return torch.tensor(self.curve, dtype=sigmas.dtype, device=sigmas.device)

    def _natural(self, sigma: Tensor, levels: Tensor | None) -> Tensor:
        """Return the natural level of a reference sigma: the run's own number where it is one of its levels.

        Other nodes look a step up by equality, so rounding must not move it.
        """
        natural = self.stage.natural_level(sigma)
        if levels is None or levels.ndim != 1:
            return natural
        distance, nearest = (natural[..., None] - levels.to(natural)).abs().min(dim=-1)
        return torch.where(distance < SAME_LEVEL, levels.to(natural)[nearest], natural)

    def _options(self, options: dict, levels: Tensor) -> dict:
        """Return model options with the levels of the whole run, also for a function that changes the noise mask."""
        options = {**options, "transformer_options": {**options.get("transformer_options", {}), "sample_sigmas": levels}}
        if (change := options.get("denoise_mask_function")) is not None:

            def at_natural_level(sigma: Tensor, mask: Tensor, extra_options: dict) -> Tensor:
                model = extra_options["model"]
                seen = Replaced(model, "inner_model", Replaced(model.inner_model, "model_sampling", self.sampling))
                return change(
                    self._natural(sigma, levels), mask, extra_options={**extra_options, "model": seen, "sigmas": levels}
                )

            options["denoise_mask_function"] = at_natural_level
        return options
