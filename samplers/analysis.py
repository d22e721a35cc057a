"""Cost and calibration of a pyramid for the model and latents of a graph."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

import comfy.latent_formats
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..pyramid.flops import WAN_DIMENSIONS, StageCost, WanDimensions, forward_tflops, schedule_cost, tokens
from ..pyramid.latent_shape import CHANNELS, VAE_SPACE, LatentShape
from ..pyramid.sizes import check_shape, stage_labels
from ..pyramid.spectrum import BandEnergy, band_energies, propose_boundaries
from ..pyramid.stages import PyramidSpec
from .comfyui.flow_shift import WAN_SHIFT
from .comfyui.latents import check_latent, pixels_per_latent, spec_at
from .comfyui.network_size import wan_dimensions
from .comfyui.timings import key_of, read_timings, seconds_per_pass
from .options import parse_cfg
from .schedule import steps_per_stage
from .time_left import duration_text

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher

PLAIN_STEPS = 50
"""Steps of the ordinary run at full size that costs are compared with."""


def cost_of(
    latent: dict, spec: PyramidSpec, steps: str, cfg: str, model: ModelPatcher | None = None, *, shift: float = WAN_SHIFT
) -> tuple[list[StageCost], float]:
    """Return the cost of each stage, and the TFLOPs of 50 steps at full size.

    Args:
        latent: LATENT at full resolution; all videos of the batch count.
        spec: The pyramid.
        steps: Steps of each stage, such as "20-20-10", or of the whole run.
        cfg: cfg of each stage; any value but 1 doubles the cost of a stage, and that of the ordinary run.
        model: Model that gives the sizes of the transformer; None for Wan 1.3B.
        shift: Flow shift of the run, which splits a number of steps of the whole run.

    Raises:
        ValueError: The size, the steps or the cfg do not fit the pyramid.
    """
    samples = latent["samples"]
    full = LatentShape(*samples.shape[2:])
    check_shape(full, spec)
    counts = steps_per_stage(steps, spec, shift)
    factors = [1 if value == 1 else 2 for value in parse_cfg(cfg, spec.number_of_stages)]
    dimensions = _dimensions(model)
    batch = samples.shape[0]
    costs = [
        dataclasses.replace(cost, tflops=cost.tflops * factor * batch)
        for cost, factor in zip(schedule_cost(spec, full, counts, dimensions), factors, strict=True)
    ]
    plain = PLAIN_STEPS * forward_tflops(tokens(full), dimensions) * max(factors) * batch
    return costs, plain


def labels_of(latent: dict, spec: PyramidSpec, model: ModelPatcher | None = None) -> list[str]:
    """Return the name and the size of each stage, such as "low 416x240", for a full-size LATENT."""
    full = LatentShape(*latent["samples"].shape[2:])
    return stage_labels(spec, full, pixels=VAE_SPACE if model is None else pixels_per_latent(model))


def times_of(costs: Sequence[StageCost], model: ModelPatcher | None = None) -> list[str]:
    """Return how long each stage and the whole run will take, such as "about 31 s".

    Args:
        costs: Cost of each stage.
        model: MODEL that the cost is for; None for Wan 1.3B.

    Returns:
        One text per stage and one for all; none if no run of such a model has been timed on this machine.
    """
    dimensions, timings = _dimensions(model), read_timings()
    key, seconds = key_of(dimensions, model), []
    for cost in costs:
        each = seconds_per_pass(key, cost.tokens, dimensions, timings)
        if each is None:
            return []
        seconds.append(each * cost.tflops / cost.forward_tflops)
    return [f"about {duration_text(value)}" for value in (*seconds, sum(seconds))]


def _dimensions(model: ModelPatcher | None) -> WanDimensions:
    """Return the sizes of a MODEL's transformer; those of Wan 1.3B for None.

    Raises:
        ValueError: It is not a Wan model.
    """
    if model is None:
        return WAN_DIMENSIONS["1.3B"]
    dimensions = wan_dimensions(model)
    if dimensions is None:
        raise ValueError(f"this MODEL is {type(model.model).__name__}; the cost is known for Wan models only")
    return dimensions


def calibrate(latent: dict, spec: PyramidSpec, threshold: float) -> tuple[PyramidSpec, list[BandEnergy]]:
    """Return the pyramid with boundaries measured on encoded clips, and the measured bands.

    Args:
        latent: LATENT of encoded clips, one per batch member.
        spec: The pyramid.
        threshold: Signal-to-noise ratio (of variances) below which noise masks a band.

    Raises:
        ValueError: The LATENT is empty or does not fit, or the measured boundaries do not fall.
    """
    samples, spec = latent["samples"].float(), spec_at(spec, latent)
    check_latent(samples, spec, channels=CHANNELS)
    if torch.count_nonzero(samples) == 0:
        raise ValueError("the LATENT is empty; calibration needs encoded clips ('VAE Encode')")
    if spec.number_of_stages == 1:
        raise ValueError("a pyramid of 1 stage has no boundary to calibrate")
    if spec.coarse == "patches":
        raise ValueError(
            "a pyramid of patches keeps all detail in every stage, so no boundary can be measured; use a pyramid of latents, "
            "such as pyramidal-wan"
        )
    bands = band_energies([comfy.latent_formats.Wan21().process_in(samples)], spec, threshold=threshold)
    return propose_boundaries(spec, bands), bands


def as_image(picture: Image.Image) -> Tensor:
    """Return a picture as IMAGE: ``(1, H, W, 3)`` in [0, 1]."""
    return torch.from_numpy(np.asarray(picture, dtype=np.float32) / 255)[None]
