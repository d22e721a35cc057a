"""Read files of other programs, and report what is wrong with one in a sentence."""

from __future__ import annotations

import json
import pickle
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from ..untrusted import decode, first_line
from .engine.atomic import atomic_file, check_target

MAX_TEXT = 2**26
"""Bytes of the largest JSON or TOML file that is read; a larger one cannot be a configuration."""
MAX_DIGITS = 40
"""Digits of the longest whole number that is read; a seed has 20."""
DAMAGE = (SafetensorError, OSError, ValueError, KeyError, TypeError, AttributeError, IndexError, RuntimeError, EOFError,
          MemoryError, ArithmeticError, ImportError, pickle.UnpicklingError)  # fmt: skip
"""Exceptions that readers of other packages raise for a damaged file or one of another kind."""


def check_regular(path: Path) -> None:
    """Check that a path is a file: pipes and devices have no end.

    Raises:
        OSError: It does not exist, or is something else.
    """
    mode = path.stat().st_mode
    if not stat.S_ISREG(mode):
        raise OSError("is a folder" if stat.S_ISDIR(mode) else "is not a file but a pipe, socket or device")


def read_limited(path: Path, limit: int = MAX_TEXT) -> bytes:
    """Return the contents of a small file.

    Raises:
        OSError: It cannot be read, or is not a file.
        ValueError: It is larger than ``limit`` bytes.
    """
    check_regular(path)
    with path.open("rb") as file:
        contents = file.read(limit + 1)
    if len(contents) > limit:
        raise ValueError(f"is larger than {limit} bytes")
    return contents


def parse_json(text: str) -> Any:
    """Parse untrusted JSON.

    Raises:
        ValueError: It is not JSON, is nested too deeply, or holds a number of too many digits.
    """
    try:
        return json.loads(text, parse_int=whole_number)
    except json.JSONDecodeError as error:
        raise ValueError(f"is not valid JSON ({error})") from None
    except RecursionError:
        raise ValueError("is nested too deeply") from None


def whole_number(text: str) -> int:
    """Return the number in a text of digits.

    Raises:
        ValueError: It has too many.
    """
    if len(text) > MAX_DIGITS:
        raise ValueError(f"holds a number of {len(text)} digits; at most {MAX_DIGITS} are allowed")
    return int(text)


def read_json(path: Path, kind: str) -> dict[str, Any]:
    """Return the object in a JSON file.

    Args:
        path: The file.
        kind: What it is, for the message: "the configuration of a transformer".

    Raises:
        ValueError: The file cannot be read, or holds something else.
    """
    with opening(path, kind):
        values = parse_json(decode(read_limited(path)))
        if not isinstance(values, dict):
            raise ValueError(f"holds a {type(values).__name__} instead of an object")
        return values


@contextmanager
def opening(path: Path, kind: str) -> Iterator[None]:
    """Turn every error that a damaged or wrong file causes inside the ``with`` block into a sentence.

    Args:
        path: The file or folder.
        kind: What it should be: "a Wan 2.1 VAE".

    Raises:
        ValueError: The block raised; the message names the path and the reason.
    """
    try:
        yield
    except FileNotFoundError as error:
        raise ValueError(f"{path} cannot be read as {kind}: {error.filename or path} is missing") from None
    except DAMAGE as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else first_line(error)
        raise ValueError(f"{path} cannot be read as {kind}: {reason}") from None


def check_finite(weights: Mapping[str, Tensor], path: Path) -> None:
    """Check weights for NaN and infinity.

    Raises:
        ValueError: A weight is not finite.
    """
    for name, weight in weights.items():
        if weight.is_floating_point() and not weight.isfinite().all():
            raise ValueError(f"{path} holds NaN or infinity in '{name}'; use an undamaged file of this model")


def check_output(path: Path, inputs: Mapping[str, Sequence[Path]]) -> None:
    """Check that a file can be written without replacing something else than an earlier output.

    Args:
        path: The file to write.
        inputs: Files that must stay as they are, by what they are.

    Raises:
        ValueError: It is one of these files, or a folder, a pipe or a device.
    """
    check_target(path)
    if not path.exists():
        return
    for name, files in inputs.items():
        if any(file.exists() and path.samefile(file) for file in files):
            raise ValueError(f"{path} is {name} and would be replaced; name another file")


def write_tensors(tensors: dict[str, Tensor], path: Path, metadata: dict[str, str]) -> None:
    """Write a safetensors file atomically.

    Raises:
        OSError: It cannot be written.
    """
    with atomic_file(path) as partial:
        try:
            save_file(tensors, partial, metadata=metadata)
        except SafetensorError as error:
            raise OSError(f"{path} cannot be written: {first_line(error)}") from None


def printable(text: str) -> str:
    """Return a name or message with escapes in place of line breaks, control characters and undecodable bytes."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)
