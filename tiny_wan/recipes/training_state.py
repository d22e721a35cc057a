"""Training state that survives an interruption: one file, replaced in one go, and a log of one JSON line per report."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

STATE_FILE = "state.pt"
LOG_FILE = "log.jsonl"
OPTIONS_FILE = "options.json"


@dataclass
class Run:
    """A run folder. `mirror` is a second folder that gets a copy of every saved state (for machines that come and go)."""

    folder: Path
    mirror: Path | None = None
    save_seconds: float = 180.0
    _saved_at: float = field(default_factory=time.monotonic)

    def open(self, recipe) -> dict | None:
        """Make the folder, check that the recipe is the one the folder was made for, and return the saved state, if any."""
        self.folder.mkdir(parents=True, exist_ok=True)
        options, path = json.loads(json.dumps(asdict(recipe))), self.folder / OPTIONS_FILE
        if path.exists() and (before := json.loads(path.read_text())) != options:
            changed = {name: (before.get(name), value) for name, value in options.items() if before.get(name) != value}
            raise ValueError(
                f"{self.folder} holds a run with other options (before, now): {changed}; choose another --out, or those options"
            )
        path.write_text(json.dumps(options, indent=1))
        state = self.folder / STATE_FILE
        return torch.load(state, map_location="cpu", weights_only=True) if state.exists() else None

    def save(self, state: Callable[[], dict], *, force: bool = False) -> None:
        """Write the state if `save_seconds` have passed. A crash leaves the old file or the new one, never half of one."""
        if not force and time.monotonic() - self._saved_at < self.save_seconds:
            return
        self._saved_at = time.monotonic()
        partial = self.folder / (STATE_FILE + ".partial")
        torch.save(state(), partial)
        os.replace(partial, self.folder / STATE_FILE)
        if self.mirror is not None:
            self.mirror.mkdir(parents=True, exist_ok=True)
            for path in (path for path in self.folder.iterdir() if path.suffix != ".partial"):
                shutil.copyfile(path, self.mirror / (path.name + ".partial"))
                os.replace(self.mirror / (path.name + ".partial"), self.mirror / path.name)

    def report(self, **numbers) -> None:
        """Append one line to the log and print it."""
        line = json.dumps({name: round(value, 5) if isinstance(value, float) else value for name, value in numbers.items()})
        with open(self.folder / LOG_FILE, "a") as log:
            log.write(line + "\n")
        print(line, flush=True)


class Average:
    """An exponential moving average of a module's parameters, in float32, with a warm-up so that early steps are forgotten."""

    def __init__(self, module: nn.Module, *, decay: float):
        self.decay = decay
        self.values = {name: value.detach().clone() for name, value in module.named_parameters()}

    @torch.no_grad()
    def update(self, module: nn.Module, step: int) -> None:
        decay = min(self.decay, (1 + step) / (10 + step))
        names, values = zip(*module.named_parameters(), strict=True)
        torch._foreach_lerp_([self.values[name] for name in names], list(values), 1.0 - decay)

    def load(self, values: dict[str, Tensor]) -> None:
        for name, value in values.items():
            self.values[name].copy_(value)
