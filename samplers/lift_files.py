"""Files of fitted lifts in models/pyramidal_lifts: one per VAE, with a map in both directions for each set of axes.

Files can be shared: they name the VAE by a digest of its weights, and the metadata tells on what the maps were fitted and how
large their errors on held-out clips are.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import comfy.utils
import folder_paths
import safetensors
import torch
from torch import Tensor

from ..pyramid.lift import METADATA_KEY, LinearMap
from .comfyui.safetensors_file import write_safetensors
from .video_lift import VideoLift

FOLDER = "pyramidal_lifts"
KEY = "pyramidal_lift"
"""Key of a file's metadata."""

FORMAT = 1
RENDERED = "rendered clips"
"""Source of maps that were fitted on rendered clips alone."""

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
    folders = [Path(folder) for folder in folder_paths.get_folder_paths(FOLDER)]
    paths = [path for folder in folders for path in sorted(folder.glob("*.safetensors"))]
    return [path for path in paths if _serves(path, channels, axes)]


def read_lift(path: Path) -> LiftFile:
    """Read a file.

    Raises:
        ValueError: The file cannot be read, or is not a fitted lift.
    """
    again = "delete it, and 'Pyramidal Lift' fits it again"
    try:
        tensors, metadata = comfy.utils.load_torch_file(str(path), safe_load=True, return_metadata=True)
    except Exception as error:  # the formats' own errors have no common base class
        raise ValueError(f"the lift '{path.name}' cannot be read ({str(error).splitlines()[0]}); {again}") from None
    try:
        return _from_tensors(tensors, json.loads((metadata or {})[KEY]))
    except KeyError as error:
        raise ValueError(f"the file '{path.name}' is not a fitted lift: it has no {error}; {again}") from None
    except (AttributeError, TypeError, ValueError) as error:
        raise ValueError(f"the lift '{path.name}' is damaged ({error}); {again}") from None


def write_lift(path: Path, file: LiftFile) -> None:
    """Write a file atomically: after a crash it is either the old or the new one."""
    tensors, axes = {}, {}
    for name, fitted in file.axes.items():
        axes[name] = {"source": fitted.source, "fitted_on": fitted.fitted_on}
        for direction, fitted_map in (("lift", fitted.lift), ("drop", fitted.drop)):
            weights, metadata = fitted_map.linear.to_tensors()
            tensors |= {f"{name}.{direction}.{part}": weight for part, weight in weights.items()}
            errors = {"first": dataclasses.asdict(fitted_map.first), "rest": dataclasses.asdict(fitted_map.rest)}
            axes[name][direction] = {"map": metadata[METADATA_KEY], "errors": errors}
    values = {"format": FORMAT, "vae": file.vae, "channels": file.channels, "axes": axes}
    write_safetensors(path, tensors, {KEY: json.dumps(values)})


def _from_tensors(tensors: Mapping[str, Tensor], values: dict[str, Any]) -> LiftFile:
    if values["format"] != FORMAT:
        raise ValueError(f"file format {values['format']!r}; this version reads format {FORMAT}")
    axes = {}
    for name, entry in values["axes"].items():
        lift, drop = (_read_map(tensors, f"{name}.{direction}", entry[direction]) for direction in ("lift", "drop"))
        if {lift.linear.channels, drop.linear.channels} != {values["channels"]}:
            raise ValueError(f"file format: maps of other than {values['channels']} channels")
        axes[name] = FittedAxes(lift, drop, entry["source"], entry["fitted_on"])
    return LiftFile(values["vae"], values["channels"], axes)


def _read_map(tensors: Mapping[str, Tensor], prefix: str, entry: dict[str, Any]) -> FittedMap:
    weights = {part: tensors[f"{prefix}.{part}"] for part in ("first", "rest")}
    if not all(torch.isfinite(weight).all() for weight in weights.values()):
        raise ValueError(f"{prefix} holds NaN or infinity")
    first, rest = (Errors(**entry["errors"][part]) for part in ("first", "rest"))
    return FittedMap(LinearMap.from_tensors(weights, {METADATA_KEY: entry["map"]}), first, rest)


def _serves(path: Path, channels: int, axes: set[str]) -> bool:
    """Return whether the header of a file names the channels and axes; a file that cannot be read serves nothing."""
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            values = json.loads((file.metadata() or {})[KEY])
        return values["channels"] == channels and axes <= set(values["axes"])
    except Exception:  # safetensors errors have no common base class
        return False
