"""Samplers that can integrate a stage, and errors for those that cannot.

The list is measured: on Gaussian data with the closed-form field, 100 steps in ComfyUI must end with the right standard
deviation in every band and frame (tests/samplers/test_comfyui_samplers.py).
"""

from __future__ import annotations

import difflib
import inspect
import logging
from collections.abc import Sequence
from typing import Any

import comfy.samplers

from ..pyramid.stages import PyramidSpec
from ..pyramid.untrusted import MAX_SHOWN, shown
from .few_step import few_step_sampler, sample_few_step

FEW_STEP = "pyramid_few_step"
"""Name of this pack's few-step sampler."""

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
"""Samplers that add noise at one sigma for all frames to an unblurred signal, which leaves the path of a pyramidal stage."""

ONE_PASS = frozenset(
    {
        *("euler", "euler_ancestral", "ddim", "lcm", "lms", "ipndm", "ipndm_v", "deis", "res_multistep"),
        *("uni_pc", "uni_pc_bh2", "dpmpp_2m", "dpmpp_2m_sde", "dpmpp_3m_sde", FEW_STEP),
    }
)
"""Samplers of one forward pass per step; their steps are timed."""

UPSCALING = {"sample_lcm_upscale": "SamplerLCMUpscale"}
"""Sampler functions of ComfyUI that change the size of the latent, with the nodes that make them."""

_FUNCTIONS = {
    "dpm_fast_function": "dpm_fast",
    "dpm_adaptive_function": "dpm_adaptive",
    "sample_unipc": "uni_pc",
    "sample_unipc_bh2": "uni_pc_bh2",
    sample_few_step.__name__: FEW_STEP,
}


def sampler_names() -> list[str]:
    """Return the names for a sampler widget: ComfyUI's, except those that no pyramid supports, and the few-step sampler."""
    return [*(name for name in comfy.samplers.SAMPLER_NAMES if name != "dpm_adaptive"), FEW_STEP]


def make_sampler(name: str) -> Any:
    """Return the SAMPLER of that name."""
    return few_step_sampler() if name == FEW_STEP else comfy.samplers.sampler_object(name)


def name_of(sampler: Any) -> str | None:
    """Return the name of a SAMPLER, or None for one of another pack."""
    function = _function_name(sampler)
    name = _FUNCTIONS.get(function) or function.removeprefix("sample_")
    return name if name in (*comfy.samplers.SAMPLER_NAMES, FEW_STEP) else None


def _function_name(sampler: Any) -> str:
    return getattr(getattr(sampler, "sampler_function", None), "__name__", "")


def check_sampler(sampler: Any, spec: PyramidSpec, steps: Sequence[int]) -> None:
    """Check that a SAMPLER can run the stages of a pyramid.

    Args:
        sampler: The SAMPLER.
        spec: The pyramid.
        steps: Steps of each stage that runs.

    Raises:
        ValueError: It cannot.
    """
    if (node := UPSCALING.get(_function_name(sampler))) is not None:
        raise ValueError(f"'{node}' enlarges the latent itself, which a pyramid does between its stages; use 'KSamplerSelect'")
    check_sampler_name(name_of(sampler), spec)
    if name_of(sampler) is None and spec.field == "pyramidal":
        _check_unknown(sampler)
    if name_of(sampler) == "dpm_fast" and steps[-1] < 2:
        raise ValueError("sampler 'dpm_fast' requires at least 2 steps at full resolution; use euler for a single step")
    churn = (getattr(sampler, "extra_options", None) or {}).get("s_churn", 0)
    if churn and spec.field == "pyramidal":
        raise ValueError(f"s_churn is {churn}: noise added inside a pyramidal stage gives wrong videos; set it to 0")


def _check_unknown(sampler: Any) -> None:
    """Raise ValueError for a SAMPLER of another pack that adds noise, and log a warning where that cannot be told."""
    name = _function_name(sampler) or type(sampler).__name__
    if _draws_noise(sampler):
        raise ValueError(
            f"the sampler {shown(name)} adds noise that does not fit a pyramidal stage and gives wrong videos; set its eta to "
            "0, or use a deterministic one such as euler, heun, dpmpp_2m or uni_pc"
        )
    logging.warning(
        "PyramidalWan: cannot tell whether the sampler %s adds noise; finetuned pyramids require one that does not", name
    )


def _draws_noise(sampler: Any) -> bool:
    """Return whether the function of a SAMPLER takes a source of noise, and an eta, if it takes one, that is not 0."""
    try:
        parameters = inspect.signature(sampler.sampler_function).parameters
    except (AttributeError, TypeError, ValueError):
        return False
    default = parameters["eta"].default if "eta" in parameters else 1.0
    return "noise_sampler" in parameters and (getattr(sampler, "extra_options", None) or {}).get("eta", default) != 0


def check_sampler_name(name: str | None, spec: PyramidSpec) -> None:
    """Check the name of a sampler alone; None stands for a sampler of another pack.

    Raises:
        ValueError: The name is unknown, or the sampler cannot run the stages of this pyramid.
    """
    if name is not None and name not in (*comfy.samplers.SAMPLER_NAMES, FEW_STEP):
        nearest = difflib.get_close_matches(str(name)[:MAX_SHOWN], sampler_names(), n=3, cutoff=0.3) or ["euler"]
        raise ValueError(
            f"unknown sampler {shown(name)} in this ComfyUI; expected one of its {len(sampler_names())}, such as "
            f"{', '.join(nearest)}"
        )
    if name == "dpm_adaptive":
        raise ValueError(
            "sampler 'dpm_adaptive' chooses its own number of steps, but a pyramid requires a fixed one; use dpmpp_2m"
        )
    if name in STOCHASTIC and spec.field == "pyramidal":
        raise ValueError(
            f"sampler '{name}' adds noise that does not fit a pyramidal stage and gives wrong videos; use a deterministic "
            f"one such as euler, heun, dpmpp_2m or uni_pc, or '{FEW_STEP}' for distilled models"
        )
