"""Cases of the campaign, and the child processes that they run in."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path


class NotHeldError(AssertionError):
    """A promise that did not hold; the message says what happened instead."""


@dataclass(frozen=True)
class Case:
    """One fault.

    Attributes:
        name: Unique in its part; the same seed makes the same cases.
        check: Provoke the fault in an empty folder, and raise ``NotHeldError`` if a promise is broken. Every other exception
            counts as a failure, too. It runs in a child process, which may do to itself what it likes.
    """

    name: str
    check: Callable[[Path], None]


@dataclass(frozen=True)
class Part:
    """Cases of one kind.

    Attributes:
        name: For the command line.
        promise: What holds in every case, for the table.
        cases: Return the cases for a seed. The folder holds inputs that the parts share; it is empty at first.
        tested: Folders and files of the code under test; results are dropped when it changes.
        seconds: Time limit of a case.
    """

    name: str
    promise: str
    cases: Callable[[int, Path], Sequence[Case]]
    tested: tuple[str, ...] = ("pyramid",)
    seconds: float = 120.0


def expect(held: bool, otherwise: str) -> None:
    """Raise ``NotHeldError`` with the message ``otherwise`` unless ``held``."""
    if not held:
        raise NotHeldError(otherwise)


@dataclass(frozen=True)
class Outcome:
    """The exit status and the output of a child process.

    Attributes:
        status: Its exit status; minus the number of the signal that killed it; None if it was stopped after its time limit.
        output: Everything that it printed.
    """

    status: int | None
    output: str


class Child:
    """A fork of this process that calls a function; it shares the imported modules, so it starts in milliseconds."""

    def __init__(self, call: Callable[[], int | None]) -> None:
        """Start it in a process group of its own. Its exit status is what ``call`` returns, or 1 after an exception."""
        self._output = tempfile.TemporaryFile()
        sys.stdout.flush()
        sys.stderr.flush()
        self.pid = os.fork()
        if not self.pid:
            _run_and_exit(call, self._output.fileno())

    def wait(self, seconds: float) -> Outcome:
        """Wait for its end; stop its group after the time limit."""
        deadline, status = time.monotonic() + seconds, None
        while status is None and time.monotonic() < deadline:
            ended, raw = os.waitpid(self.pid, os.WNOHANG)
            status = os.waitstatus_to_exitcode(raw) if ended else None
            time.sleep(0 if ended else 0.005)
        self.kill()
        if status is None:
            os.waitpid(self.pid, 0)
        self._output.seek(0)
        return Outcome(status, self._output.read().decode(errors="replace"))

    def kill(self) -> None:
        """Kill what is left of its process group, with SIGKILL."""
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass


def _run_and_exit(call: Callable[[], int | None], output: int) -> None:
    status = 1
    try:
        os.setpgid(0, 0)
        os.dup2(output, 1)
        os.dup2(output, 2)
        status = call() or 0
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def run_case(case: Case, *, seconds: float) -> str:
    """Run a case in a child process and a temporary folder; return the reason why it failed, or "" if it held."""
    folder = Path(tempfile.mkdtemp(prefix="fault"))
    try:
        outcome = Child(lambda: case.check(folder)).wait(seconds)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    if outcome.status == 0:
        return ""
    if outcome.status is None:
        return f"still running after {seconds:g} s"
    lines = outcome.output.strip().splitlines() or [f"ended with status {outcome.status}"]
    return next((line for line in reversed(lines) if line.strip()), lines[-1])[:500]
