"""Atomic writes: after a crash or a power cut a path holds its old contents or the new ones, never a part of them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SUFFIX = ".partial"
"""Appended to a name while it is written. An interrupted write leaves at most one such leftover, which the next replaces."""


def partial_path(path: Path) -> Path:
    """Return the path that ``path`` has while it is written."""
    return path.with_name(path.name + SUFFIX)


@contextmanager
def atomic_file(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path in the same folder, and move it to ``path`` once the block has written it.

    The file and its folder are flushed to the disk. If the block raises, the temporary file is removed and ``path`` stays as
    it was. The folder is created if necessary.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = partial_path(path)
    try:
        yield partial
        _flush(partial)
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    _flush_folder(path.parent)


def write_bytes(path: str | Path, contents: bytes) -> None:
    """Write a file atomically."""
    with atomic_file(path) as partial:
        partial.write_bytes(contents)


def write_text(path: str | Path, contents: str) -> None:
    """Write a UTF-8 text file atomically."""
    write_bytes(path, contents.encode("utf-8"))


def fresh_folder(path: Path) -> Path:
    """Create and return an empty temporary folder beside ``path``, to be filled and then published.

    Two calls instead of a context manager, because several processes fill the folder of a checkpoint.
    """
    partial = partial_path(path)
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    return partial


def publish_folder(path: Path) -> None:
    """Flush the temporary folder of ``path``, with everything in it, to the disk and move it to ``path``.

    A folder that is already there is removed just before.
    """
    partial = partial_path(path)
    for folder, _, files in os.walk(partial):
        for name in files:
            _flush(Path(folder, name))
        _flush_folder(Path(folder))
    shutil.rmtree(path, ignore_errors=True)
    os.replace(partial, path)
    _flush_folder(path.parent)


def _flush(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _flush_folder(path: Path) -> None:
    """Flush a folder's list of names. Windows cannot open a folder; its file systems journal renames."""
    if os.name != "posix":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
