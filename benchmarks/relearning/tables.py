"""The table and the plot of docs/benchmarks.md."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence

from tiny_wan.world.grammar import ATTRIBUTES

from .arms import ARMS, METHODS, POINTS, RATES, SEEDS, Arm

Results = Mapping[str, Mapping[int, Sequence[Sequence[int]]]]
"""Results by name of the arm, and by point."""

COLOURS = {"plain": "#666666", "tpdiff": "#1f77b4", "pyramidal-wan": "#d95f02"}
WIDTH, HEIGHT, LEFT, BOTTOM, TOP = 640, 360, 56, 48, 24


def accuracies(results: Results, method: str, aligned: bool, rate: float, point: int, attribute: str = "colour") -> list[float]:
    """Return the percentage of clips with the right attribute, one for every seed that was measured."""
    values = []
    for seed in SEEDS:
        rows = results.get(Arm(method, aligned, rate, seed).name, {}).get(point)
        if rows:
            values.append(100 * statistics.fmean(row[ATTRIBUTES.index(attribute)] for row in rows))
    return values


def cell(values: Sequence[float]) -> str:
    """Return the mean, and the range if there are several seeds."""
    if not values:
        return "not run"
    mean = f"{statistics.fmean(values):.0f}"
    return mean if len(values) == 1 else f"{mean} ({min(values):.0f}-{max(values):.0f})"


def lines(results: Results) -> Iterator[str]:
    """Yield the lines of the tables."""
    measured = sum(len(points) for points in results.values())
    yield f"{measured} of {len(ARMS) * len(POINTS)} points are measured. The columns are shares of the training operations."
    for rate in RATES:
        yield ""
        yield f"Learning rate {rate:g}: percentage of colours right, mean over the seeds (smallest and largest)."
        yield ""
        shares = " | ".join(f"{point / POINTS[-1]:.0%}" for point in POINTS)
        yield f"| method | noise | seeds | optimiser steps | {shares} |"
        yield "|---" * (4 + len(POINTS)) + "|"
        for method, described in METHODS.items():
            for aligned in (False, True):
                columns = [accuracies(results, method, aligned, rate, point) for point in POINTS]
                steps = Arm(method, aligned, rate, SEEDS[0]).steps_at(POINTS[-1])
                cells = " | ".join(map(cell, columns))
                noise = "aligned" if aligned else "independent"
                yield f"| {described.label} | {noise} | {max(map(len, columns))} | {steps} | {cells} |"


def plot(results: Results, rate: float) -> str:
    """Return an SVG of the accuracy against the operations; dashed lines are of aligned noise."""
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        *_axes(),
        f'<text x="{LEFT + 12}" y="{TOP + 16 + 16 * len(METHODS)}" fill="#999999">dashed: aligned noise</text>',
    ]
    for number, method in enumerate(METHODS):
        parts.append(f'<text x="{LEFT + 12}" y="{TOP + 16 + 16 * number}" fill="{COLOURS[method]}">{method}</text>')
        for aligned in (False, True):
            values = [(point, accuracies(results, method, aligned, rate, point)) for point in POINTS]
            path = " ".join("{:.1f},{:.1f}".format(*_place(point, statistics.fmean(part))) for point, part in values if part)
            dashes = ' stroke-dasharray="6 4"' if aligned else ""
            if path:
                parts.append(f'<polyline points="{path}" fill="none" stroke="{COLOURS[method]}" stroke-width="2"{dashes}/>')
    return "\n".join([*parts, "</svg>", ""])


def _place(point: float, percent: float) -> tuple[float, float]:
    """Return the coordinates of a value."""
    x = LEFT + point / POINTS[-1] * (WIDTH - LEFT - 20)
    return x, HEIGHT - BOTTOM - percent / 100 * (HEIGHT - BOTTOM - TOP)


def _axes() -> Iterator[str]:
    for percent in (0, 25, 50, 75, 100):
        x, y = _place(0, percent)
        yield f'<line x1="{x}" y1="{y}" x2="{WIDTH - 20}" y2="{y}" stroke="#dddddd"/>'
        yield f'<text x="{x - 8}" y="{y + 4}" text-anchor="end">{percent} %</text>'
    for point in (0, *POINTS):
        x, y = _place(point, 0)
        yield f'<text x="{x}" y="{y + 18}" text-anchor="middle">{point}</text>'
    yield (
        f'<text x="{(LEFT + WIDTH) / 2}" y="{HEIGHT - 10}" text-anchor="middle">'
        "training operations, in optimiser steps at full size</text>"
    )
