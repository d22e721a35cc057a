"""Train the tiny Wan image-to-video transformer: the text-to-video one, finetuned to continue from a first frame.

    python -m tiny_wan.recipes.train_i2v                       # start, or continue where the last one stopped
    python -m tiny_wan.recipes.train_i2v --export tiny_wan/weights/tiny_wan_i2v.safetensors

The network's input has 20 channels beside the noisy latent: a mask that is 1 in the given frame, and the latent of a video
whose other frames are all grey, as in Wan's image-to-video model. Everything else is as in `train_t2v.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from safetensors.torch import load_file
from torch import Tensor

from harness.in_process import ROOT
from harness.wan_modules import build_transformer
from pyramid.latent_shape import CHANNELS

from . import train_t2v
from .patch_code import PatchCode
from .train_t2v import Phase, Recipe, Size

if TYPE_CHECKING:
    from comfy.ldm.wan.model import WanModel

STATE = ROOT / ".state" / "i2v"
START = ROOT / "tiny_wan" / "weights" / "tiny_wan_t2v.safetensors"
MASK_CHANNELS = 4


@dataclass(frozen=True)
class ImageRecipe(Recipe):
    """The text-to-video recipe at full size, and at half width and height, where the training-free pyramid starts."""

    phases: tuple[Phase, ...] = (Phase(1_200, (Size(5, 16, 8, 3.0), Size(5, 8, 16, 1.0))),)
    learning_rate: float = 1e-3
    outer_learning_rate: float = 5e-4
    warm_up: int = 50
    ema_decay: float = 0.995
    seed: int = 1  # also of the latent space, which must be that of the text-to-video model

    def build(self) -> WanModel:
        """Build the trained text-to-video network; the weights of the new channels start at zero."""
        channels = 2 * CHANNELS + MASK_CHANNELS
        model = build_transformer(dim=self.dim, ffn_dim=self.ffn_dim, layers=self.layers, in_dim=channels)
        weights = {name: value.float() for name, value in load_file(START).items()}
        embedding = weights["patch_embedding.weight"]
        weights["patch_embedding.weight"] = torch.zeros(len(embedding), channels, *embedding.shape[2:])
        weights["patch_embedding.weight"][:, :CHANNELS] = embedding
        model.load_state_dict(weights)
        return model

    def beside(self, video: Tensor, clean: Tensor, code: PatchCode, generator: torch.Generator) -> Tensor:
        """Return mask and image. The VAE was not trained on grey frames, so noise hides their latents from the network."""
        grey = video.clone()
        grey[:, :, 1:] = 0.0
        image = code.latents(grey)
        amount = torch.rand(len(image), 1, 1, 1, 1, generator=generator)
        image[:, :, 1:] += amount * torch.randn(image[:, :, 1:].shape, generator=generator)
        mask = torch.zeros(len(image), MASK_CHANNELS, *image.shape[2:])
        mask[:, :, 0] = 1.0
        return torch.cat([mask, image], dim=1)

    def stored(self, name: str, weight: Tensor) -> Tensor:
        """Return matrices of the blocks in fp8, as in the public file that the workflow loads, and the rest in fp16."""
        matrix = name.startswith("blocks") and weight.ndim == 2
        return weight.to(torch.float8_e4m3fn) if matrix else weight.half()


if __name__ == "__main__":
    train_t2v.main(__doc__ or "", ImageRecipe(), STATE)
