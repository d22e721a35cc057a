"""Prompts as conditioning: a seeded, fixed table of word embeddings in the width of Wan's text encoder.

A text encoder's vector for a word depends on the sentence: "left" has different vectors after "moving" and after "on the". The
table has the same property, because it has one vector for every (attribute, word). A caption is its six attribute words. The
empty prompt (the unconditional one of classifier-free guidance) is six times the word "empty": both have the same length, so
ComfyUI runs them in one batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING
from zlib import crc32

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from .grammar import ATTRIBUTES, Caption, parse

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

TEXT_WIDTH = 4096
TEXT_LENGTH = len(ATTRIBUTES)
TABLE_SEED = 20260104
EMPTY = ("prompt", "empty")


@cache
def word_vector(attribute: str, word: str) -> Tensor:
    """Return the vector of a word, (4096,), standard normal: a function of the arguments and `TABLE_SEED` alone."""
    rng = np.random.default_rng(np.random.SeedSequence([TABLE_SEED, crc32(f"{attribute}:{word}".encode())]))
    return torch.from_numpy(rng.standard_normal(TEXT_WIDTH, dtype=np.float32))


def embed_words(caption: DataclassInstance | None, *, length: int) -> Tensor:
    """Return the conditioning of a caption of any world, or of the empty prompt: (length, 4096).

    Args:
        caption: A dataclass whose fields are the attributes; None is the empty prompt.
        length: Number of the world's attributes.
    """
    words = [(field.name, getattr(caption, field.name)) for field in fields(caption)] if caption else [EMPTY] * length
    return torch.stack([word_vector(*word) for word in words])


def embed(caption: Caption | str | None) -> Tensor:
    """Return the conditioning of a caption, a prompt, or (None or "") the empty prompt: (6, 4096)."""
    if isinstance(caption, str):
        caption = parse(caption) if caption.strip() else None
    return embed_words(caption, length=TEXT_LENGTH)


def embed_all(captions: Sequence[Caption | str | None]) -> Tensor:
    """Return the conditioning of several captions or prompts: (B, 6, 4096)."""
    return torch.stack([embed(caption) for caption in captions])


def save_conditioning(path: Path, prompt: str) -> None:
    """Write a prompt as a file for the 'Load Conditioning' node: safetensors, tensor `cross_attn` (1, 6, 4096)."""
    save_file(
        {"cross_attn": embed(prompt)[None].contiguous()}, path, metadata={"prompt": prompt, "table_seed": str(TABLE_SEED)}
    )
