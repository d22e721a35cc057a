"""Save and load prompt embeddings as safetensors files, which saves loading an 11 GB text encoder.

Tensors are named ``<index>.<key>``, with one index per cond; numbers such as ``start_percent`` are JSON in the metadata. Files
with a single tensor ``cross_attn``, ``(1, tokens, width)``, can be loaded as well.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import folder_paths
import safetensors
import safetensors.torch
from torch import Tensor

FOLDER = "conditioning"
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
    path = _output_path(name)
    tensors, numbers = {}, []
    for index, (cross_attn, options) in enumerate(conditioning):
        _check_savable(options)
        saved = {"cross_attn": cross_attn, **{key: options[key] for key in TENSORS[1:] if options.get(key) is not None}}
        tensors.update({f"{index}.{key}": value.detach().cpu().contiguous().clone() for key, value in saved.items()})
        numbers.append({key: float(options[key]) for key in NUMBERS if key in options})
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(f".{os.getpid()}.part")
    metadata = {METADATA_KEY: json.dumps({"format": FORMAT, "conds": numbers})}
    try:
        safetensors.torch.save_file(tensors, part, metadata=metadata)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
    return path


def load_conditioning(name: str) -> Conditioning:
    """Return the CONDITIONING in a file.

    Args:
        name: One of ``list_conditioning``.

    Raises:
        ValueError: The file does not exist or holds no valid conditioning.
    """
    path = find_conditioning(name)
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dict
    except Exception as error:  # safetensors errors have no common base class
        raise ValueError(f"'{name}' is not a readable safetensors file ({error})") from None
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


def list_conditioning() -> list[str]:
    """Return the files in ``input/conditioning``, and those in ``output/conditioning`` with ComfyUI's mark " [output]"."""
    names = []
    for base, mark in ((folder_paths.get_input_directory(), ""), (folder_paths.get_output_directory(), " [output]")):
        folder = Path(base) / FOLDER
        names += sorted(f"{path.relative_to(folder).as_posix()}{mark}" for path in folder.rglob("*.safetensors"))
    return names


def find_conditioning(name: str) -> Path:
    """Return the path of a conditioning file.

    Raises:
        ValueError: There is no such file, or the name leads outside the two folders.
    """
    plain = name.removesuffix(" [output]")
    base = folder_paths.get_input_directory() if plain == name else folder_paths.get_output_directory()
    path = _inside(Path(base) / FOLDER, plain)
    if not path.is_file():
        known = ", ".join(list_conditioning()[:5]) or "a file from 'Save Conditioning', of which there are none"
        raise ValueError(f"unknown conditioning file '{name}'; expected {known}")
    return path


def _output_path(name: str) -> Path:
    stem = name.strip().removesuffix(".safetensors")
    if not stem or not re.fullmatch(r"[^\x00-\x1f<>:\"|?*\\]+", stem):
        raise ValueError(f"'{name}' is not a valid file name; use letters, digits, '-', '_', and '/' for folders")
    return _inside(Path(folder_paths.get_output_directory()) / FOLDER, f"{stem}.safetensors")


def _inside(folder: Path, name: str) -> Path:
    path = (folder / name).resolve()
    if not path.is_relative_to(folder.resolve()):
        raise ValueError(f"'{name}' is outside the folder '{FOLDER}'; use a plain file name")
    return path


def _check_savable(options: dict) -> None:
    unsupported = [key for key, value in options.items() if value is not None and key not in (*TENSORS, *NUMBERS, *IGNORED)]
    if unsupported:
        raise ValueError(
            f"only prompts can be saved; this conditioning also carries {', '.join(sorted(unsupported))}: "
            "save it before adding images, control or hooks"
        )


def _numbers(metadata: dict[str, str], name: str) -> list[dict]:
    try:
        values = json.loads(metadata[METADATA_KEY])
        conds = values["conds"]
    except (KeyError, TypeError, json.JSONDecodeError):
        raise ValueError(f"'{name}' has no conditioning; expected a file from 'Save Conditioning'") from None
    if values.get("format") != FORMAT or not conds:
        raise ValueError(
            f"unsupported conditioning format {values.get('format')!r} in '{name}'; this version reads format {FORMAT!r}"
        )
    return conds


def _checked(cross_attn: Tensor, name: str) -> Tensor:
    if cross_attn.ndim != 3 or not cross_attn.is_floating_point():
        raise ValueError(
            f"'{name}' has an embedding of shape {tuple(cross_attn.shape)}; expected (1, tokens, width) in floating point"
        )
    return cross_attn


def name_problem(name: str, *, existing: bool = False) -> str | None:
    """Return the error in a file name, or None."""
    try:
        find_conditioning(name) if existing else _output_path(name)
    except ValueError as error:
        return str(error)
    return None


def fingerprint(name: str) -> tuple[str, int, int]:
    """Return a value that changes with the file."""
    status = find_conditioning(name).stat()
    return name, status.st_mtime_ns, status.st_size
