"""The cost of a schedule, as text and as a chart."""

from __future__ import annotations

from collections.abc import Sequence

from ..pyramid.flops import StageCost
from .chart import COLOURS, Area, Chart, Line


def cost_text(costs: Sequence[StageCost], plain_tflops: float, labels: Sequence[str], times: Sequence[str] = ()) -> str:
    """Return the total relative to 50 steps at full size, and one line per stage: "low 416x240 · 20 steps · 20 %".

    Args:
        costs: Cost of each stage in running order.
        plain_tflops: Cost of 50 steps at full size.
        labels: Name and size of each stage.
        times: Time of each stage and of the run, if they are known.
    """
    total = sum(cost.tflops for cost in costs)
    parts = [[f"total: {total:.4g} TFLOPs, {100 * total / plain_tflops:.3g} % of 50 steps at full size", *times[-1:]]]
    for index, (cost, label) in enumerate(zip(costs, labels, strict=True)):
        if cost.steps:
            steps = f"{cost.steps} step{'s' * (cost.steps > 1)}"
            parts.append([label, steps, f"{100 * cost.tflops / total:.3g} %", *times[index : index + 1]])
    return "\n".join(" · ".join(line) for line in parts)


def cost_chart(
    costs: Sequence[StageCost], levels: Sequence[Sequence[float]], plain_tflops: float, labels: Sequence[str]
) -> Chart:
    """Return a chart of the natural noise level over the steps, with the size and share of the cost of each stage.

    Args:
        costs: Cost of each stage in running order.
        levels: Natural levels of the stages that run.
        plain_tflops: Cost of 50 steps at full size.
        labels: Name and size of each stage.
    """
    running = [cost for cost in costs if cost.steps]
    total = sum(cost.tflops for cost in running)
    steps, areas, done = [], [], 0
    for cost, stage, colour in zip(running, levels, COLOURS * len(running), strict=False):
        share = f"{cost.steps} steps: {100 * cost.tflops / total:.3g} % of the cost"
        areas.append(Area(done, done + cost.steps, colour, labels[cost.index], share))
        steps += [(done + step, level) for step, level in enumerate(stage)]
        done += cost.steps
    line = Line([x for x, _ in steps], [y for _, y in steps], "#222222", dots=done <= 60)
    title = f"{total:.4g} TFLOPs, {100 * total / plain_tflops:.3g} % of 50 full steps"
    return Chart(title, "step", "natural noise level", x_range=(0, done), y_range=(0, 1), lines=[line], areas=areas)
