"""Check the values that reach a node by the types of its inputs.

ComfyUI checks widgets only where their value stands in the graph, compares NaN with the limits of a widget without noticing it,
and takes every value from a link: a wrong one would otherwise end as an error inside a tensor operation, or as a wrong video.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from numbers import Integral, Real
from typing import Any

from torch import Tensor

from ...pyramid.stages import PyramidSpec
from ...pyramid.untrusted import shown
from ..lift.video_lift import VideoLift
from .finite import NUMBERS, is_finite, tensor_problem
from .latents import SIZE_NOTES

MAX_TEXT = 1000
"""Characters of the text in a widget."""

MAX_LEVELS = 10_001
"""Noise levels of SIGMAS: the most steps that ComfyUI's samplers take, and one."""

MAX_BATCH = 4096
"""Videos of a batch: the most that ComfyUI's empty latents have. ComfyUI draws the noise of every index below the largest."""


ENCODER = "'CLIP Text Encode (Prompt)'"


def check_input(name: str, io_type: str, value: Any, *, least: float | None = None, most: float | None = None) -> None:
    """Check a value by the type of its input.

    Args:
        name: Name of the input.
        io_type: Type of the input, as in ComfyUI's schemas; other types than those of this pack are not checked.
        value: The value.
        least: Smallest number of a widget.
        most: Largest number of a widget.

    Raises:
        ValueError: It is of another type, holds NaN or infinity, or lies outside the limits.
    """
    if io_type in ("INT", "FLOAT"):
        _check_number(name, value, Integral if io_type == "INT" else Real, least, most)
    elif io_type in ("STRING", "COMBO"):
        if not isinstance(value, str) or len(value) > MAX_TEXT:
            raise ValueError(f"{name} is {shown(value)}; expected a text of at most {MAX_TEXT} characters")
    elif (check := CHECKS.get(io_type)) is not None:
        check(name, value)


def is_number(value: Any) -> bool:
    """Return whether a value is a finite number."""
    return isinstance(value, Integral) or (isinstance(value, Real) and math.isfinite(value))


def _check_number(name: str, value: Any, kind: type, least: float | None, most: float | None) -> None:
    of_kind = isinstance(value, kind) and not isinstance(value, bool)
    if of_kind and is_number(value):
        if (least is None or value >= least) and (most is None or value <= most):
            return
    limits = "" if least is None or most is None else f" from {least:.15g} to {most:.15g}"
    raise ValueError(f"{name} is {shown(value)}; expected a {'whole ' * (kind is Integral)}number{limits}")


def check_latent_input(name: str, value: Any) -> None:
    """Check that a value is a LATENT of finite numbers.

    Raises:
        ValueError: It is not.
    """
    if not isinstance(value, Mapping) or "samples" not in value:
        raise _wrong(name, value, "a LATENT, such as the output of 'Pyramidal Empty Latent'")
    samples = value["samples"]
    if getattr(samples, "is_nested", False):
        return  # several tensors, which the pyramid rejects by name
    _check_tensor(f"the LATENT at {name}", samples)
    if value.get("noise_mask") is not None:
        mask = value["noise_mask"]
        _check_tensor(f"the noise mask at {name}", mask)
        if not 2 <= mask.ndim <= samples.ndim:
            raise ValueError(f"the noise mask at {name} has {mask.ndim} dimensions; expected 2 to {samples.ndim}")
    check_batch_index(value.get("batch_index"), len(samples) if samples.ndim else 0, f"the LATENT at {name}")
    for note in SIZE_NOTES:
        ratio = value.get(note)
        if ratio is not None and not (is_number(ratio) and ratio > 0):
            raise ValueError(f"the LATENT at {name} has {note} {shown(ratio)}; expected a number above 0, or none")


def check_batch_index(index: Any, batch: int, what: str) -> None:
    """Check the numbers of a LATENT's videos, from which ComfyUI draws their noise.

    Raises:
        ValueError: It is no list of as many numbers as videos, or one of them is out of range.
    """
    if index is None:
        return
    if not isinstance(index, (list, tuple)) or len(index) != batch:
        raise ValueError(f"{what} has batch indices {shown(index)}; expected one for each of its {batch} videos")
    for number in index:
        whole = isinstance(number, Integral) and not isinstance(number, bool)
        if not whole or not 0 <= int(number) < MAX_BATCH:
            raise ValueError(f"{what} has the batch index {shown(number)}; expected 0 to {MAX_BATCH - 1}")


def _check_tensor(what: str, value: Any) -> None:
    _check_kind(what, value)
    if value.numel() == 0:
        raise ValueError(f"{what} has size {_size(value)} and holds nothing")
    if not is_finite(value):
        raise ValueError(f"{what} holds NaN or infinity; the node before it, or the file that it comes from, is damaged")


def _check_kind(what: str, value: Any) -> None:
    """Raise ValueError unless a value is a tensor of numbers that can be computed with."""
    if not isinstance(value, Tensor):
        raise ValueError(f"{what} is {shown(value)}; expected a tensor")
    if problem := tensor_problem(value):
        raise ValueError(f"{what} is {problem}; expected plain numbers such as float32")
    if value.is_complex() or (value.is_floating_point() and value.dtype not in NUMBERS):
        raise ValueError(f"{what} is of type {str(value.dtype).removeprefix('torch.')}; expected numbers such as float32")


def _size(value: Tensor) -> str:
    return "x".join(map(str, value.shape))


