"""Read untrusted safetensors files within limits, and write the pack's own atomically."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import safetensors
import safetensors.torch
from torch import Tensor

from ...pyramid.untrusted import first_line
from .atomic_file import atomic_file

MAX_HEADER = 16 << 20
"""Bytes of a header: that of a large LoRA with the tags of its training images has a few million."""

ENDINGS = (".safetensors", ".sft")

Result = TypeVar("Result")


def file_problem(path: str | Path) -> str | None:
    """Return why a model file cannot be read, as far as cheap checks show, or None.

    The parsers of PyTorch and safetensors would read headers of any length.
    """
    path = Path(path)
    try:
        if not path.is_file():
            return "it is not a file"
        if path.suffix.lower() not in ENDINGS:
            return None
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
        size = path.stat().st_size
    except OSError as error:
        return error.strerror or first_line(error)
    if size < 8 or length > size - 8:
        return "it is damaged, or only part of it was copied"
    return f"its header has {length} bytes; expected at most {MAX_HEADER}" if length > MAX_HEADER else None


def read_metadata(path: str | Path, what: str) -> dict[str, str]:
    """Return the metadata of a safetensors file.

    Args:
        path: The file.
        what: The name of the file in messages.

    Raises:
        ValueError: It cannot be read.
    """
    return _opened(path, what, lambda file: file.metadata() or {})


def read_safetensors(
    path: str | Path, what: str, *, keep: Callable[[str], bool] | None = None
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors and the metadata of a file.

    Args:
        path: The file.
        what: The name of the file in messages.
        keep: Chooses tensors by name; the others are not read. None reads all.

    Raises:
        ValueError: It cannot be read.
    """

    def read(file: Any) -> tuple[dict[str, Tensor], dict[str, str]]:
        return {key: file.get_tensor(key) for key in file.keys() if keep is None or keep(key)}, file.metadata() or {}

    return _opened(path, what, read)


def _opened(path: str | Path, what: str, read: Callable[[Any], Result]) -> Result:
    problem = file_problem(path)
    if problem is None:
        try:
            with safetensors.safe_open(path, framework="pt") as file:
                return read(file)
        except Exception as error:  # safetensors errors have no common base class
            problem = first_line(error)
    raise ValueError(f"{what} is not a readable safetensors file ({problem})")


def write_safetensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write a file atomically: after a crash ``path`` holds its old contents or the new ones. The folder is created.

    Raises:
        ValueError: The disk is full, the folder is read-only, or something else is in the way; ``path`` is unchanged.
    """
    copies = {key: value.detach().cpu().contiguous().clone() for key, value in tensors.items()}
    try:
        with atomic_file(path) as partial:
            safetensors.torch.save_file(copies, partial, metadata=dict(metadata))
    except Exception as error:  # safetensors errors have no common base class
        reason = error.strerror if isinstance(error, OSError) and error.strerror else first_line(error)
        raise ValueError(f"cannot write '{path.name}' in {path.parent} ({reason}); free space or allow writing there") from None
