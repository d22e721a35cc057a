"""Validation of the averaged weights: the loss on held-out items, and samples for their prompts."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor

from ..forms import starting_levels, starting_signal
from ..noise_levels import NoiseLevel
from ..noise_pyramid import derive_seed, noise_pyramid, stage_seed, top_up_seed
from ..resize import make_resize, missing_band
from ..sampling import sample_pyramid, solver_stage
from ..schedules import parse_steps, stage_levels, without_skipped
from ..solvers import euler
from ..stage_names import stage_name
from ..stages import Stage
from .config.run_config import RunConfig
from .data.batches import Plan, draw_batch
from .data.cache_files import Cache
from .data.clips import save_video
from .engine import draws
from .files import write_tensors
from .models.encoders import WanVae, open_vae
from .recipes import dmd
from .recipes.distill import DistributionMatching
from .recipes.distill_adversarial import AdversarialDistillation
from .recipes.finetune import Finetuning
from .recipes.student import FewStepStudent

SAMPLES = "samples"
"""Folder of the samples in the folder of a run."""
SEED = 20260104
"""Seed of validation, the same in every run, so that runs can be compared."""


class Samples:
    """Samples for the prompts of held-out items, in ``samples/step-<number>-<item>``, compared with the items' latents.

    Attributes:
        held_out: Number of held-out items.
    """

    def __init__(self, config: RunConfig, cache: Cache, accelerator: Accelerator) -> None:
        """Open the VAE, if the samples are to be decoded.

        Raises:
            ValueError: The VAE cannot be opened.
        """
        self.settings, self.cache, self.accelerator = config.validation, cache, accelerator
        self.folder, self.held_out = Path(config.out) / SAMPLES, min(config.data.held_out, len(cache) // 2)
        self.vae: WanVae | None = open_vae(self.settings.vae) if self.settings.vae else None

    def __call__(self, step: int, make: Callable[[int], Tensor]) -> dict[str, float]:
        """Sample and compare; every process must call it, and the main one writes.

        Args:
            step: Number of optimiser steps taken.
            make: Returns latents for the prompt of an item, ``(1, C, T, H, W)``.

        Returns:
            The ratios of ``compare``; nothing if there are no samples or no videos in the cache.
        """
        items = range(len(self.cache) - self.held_out, len(self.cache))[: self.settings.videos]
        if not items:
            return {}
        made = [make(item) for item in items]
        if self.accelerator.is_main_process:
            for item, latents in zip(items, made, strict=True):
                self._write(f"step-{step:08d}-{item}", latents, self.cache.caption(item))
        if not self.cache.has_videos:
            return {}
        finest = self.cache.stages - 1
        return compare(made, [self.cache.latent(item, finest)[None] for item in items])

    def _write(self, name: str, latents: Tensor, caption: str) -> None:
        if self.vae is None:
            write_tensors({"latents": latents.contiguous()}, self.folder / f"{name}.safetensors", {"caption": caption})
        else:
            save_video(self.folder / f"{name}.mp4", self.vae.to(self.accelerator.device).decode(latents)[0])


class FinetuneValidation:
    """Held-out losses and samples of a finetuned network."""

    def __init__(self, recipe: Finetuning, cache: Cache) -> None:
        """Prepare the validation of a recipe's network."""
        self.recipe, self.cache, self.accelerator = recipe, cache, recipe.accelerator
        self.samples = Samples(recipe.config, cache, recipe.accelerator)

    def __call__(self, step: int) -> dict[str, float]:
        """Return the losses and the ratios of the samples, both of the averaged weights; nothing if no items are held out."""
        if not self.samples.held_out:
            return {}
        settings = self.recipe.config.validation
        with self.recipe.trainables["network"].averaged(), torch.no_grad():
            make = functools.partial(sample, self.recipe, self.cache, steps=settings.steps, cfg=settings.cfg)
            return {**self.losses(), **self.samples(step, make)}

    def losses(self) -> dict[str, float]:
        """Return the mean flow loss over the held-out items, of each stage and of all, the same in every process."""
        world, rank, held_out = self.accelerator.num_processes, self.accelerator.process_index, self.samples.held_out
        plan = Plan(SEED, held_out, 1, len(self.cache) - held_out, len(self.cache), drop=0.0)
        sums = torch.zeros(len(self.recipe.stages), dtype=torch.float64)
        for first in range(0, held_out, world):
            number = first + rank
            for stage in range(len(self.recipe.stages)):  # with shards every process must take part in every forward pass
                batch = draw_batch(self.cache, plan, stage, range(number % held_out, number % held_out + 1))
                value = self.recipe.stage_losses(batch)["flow"][1].item()
                sums[stage] += value if number < held_out else 0.0
        total = self.accelerator.reduce(sums.float().to(self.accelerator.device), reduction="sum")
        means = (total / held_out).tolist()  # pyright: ignore[reportOperatorIssue, reportAttributeAccessIssue]
        named = {f"validation/{stage_name(index, len(means))}": value for index, value in enumerate(means)}
        return {"validation": sum(means) / len(means), **named}


