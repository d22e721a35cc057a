"""The tiny trainings of the campaign: a cache, a finetuning and a distillation, and what an undisturbed one leaves."""

from __future__ import annotations

import json
import resource
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from pyramid.training import run as training  # noqa: F401 - forks share what is imported here
from pyramid.training.__main__ import main
from pyramid.training.config.run_file import load_run_config
from pyramid.training.data.cache import make_cache  # noqa: F401
from pyramid.training.data.cache_files import Cache
from pyramid.training.engine.checkpoints import Checkpoints
from pyramid.training.engine.digests import tensor_checksum
from pyramid.training.export import trained_network
from tiny_wan import training_files as tiny

from .cases import Child, Outcome, expect

COMMANDS = ("cache", "finetune", "distill")
WRITERS = (
    *("pyramid/training/data", "pyramid/training/engine", "pyramid/training/recipes"),
    *("pyramid/training/export.py", "pyramid/training/run.py", "pyramid/training/validation.py"),
)
"""The code that determines what trainings leave in their folders."""
SECONDS = 240.0
"""Time limit of one training; the machine may be busy."""
Tables = dict[str, Any]


@dataclass(frozen=True)
class Inputs:
    """The input files of the trainings, in a folder of the campaign.

    Attributes:
        folder: Holds ``tiny.safetensors``, ``cache/``, ``videos/``, ``tiny_vae.safetensors`` and ``text/``.
    """

    folder: Path

    def tables(self, command: str, out: Path) -> Tables:
        """Return the configuration of a training into a folder, as nested tables."""
        return {"cache": self._cache, "finetune": self._finetune, "distill": self._distill}[command](out)

    def _cache(self, out: Path) -> Tables:
        return {
            "out": str(out),
            "clips": {"videos": str(self.folder / "videos")},
            "encoders": {
                "vae": str(self.folder / "tiny_vae.safetensors"), "text": str(self.folder / "text"), "text_length": 8,
                "definition": "latents",
            },
            "video": {"width": 64, "height": 64, "frames": 17},
            "shards": {"items": 1, "precision": "fp32"},
            "system": {"device": "cpu", "precision": "fp32"},
        }  # fmt: skip

    def _run(self, out: Path) -> Tables:
        return {
            "out": str(out),
            "data": {"cache": str(self.folder / "cache"), "held_out": 2, "workers": 0},
            "video": {"width": 64, "height": 64, "frames": 17},
            "adapter": {"kind": "lora", "rank": 2},
            "system": {"device": "cpu", "precision": "fp32"},
            "keep": {"save_every": 1, "log_every": 1, "checkpoints": 1},
        }

    def _finetune(self, out: Path) -> Tables:
        return {
            **self._run(out),
            "model": {"transformer": str(self.folder / "tiny.safetensors"), "gradient_checkpointing": False},
            "train": {"steps": 3, "per_stage": 1},
            # so fast that the loss rises again: the best checkpoint is not the last one
            "optimizer": {"learning_rate": 0.1, "warm_up": 0, "ema": 0.5},
            "validation": {"every": 1, "videos": 0, "steps": "1-1-1"},
        }

    def _distill(self, out: Path) -> Tables:
        network = str(self.folder / "tiny.safetensors")
        return {
            **self._run(out),
            "schedule": "1-1-1",
            "networks": {"student": network, "teacher": network, "gradient_checkpointing": False},
            "train": {"steps": 3, "critic_updates": 2},
            "validation": {"every": 3, "videos": 1},
        }


def make_inputs(folder: Path) -> Inputs:
    """Write the inputs into a folder, in a child process, so that this one stays free of threads; once for all parts."""
    folder = folder / "training"
    if folder.exists():
        return Inputs(folder)

    def write() -> None:
        folder.mkdir()
        torch.set_num_threads(1)
        tiny.transformer_file(folder)
        tiny.cache_folder(folder / "cache", items=4, video=(64, 64, 17), per_shard=2)
        tiny.write_folder(folder / "videos", 3)
        tiny.vae_file(folder)
        tiny.text_folder(folder)

    outcome = Child(lambda: write()).wait(SECONDS)
    expect(outcome.status == 0, outcome.output[-2000:])
    return Inputs(folder)


def start(command: str, tables: Tables, *more: str, before: Callable[[], None] | None = None) -> Child:
    """Start a training in a child process, with the configuration beside its folder.

    Args:
        command: Of ``python -m pyramid.training``.
        tables: Its configuration.
        more: Further arguments.
        before: Called in the child before the training.
    """
    path = Path(tables["out"]).with_suffix(".toml")
    tiny.toml(tables, path)
    return start_file(command, path, *more, before=before)


def start_file(command: str, path: Path, *more: str, before: Callable[[], None] | None = None) -> Child:
    """Start a training with a configuration file."""

    def call() -> int:
        torch.set_num_threads(1)
        torch.set_grad_enabled(True)
        if before is not None:
            before()
        return main([command, str(path), *more])

    return Child(call)


def finish(command: str, tables: Tables, *more: str) -> Outcome:
    """Run a training to its end, and expect that it succeeds."""
    outcome = start(command, tables, *more).wait(SECONDS)
    expect(outcome.status == 0, f"{command} ended with {outcome.status}: {outcome.output[-1500:]}")
    return outcome


