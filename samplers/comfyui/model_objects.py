"""Fit what other nodes attach to a MODEL to the size of a stage.

Patches and wrappers may be objects that hold tensors of the video's size, such as the motion frames and the speaker masks of
InfiniteTalk. A stage runs with copies of them whose tensors have its size. A function is copied with the variables that it
captured, if one is such a tensor, or if the function assigns one: what it remembers from step to step, such as the running
average of ComfyUI's APG, may have the size of the stage (see ``step_memory``).
"""

from __future__ import annotations

import copy
import dis
import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from types import BuiltinFunctionType, CellType, CodeType, FunctionType, MethodType
from typing import Any

import comfy.model_patcher
import torch
from torch import Tensor, nn
from torch.nn import functional

from ...pyramid.latent_shape import PATCH, LatentShape
from ...pyramid.patches import WHOLE
from ...pyramid.stages import Stage
from .conditioning import LatentDown, coarser_entry, follows_time, frames_of, grid_ratio
from .step_memory import PACK, Cells

CACHES = frozenset({"prepared_render"})
"""Attributes that their object computes again for every size (Uni3C)."""

STAY = (nn.Module, comfy.model_patcher.ModelPatcher, BuiltinFunctionType, MethodType, type)
"""Objects that are never copied."""

Objects = dict[str, Any]
"""Options and wrappers of a MODEL, in nested dicts and lists."""

Coarser = Callable[[str, Tensor], Tensor]
"""Returns a tensor for the stage from its name and value."""


def stage_objects(
    objects: Objects, full: LatentShape, downsample_axes: Sequence[str], down: LatentDown | None = None
) -> tuple[Objects, list[Cells]]:
    """Return nested options and wrappers for one stage, and the variables that functions assign; originals stay unchanged.

    Args:
        objects: Options and wrappers at full size. An object that occurs twice is copied once.
        full: Size of the full-resolution latent.
        downsample_axes: Axes of the transitions after the stage, in running order; none for the last stage.
        down: Brings latents to the next coarser size; None averages.

    Returns:
        The objects, and the captured variables that functions assign, by function, each with the copy for the stage.
    """
    size = full
    for axes in reversed(downsample_axes):
        size = size.coarser(axes)

    def coarser(key: str, value: Tensor) -> Tensor:
        if size == full:
            return value
        if _is_token_mask(value, full):
            return _coarser_tokens(value, full, size)
        return coarser_entry(key, value, full, downsample_axes, down)

    fitting = _Fitting(coarser, _remembered(objects))
    return fitting.fit("", objects), fitting.assigned


def check_objects(objects: Objects, full: LatentShape, stages: Sequence[Stage]) -> None:
    """Check that the objects can follow every stage.

    Raises:
        ValueError: One of them holds frames of the video in a way that is not known, and a stage has fewer frames; or one holds
            what belongs to the latent, and a stage reads it in larger patches.
    """
    if stages[0].cell != WHOLE:
        _check_patches(objects, full)
    if stages[0].shape.frames == full.frames:
        return

    def check(key: str, value: Tensor) -> Tensor:
        covers = value.ndim == 5 and grid_ratio(value, full) is not None
        if not follows_time(key, value) and (covers or (value.ndim > 2 and frames_of(value, full))):
            raise ValueError(
                f"the MODEL carries '{key}' from another node, which a pyramid cannot resize in time; use a pyramid that "
                "halves height and width only"
            )
        return value

    _Fitting(check, _remembered(objects)).fit("", objects)


def _check_patches(objects: Objects, full: LatentShape) -> None:
    def check(key: str, value: Tensor) -> Tensor:
        if _is_token_mask(value, full) or (value.ndim == 5 and grid_ratio(value, full) is not None):
            raise ValueError(
                f"the MODEL carries '{key}' from another node, which patches of several sizes cannot read; use a pyramid of "
                "latents, such as training-free"
            )
        return value

    _Fitting(check, _remembered(objects)).fit("", objects)


