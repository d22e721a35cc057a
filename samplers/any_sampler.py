"""The pyramid inside any sampler: a MODEL whose every sampling run goes through the stages.

The sampler that runs the MODEL passes noise, a latent, a SAMPLER and SIGMAS at full size. Its SIGMAS are natural levels, so
they are split among the stages, and the run returns what the sampler expects: a full-size latent at the last of them.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import comfy.hooks
import comfy.model_patcher
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ..pyramid.latent_shape import LatentShape
from ..pyramid.schedules import TOLERANCE, merge_schedule
from ..pyramid.segments import NEARLY_NOISE
from ..pyramid.stages import STOCK, PyramidSpec
from .comfyui.checkpoint_metadata import check_spec, distilled_for, spec_trained_for
from .comfyui.latents import check_latent, pixels_per_latent, spec_at
from .comfyui.network_size import dimensions_of
from .comfyui.node_inputs import check_latent_input
from .comfyui.stage_lora import stage_loras
from .comfyui.stage_model import check_model, samples_by_frame
from .comfyui.stage_wrappers import MODEL_KEY, add_outermost_wrapper
from .lift.choice import choose_lift
from .lift.video_lift import VideoLift
from .noise import batch_index_of
from .patches_by_level import run_by_level
from .run import PyramidRun
from .run_report import describe_run, plan, setting_warnings
from .schedule import Levels, follow_sigmas, levels_by_stage
from .supported_samplers import name_of

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher


UNCHANGED = "unchanged: this model samples frame by frame with a cache of earlier frames, so all steps run at full size"
RISES = "all steps at full size: the SIGMAS rise, as they do when a video is turned into noise ('FlipSigmas')"


class DrawnNoise:
    """NOISE that a sampler has drawn already; further draws derive from its seed."""

    def __init__(self, noise: Tensor, seed: int):
        """Hold the noise and the seed it was drawn with."""
        self.seed, self._noise = seed, noise

    def generate_noise(self, latent: dict) -> Tensor:
        """Return the sampler's noise; ``latent`` only has its shape."""
        return self._noise


def pyramidal_model(
    model: ModelPatcher, spec: PyramidSpec | None, report: Callable[[str], None], lift: VideoLift | None = None
) -> ModelPatcher:
    """Return a clone of a MODEL that runs the pyramid in whatever sampler uses it.

    Args:
        model: The MODEL, not bound to a stage.
        spec: The pyramid; None takes the one that the weights or their LoRAs were trained for, else ``STOCK``. One of
            a single stage ("plain") leaves the MODEL as it is.
        report: Shows a text about each run, and its progress; and why a causal MODEL stays as it is.
        lift: Maps between the latents of the large and the small video; None uses a kept one, see ``choose_lift``.

    Raises:
        ValueError: No pyramid can sample the model, or its weights were trained for a different one.
    """
    wrapped = model.clone()
    wrapped.remove_wrappers_with_key(WrappersMP.OUTER_SAMPLE, MODEL_KEY)
    if spec is not None:
        check_spec(wrapped, spec)
        if spec.number_of_stages == 1 and not stage_loras(wrapped):
            return wrapped
    if samples_by_frame(wrapped):
        report(UNCHANGED)
        return wrapped
    check_model(wrapped)
    if spec is not None and lift is not None:
        lift.check_axes(spec)
    add_outermost_wrapper(wrapped, WrappersMP.OUTER_SAMPLE, _outer_sample(spec, report, lift), MODEL_KEY)
    return wrapped


def _outer_sample(spec: PyramidSpec | None, report: Callable[[str], None], lift: VideoLift | None) -> Callable[..., Tensor]:
    """Return the wrapper that runs the pyramid in place of a sampler's run."""

    def outer_sample(
        executor: Callable[..., Tensor], noise: Tensor, latent_image: Tensor, sampler: Any, sigmas: Tensor,
        denoise_mask: Tensor | None = None, callback: Any = None, disable_pbar: bool = False, seed: int | None = None,
        **kwargs: Any,
    ) -> Tensor:  # fmt: skip
        guider = executor.class_obj
        chosen = spec or spec_trained_for(guider.model_patcher) or STOCK
        chosen = spec_at(chosen, {"samples": latent_image}, guider.model_patcher)
        if len(sigmas) < 2 or (chosen.number_of_stages == 1 and not stage_loras(guider.model_patcher)):
            return executor(noise, latent_image, sampler, sigmas, denoise_mask, callback, disable_pbar, seed, **kwargs)
        if chosen.for_stock_weights and sigmas[0] < sigmas[-1]:
            report(RISES)
            return executor(noise, latent_image, sampler, sigmas, denoise_mask, callback, disable_pbar, seed, **kwargs)
        check_latent(latent_image, chosen, channels=latent_image.shape[1], lenient=True)
        check_latent_input("the sampler", {"samples": latent_image, "noise_mask": denoise_mask})
        chosen, levels = _levels(guider.model_patcher, chosen, sigmas)
        chosen_lift, note = choose_lift(lift, guider.model_patcher, chosen)
        if chosen.coarse == "patches":
            report(_describe(guider, chosen, levels, sampler, latent_image))
            rest = (sampler, sigmas.new_tensor(merge_schedule(levels)), denoise_mask, callback, disable_pbar, seed)
            return run_by_level(executor, chosen, noise, latent_image, *rest, **kwargs)
        run = PyramidRun(
            _without_pyramid(guider),
            DrawnNoise(noise.cpu(), seed or 0),
            sampler,
            levels,
            chosen,
            lift=chosen_lift,
            callback=callback or _no_callback,
            report=report,
            notes=[note] if note else [],
            follows_sampler=True,
        )
        latent = _latent(latent_image, denoise_mask, batch_index_of(noise.cpu(), seed or 0))
        return run.sample(latent).output["samples"].to(latent_image.device)

    return outer_sample


