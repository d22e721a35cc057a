"""Find where a run starts: at pure noise, at a video noised to some level, or after a stage that ran before."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..pyramid.latent_shape import LatentShape
from ..pyramid.noise_pyramid import noise_pyramid
from ..pyramid.stage_names import stage_name
from ..pyramid.stages import PyramidSpec, Stage
from ..pyramid.transition import renoise
from .comfyui.latent_tag import CLEAN, StageTag, check_same_pyramid, tag_of
from .comfyui.latents import check_latent, fit_channels
from .noise import Noise, full_noise

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher


@dataclass(frozen=True)
class Start:
    """The start of a run.

    Attributes:
        full: Size at full resolution.
        stages: All stages of the pyramid.
        first: Index of the first stage to run.
        noises: Noise of the stages from ``first`` on.
        signal: What the first stage starts from besides its noise, or the output of ``previous``; None for pure noise.
        previous: The stage whose output ``signal`` is, for a run that resumes after it.
    """

    full: LatentShape
    stages: tuple[Stage, ...]
    first: int
    noises: list[Tensor]
    signal: Tensor | None = None
    previous: Stage | None = None


def find_start(
    model: ModelPatcher,
    noise: Noise,
    latent: dict,
    spec: PyramidSpec,
    levels: Sequence[Sequence[float]],
    first: int | None,
) -> Start:
    """Return the start that the LATENT and the schedule imply.

    Args:
        model: Model of the run.
        noise: The run's NOISE.
        latent: A full-resolution LATENT, or the output of an earlier run.
        spec: The pyramid.
        levels: Natural levels of each stage; empty for the stages that the schedule leaves out.
        first: Index of the requested first stage; None for the one that fits.

    Raises:
        ValueError: The LATENT cannot start this run.
    """
    samples = fit_channels(model, latent)
    tag = tag_of(latent)
    if tag is not None:
        _check_resumes(tag, spec, levels, first)
        return _after_stage(noise, latent, samples, spec, tag)
    if first:
        raise ValueError(
            f"the run should start at stage '{stage_name(first, spec.number_of_stages)}', but the LATENT is not the output of "
            "the stage before it; connect the latent of a run that ended there"
        )
    check_latent(samples, latent, spec, channels=model.get_model_object("latent_format").latent_channels)
    return _from_video(noise, latent, samples, spec, levels)


def _check_resumes(tag: StageTag, spec: PyramidSpec, levels: Sequence[Sequence[float]], first: int | None) -> None:
    """Raise ValueError unless a run can resume after the tagged LATENT."""
    check_same_pyramid(tag, spec)
    count = spec.number_of_stages
    if tag.stage + 1 == count:
        name = stage_name(tag.stage, count)
        raise ValueError(f"this LATENT is of the last stage, '{name}', after which no run can resume; decode it")
    if not all(levels):
        raise ValueError("a run that resumes after a stage requires the whole schedule; set denoise to 1, or start SIGMAS at 1")
    if tag.state == CLEAN:
        raise ValueError(
            f"this LATENT is the clean prediction of stage '{stage_name(tag.stage, count)}'; to resume the run, use the "
            "'latent' output of that run instead of 'denoised'"
        )
    if first is not None and first != tag.stage + 1:
        raise ValueError(
            f"this LATENT is the output of stage '{stage_name(tag.stage, count)}', so the run resumes with "
            f"'{stage_name(tag.stage + 1, count)}', not with '{stage_name(first, count)}'"
        )


def _from_video(noise: Noise, latent: dict, samples: Tensor, spec: PyramidSpec, levels: Sequence[Sequence[float]]) -> Start:
    full = LatentShape(*samples.shape[2:])
    stages = spec.stages(full)
    first = next(index for index, stage_levels in enumerate(levels) if stage_levels)
    draws = noise_pyramid(full_noise(noise, latent, samples.shape), stages[first:])
    natural = levels[first][0]
    if first == 0 and natural >= 1:
        return Start(full, stages, 0, draws)
    if torch.count_nonzero(samples) == 0:
        raise ValueError(
            f"the run starts at noise level {natural:.4g}, below 1, from an empty LATENT; encode a video for it, or start "
            "from pure noise (denoise 1)"
        )
    for finer in reversed(stages[first + 1 :]):
        assert finer.from_coarser is not None  # only the first stage of a pyramid has none
        samples = finer.from_coarser.down(samples)
    signal, first_noise = renoise(samples, stages[first], natural, draws[0].to(samples))
    return Start(full, stages, first, [first_noise, *draws[1:]], signal)


def _after_stage(noise: Noise, latent: dict, samples: Tensor, spec: PyramidSpec, tag: StageTag) -> Start:
    stages = spec.stages(tag.size)
    previous = stages[tag.stage]
    if tuple(previous.shape) != tuple(samples.shape[2:]):
        got, expected = ("x".join(map(str, sides)) for sides in (samples.shape[2:], previous.shape))
        name = stage_name(tag.stage, spec.number_of_stages)
        raise ValueError(f"the LATENT has {got} latents, but stage '{name}' of this run has {expected}: it was resized")
    draws = noise_pyramid(full_noise(noise, latent, (*samples.shape[:2], *tag.size)), stages)
    return Start(tag.size, stages, tag.stage + 1, draws[tag.stage + 1 :], samples, previous)
