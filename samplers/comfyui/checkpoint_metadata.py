"""The pyramid that a MODEL was trained for, from the metadata of its stage LoRAs, patches and checkpoint file."""

from __future__ import annotations

import re
from pathlib import Path, PurePath
from typing import TYPE_CHECKING

from ...pyramid.key_names import Expert
from ...pyramid.schedules import levels_from_metadata
from ...pyramid.stages import METADATA_KEY, PyramidSpec
from ...pyramid.untrusted import first_line
from .checkpoint_files import loaded_from
from .safetensors_file import read_metadata
from .stage_lora import differences, stage_loras
from .stage_patches import attached_patches

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher


def trained_for(model: ModelPatcher) -> list[tuple[str, PyramidSpec]]:
    """Return a name and the pyramid for every part of a MODEL whose metadata has a pyramid."""
    loras = [(f"the LoRA '{lora.file.name}'", lora.file.spec) for lora in stage_loras(model) if lora.file.spec is not None]
    patches = [(f"the file '{each.name}'", each.spec) for each in attached_patches(model) if each.spec is not None]
    return [*loras, *patches, *(("the checkpoint", spec) for spec, _ in _checkpoints(model))]


def distilled_for(model: ModelPatcher) -> tuple[str, list[tuple[float, ...]]] | None:
    """Return a name and the levels of each stage for a MODEL that was distilled to a few steps, or None."""
    for lora in stage_loras(model):
        if lora.file.levels is not None:
            return f"the LoRA '{lora.file.name}'", lora.file.levels
    for patches in attached_patches(model):
        if patches.levels is not None:
            return f"the file '{patches.name}'", patches.levels
    for _, levels in _checkpoints(model):
        if levels is not None:
            return "the checkpoint", levels
    return None


def spec_trained_for(model: ModelPatcher) -> PyramidSpec | None:
    """Return the pyramid that a MODEL was trained for, or None."""
    return next((spec for _, spec in trained_for(model)), None)


def check_spec(model: ModelPatcher, spec: PyramidSpec) -> None:
    """Check that a MODEL was trained for this pyramid, or for one with more leading stages.

    Raises:
        ValueError: A part of the MODEL was trained for a different pyramid.
    """
    for name, trained in trained_for(model):
        if spec not in [trained.starting_at(index) for index in range(trained.number_of_stages)]:
            raise ValueError(
                f"{name} was trained for a different pyramid than the one given: {differences(trained, spec)}; "
                "disconnect the pyramid input to use its own"
            )


def _checkpoints(model: ModelPatcher) -> list[tuple[PyramidSpec, list[tuple[float, ...]] | None]]:
    """Return the pyramids in the files that a MODEL was loaded from, and the levels of distilled ones.

    Files that no longer exist are skipped.

    Raises:
        ValueError: A file cannot be read, or its pyramid is invalid.
    """
    pyramids = []
    for path in loaded_from(model):
        if not (path.endswith(".safetensors") and Path(path).is_file()):
            continue
        name = f"the checkpoint '{Path(path).name}'"
        metadata = read_metadata(path, name)
        if METADATA_KEY in metadata:
            try:
                spec = PyramidSpec.from_metadata(metadata)
                pyramids.append((spec, levels_from_metadata(metadata, spec)))
            except ValueError as error:
                raise ValueError(f"{name}: {first_line(error)}") from None
    return pyramids


def expert_of(model: ModelPatcher) -> Expert | None:
    """Return the network of Wan 2.2 that the name of a MODEL's file says it is, or None."""
    for path in loaded_from(model):
        if matched := re.search(r"(high|low)[-_ ]?noise", PurePath(path.replace("\\", "/")).name, re.IGNORECASE):
            return "high" if matched[1].lower() == "high" else "low"
    return None
