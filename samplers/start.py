"""Find where a run starts: at pure noise, at a video noised to some level, or after a stage that ran before."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..pyramid.latent_shape import LatentShape
from ..pyramid.noise_pyramid import noise_pyramid
from ..pyramid.segments import NEARLY_NOISE
from ..pyramid.stage_names import stage_name
from ..pyramid.stages import PyramidSpec, Stage
from ..pyramid.transition import renoise
from .comfyui.conditioning import LatentDown
from .comfyui.latent_tag import CLEAN, StageTag, check_same_pyramid, tag_of
from .comfyui.latents import check_holds_no_noise, check_latent, check_layout, fit_channels
from .kept_region import KeptRegion, kept_region
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
        region: The part of the video that a noise mask keeps, at full size; None without a mask.
        clean: Clean prediction of ``previous``, for a lift; None where it is not known.
        leftover: Natural level of a full-size sample that still holds its noise, which the run starts from; None elsewhere.
        ignores_latent: Whether the LATENT holds a video that a run from pure noise does not use.
    """

    full: LatentShape
    stages: tuple[Stage, ...]
    first: int
    noises: list[Tensor]
    signal: Tensor | None = None
    previous: Stage | None = None
    region: KeptRegion | None = None
    clean: Tensor | None = None
    leftover: float | None = None
    ignores_latent: bool = False

    def lacking(self, stage: Stage, natural: float) -> float:
        """Return the share of a lift's correction that a stage's output lacks at the natural level that it ends at.

        A sample with leftover noise holds the whole correction of the first stage at its level ``n``: the sampler before
        lifted it, or ran at full size. Towards ``natural`` the share of the signal grows from ``1 - n`` to ``1 - natural``,
        while whatever the network does not predict shrinks with the noise, by ``natural / n`` (derived). A start in a later
        stage counts as its noisy end, where the sample holds the correction of the stage before.
        """
        if self.leftover is None or stage.index > 0:
            return 1.0
        return 1 - (1 - self.leftover) / self.leftover * natural / (1 - natural)


def find_start(
    model: ModelPatcher,
    noise: Noise,
    latent: dict,
    spec: PyramidSpec,
    levels: Sequence[Sequence[float]],
    first: int | None,
    *,
    lenient: bool = False,
    down: LatentDown | None = None,
) -> Start:
    """Return the start that the LATENT and the schedule imply.

    Args:
        model: Model of the run.
        noise: The run's NOISE.
        latent: A full-resolution LATENT, or the output of an earlier run.
        spec: The pyramid.
        levels: Natural levels of each stage; empty for the stages that the schedule leaves out.
        first: Index of the requested first stage; None for the one that fits.
        lenient: Take every size that halves, and empty latents below level 1, as ComfyUI's samplers do.
        down: Brings a clean video to the next coarser size; None averages.

    Raises:
        ValueError: The LATENT cannot start this run.
    """
    samples = fit_channels(model, latent)
    if (tag := tag_of(latent)) is not None:
        _check_resumes(tag, latent, spec, levels, first)
        return _after_stage(noise, latent, samples, spec, tag)
    fitting = next(index for index, stage_levels in enumerate(levels) if stage_levels)
    _check_first(first, fitting, spec.number_of_stages)
    latent_format: Any = model.get_model_object("latent_format")
    channels = latent_format.latent_channels
    check_layout(samples, channels)
    draw = full_noise(noise, latent, samples.shape)
    _check_noise(model, latent, samples, draw, levels[fitting][0], lenient)
    check_latent(samples, spec, channels=channels, lenient=lenient)
    return _from_video(model, latent, samples, draw, spec, levels, lenient, down)


def _check_first(first: int | None, fitting: int, number_of_stages: int) -> None:
    """Raise ValueError unless the requested first stage is the one that the schedule starts in."""
    if first is not None and first < fitting:
        asked, starts = (stage_name(index, number_of_stages) for index in (first, fitting))
        raise ValueError(
            f"the run should start at stage '{asked}', but its schedule starts in '{starts}'; set start_stage to auto, or "
            "denoise to 1"
        )
    if first is not None and first > fitting:
        raise ValueError(
            f"the run should start at stage '{stage_name(first, number_of_stages)}', but the LATENT is not the output of "
            "the stage before it; connect the latent of a run that ended there"
        )


def _check_noise(model: ModelPatcher, latent: dict, samples: Tensor, draw: Tensor, natural: float, lenient: bool) -> None:
    """Raise ValueError for a run that starts from pure noise and has none, or from a LATENT that already holds noise.

    ComfyUI's samplers may run without noise, and add noise to a sample that still holds some.
    """
    has_noise = bool(torch.count_nonzero(draw))
    if natural >= 1 and not has_noise and not lenient:
        raise ValueError("the run starts from pure noise, but its NOISE is empty ('DisableNoise'); connect 'RandomNoise'")
    if has_noise and latent.get("noise_mask") is None and (natural >= NEARLY_NOISE or not lenient):
        check_holds_no_noise(model, samples, replaces=lenient)


def check_can_resume(tag: StageTag, latent: dict, count: int) -> None:
    """Raise ValueError for a tagged LATENT after which no run of any schedule can resume.

    Args:
        tag: Its tag.
        latent: The LATENT.
        count: Number of stages of the pyramid.
    """
    if tag.state == CLEAN:
        raise ValueError(
            f"this LATENT is the clean prediction of stage '{stage_name(tag.stage, count)}'; to resume the run, use the "
            "'latent' output of that run instead of 'denoised'"
        )
    if latent.get("noise_mask") is not None and tag.given is None:
        raise ValueError(
            "the noise mask was set on the output of a stage, which does not hold the video that the mask keeps; set the mask "
            "on the LATENT that the first sampler gets"
        )


