"""Find NaN and infinity in tensors, conditioning and weights, and tensors that cannot be computed with."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher

MAX_DEPTH = 4
"""Lists and dicts inside one another that are searched for tensors."""


NUMBERS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
"""Types that videos and prompts have; PyTorch has few operations for those of eight bits."""


MAX_STRETCHED = 2**31
"""Values of a tensor that repeats the same ones without storing them; more would fill the memory when it is copied."""


def tensor_problem(tensor: Tensor) -> str | None:
    """Return why a tensor cannot be computed with, in words, or None.

    Nodes of other packs and files in PyTorch's own format can hold tensors of any kind.
    """
    if tensor.is_nested:
        return "a nested tensor"
    if tensor.layout != torch.strided:
        return "a sparse tensor"
    if tensor.is_meta:
        return "a tensor without values (device meta)"
    if tensor.is_quantized:
        return "a quantized tensor"
    if tensor.numel() > MAX_STRETCHED and tensor.untyped_storage().nbytes() < tensor.numel():
        return f"a tensor of {tensor.numel()} values that are not stored"
    return None


def is_finite(tensor: Tensor) -> bool:
    """Return whether a tensor holds numbers only; it is read once and not copied."""
    if tensor.numel() == 0 or not (tensor.is_floating_point() or tensor.is_complex()):
        return True
    tensor = torch.view_as_real(tensor) if tensor.is_complex() else tensor
    tensor = tensor if tensor.element_size() > 1 else tensor.float()  # there is no minimum of numbers of eight bits
    try:
        return all(math.isfinite(float(bound)) for bound in torch.aminmax(tensor.detach()))
    except RuntimeError:  # on a device that has no such operation
        return bool(torch.isfinite(tensor).all())


def key_of_nan(value: Any, depth: int = MAX_DEPTH) -> str | None:
    """Return the key under which nested lists and dicts hold NaN or infinity, "" for the value itself; None if they do not."""
    return _key_of(value, _is_nan, depth)


def key_of_unusual(value: Any, depth: int = MAX_DEPTH) -> str | None:
    """Return the key under which nested lists and dicts hold a tensor that cannot be computed with; see ``key_of_nan``."""
    return _key_of(value, lambda item: isinstance(item, Tensor) and tensor_problem(item) is not None, depth)


def _is_nan(value: Any) -> bool:
    if isinstance(value, Tensor):
        return not is_finite(value)
    return isinstance(value, float) and not math.isfinite(value)


def _key_of(value: Any, is_bad: Callable[[Any], bool], depth: int) -> str | None:
    if is_bad(value):
        return ""
    if depth == 0 or not isinstance(value, (list, tuple, Mapping)):
        return None
    for key, item in value.items() if isinstance(value, Mapping) else (("", item) for item in value):
        if (inner := _key_of(item, is_bad, depth - 1)) is not None:
            return str(key) or inner
    return None


def check_prediction(model: ModelPatcher, prediction: Tensor, where: str) -> None:
    """Check that a step's prediction is finite: samplers pass NaN on silently, and it decodes to black.

    Raises:
        ValueError: The prediction holds NaN or infinity; the message names the weight of the MODEL that does, if one does.
    """
    if is_finite(prediction):
        return
    damaged = next(damaged_weights(model.model.named_parameters()), None)
    cause = (
        f"the MODEL's weight '{damaged}' does; load another file"
        if damaged
        else "try a lower cfg or LoRA strength, or load the model in another precision (weight_dtype)"
    )
    raise ValueError(f"the prediction of {where} holds NaN or infinity: {cause}")


def damaged_weights(weights: Iterable[tuple[str, Tensor]]) -> Iterator[str]:
    """Yield the names of weights that hold NaN or infinity."""
    for name, weight in weights:
        try:
            finite = is_finite(weight)
        except RuntimeError:  # a type of weights that PyTorch cannot compare, such as packed ones
            continue
        if not finite:
            yield name.removeprefix("diffusion_model.")
