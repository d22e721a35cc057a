"""The learning-rate schedule."""

from __future__ import annotations


def learning_rate_factor(step: int, *, steps: int, warm_up: int = 0, decay_share: float = 0.0) -> float:
    """Return the factor of the learning rate: linear warm-up, constant, linear decay to 0.

    Args:
        step: Number of optimiser steps already taken.
        steps: Optimiser steps of the whole run.
        warm_up: Steps over which the factor rises to 1; step 0 already has ``1 / warm_up``.
        decay_share: Last share of all steps over which the factor falls to 0; 0 keeps it at 1.
    """
    rising = (step + 1) / max(1, warm_up)
    decay_steps = decay_share * steps
    falling = max(0.0, (steps - step) / decay_steps) if decay_steps else 1.0
    return min(1.0, rising, falling)
