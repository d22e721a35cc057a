"""Batches for a training step: samples of every stage, read from the cache and drawn from the run's seed."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ...noise_pyramid import derive_seed
from ...untrusted import first_line
from ..engine import draws
from ..engine.errors import StoppedError
from .alignment import aligned
from .cache_files import Cache

Batch = TypeVar("Batch", bound="StageBatch")


@dataclass(frozen=True)
class StageBatch:
    """Samples of one stage.

    Attributes:
        stage: Index of the stage in running order.
        clean: Clean latents, ``(B, C, T, H, W)``; no elements if the cache holds prompts only.
        coarse: The same videos at the size of the next coarser stage; None at the coarsest stage, and where all stages
            have full size.
        noise: White noise at the stage's size.
        rho: Local time in the stage, ``(B,)``.
        context: Text embeddings, ``(B, L, text width)``.
        empty: Embedding of the empty prompt, ``(L, text width)``.
    """

    stage: int
    clean: Tensor
    coarse: Tensor | None
    noise: Tensor
    rho: Tensor
    context: Tensor
    empty: Tensor

    def to(self: Batch, device: torch.device) -> Batch:
        """Return the batch with all tensors on ``device``."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        moved = {name: value.to(device, non_blocking=True) for name, value in values.items() if isinstance(value, Tensor)}
        return dataclasses.replace(self, **moved)


@dataclass(frozen=True)
class DistillBatch(StageBatch):
    """Samples of one stage, with the draws that only distillation needs.

    Attributes:
        second_noise: More white noise at the stage's size, to noise a student's predictions.
        second_rho: Its local times, ``(B,)``.
        level_pick: Uniform numbers in [0, 1) that select one of a student's steps, ``(B,)``.
        seeds: One seed per sample, for the noise that is added between a student's steps.
    """

    second_noise: Tensor
    second_rho: Tensor
    level_pick: Tensor
    seeds: tuple[int, ...]


@dataclass(frozen=True)
class Plan:
    """The samples that one process reads in each step.

    Attributes:
        seed: Seed of every random choice.
        per_stage: Samples of each stage in one forward pass of one process.
        accumulation: Forward passes per optimiser step.
        first: First item of the cache to use.
        last: End of the range of items, exclusive.
        drop: Share of samples whose prompt is replaced by the empty one.
        process: Rank of this process.
        processes: Number of processes.
        draw_twice: Whether to make each batch a ``DistillBatch``.
        align_noise: Whether to assign the noise of a batch to its clips by ``aligned``.
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
    align_noise: bool = False

    @property
    def step_samples(self) -> int:
        """Return the number of samples of one stage in an optimiser step, over all processes."""
        return self.per_stage * self.accumulation * self.processes

    def sample_numbers(self, step: int, part: int) -> range:
        """Return the numbers of this process's samples in forward pass ``part`` of a step; they are the same for every stage.

        Samples are numbered through the whole run and over all processes.
        """
        start = ((step * self.accumulation + part) * self.processes + self.process) * self.per_stage
        return range(start, start + self.per_stage)


class StepDataset(Dataset[list[list[StageBatch]]]):
    """Steps by index: each is a list of forward passes, each of which is a list of one ``StageBatch`` per stage."""

    def __init__(self, cache: Cache, plan: Plan) -> None:
        """Read the items of ``cache`` as ``plan`` says."""
        self.cache, self.plan = cache, plan

    def __getitem__(self, step: int) -> list[list[StageBatch]]:
        """Return the batches of a step, stages in running order."""
        stages = range(self.cache.stages)
        return [
            [draw_batch(self.cache, self.plan, stage, self.plan.sample_numbers(step, part)) for stage in stages]
            for part in range(self.plan.accumulation)
        ]


def draw_batch(cache: Cache, plan: Plan, stage: int, numbers: range) -> StageBatch:
    """Draw the samples with these numbers at one stage.

    Every pass over the items is a new permutation. All values are functions of the seed, the stage and the sample's number, so
    neither the number of processes nor an interruption changes them. With alignment, the samples that are drawn together do.

    Args:
        cache: The items.
        plan: The run; with ``draw_twice`` the result is a ``DistillBatch``.
        stage: Index of the stage in running order.
        numbers: Numbers of the samples, as ``Plan.sample_numbers`` returns them.
    """
    items = [plan.first + draws.shuffled(number, plan.last - plan.first, plan.seed, "item", stage) for number in numbers]
    clean = torch.stack([cache.latent(item, stage) for item in items]) if cache.has_videos else torch.empty(0)
    has_coarse = bool(stage) and cache.has_videos and not cache.all_full_size
    noise, rho = _noise_and_rho(cache.size(stage), plan, stage, numbers, "")
    if plan.align_noise:
        noise = aligned(noise, clean)
    dropped = [draws.uniform(plan.seed, "drop", stage, number) < plan.drop for number in numbers]
    context = [cache.empty if drop else cache.text(item) for item, drop in zip(items, dropped, strict=True)]
    batch = StageBatch(
        stage=stage,
        clean=clean,
        coarse=torch.stack([cache.latent(item, stage - 1) for item in items]) if has_coarse else None,
        noise=noise,
        rho=rho,
        context=torch.stack(context),
        empty=cache.empty,
    )
    return _distill_batch(batch, cache, plan, numbers) if plan.draw_twice else batch


def _distill_batch(batch: StageBatch, cache: Cache, plan: Plan, numbers: range) -> DistillBatch:
    second_noise, second_rho = _noise_and_rho(cache.size(batch.stage), plan, batch.stage, numbers, "again ")
    return DistillBatch(
        **vars(batch),
        second_noise=second_noise,
        second_rho=second_rho,
        level_pick=_stratified(plan, batch.stage, numbers, "pick"),
        seeds=tuple(derive_seed(plan.seed, "run", batch.stage, number) for number in numbers),
    )


def _noise_and_rho(
    size: tuple[int, int, int, int], plan: Plan, stage: int, numbers: range, prefix: str
) -> tuple[Tensor, Tensor]:
    noise = [draws.white(size, plan.seed, f"{prefix}noise", stage, number) for number in numbers]
    return torch.stack(noise), _stratified(plan, stage, numbers, f"{prefix}rho")


def _stratified(plan: Plan, stage: int, numbers: range, name: str) -> Tensor:
    values = [draws.stratified(number, plan.step_samples, plan.seed, name, stage) for number in numbers]
    return torch.tensor(values, dtype=torch.float32)


def steps_from(
    dataset: Dataset[list[list[StageBatch]]], start: int, stop: int, *, workers: int
) -> Iterator[list[list[StageBatch]]]:
    """Iterate over the steps ``start`` ... ``stop - 1``, read ahead by ``workers`` processes (0: in this one).

    Raises:
        ValueError: The cache is damaged.
        StoppedError: One of the processes ended.
    """
    try:
        yield from DataLoader(dataset, batch_size=None, sampler=range(start, stop), num_workers=workers)
    except ValueError as error:  # of a worker: with the traceback as its message
        raise ValueError(str(error).rsplit("ValueError: ", 1)[-1].strip()) from None
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise StoppedError(f"{first_line(error)}; the same command resumes, and data.workers 0 needs less memory") from None
