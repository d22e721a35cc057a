"""Which pyramid a MODEL was trained for: what its stage LoRAs say, and its checkpoint where the host remembers the file."""

from __future__ import annotations

from typing import Any

import safetensors

from ...pyramid.schedules import levels_from_metadata
from ...pyramid.stages import METADATA_KEY, PyramidSpec
from .stage_lora import differences, stage_loras


def trained_for(model: Any) -> list[tuple[str, PyramidSpec]]:
    """(What says so, the pyramid) for every part of a MODEL that carries one."""
    loras = [(f"the LoRA '{lora.file.name}'", lora.file.spec) for lora in stage_loras(model) if lora.file.spec is not None]
    return [*loras, *(("the checkpoint", PyramidSpec.from_metadata(header)) for header in _checkpoint_headers(model))]


def distilled_for(model: Any) -> tuple[str, list[tuple[float, ...]]] | None:
    """What says so, and the levels of its steps, for a MODEL that was distilled to a few steps."""
    for lora in stage_loras(model):
        if lora.file.levels is not None:
            return f"the LoRA '{lora.file.name}'", lora.file.levels
    for header in _checkpoint_headers(model):
        levels = levels_from_metadata(header, PyramidSpec.from_metadata(header))
        if levels is not None:
            return "the checkpoint", levels
    return None


def spec_trained_for(model: Any) -> PyramidSpec | None:
    return next((spec for _, spec in trained_for(model)), None)


def check_spec(model: Any, spec: PyramidSpec) -> None:
    """ValueError in plain words if a part of a MODEL was trained for another pyramid; leading stages may be left out."""
    for name, own in trained_for(model):
        if spec not in [own.starting_at(index) for index in range(own.number_of_stages)]:
            raise ValueError(
                f"{name} was trained for a different pyramid than the one given: {differences(own, spec)}; "
                "disconnect the pyramid input to use its own"
            )


def _checkpoint_headers(model: Any) -> list[dict[str, str]]:
    """Newer hosts keep how a model was loaded, (function, arguments); older ones forget the file."""
    _, arguments = getattr(model, "cached_patcher_init", None) or (None, ())
    headers = []
    for path in arguments:
        if isinstance(path, str) and path.endswith(".safetensors"):
            with safetensors.safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
            if METADATA_KEY in metadata:
                headers.append(metadata)
    return headers
