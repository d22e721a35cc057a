"""Charts by matplotlib, without its global state: artists may have other packs that use it."""

from __future__ import annotations

import io

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from .chart import SIZE, Chart, top_of_axis

DPI = 100


def draw_chart(chart: Chart) -> Image.Image:
    figure = Figure(figsize=(SIZE[0] / DPI, SIZE[1] / DPI), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.set(xlim=chart.x_range, ylim=chart.y_range, yscale="log" if chart.log else "linear")
    ticks = [tick for tick in axes.get_yticks() if chart.y_range[0] <= tick <= chart.y_range[1]]
    axes.set_yticks(ticks)
    axes.set_ylim(chart.y_range[0], top_of_axis(chart))
    axes.set_title(chart.title, fontsize=20)
    axes.set_xlabel(chart.x_label, fontsize=17)
    axes.set_ylabel(chart.y_label, fontsize=17)
    axes.tick_params(labelsize=15)
    axes.grid(alpha=0.3)
    for area in chart.areas:
        axes.axvspan(area.start, area.end, color=area.colour, alpha=0.2, linewidth=0, label=area.label or None)
        middle = (area.start + area.end) / 2
        axes.text(middle, 0.98, area.text, transform=axes.get_xaxis_transform(), ha="center", va="top", fontsize=14)
    for line in chart.lines:
        axes.plot(
            line.x,
            line.y,
            color=line.colour,
            label=line.label or None,
            linewidth=2.5,
            marker="o" if line.dots else None,
        )
    if any(entry.label for entry in (*chart.areas, *chart.lines)):
        axes.legend(fontsize=15, loc="lower left")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return Image.open(buffer).convert("RGB")