def _latent(samples: Tensor, mask: Tensor | None, batch_index: list[int] | None) -> dict:
    """Return the LATENT of a sampler's run."""
    latent = {"samples": samples.cpu(), "batch_index": batch_index}
    return latent if mask is None else {**latent, "noise_mask": mask.cpu()}


def _describe(guider: Any, spec: PyramidSpec, levels: Levels, sampler: Any, latent: Tensor) -> str:
    """Return the text about a run in patches, whose only stages are the sizes of the patches."""
    model, steps = guider.model_patcher, [max(0, len(stage) - 1) for stage in levels]
    full = LatentShape(*latent.shape[-3:])
    stages = plan(spec, full, steps, pixels=pixels_per_latent(model), dimensions=dimensions_of(model))
    cfg = getattr(guider, "cfg", None)
    cfgs = [float(cfg)] if isinstance(cfg, (int, float)) else []
    warnings = setting_warnings(model, spec, levels, name_of(sampler), cfgs)
    return "\n".join([*(f"warning: {warning}" for warning in warnings), describe_run(stages)])


def _levels(model: ModelPatcher, spec: PyramidSpec, sigmas: Tensor) -> tuple[PyramidSpec, Levels]:
    """Return the levels that follow SIGMAS; a distilled model uses its trained levels; the step counts must match."""
    student = None if spec.for_stock_weights else distilled_for(model)
    if student is None:
        return (spec, levels_by_stage(sigmas, spec)) if spec.coarse == "patches" else follow_sigmas(sigmas, spec)
    name, trained = student
    if sigmas[0] < NEARLY_NOISE or sigmas[-1] > TOLERANCE:
        raise ValueError(
            f"{name} was distilled to run from noise to a video, but these SIGMAS run from {float(sigmas[0]):.4g} to "
            f"{float(sigmas[-1]):.4g}; use one sampler for the whole run with denoise 1"
        )
    if len(trained) != spec.number_of_stages:
        raise ValueError(
            f"{name} was distilled for {len(trained)} stages, but the pyramid has {spec.number_of_stages}; disconnect the "
            "pyramid input to use its own"
        )
    steps = sum(len(stage) - 1 for stage in trained)
    if len(sigmas) - 1 != steps:
        raise ValueError(
            f"{name} was distilled to {steps} steps in all, got {len(sigmas) - 1}; set the sampler's steps to {steps}"
        )
    return spec, trained


def _no_callback(step: int, denoised: Tensor, x: Tensor, total: int) -> None:
    """Ignore a step of a sampler that shows no progress."""


def _without_pyramid(guider: Any) -> Any:
    """Return a copy of a running guider as it was before its run, with a model that does not run the pyramid."""
    plain = copy.copy(guider)
    plain.model_patcher = _plain_model(guider.model_patcher, guider.model_options)
    plain.model_options = plain.model_patcher.model_options
    if (negative := getattr(guider, "uncond_model_patcher", None)) is not None:
        plain.uncond_model_patcher = _plain_model(negative, negative.model_options)
    for name in ("conds", "inner_model", "loaded_models"):
        vars(plain).pop(name, None)
    return plain


def _plain_model(model: ModelPatcher, options: dict) -> ModelPatcher:
    """Return a clone without the pyramid's wrapper and with the guider's options before ComfyUI added to them.

    ComfyUI adds the model's wrappers and callbacks, and what hooks of the conditioning change for the whole run.
    """
    plain = model.clone()
    options = comfy.model_patcher.create_model_options_clone(options)
    added = [{"wrappers": model.wrappers, "callbacks": model.callbacks}]
    if (registered := options.get("registered_hooks")) is not None:
        hooks = registered.get_type(comfy.hooks.EnumHookType.TransformerOptions)
        everywhere = comfy.hooks.EnumHookScope.AllConditioning
        added += [hook.transformers_dict for hook in hooks if hook.hook_scope == everywhere]
    for part in added:
        options = _without(options, {"transformer_options": part})
    options.setdefault("transformer_options", {})
    for name in ("to_load_options", "registered_hooks"):
        options.pop(name, None)
    plain.model_options = options
    plain.remove_wrappers_with_key(WrappersMP.OUTER_SAMPLE, MODEL_KEY)
    return plain


def _without(merged: Mapping, added: Mapping) -> dict:
    """Return nested dicts before ``added`` was merged into them: list items are taken out once, empty parts are left out."""
    rest = {}
    for key, value in merged.items():
        new = added.get(key)
        if new is None:
            rest[key] = value
        elif isinstance(new, Mapping):
            rest[key] = _without(value, new)
        elif isinstance(new, list):
            rest[key] = list(value)
            for item in new:
                index = next((index for index, held in enumerate(rest[key]) if held is item), None)
                if index is not None:
                    del rest[key][index]
        if key in rest and new is not None and not rest[key]:
            del rest[key]
    return rest
