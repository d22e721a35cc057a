"""Two processes on one folder: one at a time, whatever ends the first, and files are always whole."""

from __future__ import annotations

import functools
import os
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from pyramid.training.engine import atomic
from pyramid.training.engine.locks import LOCK, locked

from .cases import Case, Child, Part, expect
from .training_runs import (
    COMMANDS,
    SECONDS,
    WRITERS,
    Inputs,
    Undisturbed,
    copy_run,
    count_operations,
    expect_same,
    expect_sentence,
    finish,
    make_inputs,
    run_undisturbed,
    start,
)


def cases(seed: int, shared: Path) -> Sequence[Case]:
    """Return pairs of processes."""
    inputs, made = make_inputs(shared), []
    for command in COMMANDS:
        undisturbed = run_undisturbed(command, inputs)
        for name, check in (
            ("while the first one runs, a second one is refused", _second),
            ("after the first one was killed, the second one resumes", _after_kill),
            ("started at once", _at_once),
        ):
            made.append(Case(f"{command}, {name}", functools.partial(check, command, inputs, undisturbed)))
    exports = Case("export, started at once", functools.partial(_exports_at_once, inputs, run_undisturbed("finetune", inputs)))
    return [*made, exports, Case("one file, two writers", _writers)]


def _pause(out: Path, go_on: Path) -> None:
    """Stop this process where it has locked its folder, until a file is there."""

    def wait(number: int) -> None:
        if number > 3 and not go_on.exists():
            (go_on.parent / "waiting").touch()
            while not go_on.exists():
                time.sleep(0.01)

    count_operations(out, wait)


def _wait_for(path: Path) -> None:
    deadline = time.monotonic() + SECONDS
    while not path.exists():
        expect(time.monotonic() < deadline, f"{path.name} did not appear")
        time.sleep(0.01)


def _second(command: str, inputs: Inputs, undisturbed: Undisturbed, folder: Path) -> None:
    tables = inputs.tables(command, folder / "out")
    first = start(command, tables, before=lambda: _pause(folder / "out", folder / "go on"))
    _wait_for(folder / "waiting")
    expect_sentence(start(command, tables).wait(SECONDS), "is in use by process", str(first.pid))
    (folder / "go on").touch()
    outcome = first.wait(SECONDS)
    expect(outcome.status == 0, f"the first one ended with {outcome.status}: {outcome.output[-800:]}")
    expect_same(command, tables, undisturbed)


def _after_kill(command: str, inputs: Inputs, undisturbed: Undisturbed, folder: Path) -> None:
    tables = inputs.tables(command, folder / "out")
    first = start(command, tables, before=lambda: _pause(folder / "out", folder / "go on"))
    _wait_for(folder / "waiting")
    os.kill(first.pid, signal.SIGKILL)
    first.wait(SECONDS)
    expect((folder / "out" / LOCK).exists(), "there was no lock to leave behind")
    finish(command, tables)
    expect_same(command, tables, undisturbed)


def _at_once(command: str, inputs: Inputs, undisturbed: Undisturbed, folder: Path) -> None:
    tables = inputs.tables(command, folder / "out")
    outcomes = [child.wait(SECONDS) for child in [start(command, tables) for _ in range(2)]]
    for outcome in outcomes:
        if outcome.status:
            expect_sentence(outcome, "is in use by")
    expect(any(outcome.status == 0 for outcome in outcomes), "both were refused")
    expect_same(command, tables, undisturbed)


def _exports_at_once(inputs: Inputs, undisturbed: Undisturbed, folder: Path) -> None:
    tables = inputs.tables("finetune", copy_run(undisturbed, folder / "out"))
    for path in (folder / "out" / "export").glob("*.safetensors"):
        path.unlink()
    outcomes = [child.wait(SECONDS) for child in [start("export", tables) for _ in range(2)]]
    for outcome in outcomes:
        if outcome.status:
            expect_sentence(outcome, "is in use by")
    expect(any(outcome.status == 0 for outcome in outcomes), "both were refused")
    expect_same("finetune", tables, undisturbed)


def _writers(folder: Path) -> None:
    path, contents = folder / "file", [bytes([value]) * 2**20 for value in (1, 2)]

    def write(content: bytes) -> Callable[[], None]:
        def repeatedly() -> None:
            for _ in range(20):
                atomic.write_bytes(path, content)

        return repeatedly

    children = [Child(write(content)) for content in contents]
    _wait_for(path)
    for _ in range(200):
        expect(path.read_bytes() in contents, "the file was neither the one nor the other")
    expect([child.wait(SECONDS).status for child in children] == [0, 0], "a writer failed")
    expect(list(folder.iterdir()) == [path], "a temporary file stayed")
    with locked(folder):
        pass


PART = Part(
    "two-processes",
    "a second process on the folder of a cache or a run is rejected; a lock ends with its process",
    cases,
    tested=WRITERS,
    seconds=3 * SECONDS,
)
