"""A square picture with smooth edges; places and lengths are shares of its side, and y points down."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageColor, ImageDraw

SIDE = 640
"""Pixels: twice the size at which pictures are shown."""

Point = tuple[float, float]


def wave(time: float, cycles: int = 1, phase: float = 0.0) -> float:
    """Return a sine that is the same at times 0 and 1, which are one cycle of a moving picture."""
    return math.sin(2 * math.pi * (cycles * time + phase))


def mixed(first: str, second: str, share: float) -> str:
    """Return the colour between two; a share of 1 is the second."""
    pairs = zip(ImageColor.getrgb(first)[:3], ImageColor.getrgb(second)[:3], strict=True)
    return "#" + "".join(f"{round(a + (b - a) * share):02x}" for a, b in pairs)


def ellipse(centre: Point, radii: Point, *, turned: float = 0.0, start: float = 0.0, end: float = 1.0) -> list[Point]:
    """Return the points of an ellipse, or of the part between two shares of the whole turn.

    Args:
        centre: Of the ellipse.
        radii: Along both axes.
        turned: Degrees, clockwise.
        start: Share of the turn, clockwise from the right.
        end: The same.
    """
    angle = math.radians(turned)
    points = []
    for step in range(49):
        turn = 2 * math.pi * (start + (end - start) * step / 48)
        x, y = radii[0] * math.cos(turn), radii[1] * math.sin(turn)
        points.append(
            (centre[0] + x * math.cos(angle) - y * math.sin(angle), centre[1] + x * math.sin(angle) + y * math.cos(angle))
        )
    return points


class Canvas:
    """A picture that is drawn from back to front.

    Attributes:
        image: What is drawn so far.
    """

    def __init__(self, *stops: tuple[float, str]):
        """Fill the picture from top to bottom with a gradient through colours at heights."""
        heights = [height for height, _ in stops]
        colours = np.array([ImageColor.getrgb(colour)[:3] for _, colour in stops], dtype=float)
        rows = np.linspace(0, 1, SIDE)
        column = np.stack([np.interp(rows, heights, channel) for channel in colours.T], axis=1)
        self._show(np.broadcast_to(column[:, None], (SIDE, SIDE, 3)))

    def _show(self, pixels: np.ndarray) -> None:
        self.image = _as_image(pixels)
        self._draw = ImageDraw.Draw(self.image, "RGBA")

    def fill(self, points: Sequence[Point], colour: str, *, opacity: float = 1.0) -> None:
        """Fill a polygon."""
        self._draw.polygon([(x * SIDE, y * SIDE) for x, y in points], self._ink(colour, opacity))

    def disc(self, centre: Point, radius: float, colour: str, *, opacity: float = 1.0) -> None:
        """Fill a circle."""
        self.fill(ellipse(centre, (radius, radius)), colour, opacity=opacity)

    def oval(self, centre: Point, radii: Point, colour: str, *, turned: float = 0.0, opacity: float = 1.0) -> None:
        """Fill an ellipse."""
        self.fill(ellipse(centre, radii, turned=turned), colour, opacity=opacity)

    def box(self, left: float, top: float, right: float, bottom: float, colour: str, *, opacity: float = 1.0) -> None:
        """Fill a rectangle."""
        self.fill([(left, top), (right, top), (right, bottom), (left, bottom)], colour, opacity=opacity)

    def line(self, points: Sequence[Point], width: float, colour: str, *, opacity: float = 1.0) -> None:
        """Draw a line with round joints."""
        pixels = [(x * SIDE, y * SIDE) for x, y in points]
        self._draw.line(pixels, self._ink(colour, opacity), max(1, round(width * SIDE)), joint="curve")

    def ridge(self, base: float, height: float, colour: str, *, waves: float = 1.5, shift: float = 0.0) -> None:
        """Draw hills down to the lower edge."""
        across = np.linspace(0, 1, 97)
        tops = base - height * (
            np.sin(2 * np.pi * (waves * across + shift)) + 0.4 * np.sin(2 * np.pi * (2.7 * waves * across + shift))
        )
        self.fill([(0, 1), *zip(across.tolist(), tops.tolist(), strict=True), (1, 1)], colour)

    def glow(self, centre: Point, radius: float, colour: str, *, strength: float = 1.0) -> None:
        """Add light that fades with the distance."""
        (x, y), far = centre, 1.7 * radius
        left, top, right, bottom = (min(SIDE, max(0, round(edge * SIDE))) for edge in (x - far, y - far, x + far, y + far))
        if left == right or top == bottom:
            return
        down, across = np.mgrid[top:bottom, left:right] / SIDE
        light = strength * np.exp(-3 * ((across - x) ** 2 + (down - y) ** 2) / radius**2)[..., None]
        below = np.asarray(self.image.crop((left, top, right, bottom)), dtype=float)
        lit = below + light * (255 - below) * np.array(ImageColor.getrgb(colour)[:3]) / 255
        self.image.paste(_as_image(lit), (left, top))

    def mirror(self, surface: float, *, light: float, ripple: float = 0.0) -> None:
        """Replace what lies below a height by the reflection of what lies above it.

        Args:
            surface: Height of the water.
            light: Share of the light that is reflected.
            ripple: Phase of the waves, in cycles.
        """
        pixels = np.asarray(self.image, dtype=float).copy()
        first = round(surface * SIDE)
        rows = np.arange(SIDE - first)
        wobble = np.rint(3 * np.sin(2 * np.pi * (rows / 14 - ripple)) * rows / SIDE * 4).astype(int)
        for row, sideways in zip(rows, wobble, strict=True):
            pixels[first + row] = light * np.roll(pixels[max(0, first - 1 - row)], sideways, axis=0)
        self._show(pixels)

    @staticmethod
    def _ink(colour: str, opacity: float) -> tuple[int, int, int, int]:
        return *ImageColor.getrgb(colour)[:3], round(255 * opacity)


def _as_image(pixels: np.ndarray) -> Image.Image:
    return Image.fromarray(pixels.round().clip(0, 255).astype(np.uint8))
