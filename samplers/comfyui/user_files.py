"""Safetensors files that artists save and load by name, in ComfyUI's input and output folders."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import folder_paths
import safetensors
from torch import Tensor

from .safetensors_file import write_safetensors

OUTPUT_MARK = " [output]"
"""ComfyUI's mark of file names in the output folder."""


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
            names += sorted(f"{path.relative_to(folder).as_posix()}{mark}" for path in folder.rglob("*.safetensors"))
        return names

    def find(self, name: str) -> Path:
        """Return the path of a file.

        Raises:
            ValueError: There is no such file, or the name leads outside the two folders.
        """
        plain = name.removesuffix(OUTPUT_MARK)
        base = folder_paths.get_input_directory() if plain == name else folder_paths.get_output_directory()
        path = self._inside(base, plain)
        if not path.is_file():
            known = ", ".join(self.names()[:5]) or f"a file from '{self.saved_by}', of which there are none"
            raise ValueError(f"unknown file '{name}' in the folder '{self.folder}'; expected {known}")
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

    def fingerprint(self, name: str) -> tuple[str, int, int]:
        """Return a value that changes with the file."""
        status = self.find(name).stat()
        return name, status.st_mtime_ns, status.st_size

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
        path = self.find(name)
        try:
            with safetensors.safe_open(path, framework="pt") as file:
                return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}  # noqa: SIM118 - not a dict
        except Exception as error:  # safetensors errors have no common base class
            raise ValueError(f"'{name}' is not a readable safetensors file ({error})") from None

    def _target(self, name: str) -> Path:
        stem = name.strip().removesuffix(".safetensors")
        if not stem or not re.fullmatch(r"[^\x00-\x1f<>:\"|?*\\]+", stem):
            raise ValueError(f"'{name}' is not a valid file name; use letters, digits, '-', '_', and '/' for folders")
        return self._inside(folder_paths.get_output_directory(), f"{stem}.safetensors")

    def _inside(self, base: str, name: str) -> Path:
        folder = Path(base) / self.folder
        path = (folder / name).resolve()
        if not path.is_relative_to(folder.resolve()):
            raise ValueError(f"'{name}' is outside the folder '{self.folder}'; use a plain file name")
        return path
