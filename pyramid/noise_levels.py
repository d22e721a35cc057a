"""Noise levels: how much noise is in a tensor, what the network is told about it, and how both change with resolution.

Flow convention throughout: ``x = (1 - sigma) * signal + sigma * noise`` with unit-variance noise, so ``sigma`` is the
coefficient of the noise *in the tensor*; 1 is pure noise, 0 is clean.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

from torch import Tensor

Level = TypeVar("Level", float, Tensor)


@dataclass(frozen=True)
class NoiseLevel:
    """One noise level of a stage.

    told: what the network is conditioned on, in [0, 1]; ``()`` or ``(B,)``. Times 1000 it is Wan's timestep.
    sigma: what is in the tensor, per latent frame; ``(T, 1, 1)`` or ``(B, 1, T, 1, 1)``, so it broadcasts over
        ``(B, C, T, H, W)``. Latent frame 0 can differ from the others: it halves in two axes where they halve in three.
    """

    conditioning: Tensor
    sigma: Tensor


def shift_sigma(sigma: Level, shift: float) -> Level:
    """Multiplies the odds of noise against signal by ``shift``; shifts compose by multiplication.

    With the root of n it is the map T_n of the pyramid: averaging n samples lowers the noise of what remains by that
    root, so a coarse sigma looks shifted by it after upsampling. With any other number it is the flow shift of SD3 and
    Wan.
    """
    # The odds are sigma / (1 - sigma); [0, 1] is mapped onto itself, and 1 / shift is the inverse. T_n is derived; for
    # n = 4 it is Pyramidal Flow's corrected sigma, arXiv 2410.05954. Flow shift: arXiv 2403.03206, section 5.3.2.
    return sigma / (sigma + (1 - sigma) / shift)  # this form is exact at 0, at 1 and for shift 1


def add_noise(signal: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
    """``(1 - sigma) * signal + sigma * noise``; sigma broadcasts over ``(B, C, T, H, W)``."""
    return (1 - sigma) * signal + sigma * noise
