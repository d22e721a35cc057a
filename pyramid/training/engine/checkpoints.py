"""Checkpoints of a run: written atomically, with checksums; the newest few and the best one are kept."""

from __future__ import annotations

import json
import math
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import torch.distributed as dist
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from ..files import decode, parse_json, read_limited
from . import atomic
from .digests import file_digest
from .errors import SaveError
from .parallel import on_main

FOLDER = "checkpoints"
NOTES = "notes.json"
CHECKSUMS = "checksums.json"
SMALL_SPACE = 2**20
"""Free bytes below which a disk counts as full."""
DAMAGED = ".damaged"
"""Suffix of a damaged checkpoint that was set aside."""
VALIDATION = "validation"
"""The note with a checkpoint's validation loss, from which the best one is derived; None if it was not validated."""


class Checkpoints:
    """``checkpoints/step-<number>``: torch's sharded format, which any number of processes can read back.

    ``checksums.json`` in it holds the SHA-256 of every other file. The best checkpoint is derived from the notes
    of the existing ones, so an interruption cannot leave inconsistent state.
    """

    def __init__(self, run: Path, *, keep: int) -> None:
        """Open the checkpoints in the folder of a run. keep: number of recent checkpoints to keep, besides the best."""
        self.folder, self.keep = run / FOLDER, keep

    def steps(self) -> list[int]:
        """Return the steps of the checkpoints, oldest first.

        A checkpoint gets its name when it is complete, so one that lacks files is damaged and not unfinished.
        """
        names = {path.name for path in self.folder.glob("step-*")}
        steps = (int(name.removeprefix("step-")) for name in names if name.removeprefix("step-").isdecimal())
        return sorted(step for step in steps if self.path(step).name in names)

    def best(self) -> int | None:
        """Return the step with the lowest validation loss, the earliest of several, or None if none was validated."""
        losses = {step: self._validation(step) for step in self.steps()}
        return min((step for step in losses if losses[step] < math.inf), key=lambda step: (losses[step], step), default=None)

    def unreadable(self) -> int | None:
        """Return the newest step whose notes cannot be trusted, so that nobody knows whether it is the best one, or None."""
        return next((step for step in reversed(self.steps()) if self._trusted_notes(step) is None), None)

    def path(self, step: int) -> Path:
        """Return the folder of a step's checkpoint."""
        return self.folder / f"step-{step:08d}"

    def save(self, step: int, state: dict, notes: dict) -> None:
        """Save a checkpoint, and remove those that are no longer kept. Every process must call it.

        Args:
            step: Number of optimiser steps taken.
            state: Nested dictionaries of tensors.
            notes: Plain values to keep beside them, as JSON.

        Raises:
            SaveError: It cannot be written; the other checkpoints are as they were.
        """
        path = self.path(step)
        try:
            on_main(lambda: atomic.fresh_folder(path))
            save(state, checkpoint_id=atomic.partial_path(path), no_dist=not dist.is_initialized())
            on_main(lambda: self._publish(path, notes))
        except (OSError, RuntimeError, CheckpointException) as error:
            space = _space(path.parent)
            if _is_main():
                atomic.remove(atomic.partial_path(path))
            raise SaveError(
                f"the checkpoint of step {step} cannot be written to {self.folder}: {_cause(error)}{space}"
            ) from None

    def _publish(self, path: Path, notes: dict) -> None:
        partial = atomic.partial_path(path)
        (partial / NOTES).write_text(json.dumps(notes), encoding="utf-8")
        digests = {name: file_digest(partial / name) for name in _files(partial)}
        (partial / CHECKSUMS).write_text(json.dumps(digests, indent=1), encoding="utf-8")
        atomic.publish_folder(path)
        self.remove_old()

    def remove_old(self) -> None:
        """Remove the checkpoints that are no longer kept, which a kill right after saving leaves behind.

        One whose notes cannot be trusted stays, because it may be the best one.
        """
        best = self.best()
        for step in self.steps()[: -self.keep]:
            if step != best and self._trusted_notes(step) is not None:
                atomic.remove(self.path(step))

    def damage(self, step: int) -> str | None:
        """Return what is wrong with a checkpoint, or None if its files are as they were written."""
        path = self.path(step)
        try:
            expected = _read_checksums(path)
            if sorted(expected) != _files(path):
                different = sorted(set(expected) ^ set(_files(path)))
                return f"{different[0]} is {'missing' if different[0] in expected else 'not part of it'}"
            changed = [name for name in expected if file_digest(path / name) != expected[name]]
        except FileNotFoundError as error:
            return f"{Path(error.filename).name} is missing"
        except (OSError, ValueError, TypeError) as error:
            return f"{CHECKSUMS} cannot be read ({error})" if not isinstance(error, OSError) else str(error)
        return f"{changed[0]} has changed since it was written" if changed else None

    def newest_intact(self) -> int | None:
        """Return the step of the newest checkpoint whose files are as they were written, and set damaged newer ones aside.

        Only the main process may call it.

        Raises:
            ValueError: There are checkpoints, and all are damaged.
        """
        damages = {}
        for step in reversed(self.steps()):
            if (damage := self.damage(step)) is None:
                self._set_aside(damages, resumed=step)
                return step
            damages[step] = damage
        if damages:
            shown = "; ".join(f"step {step}: {damage}" for step, damage in damages.items())
            raise ValueError(f"all checkpoints in {self.folder} are damaged ({shown}); restore one, or choose another 'out'")
        return None

    def _set_aside(self, damages: dict[int, str], *, resumed: int) -> None:
        for step, damage in damages.items():
            aside = self.path(step).with_name(f"{self.path(step).name}{DAMAGED}")
            atomic.remove(aside)
            os.replace(self.path(step), aside)
            print(
                f"pyramid.training: the checkpoint of step {step} is damaged ({damage}) and was renamed to {aside.name}; "
                f"resuming from step {resumed}",
                file=sys.stderr,
                flush=True,
            )

    def load(self, step: int, state: dict, *, alone: bool = False) -> dict:
        """Load a checkpoint into the tensors of ``state``, in place, and return its notes.

        Args:
            step: Its step.
            state: Nested dictionaries of tensors.
            alone: Whether this process alone loads it; otherwise every process must.

        Raises:
            ValueError: It holds other tensors.
        """
        try:
            load(state, checkpoint_id=self.path(step), no_dist=alone or not dist.is_initialized())
        except (RuntimeError, CheckpointException) as error:
            raise ValueError(f"the checkpoint of step {step} in {self.folder} does not fit this run: {_cause(error)}") from None
        return self._notes(step)

    def _notes(self, step: int) -> dict[str, Any]:
        return parse_json(decode(read_limited(self.path(step) / NOTES)))

    def _validation(self, step: int) -> float:
        """Return a checkpoint's validation loss, or infinity if there is none or it cannot be trusted."""
        value = (self._trusted_notes(step) or {}).get(VALIDATION)
        return math.inf if value is None else value

    def _trusted_notes(self, step: int) -> dict[str, Any] | None:
        """Return the notes of a checkpoint if they are as they were written, else None."""
        path = self.path(step)
        try:
            return self._notes(step) if file_digest(path / NOTES) == _read_checksums(path)[NOTES] else None
        except (OSError, ValueError, TypeError, KeyError):
            return None


def _read_checksums(path: Path) -> dict[str, str]:
    return parse_json(decode(read_limited(path / CHECKSUMS)))


def _files(path: Path) -> list[str]:
    return sorted(file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file() and file.name != CHECKSUMS)


def _cause(error: BaseException) -> str:
    """Return the first line of the error that a process of a distributed save or load met."""
    if isinstance(error, CheckpointException) and error.failures:
        error = next(iter(error.failures.values()))[0]
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


def _space(folder: Path) -> str:
    """Return a remark if the disk is full: torch's writer does not say why it failed."""
    try:
        return " (no space is left on the disk)" if shutil.disk_usage(folder).free < SMALL_SPACE else ""
    except OSError:
        return ""


def _is_main() -> bool:
    return not dist.is_initialized() or dist.get_rank() == 0
