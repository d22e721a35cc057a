"""Times of a run: the whole of it, every forward pass of the network, and the pauses between the stages."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from comfy.patcher_extension import WrappersMP

Mark = Any
"""A moment: an event in a CUDA stream, or the seconds of a clock."""


@dataclass(frozen=True)
class Clock:
    """Moments on a device, without waiting for it.

    Attributes:
        device: The device.
    """

    device: torch.device

    def now(self) -> Mark:
        """Return this moment in the order of the device's work."""
        if self.device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def wait(self) -> float:
        """Wait until the device is idle, and return the seconds of a clock."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def milliseconds(self, start: Mark, end: Mark) -> float:
        """Return the time between two moments, after the device was waited for."""
        return start.elapsed_time(end) if self.device.type == "cuda" else 1000 * (end - start)


@dataclass(frozen=True)
class Forward:
    """One forward pass.

    Attributes:
        frames: Latent frames of its input.
        height: Latent rows of its input.
        start: When it began.
        end: When it ended.
    """

    frames: int
    height: int
    start: Mark
    end: Mark


@dataclass
class Run:
    """The times of one run in milliseconds, and its memory.

    Attributes:
        total: Time of the run.
        forwards: Time of every forward pass.
        sizes: Latent frames and rows of every forward pass.
        pauses: Time between the last forward pass of a stage and the first of the next.
        peak: Most memory that tensors took, in bytes; None on a CPU.
    """

    total: float
    forwards: list[float] = field(default_factory=list)
    sizes: list[tuple[int, int]] = field(default_factory=list)
    pauses: list[float] = field(default_factory=list)
    peak: int | None = None

    def median(self, stage: int) -> float:
        """Return the median time of the forward passes of a stage, in running order, without its first."""
        size = list(dict.fromkeys(self.sizes))[stage]
        times = [spent for spent, of in zip(self.forwards, self.sizes, strict=True) if of == size]
        return statistics.median(times[1:] or times)


class Recorder:
    """Runs samplers on models that it watches."""

    def __init__(self, device: torch.device) -> None:
        """Watch a device."""
        self.clock = Clock(device)
        self.calls: list[Forward] = []

    def watched(self, model: Any) -> Any:
        """Return a clone of a MODEL whose forward passes are noted."""

        def note(executor: Callable[..., Any], x: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
            start = self.clock.now()
            output = executor(x, *args, **kwargs)
            self.calls.append(Forward(x.shape[2], x.shape[3], start, self.clock.now()))
            return output

        clone = model.clone()
        clone.add_wrapper_with_key(WrappersMP.APPLY_MODEL, "card", note)
        return clone

    def run(self, work: Callable[[], Any]) -> Run:
        """Run once, and return its times."""
        self.calls.clear()
        on_card = self.clock.device.type == "cuda"
        if on_card:
            torch.cuda.reset_peak_memory_stats(self.clock.device)
        start = self.clock.wait()
        work()
        total = 1000 * (self.clock.wait() - start)
        made = Run(total, peak=torch.cuda.max_memory_allocated(self.clock.device) if on_card else None)
        for before, call in zip([None, *self.calls], self.calls, strict=False):
            made.forwards.append(self.clock.milliseconds(call.start, call.end))
            made.sizes.append((call.frames, call.height))
            if before is not None and (before.frames, before.height) != (call.frames, call.height):
                made.pauses.append(self.clock.milliseconds(before.end, call.start))
        return made

    def rounds(self, works: dict[str, Callable[[], Any]], count: int) -> dict[str, list[Run]]:
        """Run every work once to warm up, then all of them alternately `count` times."""
        for work in works.values():
            work()
        made: dict[str, list[Run]] = {name: [] for name in works}
        for _ in range(count):
            for name, work in works.items():
                made[name].append(self.run(work))
        return made


def total(runs: list[Run]) -> float:
    """Return the median time of runs."""
    return statistics.median(run.total for run in runs)
