"""Files of fitted lifts in models/pyramidal_lifts: one per VAE, with a map in both directions for each set of axes.

Files can be shared: they name the VAE by a digest of its weights, and the metadata records the clips that the maps were
fitted on and their errors on held-out clips.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import comfy.utils
import folder_paths
import torch
from torch import Tensor

from ...pyramid.axes import is_auto, parse_axes, space_scale
from ...pyramid.lift import METADATA_KEY, LinearMap
from ...pyramid.neighbourhoods import TOLERANCE
from ...pyramid.untrusted import first_line, read_json_object, shown
from ..comfyui.finite import NUMBERS, is_finite
from ..comfyui.safetensors_file import file_problem, read_metadata, write_safetensors
from .video_lift import VideoLift

FOLDER = "pyramidal_lifts"
KEY = "pyramidal_lift"
"""Key of a file's metadata."""

FORMAT = 1
RENDERED = "rendered clips"
"""Source of maps that were fitted on rendered clips alone."""

MAX_TEXT = 200
"""Characters of the texts in a file."""

MAX_WEIGHT = 1000.0
"""Largest weight of a map; fitted ones are below 10."""

SAMPLED_VALUES = 256
"""Values of each tensor that count for the digest of a VAE."""

folder_paths.add_model_folder_path(FOLDER, str(Path(folder_paths.models_dir) / FOLDER))


@dataclass(frozen=True)
class Errors:
    """Mean square errors of one class of frames on held-out clips.

    Attributes:
        fitted: Error of the fitted map.
        resize: Error of averaging or repeating latents, as without a lift.
        pixels: Error of decoding, resizing and encoding.
        variance: Variance of the latents.
    """

    fitted: float
    resize: float
    pixels: float
    variance: float


@dataclass(frozen=True)
class FittedMap:
    """A fitted map with its errors for latent frame 0 and for the other frames."""

    linear: LinearMap
    first: Errors
    rest: Errors


@dataclass(frozen=True)
class FittedAxes:
    """The maps of one set of axes in both directions.

    Attributes:
        lift: From the small to the large video.
        drop: From the large to the small video.
        source: Name of the clips; the maps are fitted again for others.
        fitted_on: The clips in words.
    """

    lift: FittedMap
    drop: FittedMap
    source: str
    fitted_on: str


@dataclass(frozen=True)
class LiftFile:
    """The fitted lifts of one VAE.

    Attributes:
        vae: Digest of the VAE.
        channels: Latent channels of the VAE.
        axes: Maps by the axes of a transition.
    """

    vae: str
    channels: int
    axes: Mapping[str, FittedAxes]

    @property
    def name(self) -> str:
        """Return the name that nodes show."""
        return f"linear, {self.vae}, fitted on {'; '.join(sorted({fitted.fitted_on for fitted in self.axes.values()}))}"

    def as_lift(self) -> VideoLift:
        """Return the maps for a run."""
        lifts = {axes: fitted.lift.linear for axes, fitted in self.axes.items()}
        drops = {axes: fitted.drop.linear for axes, fitted in self.axes.items()}
        return VideoLift(self.name, self.channels, lifts, drops)


