"""Scenes with animals. Each returns the picture at a time from 0 to 1, at which it begins again."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from PIL import Image

from .canvas import Canvas, mixed, wave

FUR, DARK_FUR, SNOW = "#d9622b", "#4a2c20", "#f2f6fc"


def fox(time: float) -> Image.Image:
    """Draw a red fox that trots through a snowy birch forest at sunrise."""
    canvas = Canvas((0, "#f3a683"), (0.35, "#fbdcb8"), (0.6, "#e6ecf5"), (1, "#cfdcec"))
    canvas.glow((0.72, 0.36), 0.42, "#fff0c4", strength=0.9)
    canvas.disc((0.72, 0.38), 0.07, "#fff6dd")
    canvas.ridge(0.58, 0.03, "#b4c3da", shift=0.2)
    canvas.ridge(0.64, 0.02, "#d2deee", waves=2, shift=0.6)
    _birches(canvas, time, spacing=0.17, width=0.016, foot=0.67, bark="#d6d3d3")
    canvas.ridge(0.74, 0.012, SNOW, waves=1)
    _birches(canvas, time, spacing=0.37, width=0.045, foot=0.79, bark="#faf7f2")
    _trotting(canvas, time, (0.42, 0.72 + 0.008 * wave(time, 4)))
    rng = np.random.default_rng(1)
    for x, y, size in rng.random((34, 3)):
        canvas.disc((x + 0.02 * wave(time, 1, y), (y + time) % 1), 0.003 + 0.006 * size, "#ffffff", opacity=0.9)
    return canvas.image


def _birches(canvas: Canvas, time: float, *, spacing: float, width: float, foot: float, bark: str) -> None:
    for number in range(-1, math.ceil(1 / spacing) + 2):
        x = (number - time) * spacing + 0.1
        canvas.box(x, 0, x + width, foot, bark)
        canvas.box(x + 0.72 * width, 0, x + width, foot, "#9c9aa8", opacity=0.45)
        for mark in range(8):
            left = x + (0.5 * width if mark % 2 else 0)
            canvas.box(left, 0.05 + 0.085 * mark, left + 0.5 * width, 0.058 + 0.085 * mark, "#4a4048")


def _trotting(canvas: Canvas, time: float, centre: tuple[float, float]) -> None:
    x, y = centre
    canvas.oval((x, 0.815), (0.17, 0.012), "#9fb2cf", opacity=0.5)
    for offset, phase, colour in ((-0.1, 0.5, "#8f3d1c"), (0.09, 0.0, "#8f3d1c"), (-0.07, 0.0, FUR), (0.12, 0.5, FUR)):
        swing = 0.05 * wave(time, 2, phase)
        knee, paw = (
            (x + offset + 0.5 * swing, y + 0.075),
            (x + offset + swing, y + 0.092 - 0.02 * max(0, wave(time, 2, phase + 0.25))),
        )
        canvas.line([(x + offset, y + 0.02), knee], 0.028, colour)
        canvas.line([knee, paw], 0.02, DARK_FUR)
    canvas.oval((x - 0.24, y + 0.01), (0.12, 0.042), FUR, turned=-12 + 5 * wave(time, 2))
    canvas.oval((x - 0.325, y + 0.03), (0.042, 0.028), "#fff4e8", turned=-12 + 5 * wave(time, 2))
    canvas.oval((x, y), (0.17, 0.062), FUR)
    canvas.oval((x + 0.11, y + 0.012), (0.07, 0.05), "#fbe4d2")
    canvas.oval((x + 0.13, y - 0.03), (0.06, 0.055), FUR, turned=-40)
    head = x + 0.19, y - 0.075
    for ear in (-0.04, 0.005):
        canvas.fill(
            [(head[0] + ear - 0.022, head[1] - 0.03), (head[0] + ear, head[1] - 0.105), (head[0] + ear + 0.03, head[1] - 0.03)],
            FUR,
        )
        canvas.fill(
            [
                (head[0] + ear - 0.006, head[1] - 0.04),
                (head[0] + ear + 0.001, head[1] - 0.09),
                (head[0] + ear + 0.014, head[1] - 0.04),
            ],
            DARK_FUR,
        )
    canvas.oval(head, (0.058, 0.046), FUR)
    canvas.fill([(head[0] + 0.02, head[1] - 0.03), (head[0] + 0.125, head[1] + 0.022), (head[0] + 0.02, head[1] + 0.046)], FUR)
    canvas.fill(
        [(head[0] + 0.0, head[1] + 0.03), (head[0] + 0.118, head[1] + 0.024), (head[0] + 0.02, head[1] + 0.048)], "#fff4e8"
    )
    canvas.disc((head[0] + 0.118, head[1] + 0.021), 0.011, DARK_FUR)
    canvas.disc((head[0] + 0.028, head[1] - 0.008), 0.009, DARK_FUR)


def owl(time: float) -> Image.Image:
    """Draw a barn owl that glides over a misty meadow at dawn, towards the camera."""
    canvas = Canvas((0, "#7585bd"), (0.4, "#d9b3bd"), (0.6, "#fbd9a9"), (1, "#fbe8c8"))
    canvas.glow((0.24, 0.55), 0.4, "#fff3cf", strength=0.9)
    canvas.ridge(0.6, 0.03, "#7c82ad", waves=2.2)
    canvas.ridge(0.66, 0.02, "#5f6c8f", waves=3, shift=0.3)
    for number in range(9):
        x = 0.06 + 0.12 * number + 0.02 * math.sin(5 * number)
        canvas.fill([(x - 0.03, 0.66), (x, 0.5 - 0.05 * math.sin(3 * number)), (x + 0.03, 0.66)], "#4d5a7b")
    canvas.ridge(0.74, 0.012, "#5f7a67", waves=1)
    for number, (height, opacity) in enumerate(((0.63, 0.5), (0.7, 0.45), (0.79, 0.35))):
        canvas.oval((0.5 + 0.1 * wave(time, 1, number / 3), height), (0.62, 0.03), "#fff6ea", opacity=opacity)
    _gliding(canvas, time, (0.53 + 0.035 * wave(time), 0.37 + 0.03 * wave(time, 1, 0.25)))
    for number in range(44):
        x, tip = number / 43, 0.02 * wave(time, 1, number / 11)
        canvas.line(
            [(x, 1), (x + tip, 0.86 + 0.05 * math.sin(7 * number))], 0.006, ("#3f5a4b", "#4f6d57", "#87925f")[number % 3]
        )
    return canvas.image


def _gliding(canvas: Canvas, time: float, centre: tuple[float, float]) -> None:
    x, y = centre
    lift = 0.05 * wave(time, 1)
    for side in (-1, 1):
        elbow, tip = (x + side * 0.22, y - 0.08 - lift), (x + side * 0.43, y + 0.0 + 1.6 * lift)
        canvas.fill(
            [(x, y - 0.05), elbow, tip, (x + side * 0.34, y + 0.09 + lift), (x + side * 0.15, y + 0.09), (x, y + 0.08)],
            "#f4e6cc",
        )
        canvas.fill(
            [(x, y - 0.05), elbow, tip, (x + side * 0.36, y + 0.03 + lift), (x + side * 0.18, y + 0.0), (x, y + 0.03)],
            "#c98f4b",
        )
        for feather in range(6):
            share = feather / 5
            root = x + side * (0.2 + 0.16 * share), y - 0.03 + (0.03 + lift) * share
            canvas.line([root, (root[0] + side * 0.04, root[1] + 0.085)], 0.01, "#8a5a2c", opacity=0.8)
    canvas.fill(
        [(x - 0.05, y + 0.1), (x + 0.05, y + 0.1), (x + 0.085, y + 0.24), (x, y + 0.22), (x - 0.085, y + 0.24)], "#d9a765"
    )
    canvas.oval((x, y + 0.06), (0.085, 0.13), "#fbf1df")
    canvas.oval((x, y - 0.055), (0.105, 0.095), "#c98f4b")
    for side in (-1, 1):
        canvas.oval((x + side * 0.04, y - 0.05), (0.055, 0.075), "#fffaf0", turned=side * 14)
        canvas.disc((x + side * 0.042, y - 0.055), 0.019, "#1f1a1a")
        canvas.disc((x + side * 0.042 - 0.006, y - 0.062), 0.005, "#ffffff")
    canvas.fill([(x - 0.011, y - 0.04), (x + 0.011, y - 0.04), (x, y + 0.005)], "#c9875a")


def lawn(time: float) -> Image.Image:
    """Draw a garden with a watering can in the grass: the video in which a region is replaced."""
    canvas = _garden()
    canvas.oval((0.5, 0.8), (0.2, 0.02), "#4f7a35", opacity=0.6)
    canvas.fill([(0.4, 0.56), (0.62, 0.56), (0.65, 0.8), (0.37, 0.8)], "#6f8fa6")
    canvas.fill([(0.56, 0.56), (0.62, 0.56), (0.65, 0.8), (0.58, 0.8)], "#587690")
    canvas.fill([(0.4, 0.74), (0.27, 0.53), (0.3, 0.515), (0.43, 0.66)], "#6f8fa6")
    canvas.fill([(0.235, 0.54), (0.32, 0.485), (0.31, 0.525), (0.265, 0.555)], "#587690")
    canvas.line([(0.61, 0.58), (0.72, 0.6), (0.73, 0.7), (0.64, 0.76)], 0.022, "#587690")
    canvas.line([(0.42, 0.56), (0.46, 0.47), (0.56, 0.47), (0.6, 0.56)], 0.022, "#587690")
    return _with_grass(canvas, time)


def puppy(time: float) -> Image.Image:
    """Draw the same garden with a golden retriever puppy in it, which looks around."""
    canvas, gold, pale, dark = _garden(), "#e3ad5b", "#f6d9a0", "#c98c3c"
    look = 0.025 * wave(time)
    canvas.oval((0.5, 0.81), (0.24, 0.02), "#4f7a35", opacity=0.6)
    canvas.line([(0.63, 0.76), (0.73, 0.72 - 0.02 * wave(time, 3)), (0.79, 0.63 + 0.03 * wave(time, 3))], 0.05, gold)
    canvas.oval((0.51, 0.68), (0.16, 0.15), gold)
    for side in (-1, 1):
        canvas.oval((0.5 + side * 0.13, 0.77), (0.075, 0.05), dark)
        canvas.oval((0.5 + side * 0.055, 0.72), (0.04, 0.1), gold)
        canvas.oval((0.5 + side * 0.06, 0.81), (0.05, 0.026), pale)
    canvas.oval((0.5, 0.63), (0.085, 0.11), pale)
    x, y = 0.5 + look, 0.41
    canvas.oval((x, y), (0.15, 0.135), gold)
    for side in (-1, 1):
        canvas.oval((x + side * 0.145 + 0.3 * look, y + 0.03), (0.05, 0.115), dark, turned=-side * 14)
        canvas.disc((x + side * 0.06 + look, y - 0.015), 0.021, "#33231a")
        canvas.disc((x + side * 0.06 + look - 0.006, y - 0.023), 0.007, "#ffffff")
    canvas.oval((x + 1.4 * look, y + 0.065), (0.075, 0.055), pale)
    canvas.oval((x + 1.5 * look, y + 0.04), (0.028, 0.02), "#33231a")
    canvas.oval((x + 1.4 * look, y + 0.112), (0.02, 0.028 + 0.006 * wave(time, 3)), "#e57f86")
    return _with_grass(canvas, time)


def _garden() -> Canvas:
    canvas = Canvas((0, "#a9d4ee"), (0.45, "#eaf3e0"), (0.5, "#a9c977"), (1, "#5f9440"))
    canvas.glow((0.15, 0.1), 0.5, "#fff6cf", strength=0.8)
    for number in range(7):
        canvas.disc((0.02 + 0.17 * number, 0.42 + 0.02 * math.sin(4 * number)), 0.1, ("#7fae5b", "#6c9d52")[number % 2])
    canvas.box(0, 0.5, 1, 1, "#8dbb5c")
    canvas.ridge(0.68, 0.015, "#79ab4c", waves=1)
    return canvas


def _with_grass(canvas: Canvas, time: float) -> Image.Image:
    for number in range(60):
        x, tip = number / 59, 0.015 * wave(time, 1, number / 13)
        top = 0.83 + 0.04 * math.sin(5 * number)
        canvas.fill([(x - 0.012, 1), (x + tip, top), (x + 0.012, 1)], ("#4c8a36", "#5e9c40", "#3f7a30")[number % 3])
    for x, y, colour in ((0.08, 0.86, "#ffffff"), (0.2, 0.92, "#f5d45a"), (0.83, 0.87, "#ffffff"), (0.93, 0.93, "#f08fb0")):
        canvas.disc((x, y), 0.018, colour)
        canvas.disc((x, y), 0.007, "#f2b632")
    return canvas.image


def starlings(time: float) -> Image.Image:
    """Draw a murmuration of starlings that folds and unfolds over a marsh at dusk."""
    canvas = Canvas((0, "#3c3f7a"), (0.4, "#b8608c"), (0.62, "#f49a6b"), (0.75, "#fbcf8e"))
    canvas.glow((0.68, 0.74), 0.35, "#ffe3a8", strength=0.8)
    canvas.disc((0.68, 0.71), 0.05, "#fff0c9")
    rng = np.random.default_rng(5)
    for angle, distance, size in rng.random((340, 3)):
        turn, far = 2 * math.pi * angle, math.sqrt(distance)
        fold = 1 + 0.45 * math.sin(3 * turn + 2 * math.pi * time) + 0.2 * math.sin(5 * turn - 4 * math.pi * time)
        x = 0.46 + 0.05 * wave(time) + 0.3 * far * fold * math.cos(turn)
        y = 0.34 + 0.15 * far * fold * math.sin(turn) + 0.07 * math.sin(7 * x + 2 * math.pi * time)
        canvas.oval((x, y), (0.006 + 0.003 * size, 0.003), "#241c35", turned=60 * math.sin(9 * x))
    canvas.mirror(0.78, light=0.72, ripple=time)
    for number in range(70):
        x = number / 69 + 0.01 * math.sin(11 * number)
        top = 0.9 - 0.11 * abs(math.sin(2.3 * number)) * (1.2 - abs(x - 0.5))
        canvas.line([(x, 1), (x + 0.012 * wave(time, 1, x), top)], 0.006, "#1f1a33")
    return canvas.image


def hummingbird(time: float) -> Image.Image:
    """Draw a hummingbird that hovers at a red flower."""
    canvas = Canvas((0, "#2f7d5d"), (0.5, "#4fa36c"), (1, "#1f5a4a"))
    rng = np.random.default_rng(3)
    for x, y, size in rng.random((16, 3)):
        canvas.glow((x, y), 0.05 + 0.12 * size, "#d8f2a0", strength=0.35)
    canvas.line([(0.98, 1), (0.86, 0.75), (0.8, 0.55)], 0.016, "#2c6b3b")
    for turned in (-70, -35, 0, 35, 70):
        reach = math.radians(turned + 180)
        canvas.oval((0.8 + 0.1 * math.cos(reach), 0.48 + 0.1 * math.sin(reach)), (0.11, 0.045), "#e0263c", turned=turned)
        canvas.oval((0.8 + 0.07 * math.cos(reach), 0.48 + 0.07 * math.sin(reach)), (0.06, 0.02), "#f2596a", turned=turned)
    canvas.disc((0.8, 0.48), 0.04, "#f7c948")
    x, y = 0.34 + 0.01 * wave(time, 1, 0.2), 0.5 + 0.02 * wave(time, 1)
    beat = wave(time, 6)
    for spread, opacity in ((0, 0.45), (14, 0.3), (-14, 0.3)):
        canvas.oval(
            (x - 0.07, y - 0.17 + 0.03 * beat), (0.2, 0.055), "#e6f7f2", turned=62 + 12 * beat + spread, opacity=opacity
        )
    canvas.fill([(x - 0.1, y + 0.12), (x - 0.27, y + 0.3), (x - 0.2, y + 0.32), (x - 0.04, y + 0.16)], "#155e63")
    canvas.oval((x - 0.03, y + 0.06), (0.075, 0.15), "#1f9d8b", turned=38)
    canvas.oval((x + 0.005, y + 0.07), (0.05, 0.11), "#e9f3e4", turned=38)
    canvas.oval((x + 0.055, y - 0.02), (0.04, 0.06), "#d3284a", turned=38)
    canvas.disc((x + 0.075, y - 0.08), 0.062, "#23b39c")
    canvas.line([(x + 0.12, y - 0.075), (x + 0.36, y - 0.03)], 0.01, "#23242c")
    canvas.disc((x + 0.095, y - 0.09), 0.013, "#15151b")
    canvas.disc((x + 0.099, y - 0.094), 0.004, "#ffffff")
    for spread, opacity in ((0, 0.55), (16, 0.35), (-16, 0.35)):
        canvas.oval((x - 0.2, y - 0.1 - 0.03 * beat), (0.2, 0.055), "#f2fffb", turned=24 - 14 * beat + spread, opacity=opacity)
    return canvas.image


def dolphin(time: float, moments: Sequence[float], current: int) -> Image.Image:
    """Draw a dolphin that leaps from a sunlit bay, at several moments of its leap.

    Args:
        time: From 0 to 1.
        moments: From 0, where it leaves the water, to 1, where it enters it.
        current: Index of the moment at which it is drawn opaque.
    """
    canvas = Canvas((0, "#5fb0e0"), (0.45, "#bfe3ee"), (0.68, "#fdebc4"), (0.69, "#3fa9b5"), (1, "#0f5f7d"))
    canvas.glow((0.78, 0.2), 0.4, "#fff3c4", strength=0.8)
    canvas.disc((0.78, 0.2), 0.055, "#fffbe6")
    canvas.ridge(0.68, 0.022, "#8fb6b4", waves=1.1, shift=0.3)
    canvas.box(0, 0.69, 1, 1, "#3fa9b5")
    for index, moment in enumerate(moments):
        if index != current:
            _leaping(canvas, moment, opacity=0.42)
    _leaping(canvas, moments[current], opacity=1)
    for row in range(6):
        y = 0.74 + 0.045 * row
        crest = [(x / 24, y + 0.008 * wave(time, 1, x / 7 + row / 3)) for x in range(25)]
        canvas.fill([(0, 1), *crest, (1, 1)], mixed("#37a0b0", "#0b4f6c", row / 5))
        canvas.line(crest, 0.004, "#e8fbfb", opacity=0.6 - 0.08 * row)
    return canvas.image


def _leaping(canvas: Canvas, moment: float, *, opacity: float) -> None:
    """Draw the dolphin at a moment of its leap, bent along its way."""
    x, y = 0.1 + 0.8 * moment, 0.72 - 0.46 * (1 - (2 * moment - 1) ** 2)
    turned = math.atan(1.4 * (2 * moment - 1))
    cosine, sine = 0.34 * math.cos(turned), 0.34 * math.sin(turned)

    def point_at(along: float, across: float) -> tuple[float, float]:
        across += 0.45 * along**2 - 0.03
        return x + along * cosine - across * sine, y + along * sine + across * cosine

    dark, light = "#34566f", "#dbe9ee"
    back = [
        (0.45, 0.03),
        (0.4, 0.0),
        (0.37, -0.045),
        (0.3, -0.1),
        (0.18, -0.13),
        (0.06, -0.14),
        (-0.06, -0.29),
        (-0.09, -0.125),
    ]
    tail = [(-0.22, -0.085), (-0.36, -0.045), (-0.52, -0.16), (-0.47, -0.02), (-0.54, 0.1), (-0.37, 0.0)]
    belly = [(-0.22, 0.06), (-0.08, 0.1), (0.08, 0.115), (0.22, 0.105), (0.34, 0.075), (0.42, 0.05)]
    under = [(0.445, 0.04), (0.36, 0.025), (0.2, 0.03), (0.02, 0.045), (-0.16, 0.035)]
    canvas.fill([point_at(*point) for point in (*back, *tail, *belly)], dark, opacity=opacity)
    canvas.fill([point_at(*point) for point in (*belly, *under)], light, opacity=opacity)
    canvas.fill(
        [point_at(*point) for point in ((0.2, 0.06), (0.12, 0.15), (0.0, 0.24), (0.07, 0.07))], "#26455c", opacity=opacity
    )
    canvas.disc(point_at(0.34, -0.015), 0.008, "#10202c", opacity=opacity)
    if opacity == 1:
        for drop in range(7):
            fall = 0.05 + 0.035 * drop
            canvas.disc(point_at(-0.2 - 0.07 * drop, fall + 0.05 * (drop % 3)), 0.007 - 0.0005 * drop, "#f4fdff", opacity=0.85)
