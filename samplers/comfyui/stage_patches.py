"""Patches of several sizes on a MODEL: the layers of its coarse stages, and stages that read latents with them."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import comfy.ldm.wan.model
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ...pyramid.latent_shape import PATCH, video_frames
from ...pyramid.patches import WHOLE, Cell
from ...pyramid.sizes import patch_text
from ...pyramid.stages import PyramidSpec, Stage
from .checkpoint_files import loaded_from
from .lora_match import find_layer, weight_size
from .patch_files import PatchSet, PatchStage, read_patches

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher

KEY = "pyramidal_wan_patches"
NODE = "Pyramidal Patches from File"
EMBEDDING, HEAD = "diffusion_model.patch_embedding", "diffusion_model.head.head"


def attach_patches(model: ModelPatcher, patches: PatchSet) -> tuple[ModelPatcher, str]:
    """Return a clone of a MODEL that carries the layers, and a text about them.

    Raises:
        ValueError: The network cannot read patches, or the layers are for one of another size.
    """
    _check_network(model)
    for stage in patches.stages.values():
        _check_size(model, patches.name, stage)
    clone = model.clone()
    clone.set_attachments(KEY, (*attached_patches(model), patches))
    sizes = ", ".join(patch_text(cell) for cell in patches.stages)
    return clone, f"'{patches.name}': layers for patches of {sizes} (frames x height x width, in latents)"


def attached_patches(model: ModelPatcher) -> tuple[PatchSet, ...]:
    """Return the sets of layers that nodes attached to a MODEL."""
    return model.get_attachment(KEY) or ()


def patch_stages(model: ModelPatcher) -> dict[Cell, PatchStage]:
    """Return what reads latents in cells, by cell: what nodes attached, or what the MODEL's checkpoint holds."""
    sets = attached_patches(model) or _checkpoint_patches(model)
    return {cell: stage for patches in sets for cell, stage in patches.stages.items()}


_OF_CHECKPOINT: weakref.WeakKeyDictionary[Any, list[PatchSet]] = weakref.WeakKeyDictionary()


def _checkpoint_patches(model: ModelPatcher) -> list[PatchSet]:
    """Return the layers in the files that a MODEL was loaded from, which are read once while the MODEL lives."""
    if model.model not in _OF_CHECKPOINT:
        paths = [Path(path) for path in loaded_from(model) if path.endswith(".safetensors")]
        sets = (read_patches(path, path.name) for path in paths if path.is_file())
        _OF_CHECKPOINT[model.model] = [patches for patches in sets if patches is not None]
    return _OF_CHECKPOINT[model.model]


def check_patches(model: ModelPatcher, spec: PyramidSpec, running: Sequence[int] | None = None) -> None:
    """Check that a MODEL has the layers of the coarse stages of a pyramid of patches.

    Args:
        model: The MODEL.
        spec: The pyramid; nothing is checked for one of latents.
        running: Indices of the stages that run; None for all.

    Raises:
        ValueError: Layers are missing, or the network cannot read patches.
    """
    if spec.coarse == "latents":
        return
    _check_network(model)
    stages = patch_stages(model)
    indices = range(spec.number_of_stages) if running is None else running
    required = [spec.cell(index) for index in indices if spec.cell(index) != WHOLE]
    if missing := [patch_text(cell) for cell in required if cell not in stages]:
        held = f"layers for {', '.join(map(patch_text, stages))} only" if stages else "no layers for larger patches"
        raise ValueError(
            f"the pyramid reads latents in patches of {', '.join(missing)}, but this MODEL has {held}; attach those of a file "
            f"that was trained for it with '{NODE}' or 'Pyramidal Stage LoRA'"
        )


def use_patches(bound: ModelPatcher, stage: Stage) -> None:
    """Let a stage's own clone of a MODEL read latents in the cells of the stage.

    Raises:
        ValueError: The MODEL has no layers for them.
    """
    if stage.cell not in patch_stages(bound):
        raise ValueError(f"this MODEL has no layers for patches of {patch_text(stage.cell)}; attach them with '{NODE}'")
    _read_with([bound], stage)


