"""How a run is doing: the loss on items that it never sees, and videos that the averaged weights make."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from accelerate import Accelerator
from safetensors.torch import save_file
from torch import Tensor

from ..noise_levels import NoiseLevel
from ..noise_pyramid import noise_pyramid, stage_seed, top_up_seed
from ..resize import make_resize, missing_band
from ..sampling import sample_pyramid, solver_stage
from ..schedules import parse_steps, stage_levels, without_skipped
from ..solvers import euler
from ..stages import Stage, stage_name
from . import draws
from .batches import Plan, draw_batch
from .cache_files import Cache
from .clips import save_video
from .encoders import WanVae, open_vae
from .finetune import Finetuning

SEED = 20260104
"""Validation draws the same in every run, so that runs compare."""


class Validation:
    """Called with a step; writes ``samples/step-<number>-<prompt>`` and returns what to log."""

    def __init__(self, recipe: Finetuning, cache: Cache, accelerator: Accelerator, folder: Path) -> None:
        self.recipe, self.cache, self.accelerator, self.folder = recipe, cache, accelerator, folder
        self.settings, self.held_out = recipe.config.validation, min(recipe.config.data.held_out, len(cache) // 2)
        self.vae: WanVae | None = open_vae(self.settings.vae) if self.settings.vae else None

    def __call__(self, step: int) -> dict[str, float]:
        if not self.held_out:
            return {}
        with self.recipe.trainables["network"].averaged(), torch.no_grad():
            return {**self.losses(), **self.samples(step)}

    def losses(self) -> dict[str, float]:
        """The mean flow loss over every held-out item, stage by stage and together, the same on every process."""
        world, rank = self.accelerator.num_processes, self.accelerator.process_index
        plan = Plan(SEED, self.held_out, 1, len(self.cache) - self.held_out, len(self.cache), drop=0.0)
        sums = torch.zeros(len(self.recipe.stages), dtype=torch.float64)
        for first in range(0, self.held_out, world):
            number = first + rank
            for stage in range(len(self.recipe.stages)):  # shards want every process in every forward pass
                batch = draw_batch(self.cache, plan, stage, range(number % self.held_out, number % self.held_out + 1))
                value = self.recipe.stage_losses(batch)["flow"][1].item()
                sums[stage] += value if number < self.held_out else 0.0
        total = self.accelerator.reduce(sums.float().to(self.accelerator.device), reduction="sum")
        means = (total / self.held_out).tolist()  # pyright: ignore[reportOperatorIssue, reportAttributeAccessIssue]
        named = {f"validation/{stage_name(index, len(means))}": value for index, value in enumerate(means)}
        return {"validation": sum(means) / len(means), **named}

    def samples(self, step: int) -> dict[str, float]:
        """Samples prompts of held-out items, writes them, and says how their latents compare with the items' own."""
        if not self.settings.videos:
            return {}
        items = range(len(self.cache) - self.held_out, len(self.cache))[: self.settings.videos]
        made = [sample(self.recipe, self.cache, item, steps=self.settings.steps, cfg=self.settings.cfg) for item in items]
        data = [self.cache.latent(item, len(self.recipe.stages) - 1)[None] for item in items]
        if self.accelerator.is_main_process:
            for item, latents in zip(items, made, strict=True):
                self._write(f"step-{step:08d}-{item}", latents, self.cache.caption(item))
        return compare(made, data)

    def _write(self, name: str, latents: Tensor, caption: str) -> None:
        folder = self.folder / "samples"
        folder.mkdir(parents=True, exist_ok=True)
        if self.vae is None:
            save_file({"latents": latents.contiguous()}, folder / f"{name}.safetensors", metadata={"caption": caption})
        else:
            save_video(folder / f"{name}.mp4", self.vae.to(self.accelerator.device).decode(latents)[0])


def sample(recipe: Finetuning, cache: Cache, item: int, *, steps: str, cfg: float) -> Tensor:
    """One video for an item's prompt, ``(1, C, T, H, W)`` on the CPU: Euler, evenly in sigma."""
    counts = parse_steps(steps, recipe.spec.number_of_stages)
    spec, counts = without_skipped(recipe.spec, counts)
    skipped = recipe.spec.number_of_stages - spec.number_of_stages
    stages, device = spec.stages(recipe.shape), recipe.accelerator.device
    full = (1, cache.latent(item, 0).shape[0], recipe.shape.frames, recipe.shape.height, recipe.shape.width)
    noises = [part.to(device) for part in noise_pyramid(draws.white(full, SEED, "sample", item), stages)]
    context = torch.stack([cache.text(item), cache.empty]).to(device)

    def velocity(x: Tensor, level: NoiseLevel, stage: Stage) -> Tensor:
        running = recipe.stages[stage.index + skipped]
        if cfg == 1:
            return recipe.velocity(x, level, running, context[:1])
        conditional, empty = recipe.velocity(torch.cat([x, x]), level, running, context).chunk(2)
        return empty + cfg * (conditional - empty)

    def top_up(stage: Stage) -> Tensor:
        shape = (*full[:2], stage.shape.frames, stage.shape.height, stage.shape.width)
        return draws.white(shape, top_up_seed(stage_seed(SEED, stage.index))).to(device)

    runner = solver_stage(velocity, euler, stage_levels(spec, counts))
    return sample_pyramid(runner, noises, stages, top_up=top_up).float().cpu()


def compare(made: Sequence[Tensor], data: Sequence[Tensor]) -> dict[str, float]:
    """Ratios of samples to data, 1 being alike: contrast (deviation), detail (energy that half the size cannot hold), motion
    (mean change from frame to frame)."""
    kinds = {"contrast": _contrast, "detail": _detail, "motion": _motion}
    return {
        f"samples/{name}": sum(map(kind, made)) / max(sum(map(kind, data)), 1e-9)
        for name, kind in kinds.items()
        if name != "motion" or data[0].shape[2] > 1
    }


def _contrast(latents: Tensor) -> float:
    return latents.std().item()


def _detail(latents: Tensor) -> float:
    return missing_band(latents, make_resize("haar", "HW")).square().mean().item()


def _motion(latents: Tensor) -> float:
    return (latents[:, :, 1:] - latents[:, :, :-1]).abs().mean().item()
