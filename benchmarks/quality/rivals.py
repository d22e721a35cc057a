"""Other training-free methods that start at a smaller size, from their published rules.

Both discard the noisy latent at the transition: they enlarge its clean prediction and add new noise. SPEED, which enlarges the
noisy latent as this pack does without a lift, is a row of the sampler node with its resize and boundary.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from harness.in_process import pack_module
from pyramid.latent_shape import LatentShape
from pyramid.noise_levels import shift_sigma

Enlarge = Callable[[Any, Any, Tensor, LatentShape], Tensor]
"""Takes ComfyUI's model and VAE, the clean prediction in the scale of the model, and the size."""


@dataclass(frozen=True)
class Rival:
    """A method.

    Attributes:
        scale: Share of height and width at which the run starts.
        enlarge: Enlarges the clean prediction.
        noise: Level of the new noise, from the levels of the last step before the transition and of the first after it.
        later_shift: Added to the flow shift of the remaining steps.
        conditions_on_noise: Whether the network is conditioned on the level of the new noise instead of the schedule's.
    """

    scale: float
    enlarge: Enlarge
    noise: Callable[[float, float], float]
    later_shift: float = 0.0
    conditions_on_noise: bool = False

    def low_shape(self, full: LatentShape) -> LatentShape:
        """Return the size at which the run starts, in whole patches."""
        height, width = (int(side * self.scale) // 2 * 2 for side in (full.height, full.width))
        return LatentShape(full.frames, height, width)

    def levels(self, steps: tuple[int, int], shift: float) -> tuple[list[float], list[float], float]:
        """Return the levels of the low and of the high steps, and that of the new noise."""
        total, low = sum(steps), steps[0]
        first, then = (
            [shift_sigma(1 - step / total, value) for step in range(total + 1)] for value in (shift, shift + self.later_shift)
        )
        noise = self.noise(first[low - 1], first[low])
        return first[: low + 1], [noise if self.conditions_on_noise else then[low], *then[low + 1 :]], noise


def trilinear(model: Any, vae: Any, clean: Tensor, size: LatentShape) -> Tensor:
    """Enlarge in the latent space (Jenga, arXiv 2505.16864; LightX2V's ``changing_resolution``)."""
    return functional.interpolate(clean, size=tuple(size), mode="trilinear")


def selflift(
    model: Any, vae: Any, clean: Tensor, size: LatentShape, *, share: float = 0.4, least: float = 0.7, most: float = 1.0
) -> Tensor:
    """Enlarge as SelfLift-zero (arXiv 2609.02036, equations 4 to 9): nearest latents, corrected through the pixels.

    Args:
        model: ComfyUI's model.
        vae: ComfyUI's VAE.
        clean: Clean prediction (B, C, T, h, w).
        size: The larger size.
        share: Share of the positions that are corrected, those with the largest difference.
        least: Weight of the correction at the smallest corrected difference.
        most: Weight at the largest; the three defaults are SGLang's.
    """
    pixel_lift = pack_module("samplers.lift.pixels").pixel_lift(vae)
    latent = model.model.process_latent_out(clean)
    repeated = functional.interpolate(latent, size=tuple(size), mode="nearest-exact")
    difference = pixel_lift(latent, tuple(size)) - repeated
    risk = difference.abs().mean(dim=1, keepdim=True)
    flat = risk.flatten(1)
    chosen = flat >= flat.quantile(1 - share, dim=1, keepdim=True)
    low = flat.masked_fill(~chosen, torch.inf).amin(dim=1, keepdim=True)
    rise = (flat - low) / (flat.amax(dim=1, keepdim=True) - low + 1e-6)
    weight = torch.where(chosen, least + (most - least) * rise, 0.0).view_as(risk)
    return model.model.process_latent_in(repeated + weight * difference)


RIVALS = {
    "selflift": Rival(0.5, selflift, lambda last, first: 0.97 * first, conditions_on_noise=True),
    "jenga": Rival(0.75, trilinear, lambda last, first: last, later_shift=1.0),
}


@torch.no_grad()
def sample(
    rival: Rival, model: Any, vae: Any, positive: list, negative: list, full: LatentShape, *, steps: tuple[int, int],
    cfg: float, shift: float, seed: int,
) -> Tensor:  # fmt: skip
    """Sample latents of a text-to-video model, in the scale of the VAE."""
    import comfy.sample
    import comfy.samplers

    batch, generator = positive[0][0].shape[0], torch.Generator().manual_seed(seed)
    channels, sampler = model.get_model_object("latent_format").latent_channels, comfy.samplers.sampler_object("euler")
    first, then, level = rival.levels(steps, shift)
    predictions: list[Tensor] = []

    def run(start: Tensor, levels: list[float]) -> Tensor:
        """Run steps from a noisy latent; ComfyUI scales the noise that it is given by the first level."""
        return comfy.sample.sample_custom(
            model, start / levels[0], cfg, sampler, torch.tensor(levels), positive, negative, torch.zeros_like(start),
            callback=lambda step, clean, x, total: predictions.append(clean), disable_pbar=True, seed=seed,
        )  # fmt: skip

    def noise(size: LatentShape) -> Tensor:
        return torch.randn(batch, channels, *size, generator=generator)

    run(noise(rival.low_shape(full)), first)
    clean = rival.enlarge(model, vae, predictions[-1].float().cpu(), full)
    return run((1 - level) * clean + level * noise(full), then)
