"""The log of a run: one JSON line per report, the same numbers for TensorBoard, and a short line on the terminal."""

from __future__ import annotations

import json
from pathlib import Path

LOG = "log.jsonl"


class RunLog:
    """A resumed run drops the lines after the step that it goes on from, so every step is logged once."""

    def __init__(self, run: Path, *, start: int, leads: bool) -> None:
        self.path, self.leads, self.board = run / LOG, leads, None
        if not leads:
            return
        run.mkdir(parents=True, exist_ok=True)
        if self.path.exists():
            lines = self.path.read_text(encoding="utf-8").splitlines()
            kept = [line for line in lines if _step(line) is not None and _step(line) <= start]  # pyright: ignore
            self.path.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")
        from torch.utils.tensorboard import SummaryWriter  # slow to import

        self.board = SummaryWriter(str(run / "tensorboard"), purge_step=start + 1)

    def report(self, step: int, numbers: dict[str, float]) -> None:
        if not self.leads or self.board is None:
            return
        line = json.dumps({"step": step, **{name: float(f"{value:.6g}") for name, value in numbers.items()}})
        with self.path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")
        for name, value in numbers.items():
            self.board.add_scalar(name, value, step)
        self.board.flush()
        print(line, flush=True)

    def close(self) -> None:
        if self.board is not None:
            self.board.close()


def _step(line: str) -> int | None:
    """None for the half line that a kill leaves behind."""
    try:
        return json.loads(line)["step"]
    except (json.JSONDecodeError, KeyError, TypeError):
        return None
