"""Sampling runs through the real nodes: the pack's, and ComfyUI's own for the plain runs beside them."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from harness.in_process import pack_module

from .setting import Setting, preset


def comfyui_nodes() -> Any:
    """Return ComfyUI's module of nodes, which takes precedence over the pack's folder of that name."""
    return importlib.import_module("nodes")


def pyramid(setting: Setting, model: Any, steps: str, *, name: str = "pyramidal-wan", **changes: Any) -> Callable[[], Any]:
    """Return a run of 'Pyramidal Sampler' with cfg 1."""
    node = pack_module("nodes.sampler").PyramidalWanSampler
    prompt, latent = setting.prompt(), setting.latent()
    values: dict[str, Any] = {
        "seed": 0, "steps": steps, "cfg": "1", "sampler_name": "euler", "denoise": 1.0, "grid": "auto", "shift": 5.0,
        "start_stage": "auto", "end_stage": "auto", "pyramid": preset(name),
    }  # fmt: skip
    return lambda: node.execute(model, prompt, prompt, latent, **{**values, **changes}).args[0]


def plain(setting: Setting, model: Any, steps: int) -> Callable[[], Any]:
    """Return a run of ComfyUI's 'KSampler' at full size with cfg 1."""
    prompt, latent = setting.prompt(), setting.latent()
    return lambda: comfyui_nodes().common_ksampler(model, 0, steps, 1.0, "euler", "simple", prompt, prompt, latent)[0]


def two_experts(setting: Setting, high: Any, low: Any) -> Callable[[], Any]:
    """Return two 'KSampler (Advanced)' of two steps each, as in ComfyUI's template of Wan 2.2."""
    sampler, prompt, latent = comfyui_nodes().KSamplerAdvanced(), setting.prompt(), setting.latent()
    common = {"steps": 4, "cfg": 1.0, "sampler_name": "euler", "scheduler": "simple", "positive": prompt, "negative": prompt}

    def run() -> Any:
        (noisy,) = sampler.sample(
            high,
            "enable",
            0,
            latent_image=latent,
            start_at_step=0,
            end_at_step=2,
            return_with_leftover_noise="enable",
            **common,
        )
        return sampler.sample(
            low,
            "disable",
            0,
            latent_image=noisy,
            start_at_step=2,
            end_at_step=4,
            return_with_leftover_noise="disable",
            **common,
        )[0]

    return run
