"""A pyramid of patches inside any sampler: one ordinary run, in which every call reads the patches of its noise level.

Nothing changes at a boundary but the size of the patches, so the run needs no stages of its own, and multistep samplers keep
their history.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import comfy.model_patcher
import comfy.patcher_extension
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ..pyramid.latent_shape import LatentShape
from ..pyramid.patches import WHOLE
from ..pyramid.stages import PyramidSpec, Stage
from .comfyui.conditioning import check_conds, check_finite_conds, check_widths
from .comfyui.finite import check_prediction
from .comfyui.model_objects import check_objects
from .comfyui.network_size import dimensions_of
from .comfyui.stage_compile import compiling_wrapper
from .comfyui.stage_lora import apply_stage_loras, stage_loras
from .comfyui.stage_model import check_context_windows
from .comfyui.stage_patches import KEY, check_patches, layers_by_network
from .schedule import stage_at

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher


def run_by_level(
    executor: Callable[..., Tensor], spec: PyramidSpec, noise: Tensor, latent: Tensor, *args: Any, **kwargs: Any
) -> Tensor:
    """Run a sampler of ComfyUI with the patches of each noise level; a part of a wrapper of the kind ``OUTER_SAMPLE``.

    Args:
        executor: The sampler's run.
        spec: The pyramid.
        noise: Noise of the run.
        latent: Latent of the run, ``(B, C, T, H, W)``.
        args: Further arguments of the run.
        kwargs: Further arguments of the run, by name.

    Raises:
        ValueError: The MODEL or the conditioning cannot be read in patches.
    """
    guider: Any = executor.class_obj  # pyright: ignore[reportFunctionMemberAccess] - ComfyUI's WrapperExecutor
    stages = spec.stages(LatentShape(*latent.shape[-3:]))
    models = {"model_patcher": guider.model_patcher, "uncond_model_patcher": vars(guider).get("uncond_model_patcher")}
    models = {name: model for name, model in models.items() if model is not None}
    for model in models.values():
        check_patches(model, spec)
        check_widths(guider.conds, model)
    _check_inputs(guider, stages)
    options = comfy.model_patcher.create_model_options_clone(guider.model_options)
    for kind, wrapper in _wrappers(list(models.values()), stages):
        comfy.patcher_extension.add_wrapper_with_key(kind, KEY, wrapper, options, is_model_options=True)
    guider.model_options = options
    try:
        for name, model in models.items():
            vars(guider)[name] = _with_loras(model, spec, stages)
        end = executor(noise, latent, *args, **kwargs)
        check_prediction(guider.model_patcher, end, "the run")
        return end
    finally:
        vars(guider).update(models)


def _wrappers(models: Sequence[ModelPatcher], stages: Sequence[Stage]) -> Iterator[tuple[str, Callable[..., Any]]]:
    """Yield the wrappers of a run, with their kinds: what reads patches, and what compiles the network."""
    yield WrappersMP.DIFFUSION_MODEL, _reading(stages, models)
    if len(models) == 1:  # ComfyUI's wrapper would put the blocks of the first network into both
        first = models[0]
        compiling = compiling_wrapper(first.clone(), "all", dimensions_of(first))
        if compiling is not None:
            yield WrappersMP.APPLY_MODEL, compiling


def _reading(stages: Sequence[Stage], models: Sequence[ModelPatcher]) -> Callable[..., Tensor]:
    """Return the wrapper that reads a latent in the patches of its noise level, with the layers of the MODEL that is called."""
    layers_of = layers_by_network(models)

    def read(executor: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        arguments = inspect.signature(executor.original).bind(x, *args, **kwargs).arguments
        stage = stage_at(stages, float(arguments["transformer_options"]["sigmas"].max()))
        if stage.cell == WHOLE:
            return executor(x, *args, **kwargs)
        return layers_of(executor.class_obj)[stage.cell].call(executor, x, *args, **kwargs)

    return read


def _with_loras(model: ModelPatcher, spec: PyramidSpec, stages: Sequence[Stage]) -> ModelPatcher:
    """Return a clone of a MODEL with its stage LoRAs, which must act in all stages of one run; the MODEL itself without any.

    Raises:
        ValueError: One of them acts in some stages only.
    """
    loras = stage_loras(model)
    for lora in loras:
        if not all(lora.acts_in(stage.index, spec.number_of_stages) for stage in stages):
            raise ValueError(
                f"the LoRA '{lora.file.name}' is set to stages '{lora.stages}', but 'Pyramidal Model' runs all patches with "
                "one set of weights; set its stages to all, or use 'Pyramidal Sampler'"
            )
    if not loras:
        return model
    clone = model.clone()
    apply_stage_loras(clone, stages[0], spec.number_of_stages)
    return clone


def _check_inputs(guider: Any, stages: tuple[Stage, ...]) -> None:
    """Raise ValueError for conditioning and attachments of the MODEL that cannot be read in patches."""
    full = stages[-1].shape
    check_finite_conds(guider.conds)
    check_conds(copy.copy(guider.conds), full, stages)
    check_context_windows(guider.model_options, stages)
    check_objects({"options": guider.model_options, "wrappers": guider.model_patcher.wrappers}, full, stages)
