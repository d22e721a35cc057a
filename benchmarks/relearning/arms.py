"""The runs that are compared: three methods, with and without aligned noise, at two learning rates, with three seeds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyramid.flops import schedule_cost, total_tflops
from pyramid.training.config.finetune import FinetuneConfig
from pyramid.training.config.toml_config import check_config

from ..quality.tables import TINY, TINY_SHAPE

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / ".state" / "relearning"
MODEL = "tiny_wan/weights/tiny_wan_t2v.safetensors"

FORWARD_PASSES = 3
SAMPLES = 24
"""Clips of an optimiser step, divided among the stages."""
POINTS = (10, 20, 30, 40)
"""Where accuracy is measured: the operations of this many optimiser steps at full size."""
RATES = (5e-4, 2e-4)
SEEDS = (1, 2, 3)


@dataclass(frozen=True)
class Method:
    """A way to finetune and sample.

    Attributes:
        label: Its name in the table.
        pyramid: The table ``pyramid`` of the run.
        steps: Sampling steps from low to high, twelve in all.
    """

    label: str
    pyramid: Mapping[str, Any]
    steps: str


METHODS = {
    "plain": Method("plain", {"preset": "plain"}, "12"),
    "tpdiff": Method("frame rates (`tpdiff`)", {"preset": "tpdiff", "rope": "native"}, "4-4-4"),
    "pyramidal-wan": Method("resolutions and frame rates (`pyramidal-wan`)", {"preset": "pyramidal-wan"}, "4-4-4"),
}


@dataclass(frozen=True)
class Arm:
    """One run.

    Attributes:
        method: One of ``METHODS``.
        aligned: Whether noise is aligned with the data.
        rate: Learning rate.
        seed: Seed of the run.
    """

    method: str
    aligned: bool
    rate: float
    seed: int

    @property
    def name(self) -> str:
        """Return its name on the command line and on the disk."""
        return f"{self.method}{'-aligned' if self.aligned else ''}-{self.rate:g}-{self.seed}"

    def config(self, *, steps: int) -> FinetuneConfig:
        """Return the configuration of the run up to a number of optimiser steps."""
        method = METHODS[self.method]
        values = {
            "out": str(FOLDER / "runs" / self.name),
            "model": {"transformer": str(ROOT / MODEL), "gradient_checkpointing": False},
            "data": {"cache": str(self.cache), "held_out": 0, "workers": 0},
            "pyramid": dict(method.pyramid),
            "video": {"width": 128, "height": 128, "frames": 17},
            "train": {"steps": steps, "seed": self.seed, "align_noise": self.aligned},
            "losses": {"teacher": 0.0},
            "optimizer": {"learning_rate": self.rate, "warm_up": 5, "ema": 0.0},
            "system": {"device": "cpu", "precision": "fp32"},
            "keep": {"save_every": 10_000, "checkpoints": 1, "log_every": 1},
            "validation": {"every": 10_000, "videos": 0, "steps": method.steps},
        }
        stages = len(method.steps.split("-"))
        values["train"]["per_stage"] = SAMPLES // stages
        return check_config(FinetuneConfig, values, self.name)

    @property
    def cache(self) -> Path:
        """Return the folder of the cache with rotated words for the method's pyramid."""
        return FOLDER / "caches" / self.method

    def tflops_per_step(self) -> float:
        """Return the TFLOPs of an optimiser step, in which the backward pass costs as much as two forward passes."""
        spec = self.config(steps=1).pyramid.spec()
        counts = [SAMPLES // spec.number_of_stages] * spec.number_of_stages
        return FORWARD_PASSES * total_tflops(schedule_cost(spec, TINY_SHAPE, counts, TINY))

    def steps_at(self, point: int) -> int:
        """Return the optimiser steps that cost about as much as this many of the method "plain"."""
        plain = Arm("plain", self.aligned, self.rate, self.seed)
        return round(point * plain.tflops_per_step() / self.tflops_per_step())


ARMS = tuple(
    Arm(method, aligned, rate, seed) for seed in SEEDS for rate in RATES for aligned in (False, True) for method in METHODS
)
