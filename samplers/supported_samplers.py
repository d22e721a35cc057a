"""Which samplers may integrate a stage, and sentences for those that may not.

What is refused was measured, not guessed: on Gaussian data with the closed-form field, 100 steps in the real host must
end with the right standard deviation in every band and every frame (tests/samplers/test_comfyui_samplers.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import comfy.samplers

from ..pyramid.stages import PyramidSpec
from .few_step import few_step_sampler, sample_few_step

FEW_STEP = "pyramid_few_step"
"""Our own sampler's name among the host's."""

STOCHASTIC = (
    "euler_ancestral",
    "euler_ancestral_cfg_pp",
    "dpm_2_ancestral",
    "dpmpp_2s_ancestral",
    "dpmpp_2s_ancestral_cfg_pp",
    "dpmpp_sde",
    "dpmpp_sde_gpu",
    "dpmpp_2m_sde",
    "dpmpp_2m_sde_gpu",
    "dpmpp_2m_sde_heun",
    "dpmpp_2m_sde_heun_gpu",
    "dpmpp_3m_sde",
    "dpmpp_3m_sde_gpu",
    "ddpm",
    "lcm",
    "res_multistep_ancestral",
    "res_multistep_ancestral_cfg_pp",
    "er_sde",
    "seeds_2",
    "seeds_3",
    "sa_solver",
    "sa_solver_pece",
    "exp_heun_2_x0_sde",
)
"""Add noise for one sigma in all frames and an unblurred signal, which is not where a pyramidal stage is."""

_FUNCTIONS = {
    "dpm_fast_function": "dpm_fast",
    "dpm_adaptive_function": "dpm_adaptive",
    "sample_unipc": "uni_pc",
    "sample_unipc_bh2": "uni_pc_bh2",
    sample_few_step.__name__: FEW_STEP,
}


def sampler_names() -> list[str]:
    """Every name a sampler widget offers: the host's, but for those that no pyramid takes, and ours."""
    return [*(name for name in comfy.samplers.SAMPLER_NAMES if name != "dpm_adaptive"), FEW_STEP]


def make_sampler(name: str) -> Any:
    """The SAMPLER of that name."""
    return few_step_sampler() if name == FEW_STEP else comfy.samplers.sampler_object(name)


def name_of(sampler: Any) -> str | None:
    """The host's name of a SAMPLER; None for one of another pack."""
    function = getattr(getattr(sampler, "sampler_function", None), "__name__", "")
    name = _FUNCTIONS.get(function) or function.removeprefix("sample_")
    return name if name in (*comfy.samplers.SAMPLER_NAMES, FEW_STEP) else None


def check_sampler(sampler: Any, spec: PyramidSpec, steps: Sequence[int]) -> None:
    """ValueError in plain words for a SAMPLER that cannot run these steps of this pyramid."""
    check_sampler_name(name_of(sampler), spec)
    if name_of(sampler) == "dpm_fast" and steps[-1] < 2:
        raise ValueError("sampler 'dpm_fast' needs at least 2 steps at full resolution; use euler for a single one")
    churn = (getattr(sampler, "extra_options", None) or {}).get("s_churn", 0)
    if churn and spec.field == "pyramidal":
        raise ValueError(f"s_churn is {churn}: noise added inside a pyramidal stage gives wrong videos; set it to 0")


def check_sampler_name(name: str | None, spec: PyramidSpec) -> None:
    """The part of ``check_sampler`` that only needs the name; None is a sampler of another pack."""
    if name is not None and name not in (*comfy.samplers.SAMPLER_NAMES, FEW_STEP):
        raise ValueError(f"there is no sampler '{name}' in this ComfyUI; there are {', '.join(sampler_names())}")
    if name == "dpm_adaptive":
        raise ValueError("sampler 'dpm_adaptive' chooses its own number of steps; a pyramid needs them fixed: use dpmpp_2m")
    if name in STOCHASTIC and spec.field == "pyramidal":
        raise ValueError(
            f"sampler '{name}' adds noise that does not fit a pyramidal stage and gives wrong videos; use a deterministic "
            f"one such as euler, heun, dpmpp_2m or uni_pc, or '{FEW_STEP}' for distilled models"
        )
