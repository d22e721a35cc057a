"""Save and load prompt embeddings as safetensors files, which saves loading an 11 GB text encoder.

Tensors are named ``<index>.<key>``, with one index per cond; numbers such as ``start_percent`` are JSON in the metadata. Files
with a single tensor ``cross_attn``, ``(1, tokens, width)``, can be loaded as well.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from ...pyramid.untrusted import first_line, read_json_object, shown
from .conditioning import NUMBERS
from .finite import NUMBERS as FLOATS
from .finite import is_finite, key_of_nan, key_of_unusual
from .node_inputs import is_number
from .user_files import UserFiles

PROMPT_FILES = UserFiles("conditioning", "Save Conditioning")
METADATA_KEY = "conditioning"
FORMAT = "1"
TENSORS = ("cross_attn", "pooled_output", "attention_mask")
IGNORED = ("model_conds", "uuid")

MAX_KEYS = 5
"""Keys of a cond that a message names."""

Conditioning = list[list]
"""CONDITIONING: a list of ``[cross_attn, options]``."""


def save_conditioning(conditioning: Conditioning, name: str) -> Path:
    """Write ``output/conditioning/<name>.safetensors`` atomically and return its path.

    Raises:
        ValueError: The name is unusable, or the conditioning carries more than prompts, or could not be loaded again; no file
            is changed.
    """
    tensors, conds = {}, []
    for index, (cross_attn, options) in enumerate(conditioning):
        _check_savable(options)
        if (unusual := key_of_unusual([cross_attn, options])) is not None:
            raise ValueError(
                f"the conditioning holds a tensor without plain numbers in '{unusual or 'cross_attn'}'; encode the prompt again"
            )
        if (nan_key := key_of_nan([cross_attn, options])) is not None:
            raise ValueError(f"the conditioning holds NaN or infinity in '{nan_key or 'cross_attn'}'; encode the prompt again")
        saved = {"cross_attn": cross_attn, **{key: options[key] for key in TENSORS[1:] if options.get(key) is not None}}
        tensors.update({f"{index}.{key}": value for key, value in saved.items()})
        conds.append({key: options[key] for key in NUMBERS if options.get(key) is not None})
    try:
        _check_tensors(tensors)
        description = json.dumps({"format": FORMAT, "conds": [_numbers(cond) for cond in conds]})
        _conditioning(tensors, read_json_object(description, "the description of its prompts")["conds"])
    except ValueError as error:
        raise ValueError(f"this conditioning cannot be saved: {first_line(error)}; encode the prompt again") from None
    return PROMPT_FILES.write(name, tensors, {METADATA_KEY: description})


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
    conds = None if "cross_attn" in tensors else _conds(metadata, name)
    try:
        if conds is None:
            return [[_embedding(tensors["cross_attn"]), {}]]
        return _conditioning(tensors, conds)
    except ValueError as error:
        raise ValueError(f"'{name}' is damaged: {first_line(error)}; save the prompt again") from None


def _check_savable(options: dict) -> None:
    unsupported = [key for key, value in options.items() if value is not None and key not in (*TENSORS, *NUMBERS, *IGNORED)]
    if unsupported:
        keys = [key if isinstance(key, str) and key.isidentifier() else shown(key) for key in unsupported[:MAX_KEYS]]
        raise ValueError(
            f"only prompts can be saved; this conditioning also carries {', '.join(sorted(keys))}: "
            "save it before adding images, control or hooks"
        )


def _conds(metadata: dict[str, str], name: str) -> list[Any]:
    """Return the description of the prompts in a file."""
    try:
        values = read_json_object(metadata[METADATA_KEY], "the description of its prompts")
        conds = values["conds"]
    except KeyError:
        raise ValueError(f"'{name}' has no conditioning; expected a file from 'Save Conditioning'") from None
    except ValueError as error:
        raise ValueError(f"'{name}' is damaged: {first_line(error)}; save the prompt again") from None
    if values.get("format") != FORMAT:
        raise ValueError(
            f"unsupported conditioning format {shown(values.get('format'))} in '{name}'; this version reads format {FORMAT!r}"
        )
    return conds


def _conditioning(tensors: Mapping[str, Tensor], conds: Any) -> Conditioning:
    """Return the CONDITIONING that the tensors and the description of a file make.

    Raises:
        ValueError: Something is wrong; the message is a reason, without the name of the file.
    """
    if not isinstance(conds, list) or not conds or not all(isinstance(cond, dict) for cond in conds):
        raise ValueError(f"its prompts are {shown(conds)}")
    _check_tensors(tensors)
    conditioning = []
    for index, numbers in enumerate(conds):
        options = {key: tensors[f"{index}.{key}"] for key in TENSORS if f"{index}.{key}" in tensors}
        if "cross_attn" not in options:
            raise ValueError(f"prompt {index + 1} of {len(conds)} has no embedding")
        cross_attn = _embedding(options.pop("cross_attn"))
        for key, tensor in options.items():
            if tensor.ndim not in (2, 3) or len(tensor) != len(cross_attn):
                raise ValueError(
                    f"{index}.{key} has shape {tuple(tensor.shape)}; expected 2 or 3 dimensions, the first of {len(cross_attn)}"
                )
        conditioning.append([cross_attn, {**options, **_numbers(numbers)}])
    return conditioning


def _check_tensors(tensors: Mapping[str, Any]) -> None:
    for key, value in tensors.items():
        if not isinstance(value, Tensor) or value.is_complex():
            got = "a tensor of complex numbers" if isinstance(value, Tensor) else shown(value)
            raise ValueError(f"{key} is {got}; expected a tensor of numbers")


def _numbers(cond: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers of a prompt."""
    return {key: _number(key, value) for key, value in cond.items()}


def _number(key: str, value: Any) -> float:
    if key not in NUMBERS:
        raise ValueError(f"unknown value {shown(key)}; expected {', '.join(NUMBERS)}")
    least, most = NUMBERS[key]
    number: Any = value.item() if isinstance(value, Tensor) and value.numel() == 1 else value
    if isinstance(number, bool) or not is_number(number) or not least <= number <= most:
        raise ValueError(f"{key} is {shown(value)}; expected a number from {least:g} to {most:g}")
    return float(number)


def _embedding(cross_attn: Tensor) -> Tensor:
    if cross_attn.ndim != 3 or cross_attn.dtype not in FLOATS or not cross_attn.numel():
        raise ValueError(f"an embedding of shape {tuple(cross_attn.shape)}; expected (1, tokens, width) in floating point")
    return cross_attn
