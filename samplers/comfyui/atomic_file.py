"""Write files atomically: after a crash a path holds its old contents or the new ones, never a part of them."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SUFFIX = ".partial"
"""Suffix of files that are being written.."""

MAX_STEM = 100
"""Characters of a file's name that its temporary name keeps, so that the latter is not too long for the file system."""


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path in the same folder, and move it to ``path`` once the block has written it.

    The file and its folder are flushed to the disk. If the block raises, the temporary file is removed and ``path`` stays as it
    was. The folder is created if necessary.
    """
    _make_folder(path.parent)
    partial = path.with_name(f"{path.stem[:MAX_STEM]}.{os.getpid()}{SUFFIX}")
    try:
        yield partial
        with partial.open("rb+") as written:
            os.fsync(written.fileno())
        os.replace(partial, path)
        _flush_names(path.parent)
    finally:
        _remove(partial)


def _make_folder(folder: Path) -> None:
    """Create a folder and those above it, and flush the names of the new ones to the disk."""
    missing = [each for each in (folder, *folder.parents) if not each.is_dir()]
    folder.mkdir(parents=True, exist_ok=True)
    for each in reversed(missing):
        _flush_names(each.parent)


def _flush_names(folder: Path) -> None:
    """Flush the names of the files in a folder. Windows cannot open a folder; its file systems write renames to a journal.

    A file is complete under its name before this, so a file system that cannot flush folders only delays when it is safe.
    """
    if os.name != "posix":
        return
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:  # it may be written but not read
        return
    try:
        os.fsync(descriptor)
    except OSError as error:
        logging.debug("PyramidalWan: cannot flush %s: %s", folder, error)
    finally:
        os.close(descriptor)


def _remove(partial: Path) -> None:
    try:
        partial.unlink(missing_ok=True)
    except OSError:  # of the folder, which the first error is about
        return
