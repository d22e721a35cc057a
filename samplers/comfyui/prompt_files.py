"""Save and load prompt embeddings as safetensors files, which saves loading an 11 GB text encoder.

Tensors are named ``<index>.<key>``, with one index per cond; numbers such as ``start_percent`` are JSON in the metadata. Files
with a single tensor ``cross_attn``, ``(1, tokens, width)``, can be loaded as well.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from torch import Tensor

from ...pyramid.untrusted import first_line, read_json_object, shown
from .conditioning import NUMBERS
from .finite import NUMBERS as FLOATS
from .finite import is_finite, key_of_nan
from .user_files import UserFiles

PROMPT_FILES = UserFiles("conditioning", "Save Conditioning")
METADATA_KEY = "conditioning"
FORMAT = "1"
TENSORS = ("cross_attn", "pooled_output", "attention_mask")
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
        if (nan_key := key_of_nan([cross_attn, options])) is not None:
            raise ValueError(f"the conditioning holds NaN or infinity in '{nan_key or 'cross_attn'}'; encode the prompt again")
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
        if not is_finite(tensor):
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
        for key, tensor in options.items():
            if tensor.ndim not in (2, 3) or len(tensor) != len(cross_attn):
                raise ValueError(f"'{name}' is damaged: {index}.{key} has shape {tuple(tensor.shape)}; save the prompt again")
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
        values = read_json_object(metadata[METADATA_KEY], "the description of its prompts")
        conds = values["conds"]
    except KeyError:
        raise ValueError(f"'{name}' has no conditioning; expected a file from 'Save Conditioning'") from None
    except ValueError as error:
        raise ValueError(f"'{name}' is damaged: {first_line(error)}") from None
    if values.get("format") != FORMAT:
        raise ValueError(
            f"unsupported conditioning format {shown(values.get('format'))} in '{name}'; this version reads format {FORMAT!r}"
        )
    if not isinstance(conds, list) or not conds or not all(isinstance(cond, dict) for cond in conds):
        raise ValueError(f"'{name}' is damaged: its prompts are {shown(conds)}; save the prompt again")
    return [{key: _number(key, value, name) for key, value in cond.items()} for cond in conds]


def _number(key: str, value: Any, name: str) -> float:
    """Return one of the numbers of a prompt."""
    if key not in NUMBERS:
        raise ValueError(f"'{name}' is damaged: unknown value {shown(key)}; expected {', '.join(NUMBERS)}")
    least, most = NUMBERS[key]
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not least <= value <= most:
        raise ValueError(f"'{name}' is damaged: {key} is {shown(value)}; expected a number from {least:g} to {most:g}")
    return float(value)


def _checked(cross_attn: Tensor, name: str) -> Tensor:
    if cross_attn.ndim != 3 or cross_attn.dtype not in FLOATS or not cross_attn.numel():
        raise ValueError(
            f"'{name}' has an embedding of shape {tuple(cross_attn.shape)}; expected (1, tokens, width) in floating point"
        )
    return cross_attn
