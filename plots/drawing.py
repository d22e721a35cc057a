"""Draw charts with Pillow."""

from __future__ import annotations

import math
from collections.abc import Iterator

from PIL import Image, ImageColor, ImageDraw, ImageFont

from .chart import Chart, Line

SIZE = (1000, 600)
"""Width and height in pixels. The front end shows charts at about half this size, so labels are large."""

LEFT, TOP, RIGHT, BOTTOM = 110, 60, 980, 510
"""Edges of the axes in pixels."""

HEADROOM = 0.09
"""Share of the height of the axes above ``y_range``, for the texts of the areas."""

INK, FAINT = "#222222", "#dddddd"


def draw(chart: Chart) -> Image.Image:
    """Return an RGB picture of ``SIZE``."""
    image = Image.new("RGB", SIZE, "white")
    pen = ImageDraw.Draw(image)
    for area in chart.areas:
        box = (_x(chart, area.start), TOP, _x(chart, area.end), BOTTOM)
        pen.rectangle(box, fill=_mixed(area.colour, 0.2))
    for value in _ticks(chart.x_range, log=False):
        pen.line((_x(chart, value), TOP, _x(chart, value), BOTTOM), fill=FAINT)
        pen.text((_x(chart, value), BOTTOM + 8), _number(value), INK, _font(20), anchor="ma")
    for value in _ticks(chart.y_range, log=chart.log):
        pen.line((LEFT, _y(chart, value), RIGHT, _y(chart, value)), fill=FAINT)
        pen.text((LEFT - 8, _y(chart, value)), _number(value), INK, _font(20), anchor="rm")
    pen.rectangle((LEFT, TOP, RIGHT, BOTTOM), outline=INK)
    for area in chart.areas:
        middle = (_x(chart, area.start) + _x(chart, area.end)) / 2
        pen.text((middle, TOP + 8), area.text, INK, _font(20), anchor="ma")
    for line in chart.lines:
        _draw_line(pen, chart, line)
    _draw_labels(image, pen, chart)
    _draw_legend(pen, chart)
    return image


def top_of_axis(chart: Chart) -> float:
    """Return the value at the upper edge of the axes, above ``y_range`` by the headroom."""
    low, high = chart.y_range
    if chart.log:
        return high * (high / low) ** (HEADROOM / (1 - HEADROOM))
    return high + (high - low) * HEADROOM / (1 - HEADROOM)


def _draw_line(pen: ImageDraw.ImageDraw, chart: Chart, line: Line) -> None:
    points = [(_x(chart, x), _y(chart, y)) for x, y in zip(line.x, line.y, strict=True)]
    pen.line(points, fill=line.colour, width=4, joint="curve")
    if line.dots:
        for x, y in points:
            pen.ellipse((x - 6, y - 6, x + 6, y + 6), fill=line.colour)


def _draw_labels(image: Image.Image, pen: ImageDraw.ImageDraw, chart: Chart) -> None:
    pen.text(((LEFT + RIGHT) / 2, 12), chart.title, INK, _font(28), anchor="ma")
    pen.text(((LEFT + RIGHT) / 2, SIZE[1] - 14), chart.x_label, INK, _font(24), anchor="md")
    label = Image.new("L", (BOTTOM - TOP, 34))
    ImageDraw.Draw(label).text(((BOTTOM - TOP) / 2, 17), chart.y_label, 255, _font(24), anchor="mm")
    image.paste(INK, (6, TOP), label.rotate(90, expand=True))


def _draw_legend(pen: ImageDraw.ImageDraw, chart: Chart) -> None:
    """Draw the legend in the lower left corner, from the bottom up."""
    entries = [entry for entry in (*chart.areas, *chart.lines) if entry.label]
    for row, entry in enumerate(reversed(entries)):
        y = BOTTOM - 24 - 30 * row
        if isinstance(entry, Line):
            pen.line((LEFT + 16, y, LEFT + 56, y), fill=entry.colour, width=5)
        else:
            pen.rectangle((LEFT + 16, y - 10, LEFT + 56, y + 10), fill=_mixed(entry.colour, 0.5))
        pen.text((LEFT + 66, y), entry.label, INK, _font(21), anchor="lm")


def _x(chart: Chart, value: float) -> float:
    """Return the pixel column of a value on the x axis."""
    low, high = chart.x_range
    return LEFT + (value - low) / (high - low) * (RIGHT - LEFT)


def _y(chart: Chart, value: float) -> float:
    """Return the pixel row of a value on the y axis, clipped to the axes."""
    ends = chart.y_range[0], top_of_axis(chart)
    low, high, value = (math.log(max(v, 1e-300)) if chart.log else v for v in (*ends, value))
    return BOTTOM - min(1.0, max(0.0, (value - low) / (high - low))) * (BOTTOM - TOP)


def _ticks(ends: tuple[float, float], *, log: bool) -> Iterator[float]:
    """Yield round values on an axis: powers of ten, or about six steps of 1, 2 or 5 times a power of ten."""
    low, high = ends
    if log:
        yield from (10.0**power for power in range(math.ceil(math.log10(low)), math.floor(math.log10(high)) + 1))
        return
    rough = (high - low) / 6
    size = 10 ** math.floor(math.log10(rough))
    step = size * next(factor for factor in (1, 2, 5, 10) if factor * size >= rough)
    value = math.ceil(low / step) * step
    while value <= high + 1e-9 * step:
        yield value
        value += step


def _number(value: float) -> str:
    return "0" if abs(value) < 1e-9 else f"{value:.6g}" if 1e-3 <= abs(value) < 1e5 else f"{value:.0e}"


def _mixed(colour: str, share: float) -> tuple[int, ...]:
    """Return a colour mixed with white."""
    return tuple(round(255 + share * (part - 255)) for part in ImageColor.getrgb(colour)[:3])


def _font(size: int) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    return ImageFont.load_default(size)
