"""Write files atomically: after a crash a path holds its old contents or the new ones, never a part of them."""

from __future__ import annotations

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

    The file is flushed to the disk. If the block raises, the temporary file is removed and ``path`` stays as it was. The folder
    is created if necessary.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.stem[:MAX_STEM]}.{os.getpid()}{SUFFIX}")
    try:
        yield partial
        with partial.open("rb+") as written:
            os.fsync(written.fileno())
        os.replace(partial, path)
    finally:
        _remove(partial)


def _remove(partial: Path) -> None:
    try:
        partial.unlink(missing_ok=True)
    except OSError:  # of the folder, which the first error is about
        return
