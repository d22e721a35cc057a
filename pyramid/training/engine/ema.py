"""The exponential moving average of a network's weights."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


class ExponentialMovingAverage:
    """An average of named weights, with a warm-up in which early weights are forgotten.

    Attributes:
        values: The averages by name; they start as copies of the weights. The tensors stay the same objects, so a
            checkpoint can be loaded into them in place.
    """

    def __init__(self, weights: Mapping[str, Tensor], *, decay: float) -> None:
        """Start with copies of ``weights``, such as ``dict(module.named_parameters())``, which every update reads again."""
        self.decay = decay
        self.values = {name: weight.detach().clone() for name, weight in weights.items()}
        self._weights = dict(weights)

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Move the averages towards the weights as they are after optimiser step number ``step``, counted from 0."""
        current = [self._weights[name].detach() for name in self.values]
        if current:
            torch._foreach_lerp_(list(self.values.values()), current, 1 - decay_at(step, self.decay))  # pyright: ignore

    @torch.no_grad()
    def load(self, values: Mapping[str, Tensor]) -> None:
        """Copy saved averages into ``values``."""
        for name, value in values.items():
            self.values[name].copy_(value)


def decay_at(step: int, decay: float) -> float:
    """Return the decay of update number ``step``: ``(1 + step) / (10 + step)``, until that exceeds ``decay``."""
    return min(decay, (1 + step) / (10 + step))
