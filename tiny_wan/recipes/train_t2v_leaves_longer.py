"""Train the tiny Wan 2.1 text-to-video transformer of the dead leaves further.

    python -m tiny_wan.recipes.train_t2v_leaves --export .state/t2v-leaves/weights.safetensors
    python -m tiny_wan.recipes.train_t2v_leaves_longer         # start, or continue where the last one stopped
    python -m tiny_wan.recipes.train_t2v_leaves_longer --export tiny_wan/weights/tiny_wan_t2v_leaves.safetensors

The first run leaves the camera too slow and the leaves blurred. This one starts with its weights and with full learning rates,
on clips that the first one has not seen, most of them at full size.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from harness.in_process import ROOT

from . import train_t2v, train_t2v_leaves
from .train_t2v import Phase, Size
from .train_t2v_leaves import LeavesRecipe

STATE = ROOT / ".state" / "t2v-leaves-longer"


@dataclass(frozen=True)
class LongerLeavesRecipe(LeavesRecipe):
    """The recipe of the dead leaves from the weights of its first run."""

    start: ClassVar[Path] = train_t2v_leaves.STATE / "weights.safetensors"
    phases: tuple[Phase, ...] = (
        Phase(
            8_000,
            (
                Size(5, 16, 8, 6.0),
                Size(3, 16, 8, 0.4),
                Size(5, 8, 12, 2.0),
                Size(3, 8, 12, 0.6),
                Size(2, 4, 12, 0.3),
            ),
        ),
    )
    decay_share: float = 0.4
    seed: int = 2


if __name__ == "__main__":
    train_t2v.main(__doc__ or "", LongerLeavesRecipe(), STATE)
