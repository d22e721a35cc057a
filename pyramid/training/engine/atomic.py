"""Atomic writes: after a crash a path holds its old contents or the new ones, never a part of them."""

from __future__ import annotations

import glob
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SUFFIX = ".partial"
"""Suffix of files and folders that are being written. An interrupted write leaves one; see ``remove_leftovers``."""
MAX_NAME = 200
"""Characters of a file's name that its temporary name keeps, so that the latter is not too long for the file system."""


def partial_path(path: Path) -> Path:
    """Return the path that the folder ``path`` has while it is written, the same in every process of a run."""
    return path.with_name(path.name + SUFFIX)


def check_target(path: Path) -> None:
    """Check that a path can become a file: it is one, or nothing is there. Pipes and devices are never opened or replaced.

    Raises:
        ValueError: Something else is there.
    """
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return
    except NotADirectoryError:
        taken = next(folder for folder in path.parents if os.path.lexists(folder))
        raise ValueError(f"{path} cannot be written, because {taken} is not a folder; name another folder") from None
    if not stat.S_ISREG(mode):
        kind = "a folder" if stat.S_ISDIR(mode) else "a pipe, socket or device"
        raise ValueError(f"{path} is {kind}; expected a file, or a name that does not exist yet")


def check_folder(path: Path) -> None:
    """Check that a path can become a folder: it is one, or nothing is there.

    Raises:
        ValueError: Something else is there.
    """
    if os.path.lexists(path) and not path.is_dir():
        raise ValueError(f"{path} is not a folder; move it away, or choose another 'out'")


@contextmanager
def atomic_file(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path in the same folder, and move it to ``path`` once the block has written it.

    The temporary name is unique, so that two writers do not disturb each other: the last one's file stays. The file and its
    folder are flushed to the disk. If the block raises, the temporary file is removed and ``path`` stays as it was. The folder
    is created if necessary.

    Raises:
        ValueError: The path is a folder, a pipe or a device.
    """
    path = Path(path)
    check_target(path)
    make_folder(path.parent)
    partial = path.with_name(f"{path.name[:MAX_NAME]}.{secrets.token_hex(4)}{SUFFIX}")
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


def make_folder(path: Path) -> None:
    """Create a folder and those above it, and flush the names of the new ones to the disk."""
    missing = [folder for folder in (path, *path.parents) if not folder.is_dir()]
    path.mkdir(parents=True, exist_ok=True)
    for folder in reversed(missing):
        _flush_folder(folder.parent)


def fresh_folder(path: Path) -> Path:
    """Create and return an empty temporary folder beside ``path``, to be filled and then published.

    Two calls instead of a context manager, because several processes fill the folder of a checkpoint. Only one run may do so
    at a time, which the lock of its folder ensures.
    """
    partial = partial_path(path)
    remove(partial)
    make_folder(partial)
    return partial


def publish_folder(path: Path) -> None:
    """Flush the temporary folder of ``path``, with everything in it, to the disk and move it to ``path``.

    A folder that is already there is removed.
    """
    partial = partial_path(path)
    for folder, _, files in os.walk(partial):
        for name in files:
            _flush(Path(folder, name))
        _flush_folder(Path(folder))
    remove(path)
    os.replace(partial, path)
    _flush_folder(path.parent)


def remove(path: Path) -> None:
    """Remove a folder, if it exists, so that an interruption never leaves a part of it under its name."""
    if path.suffix != SUFFIX and path.is_dir():
        condemned = path.with_name(f"{path.name}.{secrets.token_hex(4)}{SUFFIX}")
        os.replace(path, condemned)
        _flush_folder(path.parent)
        path = condemned
    shutil.rmtree(path, ignore_errors=True)


def remove_leftovers(folder: Path, name: str | None = None) -> None:
    """Remove what interrupted writes left in a folder, or those of one file; nothing else may be writing it."""
    begin = "" if name is None else f"{glob.escape(name[:MAX_NAME])}."
    for leftover in folder.glob(f"{begin}*{SUFFIX}"):
        if leftover.is_dir():
            shutil.rmtree(leftover, ignore_errors=True)
        else:
            leftover.unlink(missing_ok=True)


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
