"""What both training loops share beside their saved state: a learning rate schedule, and batches drawn ahead of their use."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

T = TypeVar("T")


def warm_up_and_decay(step: int, *, steps: int, warm_up: int, decay_share: float) -> float:
    """Factor of the learning rate: linear warm-up, constant, linear decay to zero over the last `decay_share` of the steps."""
    return min(1.0, (step + 1) / warm_up, max((steps - step) / (decay_share * steps), 0.0))


def drawn_ahead(draw: Callable[[int], T], start: int, stop: int, *, workers: int) -> Iterator[T]:
    """draw(start) ... draw(stop - 1), in order; with workers, made by that many threads while the consumer is busy.

    A batch is a function of its step's number, so threads change when it is made and not what it is. A GPU needs this:
    rendering a batch on one core takes longer than its training step.
    """
    if workers == 0:
        yield from map(draw, range(start, stop))
        return
    with ThreadPoolExecutor(workers) as pool:
        steps, waiting = iter(range(start, stop)), deque()
        try:
            waiting.extend(pool.submit(draw, step) for step in islice(steps, 2 * workers))
            while waiting:
                yield waiting.popleft().result()
                waiting.extend(pool.submit(draw, step) for step in islice(steps, 1))
        finally:
            for task in waiting:
                task.cancel()
