"""What a training step is fed with: samples of every stage, read from the cache and drawn from the run's seed."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ...noise_pyramid import derive_seed
from ..engine import draws
from .cache_files import Cache


@dataclass(frozen=True)
class StageBatch:
    """Samples of one stage.

    stage: its place in running order. clean ``(B, C, T, H, W)``, without elements where the cache holds prompts alone.
    coarse: the same videos at the coarser stage's size, None at the coarsest. noise: white, at the stage's size. rho ``(B,)``:
    local time. context ``(B, L, text width)``. empty: the empty prompt, ``(L, text width)``. again: a second draw of
    everything random, for noising a student's own predictions; only where the plan asks for it. pick ``(B,)``: in [0, 1),
    which of a student's steps. seeds: of each sample, for the noise that a student's own run adds on its way.
    """

    stage: int
    clean: Tensor
    coarse: Tensor | None
    noise: Tensor
    rho: Tensor
    context: Tensor
    empty: Tensor
    second_draw: tuple[Tensor, Tensor] | None = None
    level_pick: Tensor | None = None
    seeds: tuple[int, ...] = ()

    def to(self, device: torch.device) -> StageBatch:
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        moved = {name: value.to(device, non_blocking=True) for name, value in values.items() if isinstance(value, Tensor)}
        noise_and_rho = None if self.second_draw is None else (self.second_draw[0].to(device), self.second_draw[1].to(device))
        return dataclasses.replace(self, **moved, second_draw=noise_and_rho)


@dataclass(frozen=True)
class Plan:
    """Which samples a process reads in a step.

    per_stage: samples of each stage in one forward pass. accumulation: forward passes per optimiser step. first, last:
    range of the cache's items. drop: share of samples with the empty prompt. twice: whether samples get a second draw.
    """

    seed: int
    per_stage: int
    accumulation: int
    first: int
    last: int
    drop: float = 0.1
    process: int = 0
    processes: int = 1
    draw_twice: bool = False

    @property
    def step_samples(self) -> int:
        """Samples of one stage in an optimiser step, over all processes."""
        return self.per_stage * self.accumulation * self.processes

    def numbers(self, step: int, part: int) -> range:
        """Numbers of the samples of this process in part ``part`` of a step, the same for every stage."""
        start = ((step * self.accumulation + part) * self.processes + self.process) * self.per_stage
        return range(start, start + self.per_stage)


class StepDataset(Dataset):
    """Item ``step`` is that step's parts, each a list with one ``StageBatch`` per stage in running order."""

    def __init__(self, cache: Cache, plan: Plan) -> None:
        self.cache, self.plan = cache, plan

    def __getitem__(self, step: int) -> list[list[StageBatch]]:
        stages = range(self.cache.stages)
        return [
            [draw_batch(self.cache, self.plan, stage, self.plan.numbers(step, part)) for stage in stages]
            for part in range(self.plan.accumulation)
        ]


def draw_batch(cache: Cache, plan: Plan, stage: int, numbers: range) -> StageBatch:
    """The samples with these numbers at one stage: items in shuffled passes, everything else from the seed."""
    items = [plan.first + draws.shuffled(number, plan.last - plan.first, plan.seed, "item", stage) for number in numbers]
    clean = torch.stack([cache.latent(item, stage) for item in items]) if cache.has_videos else torch.empty(0)
    noise, rho = _noise_and_rho(cache.size(stage), plan, stage, numbers, "")
    dropped = [draws.uniform(plan.seed, "drop", stage, number) < plan.drop for number in numbers]
    context = [cache.empty if drop else cache.text(item) for item, drop in zip(items, dropped, strict=True)]
    return StageBatch(
        stage=stage,
        clean=clean,
        coarse=torch.stack([cache.latent(item, stage - 1) for item in items]) if stage and cache.has_videos else None,
        noise=noise,
        rho=rho,
        context=torch.stack(context),
        empty=cache.empty,
        second_draw=_noise_and_rho(cache.size(stage), plan, stage, numbers, "again ") if plan.draw_twice else None,
        level_pick=_stratified(plan, stage, numbers, "pick") if plan.draw_twice else None,
        seeds=tuple(derive_seed(plan.seed, "run", stage, number) for number in numbers) if plan.draw_twice else (),
    )


def _noise_and_rho(
    size: tuple[int, int, int, int], plan: Plan, stage: int, numbers: range, which: str
) -> tuple[Tensor, Tensor]:
    noise = [draws.white(size, plan.seed, f"{which}noise", stage, number) for number in numbers]
    return torch.stack(noise), _stratified(plan, stage, numbers, f"{which}rho")


def _stratified(plan: Plan, stage: int, numbers: range, name: str) -> Tensor:
    values = [draws.stratified(number, plan.step_samples, plan.seed, name, stage) for number in numbers]
    return torch.tensor(values, dtype=torch.float32)


def steps_from(dataset: Dataset, start: int, stop: int, *, workers: int) -> Iterator[list[list[StageBatch]]]:
    """The dataset's items ``start`` ... ``stop - 1``, read ahead by ``workers`` processes."""
    return iter(DataLoader(dataset, batch_size=None, sampler=range(start, stop), num_workers=workers))
