"""What the one-node sampler's widgets mean."""

from __future__ import annotations

import re
from typing import Any

import comfy.sample
import comfy.samplers

from ..pyramid.stages import PRESETS, PyramidSpec
from .allowed import make_sampler
from .run import PyramidRun, Result
from .schedule import levels_for


class SeedNoise:
    """NOISE from a seed, as the host's RandomNoise makes it."""

    def __init__(self, seed: int):
        self.seed = seed

    def generate_noise(self, latent: dict) -> Any:
        return comfy.sample.prepare_noise(latent["samples"], self.seed, latent.get("batch_index"))


def sample_with_conds(
    model: Any,
    positive: Any,
    negative: Any,
    latent: dict,
    pyramid: PyramidSpec | None,
    *,
    seed: int,
    steps: str,
    cfg: str,
    sampler_name: str,
    grid: str,
    shift: float,
) -> Result:
    """Samples with a CFG guider; without a pyramid the training-free one."""
    whole = pyramid or PRESETS["training-free"]
    spec, levels = levels_for(whole, steps, grid, shift)
    skipped = whole.number_of_stages - spec.number_of_stages
    cfgs = parse_cfg(cfg, whole.number_of_stages)[skipped:]
    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds(positive, negative)
    run = PyramidRun(
        guider, SeedNoise(seed), make_sampler(sampler_name), levels, spec, cfgs=dict(enumerate(cfgs))
    )
    return run.sample(latent)


def parse_cfg(text: str, number_of_stages: int) -> list[float]:
    """``"6"`` or ``"5-6-4"``, in running order, to one number per stage; ValueError in plain words."""
    parts = [part.strip() for part in text.split("-")]
    if not all(re.fullmatch(r"\d+(\.\d*)?|\.\d+", part) for part in parts):
        raise ValueError(f"cfg is one number, or one for each stage joined by '-', such as 5-6-4; got '{text}'")
    values = [float(part) for part in parts]
    if len(values) not in (1, number_of_stages):
        raise ValueError(
            f"cfg '{text}' has {len(values)} numbers, but the pyramid has {number_of_stages} stages (low to high "
            "resolution); give one for all, or one for each"
        )
    return values * number_of_stages if len(values) == 1 else values
