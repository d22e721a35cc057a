"""Where a run starts: from pure noise, from a video that is noised to a level, or after a stage that was run before."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..pyramid.latent_shape import LatentShape
from ..pyramid.noise_pyramid import noise_pyramid
from ..pyramid.stage_names import stage_name
from ..pyramid.stages import PyramidSpec, Stage
from ..pyramid.transition import renoise
from .comfyui.latent_tag import CLEAN, check_same_pyramid, tag_of
from .comfyui.latents import check_latent, fit_channels


@dataclass(frozen=True)
class Start:
    """full: size at full resolution. stages: all of the pyramid. first: index of the first stage to run. noises: of the
    stages from ``first`` on. signal: what that stage starts from besides noise, or what ``previous`` handed out."""

    full: LatentShape
    stages: tuple[Stage, ...]
    first: int
    noises: list[Tensor]
    signal: Tensor | None = None
    previous: Stage | None = None


def find_start(
    model: Any, noise: Any, latent: dict, spec: PyramidSpec, levels: Sequence[Sequence[float]], first: int | None
) -> Start:
    """Reads the start off the LATENT and the schedule; ``first`` is the stage asked for, None for what fits."""
    samples, count = fit_channels(model, latent), spec.number_of_stages
    tag = tag_of(latent)
    if tag is None:
        if first:
            raise ValueError(
                f"the run should start at stage '{stage_name(first, count)}', but the LATENT is not the output of the stage "
                "before it; give it the latent of a run that ended there"
            )
        channels = model.get_model_object("latent_format").latent_channels
        check_latent(samples, latent, spec, channels=channels)
        return _from_video(noise, latent, samples, spec, levels)
    check_same_pyramid(tag, spec)
    if not all(levels):
        raise ValueError("a run that goes on after a stage needs its whole schedule: set denoise to 1, or start SIGMAS at 1")
    if tag.state == CLEAN:
        raise ValueError(
            f"this LATENT is the clean prediction of stage '{stage_name(tag.stage, count)}'; to go on, use the 'latent' "
            "output of that run instead of 'denoised'"
        )
    if first is not None and first != tag.stage + 1:
        raise ValueError(
            f"this LATENT is the output of stage '{stage_name(tag.stage, count)}', so the run goes on with "
            f"'{stage_name(tag.stage + 1, count)}', not with '{stage_name(first, count)}'"
        )
    return _after_stage(noise, latent, samples, spec, tag.stage, tag.size)


def _from_video(noise: Any, latent: dict, samples: Tensor, spec: PyramidSpec, levels: Sequence[Sequence[float]]) -> Start:
    full = LatentShape(*samples.shape[2:])
    stages = spec.stages(full)
    first = next(index for index, level in enumerate(levels) if level)
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
        samples = finer.from_coarser.down(samples)
    signal, start = renoise(samples, stages[first], natural, draws[0].to(samples))
    return Start(full, stages, first, [start, *draws[1:]], signal)


def _after_stage(noise: Any, latent: dict, samples: Tensor, spec: PyramidSpec, done: int, full: LatentShape) -> Start:
    stages = spec.stages(full)
    if tuple(stages[done].shape) != tuple(samples.shape[2:]):
        here, wanted = ("x".join(map(str, sides)) for sides in (samples.shape[2:], stages[done].shape))
        name = stage_name(done, spec.number_of_stages)
        raise ValueError(f"the LATENT has {here} latents, but stage '{name}' of this run has {wanted}: it was resized")
    draws = noise_pyramid(full_noise(noise, latent, (*samples.shape[:2], *full)), stages)
    return Start(full, stages, done + 1, draws[done + 1 :], samples, stages[done])


def full_noise(noise: Any, latent: dict, size: Sequence[int]) -> Tensor:
    """The one full-resolution draw of a run, float32; only the size of the latent and its batch indices matter."""
    empty = {**latent, "samples": torch.zeros(*size, dtype=torch.float32)}
    return noise.generate_noise(empty).float()
