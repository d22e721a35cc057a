"""Digests of files and tensors, to recognise what a run was made with and to detect damage."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from ..files import check_regular

BLOCK = 2**22


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file's contents, in hexadecimal.

    Raises:
        OSError: It cannot be read, or is not a file.
    """
    check_regular(path)
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()


def files_digest(paths: Sequence[Path]) -> str:
    """Return a digest of the contents of several files, in their order; 16 hexadecimal digits. Names do not count."""
    digest = hashlib.sha256()
    for path in paths:
        digest.update(file_digest(path).encode())
    return digest.hexdigest()[:16]


def tensor_checksum(tensor: Tensor) -> int:
    """Return the CRC-32 of a tensor's elements."""
    flat = tensor.detach().cpu().contiguous().flatten()
    return zlib.crc32(memoryview(flat.view(torch.uint8).numpy()))  # pyright: ignore[reportArgumentType]
