"""Few-step sampling for distilled models: predict clean data, noise it again along the stage's path.

The host's own "lcm" noises with one sigma for all frames and an unblurred signal, which is not where a pyramidal stage
is; this one follows the stage the model is bound to, and is lcm where there is no pyramid.
"""

from __future__ import annotations

from typing import Any

import comfy.sample
import comfy.samplers
import comfy.utils
import torch
from torch import Tensor
from tqdm.auto import trange

from ..pyramid.noise_pyramid import step_seed
from ..pyramid.transition import renoise
from .comfyui.stage_model import comfyui_clean_prediction, sized

BATCH_INDEX = "pyramidal_wan_batch_index"
"""Place in the transformer options for the LATENT's batch_index, so that every member draws its own noise."""


def few_step_sampler() -> comfy.samplers.KSAMPLER:
    """The SAMPLER."""
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
    """A sampler function of the host; ``sigmas`` are the stage's, falling."""
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
        noise = _draw(x, extra_args, i)
        if stage is None:
            x = sampling.noise_scaling(sigmas[i + 1], noise, clean)
        else:
            signal, noise = renoise(clean, sized(stage, clean), stage.natural_level(sigmas[i + 1]), noise)
            x = sampling.noise_scaling(sigmas[i + 1], noise, signal)
    return x


def _draw(x: Tensor, extra_args: dict, step: int) -> Tensor:
    """White noise like x, drawn on the CPU so that every device makes the same video."""
    options = extra_args.get("model_options", {}).get("transformer_options", {})
    seed = step_seed(extra_args.get("seed") or 0, step)
    shape_like = torch.zeros(x.shape, dtype=torch.float32)
    return comfy.sample.prepare_noise(shape_like, seed, options.get(BATCH_INDEX)).to(x)