def expect_sentence(outcome: Outcome, *mentions: str) -> None:
    """Expect that a training ended with status 2 and one sentence, which mentions some words, and no traceback."""
    lines = [line for line in outcome.output.splitlines() if line.startswith("pyramid.training:")]
    expect(outcome.status == 2, f"ended with status {outcome.status}: {outcome.output[-800:]!r}")
    expect("Traceback" not in outcome.output, f"printed a traceback: {outcome.output[-800:]!r}")
    expect(len(lines) == 1 and len(lines[0]) < 2000, f"printed {len(lines)} sentences: {outcome.output[-800:]!r}")
    missing = [words for words in mentions if words not in lines[0]]
    expect(not missing, f"did not mention {missing}: {lines[0]!r}")


def left_by(command: str, tables: Tables) -> dict[str, Any]:
    """Return everything in the folder of a training that must not depend on interruptions, as digests."""
    folder = Path(tables["out"])
    partial = [path.name for path in folder.rglob("*.partial")]
    expect(not partial, f"left {partial}")
    return _cache_left(folder) if command == "cache" else _run_left(folder)


def _cache_left(folder: Path) -> dict[str, Any]:
    cache = Cache(folder)
    return {
        "fingerprint": cache.fingerprint(),
        "items": [[cache.name(item), tensor_checksum(cache.text(item)), tensor_checksum(cache.latent(item, 2))]
                  for item in range(len(cache))],
        "skipped": (folder / "skipped.txt").read_text(encoding="utf-8"),
    }  # fmt: skip


def _run_left(folder: Path) -> dict[str, Any]:
    config = load_run_config(folder / "config.toml")
    checkpoints = Checkpoints(folder, keep=config.keep.checkpoints)
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    left: dict[str, Any] = {
        "steps": checkpoints.steps(),
        "best": checkpoints.best(),
        "log": [{name: value for name, value in line.items() if name != "seconds"} for line in lines],
    }
    for step in checkpoints.steps():
        network = trained_network(config, checkpoints, step)
        left[f"step {step}"] = {name: tensor_checksum(value) for name, value in network.named_parameters()}
    for path in [*folder.glob("export/*.safetensors"), *folder.glob("samples/*.safetensors")]:
        name = f"{path.parent.name} {path.name[path.name.index('step') :]}"  # without the name of the run's folder
        with safe_open(path, framework="pt") as file:
            left[name] = {key: tensor_checksum(file.get_tensor(key)) for key in sorted(file.keys())}
    return left


@dataclass(frozen=True)
class Undisturbed:
    """A training that nothing disturbed.

    Attributes:
        folder: Its folder.
        left: What it left.
        seconds: The processor time that it took.
        operations: The number of its file operations.
    """

    folder: Path
    left: dict[str, Any]
    seconds: float
    operations: int


def run_undisturbed(command: str, inputs: Inputs) -> Undisturbed:
    """Run a training, and measure it; once for all parts."""
    folder = inputs.folder / f"undisturbed-{command}"
    tables, notes, count = inputs.tables(command, folder), folder.with_suffix(".json"), [0]
    if folder.with_suffix(".left").exists():
        left, (seconds, operations) = (json.loads(path.read_text()) for path in (folder.with_suffix(".left"), notes))
        return Undisturbed(folder, left, seconds, operations)

    def before() -> None:
        count_operations(folder, lambda number: count.__setitem__(0, number))

    def call() -> int:
        torch.set_num_threads(1)
        before()
        status = main([command, str(folder.with_suffix(".toml"))])
        used = resource.getrusage(resource.RUSAGE_SELF)
        notes.write_text(json.dumps([used.ru_utime + used.ru_stime, count[0]]))
        return status

    tiny.toml(tables, folder.with_suffix(".toml"))
    outcome = Child(call).wait(SECONDS)
    expect(outcome.status == 0, f"{command} ended with {outcome.status}: {outcome.output[-1500:]}")
    seconds, operations = json.loads(notes.read_text())
    return Undisturbed(folder, in_child(lambda: left_by(command, tables), folder.with_suffix(".left")), seconds, operations)


def in_child(call: Callable[[], Any], path: Path) -> Any:
    """Return what a function returns in a child process, through a JSON file."""
    outcome = Child(lambda: path.write_text(json.dumps(call())) and None).wait(SECONDS)
    expect(outcome.status == 0, outcome.output[-2000:])
    return json.loads(path.read_text())


def expect_same(command: str, tables: Tables, undisturbed: Undisturbed) -> None:
    """Expect that a training left exactly what the undisturbed one left."""
    left = json.loads(json.dumps(left_by(command, tables)))
    different = [name for name in {**left, **undisturbed.left} if left.get(name) != undisturbed.left.get(name)]
    expect(not different, f"differs from the undisturbed run in {', '.join(different)}")


def copy_run(undisturbed: Undisturbed, folder: Path) -> Path:
    """Copy the folder of a training; return the copy."""
    return Path(shutil.copytree(undisturbed.folder, folder))


WRITES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir"}


def count_operations(folder: Path, call: Callable[[int], None]) -> None:
    """From now on call a function before every operation of this process that changes a folder, with its number from 1.

    Python announces its own operations only; the write of a safetensors file lies between two of them.
    """
    prefix, number = str(folder), [0]

    def hook(event: str, arguments: tuple) -> None:
        if event == "open":
            writes = isinstance(arguments[0], str) and arguments[0].startswith(prefix) and (arguments[2] or 0) & 3
        else:
            writes = event in WRITES and (str(arguments[0]).startswith(prefix) or arguments[-1] not in (-1, 0o777))
        if writes:
            number[0] += 1
            call(number[0])

    sys.addaudithook(hook)
