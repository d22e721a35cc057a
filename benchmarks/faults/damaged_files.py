"""Safetensors files with one thing wrong: in their bytes, their header, the JSON of their metadata, or their tensors."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from .malformed_values import with_bad_number

DEEP = 100_000
"""Brackets inside one another, more than Python's parser of JSON follows."""

JSON_TEXTS = (
    "null", "true", "-1", "0", "3", "1e400", "NaN", "-Infinity", '""', '"abc"', "[]", "{}", "[" * DEEP + "]" * DEEP,
    "9" * 5000,
    "[" + "0.5," * 200_000 + "0.5]", "[[0.5]]", '{"a":{}}', "1e-320", "100000000000000000000", '"\\ud800"', "[1e12]",
    "[-1]", "0.5",
)  # fmt: skip


def damage(path: Path, rng: random.Random) -> str:
    """Damage a file in place, and describe the damage."""
    ways = (_bytes, _header, _metadata, _tensors, _not_a_file)
    return rng.choices(ways, (1, 1, 3, 2, 1))[0](path, rng)


def _bytes(path: Path, rng: random.Random) -> str:
    data = bytearray(path.read_bytes())
    way = rng.choice(["truncated", "empty", "flipped", "random", "pickle", "text", "zeros"])
    if way == "truncated":
        data = data[: rng.randrange(len(data))]
    elif way == "flipped":
        for _ in range(rng.choice([1, 8])):
            data[rng.randrange(min(len(data), 2000))] ^= 1 << rng.randrange(8)
    elif way == "zeros":
        data[:] = bytes(len(data))
    else:
        data = bytearray({"empty": b"", "random": rng.randbytes(3000), "pickle": b"\x80\x04cos\nsystem\n.", "text": b"\n"}[way])
    path.write_bytes(data)
    return f"bytes {way}"


def _header(path: Path, rng: random.Random) -> str:
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    way = rng.choice(["huge length", "bomb of spaces", "bomb of names", "deep", "overlap", "not an object", "sparse"])
    if way == "huge length":
        path.write_bytes(rng.choice([2**63, 2**40, len(data) * 2]).to_bytes(8, "little") + data[8:])
        return way
    if way == "sparse":
        with path.open("wb") as file:
            file.write((90 << 20).to_bytes(8, "little"))
            file.truncate(95 << 20)
        return way
    if way == "bomb of spaces":
        header = data[8 : 8 + length] + b" " * (20 << 20)
    elif way == "bomb of names":
        empty = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
        header = json.dumps({str(number): empty for number in range(200_000)}).encode()
    elif way == "deep":
        header = b'{"__metadata__":' + b"[" * DEEP
    else:
        header = data[8 : 8 + length].replace(b"[0,", b"[4,") if way == "overlap" else b"[1, 2, 3]"
    path.write_bytes(len(header).to_bytes(8, "little") + header + data[8 + length :])
    return way


def _metadata(path: Path, rng: random.Random) -> str:
    tensors, metadata = load_file(path), _metadata_of(path)
    if not metadata:
        return _tensors(path, rng)
    key = rng.choice(sorted(metadata))
    if rng.random() < 0.15:
        del metadata[key]
        how = "removed"
    elif rng.random() < 0.2:
        metadata[key] = rng.choice([*JSON_TEXTS, "", "{", "\x00"])
        how = metadata[key]
    else:
        metadata[key], how = _with_other_value(metadata[key], rng)
    save_file(tensors, path, metadata or None)
    return f"metadata {key}: {how[:60]}"


def _metadata_of(path: Path) -> dict[str, str]:
    with safe_open(path, framework="pt") as file:
        return file.metadata() or {}


def _with_other_value(text: str, rng: random.Random) -> tuple[str, str]:
    """Return JSON with one value at a random place exchanged, and where; strings that hold JSON are entered, too."""
    try:
        values = json.loads(text)
    except ValueError:
        return "}", "not JSON"
    entries = list(_entries(values))
    if not entries:
        return rng.choice(JSON_TEXTS), "all"
    holder, key = rng.choice(entries)
    if isinstance(holder[key], str) and holder[key].startswith("{"):
        holder[key], how = _with_other_value(holder[key], rng)
        return json.dumps(values), how
    if rng.random() < 0.2 and isinstance(holder, dict):
        del holder[key]
        return json.dumps(values), f"{key} removed"
    new = rng.choice(JSON_TEXTS)
    holder[key] = "@@"
    return json.dumps(values).replace('"@@"', new), f"{key} is {new[:40]}"


def _entries(value: Any) -> Any:
    for key, item in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield value, key
        yield from _entries(item)


def _tensors(path: Path, rng: random.Random) -> str:
    tensors, metadata = load_file(path), _metadata_of(path)
    name = rng.choice(sorted(tensors))
    tensor = tensors[name]
    shape = tensor.shape
    changes: dict[str, Callable[[], Any]] = {
        "removed": lambda: None,
        "not finite": lambda: with_bad_number(tensor, rng) if tensor.numel() else tensor,
        "huge": lambda: torch.full_like(tensor.float(), 3e38),
        "flat": lambda: tensor.flatten(),
        "scalar": lambda: torch.tensor(1.0),
        "empty": lambda: torch.zeros(0),
        "no rows": lambda: torch.zeros(0, *shape[1:]),
        "no columns": lambda: torch.zeros(*shape[:-1], 0),
        "one more axis": lambda: tensor[None].clone(),
        "another size": lambda: torch.zeros(*[side + 1 for side in shape]),
        "integers": lambda: torch.ones(shape, dtype=torch.int64),
        "booleans": lambda: torch.ones(shape, dtype=torch.bool),
        "complex": lambda: torch.ones(shape, dtype=torch.complex64),
        "eight bits": lambda: torch.ones(shape).to(torch.float8_e4m3fn),
    }
    way = rng.choice(sorted(changes))
    changed = changes[way]()
    others = {key: value for key, value in tensors.items() if key != name}
    save_file(others if changed is None else {**others, name: changed}, path, metadata or None)
    return f"tensor {name} {way}"


def _not_a_file(path: Path, rng: random.Random) -> str:
    import os

    path.unlink()
    way = rng.choice(["a folder", "a loop of links", "a link to nothing", "a pipe", "a device"])
    if way == "a folder":
        path.mkdir()
    elif way == "a pipe":
        os.mkfifo(path)
    else:
        path.symlink_to({"a loop of links": path, "a link to nothing": path.with_name("nothing"), "a device": "/dev/zero"}[way])
    return way
