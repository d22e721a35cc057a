"""A chart as data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

COLOURS = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377")
"""Colours that colour-blind readers can distinguish (Paul Tol's bright scheme)."""


@dataclass(frozen=True)
class Line:
    """Points joined by straight segments.

    Attributes:
        x: Positions on the x axis.
        y: Values at these positions.
        colour: Colour, "#rrggbb".
        label: Text in the legend; empty for none.
        dots: Whether the points are marked.
    """

    x: Sequence[float]
    y: Sequence[float]
    colour: str
    label: str = ""
    dots: bool = False


@dataclass(frozen=True)
class Area:
    """A shaded range of the x axis.

    Attributes:
        start: Left edge.
        end: Right edge.
        colour: Colour, "#rrggbb".
        text: Short text at the top of the area.
        label: Text in the legend; empty for none.
    """

    start: float
    end: float
    colour: str
    text: str
    label: str = ""


@dataclass(frozen=True)
class Chart:
    """Lines and areas on two axes.

    Attributes:
        title: Title above the chart.
        x_label: Label of the x axis.
        y_label: Label of the y axis.
        x_range: Ends of the x axis.
        y_range: Ends of the y axis; the chart adds space above for the texts of the areas.
        lines: Lines.
        areas: Areas, behind the lines.
        log: Whether the y axis is logarithmic.
    """

    title: str
    x_label: str
    y_label: str
    x_range: tuple[float, float]
    y_range: tuple[float, float]
    lines: Sequence[Line] = ()
    areas: Sequence[Area] = ()
    log: bool = False
