"""Training state that survives an interruption: one file, replaced atomically, and a log with a JSON line per report."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from pyramid.training.engine.atomic import SUFFIX, atomic_file, write_text

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

STATE_FILE = "state.pt"
LOG_FILE = "log.jsonl"
OPTIONS_FILE = "options.json"


@dataclass
class Run:
    """A run folder.

    Attributes:
        folder: Where the options, the state and the log are.
        mirror: Second folder that gets a copy of every saved state, for machines that can disappear.
        save_seconds: Least time between two saved states.
    """

    folder: Path
    mirror: Path | None = None
    save_seconds: float = 180.0
    _saved_at: float = field(default_factory=time.monotonic)

    def open(self, recipe: DataclassInstance) -> dict | None:
        """Create the folder if necessary, and return the saved state, if any.

        Raises:
            ValueError: The folder holds a run of another recipe.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        options, path = json.loads(json.dumps(asdict(recipe))), self.folder / OPTIONS_FILE
        if path.exists() and (before := json.loads(path.read_text())) != options:
            changed = {name: (before.get(name), value) for name, value in options.items() if before.get(name) != value}
            raise ValueError(
                f"{self.folder} holds a run with other options (before, now): {changed}; choose another --out, or restore the "
                "old options"
            )
        write_text(path, json.dumps(options, indent=1))
        state = self.folder / STATE_FILE
        return torch.load(state, map_location="cpu", weights_only=True) if state.exists() else None

    def save(self, state: Callable[[], dict], *, force: bool = False) -> None:
        """Write the state atomically if `save_seconds` have passed, or in any case with `force`."""
        if not force and time.monotonic() - self._saved_at < self.save_seconds:
            return
        self._saved_at = time.monotonic()
        with atomic_file(self.folder / STATE_FILE) as partial:
            torch.save(state(), partial)
        if self.mirror is not None:
            for path in (path for path in self.folder.iterdir() if path.suffix != SUFFIX):
                with atomic_file(self.mirror / path.name) as partial:
                    shutil.copyfile(path, partial)

    def report(self, numbers: dict[str, int | float]) -> None:
        """Append one line to the log and print it."""
        line = json.dumps({name: round(value, 5) if isinstance(value, float) else value for name, value in numbers.items()})
        with open(self.folder / LOG_FILE, "a") as log:
            log.write(line + "\n")
        print(line, flush=True)
