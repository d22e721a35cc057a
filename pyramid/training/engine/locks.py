"""Locks of folders: one process at a time writes into the folder of a run or a cache."""

from __future__ import annotations

import errno
import os
import platform
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from .atomic import check_target, make_folder

LOCK = "lock"
"""The locked file. It stays in the folder; what counts is the lock, which the system removes when its process ends."""
LOCKED_BYTE = 2**30
"""Position of the locked byte, after the text: Windows does not allow reading a locked byte."""
UNSUPPORTED = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)

_held: set[Path] = set()
"""Folders that this process has locked: the system would let it lock them a second time."""


@contextmanager
def locked(folder: Path, *, instead: str = "choose another 'out'") -> Iterator[None]:
    """Hold the lock of a folder, which is created if necessary, inside the ``with`` block.

    The lock belongs to this process and not to its children: it ends with the process, whatever ends it.

    Args:
        folder: The folder.
        instead: What the message suggests if another process holds the lock.

    Raises:
        ValueError: Another process holds it, or its name in the folder is taken by something else than a file.
    """
    make_folder(folder)
    check_target(folder / LOCK)
    key = folder.resolve()
    if key in _held:  # to open and close the file again would lose the lock
        raise _in_use(folder, "this process", instead)
    with open(folder / LOCK, "ab+") as file:
        if not _lock(file, folder):
            raise _in_use(folder, _holder(file), instead)
        _held.add(key)
        try:
            file.truncate(0)
            file.write(f"process {os.getpid()} on {platform.node()}".encode())
            file.flush()
            yield
        finally:
            _held.discard(key)


def _in_use(folder: Path, holder: str, instead: str) -> ValueError:
    return ValueError(f"{folder} is in use by {holder}; wait until that process ends, stop it, or {instead}")


def _holder(file: BinaryIO) -> str:
    file.seek(0)
    return file.read(200).decode("utf-8", errors="replace") or "another process"


def _lock(file: BinaryIO, folder: Path) -> bool:
    """Lock the file until it is closed; return False if another process holds the lock."""
    try:
        if os.name == "nt":
            import msvcrt

            file.seek(LOCKED_BYTE)
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)  # pyright: ignore[reportAttributeAccessIssue]
        else:
            import fcntl

            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, LOCKED_BYTE)
    except OSError as error:
        if error.errno in UNSUPPORTED:
            warnings.warn(f"{folder} cannot be locked ({error}); start one process on it at a time", stacklevel=4)
            return True
        return False
    return True
