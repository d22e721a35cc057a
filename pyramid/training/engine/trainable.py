"""A network under training: its optimiser, its learning rate, the average of its weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict

from ..config.settings import Optimizer
from .parallel import average_gradients


class NotFiniteError(RuntimeError):
    """A gradient is infinite or not a number. Weights and optimiser are as they were before the step."""


class Trainable:
    """Everything that one optimiser step of a network needs; only what requires a gradient is touched."""

    def __init__(self, network: nn.Module, settings: Optimizer, *, steps: int) -> None:
        self.network, self.settings, self.steps = network, settings, steps
        self.weights = {name: weight for name, weight in network.named_parameters() if weight.requires_grad}
        self.average = {name: weight.detach().clone() for name, weight in self.weights.items()} if settings.ema else {}
        self.optimizer = torch.optim.AdamW(
            self.weights.values(), lr=settings.learning_rate, betas=settings.betas, weight_decay=settings.weight_decay
        )
        self.done = 0

    def update(self, losses: Iterable[Callable[[], Tensor]]) -> float:
        """One optimiser step on the sum of the losses, each made and backpropagated before the next one is.

        Returns the norm of the gradient before clipping. Raises ``NotFinite`` instead of stepping on one that is not.
        """
        for loss in losses:
            loss().backward()
        average_gradients(self.weights.values())
        norm = _full(nn.utils.clip_grad_norm_(self.weights.values(), self.settings.clip)).item()
        if norm != norm or norm == float("inf"):
            self.optimizer.zero_grad(set_to_none=True)
            raise NotFiniteError(f"the gradient is not finite in step {self.done + 1}")
        for group in self.optimizer.param_groups:
            group["lr"] = self.settings.learning_rate * rate_factor(self.done, self.steps, self.settings)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self._follow()
        self.done += 1
        return norm

    @torch.no_grad()
    def _follow(self) -> None:
        """Exponential moving average, with a warm-up in which early weights are forgotten."""
        if self.average:
            decay = min(self.settings.ema, (1 + self.done) / (10 + self.done))
            for name, weight in self.weights.items():
                self.average[name].lerp_(weight.detach(), 1 - decay)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Works with the averaged weights; the trained ones come back after it."""
        kept = {name: weight.detach().clone() for name, weight in self.weights.items()} if self.average else {}
        try:
            self._assign(self.average)
            yield
        finally:
            self._assign(kept)

    @torch.no_grad()
    def _assign(self, values: dict[str, Tensor]) -> None:
        for name, value in values.items():
            self.weights[name].copy_(value)

    def state(self) -> dict:
        """Tensors that a checkpoint holds; loading into them in place restores weights and averages."""
        return {
            "weights": {name: weight.detach() for name, weight in self.weights.items()},
            "average": dict(self.average),
            "optimizer": get_optimizer_state_dict(self.network, self.optimizer),
            "done": torch.tensor(self.done),
        }

    def restore(self, state: dict) -> None:
        """After ``state`` was filled from a checkpoint."""
        set_optimizer_state_dict(self.network, self.optimizer, state["optimizer"])
        self.done = int(state["done"])


def rate_factor(step: int, steps: int, settings: Optimizer) -> float:
    """Linear warm-up, constant, and a linear decay to 0 over the last share of the steps."""
    decay = settings.decay_share * steps
    return min(1.0, (step + 1) / max(1, settings.warm_up), (steps - step) / decay if decay else 1.0)


def _full(value: Tensor) -> Tensor:
    return value.full_tensor() if hasattr(value, "full_tensor") else value  # pyright: ignore[reportAttributeAccessIssue]
