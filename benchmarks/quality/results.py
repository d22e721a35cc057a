"""What was measured of each row's clips, kept batch by batch so that a row can go on, and be added to the table later."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

from tiny_wan.world import metrics
from tiny_wan.world.grammar import ATTRIBUTES, Caption, draw_captions
from tiny_wan.world.reading import read

from .rows import ROOT, Row

FOLDER = ROOT / ".state" / "quality"
PROMPTS, SEEDS = 64, 4
CAPTION_SEED = 4
MEASURES = ("right", "detail", "motion", "features")


def captions() -> list[Caption]:
    """``PROMPTS`` balanced prompts, each ``SEEDS`` times in a row."""
    return [caption for caption in draw_captions(PROMPTS, seed=CAPTION_SEED) for _ in range(SEEDS)]


def weights(row: Row) -> list[Path]:
    """Every file that decides what a row's clips are."""
    return [ROOT / path for path in row.weights]


def fingerprint(row: Row) -> str:
    """Changes when the weights do, or the setting."""
    digest = hashlib.sha256(repr((row.steps, row.spec, row.cfg, row.sampler, row.grid, row.shift)).encode())
    for path in weights(row):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def measure(video: Tensor, wanted: Sequence[Caption]) -> dict[str, list]:
    """Of clips (B, 3, T, H, W) in -1..1: right (B, 6) of 0 and 1, detail (B, 2), motion (B,), features (B, 45)."""
    agrees = [reading.agrees(caption) for reading, caption in zip(read(video), wanted, strict=True)]
    return {
        "right": [[int(row[name]) for name in ATTRIBUTES] for row in agrees],
        "detail": metrics.detail(video).tolist(),
        "motion": metrics.motion(video).tolist(),
        "features": metrics.features(video).tolist(),
    }


class Results:
    """The clips of one row so far. Those of other weights or settings are dropped."""

    def __init__(self, name: str, fingerprint: str) -> None:
        self.path = FOLDER / f"{name}.json"
        self.values: dict = {"fingerprint": fingerprint, "seconds": 0.0, **{name: [] for name in MEASURES}}
        if self.path.exists() and (before := json.loads(self.path.read_text()))["fingerprint"] == fingerprint:
            self.values = before

    def __len__(self) -> int:
        return len(self.values["right"])

    def __getitem__(self, measure: str) -> np.ndarray:
        return np.array(self.values[measure], dtype=float)

    @property
    def seconds(self) -> float:
        """CPU seconds of sampling, per clip."""
        return self.values["seconds"] / max(1, len(self))

    def add(self, measured: dict[str, list], *, seconds: float = 0.0) -> None:
        for name, rows in measured.items():
            self.values[name] += np.round(np.array(rows), 5).tolist()
        self.values["seconds"] += seconds
        self.path.parent.mkdir(parents=True, exist_ok=True)
        partial = self.path.with_suffix(".partial")
        partial.write_text(json.dumps(self.values))
        os.replace(partial, self.path)