def check_conditioning_input(name: str, value: Any) -> None:
    """Check that a value is CONDITIONING: embeddings with options.

    Raises:
        ValueError: It is not.
    """
    expected = f"CONDITIONING, such as the output of {ENCODER}"
    if not isinstance(value, (list, tuple)) or not value:
        raise _wrong(name, value, expected)
    for cond in value:
        if not isinstance(cond, (list, tuple)) or len(cond) != 2 or not isinstance(cond[1], Mapping):
            raise _wrong(name, cond, f"a list of pairs, as in {expected}")
        _check_tensor(f"the embedding at {name}", cond[0])


def _check_sigmas(name: str, value: Any) -> None:
    if isinstance(value, Tensor):
        _check_kind(f"the SIGMAS at {name}", value)
    if not isinstance(value, Tensor) or value.ndim != 1:
        size = f"a tensor of {value.ndim} dimensions" if isinstance(value, Tensor) else shown(value)
        raise ValueError(f"{name} is {size}; expected SIGMAS, such as the output of 'Pyramidal Schedule'")
    if len(value) > MAX_LEVELS:
        raise ValueError(f"{name} has {len(value)} noise levels; expected at most {MAX_LEVELS}")


def _check_image(name: str, value: Any) -> None:
    if isinstance(value, Tensor):
        _check_kind(f"the IMAGE at {name}", value)
    if not isinstance(value, Tensor) or value.ndim != 4 or value.shape[-1] < 3:
        size = f"of size {_size(value)}" if isinstance(value, Tensor) else shown(value)
        raise ValueError(f"{name} is {size}; expected an IMAGE with three colours, such as the frames of a video")
    _check_tensor(f"the IMAGE at {name}", value)


def _has(*names: str, methods: Callable[[Any], Sequence[Any]] = lambda value: (), expected: str) -> Callable[[str, Any], None]:
    """Return the check of objects that are known by their attributes, as ComfyUI and other packs define them.

    Args:
        *names: Names of the attributes.
        methods: Return those of an object that must be callable.
        expected: What the object should be, for the message.
    """

    def check(name: str, value: Any) -> None:
        if isinstance(value, type) or not all(hasattr(value, attribute) for attribute in names):
            raise _wrong(name, value, expected)
        for method in methods(value):
            if not callable(method):
                raise ValueError(f"a method of {name} is {shown(method)}; expected {expected}")

    return check


def _check_model(name: str, value: Any) -> None:
    expected = "a MODEL, such as the output of 'Load Diffusion Model'"
    attributes = ("model", "clone", "get_model_object", "model_options")
    _has(*attributes, methods=lambda model: (model.clone, model.get_model_object), expected=expected)(name, value)
    _check_options(name, value.model_options, expected)


def _check_guider(name: str, value: Any) -> None:
    expected = "a GUIDER, such as the output of 'CFGGuider'"
    attributes = ("model_patcher", "original_conds", "model_options", "sample")
    _has(*attributes, methods=lambda guider: (guider.sample,), expected=expected)(name, value)
    _check_model(f"the MODEL of {name}", value.model_patcher)
    _check_options(name, value.model_options, expected)


def _check_options(name: str, options: Any, expected: str) -> None:
    if not isinstance(options, Mapping):
        raise ValueError(f"the model_options of {name} are {shown(options)}; expected {expected}")


def _check_noise(name: str, value: Any) -> None:
    expected = "NOISE, such as the output of 'RandomNoise'"
    _has("generate_noise", "seed", methods=lambda noise: (noise.generate_noise,), expected=expected)(name, value)
    _check_number(f"the seed of the NOISE at {name}", value.seed, Integral, 0, 2**64 - 1)


def _is_a(kind: type, expected: str) -> Callable[[str, Any], None]:
    def check(name: str, value: Any) -> None:
        if not isinstance(value, kind):
            raise _wrong(name, value, expected)

    return check


def _wrong(name: str, value: Any, expected: str) -> ValueError:
    return ValueError(f"{name} is {shown(value)}; expected {expected}")


CHECKS: Mapping[str, Callable[[str, Any], None]] = {
    "LATENT": check_latent_input,
    "CONDITIONING": check_conditioning_input,
    "SIGMAS": _check_sigmas,
    "IMAGE": _check_image,
    "NOISE": _check_noise,
    "MODEL": _check_model,
    "GUIDER": _check_guider,
    "SAMPLER": _has(
        "sample", methods=lambda sampler: (sampler.sample,), expected="a SAMPLER, such as the output of 'KSamplerSelect'"
    ),
    "VAE": _has(
        "encode",
        "decode",
        "get_sd",
        methods=lambda vae: (vae.encode, vae.decode, vae.get_sd),
        expected="a VAE, such as the output of 'Load VAE'",
    ),
    "PYRAMID": _is_a(PyramidSpec, "a PYRAMID, the output of 'Pyramid'"),
    "LIFT": _is_a(VideoLift, "a LIFT, the output of 'Pyramidal Lift from VAE'"),
}
"""The checks of sockets by type."""


def check_inputs(inputs: Sequence[Any], values: Mapping[str, Any], *, lazy: bool = False) -> None:
    """Check the values of a node by its schema; an optional input without a value is fine.

    Args:
        inputs: The inputs of the schema.
        values: Values by name.
        lazy: Whether every input may be without a value, because it was not evaluated yet.

    Raises:
        ValueError: A value is wrong.
    """
    for described in inputs:
        if described.id not in values:
            continue
        value = values[described.id]
        if value is None and (lazy or described.optional):
            continue
        limits = vars(described)
        check_input(described.id, described.get_io_type(), value, least=limits.get("min"), most=limits.get("max"))
