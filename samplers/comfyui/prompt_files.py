"""Save and load prompt embeddings as safetensors files, which saves loading an 11 GB text encoder.

Tensors are named ``<index>.<key>``, with one index per cond; numbers such as ``start_percent`` are JSON in the metadata. Files
with a single tensor ``cross_attn``, ``(1, tokens, width)``, can be loaded as well.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .user_files import UserFiles

PROMPT_FILES = UserFiles("conditioning", "Save Conditioning")
METADATA_KEY = "conditioning"
FORMAT = "1"
TENSORS = ("cross_attn", "pooled_output", "attention_mask")
NUMBERS = ("start_percent", "end_percent", "strength")
IGNORED = ("model_conds", "uuid")

Conditioning = list[list]
"""CONDITIONING: a list of ``[cross_attn, options]``."""


def save_conditioning(conditioning: Conditioning, name: str) -> Path:
    """Write ``output/conditioning/<name>.safetensors`` atomically and return its path.

    Raises:
        ValueError: The name is unusable, or the conditioning carries more than prompts.
    """
    tensors, numbers = {}, []
    for index, (cross_attn, options) in enumerate(conditioning):
        _check_savable(options)
        saved = {"cross_attn": cross_attn, **{key: options[key] for key in TENSORS[1:] if options.get(key) is not None}}
        tensors.update({f"{index}.{key}": value for key, value in saved.items()})
        numbers.append({key: float(options[key]) for key in NUMBERS if key in options})
    metadata = {METADATA_KEY: json.dumps({"format": FORMAT, "conds": numbers})}
    return PROMPT_FILES.write(name, tensors, metadata)


def load_conditioning(name: str) -> Conditioning:
    """Return the CONDITIONING in a file.

    Args:
        name: One of ``PROMPT_FILES.names()``.

    Raises:
        ValueError: The file does not exist or holds no valid conditioning.
    """
    tensors, metadata = PROMPT_FILES.read(name)
    for key, tensor in tensors.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise ValueError(f"'{name}' holds NaN or infinity in '{key}'; encode the prompt again and save it")
    if "cross_attn" in tensors:
        return [[_checked(tensors["cross_attn"], name), {}]]
    numbers = _numbers(metadata, name)
    conditioning = []
    for index in range(len(numbers)):
        options = {key: tensors[f"{index}.{key}"] for key in TENSORS if f"{index}.{key}" in tensors}
        if "cross_attn" not in options:
            raise ValueError(f"'{name}' is damaged: prompt {index + 1} of {len(numbers)} has no embedding")
        cross_attn = _checked(options.pop("cross_attn"), name)
        conditioning.append([cross_attn, {**options, **numbers[index]}])
    return conditioning


def _check_savable(options: dict) -> None:
    unsupported = [key for key, value in options.items() if value is not None and key not in (*TENSORS, *NUMBERS, *IGNORED)]
    if unsupported:
        raise ValueError(
            f"only prompts can be saved; this conditioning also carries {', '.join(sorted(unsupported))}: "
            "save it before adding images, control or hooks"
        )


def _numbers(metadata: dict[str, str], name: str) -> list[dict[str, Any]]:
    try:
        values = json.loads(metadata[METADATA_KEY])
        conds = values["conds"]
    except (KeyError, TypeError, json.JSONDecodeError):
        raise ValueError(f"'{name}' has no conditioning; expected a file from 'Save Conditioning'") from None
    if values.get("format") != FORMAT or not conds:
        raise ValueError(
            f"unsupported conditioning format {values.get('format')!r} in '{name}'; this version reads format {FORMAT!r}"
        )
    for cond in conds:
        for key, value in cond.items():
            if not isinstance(value, (int, float)) or not math.isfinite(value):
                raise ValueError(f"'{name}' is damaged: {key} is {value!r}; expected a number")
    return conds


def _checked(cross_attn: Tensor, name: str) -> Tensor:
    if cross_attn.ndim != 3 or not cross_attn.is_floating_point():
        raise ValueError(
            f"'{name}' has an embedding of shape {tuple(cross_attn.shape)}; expected (1, tokens, width) in floating point"
        )
    return cross_attn
