"""The lift of a run: made by a node, or the one that is kept for the model's latents."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor

from ...pyramid.axes import AUTO_SCALE, SCALES, is_auto
from ...pyramid.stages import STOCK, PyramidSpec
from ...pyramid.untrusted import first_line, shown
from .files import (
    FOLDER,
    Errors,
    FittedAxes,
    LiftFile,
    digest_of,
    kept_files,
    path_for,
    read_lift,
    unreadable_files,
    write_lift,
)
from .fitting import check_vae, check_vae_weights, fit_axes, source_of
from .pixels import pixel_lift
from .video_lift import VideoLift, check_changes_size

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher

AUTO, LINEAR, PIXELS, NONE = "auto", "linear", "pixels", "none"
METHODS = (AUTO, LINEAR, PIXELS, NONE)


def make_lift(vae: Any, method: str, clips: Tensor | None, spec: PyramidSpec | None) -> tuple[VideoLift, str]:
    """Return a lift and a text about it.

    Args:
        vae: VAE of ComfyUI.
        method: One of ``METHODS``. "auto" loads the lift that is kept for the VAE, or fits one on rendered clips and keeps
            it. "linear" does the same with ``clips``. "pixels" decodes and encodes at every transition. "none" resizes
            latents, also where a lift is kept.
        clips: Frames ``(N, H, W, 3)`` in 0..1, for "linear".
        spec: Pyramid whose transitions the lift serves; None for that of stock weights. For the scale "auto" there is a map
            for every scale that it chooses from.

    Raises:
        ValueError: The inputs do not fit together, or a kept file is damaged.
    """
    if method not in METHODS:
        raise ValueError(f"unknown method {shown(method)}; expected {', '.join(METHODS)}")
    if method == LINEAR and clips is None:
        raise ValueError("method 'linear' fits on your own clips; connect clips, or set method to 'auto'")
    check_vae(vae)
    if method == NONE:
        return VideoLift("none", vae.latent_channels), "no lift: latents are resized, even where a lift is kept"
    check_vae_weights(vae)
    if method == PIXELS:
        lift = pixel_lift(vae)
        through = VideoLift(PIXELS, vae.latent_channels, everywhere=lift)
        return through, "pixels: every change of size decodes, resizes and encodes the video; nothing is fitted"
    file, outcome = _kept_or_fitted(vae, clips if method == LINEAR else None, _axes(spec or STOCK))
    return file.as_lift(), describe(file, outcome)


def choose_lift(given: VideoLift | None, model: ModelPatcher, spec: PyramidSpec) -> tuple[VideoLift | None, str]:
    """Return the lift of a run and a text about it: the given one, or the only one that is kept for the model's latents.

    Weights that were finetuned for a pyramid never use a kept lift: they were trained with the plain transition.
    """
    if given is not None:
        given.check_axes(spec)
        return given, f"lift: {given.name}"
    if not spec.for_stock_weights or spec.number_of_stages == 1:
        return None, ""
    latent_format: Any = model.get_model_object("latent_format")
    channels = latent_format.latent_channels
    paths = kept_files(channels, set(spec.downsample_axes))
    if len(paths) > 1:
        return None, (
            f"no lift: models/{FOLDER} has {len(paths)} for latents of {channels} channels; connect 'Pyramidal Lift from VAE' "
            "to choose"
        )
    if not paths:
        unreadable = ", ".join(path.name for path in unreadable_files())
        return None, f"no lift: {shown(unreadable)} in models/{FOLDER} cannot be read; delete it" if unreadable else ""
    lift = read_lift(paths[0]).as_lift()
    return lift, f"lift: {lift.name}"


def describe(file: LiftFile, outcome: str) -> str:
    """Return the errors of the maps as text.

    Args:
        file: The maps.
        outcome: Where they are from, in words.
    """
    lines = [outcome, "mean square errors on clips kept out of the fit:"]
    for axes, maps in file.axes.items():
        lines.append(f"{axes}, fitted on {maps.fitted_on}")
        for name, direction in (("larger", maps.lift), ("smaller", maps.drop)):
            lines.append(f"  {name}, frame 0: {_error_text(direction.first)}")
            lines.append(f"  {name}, other frames: {_error_text(direction.rest)}")
    return "\n".join(lines)


def _error_text(errors: Errors) -> str:
    return (
        f"{errors.fitted:.3g} of a variance of {errors.variance:.3g} (through pixels {errors.pixels:.3g}, resized latents "
        f"{errors.resize:.3g})"
    )


def _kept_or_fitted(vae: Any, clips: Tensor | None, axes: list[str]) -> tuple[LiftFile, str]:
    """Return the kept maps of a VAE, after fitting and keeping those that are missing; and where they are from, in words.

    A fit takes minutes, so maps that cannot be kept still serve this run.
    """
    digest = digest_of(vae)
    path, location = path_for(digest), f"models/{FOLDER}/{digest}.safetensors"
    kept = dict(read_lift(path).axes) if path.exists() else {}
    missing = [name for name in axes if name not in kept or not _serves(kept[name], clips)]
    file = LiftFile(digest, vae.latent_channels, {**kept, **(fit_axes(vae, missing, clips) if missing else {})})
    if not missing:
        return file, f"loaded from {location}"
    try:
        write_lift(path, file)
    except ValueError as error:
        return file, f"fitted, but not kept: {first_line(error)}"
    return file, f"fitted, and kept as {location}"


def _serves(kept: FittedAxes, clips: Tensor | None) -> bool:
    return clips is None or kept.source == source_of(clips)


def _axes(spec: PyramidSpec) -> list[str]:
    """Return the transitions that a pyramid requires; conditioning without a time axis only shrinks in space."""
    check_changes_size(spec)
    axes: dict[str, None] = {}
    for name in spec.downsample_axes:
        known = [name.replace(f"HW {AUTO_SCALE}", scale) for scale in SCALES.values()] if is_auto(name) else [name]
        axes |= dict.fromkeys(known)
    axes |= dict.fromkeys(name[1:] for name in list(axes) if name.startswith("THW"))
    if not axes:
        raise ValueError("a pyramid of 1 stage has no transition and needs no lift; connect another pyramid, or none")
    return list(axes)
