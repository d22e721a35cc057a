"""Configurations that are wrong: single settings, and whole files."""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tiny_wan.training_files import toml

from .cases import expect
from .training_runs import SECONDS, Inputs, expect_sentence, start, start_file

Check = Callable[[Path], None]
COUNTS = (0, -1, 10**12, 10**30, 2.5, "many", True, [1], {"a": 1})
NUMBERS = (-1.0, 1e30, float("inf"), float("nan"), "much")
PATHS = ("", " ", "a\0b", "a\nb", "x" * 5000, 3, [])
STEPS = ("", "1-1", "0-0-0", "1-0-1", "-1-1-1", "99999999999-1-1", "1-" * 3000 + "1", 2.5)
WRONG: dict[str, dict[str, tuple[Any, ...]]] = {
    "finetune": {
        "train.steps": COUNTS, "train.per_stage": COUNTS[:4], "train.accumulation": COUNTS[:3], "train.seed": (-1, 2**64, "x"),
        "train.drop_prompt": NUMBERS, "train.levels": ("some", "all"), "optimizer.learning_rate": (*NUMBERS, 0.0, 1e25, 2.0),
        "optimizer.betas": ([0.9], [0.9, 1.0], [1.5, 0.9], [0.9, float("nan")]), "optimizer.ema": (1.0, -0.1, 2),
        "optimizer.clip": NUMBERS, "optimizer.weight_decay": NUMBERS, "optimizer.warm_up": (-1, 10**12),
        "optimizer.decay_share": NUMBERS, "adapter.kind": ("lokr", 1), "adapter.rank": COUNTS[:6],
        "adapter.alpha": (0.0, *NUMBERS), "adapter.targets": ([], ["to_x"], "to_q", [1]), "adapter.scope": ("each",),
        "data.workers": (-1, 10**6, 1.5), "data.held_out": (-1, 4, 10**9), "data.cache": (*PATHS, "/dev/null", "/nowhere"),
        "video.width": (0, 65, 10**9), "video.height": (72, -64), "video.frames": (0, 16, 10**9),
        "model.transformer": (*PATHS, "/dev/null", "/nowhere"), "out": PATHS, "keep.save_every": COUNTS[:3],
        "keep.checkpoints": COUNTS[:3], "keep.explode": (0.5, *NUMBERS[1:]), "validation.every": COUNTS[:2],
        "validation.steps": STEPS, "validation.videos": (-1, 10**9), "validation.cfg": NUMBERS,
        "validation.vae": ("", "/nowhere", "/dev/zero"), "pyramid.preset": ("wan", "", 3),
        "pyramid.boundaries": ([0.3, 0.9], [0.9], [2.0, 0.5], [float("nan"), 0.5], [0.9, 0.9], [0.5] * 1000, "0.9"),
        "pyramid.downsample_axes": (["XY", "HW"], ["THW"] * 500, "THW"), "pyramid.resize": ("haarr", ""),
        "pyramid.field": ("flow",), "pyramid.rope": ("long",), "system.precision": ("fp8",), "system.device": ("tpu",),
        "system.parallel": ("fsdp2", "none"), "losses.teacher": NUMBERS,
        "losses.teacher_levels": ([0] * 1000, ["low"], [99], [-1], [1, 1]), "model.size": ("7B", ""),
        "trian.steps": (3,), "train.stepz": (3,),
    },
    "distill": {
        "recipe": ("dmdd", "dmd", "adv"), "schedule": STEPS, "shift": (0.0, *NUMBERS), "networks.student": PATHS[:4],
        "networks.teacher": ("/nowhere",), "train.critic_updates": COUNTS[:3], "train.inputs": ("simulated", "video"),
        "losses.lowest": (0.99, *NUMBERS), "losses.cfg": NUMBERS, "discriminator.taps": ([], [-1], [0] * 1000, [1, 1]),
        "networks.size": ("7B",),
        "discriminator.width": (3, 0, 10**9), "student.learning_rate": NUMBERS,
    },
    "cache": {
        "clips.videos": (*PATHS, "/nowhere", "/dev/null"),
        "clips.fps": (-1.0, 1e9, float("nan")), "clips.per_video": COUNTS[:3],
        "clips.outside": (1, "yes"), "encoders.vae": ("", "/nowhere", "/dev/zero"), "encoders.text": (*PATHS[:3], "/dev/null"),
        "encoders.text_length": COUNTS[:3], "encoders.definition": ("both",), "shards.items": COUNTS[:3],
        "shards.precision": ("fp8",), "video.height": (72,),
    },
}  # fmt: skip


def settings(inputs: Inputs) -> dict[str, Check]:
    """Return one case for each wrong value of a setting."""
    checks: dict[str, Check] = {
        f"{command} {name} = {value!r:.40} ({number})": functools.partial(_wrong_setting, inputs, command, name, value)
        for command, by_name in WRONG.items()
        for name, values in by_name.items()
        for number, value in enumerate(values)
    }
    checks["distill discriminator.taps with a block that the teacher lacks"] = functools.partial(_missing_block, inputs)
    return checks


