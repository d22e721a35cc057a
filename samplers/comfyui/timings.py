"""Seconds per forward pass that runs on this machine took, kept in ComfyUI's user folder.

They depend on the device, the model, the data type of its weights and the number of tokens, which form their key.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import comfy.model_management
import folder_paths

from ...pyramid.flops import WanDimensions, forward_tflops
from ...pyramid.untrusted import MAX_JSON, read_json_object
from .atomic_file import atomic_file

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher

FILE = Path("pyramidalwan") / "timings.json"

MAX_SECONDS = 1e6
"""Seconds of a forward pass, eleven days; more cannot have been measured."""

MAX_DIGITS = 12
"""Digits of a number of tokens."""

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
    """Return what is kept; nothing if the file is missing or damaged. Entries that cannot be times are left out."""
    path = timings_path()
    try:
        if not path.is_file():  # reading a pipe would wait for ever
            return {}
        with path.open(encoding="utf-8") as file:
            kept = read_json_object(file.read(MAX_JSON + 1), FILE.name)
    except (OSError, ValueError):
        return {}
    entries = {key: each for key, each in kept.items() if isinstance(each, dict)}
    return {key: dict(_times(each)) for key, each in entries.items()}


def _times(entry: Mapping[str, Any]) -> Iterator[tuple[int, float]]:
    """Yield the numbers of tokens with their seconds, of entries that a run can have measured."""
    for count, seconds in entry.items():
        if count.isdecimal() and len(count) <= MAX_DIGITS and int(count) > 0 and _is_time(seconds):
            yield int(count), float(seconds)


def _is_time(seconds: object) -> bool:
    return isinstance(seconds, (int, float)) and not isinstance(seconds, bool) and 0 < seconds < MAX_SECONDS


def timings_age() -> float:
    """Return when times were last kept; 0 if never."""
    try:
        return timings_path().stat().st_mtime if timings_path().is_file() else 0.0
    except OSError:
        return 0.0


def keep_timings(key: str, seconds: dict[int, float]) -> None:
    """Add times to the file, by number of tokens; a folder that cannot be written is left alone."""
    kept, path = read_timings(), timings_path()
    kept[key] = {**kept.get(key, {}), **{count: each for count, each in seconds.items() if _is_time(each)}}
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
