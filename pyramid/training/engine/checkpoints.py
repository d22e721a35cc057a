"""Checkpoints of a run: complete or not there, the newest few and the best one."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import torch.distributed as dist
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

FOLDER = "checkpoints"
NOTES = "notes.json"
BEST = "best.json"


class Checkpoints:
    """``checkpoints/step-<number>``, sharded files of torch's own format that any number of processes reads back."""

    def __init__(self, run: Path, *, keep: int) -> None:
        self.folder, self.keep = run / FOLDER, keep

    def steps(self) -> list[int]:
        """Steps of the complete checkpoints, oldest first."""
        return sorted(int(path.name.removeprefix("step-")) for path in self.folder.glob("step-*") if (path / NOTES).is_file())

    def best(self) -> int | None:
        path = self.folder / BEST
        return json.loads(path.read_text())["step"] if path.is_file() else None

    def path(self, step: int) -> Path:
        return self.folder / f"step-{step:08d}"

    def save(self, step: int, state: dict, notes: dict, *, is_best: bool = False) -> None:
        """Called by all processes. notes: plain values, kept beside the tensors."""
        partial = self.folder / f"partial-{step:08d}"
        if _leads():
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
        _wait()
        save(state, checkpoint_id=partial, no_dist=not dist.is_initialized())
        _wait()
        if _leads():
            (partial / NOTES).write_text(json.dumps(notes))
            shutil.rmtree(self.path(step), ignore_errors=True)
            partial.rename(self.path(step))
            if is_best:
                self._mark(step)
            self._remove_old()
        _wait()

    def load(self, step: int, state: dict) -> dict:
        """Fills the tensors of ``state`` in place; returns the notes."""
        load(state, checkpoint_id=self.path(step), no_dist=not dist.is_initialized())
        return json.loads((self.path(step) / NOTES).read_text())

    def _mark(self, step: int) -> None:
        partial = self.folder / f"{BEST}.partial"
        partial.write_text(json.dumps({"step": step}))
        os.replace(partial, self.folder / BEST)

    def _remove_old(self) -> None:
        for step in self.steps()[: -self.keep]:
            if step != self.best():
                shutil.rmtree(self.path(step))
        for leftover in self.folder.glob("partial-*"):
            shutil.rmtree(leftover)


def _leads() -> bool:
    return not dist.is_initialized() or dist.get_rank() == 0


def _wait() -> None:
    if dist.is_initialized():
        dist.barrier()