def _missing_block(inputs: Inputs, folder: Path) -> None:
    tables = {**inputs.tables("distill", folder / "out"), "recipe": "adv-pd"}
    _wrong_setting(inputs, "distill", "discriminator.taps", [99], folder, tables)


def _wrong_setting(
    inputs: Inputs,
    command: str,
    name: str,
    value: Any,
    folder: Path,
    base: dict[str, Any] | None = None,
) -> None:
    tables: dict[str, Any] = json.loads(json.dumps(base or inputs.tables(command, folder / "out")))
    *outer, key = name.split(".")
    table = tables
    for each in outer:
        table = table.setdefault(each, {})
    table[key] = value
    path = folder / "run.toml"
    path.write_text(_toml(tables), encoding="utf-8")
    outcome = start_file(command, path).wait(SECONDS)
    expect_sentence(outcome)
    said, names = outcome.output.casefold(), (key, str(value), f"'{name.split('.')[0]}'")
    expect(any(each in said for each in names), f"did not name '{name}': {outcome.output[-500:]!r}")
    expect(not list(folder.rglob("checkpoints/*")), "wrote a checkpoint")


def _toml(tables: dict[str, Any]) -> str:
    """Return nested tables as TOML; also values that no configuration may hold."""
    lines = [f"{name} = {_value(value)}" for name, value in tables.items() if not isinstance(value, dict)]
    for name, table in tables.items():
        if isinstance(table, dict):
            lines += [f"[{name}]", *(f"{key} = {_value(value)}" for key, value in table.items())]
    return "\n".join(lines)


def _value(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {_value(each)}" for key, each in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_value, value)) + "]"
    return repr(value) if isinstance(value, float) else json.dumps(value)


GOOD = b'out = "o"\n'
CONTENTS = {
    "an empty file": b"",
    "not TOML": b"out = ",
    "binary": bytes(range(256)) * 8,
    "Latin-1": 'out = "caf\xe9"\n'.encode("latin-1"),
    "UTF-16 without a mark": 'out = "o"\n'.encode("utf-16-le"),
    "NUL": b'out = "a\0b"\n',
    "a date": b"out = 2026-01-01\n",
    "a time": b"[train]\nsteps = 07:32:00\n",
    "nested arrays": b"a = " + b"[" * 5000 + b"]" * 5000,
    "nested tables": b"a." * 5000 + b"b = 1",
    "a key twice": GOOD + GOOD,
    "a table that is a value": GOOD + b"[out]\nx = 1\n",
    "JSON": b'{"out": "o"}',
    "too large": b"# " + b"x" * 2**21,
    "a lone carriage return": b'out = "o"\rx = 3',
    "a huge integer": b"[train]\nsteps = " + b"9" * 5000,
}


def files(inputs: Inputs) -> dict[str, Check]:
    """Return one case for each kind of malformed configuration file."""
    checks: dict[str, Check] = {name: functools.partial(_contents, contents) for name, contents in CONTENTS.items()}
    checks["missing"] = lambda folder: expect_sentence(start_file("finetune", folder / "no.toml").wait(SECONDS), "no.toml")
    checks["a folder"] = lambda folder: expect_sentence(start_file("finetune", folder).wait(SECONDS), "folder")
    checks["a device"] = lambda _: expect_sentence(start_file("finetune", Path("/dev/zero")).wait(SECONDS), "device")
    checks["a pipe"] = _pipe
    for encoding in ("utf-8-sig", "utf-16", "utf-32"):
        checks[f"{encoding} with a mark is read"] = functools.partial(_encoded, inputs, encoding)
    for setting in ("train.steps", "out.x=3", "=3", "train.steps=x", "a" * 3000 + "=1", "train=3", "train..steps=3",
                    "train.steps=[" + "[" * 3000, "train.steps=" + "9" * 5000):  # fmt: skip
        checks[f"--set {setting[:20]}"] = functools.partial(_set, inputs, setting)
    checks["an output folder that is a file"] = functools.partial(_out_is_a_file, inputs)
    return checks


def _contents(contents: bytes, folder: Path) -> None:
    path = folder / "run.toml"
    path.write_bytes(contents)
    expect_sentence(start_file("finetune", path).wait(SECONDS), "run.toml")


def _pipe(folder: Path) -> None:
    os.mkfifo(folder / "pipe.toml")
    expect_sentence(start_file("finetune", folder / "pipe.toml").wait(SECONDS), "pipe")


def _encoded(inputs: Inputs, encoding: str, folder: Path) -> None:
    path = toml(inputs.tables("finetune", folder / "out"), folder / "run.toml")
    path.write_bytes(path.read_text(encoding="utf-8").encode(encoding))
    outcome = start_file("finetune", path, "--dry-run").wait(SECONDS)
    expect(outcome.status == 0, outcome.output[-500:])


def _set(inputs: Inputs, setting: str, folder: Path) -> None:
    outcome = start("finetune", inputs.tables("finetune", folder / "out"), "--set", setting).wait(SECONDS)
    expect_sentence(outcome)


def _out_is_a_file(inputs: Inputs, folder: Path) -> None:
    (folder / "out").write_text("precious")
    expect_sentence(start("finetune", inputs.tables("finetune", folder / "out")).wait(SECONDS), "out")
    expect((folder / "out").read_text() == "precious", "the file changed")
