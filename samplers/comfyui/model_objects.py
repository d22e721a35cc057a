"""Fit what other nodes attach to a MODEL to the size of a stage.

Patches and wrappers may be objects that hold tensors of the video's size, such as the motion frames and the speaker masks of
InfiniteTalk. A stage runs with copies of them whose tensors have its size.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import Any

import comfy.model_patcher
import torch
from torch import Tensor, nn
from torch.nn import functional

from ...pyramid.latent_shape import PATCH, LatentShape
from ...pyramid.patches import WHOLE
from ...pyramid.stages import Stage
from .conditioning import LatentDown, coarser_entry, grid_ratio

CACHES = frozenset({"prepared_render"})
"""Attributes that their object computes again for every size (Uni3C)."""

STAY = (nn.Module, comfy.model_patcher.ModelPatcher, FunctionType, BuiltinFunctionType, MethodType, type)
"""Objects that are never copied: networks, and functions, whose tensors cannot be exchanged."""

Objects = dict[str, Any]
"""Options and wrappers of a MODEL, in nested dicts and lists."""

Coarser = Callable[[str, Tensor], Tensor]
"""Returns a tensor for the stage from its name and value."""


def stage_objects(
    objects: Objects, full: LatentShape, downsample_axes: Sequence[str], down: LatentDown | None = None
) -> Objects:
    """Return nested options and wrappers for one stage; the originals stay unchanged.

    Args:
        objects: Options and wrappers at full size. An object that occurs twice is copied once.
        full: Size of the full-resolution latent.
        downsample_axes: Axes of the transitions after the stage, in running order; none for the last stage.
        down: Brings latents to the next coarser size; None averages.
    """
    size = full
    for axes in reversed(downsample_axes):
        size = size.coarser(axes)

    def coarser(key: str, value: Tensor) -> Tensor:
        if _is_token_mask(value, full):
            return _coarser_tokens(value, full, size)
        return coarser_entry(key, value, full, downsample_axes, down)

    return objects if size == full else _fitted("", objects, coarser, {})


def check_objects(objects: Objects, full: LatentShape, stages: Sequence[Stage]) -> None:
    """Check that the objects can follow every stage.

    Raises:
        ValueError: One of them holds frames at the size of the video, and a stage has fewer frames; or one holds what belongs
            to the latent, and a stage reads it in larger patches.
    """
    if stages[0].cell != WHOLE:
        _check_patches(objects, full)
    if stages[0].shape.frames == full.frames:
        return

    def check(key: str, value: Tensor) -> Tensor:
        if value.ndim == 5 and grid_ratio(value, full) is not None:
            raise ValueError(
                f"the MODEL carries '{key}' from another node, which a pyramid cannot resize in time; use a pyramid that "
                "halves height and width only"
            )
        return value

    _fitted("", objects, check, {})


def _check_patches(objects: Objects, full: LatentShape) -> None:
    def check(key: str, value: Tensor) -> Tensor:
        if _is_token_mask(value, full) or (value.ndim == 5 and grid_ratio(value, full) is not None):
            raise ValueError(
                f"the MODEL carries '{key}' from another node, which patches of several sizes cannot read; use a pyramid of "
                "latents, such as training-free"
            )
        return value

    _fitted("", objects, check, {})


def _fitted(key: str, value: Any, coarser: Coarser, copies: dict[int, Any], *, inside: bool = False) -> Any:
    """Return a value with every tensor passed through ``coarser``; the value itself if all tensors stay.

    Args:
        key: Name of the value.
        value: A tensor, a nested container, or an object with tensors among its attributes.
        coarser: Returns the tensor for the stage from its name and value.
        copies: Copies of objects by the id of the original.
        inside: Whether the value belongs to an object; objects inside objects stay.
    """
    if isinstance(value, Tensor):
        return coarser(key, value)
    if type(value) is dict:
        names = {name: name if isinstance(name, str) else key for name in value}
        made = {name: _fitted(names[name], item, coarser, copies, inside=inside) for name, item in value.items()}
        return made if any(made[name] is not item for name, item in value.items()) else value
    if type(value) in (list, tuple):
        items = [_fitted(key, item, coarser, copies, inside=inside) for item in value]
        return type(value)(items) if any(new is not old for new, old in zip(items, value, strict=True)) else value
    if inside or isinstance(value, STAY) or not hasattr(value, "__dict__"):
        return value
    if id(value) not in copies:
        copies[id(value)] = _copied(value, coarser)
    return copies[id(value)]


def _copied(value: Any, coarser: Coarser) -> Any:
    """Return a copy of an object with fitted attributes, or the object itself if they all stay."""
    attributes = {name: held for name, held in vars(value).items() if name not in CACHES}
    fitted = {name: _fitted(name, held, coarser, {}, inside=True) for name, held in attributes.items()}
    changed = {name: held for name, held in fitted.items() if held is not attributes[name]}
    if not changed:
        return value
    made = copy.copy(value)
    vars(made).update(changed)
    return made


def _grid(size: LatentShape) -> tuple[int, int]:
    """Return the rows and columns of a frame's tokens; ComfyUI pads odd sides."""
    return -(-size.height // PATCH), -(-size.width // PATCH)


def _is_token_mask(value: Tensor, size: LatentShape) -> bool:
    """Return whether a value is a boolean mask ``(N, tokens)`` over the tokens of a frame."""
    rows, columns = _grid(size)
    return value.ndim == 2 and value.dtype == torch.bool and value.shape[1] == rows * columns


def _coarser_tokens(mask: Tensor, full: LatentShape, size: LatentShape) -> Tensor:
    """Return a mask ``(N, tokens)`` for the frame of a smaller size; a token is set where any token it covers was."""
    pixels = mask.reshape(-1, 1, *_grid(full)).float()
    return functional.adaptive_max_pool2d(pixels, _grid(size)).flatten(1) > 0
