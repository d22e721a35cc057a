"""Sums of losses over stages, and their means for the log."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from ...stage_names import stage_name
from ..data.batches import Batch

WeightedLosses = Mapping[str, tuple[float, Tensor]]
"""Weight and value of each loss by name."""


class LossLog:
    """Collects the values of all losses of an iteration under ``<loss>/<stage>``."""

    def __init__(self, stages: int) -> None:
        """Start empty, for a pyramid with this number of stages."""
        self.stages = stages
        self.values: dict[str, list[Tensor]] = {}
        self.totals: list[Tensor] = []

    def add(self, name: str, stage: int, value: Tensor) -> None:
        """Record the value of a loss at a stage, given by its index in running order."""
        self.values.setdefault(f"{name}/{stage_name(stage, self.stages)}", []).append(value.detach())

    def means(self) -> dict[str, float]:
        """Return the mean of each loss at each stage."""
        return {name: float(torch.stack(values).mean()) for name, values in self.values.items()}

    def mean_total(self) -> float:
        """Return the mean over the batches of their weighted sums."""
        return float(torch.stack(self.totals).mean())

    def mean_over_stages(self, loss: str) -> float:
        """Return the mean of one loss over the stages."""
        values = [value for name, value in self.means().items() if name.startswith(f"{loss}/")]
        return sum(values) / len(values)


def each_batch(
    batches: Sequence[Batch], losses: Callable[[Batch], WeightedLosses], log: LossLog
) -> Iterator[Callable[[], Tensor]]:
    """Yield a function per batch that returns its weighted sum of losses over the number of batches, for ``Trainable.update``.

    Args:
        batches: Samples of one stage each.
        losses: Returns the losses of a batch.
        log: Records them.
    """

    def weighted_sum(batch: Batch) -> Tensor:
        total = torch.zeros((), device=batch.noise.device)
        for name, (weight, value) in losses(batch).items():
            log.add(name, batch.stage, value)
            total = total + weight * value
        log.totals.append(total.detach())
        return total / len(batches)

    for batch in batches:
        yield lambda batch=batch: weighted_sum(batch)
