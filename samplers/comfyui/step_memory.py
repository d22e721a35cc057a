"""Keep what other nodes remember from step to step usable when a run changes its resolution.

Functions and objects that other nodes attach to a MODEL may remember something: the number of steps so far, a running average,
the features of the last step. A number means the same in the next stage; a tensor of the last stage's size may not fit there.
If the first step of a stage fails, whatever holds such a tensor is reset to what it was before. Everything else is kept.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from types import CellType, FunctionType, MethodType, ModuleType
from typing import Any

from comfy.model_patcher import ModelPatcher
from torch import Tensor, nn

from ...pyramid.latent_shape import PATCH, LatentShape
from ...pyramid.stages import Stage
from .conditioning import grid_ratio

DEPTH = 8
"""Levels of nesting that are searched."""

MAX_HOLDERS = 10_000
"""Containers and functions that are searched."""

PACK = f"{__name__.rpartition('.samplers.')[0]}."
"""Prefix of this pack's module names; its functions know their stage."""

STAY = (nn.Module, ModelPatcher, ModuleType, type, str, bytes, int, float)
"""Objects that are not searched."""

Cells = list[tuple[CellType, CellType]]
"""Captured variables of one function, each with the copy that the function of the stage has."""


Slots = dict[int, tuple[Any, dict, set]]
"""Containers by id, each with its entries at the start of a stage and the names of some entries."""


@dataclass
class StepMemory:
    """Hold what other nodes remember during one run.

    Attributes:
        of_a_stage: Entries that hold a tensor of the size of a stage that ran.
        forgotten: Entries that were reset, because a stage could not start with them.
    """

    of_a_stage: Slots = field(default_factory=dict)
    forgotten: Slots = field(default_factory=dict)

    @contextmanager
    def during_stage(
        self, objects: Any, networks: Sequence[nn.Module], stage: Stage, copied: Sequence[Cells]
    ) -> Iterator[None]:
        """Run a stage; after it, note what holds tensors of its size, unless that is the size of the video.

        Args:
            objects: Options and wrappers of the stage's models, in nested dicts and lists.
            networks: Their networks.
            stage: The stage.
            copied: Captured variables that functions of the stage assign, by function.
        """
        before = {id(holder): (holder, entries) for holder, entries in _holders(objects, networks)} if stage.level else {}
        try:
            yield
        finally:
            _keep_variables(copied, stage.shape)
            for holder, entries in before.values():
                if names := _changed(holder, entries, stage.shape):
                    self.of_a_stage.setdefault(id(holder), (holder, entries, set()))[2].update(names)

    def forget(self) -> bool:
        """Reset what holds a tensor of the size of a stage that ran. Return whether there was anything to reset."""
        noted, self.of_a_stage = self.of_a_stage, {}
        for key, (holder, entries, names) in noted.items():
            _restore(holder, entries, names)
            self.forgotten.setdefault(key, (holder, entries, set()))[2].update(names)
        return bool(noted)

    def end_run(self) -> None:
        """Reset once more what a stage could not start with, so that the next run starts like this one."""
        for holder, entries, names in self.forgotten.values():
            _restore(holder, entries, names)


def _keep_variables(copied: Sequence[Cells], size: LatentShape) -> None:
    """Keep the captured variables that functions of a stage assigned, except those of a function with tensors of its size."""
    sized = [cells for cells in copied if any(_holds(_content(copy), size) for _, copy in cells)]
    stay = {id(original) for cells in sized for original, _ in cells}
    for original, copy in (pair for cells in copied for pair in cells):
        if id(original) not in stay:
            with suppress(ValueError):  # not assigned yet
                original.cell_contents = copy.cell_contents


def _content(cell: CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not assigned yet
        return None


def _holders(objects: Any, networks: Sequence[nn.Module]) -> Iterator[tuple[Any, dict]]:
    """Yield whatever can remember, with its entries by name: dicts, lists and objects, and the networks themselves."""
    seen: set[int] = set()
    yield from _inside(objects, seen, DEPTH)
    for network in networks:
        attributes = _entries(network) or {}
        yield network, attributes
        for value in attributes.values():
            yield from _inside(value, seen, DEPTH - 1)


def _inside(value: Any, seen: set[int], depth: int) -> Iterator[tuple[Any, dict]]:
    """Yield the dicts, lists and objects among nested values, and those that functions among them captured."""
    if depth == 0 or id(value) in seen or len(seen) > MAX_HOLDERS or isinstance(value, (Tensor, *STAY)):
        return
    if _is_ours(value):
        return
    seen.add(id(value))
    entries = _entries(value)
    if entries is not None and not isinstance(value, tuple):
        yield value, entries
    for item in (*(entries or {}).values(), *_captured_by(value)):
        yield from _inside(item, seen, depth - 1)


def _is_ours(value: Any) -> bool:
    """Return whether a value is a function or an object of this pack."""
    module = value.__module__ if isinstance(value, FunctionType) else type(value).__module__
    return bool(module) and module.startswith(PACK)


def _captured_by(value: Any) -> tuple[Any, ...]:
    """Return what a function or a method carries besides its attributes."""
    if isinstance(value, FunctionType):
        return (*map(_content, value.__closure__ or ()), *(value.__defaults__ or ()))
    if isinstance(value, MethodType):
        return (value.__self__, value.__func__)
    if isinstance(value, partial):
        return (value.func, *value.args, *value.keywords.values())
    return ()


def _entries(value: Any) -> dict | None:
    """Return the entries of a container by name or position, the attributes of an object, or None.

    Attributes of a network that start with "_" are PyTorch's and ComfyUI's own.
    """
    if isinstance(value, nn.Module):
        return {name: held for name, held in vars(value).items() if not name.startswith("_")}
    if isinstance(value, dict):
        return dict(value)
    if isinstance(value, (list, tuple, deque)):
        return dict(enumerate(value))
    return dict(vars(value)) if hasattr(value, "__dict__") else None


def _changed(holder: Any, before: dict, size: LatentShape) -> set:
    """Return the names of a container's entries that changed and hold a tensor of a stage's size now."""
    now = _entries(holder) or {}
    return {name for name, value in now.items() if value is not before.get(name) and _holds(value, size)}


def _restore(holder: Any, before: dict, names: set) -> None:
    """Give entries of a container the values that they had before; remove those that were not there."""
    if isinstance(holder, (list, deque)):
        items = enumerate(list(holder))
        kept = [before[index] if index in names else item for index, item in items if index not in names or index in before]
        holder.clear()
        holder.extend(kept)
        return
    entries = holder if isinstance(holder, dict) else vars(holder)
    for name in names:
        if name in before:
            entries[name] = before[name]
        else:
            entries.pop(name, None)


def _holds(value: Any, size: LatentShape, depth: int = 4) -> bool:
    """Return whether a value is, or holds, a tensor of the size of a stage: its latent, its pixels or its tokens."""
    if isinstance(value, Tensor):
        return _is_of_size(value, size)
    if depth == 0 or isinstance(value, (*STAY, FunctionType, MethodType)):
        return False
    return any(_holds(item, size, depth - 1) for item in (_entries(value) or {}).values())


def _is_of_size(value: Tensor, size: LatentShape) -> bool:
    rows, columns = (-(-side // PATCH) for side in size[1:])
    tokens = {rows * columns, rows * columns * size.frames}
    return value.ndim >= 2 and (grid_ratio(value, size) is not None or any(side in tokens for side in value.shape[1:]))
