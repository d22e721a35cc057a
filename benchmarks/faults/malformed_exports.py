"""Exports and initial checkpoints that cannot be written as asked: one sentence, and every file stays as it was."""

from __future__ import annotations

import functools
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from tiny_wan.training_files import toml

from .cases import expect
from .training_runs import SECONDS, Inputs, Undisturbed, copy_run, expect_sentence, finish, start, start_file

Check = Callable[[Path], None]
Change = Callable[[dict[str, torch.Tensor]], object]


def exports(inputs: Inputs, undisturbed: Undisturbed) -> dict[str, Check]:
    """Return one case for each kind of target that is refused, and for weights that cannot be written."""
    checks: dict[str, Check] = {
        f"to {name}": functools.partial(_target, inputs, undisturbed, make) for name, make in TARGETS.items()
    }
    for name, make in TARGETS.items():
        if name in ("a folder", "a pipe", "the network itself"):
            checks[f"init-ppf to {name}"] = functools.partial(_initial_target, inputs, make)
    for name, change in WEIGHTS.items():
        checks[f"init-ppf of {name}"] = functools.partial(_initial, inputs, change)
    checks["a weight that fp16 cannot hold"] = functools.partial(_overflow, inputs)
    return checks


def _made(path: Path, make: Callable[[Path], object]) -> Path:
    make(path)
    return path


TARGETS: dict[str, Callable[[Path], Path]] = {
    "a folder": lambda folder: _made(folder / "to", os.mkdir),
    "a pipe": lambda folder: _made(folder / "to", os.mkfifo),
    "the network itself": lambda folder: folder / "tiny.safetensors",
    "a link to the network": lambda folder: _made(folder / "to", lambda path: path.symlink_to(folder / "tiny.safetensors")),
    "a shard of the cache": lambda folder: folder / "cache" / "shard-00000.safetensors",
    "the log of the run": lambda folder: folder / "out" / "log.jsonl",
    "a checkpoint of the run": lambda folder: next(folder.glob("out/checkpoints/*/__0_0.distcp")),
    "a folder that is a file": lambda folder: folder / "tiny.safetensors" / "to",
    "a name that is too long": lambda folder: folder / ("x" * 300),
}
WEIGHTS: dict[str, Change] = {
    "NaN in a block": lambda weights: weights["blocks.0.self_attn.q.weight"].view(-1)[:1].fill_(float("nan")),
    "a head without rows": lambda weights: weights.update({"head.head.weight": weights["head.head.weight"][:0].clone()}),
    "a head of 3 rows": lambda weights: weights.update({"head.head.weight": weights["head.head.weight"][:3].clone()}),
    "a bias of 3": lambda weights: weights.update({"patch_embedding.bias": weights["patch_embedding.bias"][:3].clone()}),
}


def _files(folder: Path) -> dict[str, tuple[int, int, int]]:
    stats = {path: path.lstat() for path in folder.rglob("*") if path.name != "out.toml"}
    return {str(path): (stat.st_ino, stat.st_size, stat.st_mtime_ns) for path, stat in stats.items()}


def _target(inputs: Inputs, undisturbed: Undisturbed, make: Callable[[Path], Path], folder: Path) -> None:
    shutil.copytree(inputs.folder / "cache", folder / "cache")
    shutil.copy(inputs.folder / "tiny.safetensors", folder)
    tables: dict[str, Any] = inputs.tables("finetune", folder / "out")
    tables["model"]["transformer"], tables["data"]["cache"] = str(folder / "tiny.safetensors"), str(folder / "cache")
    copy_run(undisturbed, folder / "out")
    toml(tables, folder / "run.toml")
    (folder / "out" / "config.toml").unlink()  # the copied run has other paths
    target = make(folder)
    before = _files(folder)
    expect_sentence(start_file("export", folder / "run.toml", "--to", str(target)).wait(SECONDS), target.name[:100])
    expect(_files(folder) == before, "files changed")


def _initial_target(inputs: Inputs, make: Callable[[Path], Path], folder: Path) -> None:
    shutil.copy(inputs.folder / "tiny.safetensors", folder)
    target = make(folder)
    before = _files(folder)
    outcome = start_file("init-ppf", folder / "tiny.safetensors", "--to", str(target)).wait(SECONDS)
    expect_sentence(outcome, target.name)
    expect(_files(folder) == before, "files changed")


def _initial(inputs: Inputs, change: Change, folder: Path) -> None:
    weights = load_file(inputs.folder / "tiny.safetensors")
    change(weights)
    save_file(weights, folder / "bad.safetensors")
    expect_sentence(start_file("init-ppf", folder / "bad.safetensors").wait(SECONDS), "bad.safetensors")
    expect([path.name for path in folder.iterdir()] == ["bad.safetensors"], "wrote something")


def _overflow(inputs: Inputs, folder: Path) -> None:
    weights = {name: value.float() for name, value in load_file(inputs.folder / "tiny.safetensors").items()}
    weights["blocks.0.ffn.0.bias"][0] = -9e4
    save_file(weights, folder / "large.safetensors")
    tables: dict[str, Any] = inputs.tables("finetune", folder / "out")
    tables["model"]["transformer"], tables["adapter"] = str(folder / "large.safetensors"), {"kind": "full"}
    tables["train"]["steps"], tables["optimizer"]["learning_rate"] = 1, 1e-6
    finish("finetune", tables)
    outcome = start("export", tables, "--precision", "fp16", "--to", str(folder / "half.safetensors")).wait(SECONDS)
    expect_sentence(outcome, "blocks.0.ffn.0.bias", "bf16")
    expect(not (folder / "half.safetensors").exists(), "wrote it")
