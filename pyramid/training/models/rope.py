"""Rotary position embedding with a scale that can differ between stages."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ScaledRope(nn.Module):
    """Replacement for diffusers' ``WanRotaryPosEmbed``; bit-identical to it at scale (1, 1, 1).

    Attributes:
        scale: Distance of neighbouring positions on the time, height and width axes; set it before a forward pass.
    """

    def __init__(self, head_dim: int, patch: tuple[int, int, int], *, theta: float = 10000.0) -> None:
        """Divide the head's channels among the axes as Wan does.

        Args:
            head_dim: Width of an attention head.
            patch: Latents per token on the time, height and width axes.
            theta: Base of the frequencies.
        """
        super().__init__()
        spatial = 2 * (head_dim // 6)
        self.widths = (head_dim - 2 * spatial, spatial, spatial)
        self.patch = patch
        self.theta = theta
        self.scale: tuple[float, float, float] = (1.0, 1.0, 1.0)

    def forward(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        """Return cosines and sines, each ``(1, tokens, 1, head_dim)``, for latents ``(B, C, T, H, W)``."""
        grid = [side // patch for side, patch in zip(latents.shape[-3:], self.patch, strict=True)]
        angles = torch.cat([self._angles(axis, grid) for axis in range(3)], dim=-1).flatten(0, 2)[None, :, None]
        return angles.cos().float().to(latents.device), angles.sin().float().to(latents.device)

    def _angles(self, axis: int, grid: list[int]) -> Tensor:
        """Return every token's rotation on one axis, ``(t, h, w, width)``; on the CPU, because not every GPU has float64."""
        width = self.widths[axis]
        frequencies = 1.0 / self.theta ** (torch.arange(0, width, 2, dtype=torch.float64) / width)
        positions = torch.arange(grid[axis], dtype=torch.float64) * self.scale[axis]
        angles = torch.outer(positions, frequencies).repeat_interleave(2, dim=-1)
        shape = [1, 1, 1, width]
        shape[axis] = grid[axis]
        return angles.reshape(shape).expand(*grid, width)
