"""The training loop: steps, logs, checkpoints and validation, for any algorithm."""

from __future__ import annotations

import math
import signal
import statistics
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from accelerate import Accelerator

from ..config.settings import Keep
from .checkpoints import VALIDATION, Checkpoints
from .errors import NotFiniteError, SaveError, StoppedError
from .parallel import any_process, mean_over_processes, on_main
from .run_log import RunLog
from .trainable import Trainable

LOSS_WINDOW = 50
"""Number of recent steps whose mean loss a new loss is compared with."""


class Recipe(Protocol):
    """A training algorithm: its networks with their optimisers, and one iteration."""

    @property
    def trainables(self) -> Mapping[str, Trainable]:
        """Return the networks under training by name."""
        ...

    def step(self, parts: Sequence[Any]) -> dict[str, float]:
        """Take one iteration.

        Args:
            parts: The batches of this step, one for each forward pass.

        Returns:
            Numbers to log; "loss" is the one that is watched for explosions.
        """
        ...


class TrainingLoop:
    """One run in one folder; a folder with checkpoints is resumed from the newest one.

    Attributes:
        done: Number of steps taken.
        best: Lowest validation loss so far.
        seconds: Time spent training, over all interruptions.
    """

    def __init__(
        self,
        recipe: Recipe,
        batches: Callable[[int], Iterator[Sequence[Any]]],
        accelerator: Accelerator,
        folder: Path,
        keep: Keep,
        *,
        steps: int,
        validate: Callable[[int], dict[str, float]],
        validate_every: int,
    ) -> None:
        """Load the newest intact checkpoint, if there is one.

        Args:
            recipe: The algorithm.
            batches: Returns an iterator over the batches of every step, from a given step to the last one.
            accelerator: The group of processes.
            folder: Folder of the run.
            keep: Intervals of checkpoints and logs.
            steps: Length of the run.
            validate: Called with the step; returns numbers to log. The checkpoint with the lowest "validation" is the best.
            validate_every: Steps between validations.
        """
        self.recipe, self.batches, self.accelerator, self.keep = recipe, batches, accelerator, keep
        self.steps, self.validate, self.validate_every = steps, validate, validate_every
        self.checkpoints = Checkpoints(folder, keep=keep.checkpoints)
        self.done, self.best, self.seconds = 0, float("inf"), 0.0
        self.losses: deque[float] = deque(maxlen=LOSS_WINDOW)
        self._resume()
        self.log = RunLog(folder, start=self.done, is_main=accelerator.is_main_process)

    def run(self) -> None:
        """Train to the last step.

        Raises:
            StoppedError: A signal was received, the loss is not finite or exploded, or a checkpoint cannot be written.
        """
        pending: dict[str, list[float]] = {}
        began = time.monotonic()
        with _signals() as received:
            for parts in self.batches(self.done):
                numbers = self._step(parts)
                for name, value in numbers.items():
                    pending.setdefault(name, []).append(value)
                if self.done % self.keep.log_every == 0 or self.done == self.steps:
                    self._report(pending, began)
                validation = self._validate()
                improved = validation is not None and validation < self.best
                self.best = validation if validation is not None and improved else self.best
                stop = any_process(bool(received), self.accelerator)
                if improved or stop or self.done % self.keep.save_every == 0 or self.done == self.steps:
                    self.save(validation)
                if stop:
                    raise StoppedError(f"stopped by a signal after saving step {self.done}; the same command resumes from it")
        self.log.close()

    def _step(self, parts: Sequence[Any]) -> dict[str, float]:
        try:
            numbers = self.recipe.step(parts)
        except NotFiniteError as error:
            raise StoppedError(f"{error}; {self._advice()}") from None
        numbers = mean_over_processes(numbers, self.accelerator)
        if not math.isfinite(numbers["loss"]):
            raise StoppedError(f"the loss is not finite in step {self.done + 1}; {self._advice()}")
        mean = statistics.fmean(self.losses) if len(self.losses) == LOSS_WINDOW else None
        if mean is not None and numbers["loss"] > self.keep.explode * mean:
            raise StoppedError(
                f"the loss exploded in step {self.done + 1}: {numbers['loss']:.4g} after a mean of {mean:.4g}; {self._advice()}"
            )
        self.losses.append(numbers["loss"])
        self.done += 1
        return numbers

    def _advice(self) -> str:
        return f"{self._intact()}. Try a smaller learning_rate, a longer warm_up or system.precision 'fp32'"

    def _intact(self) -> str:
        """Say which checkpoint is intact: its files are as they were written, and only finite weights are written."""
        intact = [step for step in self.checkpoints.steps() if self.checkpoints.damage(step) is None]
        return f"the checkpoint of step {intact[-1]} is intact" if intact else "there is no checkpoint yet"

    def _report(self, pending: dict[str, list[float]], began: float) -> None:
        self.seconds += time.monotonic() - began - self._counted
        self._counted = time.monotonic() - began
        means = {name: statistics.fmean(values) for name, values in pending.items()}
        self.log.report(self.done, {**means, "seconds": self.seconds})
        pending.clear()

    def _validate(self) -> float | None:
        """Validate if this step is due; return the validation loss, or None if there is none or it is not finite."""
        if self.done % self.validate_every and self.done != self.steps:
            return None
        numbers = mean_over_processes(self.validate(self.done), self.accelerator)
        self.log.report(self.done, numbers)
        value = numbers.get("validation", math.nan)
        return value if math.isfinite(value) else None

    def save(self, validation: float | None = None) -> None:
        """Save a checkpoint.

        Args:
            validation: Loss of this step's validation, if there was one.

        Raises:
            StoppedError: Weights, averages or optimiser are not finite, or the checkpoint cannot be written.
        """
        if broken := self._broken():
            raise StoppedError(f"{broken} of step {self.done} are not finite and were not saved; {self._advice()}")
        notes = {VALIDATION: validation, "best": self.best, "seconds": self.seconds, "losses": list(self.losses)}
        try:
            self.checkpoints.save(self.done, self._state(), notes)
        except SaveError as error:
            raise StoppedError(f"{error}; {self._intact()}, and the same command resumes from it") from None

    def _broken(self) -> str | None:
        """Return which state is not finite in any process, such as "the weights of the student", or None."""
        for name, trainable in self.recipe.trainables.items():
            for kind, finite in trainable.finite().items():
                if any_process(not finite, self.accelerator):
                    return f"{kind} of {name}"
        return None

    def _state(self) -> dict:
        return {name: trainable.state() for name, trainable in self.recipe.trainables.items()}

    def _resume(self) -> None:
        self._counted = 0.0
        step = on_main(self.checkpoints.newest_intact)
        if step is None:
            return
        state = self._state()
        notes = self.checkpoints.load(step, state)
        on_main(self.checkpoints.remove_old)
        for name, trainable in self.recipe.trainables.items():
            trainable.restore(state[name])
        self.done, self.best, self.seconds = step, notes["best"], notes["seconds"]
        self.losses.extend(notes["losses"])


@contextmanager
def _signals() -> Iterator[list[int]]:
    """Yield a list that SIGTERM and SIGINT are appended to; a second SIGINT interrupts at once."""
    received: list[int] = []

    def handle(number: int, frame: Any) -> None:
        if number == signal.SIGINT and received:
            raise KeyboardInterrupt
        received.append(number)

    previous = {number: signal.signal(number, handle) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
