"""Measurements of each row's clips, stored after every batch; an interrupted row resumes, and rows can be added later."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors.torch import load_file
from torch import Tensor

from pyramid.training.engine.atomic import write_text
from tiny_wan.world import metrics
from tiny_wan.world.grammar import ATTRIBUTES, Caption
from tiny_wan.world.reading import read
from tiny_wan.worlds import LEAVES, SHAPES, World

from .rows import ROOT, Row

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

FOLDER = ROOT / ".state" / "quality"
NOT_SAMPLED = ("name", "label", "model", "loras", "plain_lora", "clips", "config")
"""Fields of a row that do not change its clips; the contents of its weights count instead of their names."""

PROMPTS, SEEDS = 64, 4
CAPTION_SEED = 4
MEASURES = ("right", "detail", "motion", "features")
STATISTICS = ("octaves", "patches", "camera")
"""Further measures of the dead leaves."""


def captions(clips: int = PROMPTS * SEEDS, world: World = SHAPES) -> list[Any]:
    """Return the first of ``PROMPTS`` balanced prompts, each repeated ``SEEDS`` times."""
    return [caption for caption in world.draw_captions(PROMPTS, seed=CAPTION_SEED) for _ in range(SEEDS)][:clips]


def weights(row: Row) -> list[Path]:
    """Return the files that determine a row's clips."""
    return [ROOT / path for path in row.weights]


def lift_folder(row: Row) -> Path:
    """Return where the lift that is fitted for a row is kept."""
    return FOLDER / "lifts" / (row.lift if row.world == SHAPES.name else f"{row.world}-{row.lift}")


def fingerprint(row: Row) -> str:
    """Return a digest of a row's settings, its weights and the lift that was fitted for them."""
    settings = {name: value for name, value in _changed(row).items() if name not in NOT_SAMPLED}
    digest = hashlib.sha256(repr(settings | {"spec": _changed(row.spec)}).encode())
    for path in weights(row):
        digest.update(path.read_bytes())
    for path in sorted(lift_folder(row).glob("*.safetensors")):
        maps = load_file(path)  # maps of other axes may be added to a file later
        for name in sorted(name for name in maps if name.partition(".")[0] in row.spec.downsample_axes):
            digest.update(maps[name].numpy().tobytes())
    return digest.hexdigest()[:16]


def _changed(options: DataclassInstance) -> dict[str, object]:
    """Return the fields that differ from their default, so that a new option does not make old results useless."""
    values = {field.name: (getattr(options, field.name), field.default) for field in dataclasses.fields(options)}
    return {name: value for name, (value, default) in values.items() if value != default}


def measure(video: Tensor, prompts: Sequence[Caption]) -> dict[str, list]:
    """Measure clips (B, 3, T, H, W) in -1..1 of these prompts of the shapes.

    Returns:
        right (B, 6), 1 for an attribute that agrees and 0 otherwise, and what `measure_any` returns.
    """
    agrees = [reading.agrees(caption) for reading, caption in zip(read(video), prompts, strict=True)]
    return {"right": [[int(row[name]) for name in ATTRIBUTES] for row in agrees], **measure_any(video)}


def measure_any(video: Tensor) -> dict[str, list]:
    """Measure clips (B, 3, T, H, W) in -1..1 of any world: detail (B, 2); motion (B,); features (B, 45)."""
    return {
        "detail": metrics.detail(video).tolist(),
        "motion": metrics.motion(video).tolist(),
        "features": metrics.features(video).tolist(),
    }


class Results:
    """The measurements of one row so far."""

    def __init__(self, name: str, fingerprint: str, world: World = SHAPES) -> None:
        """Load the stored measurements, unless they are of other weights or settings."""
        self.world, self.path = world, FOLDER / f"{name}.json"
        self.measures = (*MEASURES, *STATISTICS) if world is LEAVES else MEASURES
        self.values: dict = {"fingerprint": fingerprint, "seconds": 0.0, **{name: [] for name in self.measures}}
        if self.path.exists() and (before := json.loads(self.path.read_text()))["fingerprint"] == fingerprint:
            self.values = before

    def first(self, clips: int) -> Results:
        """Return the measurements of the first clips alone."""
        part = copy.copy(self)
        part.values = self.values | {name: self.values[name][:clips] for name in self.measures}
        part.values["seconds"] = self.seconds * len(part)
        return part

    def __len__(self) -> int:
        return len(self.values["right"])

    def __getitem__(self, measure: str) -> np.ndarray:
        return np.array(self.values[measure], dtype=float)

    @property
    def seconds(self) -> float:
        """CPU seconds of sampling per clip."""
        return self.values["seconds"] / max(1, len(self))

    def add(self, measured: dict[str, list], *, seconds: float = 0.0) -> None:
        """Append the measurements of a batch that took this many CPU seconds, and store them."""
        for name, rows in measured.items():
            self.values[name] += np.round(np.array(rows), 5).tolist()
        self.values["seconds"] += seconds
        write_text(self.path, json.dumps(self.values))
