"""Nodes that save a file where nothing can be written: full disks, read-only folders and file systems, and names in use."""

from __future__ import annotations

import ctypes
import functools
import logging
import os
import resource
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch

from .cases import Case, NotHeldError, Part, expect
from .graph_runner import GraphRunner
from .malformed_nodes import TESTED, expect_sentence
from .node_graphs import graph_of, use_folders, valid_inputs, values

OTHER_USER = 65534
NEW_MOUNTS, PRIVATE, READ_ONLY = 0x20000, 0x44000, 1
"""CLONE_NEWNS; MS_REC | MS_PRIVATE; MS_RDONLY."""

SAVERS = {"SaveDraft": "drafts", "SaveConditioning": "conditioning"}
"""Nodes that save, and their folders in the output folder."""


def cases(seed: int, folder: Path) -> Sequence[Case]:
    """Return a case for every node and every obstacle."""
    logging.disable(logging.CRITICAL)
    torch.set_num_threads(1)
    runner = GraphRunner()
    with torch.inference_mode():
        runner.given.update(values())
    return [
        Case(f"{node}, {name}, {'over a file' if old else 'new'}", functools.partial(_check, runner, node, obstacle, old))
        for node in SAVERS
        for name, obstacle in OBSTACLES.items()
        for old in (False, True)
    ]


def _check(runner: GraphRunner, node: str, obstacle: Callable[[Path, Path], None], old: bool, folder: Path) -> None:
    """Save where an obstacle is, and expect one sentence and unchanged files."""
    use_folders(folder)
    saved = folder / "output" / SAVERS[node]
    path = saved / "x.safetensors"
    saved.mkdir(parents=True)
    if old:
        path.write_bytes(b"of before")
    obstacle(saved, path)
    outcome = runner.run(graph_of(node, {**valid_inputs()[node], "filename": "x"}))
    expect(outcome.error is not None or bool(outcome.refused), "saved, in spite of the obstacle")
    expect_sentence(outcome, node)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
    if saved.is_dir():
        expect(not [path for path in saved.iterdir() if path.suffix == ".partial"], "left a part of a file behind")
    if old and path.is_file():
        expect(path.read_bytes() == b"of before", "the file of before is changed")


def _full_disk(saved: Path, path: Path) -> None:
    old = path.read_bytes() if path.exists() else None
    _mount(saved, "size=4k", 0)
    if old is not None:
        path.write_bytes(old)


def _file_too_large(saved: Path, path: Path) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


def _read_only_folder(saved: Path, path: Path) -> None:
    for parent in (saved.parents[1], saved.parents[0]):
        parent.chmod(0o755)
    saved.chmod(0o555)
    if not os.getuid():
        os.setuid(OTHER_USER)


def _read_only_disk(saved: Path, path: Path) -> None:
    _mount(saved, "", READ_ONLY)


def _a_file_in_place_of_the_folder(saved: Path, path: Path) -> None:
    path.unlink(missing_ok=True)
    saved.rmdir()
    saved.write_bytes(b"")


def _a_folder_in_place_of_the_file(saved: Path, path: Path) -> None:
    path.unlink(missing_ok=True)
    path.mkdir()


def _mount(folder: Path, options: str, flags: int) -> None:
    """Mount an empty file system that only this process sees."""
    libc = ctypes.CDLL(None, use_errno=True)
    private = libc.unshare(NEW_MOUNTS) or libc.mount(b"none", b"/", None, PRIVATE, None)
    if private or libc.mount(b"tmpfs", os.fsencode(folder), b"tmpfs", flags, options.encode()):
        raise NotHeldError(f"cannot mount a file system: {os.strerror(ctypes.get_errno())}")


OBSTACLES: Mapping[str, Callable[[Path, Path], None]] = {
    "full disk": _full_disk,
    "largest size of a file": _file_too_large,
    "read-only folder": _read_only_folder,
    "read-only disk": _read_only_disk,
    "a file in place of the folder": _a_file_in_place_of_the_folder,
    "a folder in place of the file": _a_folder_in_place_of_the_file,
}

PART = Part(
    "unwritable-nodes",
    "a node that cannot save reports it in one sentence, and the previous file is unchanged",
    cases,
    tested=TESTED,
    seconds=60.0,
)
