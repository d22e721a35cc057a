"""Seconds per step of each stage, and the seconds that are left."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from .run_report import PlannedStage


class StepClock:
    """Times of the steps of a run.

    The first step of the run is not timed where others are, because it includes loading the model. A stage that has not been
    timed yet costs as much per operation as the last one that was, unless its time is known from an earlier run.

    Attributes:
        seconds: Seconds of each timed step by stage index.
    """

    def __init__(self, stages: Sequence[PlannedStage], known: Callable[[PlannedStage], float | None] | None = None):
        """Take the stages that run, and a function that returns the known seconds of a step of a stage, or None."""
        self._stages = {stage.index: stage for stage in stages}
        self._known = {stage.index: known(stage) for stage in stages} if known else {}
        self.seconds: dict[int, list[float]] = {stage.index: [] for stage in stages}
        self._first, self._last = min(self._stages), 0.0

    def stage_starts(self, index: int, now: float) -> None:
        """Start the clock of a stage."""
        self._last = now

    def step_done(self, index: int, done: int, now: float) -> None:
        """Note the end of a step."""
        if not (index == self._first and done == 1):
            self.seconds[index].append(now - self._last)
        self._last = now

    def seconds_left(self, index: int, done: int) -> float | None:
        """Return the seconds until the end of the run after ``done`` steps of a stage; None before anything was timed."""
        left = 0.0
        for stage in self._stages.values():
            if stage.index >= index and (steps := stage.steps - (done if stage.index == index else 0)):
                each = self._seconds_of(stage, index)
                if each is None:
                    return None
                left += steps * each
        return left

    def _seconds_of(self, stage: PlannedStage, now_at: int) -> float | None:
        """Return the seconds of a step of a stage: measured in this run, before, or scaled from the stage that runs."""
        if self.seconds[stage.index]:
            return _mean(self.seconds[stage.index])
        timed = [index for index, seconds in self.seconds.items() if seconds and index <= now_at]
        if (known := self._known.get(stage.index)) is not None:
            return known
        if not timed:
            return None
        return _mean(self.seconds[timed[-1]]) * stage.step_cost / self._stages[timed[-1]].step_cost


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def duration_text(seconds: float) -> str:
    """Return a duration as people say it: "55 s", "3 min", "1 h 20 min"."""
    if seconds < 99.5:
        return f"{max(1, round(seconds))} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
