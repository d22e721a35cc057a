"""The cost of a schedule, as text and as a chart."""

from __future__ import annotations

from collections.abc import Sequence

from ..pyramid.flops import StageCost
from ..pyramid.sizes import video_size
from .chart import COLOURS, Area, Chart, Line


def cost_text(costs: Sequence[StageCost], plain_tflops: float) -> str:
    """Return the total relative to 50 steps at full size, and one line per stage, low to high resolution."""
    lines = []
    for cost in costs:
        size = video_size(cost.shape)
        lines.append(
            f"stage {cost.index}: {size.width}x{size.height} with {size.frames} frames, {cost.tokens} tokens, "
            f"{cost.steps} steps x {cost.forward_tflops:.4g} TFLOPs = {cost.tflops:.4g} TFLOPs"
        )
    total = sum(cost.tflops for cost in costs)
    return "\n".join([f"total: {total:.4g} TFLOPs, {100 * total / plain_tflops:.3g} % of 50 steps at full size", *lines])


def cost_chart(costs: Sequence[StageCost], levels: Sequence[Sequence[float]], plain_tflops: float) -> Chart:
    """Return a chart of the natural noise level over the steps, with the size and share of the cost of each stage.

    Args:
        costs: Cost of each stage in running order.
        levels: Natural levels of the stages that run.
        plain_tflops: Cost of 50 steps at full size.
    """
    running = [cost for cost in costs if cost.steps]
    total = sum(cost.tflops for cost in running)
    steps, areas, done = [], [], 0
    for cost, stage, colour in zip(running, levels, COLOURS * len(running), strict=False):
        size = video_size(cost.shape)
        share = f"{100 * cost.tflops / total:.3g} % of the cost"
        label = f"{size.width}x{size.height}, {size.frames} frames, {cost.steps} steps: {share}"
        areas.append(Area(done, done + cost.steps, colour, f"stage {cost.index}", label))
        steps += [(done + step, level) for step, level in enumerate(stage)]
        done += cost.steps
    line = Line([x for x, _ in steps], [y for _, y in steps], "#222222", dots=done <= 60)
    title = f"{total:.4g} TFLOPs, {100 * total / plain_tflops:.3g} % of 50 full steps"
    return Chart(title, "step", "natural noise level", x_range=(0, done), y_range=(0, 1), lines=[line], areas=areas)
