"""Adversarial distillation: losses, and heads that tell students from data by the features of a frozen transformer.

Sources: hinge losses and weights from PyramidalWan (arXiv 2601.04792); heads after SF-V (arXiv 2406.04324), because
PyramidalWan says only "light two-branch convolutions, spatial and temporal".
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from einops import rearrange
from torch import Tensor, nn


def hinge_discriminator(real: Tensor, fake: Tensor) -> Tensor:
    """``max(0, 1 - D(real)) + max(0, 1 + D(fake))``; logits of any shape."""
    return (1 - real).clamp(min=0).mean() + (1 + fake).clamp(min=0).mean()


def hinge_generator(fake: Tensor) -> Tensor:
    """``-D(fake)``."""
    return -fake.mean()


def reconstruction(clean: Tensor, data: Tensor, *, width: float = 0.03) -> Tensor:
    """Pseudo-Huber distance ``sqrt(|clean - data|^2 + width^2) - width``, per element: quadratic for errors below ``width``."""
    return ((clean - data).square() + width**2).sqrt().sub(width).mean()


class Branch(nn.Module):
    """Two convolutions over one kind of axes, and logits; kind: "space" sees every frame alone, "time" every place."""

    def __init__(self, width: int, kind: str) -> None:
        super().__init__()
        self.kind = kind
        convolution = nn.Conv2d if kind == "space" else nn.Conv1d
        layers: list[nn.Module] = []
        for _ in range(2):
            layers += [convolution(width, width, 3, padding=1), nn.GroupNorm(min(32, width // 4), width), nn.LeakyReLU(0.2)]
        self.layers = nn.Sequential(*layers, convolution(width, 1, 1))

    def forward(self, features: Tensor) -> Tensor:
        """``(B, C, T, H, W)`` to the mean logit of each sample, ``(B,)``."""
        batch = len(features)
        pattern = "b c t h w -> (b t) c h w" if self.kind == "space" else "b c t h w -> (b h w) c t"
        return self.layers(rearrange(features, pattern)).reshape(batch, -1).mean(dim=1)


class Heads(nn.Module):
    """A spatial and a temporal branch on the features of some transformer blocks; their mean logits added up.

    A projection of the prompt's and the noise level's embedding is added to every tap, so that logits depend on both.
    """

    def __init__(self, dim: int, taps: int, *, width: int = 256, condition: int | None = None) -> None:
        super().__init__()
        self.narrow = nn.ModuleList(nn.Linear(dim, width) for _ in range(taps))
        self.condition = nn.ModuleList(nn.Linear(condition or dim, width) for _ in range(taps))
        self.branches = nn.ModuleList(nn.ModuleList([Branch(width, "space"), Branch(width, "time")]) for _ in range(taps))

    def forward(self, features: Sequence[Tensor], grid: tuple[int, int, int], condition: Tensor) -> Tensor:
        """features: ``(B, tokens, dim)`` for each tap; grid: tokens in time, height and width; condition ``(B, width)``."""
        logits = torch.zeros(len(condition), device=condition.device)
        for tap, narrow, conditioned, branches in zip(features, self.narrow, self.condition, self.branches, strict=True):
            seen = narrow(tap.float()) + conditioned(condition.float())[:, None]
            volume = rearrange(seen, "b (t h w) c -> b c t h w", t=grid[0], h=grid[1], w=grid[2])
            logits = logits + sum(branch(volume) for branch in branches)  # pyright: ignore[reportGeneralTypeIssues]
        return logits