def share_patches(first: ModelPatcher, second: ModelPatcher, stage: Stage) -> None:
    """Let both MODELs of a guider that has two, bound to a stage, read with their own layers: it calls both as the first."""
    if stage.cell != WHOLE:
        first.remove_wrappers_with_key(WrappersMP.DIFFUSION_MODEL, KEY)
        _read_with([first, second], stage)


def with_shared_patches(options: dict, first: ModelPatcher, second: ModelPatcher, stage: Stage) -> dict:
    """Return the options of a run that has begun, in which both MODELs of its guider read with their own layers."""
    if stage.cell == WHOLE:
        return options
    transformer_options = options["transformer_options"]
    wrappers = transformer_options["wrappers"]
    reading = {**wrappers[WrappersMP.DIFFUSION_MODEL], KEY: [_reader([first, second], stage)]}
    wrappers = {**wrappers, WrappersMP.DIFFUSION_MODEL: reading}
    return {**options, "transformer_options": {**transformer_options, "wrappers": wrappers}}


def _read_with(models: Sequence[ModelPatcher], stage: Stage) -> None:
    models[0].add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, KEY, _reader(models, stage))


def _reader(models: Sequence[ModelPatcher], stage: Stage) -> Callable[..., Tensor]:
    layers_of = layers_by_network(models)

    def read(executor: Any, *args: Any, **kwargs: Any) -> Tensor:
        return layers_of(executor.class_obj)[stage.cell].call(executor, *args, **kwargs)

    return read


def layers_by_network(models: Sequence[ModelPatcher]) -> Callable[[Any], Mapping[Cell, PatchStage]]:
    """Return a function from a network to the layers of its MODEL; to those of the first for a copy on another device."""
    layers = [(model.model.diffusion_model, patch_stages(model)) for model in models]
    return lambda network: next((each for known, each in layers if known is network), layers[0][1])


def check_windows(model_options: dict, stages: Sequence[Stage]) -> None:
    """Check that context windows are made of whole cells.

    Raises:
        ValueError: They are not.
    """
    length = getattr(model_options.get("context_handler"), "context_length", None)
    time = stages[0].cell[0]
    if not isinstance(length, int) or length >= stages[0].shape.frames or (length - 1) % time == 0:
        return
    nearest = 1 + max(1, round((length - 1) / time)) * time
    raise ValueError(
        f"context windows of {length} latent frames are not made of whole patches of {time} frames; set their length to 1 plus "
        f"a multiple of {time} latent frames, such as {nearest} ({video_frames(nearest)} frames of video)"
    )


def _check_network(model: ModelPatcher) -> None:
    network: Any = model.model.diffusion_model
    if type(network) is not comfy.ldm.wan.model.WanModel or getattr(network, "ref_conv", None) is not None:
        kind = "a Wan model with a reference frame" if type(network) is comfy.ldm.wan.model.WanModel else type(network).__name__
        raise ValueError(
            f"patches of several sizes need Wan's text-to-video or image-to-video network; this MODEL's network is {kind}: "
            "use a pyramid of latents, such as training-free"
        )


def _check_size(model: ModelPatcher, name: str, stage: PatchStage) -> None:
    width, inputs = _size(model, EMBEDDING)[:2]
    outputs = _size(model, HEAD)[0] // PATCH**2
    if stage.sizes != (width, inputs, outputs):
        raise ValueError(
            f"'{name}' is for a model of another size: its patches have width {stage.sizes[0]}, {stage.sizes[1]} input and "
            f"{stage.sizes[2]} output channels, this model has width {width}, {inputs} and {outputs}"
        )


def _size(model: ModelPatcher, name: str) -> tuple[int, ...]:
    """Return the size of the weight of a layer of Wan."""
    layer = find_layer(model, name)
    return (layer is not None and weight_size(layer)) or (0, 0)
