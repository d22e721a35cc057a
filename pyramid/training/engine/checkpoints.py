"""Checkpoints of a run: written atomically; the newest few and the best one are kept."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch.distributed as dist
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from . import atomic

FOLDER = "checkpoints"
NOTES = "notes.json"
BEST = "best.json"


class Checkpoints:
    """``checkpoints/step-<number>``: torch's sharded format, which any number of processes can read back."""

    def __init__(self, run: Path, *, keep: int) -> None:
        """Open the checkpoints in the folder of a run. keep: number of recent checkpoints to keep, besides the best."""
        self.folder, self.keep = run / FOLDER, keep

    def steps(self) -> list[int]:
        """Return the steps of the complete checkpoints, oldest first."""
        complete = (notes.parent.name for notes in self.folder.glob(f"step-*/{NOTES}"))
        return sorted(int(name.removeprefix("step-")) for name in complete if not name.endswith(atomic.SUFFIX))

    def best(self) -> int | None:
        """Return the step with the best validation, or None if there was none."""
        path = self.folder / BEST
        return json.loads(path.read_text(encoding="utf-8"))["step"] if path.is_file() else None

    def path(self, step: int) -> Path:
        """Return the folder of a step's checkpoint."""
        return self.folder / f"step-{step:08d}"

    def save(self, step: int, state: dict, notes: dict, *, is_best: bool = False) -> None:
        """Save a checkpoint, and remove those that are no longer kept. Every process must call it.

        Args:
            step: Number of optimiser steps taken.
            state: Nested dictionaries of tensors.
            notes: Plain values to keep beside them, as JSON.
            is_best: Whether this is the best validation so far.
        """
        path = self.path(step)
        if _is_main():
            atomic.fresh_folder(path)
        _wait()
        save(state, checkpoint_id=atomic.partial_path(path), no_dist=not dist.is_initialized())
        _wait()
        if _is_main():
            (atomic.partial_path(path) / NOTES).write_text(json.dumps(notes), encoding="utf-8")
            atomic.publish_folder(path)
            if is_best:
                atomic.write_text(self.folder / BEST, json.dumps({"step": step}))
            self._remove_old()
        _wait()

    def load(self, step: int, state: dict) -> dict:
        """Load a checkpoint into the tensors of ``state``, in place, and return its notes. Every process must call it."""
        load(state, checkpoint_id=self.path(step), no_dist=not dist.is_initialized())
        return json.loads((self.path(step) / NOTES).read_text(encoding="utf-8"))

    def _remove_old(self) -> None:
        for step in self.steps()[: -self.keep]:
            if step != self.best():
                shutil.rmtree(self.path(step))
        for leftover in self.folder.glob(f"step-*{atomic.SUFFIX}"):
            shutil.rmtree(leftover)


def _is_main() -> bool:
    return not dist.is_initialized() or dist.get_rank() == 0


def _wait() -> None:
    if dist.is_initialized():
        dist.barrier()
