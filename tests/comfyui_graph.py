"""Short constructors for ComfyUI's own objects, as graphs create them."""

from __future__ import annotations

import comfy.samplers
import torch


def prompt(seed: int = 0, tokens: int = 7, **options) -> list:
    """Return CONDITIONING with a random embedding."""
    generator = torch.Generator().manual_seed(seed)
    return [[torch.randn(1, tokens, 4096, generator=generator), dict(options)]]


def guider(model, cfg: float = 1.0, positive=None, negative=None):
    """Return the GUIDER that ComfyUI's CFGGuider node creates."""
    made = comfy.samplers.CFGGuider(model)
    made.set_conds(positive or prompt(1), negative or prompt(2))
    made.set_cfg(cfg)
    return made


def empty(frames: int = 5, height: int = 16, width: int = 16, batch: int = 1, **keys) -> dict:
    """Return a LATENT of zeros."""
    return {"samples": torch.zeros(batch, 16, frames, height, width), **keys}


class GivenNoise:
    """NOISE with a given tensor."""

    def __init__(self, tensor: torch.Tensor, seed: int = 0):
        self.tensor, self.seed = tensor, seed

    def generate_noise(self, latent: dict) -> torch.Tensor:
        return self.tensor


def progress(monkeypatch):
    """Return a list that collects (value, total) of every progress update; newer versions of ComfyUI send only some of them."""
    import comfy.utils

    seen, original = [], comfy.utils.ProgressBar.update_absolute

    def update_absolute(bar, value, total=None, preview=None):
        original(bar, value, total, preview)
        seen.append((value, bar.total))

    monkeypatch.setattr(comfy.utils.ProgressBar, "update_absolute", update_absolute)
    return seen
