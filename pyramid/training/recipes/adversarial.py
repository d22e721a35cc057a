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


def discriminator_accuracy(real: Tensor, fake: Tensor) -> Tensor:
    """Share of samples whose data has the larger mean logit than the prediction from it; 0.5 is chance. Logits ``(B, N)``.

    The hinge loss stays near 2 for as long as samples differ more among themselves than data from predictions, so it does not
    tell whether heads are at chance.
    """
    return (real.detach().mean(dim=1) > fake.detach().mean(dim=1)).float().mean()


def reconstruction(clean: Tensor, data: Tensor, *, width: float = 0.03) -> Tensor:
    """Pseudo-Huber distance ``sqrt(|clean - data|^2 + width^2) - width``, per element: quadratic for errors below ``width``."""
    return ((clean - data).square() + width**2).sqrt().sub(width).mean()


class Branch(nn.Module):
    """Two convolutions over one kind of axes; kind: "space" sees every frame alone, "time" every place alone."""

    def __init__(self, width: int, kind: str) -> None:
        super().__init__()
        kernel = (1, 3, 3) if kind == "space" else (3, 1, 1)
        convolutions = (nn.Conv3d(width, width, kernel, padding="same") for _ in range(2))
        self.first, self.second = (nn.Sequential(convolution, nn.LeakyReLU(0.2)) for convolution in convolutions)
        self.bias = nn.Parameter(torch.zeros(()))

    def forward(self, features: Tensor, direction: Tensor) -> Tensor:
        """Features ``(B, C, T, H, W)`` to a logit at every place, ``(B, T * H * W)``: their product with the direction
        ``(B, C)`` that belongs to the sample's condition. Nothing is normalised over places.
        """
        x = self.first(features)
        x = x + self.second(x)
        return torch.einsum("b c t h w, b c -> b t h w", x, direction).flatten(1) / x.shape[1] ** 0.5 + self.bias


class DiscriminatorHeads(nn.Module):
    """A spatial and a temporal branch on the features of some transformer blocks, conditioned by projection
    (arXiv 1802.05637) on the embedding of prompt and noise level."""

    def __init__(self, dim: int, taps: int, *, width: int = 256, condition: int | None = None) -> None:
        super().__init__()
        self.narrow = nn.ModuleList(nn.Sequential(_centred(dim), nn.Linear(dim, width)) for _ in range(taps))
        dim = condition or dim
        self.condition = nn.ModuleList(nn.Sequential(_centred(dim), nn.Linear(dim, width)) for _ in range(taps))
        self.branches = nn.ModuleList(nn.ModuleList([Branch(width, "space"), Branch(width, "time")]) for _ in range(taps))

    def forward(self, features: Sequence[Tensor], grid: tuple[int, int, int], condition: Tensor) -> Tensor:
        """Logits ``(B, taps * 2 * tokens)``: of every tap and branch, at every place.

        features: ``(B, tokens, dim)`` for each tap; grid: tokens in time, height and width; condition ``(B, width)``.
        """
        logits = []
        for tap, narrow, conditioned, branches in zip(features, self.narrow, self.condition, self.branches, strict=True):
            volume = rearrange(narrow(tap.float()), "b (t h w) c -> b c t h w", t=grid[0], h=grid[1], w=grid[2])
            direction = conditioned(condition.float())
            logits += [branch(volume, direction) for branch in branches]  # pyright: ignore[reportGeneralTypeIssues]
        return torch.cat(logits, dim=1)


def _centred(dim: int) -> nn.LayerNorm:
    """For each token or condition: features are tens in size, embeddings of noise levels a tenth."""
    return nn.LayerNorm(dim, elementwise_affine=False)
