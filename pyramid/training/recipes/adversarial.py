"""Losses of adversarial distillation, and discriminator heads on the features of a frozen transformer.

Sources: hinge losses and weights from PyramidalWan (arXiv 2601.04792); heads after SF-V (arXiv 2406.04324), because
PyramidalWan says only "light two-branch convolutions, spatial and temporal". SF-V's R1 penalty on the features is not used.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from einops import rearrange
from torch import Tensor, nn


def hinge_discriminator(real: Tensor, fake: Tensor) -> Tensor:
    """Return the mean of ``max(0, 1 - D(real)) + max(0, 1 + D(fake))`` over logits of any shape."""
    return (1 - real).clamp(min=0).mean() + (1 + fake).clamp(min=0).mean()


def hinge_generator(fake: Tensor) -> Tensor:
    """Return the mean of ``-D(fake)``."""
    return -fake.mean()


def discriminator_accuracy(real: Tensor, fake: Tensor) -> Tensor:
    """Return the pairwise accuracy: the share of samples whose data has a larger mean logit than the prediction from it.

    0.5 is chance. The hinge loss cannot show that: it stays near 2 as long as samples differ more from each other than data
    from predictions.

    Args:
        real: Logits of the data, ``(B, N)``.
        fake: Logits of the predictions, ``(B, N)``.
    """
    return (real.detach().mean(dim=1) > fake.detach().mean(dim=1)).float().mean()


def reconstruction(clean: Tensor, data: Tensor, *, width: float = 0.03) -> Tensor:
    """Return the mean pseudo-Huber distance ``sqrt((clean - data)^2 + width^2) - width``; quadratic below ``width``.

    It is taken per element. PyramidalWan does not say whether its own is, or one of whole samples as in iCT (arXiv 2310.14189).
    """
    return ((clean - data).square() + width**2).sqrt().sub(width).mean()


def check_taps(taps: Sequence[int], blocks: int) -> None:
    """Check the indices of the blocks that a discriminator reads.

    Args:
        taps: The indices.
        blocks: Number of blocks of the teacher.

    Raises:
        ValueError: There is no such block.
    """
    if wrong := [tap for tap in taps if not 0 <= tap < blocks]:
        raise ValueError(f"discriminator.taps: there is no block {wrong[0]} in the teacher; expected 0 to {blocks - 1}")


class Branch(nn.Module):
    """Two convolutions over space, which see each frame separately, or over time, which see each position separately."""

    def __init__(self, width: int, kind: str) -> None:
        """Create the convolutions. width: channels. kind: "space" or "time"."""
        super().__init__()
        kernel = (1, 3, 3) if kind == "space" else (3, 1, 1)
        convolutions = (nn.Conv3d(width, width, kernel, padding="same") for _ in range(2))
        self.first, self.second = (nn.Sequential(convolution, nn.LeakyReLU(0.2)) for convolution in convolutions)
        self.bias = nn.Parameter(torch.zeros(()))

    def forward(self, features: Tensor, direction: Tensor) -> Tensor:
        """Return a logit for every position, ``(B, T * H * W)``; nothing is normalised over positions.

        Args:
            features: Features, ``(B, C, T, H, W)``.
            direction: Projection of each sample's condition, ``(B, C)``; logits are scalar products with it.
        """
        x = self.first(features)
        x = x + self.second(x)
        return torch.einsum("b c t h w, b c -> b t h w", x, direction).flatten(1) / x.shape[1] ** 0.5 + self.bias


class DiscriminatorHeads(nn.Module):
    """A spatial and a temporal branch for each tapped transformer block.

    They are conditioned by projection (arXiv 1802.05637) on the embedding of prompt and noise level.
    """

    def __init__(self, dim: int, taps: int, *, width: int = 256, condition: int | None = None) -> None:
        """Create the heads.

        Args:
            dim: Width of the features.
            taps: Number of tapped blocks.
            width: Channels inside the heads.
            condition: Width of the condition; default: ``dim``.
        """
        super().__init__()
        self.narrow = nn.ModuleList(nn.Sequential(_centred(dim), nn.Linear(dim, width)) for _ in range(taps))
        dim = condition or dim
        self.condition = nn.ModuleList(nn.Sequential(_centred(dim), nn.Linear(dim, width)) for _ in range(taps))
        self.branches = nn.ModuleList(nn.ModuleList([Branch(width, "space"), Branch(width, "time")]) for _ in range(taps))

    def forward(self, features: Sequence[Tensor], grid: tuple[int, int, int], condition: Tensor) -> Tensor:
        """Return the logits of every tap and branch at every position, ``(B, taps * 2 * tokens)``.

        Args:
            features: Features of each tap, ``(B, tokens, dim)``.
            grid: Number of tokens on the time, height and width axes.
            condition: Embedding of prompt and noise level, ``(B, condition)``.
        """
        logits = []
        for tap, narrow, conditioned, branches in zip(features, self.narrow, self.condition, self.branches, strict=True):
            volume = rearrange(narrow(tap.float()), "b (t h w) c -> b c t h w", t=grid[0], h=grid[1], w=grid[2])
            direction = conditioned(condition.float())
            logits += [branch(volume, direction) for branch in branches]  # pyright: ignore[reportGeneralTypeIssues]
        return torch.cat(logits, dim=1)


def _centred(dim: int) -> nn.LayerNorm:
    """Normalise each vector; features are of the order of 10, embeddings of noise levels of the order of 0.1."""
    return nn.LayerNorm(dim, elementwise_affine=False)
