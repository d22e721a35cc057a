"""A pyramidal run taken apart, for graphs wired by hand around the host's own sampler.

Each stage is bound to a model, gets its sigmas and is run by the host's own sampler; transitions lie between them. The
video is that of the sampler node.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import comfy.sample
import torch
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ..pyramid.latent_shape import LatentShape
from ..pyramid.noise_pyramid import derive_seed, noise_pyramid, stage_seed, top_up_seed
from ..pyramid.sampling import into_stage
from ..pyramid.stage_names import stage_index, stage_name
from ..pyramid.stages import PyramidSpec, Stage
from ..pyramid.transition import renoise
from .comfyui.checkpoint_metadata import check_spec
from .comfyui.conditioning import check_conds, stage_conds
from .comfyui.latent_tag import CLEAN, START, StageTag, check_same_pyramid, tag_of, tagged
from .comfyui.latents import check_latent
from .comfyui.stage_model import KEY, bind_stage, check_model, check_no_context_windows, sized
from .schedule import from_sigmas
from .start import full_noise
from .supported_samplers import check_sampler

TOLERANCE = 1e-4


class DerivedNoise:
    """NOISE of one stage out of the run's NOISE: its own seed, and a draw that is made when the host asks for it."""

    def __init__(self, seed: int, draw: Callable[[dict], Tensor]):
        self.seed, self._draw = seed, draw

    def generate_noise(self, latent: dict) -> Tensor:
        return self._draw(latent)


def stage_start(noise: Any, latent: dict, spec: PyramidSpec) -> tuple[dict, DerivedNoise]:
    """The first stage's empty LATENT and NOISE for an empty LATENT at full resolution."""
    samples = latent["samples"]
    if tag_of(latent) is not None:
        raise ValueError("this LATENT is already one of a stage; a run starts from a full-resolution one")
    check_latent(samples, latent, spec)
    full = LatentShape(*samples.shape[2:])
    stages = spec.stages(full)
    coarse = torch.zeros(*samples.shape[:2], *stages[0].shape, device=samples.device)

    def draw(asked: dict) -> Tensor:
        return noise_pyramid(full_noise(noise, asked, (*samples.shape[:2], *full)), stages)[0]

    start = tagged({**latent, "samples": coarse}, StageTag(spec, 0, full, START))
    return start, DerivedNoise(stage_seed(noise.seed, 0), draw)


def stage_transition(latent: dict, noise: Any, spec: PyramidSpec, stage: str) -> tuple[dict, DerivedNoise]:
    """The next stage's LATENT and NOISE from the LATENT that ``stage`` has put out; ``noise`` is the run's own."""
    index = stage_index(stage, spec.number_of_stages)
    tag = _checked_tag(latent, spec, index, "Pyramidal Stage Transition")
    stages = spec.stages(tag.size)
    if index + 1 == len(stages):
        raise ValueError(f"stage '{stage}' is the last one; nothing comes after it: decode its output")
    coarse, fine = stages[index], stages[index + 1]
    samples = _sized_samples(latent, coarse, spec)
    seed = stage_seed(noise.seed, fine.index)

    def top_up(_stage: Stage) -> Tensor:
        empty = torch.zeros(*samples.shape[:2], *fine.shape)
        return comfy.sample.prepare_noise(empty, top_up_seed(seed), latent.get("batch_index"))

    def draw(asked: dict) -> Tensor:
        full = full_noise(noise, asked, (*samples.shape[:2], *tag.size))
        own = noise_pyramid(full, stages)[fine.index]
        return into_stage(torch.zeros_like(samples, device=own.device), coarse, fine, own, top_up=top_up)[1]

    signal = fine.from_coarser.up(samples.float())
    return tagged({**latent, "samples": signal}, StageTag(spec, fine.index, tag.size, START)), DerivedNoise(seed, draw)


