"""Rotary positions whose distance can differ from stage to stage."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ScaledRope(nn.Module):
    """Takes the place of diffusers' ``WanRotaryPosEmbed``; with the scale (1, 1, 1) it is that, to the bit.

    scale: distance of neighbouring positions on the time, height and width axes, set before a forward pass.
    """

    def __init__(self, head_dim: int, patch: tuple[int, int, int], *, theta: float = 10000.0) -> None:
        super().__init__()
        spatial = 2 * (head_dim // 6)
        self.widths = (head_dim - 2 * spatial, spatial, spatial)
        self.patch = patch
        self.theta = theta
        self.scale: tuple[float, float, float] = (1.0, 1.0, 1.0)

    def forward(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        """``(B, C, T, H, W)`` to cosines and sines, each ``(1, tokens, 1, head_dim)``."""
        grid = [side // patch for side, patch in zip(latents.shape[-3:], self.patch, strict=True)]
        angles = torch.cat([self._angles(axis, grid) for axis in range(3)], dim=-1).flatten(0, 2)[None, :, None]
        return angles.cos().float().to(latents.device), angles.sin().float().to(latents.device)

    def _angles(self, axis: int, grid: list[int]) -> Tensor:
        """``(t, h, w, width)``: the rotation of every token on one axis; on the CPU, which always has float64."""
        width = self.widths[axis]
        frequencies = 1.0 / self.theta ** (torch.arange(0, width, 2, dtype=torch.float64) / width)
        positions = torch.arange(grid[axis], dtype=torch.float64) * self.scale[axis]
        angles = torch.outer(positions, frequencies).repeat_interleave(2, dim=-1)
        shape = [1, 1, 1, width]
        shape[axis] = grid[axis]
        return angles.reshape(shape).expand(*grid, width)
