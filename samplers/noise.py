"""The noise of a run: all draws are made on the CPU and derive from the run's NOISE and its seed.

Drawing on the CPU gives the same video on every device.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, cast

import comfy.sample
import torch
from torch import Tensor

from ..pyramid.noise_pyramid import stage_seed, step_seed, top_up_seed
from ..pyramid.stages import Stage
from ..pyramid.untrusted import shown
from .comfyui.finite import is_finite, tensor_problem

BATCH_INDEX_KEY = "pyramidal_wan_batch_index"
"""Transformer option that carries the LATENT's ``batch_index`` to the few-step sampler, so that every batch member draws its
own noise."""

MAX_DRAWS = 16
"""How many draws of a seed are searched for the noise of a batch."""


class Noise(Protocol):
    """ComfyUI's NOISE type."""

    seed: int

    def generate_noise(self, latent: dict) -> Tensor:
        """Return noise of the shape of ``latent["samples"]``."""
        ...


class SeedNoise:
    """NOISE from a seed, equal to that of ComfyUI's 'RandomNoise'."""

    def __init__(self, seed: int):
        """Set the seed."""
        self.seed = seed

    def generate_noise(self, latent: dict) -> Tensor:
        """Return noise of the shape of ``latent["samples"]``."""
        return cast(Tensor, comfy.sample.prepare_noise(latent["samples"], self.seed, latent.get("batch_index")))


class DerivedNoise:
    """NOISE of one stage, derived from the NOISE of the run: a seed of its own, and a draw that is made on request."""

    def __init__(self, seed: int, draw: Callable[[dict], Tensor]):
        """Set the seed and the function that draws the noise for a LATENT."""
        self.seed, self._draw = seed, draw

    def generate_noise(self, latent: dict) -> Tensor:
        """Return the stage's noise; only the ``batch_index`` of ``latent`` matters."""
        return self._draw(latent)


def full_noise(noise: Noise, latent: dict, size: Sequence[int]) -> Tensor:
    """Return the one full-resolution draw of a run, ``(B, C, T, H, W)`` in float32.

    Args:
        noise: The run's NOISE.
        latent: LATENT whose batch indices apply; its samples are ignored.
        size: Shape of the draw.
    """
    empty = {**latent, "samples": torch.zeros(*size, dtype=torch.float32)}
    drawn = noise.generate_noise(empty)
    problem = _kind_problem(drawn)
    if problem or tuple(drawn.shape) != tuple(size):
        got = problem or "x".join(map(str, drawn.shape))
        raise ValueError(f"the NOISE draws {got} for a latent of {'x'.join(map(str, size))}; connect 'RandomNoise'")
    if not is_finite(drawn):
        raise ValueError("the NOISE draws NaN or infinity; connect 'RandomNoise'")
    return drawn.float()


def _kind_problem(drawn: Any) -> str | None:
    """Return what a NOISE drew, in words, unless it is a tensor of real numbers."""
    if not isinstance(drawn, Tensor):
        return shown(drawn)
    return "complex numbers" if drawn.is_complex() else tensor_problem(drawn)


def seeded_noise(size: Sequence[int], seed: int, batch_index: Any) -> Tensor:
    """Return white noise of shape ``size`` in float32; ``batch_index`` is that of a LATENT, or None."""
    return cast(Tensor, comfy.sample.prepare_noise(torch.zeros(*size, dtype=torch.float32), seed, batch_index))


def batch_index_of(noise: Tensor, seed: int) -> list[int] | None:
    """Return the ``batch_index`` of a LATENT from the noise that ComfyUI drew for it; None for noise of another origin.

    ComfyUI draws the members of a batch one after the other from one generator.

    Args:
        noise: Noise of all members, ``(B, C, T, H, W)`` on the CPU.
        seed: Seed of the noise.
    """
    if not torch.count_nonzero(noise):
        return None
    generator, indices = torch.Generator().manual_seed(seed), dict[int, int]()
    for index in range(max(len(noise), MAX_DRAWS)):
        draw = torch.randn(noise.shape[1:], generator=generator).to(noise.dtype)
        indices.update({member: index for member in range(len(noise)) if torch.equal(noise[member], draw)})
        if len(indices) == len(noise):
            return [indices[member] for member in range(len(noise))]
    return None


def top_up_noise(run_seed: int, stage: Stage, samples: Tensor, batch_index: Any) -> Tensor:
    """Return the white noise that tops up frame 0 at the start of a stage, at the stage's size.

    Args:
        run_seed: Seed of the run's NOISE.
        stage: The stage that starts.
        samples: Any latent of the run; gives the batch size and the number of channels.
        batch_index: The ``batch_index`` of the LATENT, or None.
    """
    seed = top_up_seed(stage_seed(run_seed, stage.index))
    return seeded_noise((*samples.shape[:2], *stage.shape), seed, batch_index)


def step_noise(x: Tensor, extra_args: dict, step: int) -> Tensor:
    """Return the white noise that few-step sampling adds after a step, of the shape, device and dtype of ``x``.

    Args:
        x: The latent of a stage.
        extra_args: Arguments that ComfyUI passes to every sampler function; gives the stage's seed and the batch indices.
        step: Number of the step within the stage.
    """
    options = extra_args.get("model_options", {}).get("transformer_options", {})
    seed = step_seed(extra_args.get("seed") or 0, step)
    return seeded_noise(x.shape, seed, options.get(BATCH_INDEX_KEY)).to(x)
