"""The rows of the tables: settings of the sampler node, and weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from pyramid.stages import PRESETS, PyramidSpec

MODEL = "demo/weights/tiny_wan_t2v.safetensors"
VAE = "demo/weights/tiny_wan_vae.safetensors"

TWO = PRESETS["training-free"]
THREE = replace(TWO, boundaries=(0.896, 0.602), halves=("HW", "HW"))
THREE_IN_TIME = replace(THREE, halves=("THW", "THW"))


@dataclass(frozen=True)
class Row:
    """name: on the command line. label: in the table. model, loras: files from the root of the checkout, LoRAs by stage."""

    name: str
    label: str
    steps: str
    spec: PyramidSpec
    cfg: str = "4"
    model: str = MODEL
    loras: Mapping[str, str] = field(default_factory=dict)
    sampler: str = "euler"
    grid: str = "auto"
    shift: float = 5.0


def _plain(steps: int) -> Row:
    return Row(f"plain-{steps}", f"plain, {steps} steps" if steps > 1 else "plain, 1 step", str(steps), PRESETS["plain"])


PLAIN = "plain-50"
"""The row that all others are compared with."""

ROWS = (
    *(_plain(steps) for steps in (50, 25, 4, 2, 1)),
    Row("two-20-10", "training-free, two stages H x W (the preset)", "20-10", TWO),
    Row("two-35-15", "the same, more steps", "35-15", TWO),
    Row("two-15-35", "the same, most of them at full size", "15-35", TWO),
    Row("two-early", "the same, boundary at 0.8 instead of 0.602", "20-10", replace(TWO, boundaries=(0.8,))),
    Row("two-natural", "the same as 20-10, told natural instead of sigma", "20-10", replace(TWO, told="natural")),
    Row("three-20-20-10", "training-free, three stages H x W", "20-20-10", THREE),
    Row("three-time-20-20-10", "training-free, three stages T x H x W", "20-20-10", THREE_IN_TIME),
)