class StudentValidation:
    """Samples of a student. No loss tells which student is best, so there is no best checkpoint, and the newest is exported."""

    def __init__(self, recipe: DistributionMatching | AdversarialDistillation, cache: Cache) -> None:
        """Prepare the validation of a recipe's student."""
        self.recipe, self.cache = recipe, cache
        self.samples = Samples(recipe.config, cache, recipe.accelerator)

    def __call__(self, step: int) -> dict[str, float]:
        """Return the ratios of the samples of the averaged student."""
        with self.recipe.trainables["student"].averaged(), torch.no_grad():
            return self.samples(step, functools.partial(sample_student, self.recipe.student, self.cache))


def sample(recipe: Finetuning, cache: Cache, item: int, *, steps: str, cfg: float) -> Tensor:
    """Sample latents for an item's prompt with Euler steps that are uniform in sigma.

    Args:
        recipe: The network and its pyramid.
        cache: The cache with the prompt.
        item: Index of the item.
        steps: Steps of each stage, such as "20-20-10".
        cfg: Guidance scale.

    Returns:
        Latents ``(1, C, T, H, W)`` on the CPU.
    """
    counts = parse_steps(steps, recipe.spec.number_of_stages)
    spec, counts = without_skipped(recipe.spec, counts)
    skipped = recipe.spec.number_of_stages - spec.number_of_stages
    context = torch.stack([cache.text(item), cache.empty]).to(recipe.accelerator.device)

    def velocity(x: Tensor, level: NoiseLevel, stage: Stage) -> Tensor:
        trained_stage = recipe.stages[stage.index + skipped]
        if cfg == 1:
            return recipe.velocity(x, level, trained_stage, context[:1])
        conditional, empty = recipe.velocity(torch.cat([x, x]), level, trained_stage, context).chunk(2)
        return dmd.guided(conditional, empty, cfg)

    device, stages = recipe.accelerator.device, spec.stages(recipe.shape)
    noises = [part.to(device) for part in noise_pyramid(_noise(cache, item), stages)]

    def top_up(stage: Stage) -> Tensor:
        size = (1, *noises[0].shape[1:2], stage.shape.frames, stage.shape.height, stage.shape.width)
        return draws.white(size, top_up_seed(stage_seed(SEED, stage.index))).to(device)

    levels = stage_levels(spec, counts)
    levels[0] = starting_levels(levels[0], stages[0], recipe.form)
    signal = starting_signal(noises[0], stages[0].at(torch.tensor(levels[0][0])).sigma.to(device))
    return sample_pyramid(solver_stage(velocity, euler, levels), noises, stages, signal=signal, top_up=top_up).float().cpu()


def sample_student(student: FewStepStudent, cache: Cache, item: int) -> Tensor:
    """Sample latents ``(1, C, T, H, W)`` for an item's prompt with the student's steps, on the CPU."""
    device = student.accelerator.device
    noise = _noise(cache, item).to(device)
    return student.sample(noise, cache.text(item)[None].to(device), [derive_seed(SEED, "run", item)]).float().cpu()


def _noise(cache: Cache, item: int) -> Tensor:
    """Return the noise of an item at full size, ``(1, C, T, H, W)``."""
    return draws.white((1, *cache.size(cache.stages - 1)), SEED, "sample", item)


def compare(made: Sequence[Tensor], data: Sequence[Tensor]) -> dict[str, float]:
    """Return ratios of samples to data, which are 1 if the two are alike.

    Contrast is the standard deviation, detail the energy that is lost by halving the size, and motion the mean absolute
    difference of successive frames; it is left out for single frames.

    Args:
        made: Samples, each ``(1, C, T, H, W)``.
        data: Latents of the same prompts.
    """
    measures = {"contrast": _contrast, "detail": _detail, "motion": _motion}
    return {
        f"samples/{name}": sum(map(measure, made)) / max(sum(map(measure, data)), 1e-9)
        for name, measure in measures.items()
        if name != "motion" or data[0].shape[2] > 1
    }


def _contrast(latents: Tensor) -> float:
    return latents.std().item()


def _detail(latents: Tensor) -> float:
    return missing_band(latents, make_resize("haar", "HW")).square().mean().item()


def _motion(latents: Tensor) -> float:
    return (latents[:, :, 1:] - latents[:, :, :-1]).abs().mean().item()
