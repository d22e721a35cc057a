"""The table of continuous statistics of the dead leaves."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch

from tiny_wan.leaves.scenes import CAMERA
from tiny_wan.world.metrics import Interval
from tiny_wan.world.octaves import OCTAVES, patch_distances

from .published import NOT_RUN, NOTHING, Published
from .results import Results, captions
from .rows import Row

RESAMPLES = 200
RENDERED = "rendered clips, not decoded"


def statistics_table(
    rows: Sequence[Row], results_by_row: Mapping[str, Results], data: Results, rendered: Results, published: Published = NOTHING
) -> Iterator[str]:
    """Yield the lines of the energies, patches and camera movements.

    Args:
        rows: The rows; the first is the one with which the others are compared.
        results_by_row: Measurements by name of the row.
        data: The reference, rendered clips that were decoded.
        rendered: The same clips before that.
        published: The section so far, which has the lines of rows that were measured earlier.
    """
    columns = [f"energy, octave {octave + 1}" for octave in range(OCTAVES)] + ["patches", "camera"]
    heading = "| row | steps | " + " | ".join(columns) + " |"
    yield heading
    yield "|---" * (2 + len(columns)) + "|"
    yield f"| {RENDERED} | | " + " | ".join(_cells(rendered, data, None)) + " |"
    first = results_by_row[rows[0].name]
    for row in rows:
        results = results_by_row.get(row.name)
        start = f"| {row.label} | {row.steps} | "
        if results is None:
            yield published.line(heading, start) or start + " | ".join([NOT_RUN] * len(columns)) + " |"
        else:
            yield start + " | ".join(_cells(results, data, None if row is rows[0] else first)) + " |"


def reading_line(data: Results) -> str:
    """Return how well the attributes are read from the reference, which bounds what a row can have."""
    shares = zip(data.world.vocabulary, 100 * data["right"].mean(axis=0), strict=True)
    return "Read from the reference: " + ", ".join(f"{name} {share:.1f}" for name, share in shares) + "."


def _cells(results: Results, data: Results, first: Results | None) -> list[str]:
    energies = results["octaves"].mean(axis=0) / data["octaves"].mean(axis=0)
    patches = f"{patch_distance(results['patches'], data['patches']):.3f}"
    if first is not None:
        interval = distance_interval(results["patches"], first["patches"], data["patches"])
        patches += f" ({interval.low:+.3f} to {interval.high:+.3f})"
    return [*(f"{energy:.2f}" for energy in energies), patches, f"{along_prompt(results) / along_prompt(data):.2f}"]


def patch_distance(moments: np.ndarray, reference: np.ndarray) -> float:
    """Return the Fréchet distance of patches, the mean over octaves, from the moments of clips (n, 4, 152)."""
    sample, data = (torch.from_numpy(values.mean(axis=0)) for values in (moments, reference))
    return patch_distances(sample, data).mean().item()


def distance_interval(moments: np.ndarray, first: np.ndarray, reference: np.ndarray, *, seed: int = 0) -> Interval:
    """Return the difference of two distances with its 95 % bootstrap interval; clips of the same prompt and seed are paired."""

    def difference(rows: np.ndarray | slice) -> float:
        return patch_distance(moments[rows], reference[rows]) - patch_distance(first[rows], reference[rows])

    rng, count = np.random.default_rng(seed), len(moments)
    low, high = np.quantile([difference(rng.integers(0, count, count)) for _ in range(RESAMPLES)], [0.025, 0.975])
    return Interval(difference(slice(None)), low.item(), high.item())


def along_prompt(results: Results) -> float:
    """Return the mean movement of the camera along its direction in the prompt, over the prompts with movement."""
    directions = np.array([CAMERA[caption.motion] for caption in captions(len(results), results.world)])
    moving = np.abs(directions).sum(axis=1) > 0
    return (results["camera"] * directions).sum(axis=1)[moving].mean().item()
