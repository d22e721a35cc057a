"""A network under training: its optimiser, its learning rate, the average of its weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict
from torch.distributed.tensor import DTensor

from ..config.settings import Optimizer
from .ema import ExponentialMovingAverage
from .errors import NotFiniteError
from .parallel import average_gradients
from .schedules import learning_rate_factor


class Trainable:
    """Everything that one optimiser step of a network needs; only weights that require a gradient are touched.

    Attributes:
        weights: The trained weights by name.
        average: Their exponential moving average; None if ``settings.ema`` is 0.
        done: Number of optimiser steps taken.
    """

    def __init__(self, network: nn.Module, settings: Optimizer, *, steps: int) -> None:
        """Create the optimiser. steps: optimiser steps of the whole run, for the learning-rate schedule."""
        self.network, self.settings, self.steps = network, settings, steps
        self.weights = {name: weight for name, weight in network.named_parameters() if weight.requires_grad}
        self.average = ExponentialMovingAverage(self.weights, decay=settings.ema) if settings.ema else None
        self.optimizer = torch.optim.AdamW(
            self.weights.values(), lr=settings.learning_rate, betas=settings.betas, weight_decay=settings.weight_decay
        )
        self.done = 0

    def update(self, losses: Iterable[Callable[[], Tensor]]) -> float:
        """Take one optimiser step on the sum of the losses.

        Args:
            losses: Functions that compute a loss. Each is called and backpropagated before the next one is called, so that
                only one graph is in memory at a time.

        Returns:
            The norm of the gradient before clipping.

        Raises:
            NotFiniteError: The gradient is infinite or not a number; no step is taken.
        """
        for loss in losses:
            loss().backward()
        average_gradients(self.weights.values())
        norm = _whole(nn.utils.clip_grad_norm_(self.weights.values(), self.settings.clip)).item()
        if norm != norm or norm == float("inf"):
            self.optimizer.zero_grad(set_to_none=True)
            raise NotFiniteError(f"the gradient is not finite in step {self.done + 1}")
        for group in self.optimizer.param_groups:
            group["lr"] = self.settings.learning_rate * self._learning_rate_factor()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.average is not None:
            self.average.update(self.done)
        self.done += 1
        return norm

    def _learning_rate_factor(self) -> float:
        settings = self.settings
        return learning_rate_factor(self.done, steps=self.steps, warm_up=settings.warm_up, decay_share=settings.decay_share)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Use the averaged weights inside the ``with`` block, and restore the trained ones after it."""
        if self.average is None:
            yield
            return
        trained = {name: weight.detach().clone() for name, weight in self.weights.items()}
        try:
            self._assign(self.average.values)
            yield
        finally:
            self._assign(trained)

    @torch.no_grad()
    def _assign(self, values: Mapping[str, Tensor]) -> None:
        for name, value in values.items():
            self.weights[name].copy_(value)

    def state(self) -> dict:
        """Return the tensors that a checkpoint holds; loading into them in place restores weights and averages."""
        return {
            "weights": {name: weight.detach() for name, weight in self.weights.items()},
            "average": {} if self.average is None else dict(self.average.values),
            "optimizer": get_optimizer_state_dict(self.network, self.optimizer),
            "done": torch.tensor(self.done),
        }

    def finite(self) -> dict[str, bool]:
        """Return whether the weights, their averages and the optimiser's moments in this process are finite."""
        moments = [value for state in self.optimizer.state.values() for value in state.values() if isinstance(value, Tensor)]
        groups = {
            "the weights": self.weights.values(),
            "the averaged weights": self.average.values.values() if self.average else (),
            "the optimizer's moments": moments,
        }
        return {name: all(_local(value).isfinite().all().item() for value in values) for name, values in groups.items()}

    def restore(self, state: dict) -> None:
        """Resume from a ``state()`` that a checkpoint was loaded into."""
        set_optimizer_state_dict(self.network, self.optimizer, state["optimizer"])
        self.done = int(state["done"])


def _local(value: Tensor) -> Tensor:
    return (value.to_local() if isinstance(value, DTensor) else value).detach()


def _whole(value: Tensor) -> Tensor:
    return value.full_tensor() if isinstance(value, DTensor) else value
