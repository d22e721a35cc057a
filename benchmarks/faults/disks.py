"""Full disks and read-only folders: one sentence, and the same command resumes once there is space. Needs root, to mount."""

from __future__ import annotations

import ctypes
import functools
import os
import random
from collections.abc import Sequence
from pathlib import Path

from tiny_wan.training_files import toml

from .cases import Case, Child, Part, expect
from .training_runs import (
    COMMANDS,
    SECONDS,
    WRITERS,
    Inputs,
    Undisturbed,
    expect_same,
    expect_sentence,
    finish,
    make_inputs,
    run_undisturbed,
    start,
    start_file,
)

CLONE_NEWNS, MS_RDONLY, MS_REMOUNT, MS_REC, MS_PRIVATE = 0x20000, 1, 32, 0x4000, 0x40000
FULL_CASES = 5
"""Sizes of the disk for each command."""


def cases(seed: int, shared: Path) -> Sequence[Case]:
    """Return disks of several sizes, and read-only ones, for every command."""
    if os.geteuid():
        raise SystemExit("the part 'disks' mounts small disks, which requires root")
    inputs, drawn, made = make_inputs(shared), random.Random(seed), []
    for command in COMMANDS:
        undisturbed = run_undisturbed(command, inputs)
        size = sum(path.stat().st_size for path in undisturbed.folder.rglob("*") if path.is_file())
        for number in range(FULL_CASES):
            share = (number + drawn.random()) / FULL_CASES
            name = f"{command}, on a disk that is full after {share:.0%}"
            made.append(Case(name, functools.partial(_full, command, inputs, undisturbed, int(share * size))))
        made.append(Case(f"{command}, in a read-only folder", functools.partial(_read_only, command, inputs, undisturbed)))
        made.append(
            Case(f"{command}, on a disk that becomes read-only", functools.partial(_late, command, inputs, undisturbed))
        )
    return made


def _mount(path: Path, *, size: int, read_only: bool = False, again: bool = False) -> None:
    """Mount a disk in memory, seen by this process and its children only, or change a mounted one."""
    libc = ctypes.CDLL(None, use_errno=True)
    if not again:
        path.mkdir()
        if libc.unshare(CLONE_NEWNS) or libc.mount(None, b"/", None, MS_REC | MS_PRIVATE, None):
            raise OSError(ctypes.get_errno(), "cannot make mounts of its own")
    flags = (MS_RDONLY if read_only else 0) | (MS_REMOUNT if again else 0)
    if libc.mount(b"tmpfs", str(path).encode(), b"tmpfs", flags, f"size={size}".encode()):
        raise OSError(ctypes.get_errno(), f"cannot mount {path}")


def _full(command: str, inputs: Inputs, undisturbed: Undisturbed, size: int, folder: Path) -> None:
    disk = folder / "disk"
    _mount(disk, size=max(size, 4096))
    tables = inputs.tables(command, disk / "out")
    outcome = _start(command, tables, folder).wait(SECONDS)
    if outcome.status != 0:  # a run removes its old checkpoints, so that the largest disks suffice
        expect_sentence(outcome, "space")
    _mount(disk, size=2**28, again=True)
    expect(_start(command, tables, folder).wait(SECONDS).status == 0, "did not resume with more space")
    expect_same(command, tables, undisturbed)


def _start(command: str, tables: dict, folder: Path) -> Child:
    """Start a training whose configuration lies outside of the full disk."""
    return start_file(command, toml(tables, folder / "run.toml"))


def _read_only(command: str, inputs: Inputs, undisturbed: Undisturbed, folder: Path) -> None:
    disk = folder / "disk"
    _mount(disk, size=2**28, read_only=True)
    tables = inputs.tables(command, disk / "out")
    expect_sentence(_start(command, tables, folder).wait(SECONDS), "Read-only")
    _mount(disk, size=2**28, again=True)
    expect(_start(command, tables, folder).wait(SECONDS).status == 0, "did not resume when it could write")
    expect_same(command, tables, undisturbed)


def _late(command: str, inputs: Inputs, undisturbed: Undisturbed, folder: Path) -> None:
    disk = folder / "disk"
    _mount(disk, size=2**28)
    tables = inputs.tables(command, disk / "out")
    finish(command, tables)
    before = {path: path.read_bytes() for path in sorted(disk.rglob("*")) if path.is_file()}
    _mount(disk, size=2**28, read_only=True, again=True)
    expect_sentence(_start(command, tables, folder).wait(SECONDS), "Read-only")
    expect(before == {path: path.read_bytes() for path in sorted(disk.rglob("*")) if path.is_file()}, "files changed")
    _mount(disk, size=2**28, again=True)
    expect(start(command, tables).wait(SECONDS).status == 0, "did not resume when it could write")
    expect_same(command, tables, undisturbed)


PART = Part(
    "disks",
    "a full disk or a read-only folder ends cache, finetune and distill with one sentence; with space they resume, bit for bit",
    cases,
    tested=WRITERS,
    seconds=4 * SECONDS,
)
