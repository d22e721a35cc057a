"""The flow shift of a run: that of the MODEL, as in ComfyUI's own samplers, or one that replaces it."""

from __future__ import annotations

import copy
import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher

WAN_SHIFT = 8.0
"""Flow shift that ComfyUI gives Wan models without a 'ModelSamplingSD3' node; for schedules that are made without a MODEL."""


def flow_shift(shift: float, model: ModelPatcher | None = None) -> float:
    """Return the flow shift of a run.

    Args:
        shift: The requested shift; 0 for that of the MODEL.
        model: MODEL of the run; None where it is not known, which stands for an unchanged Wan model.

    Raises:
        ValueError: ``shift`` is negative or not finite, or is 0 and the MODEL has none.
    """
    if not (math.isfinite(shift) and shift >= 0):
        raise ValueError(f"shift is {shift:g}; expected a positive number such as 5, or 0 for the shift of the model")
    if shift > 0:
        return shift
    if model is None:
        return WAN_SHIFT
    model_shift = getattr(model.get_model_object("model_sampling"), "shift", None)
    if model_shift is None:
        raise ValueError("shift is 0, but this MODEL has no flow shift of its own; set a positive one, such as 5")
    if not (math.isfinite(model_shift) and model_shift > 0):
        raise ValueError(
            f"the flow shift of this MODEL is {model_shift:g}; set a positive one at 'ModelSamplingSD3', such as 5"
        )
    return float(model_shift)


def with_flow_shift(model: ModelPatcher, shift: float) -> ModelPatcher:
    """Return a MODEL with this flow shift, so that shares of a run such as ``start_percent`` follow its schedule.

    Args:
        model: A flow MODEL that is not bound to a stage; it stays unchanged.
        shift: The flow shift.

    Returns:
        The MODEL itself if it has the shift already, otherwise a clone.
    """
    sampling: Any = model.get_model_object("model_sampling")
    if getattr(sampling, "shift", None) == shift:
        return model
    changed = copy.deepcopy(sampling)  # keeps what other nodes set, such as the noise scale
    changed.set_parameters(shift=shift, multiplier=sampling.multiplier)
    clone = model.clone()
    clone.add_object_patch("model_sampling", changed)
    if (source := getattr(model, "cached_patcher_init", None)) is not None:
        vars(clone)["cached_patcher_init"] = source  # newer ComfyUI keeps here which file the weights are from
    return clone
