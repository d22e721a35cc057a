"""Checkpoints and caches that were damaged after they were written."""

from __future__ import annotations

import functools
import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pyramid.training.data.cache_files import Cache, CachedItem, write_info, write_shard
from tiny_wan import training_files as tiny

from .cases import expect
from .training_runs import (
    SECONDS,
    Inputs,
    Undisturbed,
    copy_run,
    expect_same,
    expect_sentence,
    finish,
    start,
)

Check = Callable[[Path], None]
Damage = Callable[[Path, random.Random], object]
DAMAGES: dict[str, Damage] = {
    "removed": lambda path, drawn: path.unlink(),
    "emptied": lambda path, drawn: os.truncate(path, 0),
    "cut off": lambda path, drawn: os.truncate(path, path.stat().st_size // 2),
    "longer": lambda path, drawn: path.write_bytes(path.read_bytes() + b"\0"),
    "zeros at its end": lambda path, drawn: _overwrite(path, path.stat().st_size // 2, None),
    "one bit": lambda path, drawn: _overwrite(path, drawn.randrange(path.stat().st_size), 1),
}
FILES = ("__0_0.distcp", ".metadata", "notes.json", "checksums.json")


def _as_pipe(path: Path) -> None:
    path.unlink(missing_ok=True)
    os.mkfifo(path)


def _overwrite(path: Path, position: int, length: int | None) -> None:
    contents = bytearray(path.read_bytes())
    if length is None:
        contents[position:] = bytes(len(contents) - position)
    else:
        contents[position] ^= 1
    path.write_bytes(bytes(contents))


def checkpoints(inputs: Inputs, undisturbed: Undisturbed, seed: int) -> dict[str, Check]:
    """Return one case for each damage of each file of the newest checkpoint, and some of all checkpoints."""
    checks: dict[str, Check] = {}
    for file in FILES:
        for name, damage in {**DAMAGES, "a pipe": lambda path, drawn: _as_pipe(path)}.items():
            drawn = random.Random(f"{seed} {file} {name}")
            checks[f"{file}, {name}"] = functools.partial(_newest, inputs, undisturbed, file, damage, drawn)
    for name, damage in {**DAMAGES, "no checksums": lambda path, drawn: (path.parent / "checksums.json").unlink()}.items():
        drawn = random.Random(f"{seed} all {name}")
        checks[f"all of them, {name}"] = functools.partial(_all, inputs, undisturbed, damage, drawn)
        checks[f"export, {name}"] = functools.partial(_export, inputs, undisturbed, damage, drawn)
    for name in TAKEN:
        for kind, make in {"a file": lambda path: path.write_text("x"), "a folder": os.mkdir, "a pipe": os.mkfifo}.items():
            if kind != TAKEN[name]:
                checks[f"{name} is {kind}"] = functools.partial(_taken, inputs, name, make)
    for name, contents in (("config.toml", "out = "), ("inputs.json", "{"), ("inputs.json", "[]"), ("inputs.json", "{}")):
        checks[f"{name} is {contents}"] = functools.partial(_run_file, inputs, undisturbed, name, contents)
    checks["the log is binary"] = functools.partial(_log, inputs, undisturbed)
    for name in ("model.transformer", "data.cache"):
        checks[f"resumed with another {name}"] = functools.partial(_other_input, inputs, undisturbed, name)
    return checks


def _run(inputs: Inputs, undisturbed: Undisturbed, folder: Path) -> dict[str, Any]:
    """Copy a run that ended; return the configuration of the copy."""
    copy_run(undisturbed, folder / "out")
    return inputs.tables("finetune", folder / "out")


def _steps(tables: dict[str, Any]) -> list[Path]:
    steps = sorted(Path(tables["out"], "checkpoints").glob("step-????????"))
    expect(len(steps) == 2, f"expected a best and a newest checkpoint, there are {len(steps)}")
    return steps


def _newest(inputs: Inputs, undisturbed: Undisturbed, file: str, damage: Damage, drawn: random.Random, folder: Path) -> None:
    tables = _run(inputs, undisturbed, folder)
    newest = _steps(tables)[-1]
    damage(newest / file, drawn)
    outcome = finish("finetune", tables)
    expect("is damaged" in outcome.output and "resuming from step" in outcome.output, "did not say so")
    shutil.rmtree(newest.with_name(newest.name + ".damaged"), ignore_errors=True)
    expect_same("finetune", tables, undisturbed)


def _all(inputs: Inputs, undisturbed: Undisturbed, damage: Damage, drawn: random.Random, folder: Path) -> None:
    tables = _run(inputs, undisturbed, folder)
    for step in _steps(tables):
        damage(step / "__0_0.distcp", drawn)
    before = [step.name for step in _steps(tables)]
    expect_sentence(start("finetune", tables).wait(SECONDS), "all checkpoints", "damaged")
    expect(before == [step.name for step in _steps(tables)], "checkpoints disappeared")


def _export(inputs: Inputs, undisturbed: Undisturbed, damage: Damage, drawn: random.Random, folder: Path) -> None:
    tables = _run(inputs, undisturbed, folder)
    best = _steps(tables)[0]
    damage(best / "__0_0.distcp", drawn)
    shutil.rmtree(Path(tables["out"], "export"))
    expect_sentence(start("export", tables).wait(SECONDS), "damaged", "--step")
    expect(not Path(tables["out"], "export").exists(), "exported something")


def _run_file(inputs: Inputs, undisturbed: Undisturbed, name: str, contents: str, folder: Path) -> None:
    tables = _run(inputs, undisturbed, folder)
    Path(tables["out"], name).write_text(contents)
    expect_sentence(start("finetune", tables).wait(SECONDS), "out")
    expect(len(_steps(tables)) == 2, "checkpoints disappeared")


TAKEN = {"checkpoints": "a folder", "samples": "a folder", "export": "a folder", "tensorboard": "a folder",
         "log.jsonl": "a file", "lock": "a file", "config.toml": "a file", "inputs.json": "a file"}  # fmt: skip
"""Names in the folder of a run, and what may be there before it starts."""


def _taken(inputs: Inputs, name: str, make: Callable[[Path], object], folder: Path) -> None:
    """Start a run whose name in the folder is taken by something else: it ends before its first step."""
    tables = inputs.tables("finetune", folder / "out")
    (folder / "out").mkdir()
    make(folder / "out" / name)
    outcome = start("finetune", tables).wait(SECONDS)
    expect_sentence(outcome, name)
    expect('"step"' not in outcome.output, "trained")


def _log(inputs: Inputs, undisturbed: Undisturbed, folder: Path) -> None:
    tables = _run(inputs, undisturbed, folder)
    with Path(tables["out"], "log.jsonl").open("ab") as file:
        file.write(bytes(range(256)))
    finish("finetune", tables)
    expect_same("finetune", tables, undisturbed)


def _other_input(inputs: Inputs, undisturbed: Undisturbed, name: str, folder: Path) -> None:
    """Replace the contents of an input under the same name, in a copy of the inputs, and resume."""
    shutil.copytree(inputs.folder, folder / "inputs", ignore=shutil.ignore_patterns("undisturbed*", "out*"))
    copied, out = Inputs(folder / "inputs"), folder / "out"
    tables = copied.tables("finetune", out)
    tables["train"]["steps"] = 1
    finish("finetune", tables)
    if name == "model.transformer":
        path = folder / "inputs" / "tiny.safetensors"
        _overwrite(path, path.stat().st_size - 1, 1)
    else:
        shutil.rmtree(folder / "inputs" / "cache")
        tiny.cache_folder(folder / "inputs" / "cache", items=5, video=(64, 64, 17), per_shard=2)
    tables["train"]["steps"] = 2
    expect_sentence(start("finetune", tables).wait(SECONDS), name)
    expect(len(list(out.glob("checkpoints/step-????????"))) == 1, "trained on")


INFO_CHANGES: dict[str, Callable[[dict], Any]] = {
    "not JSON": lambda info: "{",
    "a list": lambda info: "[]",
    "empty": lambda info: "",
    "nested too deeply": lambda info: "[" * 100_000,
    "no format": lambda info: {**info, "format": None},
    "another format": lambda info: {**info, "format": 99},
    "a name too many": lambda info: {**info, "more": 1},
    "a name too few": lambda info: {name: info[name] for name in info if name != "count"},
    "a count of 10^18": lambda info: {**info, "count": 10**18},
    "a count of 0": lambda info: {**info, "count": 0},
    "a count that is text": lambda info: {**info, "count": "4"},
    "a count that is true": lambda info: {**info, "count": True},
    "no sources per shard": lambda info: {**info, "per_shard": 0},
    "a negative length of texts": lambda info: {**info, "text_length": -1},
    "a definition that is unknown": lambda info: {**info, "definition": "x"},
    "a pyramid that is text": lambda info: {**info, "spec": "x"},
    "a pyramid without boundaries": lambda info: {**info, "spec": {**info["spec"], "boundaries": None}},
    "boundaries that are NaN": lambda info: {**info, "spec": {**info["spec"], "boundaries": [float("nan"), 0.5]}},
    "a width of 65": lambda info: {**info, "width": 65},
}


def caches(inputs: Inputs, runs: dict[str, Undisturbed], seed: int) -> dict[str, Check]:
    """Return one case for each damage of a cache: training rejects it, and the cache command repairs damaged shards."""
    checks: dict[str, Check] = {}
    for name, change in INFO_CHANGES.items():
        checks[f"cache.json, {name}"] = functools.partial(_info, inputs, change)
    for file in ("shard-00000.safetensors", "empty.safetensors"):
        for name, damage in DAMAGES.items():
            drawn = random.Random(f"{seed} {file} {name}")
            checks[f"{file}, {name}, training"] = functools.partial(_shard, inputs, file, damage, drawn)
            checks[f"{file}, {name}, mended"] = functools.partial(_mended, inputs, runs["cache"], file, damage, drawn)
    checks["another text encoder's, training"] = functools.partial(_narrow_texts, inputs)
    checks["nothing that can be used"] = functools.partial(_nothing, inputs)
    checks["a skipped caption, mended"] = functools.partial(_mended_caption, inputs)
    for name in ("vae", "text"):
        checks[f"continued with another {name}"] = functools.partial(_other_encoder, inputs, runs["cache"], name)
    return checks


def _training_on_copy(inputs: Inputs, folder: Path) -> tuple[Path, dict[str, Any]]:
    shutil.copytree(inputs.folder / "cache", folder / "cache")
    tables = inputs.tables("finetune", folder / "out")
    tables["data"]["cache"] = str(folder / "cache")
    return folder / "cache", tables


def _info(inputs: Inputs, change: Callable[[dict], Any], folder: Path) -> None:
    cache, tables = _training_on_copy(inputs, folder)
    changed = change(json.loads((cache / "cache.json").read_text()))
    (cache / "cache.json").write_text(changed if isinstance(changed, str) else json.dumps(changed))
    expect_sentence(start("finetune", tables).wait(SECONDS), "cache")


def _shard(inputs: Inputs, file: str, damage: Damage, drawn: random.Random, folder: Path) -> None:
    cache, tables = _training_on_copy(inputs, folder)
    damage(cache / file, drawn)
    tables["train"]["per_stage"] = 4  # so that every item is read in the first step
    expect_sentence(start("finetune", tables).wait(SECONDS), "cache command again")
    expect(not list(folder.glob("out/checkpoints/*")), "trained on damaged data")


def _mended(inputs: Inputs, undisturbed: Undisturbed, file: str, damage: Damage, drawn: random.Random, folder: Path) -> None:
    copy_run(undisturbed, folder / "out")
    damage(folder / "out" / file, drawn)
    tables = inputs.tables("cache", folder / "out")
    finish("cache", tables)
    expect_same("cache", tables, undisturbed)


def _other_encoder(inputs: Inputs, undisturbed: Undisturbed, name: str, folder: Path) -> None:
    copy_run(undisturbed, folder / "out")
    tables = inputs.tables("cache", folder / "out")
    if name == "vae":
        path = Path(shutil.copy(inputs.folder / "tiny_vae.safetensors", folder))
    else:
        path = Path(shutil.copytree(inputs.folder / "text", folder / "text")) / "model.safetensors"
    _overwrite(path, path.stat().st_size - 1, 1)
    tables["encoders"][name] = str(path if name == "vae" else path.parent)
    (folder / "out" / "shard-00001.safetensors").unlink()
    expect_sentence(start("cache", tables).wait(SECONDS), "different cache", name)
    expect(not (folder / "out" / "shard-00001.safetensors").exists(), "mixed two encoders")


def _narrow_texts(inputs: Inputs, folder: Path) -> None:
    tables = inputs.tables("finetune", folder / "out")
    cache = Cache(inputs.folder / "cache")
    write_info(folder / "cache", cache.info, cache.empty[:, :64].clone())
    for shard in range(cache.info.shards):
        numbers = range(shard * cache.info.per_shard, min(len(cache), (shard + 1) * cache.info.per_shard))
        items = [
            CachedItem(
                cache.name(item),
                cache.caption(item),
                [cache.latent(item, stage) for stage in range(cache.stages)],
                cache.text(item)[:, :64],
            )
            for item in numbers
        ]
        write_shard(folder / "cache", shard, items, [])
    tables["data"]["cache"] = str(folder / "cache")
    expect_sentence(start("finetune", tables).wait(SECONDS), "width 64")


def _nothing(inputs: Inputs, folder: Path) -> None:
    tiny.write_folder(folder / "videos", 2)
    for path in (folder / "videos").glob("*.mkv"):
        path.write_bytes(b"broken")
    tables = inputs.tables("cache", folder / "out")
    tables["clips"]["videos"] = str(folder / "videos")
    expect_sentence(start("cache", tables).wait(SECONDS), "none of the 2 videos", "skipped.txt")


def _mended_caption(inputs: Inputs, folder: Path) -> None:
    videos = tiny.write_folder(folder / "videos", 2)
    (videos / "clip01.txt").write_bytes(b"caf\xe9")
    tables = inputs.tables("cache", folder / "out")
    tables["clips"]["videos"] = str(videos)
    finish("cache", tables)
    stamp = (folder / "out" / "shard-00000.safetensors").stat().st_mtime_ns
    (videos / "clip01.txt").write_text("a red ring")
    finish("cache", tables)
    cache = Cache(folder / "out")
    expect([cache.caption(item) for item in range(len(cache))][1:] == ["a red ring"], "the caption was not taken")
    expect((folder / "out" / "shard-00000.safetensors").stat().st_mtime_ns == stamp, "encoded the other video again")
