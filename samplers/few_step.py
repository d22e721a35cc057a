"""Few-step sampling for distilled models: predict clean data, then noise it again along the stage's path.

ComfyUI's "lcm" adds noise at one sigma for all frames to an unblurred signal, which leaves the path of a pyramidal stage. This
sampler follows the stage that the model is bound to, and equals lcm without a pyramid.
"""

from __future__ import annotations

from typing import Any

import comfy.samplers
import comfy.utils
import torch
from torch import Tensor
from tqdm.auto import trange

from ..pyramid.transition import renoise
from .comfyui.stage_model import comfyui_clean_prediction, sized
from .noise import step_noise


def few_step_sampler() -> comfy.samplers.KSAMPLER:
    """Return the SAMPLER."""
    return comfy.samplers.KSAMPLER(sample_few_step)


@torch.no_grad()
def sample_few_step(
    model: Any,
    x: Tensor,
    sigmas: Tensor,
    extra_args: dict | None = None,
    callback: Any = None,
    disable: bool | None = None,
) -> Tensor:
    """Sample one stage; a sampler function of ComfyUI.

    Args:
        model: ComfyUI's model wrapper; returns denoised latents.
        x: Noisy latent, ``(B, C, T, H, W)``.
        sigmas: Reference sigmas of the stage, falling.
        extra_args: Further arguments for the model.
        callback: Called with a dict after every step.
        disable: Whether to hide the progress bar of the console.
    """
    extra_args = extra_args or {}
    sampling = model.inner_model.inner_model.model_sampling
    ones = x.new_ones([x.shape[0]])
    for i in vars(comfy.utils).get("model_trange", trange)(len(sigmas) - 1, disable=disable):
        denoised = model(x, sigmas[i] * ones, **extra_args)
        stage = getattr(sampling, "stage", None)
        clean = denoised if stage is None else comfyui_clean_prediction(x, sigmas[i], denoised, stage)
        if callback is not None:
            callback({"x": x, "i": i, "sigma": sigmas[i], "sigma_hat": sigmas[i], "denoised": denoised})
        if sigmas[i + 1] == 0:
            return clean
        noise = step_noise(x, extra_args, i)
        if stage is None:
            x = sampling.noise_scaling(sigmas[i + 1], noise, clean)
        else:
            signal, noise = renoise(clean, sized(stage, clean), stage.natural_level(sigmas[i + 1]), noise)
            x = sampling.mix(sigmas[i + 1], noise, signal)  # noise_scaling would blur the signal again under a noise mask
    return x
