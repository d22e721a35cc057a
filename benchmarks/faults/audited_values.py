"""Values of sockets and widgets that slipped through once: each is tried in every campaign."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch

from .malformed_values import INF, NAN, BrokenNoise

Given = Mapping[str, Any]
"""Valid values of sockets by name."""

Audited = tuple[str, str, Callable[[Given], Any]]
"""A node, one of its inputs, and a function that makes a value for it."""

UNUSUAL: Mapping[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "sparse": lambda tensor: tensor.to_sparse(),
    "without values": lambda tensor: tensor.to("meta"),
    "quantized": lambda tensor: torch.quantize_per_tensor(tensor.float(), 0.1, 0, torch.qint8),
    "nested": lambda tensor: torch.nested.nested_tensor([tensor]),
    "complex": lambda tensor: tensor.to(torch.complex64),
    "stretched": lambda tensor: torch.zeros(1).expand(2**45, *tensor.shape[1:]),
}
"""Tensors that PyTorch cannot compare, or that no memory holds."""

OPTIONS: tuple[dict[Any, Any], ...] = (
    {"pooled_output": [1, 2]}, {"pooled_output": "x"}, {"attention_mask": 5}, {"pooled_output": torch.zeros(4)},
    {"attention_mask": torch.ones(7)}, {"attention_mask": torch.ones(2, 7)}, {"pooled_output": torch.zeros(0, 4)},
    {"strength": -5.0}, {"strength": 1e9}, {"strength": True}, {"start_percent": 2.0}, {"start_percent": torch.tensor(0.5)},
    {"end_percent": None}, {"strength": 10**400}, {5: 6},
)  # fmt: skip
"""Options of a prompt that is saved."""


def audited_values() -> dict[str, Audited]:
    """Return the values by their names."""
    return {name: value for group in (_unusual(), _saved(), _objects()) for name, value in group}


def _unusual() -> Iterator[tuple[str, Audited]]:
    for kind, change in UNUSUAL.items():

        def latent(given: Given, change: Any = change) -> Any:
            return {"samples": change(given["latent"]["samples"])}

        def masked(given: Given, change: Any = change) -> Any:
            return {**given["latent"], "noise_mask": change(torch.ones(1, 8, 8))}

        def noise(given: Given, change: Any = change) -> Any:
            return BrokenNoise(0, change(torch.randn(given["latent"]["samples"].shape)))

        def option(given: Given, change: Any = change) -> Any:
            return [[given["positive"][0][0], {"attention_mask": change(torch.ones(1, 7))}]]

        yield f"{kind} latent", ("Sampler", "latent", latent)
        yield f"{kind} mask", ("Sampler", "latent", masked)
        yield f"{kind} noise", ("SamplerAdvanced", "noise", noise)
        yield f"{kind} noise levels", ("SamplerAdvanced", "sigmas", lambda given, change=change: change(given["sigmas"]))
        yield f"{kind} frames", ("LiftFromVAE", "clips", lambda given, change=change: change(given["clips"]))
        yield f"{kind} embedding", ("Sampler", "positive", lambda given, change=change: [[change(given["positive"][0][0]), {}]])
        yield f"{kind} option of a saved prompt", ("SaveConditioning", "conditioning", option)


def _saved() -> Iterator[tuple[str, Audited]]:
    for dtype in (torch.bool, torch.uint8, torch.int64, torch.float16):
        mask = torch.ones(1, 1, 3, 8, 8, dtype=dtype)
        yield f"saved mask, {dtype}", ("SaveDraft", "latent", lambda given, mask=mask: {**given["draft"], "noise_mask": mask})
    for name, bad in (("NaN", NAN), ("infinite", INF)):

        def clean(given: Given, bad: float = bad) -> Any:
            tag = given["draft"]["pyramid"]
            return {
                **given["draft"],
                "pyramid": dataclasses.replace(tag, clean=torch.full_like(given["draft"]["samples"], bad)),
            }

        yield f"{name} prediction of a saved draft", ("SaveDraft", "latent", clean)
    for options in OPTIONS:
        words = ", ".join(f"{key} {str(value)[:20]}" for key, value in options.items())
        yield (
            f"saved prompt, {words}",
            (
                "SaveConditioning",
                "conditioning",
                lambda given, options=options: [[given["positive"][0][0], dict(options)]],
            ),
        )
    for name in ("CONIN$", "conout$", "CLOCK$", "a/", "/", "a/.safetensors", "a//b"):
        yield f"name {name}", ("SaveDraft", "filename", lambda given, name=name: name)


def _objects() -> Iterator[tuple[str, Audited]]:
    for name in ("sample", "model_options", "model_patcher"):
        yield f"guider with {name} 5", ("SamplerAdvanced", "guider", lambda given, name=name: _with(given["guider"], name, 5))
    for name in ("downscale_ratio_spacial", "downscale_ratio_temporal"):
        for value in (NAN, "x", 0):

            def noted(given: Given, note: str = name, value: Any = value) -> Any:
                return {**given["latent"], note: value}

            yield f"{name} {value}", ("Sampler", "latent", noted)
    for part in ("encoder", "decoder"):
        yield f"VAE with NaN in its {part}", ("LiftFromVAE", "vae", lambda given, part=part: _damaged_vae(given["vae"], part))


def _with(value: Any, attribute: str, other: Any) -> Any:
    changed = copy.copy(value)
    setattr(changed, attribute, other)
    return changed


def _damaged_vae(vae: Any, part: str) -> Any:
    vae = _with(vae, "first_stage_model", copy.deepcopy(vae.first_stage_model))
    vae.patcher = _with(vae.patcher, "model", vae.first_stage_model)
    weight = next(weight for name, weight in vae.first_stage_model.named_parameters() if name.startswith(part))
    weight.data.view(-1)[0] = NAN
    return vae