@dataclass
class _Fitting:
    """Pass every tensor of nested objects through a function.

    Attributes:
        coarser: Returns the tensor for the stage from its name and value.
        remembered: Ids of captured variables that functions assign: each is copied, with what it holds.
        copies: Copies of objects and captured variables by the id of the original.
        assigned: The captured variables that functions assign, by function, each with its copy.
    """

    coarser: Coarser
    remembered: frozenset[int] = frozenset()
    copies: dict[int, Any] = field(default_factory=dict)
    assigned: list[Cells] = field(default_factory=list)

    def fit(self, key: str, value: Any, *, inside: bool = False) -> Any:
        """Return a value with fitted tensors, or the value itself if nothing changes.

        Args:
            key: Name of the value.
            value: A tensor, a nested container, a function, or an object with tensors among its attributes.
            inside: Whether the value belongs to an object; objects and functions inside objects stay.
        """
        if isinstance(value, Tensor):
            return self.coarser(key, value)
        if type(value) is dict:
            names = {name: name if isinstance(name, str) else key for name in value}
            made = {name: self.fit(names[name], item, inside=inside) for name, item in value.items()}
            return made if any(made[name] is not item for name, item in value.items()) else value
        if type(value) in (list, tuple):
            items = [self.fit(key, item, inside=inside) for item in value]
            return type(value)(items) if any(new is not old for new, old in zip(items, value, strict=True)) else value
        if inside or isinstance(value, STAY) or not hasattr(value, "__dict__"):
            return value
        if id(value) not in self.copies:
            self.copies[id(value)] = value  # for a function that captured itself
            self.copies[id(value)] = self._function(value) if isinstance(value, FunctionType) else self._object(value)
        return self.copies[id(value)]

    def _object(self, value: Any) -> Any:
        attributes = {name: held for name, held in vars(value).items() if name not in CACHES}
        fitted = {name: self.fit(name, held, inside=True) for name, held in attributes.items()}
        changed = {name: held for name, held in fitted.items() if held is not attributes[name]}
        if not changed:
            return value
        made = copy.copy(value)
        vars(made).update(changed)
        return made

    def _function(self, value: FunctionType) -> FunctionType:
        captured = _captured(value)
        cells = tuple(self._variable(name, cell) for name, cell in captured)
        if all(new is old for new, (_, old) in zip(cells, captured, strict=True)):
            return value
        self.assigned.append([(old, new) for new, (_, old) in zip(cells, captured, strict=True) if id(old) in self.remembered])
        made = FunctionType(value.__code__, value.__globals__, value.__name__, value.__defaults__, cells)
        made.__kwdefaults__ = value.__kwdefaults__
        vars(made).update(vars(value))
        return made

    def _variable(self, name: str, cell: CellType) -> CellType:
        """Return a captured variable for the stage; functions that shared it share the copy."""
        if id(cell) not in self.copies:
            try:
                held = cell.cell_contents
            except ValueError:  # not assigned yet
                self.copies[id(cell)] = CellType() if id(cell) in self.remembered else cell
            else:
                self.copies[id(cell)] = self._holding(name, cell, held)
        return self.copies[id(cell)]

    def _holding(self, name: str, cell: CellType, held: Any) -> CellType:
        if id(cell) in self.remembered:
            return CellType(held)
        fitted = self.fit(name, held) if isinstance(held, (Tensor, FunctionType)) else held
        return cell if fitted is held else CellType(fitted)


def _captured(function: FunctionType) -> list[tuple[str, CellType]]:
    """Return the variables that a function of another pack captured, with their names."""
    if function.__module__ and function.__module__.startswith(PACK):
        return []
    return list(zip(function.__code__.co_freevars, function.__closure__ or (), strict=True))


def _remembered(objects: Any) -> frozenset[int]:
    """Return the ids of the captured variables that functions among nested objects assign."""
    return frozenset(
        id(cell)
        for function in _functions(objects, set())
        for name, cell in _captured(function)
        if name in _assigned(function.__code__)
    )


def _functions(value: Any, seen: set[int]) -> Iterator[FunctionType]:
    """Yield the functions among nested objects, and those that they captured."""
    if isinstance(value, (dict, list, tuple)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _functions(item, seen)
    elif isinstance(value, FunctionType) and id(value) not in seen:
        seen.add(id(value))
        yield value
        for _, cell in _captured(value):
            with suppress(ValueError):  # not assigned yet
                if isinstance(cell.cell_contents, FunctionType):
                    yield from _functions(cell.cell_contents, seen)


@functools.cache
def _assigned(code: CodeType) -> frozenset[str]:
    """Return the captured variables that code, or a function inside it, assigns."""
    names = {step.argval for step in dis.get_instructions(code) if step.opname in ("STORE_DEREF", "DELETE_DEREF")}
    inner = (_assigned(constant) for constant in code.co_consts if isinstance(constant, CodeType))
    return frozenset(names.union(*inner) & set(code.co_freevars))


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
