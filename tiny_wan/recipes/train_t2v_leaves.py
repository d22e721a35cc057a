"""Train the tiny Wan 2.1 text-to-video transformer of the dead leaves.

    python -m tiny_wan.recipes.train_t2v_leaves                # start, or continue where the last one stopped
    python -m tiny_wan.recipes.train_t2v_leaves --export tiny_wan/weights/tiny_wan_t2v_leaves.safetensors

Training starts with the weights of the shapes' transformer, in the same latent space. A small clip takes almost as long to
render as a large one, so batches of small clips are smaller than those of the shapes. Everything else is as in `train_t2v.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from safetensors.torch import load_file

from harness.in_process import ROOT

from ..worlds import LEAVES, World
from . import train_t2v
from .train_t2v import Phase, Recipe, Size

if TYPE_CHECKING:
    from comfy.ldm.wan.model import WanModel

STATE = ROOT / ".state" / "t2v-leaves"


@dataclass(frozen=True)
class LeavesRecipe(Recipe):
    """The text-to-video recipe in fewer steps."""

    world: ClassVar[World] = LEAVES
    start: ClassVar[Path] = ROOT / "tiny_wan" / "weights" / "tiny_wan_t2v.safetensors"
    phases: tuple[Phase, ...] = (
        Phase(1_500, (Size(5, 8, 12, 5.0), Size(3, 8, 12, 1.5), Size(2, 4, 12, 1.0), Size(5, 16, 8, 2.5))),
        Phase(
            4_500,
            (
                Size(5, 16, 8, 6.0),
                Size(3, 16, 8, 0.5),
                Size(5, 8, 12, 1.5),
                Size(3, 8, 12, 1.0),
                Size(2, 4, 12, 0.5),
            ),
        ),
    )
    warm_up: int = 200

    def build(self) -> WanModel:
        """Build the trained transformer that training starts with."""
        model = super().build()
        model.load_state_dict({name: value.float() for name, value in load_file(self.start).items()})
        return model


if __name__ == "__main__":
    train_t2v.main(__doc__ or "", LeavesRecipe(), STATE)
