"""The training loop: batches in, steps, logs, checkpoints, validation. It knows no algorithm."""

from __future__ import annotations

import signal
import statistics
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from accelerate import Accelerator
from torch.utils.data import Dataset

from ..config.settings import Keep
from ..data.batches import steps_from
from .checkpoints import Checkpoints
from .parallel import any_process, mean_over_processes
from .run_log import RunLog
from .trainable import NotFiniteError, Trainable

REMEMBERED = 50
"""Steps whose losses a new one is compared with."""


class Recipe(Protocol):
    """A way to train: its networks with their optimisers, and one step of all of them."""

    @property
    def trainables(self) -> Mapping[str, Trainable]: ...

    def step(self, parts: Sequence[Any]) -> dict[str, float]:
        """One iteration; returns what to log, with the value to watch under "loss"."""
        ...


class StoppedError(RuntimeError):
    """Training ended before its last step; the message says why and what is there."""


class TrainingLoop:
    """One run in one folder. The same folder again goes on at its newest checkpoint.

    validate: called with the step, returns numbers to log; the checkpoint with the smallest "validation" is the best.
    """

    def __init__(
        self,
        recipe: Recipe,
        dataset: Dataset,
        accelerator: Accelerator,
        folder: Path,
        keep: Keep,
        *,
        steps: int,
        workers: int,
        validate: Callable[[int], dict[str, float]],
        validate_every: int,
    ) -> None:
        self.recipe, self.dataset, self.accelerator, self.keep = recipe, dataset, accelerator, keep
        self.steps, self.workers, self.validate, self.validate_every = steps, workers, validate, validate_every
        self.checkpoints = Checkpoints(folder, keep=keep.checkpoints)
        self.done, self.best, self.seconds = 0, float("inf"), 0.0
        self.losses: deque[float] = deque(maxlen=REMEMBERED)
        self._resume()
        self.log = RunLog(folder, start=self.done, leads=accelerator.is_main_process)

    def run(self) -> None:
        """To the last step. Raises ``Stopped`` on a signal or a loss that is not a number or explodes."""
        pending: dict[str, list[float]] = {}
        began = time.monotonic()
        with _signals() as wanted_stop:
            for parts in steps_from(self.dataset, self.done, self.steps, workers=self.workers):
                numbers = self._step(parts)
                for name, value in numbers.items():
                    pending.setdefault(name, []).append(value)
                if self.done % self.keep.log_every == 0 or self.done == self.steps:
                    self._report(pending, began)
                improved = self._validate()
                stop = any_process(bool(wanted_stop), self.accelerator)
                if improved or stop or self.done % self.keep.save_every == 0 or self.done == self.steps:
                    self.save(is_best=improved)
                if stop:
                    raise StoppedError(f"stopped by a signal; step {self.done} is saved, the same command goes on from it")
        self.log.close()

    def _step(self, parts: Sequence[Any]) -> dict[str, float]:
        try:
            numbers = self.recipe.step(parts)
        except NotFiniteError as error:
            raise StoppedError(f"{error}; {self._advice()}") from None
        numbers = mean_over_processes(numbers, self.accelerator)
        usual = statistics.fmean(self.losses) if len(self.losses) == REMEMBERED else None
        if usual is not None and numbers["loss"] > self.keep.explode * usual:
            raise StoppedError(
                f"the loss exploded in step {self.done + 1}: {numbers['loss']:.4g} where it was {usual:.4g}; {self._advice()}"
            )
        self.losses.append(numbers["loss"])
        self.done += 1
        return numbers

    def _advice(self) -> str:
        there = self.checkpoints.steps()
        kept = f"the checkpoint of step {there[-1]} is unharmed" if there else "there is no checkpoint yet"
        return f"{kept}. A smaller learning_rate, a longer warm_up or precision 'fp32' are what usually helps"

    def _report(self, pending: dict[str, list[float]], began: float) -> None:
        self.seconds += time.monotonic() - began - self._counted
        self._counted = time.monotonic() - began
        means = {name: statistics.fmean(values) for name, values in pending.items()}
        self.log.report(self.done, {**means, "seconds": self.seconds})
        pending.clear()

    def _validate(self) -> bool:
        """True if this step is the best so far."""
        if self.done % self.validate_every and self.done != self.steps:
            return False
        numbers = mean_over_processes(self.validate(self.done), self.accelerator)
        self.log.report(self.done, numbers)
        if numbers.get("validation", float("inf")) >= self.best:
            return False
        self.best = numbers["validation"]
        return True

    def save(self, *, is_best: bool = False) -> None:
        notes = {"best": self.best, "seconds": self.seconds, "losses": list(self.losses)}
        self.checkpoints.save(self.done, self._state(), notes, is_best=is_best)

    def _state(self) -> dict:
        return {name: trainable.state() for name, trainable in self.recipe.trainables.items()}

    def _resume(self) -> None:
        self._counted = 0.0
        if not (there := self.checkpoints.steps()):
            return
        state = self._state()
        notes = self.checkpoints.load(there[-1], state)
        for name, trainable in self.recipe.trainables.items():
            trainable.restore(state[name])
        self.done, self.best, self.seconds = there[-1], notes["best"], notes["seconds"]
        self.losses.extend(notes["losses"])


@contextmanager
def _signals() -> Iterator[list[int]]:
    """A list that SIGTERM and SIGINT append to; a second SIGINT interrupts at once."""
    seen: list[int] = []

    def note(number: int, frame: Any) -> None:
        if number == signal.SIGINT and seen:
            raise KeyboardInterrupt
        seen.append(number)

    before = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield seen
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
