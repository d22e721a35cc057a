"""The log of a run: one JSON line per report, in a file and on the terminal, and the same numbers for TensorBoard."""

from __future__ import annotations

import json
from pathlib import Path

from . import atomic

LOG = "log.jsonl"
BOARD = "tensorboard"


class RunLog:
    """``log.jsonl`` and ``tensorboard/`` in the folder of a run."""

    def __init__(self, run: Path, *, start: int, is_main: bool) -> None:
        """Open the log, and remove what an interrupted run logged after step ``start``, so that every step is logged once.

        Args:
            run: Folder of the run.
            start: Step that the run resumes from.
            is_main: Whether this process writes; the others do nothing.
        """
        self.path, self.board = run / LOG, None
        if not is_main:
            return
        run.mkdir(parents=True, exist_ok=True)
        atomic.check_target(self.path)
        if self.path.exists():
            lines = self.path.read_text(encoding="utf-8", errors="replace").split("\n")
            kept = [line for line in lines if (step := _step(line)) is not None and step <= start]
            atomic.write_text(self.path, "".join(f"{line}\n" for line in kept))
        from torch.utils.tensorboard import SummaryWriter  # slow to import

        self.board = SummaryWriter(str(run / BOARD), purge_step=start + 1)

    def report(self, step: int, numbers: dict[str, float]) -> None:
        """Log numbers of a step, with six significant digits."""
        if self.board is None:
            return
        line = json.dumps({"step": step, **{name: float(f"{value:.6g}") for name, value in numbers.items()}})
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(line + "\n")
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self.path)) from None
        for name, value in numbers.items():
            self.board.add_scalar(name, value, step)
        self.board.flush()
        print(line, flush=True)

    def close(self) -> None:
        """Close TensorBoard's file."""
        if self.board is not None:
            self.board.close()


def _step(line: str) -> int | None:
    """Return the step of a line, or None if it is incomplete after an interruption or not a line of a log."""
    try:
        step = json.loads(line)["step"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return step if type(step) is int else None
