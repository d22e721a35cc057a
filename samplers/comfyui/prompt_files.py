"""Prompt embeddings in safetensors files, so that an 11 GB text encoder need not be loaded again.

Tensors are named ``<index>.<key>``, one index per cond; a file with the one tensor ``cross_attn`` (1, tokens, width) is
read, too. Numbers such as ``start_percent`` stand as JSON in the header.
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
    """Writes ``output/conditioning/<name>.safetensors``, whole or not at all, and returns its path."""
    path = _output_path(name)
    tensors, numbers = {}, []
    for index, (cross_attn, options) in enumerate(conditioning):
        _check_savable(options)
        found = {"cross_attn": cross_attn, **{key: options[key] for key in TENSORS[1:] if options.get(key) is not None}}
        tensors.update({f"{index}.{key}": value.detach().cpu().contiguous().clone() for key, value in found.items()})
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
    """Reads a file that ``list_conditioning`` names; ValueError in one sentence for anything unusable."""
    path = find_conditioning(name)
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dict
    except Exception as error:  # the format's own errors have no common base class
        raise ValueError(f"'{name}' is not a readable safetensors file ({error})") from None
    if "cross_attn" in tensors:
        return [[_checked(tensors["cross_attn"], name), {}]]
    numbers = _numbers(metadata, name)
    conditioning = []
    for index in range(len(numbers)):
        own = {key: tensors[f"{index}.{key}"] for key in TENSORS if f"{index}.{key}" in tensors}
        if "cross_attn" not in own:
            raise ValueError(f"'{name}' is damaged: prompt {index + 1} of {len(numbers)} has no embedding")
        cross_attn = _checked(own.pop("cross_attn"), name)
        conditioning.append([cross_attn, {**own, **numbers[index]}])
    return conditioning


def list_conditioning() -> list[str]:
    """Names for a widget: files in ``input/conditioning``, and in ``output/conditioning`` marked as the host does."""
    names = []
    for base, mark in ((folder_paths.get_input_directory(), ""), (folder_paths.get_output_directory(), " [output]")):
        folder = Path(base) / FOLDER
        names += sorted(f"{path.relative_to(folder).as_posix()}{mark}" for path in folder.rglob("*.safetensors"))
    return names


def find_conditioning(name: str) -> Path:
    """The path behind a name; never outside the two folders."""
    plain = name.removesuffix(" [output]")
    base = folder_paths.get_input_directory() if plain == name else folder_paths.get_output_directory()
    path = _inside(Path(base) / FOLDER, plain)
    if not path.is_file():
        known = ", ".join(list_conditioning()[:5]) or "none yet: 'Save Conditioning' makes them"
        raise ValueError(f"there is no conditioning file '{name}'; found are {known}")
    return path


def _output_path(name: str) -> Path:
    stem = name.strip().removesuffix(".safetensors")
    if not stem or not re.fullmatch(r"[^\x00-\x1f<>:\"|?*\\]+", stem):
        raise ValueError(f"'{name}' is not a usable file name; letters, digits, '-', '_' and '/' for folders are safe")
    return _inside(Path(folder_paths.get_output_directory()) / FOLDER, f"{stem}.safetensors")


def _inside(folder: Path, name: str) -> Path:
    path = (folder / name).resolve()
    if not path.is_relative_to(folder.resolve()):
        raise ValueError(f"'{name}' lies outside the folder '{FOLDER}'; use a plain file name")
    return path


def _check_savable(options: dict) -> None:
    foreign = [key for key, value in options.items() if value is not None and key not in (*TENSORS, *NUMBERS, *IGNORED)]
    if foreign:
        raise ValueError(
            f"only prompts can be saved; this conditioning also carries {', '.join(sorted(foreign))}: "
            "save it before images, control or hooks are added"
        )


def _numbers(metadata: dict[str, str], name: str) -> list[dict]:
    try:
        values = json.loads(metadata[METADATA_KEY])
        conds = values["conds"]
    except (KeyError, TypeError, json.JSONDecodeError):
        raise ValueError(f"'{name}' holds no conditioning: it was not made by 'Save Conditioning'") from None
    if values.get("format") != FORMAT or not conds:
        raise ValueError(f"'{name}' has conditioning format {values.get('format')!r}; this version reads {FORMAT!r}")
    return conds


def _checked(cross_attn: Tensor, name: str) -> Tensor:
    if cross_attn.ndim != 3 or not cross_attn.is_floating_point():
        raise ValueError(
            f"'{name}' holds an embedding of shape {tuple(cross_attn.shape)}; a prompt is (1, tokens, width) floating point"
        )
    return cross_attn


def name_problem(name: str, *, existing: bool = False) -> str | None:
    """What is wrong with a file name; None if nothing is."""
    try:
        find_conditioning(name) if existing else _output_path(name)
    except ValueError as error:
        return str(error)
    return None


def fingerprint(name: str) -> tuple[str, int, int]:
    """Changes when the file does."""
    status = find_conditioning(name).stat()
    return name, status.st_mtime_ns, status.st_size
