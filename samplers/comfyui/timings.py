"""Seconds per forward pass that runs on this machine took, kept in ComfyUI's user folder.

They depend on the device, the model, the data type of its weights and the number of tokens, which form their key.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING

import comfy.model_management
import folder_paths

from ...pyramid.flops import WanDimensions, forward_tflops
from .atomic_file import atomic_file

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher

FILE = Path("pyramidalwan") / "timings.json"

Timings = dict[str, dict[int, float]]
"""Seconds of one forward pass of one video with one prompt, by machine and model, and by the number of tokens."""


def timings_path() -> Path:
    """Return the path of the file."""
    return Path(folder_paths.get_user_directory()) / FILE


def key_of(dimensions: WanDimensions, model: ModelPatcher | None = None) -> str:
    """Return the key of a kind of model on this machine's device; without a MODEL its weights have 16 bits."""
    device = comfy.model_management.get_torch_device_name(comfy.model_management.get_torch_device())
    dtype = "float16" if model is None else str(model.model_dtype()).removeprefix("torch.")
    return f"{device}, {dtype}, {dimensions.layers} layers of {dimensions.dim}"


def read_timings() -> Timings:
    """Return what is kept; nothing if the file is missing or damaged."""
    try:
        kept = json.loads(timings_path().read_text(encoding="utf-8"))
        return {str(key): {int(count): float(seconds) for count, seconds in each.items()} for key, each in kept.items()}
    except (OSError, ValueError, AttributeError, TypeError):
        return {}


def timings_age() -> float:
    """Return when times were last kept; 0 if never."""
    return timings_path().stat().st_mtime if timings_path().is_file() else 0.0


def keep_timings(key: str, seconds: dict[int, float]) -> None:
    """Add times to the file, by number of tokens; a folder that cannot be written is left alone."""
    kept, path = read_timings(), timings_path()
    kept[key] = {**kept.get(key, {}), **seconds}
    try:
        with atomic_file(path) as partial:
            partial.write_text(json.dumps(kept, indent=1), encoding="utf-8")
    except OSError as error:
        logging.debug("PyramidalWan: cannot keep the times of a run in %s: %s", path, error)


def seconds_per_pass(key: str, tokens: int, dimensions: WanDimensions, timings: Timings) -> float | None:
    """Return the seconds of a forward pass, scaled from the nearest size that was timed; None if none was."""
    if not (timed := timings.get(key)):
        return None
    nearest = min(timed, key=lambda count: abs(count - tokens))
    return timed[nearest] * forward_tflops(tokens, dimensions) / forward_tflops(nearest, dimensions)
