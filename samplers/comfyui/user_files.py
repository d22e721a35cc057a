"""Safetensors files that artists save and load by name, in ComfyUI's input and output folders."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import folder_paths
from torch import Tensor

from ...pyramid.untrusted import shown
from .safetensors_file import read_safetensors, write_safetensors

OUTPUT_MARK = " [output]"
"""ComfyUI's mark of file names in the output folder."""

MAX_NAME = 200
"""Bytes of a file's name with its folders: Windows allows 260 characters for the whole path."""

RESERVED = frozenset(
    {
        "con",
        "prn",
        "aux",
        "nul",
        "conin$",
        "conout$",
        "clock$",
        *(f"{port}{n}" for port in ("com", "lpt") for n in "0123456789¹²³"),
    }
)
"""Names of devices on Windows, where no file can have them, whatever its extension."""


@dataclass(frozen=True)
class UserFiles:
    """The files of one kind.

    Attributes:
        folder: Folder in ComfyUI's input and output folders.
        saved_by: Title of the node that saves such files.
    """

    folder: str
    saved_by: str

    def names(self) -> list[str]:
        """Return the files in the input folder, and those in the output folder with ComfyUI's mark " [output]"."""
        names = []
        for base, mark in ((folder_paths.get_input_directory(), ""), (folder_paths.get_output_directory(), OUTPUT_MARK)):
            folder = Path(base) / self.folder
            names += sorted(f"{path.relative_to(folder).as_posix()}{mark}" for path in _files_in(folder))
        return names

    def find(self, name: str) -> Path:
        """Return the path of a file.

        Raises:
            ValueError: There is no such file, or the name leads outside the two folders.
        """
        if not isinstance(name, str) or not name.isprintable():
            raise ValueError(f"{shown(name)} is not a valid file name; use letters, digits, '-', '_', and '/' for folders")
        plain = name.removesuffix(OUTPUT_MARK)
        base = folder_paths.get_input_directory() if plain == name else folder_paths.get_output_directory()
        path = self._inside(base, plain)
        if not _is_file(path):
            known = ", ".join(self.names()[:5]) or f"a file from '{self.saved_by}'; there are none yet"
            raise ValueError(f"unknown file {shown(name)} in the folder '{self.folder}'; expected {known}")
        return path

    def problem(self, name: str | None, *, existing: bool = False) -> str | None:
        """Return the error in a file name, or None; the name of a linked widget is None.

        Args:
            name: The name.
            existing: The file must exist.
        """
        try:
            if name is not None:
                self.find(name) if existing else self._target(name)
        except ValueError as error:
            return str(error)
        return None

    def fingerprint(self, name: str | None) -> tuple[str, int, int] | float:
        """Return a value that changes with the file; for a linked name or a missing file one that equals nothing."""
        try:
            status = self.find(name or "").stat()
        except (OSError, ValueError):
            return math.nan
        return name or "", status.st_mtime_ns, status.st_size

    def write(self, name: str, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> Path:
        """Write a file in the output folder atomically and return its path.

        Raises:
            ValueError: The name is unusable.
        """
        path = self._target(name)
        write_safetensors(path, tensors, metadata)
        return path

    def read(self, name: str) -> tuple[dict[str, Tensor], dict[str, str]]:
        """Return the tensors and the metadata of a file.

        Raises:
            ValueError: The file does not exist or cannot be read.
        """
        return read_safetensors(self.find(name), f"'{name}'")

    def _target(self, name: str) -> Path:
        """Return the path of a file to write, if its name can be one on every system.

        Raises:
            ValueError: The name is unusable, or nothing can be written at its place.
        """
        stem = name.strip().removesuffix(".safetensors") if isinstance(name, str) else ""
        if not stem.isprintable() or not re.fullmatch(r"[^<>:\"|?*\\]*[^<>:\"|?*\\/]", stem):
            raise ValueError(f"{shown(name)} is not a valid file name; use letters, digits, '-', '_', and '/' for folders")
        if len(stem.encode()) > MAX_NAME:
            raise ValueError(f"the file name {shown(name)} is too long; use at most {MAX_NAME} bytes, with folders")
        *folders, last = stem.split("/")
        for part in (*(part for part in folders if part not in (".", "..")), last):
            if part.partition(".")[0].strip().lower() in RESERVED or part != part.rstrip(". "):
                raise ValueError(
                    f"{shown(name)} is not a valid file name on Windows: '{part}' is reserved, or ends with a dot or space"
                )
        path = self._inside(folder_paths.get_output_directory(), f"{stem}.safetensors")
        if problem := _write_problem(path):
            raise ValueError(f"cannot write {shown(name)} in the folder '{self.folder}': {problem}")
        return path

    def _inside(self, base: str, name: str) -> Path:
        folder = Path(base) / self.folder
        try:
            path = (folder / name).resolve()
        except (OSError, RuntimeError, ValueError):  # a loop of links, or characters that no path has
            raise ValueError(f"{shown(name)} is not a valid file name; use a plain one") from None
        if not path.is_relative_to(folder.resolve()):
            raise ValueError(f"{shown(name)} is outside the folder '{self.folder}'; use a plain file name")
        return path


def _files_in(folder: Path) -> Iterator[Path]:
    """Yield the safetensors files below a folder; what cannot be listed is left out."""
    for base, _, files in os.walk(folder):
        yield from (Path(base) / name for name in files if name.endswith(".safetensors"))


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name that no file can have
        return False


def _write_problem(path: Path) -> str | None:
    """Return why a file cannot be written, as far as that is known beforehand, or None."""
    if path.is_dir():
        return "a folder has that name"
    parent = next(parent for parent in path.parents if parent.exists())
    if not parent.is_dir():
        return f"{parent} is a file"
    return None if os.access(parent, os.W_OK) else f"{parent} is read-only"