def _check_resumes(
    tag: StageTag, latent: dict, spec: PyramidSpec, levels: Sequence[Sequence[float]], first: int | None
) -> None:
    """Raise ValueError unless a run can resume after the tagged LATENT."""
    check_same_pyramid(tag, spec)
    count = spec.number_of_stages
    if tag.stage + 1 == count:
        name = stage_name(tag.stage, count)
        raise ValueError(f"this LATENT is of the last stage, '{name}', after which no run can resume; decode it")
    if not all(levels):
        raise ValueError("a run that resumes after a stage requires the whole schedule; set denoise to 1, or start SIGMAS at 1")
    check_can_resume(tag, latent, count)
    if first is not None and first != tag.stage + 1:
        raise ValueError(
            f"this LATENT is the output of stage '{stage_name(tag.stage, count)}', so the run resumes with "
            f"'{stage_name(tag.stage + 1, count)}', not with '{stage_name(first, count)}'"
        )


def _from_video(
    model: ModelPatcher,
    latent: dict,
    samples: Tensor,
    draw: Tensor,
    spec: PyramidSpec,
    levels: Sequence[Sequence[float]],
    lenient: bool,
    down: LatentDown | None,
) -> Start:
    full = LatentShape(*samples.shape[2:])
    stages = spec.stages(full)
    first = next(index for index, stage_levels in enumerate(levels) if stage_levels)
    natural = levels[first][0]
    region = kept_region(samples, latent.get("noise_mask"), draw)
    if first == 0 and natural >= 1:
        ignored = region is None and bool(torch.count_nonzero(samples))
        return Start(full, stages, 0, noise_pyramid(draw, stages), region=region, ignores_latent=ignored)
    if not torch.count_nonzero(draw):
        return _after_leftover_noise(model, samples, spec, first, natural, region)
    draws = noise_pyramid(draw, stages[first:])
    if torch.count_nonzero(samples) == 0:
        if natural < NEARLY_NOISE and not lenient:
            raise ValueError(
                f"the run starts at noise level {natural:.4g}, below 1, from an empty LATENT; encode a video for it, or start "
                "from pure noise (denoise 1)"
            )
        return Start(full, stages, first, draws, region=region)
    coarse = _at_stage(samples, stages, first, spec, down)
    signal, first_noise = renoise(coarse, stages[first], natural, draws[0].to(samples))
    return Start(full, stages, first, [first_noise, *draws[1:]], signal, region=region)


def _after_leftover_noise(
    model: ModelPatcher, samples: Tensor, spec: PyramidSpec, first: int, natural: float, region: KeptRegion | None
) -> Start:
    """Return the start from a full-size sample that still holds its noise (``add_noise`` off in another sampler).

    Its low band is the sample of the first stage. The bands that this stage cannot hold are the noise of the finer ones:
    the sampler before left only noise there, or little else at such a level.
    """
    full = LatentShape(*samples.shape[2:])
    stages = spec.stages(full)
    stage = stages[first]
    if stage.field == "pyramidal" and stage.level > 0:
        raise ValueError(
            "a pyramid of finetuned weights cannot resume from a full-size LATENT with leftover noise in stage "
            f"'{stage_name(first, len(stages))}'; run it in one sampler"
        )
    if any(finer.shape.frames != stage.shape.frames for finer in stages[first:]):
        raise ValueError(
            "a pyramid that halves time cannot resume from a full-size LATENT with leftover noise: its first frame holds more "
            "noise than a stage of fewer frames starts with; use a pyramid that halves height and width only, or connect the "
            "pyramid to the sampler before this one alone"
        )
    network: Any = model.model
    draws = noise_pyramid(network.process_latent_in(samples) * ((1 - natural) / natural), stages[first:])
    nothing = torch.zeros_like(draws[0])
    signal = _at_stage(samples, stages, first, spec)
    return Start(full, stages, first, [nothing, *draws[1:]], signal, region=region, leftover=natural)


def _at_stage(
    samples: Tensor, stages: tuple[Stage, ...], index: int, spec: PyramidSpec, down: LatentDown | None = None
) -> Tensor:
    """Return a full-size latent at the size of a stage: its low band, or what ``down`` makes of it."""
    for finer in reversed(stages[index + 1 :]):
        assert finer.from_coarser is not None  # only the first stage of a pyramid has none
        samples = finer.from_coarser.down(samples) if down is None else down(samples, spec.latent_axes[finer.index - 1])
    return samples


def _after_stage(noise: Noise, latent: dict, samples: Tensor, spec: PyramidSpec, tag: StageTag) -> Start:
    stages = spec.stages(tag.size)
    previous = stages[tag.stage]
    if tuple(previous.shape) != tuple(samples.shape[2:]):
        got, expected = ("x".join(map(str, sides)) for sides in (samples.shape[2:], previous.shape))
        name = stage_name(tag.stage, spec.number_of_stages)
        raise ValueError(f"the LATENT has {got} latents, but stage '{name}' of this run has {expected}: it was resized")
    draw = full_noise(noise, latent, (*samples.shape[:2], *tag.size))
    if not torch.count_nonzero(draw):
        raise ValueError(
            f"the run resumes after stage '{stage_name(tag.stage, spec.number_of_stages)}' and requires new noise, but its "
            "NOISE is empty ('DisableNoise'); connect the NOISE of the run that made the draft"
        )
    region = None if tag.given is None else kept_region(tag.given, latent.get("noise_mask"), draw)
    draws = noise_pyramid(draw, stages)
    return Start(tag.size, stages, tag.stage + 1, draws[tag.stage + 1 :], samples, previous, region, tag.clean)
