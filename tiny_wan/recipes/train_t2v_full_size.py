"""Train a tiny Wan 2.1 text-to-video transformer that has never seen a small video.

    python -m tiny_wan.recipes.train_t2v_full_size             # start, or continue where the last one stopped
    python -m tiny_wan.recipes.train_t2v_full_size --export tiny_wan/weights/tiny_wan_t2v_full_size.safetensors

The model of `train_t2v.py` was trained at the sizes of the pyramid's low stages, which stock Wan models may not know. This one
learns images and videos of the full height and width alone, in the same latent space, and shows what a training-free pyramid
does with such weights. Everything else is as in `train_t2v.py`.
"""

from __future__ import annotations

from dataclasses import dataclass

from harness.in_process import ROOT

from . import train_t2v
from .train_t2v import Phase, Recipe, Size

STATE = ROOT / ".state" / "t2v-full-size"


@dataclass(frozen=True)
class FullSizeRecipe(Recipe):
    """The text-to-video recipe with images, clips and longer clips of the full height and width."""

    phases: tuple[Phase, ...] = (
        Phase(5_000, (Size(5, 16, 8, 3.0), Size(1, 16, 32, 2.0))),
        Phase(6_000, (Size(5, 16, 8, 6.0), Size(1, 16, 32, 0.5), Size(9, 16, 4, 0.5))),
    )


if __name__ == "__main__":
    train_t2v.main(__doc__ or "", FullSizeRecipe(), STATE)
