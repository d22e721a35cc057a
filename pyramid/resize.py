"""Shrink and enlarge latents ``(B, C, T, H, W)`` with orthonormal transforms.

A resize keeps the low band of a one-level orthonormal transform ``W = [W_L; W_H]``. With n fine samples per coarse sample,
``down = W_L / sqrt(n)`` and ``up = sqrt(n) * W_L^T``, so both directions have unit DC gain.

Halvings use the transform of the pyramid. By any other scale, the DCT keeps the first h x w of H x W coefficients: W_L is
``D_h^T [I 0] D_H`` along each axis, and ``n = (H W) / (h w)`` is any number above 1 (derived).

Time always halves with Haar: 1 + 2k frames become 1 + k. The first latent frame is kept apart, because the causal VAE of Wan
encodes a single video frame into it; longer filters would lack a partner for it.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from einops import reduce, repeat
from torch import Tensor

from .axes import AXES as AXES  # the axes belong to this module's interface
from .axes import space_scale
from .latent_shape import LatentShape


class OrthonormalResize(Protocol):
    """A resize to a smaller size and its inverse on the low band.

    Every implementation satisfies:

    * ``down(up(y)) == y``.
    * ``up(down(x))`` is a symmetric projection of ``x``.
    * Both directions map constants to the same constants.
    * ``sum(up(y)**2) == sum(n * y**2)`` with ``n = fine_per_coarse`` per frame.
    """

    def down(self, x: Tensor) -> Tensor:
        """Return ``(B, C, 1+k, h, w)`` for ``(B, C, 1+2k, H, W)``; axes that do not shrink keep their size."""
        ...

    def up(self, y: Tensor) -> Tensor:
        """Return ``(B, C, 1+2k, H, W)`` for ``(B, C, 1+k, h, w)``."""
        ...

    def up_frames(self, y: Tensor) -> Tensor:
        """Return ``y`` with each frame repeated for the fine frames that it becomes; height and width stay."""
        ...

    def fine_per_coarse(self, frames: int) -> tuple[float, ...]:
        """Return the fine samples per coarse sample for each of ``frames`` coarse latent frames."""
        ...


@dataclass(frozen=True)
class _Resize:
    """Haar in time, ``spatial`` in space where it halves, else the DCT between ``fine`` and a scale of it."""

    axes: str
    spatial: str
    fine: tuple[int, int] | None = None

    def down(self, x: Tensor) -> Tensor:
        if "T" in self.axes:
            x = _halve_frames(x)
        if space_scale(self.axes) is not None:
            return _shrink_space(x, scaled_sides(x.shape[-2:], self.axes))
        if "HW" in self.axes:
            x = _halve_space(x, self.spatial)
        return x

    def up(self, y: Tensor) -> Tensor:
        if space_scale(self.axes) is not None:
            y = _enlarge_space(y, self._fine_sides())
        elif "HW" in self.axes:
            y = _double_space(y, self.spatial)
        return self.up_frames(y)

    def up_frames(self, y: Tensor) -> Tensor:
        return _double_frames(y) if "T" in self.axes else y

    def fine_per_coarse(self, frames: int) -> tuple[float, ...]:
        fine = (2, 2) if space_scale(self.axes) is None else self._fine_sides()
        first, rest = volume_ratio(self.axes, fine)
        return (first, *[rest] * (frames - 1))

    def _fine_sides(self) -> tuple[int, int]:
        if self.fine is None:
            raise ValueError(f"a resize of '{self.axes}' must be made for a size")
        return self.fine


def make_resize(name: str, axes: str, fine: tuple[int, int] | None = None) -> OrthonormalResize:
    """Return a resize.

    Args:
        name: Transform of height and width where they are halved, one of ``RESIZES``; other scales use the DCT.
        axes: What shrinks, see ``pyramid.axes``.
        fine: Height and width of the fine size. Only a resize by a scale requires it, to enlarge: several fine sizes have one
            coarse size.
    """
    return _Resize(axes=axes, spatial=name, fine=None if space_scale(axes) is None or fine is None else (fine[0], fine[1]))


def scaled_sides(sides: Sequence[int], axes: str) -> tuple[int, int]:
    """Return the height and width of the coarse size."""
    coarse = LatentShape(1, *sides).coarser(axes.replace("T", ""))
    return coarse.height, coarse.width


def volume_ratio(axes: str, fine: tuple[int, int]) -> tuple[float, float]:
    """Return the fine samples per coarse sample in latent frame 0, which has no partner in time, and in the other frames.

    Args:
        axes: What shrinks, see ``pyramid.axes``.
        fine: Height and width of the fine size; only scales depend on it.
    """
    space: float = 4 if "HW" in axes else 1
    if space_scale(axes) is not None:
        space = math.prod(fine) / math.prod(scaled_sides(fine, axes))
    return space, space * (2 if "T" in axes else 1)


def project(x: Tensor, resize: OrthonormalResize) -> Tensor:
    """Return ``up(down(x))``, the low band of ``x`` at the size of ``x``."""
    return resize.up(resize.down(x))


def missing_band(noise: Tensor, resize: OrthonormalResize) -> Tensor:
    """Return ``noise - up(down(noise))``, the band of a fine draw that the coarser stage cannot hold."""
    return noise - project(noise, resize)


def _halve_frames(x: Tensor) -> Tensor:
    return torch.cat([x[:, :, :1], reduce(x[:, :, 1:], "b c (t two) h w -> b c t h w", "mean", two=2)], dim=2)


def _double_frames(y: Tensor) -> Tensor:
    return torch.cat([y[:, :, :1], repeat(y[:, :, 1:], "b c t h w -> b c (t two) h w", two=2)], dim=2)


def _halve_space(x: Tensor, spatial: str) -> Tensor:
    if spatial == "haar":
        return reduce(x, "b c t (h i) (w j) -> b c t h w", "mean", i=2, j=2)
    rows, columns = (_low_band(spatial, size).to(x) / math.sqrt(2) for size in x.shape[-2:])
    return rows @ x @ columns.T


def _double_space(y: Tensor, spatial: str) -> Tensor:
    if spatial == "haar":
        return repeat(y, "b c t h w -> b c t (h i) (w j)", i=2, j=2)
    rows, columns = (_low_band(spatial, 2 * size).to(y) * math.sqrt(2) for size in y.shape[-2:])
    return rows.T @ y @ columns


def _shrink_space(x: Tensor, coarse: tuple[int, int]) -> Tensor:
    rows, columns = (_dct_band(size, side).to(x) for size, side in zip(x.shape[-2:], coarse, strict=True))
    return rows @ x @ columns.T * math.sqrt(math.prod(coarse) / math.prod(x.shape[-2:]))


def _enlarge_space(y: Tensor, fine: tuple[int, int]) -> Tensor:
    rows, columns = (_dct_band(size, side).to(y) for size, side in zip(fine, y.shape[-2:], strict=True))
    return rows.T @ y @ columns * math.sqrt(math.prod(fine) / math.prod(y.shape[-2:]))


@functools.lru_cache(maxsize=64)
def _low_band(spatial: str, size: int) -> Tensor:
    """Return ``W_L`` of one axis that is halved, ``(size / 2, size)`` with orthonormal rows, on the CPU."""
    if spatial == "dct":
        return _dct_band(size, size // 2)
    return torch.from_numpy(_wavelet_low_band(_scaling_filter(spatial), size))


@functools.lru_cache(maxsize=64)
def _dct_band(size: int, kept: int) -> Tensor:
    """Return the map that keeps the lowest ``kept`` coefficients of the DCT-II of an axis, ``(kept, size)``, on the CPU."""
    return torch.from_numpy(_dct_matrix(kept).T @ _dct_matrix(size)[:kept])


def _dct_matrix(size: int) -> np.ndarray:
    k, i = np.arange(size)[:, None], np.arange(size)[None, :]
    matrix = np.sqrt(2 / size) * np.cos(np.pi * k * (2 * i + 1) / (2 * size))
    matrix[0] /= math.sqrt(2)
    return matrix


def _wavelet_low_band(scaling: np.ndarray, size: int) -> np.ndarray:
    """Return the periodised transform: a filter longer than the axis wraps around it and stays orthonormal.

    The filter is centred to bring coarse sample k closest to the middle of fine samples 2k and 2k + 1.
    """
    centre = np.average(np.arange(len(scaling)), weights=scaling)
    offset = round(0.5 - centre)
    band = np.zeros((size // 2, size))
    for k in range(size // 2):
        np.add.at(band[k], (2 * k + offset + np.arange(len(scaling))) % size, scaling)
    return band


def _scaling_filter(wavelet: str) -> np.ndarray:
    """Return the orthonormal low-pass filter h of a PyWavelets wavelet: ``sum(h**2) == 1``, ``sum(h) == sqrt(2)``."""
    try:
        import pywt
    except ImportError:
        raise ValueError(
            f"resize '{wavelet}' needs the Python package PyWavelets, which is not installed; 'haar' and 'dct' work without it"
        ) from None
    return np.array(pywt.Wavelet(wavelet).rec_lo)  # pyright: ignore[reportAttributeAccessIssue] - defined in an extension


WAVELETS = (
    *(f"db{order}" for order in range(2, 39)),
    *(f"sym{order}" for order in range(2, 21)),
    *(f"coif{order}" for order in range(1, 18)),
)
"""The wavelets of PyWavelets whose filters are orthonormal to 1e-9 (db1 is Haar)."""

RESIZES = ("haar", "dct", *WAVELETS)
