"""Cost and calibration of a pyramid for the model and latents of a graph."""

from __future__ import annotations

from typing import TYPE_CHECKING

import comfy.latent_formats
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..pyramid.flops import WAN_DIMENSIONS, StageCost, WanDimensions, forward_tflops, schedule_cost, tokens
from ..pyramid.latent_shape import CHANNELS, LatentShape
from ..pyramid.schedules import parse_steps
from ..pyramid.sizes import check_shape
from ..pyramid.spectrum import BandEnergy, band_energies, propose_boundaries
from ..pyramid.stages import PyramidSpec
from .comfyui.latents import check_latent, spec_at
from .options import parse_cfg

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher

PLAIN_STEPS = 50
"""Steps of the ordinary run at full size that costs are compared with."""


def cost_of(
    latent: dict, spec: PyramidSpec, steps: str, cfg: str, model: ModelPatcher | None = None
) -> tuple[list[StageCost], float]:
    """Return the cost of each stage, and the TFLOPs of 50 steps at full size.

    Args:
        latent: LATENT at full resolution; all videos of the batch count.
        spec: The pyramid.
        steps: Steps of each stage, such as "20-20-10".
        cfg: cfg of each stage; any value but 1 doubles the cost of a stage, and that of the ordinary run.
        model: Model that gives the sizes of the transformer; None for Wan 1.3B.

    Raises:
        ValueError: The size, the steps or the cfg do not fit the pyramid.
    """
    samples = latent["samples"]
    full = LatentShape(*samples.shape[2:])
    check_shape(full, spec)
    counts = parse_steps(steps, spec.number_of_stages)
    factors = [1 if value == 1 else 2 for value in parse_cfg(cfg, spec.number_of_stages)]
    dimensions = WAN_DIMENSIONS["1.3B"] if model is None else dimensions_of(model)
    batch = samples.shape[0]
    costs = [
        StageCost(c.index, c.shape, c.tokens, c.steps, c.forward_tflops, c.tflops * factor * batch)
        for c, factor in zip(schedule_cost(spec, full, counts, dimensions), factors, strict=True)
    ]
    plain = PLAIN_STEPS * forward_tflops(tokens(full), dimensions) * max(factors) * batch
    return costs, plain


def dimensions_of(model: ModelPatcher) -> WanDimensions:
    """Return the sizes of a Wan MODEL, from the configuration that ComfyUI detected in its weights.

    Raises:
        ValueError: It is not a Wan model.
    """
    config = model.model.model_config.unet_config
    try:
        return WanDimensions(
            dim=config["dim"],
            ffn_dim=config["ffn_dim"],
            layers=config["num_layers"],
            in_channels=config["in_dim"],
            out_channels=config["out_dim"],
        )
    except KeyError:
        raise ValueError(f"this MODEL is {type(model.model).__name__}; the cost is known for Wan models only") from None


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
    bands = band_energies([comfy.latent_formats.Wan21().process_in(samples)], spec, threshold=threshold)
    return propose_boundaries(spec, bands), bands


def as_image(picture: Image.Image) -> Tensor:
    """Return a picture as IMAGE: ``(1, H, W, 3)`` in [0, 1]."""
    return torch.from_numpy(np.asarray(picture, dtype=np.float32) / 255)[None]
