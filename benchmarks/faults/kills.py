"""Kills of cache, finetune and distill: before every file operation, at random moments, and twice in a row."""

from __future__ import annotations

import functools
import os
import random
import signal
from collections.abc import Callable, Sequence
from pathlib import Path

from .cases import Case, Part, expect
from .training_runs import (
    COMMANDS,
    SECONDS,
    WRITERS,
    Inputs,
    Undisturbed,
    count_operations,
    expect_same,
    finish,
    make_inputs,
    run_undisturbed,
    start,
)

RANDOM_MOMENTS = 12
"""Kills of each command at random moments, and as many pairs of kills."""
KILLED = (-signal.SIGKILL, -signal.SIGPROF)


def cases(seed: int, shared: Path) -> Sequence[Case]:
    """Return the kills of all three commands."""
    inputs, drawn, made = make_inputs(shared), random.Random(seed), []
    for command in COMMANDS:
        undisturbed = run_undisturbed(command, inputs)
        try_it = functools.partial(_check, command, inputs, undisturbed)
        for number in range(1, undisturbed.operations + 1):
            name = f"{command}, before file operation {number} of {undisturbed.operations}"
            made.append(Case(name, functools.partial(try_it, [functools.partial(_before_operation, number)])))
        for number in range(RANDOM_MOMENTS):
            moments = [functools.partial(_after, drawn.random() * undisturbed.seconds) for _ in range(2)]
            made.append(Case(f"{command}, random moment {number}", functools.partial(try_it, moments[:1])))
            made.append(Case(f"{command}, random moments {number}, twice in a row", functools.partial(try_it, moments)))
    return made


def _check(
    command: str, inputs: Inputs, undisturbed: Undisturbed, kills: Sequence[Callable[[Path], None]], folder: Path
) -> None:
    tables = inputs.tables(command, folder / "out")
    for kill in kills:
        outcome = start(command, tables, before=functools.partial(kill, folder / "out")).wait(SECONDS)
        expect(outcome.status in (*KILLED, 0), f"ended with {outcome.status}: {outcome.output[-800:]}")
    finish(command, tables)
    expect_same(command, tables, undisturbed)


def _before_operation(number: int, out: Path) -> None:
    """Kill this process before an operation on the folder of its training."""
    count_operations(out, lambda current: os.kill(os.getpid(), signal.SIGKILL) if current == number else None)


def _after(seconds: float, out: Path) -> None:
    """Let the kernel end this process after some seconds of processor time, without warning."""
    signal.setitimer(signal.ITIMER_PROF, max(seconds, 0.01))


PART = Part(
    "kills",
    "cache, finetune and distill, killed at every file operation and at random moments, end bit for bit as if undisturbed",
    cases,
    tested=WRITERS,
    seconds=3 * SECONDS,
)
