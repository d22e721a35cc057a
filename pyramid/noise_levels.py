"""Noise levels: the noise in a tensor, what the network is conditioned on, and how both change with resolution.

Flow convention throughout: ``x = (1 - sigma) * signal + sigma * noise`` with noise of unit variance. ``sigma`` is the
coefficient of the noise *in the tensor*: 1 is pure noise, 0 is clean.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

from torch import Tensor

Level = TypeVar("Level", float, Tensor)


@dataclass(frozen=True)
class NoiseLevel:
    """One noise level of a stage.

    Attributes:
        conditioning: What the network is conditioned on, in [0, 1]; ``()`` or ``(B,)``. Times 1000 it is Wan's timestep.
        sigma: Coefficient of the noise per latent frame, ``(T, 1, 1)`` or ``(B, 1, T, 1, 1)``; broadcasts over
            ``(B, C, T, H, W)``. Latent frame 0 can differ from the others, which halve in time as well.
    """

    conditioning: Tensor
    sigma: Tensor


def shift_sigma(sigma: Level, shift: float) -> Level:
    """Return ``sigma`` with its odds ``sigma / (1 - sigma)`` multiplied by ``shift``.

    The map takes [0, 1] onto itself; shifts compose by multiplication, and ``1 / shift`` is the inverse. It serves twice:

    * As the flow shift of SD3 and Wan (arXiv 2403.03206, section 5.3.2).
    * With ``shift = sqrt(n)``, as the map ``T_n`` of the pyramid: averaging n samples divides the noise's standard deviation by
      ``sqrt(n)``, so a coarse sigma appears shifted by it after upsampling (derived; for n = 4 it is the corrected sigma of
      Pyramidal Flow, arXiv 2410.05954).
    """
    return sigma / (sigma + (1 - sigma) / shift)  # this form is exact at 0, at 1 and for shift 1


def add_noise(signal: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
    """Return ``(1 - sigma) * signal + sigma * noise``; sigma broadcasts over ``(B, C, T, H, W)``."""
    return (1 - sigma) * signal + sigma * noise