def stage_renoise(latent: dict, noise: Any, spec: PyramidSpec, stage: str, level: float) -> tuple[dict, DerivedNoise]:
    """A stage's clean prediction, ready to be noised to a natural level of that stage."""
    index = stage_index(stage, spec.number_of_stages)
    tag = tag_of(latent)
    if tag is not None:
        check_same_pyramid(tag, spec)
        if tag.stage != index:
            raise ValueError(
                f"this LATENT is of stage '{stage_name(tag.stage, spec.number_of_stages)}', but the node is set to '{stage}'"
            )
    samples = latent["samples"].float()
    size = tag.size if tag is not None else spec.full_shape(LatentShape(*samples.shape[2:]), index)
    running = spec.stages(size)[index]
    samples = _sized_samples(latent, running, spec)
    if not running.clean.natural < level <= running.noisy.natural:
        raise ValueError(
            f"level {level:g} is not in stage '{stage}', which runs from {running.noisy.natural:.4g} to "
            f"{running.clean.natural:.4g}"
        )
    signal, _ = renoise(samples, running, level, torch.zeros_like(samples))
    seed = derive_seed(stage_seed(noise.seed, index), "renoise", f"{level:.6f}")

    def draw(asked: dict) -> Tensor:
        empty = torch.zeros(samples.shape, dtype=torch.float32)
        return comfy.sample.prepare_noise(empty, seed, asked.get("batch_index"))

    return tagged({**latent, "samples": signal}, StageTag(spec, index, size, START)), DerivedNoise(seed, draw)


def stage_sigmas(sigmas: Tensor, spec: PyramidSpec, stage: str) -> Tensor:
    """One stage's SIGMAS, as the host's samplers see them, out of a curve of natural levels."""
    index = stage_index(stage, spec.number_of_stages)
    levels = from_sigmas(sigmas, spec)[index]
    if not levels:
        raise ValueError(f"the schedule starts below stage '{stage}' and has no step in it")
    running = spec.stages(spec.smallest_shape())[index]
    return torch.tensor([running.reference_sigma(level) for level in levels])


def stage_model(model: Any, spec: PyramidSpec, stage: str) -> Any:
    """A MODEL that samples one stage in the host's own sampler nodes and resizes its conditioning itself."""
    index = stage_index(stage, spec.number_of_stages)
    check_model(model)
    check_spec(model, spec)
    stages = spec.stages(spec.smallest_shape())
    bound = bind_stage(model, stages[index], spec.number_of_stages)
    check_no_context_windows(bound.model_options, stages)

    def outer_sample(
        executor: Callable[..., Tensor],
        noise: Tensor,
        latent: Tensor,
        sampler: Any,
        sigmas: Tensor,
        *args: Any,
        **kwargs: Any,
    ) -> Tensor:
        own, guider = sized(stages[index], noise), executor.class_obj
        check_sampler(sampler, spec, [len(sigmas) - 1])
        _check_stage_sigmas(sigmas, own, stage)
        full = spec.full_shape(own.shape, index)
        check_conds(guider.conds, full, spec.stages(full))
        guider.conds = stage_conds(guider.conds, own.shape.frames, spec.downsample_axes[index:])
        return executor(noise, latent, sampler, sigmas, *args, **kwargs)

    bound.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, KEY, outer_sample)
    return bound


def _check_stage_sigmas(sigmas: Tensor, stage: Stage, name: str) -> None:
    first, last = float(sigmas[0]), float(sigmas[-1])
    noisy, clean = stage.noisy.sigma[1], stage.clean.sigma[1]
    if first > noisy + TOLERANCE or abs(last - clean) > TOLERANCE:
        raise ValueError(
            f"these SIGMAS run from {first:.4g} to {last:.4g}, but stage '{name}' of this pyramid from {noisy:.4g} to "
            f"{clean:.4g}; take them from 'Pyramidal Stage Sigmas' with the same pyramid and stage"
        )


def _checked_tag(latent: dict, spec: PyramidSpec, index: int, node: str) -> StageTag:
    tag = tag_of(latent)
    if tag is None:
        raise ValueError(f"this LATENT is not the output of a stage; '{node}' comes after a stage's sampler")
    check_same_pyramid(tag, spec)
    if tag.state == CLEAN:
        raise ValueError("this LATENT is a clean prediction; the next stage starts from the 'output' of the one before it")
    if tag.stage != index:
        count = spec.number_of_stages
        raise ValueError(
            f"this LATENT is of stage '{stage_name(tag.stage, count)}', but the node is set to '{stage_name(index, count)}'"
        )
    return tag


def _sized_samples(latent: dict, stage: Stage, spec: PyramidSpec) -> Tensor:
    samples = latent["samples"]
    if tuple(samples.shape[2:]) != tuple(stage.shape):
        name = stage_name(stage.index, spec.number_of_stages)
        raise ValueError(
            f"the LATENT has {'x'.join(map(str, samples.shape[2:]))} latents, but stage '{name}' has "
            f"{'x'.join(map(str, stage.shape))}: it was resized or comes from another run"
        )
    return samples.float()
