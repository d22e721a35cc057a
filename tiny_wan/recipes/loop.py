"""Training batches that threads draw ahead of their use."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

T = TypeVar("T")


def drawn_ahead(draw: Callable[[int], T], start: int, stop: int, *, workers: int) -> Iterator[T]:
    """Yield draw(start) ... draw(stop - 1) in order, computed by threads while the consumer is busy.

    Threads change when a batch is drawn but not its contents, which are a function of the step. A GPU needs this: rendering a
    batch on one core takes longer than its training step.

    Args:
        draw: Return the batch of a step.
        start: First step.
        stop: One past the last step.
        workers: Number of threads; 0 draws every batch when it is needed.
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
