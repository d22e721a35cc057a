"""Layers: pictures that move and zoom behind a frame, averaged exactly over the area of every pixel.

A picture is constant in each of its cells. Its integral over a pixel of any size and place is a difference of its cumulative
sums at the pixel's edges, interpolated linearly between cells.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Layer:
    """A picture and its movement. Lengths are fractions of the frame's shorter side, and times -0.5..0.5.

    Attributes:
        picture: Values (C, h, w); the last channel of four is the opacity, by which the colours are multiplied.
        cells: Cells of the picture per shorter side, at zoom 1.
        centre: Place (x, y) of the picture's centre at time 0, from the centre of the frame.
        travel: Displacement (x, y) in one unit of time.
        zoom: Natural logarithm of the magnification that is gained in one unit of time, about the centre of the frame.
    """

    picture: Tensor
    cells: float
    centre: tuple[float, float]
    travel: tuple[float, float]
    zoom: float = 0.0

    def edges(self, times: Tensor, samples: int, short: int, axis: int) -> Tensor:
        """Return the picture coordinates, in cells, of the edges between the pixels of each frame: (T, samples + 1).

        Args:
            times: Times (T,).
            samples: Pixels along the axis.
            short: Pixels along the shorter side.
            axis: 0 for x, 1 for y.
        """
        edges = (torch.arange(samples + 1, dtype=torch.float64) - samples / 2) / short
        magnification = torch.exp(self.zoom * times)[:, None]
        place = self.centre[axis] + self.travel[axis] * times
        return self.cells * (edges / magnification - place[:, None]) + self.picture.shape[2 - axis] / 2


def integral_of(picture: Tensor) -> Tensor:
    """Return the cumulative sums over both axes, (C, h + 1, w + 1) in float64, starting with zeros."""
    sums = picture.new_zeros(len(picture), picture.shape[1] + 1, picture.shape[2] + 1, dtype=torch.float64)
    sums[:, 1:, 1:] = picture.double().cumsum(dim=1).cumsum(dim=2)
    return sums


def window_means(integral: Tensor, y_edges: Tensor, x_edges: Tensor) -> Tensor:
    """Return the means over the pixels of every frame, (T, C, H, W) in float32; the picture is zero outside.

    Args:
        integral: Cumulative sums (C, h + 1, w + 1).
        y_edges: Edges (T, H + 1) between the rows of pixels, in cells.
        x_edges: Edges (T, W + 1) between the columns of pixels, in cells.
    """
    channels, frames, rows = len(integral), len(y_edges), y_edges.shape[1]
    below, share = _cells(y_edges, integral.shape[1])
    index = below.flatten()
    sums = torch.lerp(integral.index_select(1, index), integral.index_select(1, index + 1), share.view(1, -1, 1))
    sums = sums.view(channels, frames, rows, -1)
    below, share = _cells(x_edges, integral.shape[2])
    index = below[None, :, None].expand(channels, frames, rows, -1)
    sums = torch.lerp(sums.gather(3, index), sums.gather(3, index + 1), share[None, :, None])
    area = (y_edges[:, 1] - y_edges[:, 0]) * (x_edges[:, 1] - x_edges[:, 0])
    return (sums.diff(dim=2).diff(dim=3).transpose(0, 1) / area[:, None, None, None]).float()


def _cells(edges: Tensor, sums: int) -> tuple[Tensor, Tensor]:
    """Return the cells that hold the edges, and the edges' places in them, 0..1."""
    edges = edges.clamp(0, sums - 1)
    below = edges.floor().clamp_(max=sums - 2)
    return below.long(), edges - below