def digest_of(vae: Any) -> str:
    """Return a digest of the weights that determine a VAE's latents, 16 hexadecimal digits.

    The decoder does not count: VAEs that differ in their decoder have the same latents. Values are rounded to bfloat16, so
    that it does not matter whether the weights were loaded in bfloat16 or float32.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(vae.get_sd().items()):
        if name.startswith("decoder."):
            continue
        digest.update(f"{name} {tuple(tensor.shape)}".encode())
        values = tensor.detach().flatten()[:SAMPLED_VALUES].to("cpu", torch.bfloat16)
        digest.update(values.view(torch.int16).numpy().tobytes())
    return digest.hexdigest()[:16]


def path_for(vae: str) -> Path:
    """Return where the lift of a VAE with this digest is kept: an existing file, or one in the first folder."""
    folders = [Path(folder) for folder in folder_paths.get_folder_paths(FOLDER)]
    paths = [folder / f"{vae}.safetensors" for folder in folders]
    return next((path for path in paths if path.is_file()), paths[0])


def kept_files(channels: int, axes: set[str]) -> list[Path]:
    """Return the kept files for latents of this many channels that have maps for all of the axes."""
    return [path for path in _paths() if _serves(path, channels, axes)]


def unreadable_files() -> list[Path]:
    """Return the kept files that cannot be read, and files that are no lifts."""
    unreadable = []
    for path in _paths():
        try:
            _description(path)
        except (KeyError, ValueError):
            unreadable.append(path)
    return unreadable


def _paths() -> list[Path]:
    folders = [Path(folder) for folder in folder_paths.get_folder_paths(FOLDER)]
    return [path for folder in folders for path in sorted(folder.glob("*.safetensors"))]


def read_lift(path: Path) -> LiftFile:
    """Read a file.

    Raises:
        ValueError: The file cannot be read, or is not a fitted lift.
    """
    again = "delete it, and 'Pyramidal Lift from VAE' fits it again"
    if problem := file_problem(path):
        raise ValueError(f"the lift '{path.name}' cannot be read ({problem}); {again}")
    try:
        tensors, metadata = comfy.utils.load_torch_file(str(path), safe_load=True, return_metadata=True)
    except Exception as error:  # the formats' own errors have no common base class
        raise ValueError(f"the lift '{path.name}' cannot be read ({first_line(error)}); {again}") from None
    try:
        return _from_tensors(tensors, read_json_object((metadata or {})[KEY], "its description"))
    except KeyError as error:
        raise ValueError(f"the file '{path.name}' is not a fitted lift: it has no {error}; {again}") from None
    except ValueError as error:
        raise ValueError(f"the lift '{path.name}' is damaged ({first_line(error)}); {again}") from None
    except (AttributeError, TypeError):
        raise ValueError(f"the lift '{path.name}' is damaged (its description has values of other types); {again}") from None


def write_lift(path: Path, file: LiftFile) -> None:
    """Write a file atomically: after a crash it is either the old or the new one.

    Raises:
        ValueError: The lift could not be read again, or nothing can be written there; no file is changed.
    """
    tensors, axes = {}, {}
    for name, fitted in file.axes.items():
        axes[name] = {"source": fitted.source, "fitted_on": fitted.fitted_on}
        for direction, fitted_map in (("lift", fitted.lift), ("drop", fitted.drop)):
            weights, metadata = fitted_map.linear.to_tensors()
            tensors |= {f"{name}.{direction}.{part}": weight for part, weight in weights.items()}
            errors = {"first": dataclasses.asdict(fitted_map.first), "rest": dataclasses.asdict(fitted_map.rest)}
            axes[name][direction] = {"map": metadata[METADATA_KEY], "errors": errors}
    values = {"format": FORMAT, "vae": file.vae, "channels": file.channels, "axes": axes}
    description = json.dumps(values)
    try:
        _from_tensors(tensors, read_json_object(description, "its description"))
    except ValueError as error:
        raise ValueError(f"this lift cannot be kept: {first_line(error)}") from None
    write_safetensors(path, tensors, {KEY: description})


def _from_tensors(tensors: Mapping[str, Tensor], values: dict[str, Any]) -> LiftFile:
    if values["format"] != FORMAT:
        raise ValueError(f"file format {shown(values['format'])}; this version reads format {FORMAT}")
    axes = {}
    for name, entry in values["axes"].items():
        if parse_axes(name) != name or is_auto(name):
            raise ValueError(f"unknown axes {shown(name)}")
        lift, drop = (_read_map(tensors, f"{name}.{direction}", entry[direction]) for direction in ("lift", "drop"))
        if {lift.linear.channels, drop.linear.channels} != {values["channels"]}:
            raise ValueError(f"file format: maps of other than {shown(values['channels'])} channels")
        _check_ratios(name, lift.linear, drop.linear)
        axes[name] = FittedAxes(lift, drop, _text(entry["source"]), _text(entry["fitted_on"]))
    return LiftFile(_text(values["vae"]), lift.linear.channels if axes else values["channels"], axes)


def _check_ratios(axes: str, lift: LinearMap, drop: LinearMap) -> None:
    """Raise ValueError unless the maps change the axes that they are for, by their scale."""
    space = float(1 / (space_scale(axes) or Fraction(1, 2))) if "HW" in axes else 1.0
    larger = (2.0 if axes.startswith("T") else 1.0, space, space)
    for linear, expected in ((lift, larger), (drop, tuple(1 / side for side in larger))):
        if any(abs(float(ratio) / side - 1) > TOLERANCE for ratio, side in zip(linear.ratios, expected, strict=True)):
            raise ValueError(f"its maps for {axes} change the size by another scale")


def _text(value: object) -> str:
    if not isinstance(value, str) or not value.isprintable() or len(value) > MAX_TEXT:
        raise ValueError(f"{shown(value)} in place of a text of at most {MAX_TEXT} characters")
    return value


def _read_map(tensors: Mapping[str, Tensor], prefix: str, entry: dict[str, Any]) -> FittedMap:
    weights = {part: tensors[f"{prefix}.{part}"] for part in ("first", "rest")}
    if not all(weight.dtype in NUMBERS for weight in weights.values()):
        raise ValueError(f"{prefix} holds values that are not floating point numbers")
    if not all(map(is_finite, weights.values())):
        raise ValueError(f"{prefix} holds NaN or infinity")
    if any(float(weight.float().abs().max()) > MAX_WEIGHT for weight in weights.values() if weight.numel()):
        raise ValueError(f"{prefix} holds weights above {MAX_WEIGHT}")
    first, rest = (_errors(entry["errors"][part]) for part in ("first", "rest"))
    return FittedMap(LinearMap.from_tensors(weights, {METADATA_KEY: entry["map"]}), first, rest)


def _errors(values: Mapping[str, Any]) -> Errors:
    names = {field.name for field in dataclasses.fields(Errors)}
    if not isinstance(values, Mapping) or values.keys() != names:
        raise ValueError(f"its errors are {shown(values)}; expected {', '.join(sorted(names))}")
    errors = Errors(**values)
    for name, value in vars(errors).items():
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise ValueError(f"the error '{name}' is {shown(value)}; expected a number")
    return errors


def _serves(path: Path, channels: int, axes: set[str]) -> bool:
    """Return whether the header of a file names the channels and axes; a file that cannot be read serves nothing."""
    try:
        values = _description(path)
        return values["channels"] == channels and axes <= set(values["axes"])
    except (KeyError, TypeError, ValueError):
        return False


def _description(path: Path) -> dict[str, Any]:
    """Return the description in the header of a file; KeyError or ValueError for a file without one."""
    return read_json_object(read_metadata(path, "it")[KEY], "it")
