"""A chart as data, and the choice of what draws it."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image

SIZE = (1000, 600)
"""Pixels. The front end shows it at about half of that, so labels are large."""

HEADROOM = 0.09
"""Share of the chart's height above ``y_range``."""

COLOURS = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377")
"""Told apart by colour-blind readers (Paul Tol's bright scheme)."""


@dataclass(frozen=True)
class Line:
    """Points joined by straight segments. label: in the legend, empty for none."""

    x: Sequence[float]
    y: Sequence[float]
    colour: str
    label: str = ""
    dots: bool = False


@dataclass(frozen=True)
class Area:
    """A shaded stretch of the x axis. text: a word at its top. label: in the legend, empty for none."""

    start: float
    end: float
    colour: str
    text: str
    label: str = ""


@dataclass(frozen=True)
class Chart:
    """y runs linearly from ``y_range[0]`` to ``y_range[1]``, or logarithmically; above it is room for the areas' words."""

    title: str
    x_label: str
    y_label: str
    x_range: tuple[float, float]
    y_range: tuple[float, float]
    lines: Sequence[Line] = ()
    areas: Sequence[Area] = ()
    log: bool = False


def top_of_axis(chart: Chart) -> float:
    """The value at the upper edge, above ``y_range`` by the headroom."""
    low, high = chart.y_range
    if chart.log:
        return high * (high / low) ** (HEADROOM / (1 - HEADROOM))
    return high + (high - low) * HEADROOM / (1 - HEADROOM)


def draw(chart: Chart) -> Image.Image:
    """An RGB picture of ``SIZE``."""
    if importlib.util.find_spec("matplotlib") is not None:
        from .with_matplotlib import draw_chart
    else:
        from .with_pillow import draw_chart
    return draw_chart(chart)
