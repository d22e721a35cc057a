"""Scenes without animals. Each returns the picture at a time from 0 to 1, at which it begins again."""

from __future__ import annotations

import math

import numpy as np
from PIL import Image, ImageChops, ImageEnhance, ImageFilter

from .canvas import SIDE, Canvas, ellipse, mixed, wave


def boat(time: float) -> Image.Image:
    """Draw a sailing boat on a turquoise bay in warm evening light, and gulls above it."""
    return _bay(time, sky=("#3f8fb0", "#f6c48e", "#fde3b3"), water=("#5fc4bd", "#1f7f92"), light="#fff0c0", sail="#fff8ea")


def night_boat(time: float) -> Image.Image:
    """Draw the same bay in moonlight."""
    return _bay(time, sky=("#0e1638", "#2f3f78", "#6f7fb5"), water=("#3c5590", "#101c42"), light="#dfe8ff", sail="#c9d3ee")


def _bay(time: float, *, sky: tuple[str, str, str], water: tuple[str, str], light: str, sail: str) -> Image.Image:
    canvas = Canvas((0, sky[0]), (0.35, sky[1]), (0.55, sky[2]), (0.551, water[0]), (1, water[1]))
    canvas.glow((0.27, 0.48), 0.42, light, strength=0.85)
    canvas.disc((0.27, 0.46), 0.06, light)
    canvas.ridge(0.55, 0.03, mixed(sky[0], sky[1], 0.35), waves=1.2, shift=0.55)
    canvas.box(0, 0.55, 1, 1, water[0])
    for row in range(14):
        y, colour = 0.56 + 0.45 * (row / 14) ** 1.5, mixed(*water, row / 13)
        canvas.box(0, y, 1, 1, colour)
        x = 0.27 + 0.03 * wave(time, 1, row / 4)
        canvas.oval((x, y + 0.012), (0.03 + 0.011 * row, 0.004 + 0.0006 * row), light, opacity=0.65 - 0.03 * row)
    x, y, lean = 0.6 + 0.02 * wave(time), 0.66 + 0.008 * wave(time, 2), 0.015 * wave(time)
    canvas.oval((x, y + 0.065), (0.18, 0.014), water[1], opacity=0.7)
    canvas.fill([(x - 0.16, y), (x + 0.18, y), (x + 0.12, y + 0.06), (x - 0.11, y + 0.06)], "#7d3b2c")
    canvas.fill([(x - 0.16, y), (x + 0.18, y), (x + 0.172, y + 0.014), (x - 0.15, y + 0.014)], sail)
    canvas.line([(x, y), (x + lean, y - 0.42)], 0.01, "#4a2c24")
    canvas.fill([(x + 0.012, y - 0.03), (x + lean + 0.01, y - 0.41), (x + 0.09 + lean, y - 0.2), (x + 0.16, y - 0.03)], sail)
    canvas.fill([(x - 0.012, y - 0.03), (x + lean - 0.008, y - 0.35), (x - 0.13, y - 0.03)], mixed(sail, sky[1], 0.35))
    for number in range(4):
        turn = 2 * math.pi * (time + number / 4)
        bird = 0.55 + 0.27 * math.cos(turn), 0.12 + 0.05 * math.sin(turn) + 0.02 * number
        flap = 0.02 * wave(time, 3, number / 4)
        wings = [(bird[0] - 0.04, bird[1] - flap), (bird[0] - 0.015, bird[1] - 0.012), bird]
        canvas.line([*wings, (bird[0] + 0.015, bird[1] - 0.012), (bird[0] + 0.04, bird[1] - flap)], 0.007, sail)
    return canvas.image


def lighthouse(time: float) -> Image.Image:
    """Draw a lighthouse whose beam turns over the sea at dusk."""
    canvas = Canvas((0, "#1c2b5e"), (0.35, "#7a5a8e"), (0.58, "#f0916c"), (0.66, "#fbc98b"))
    beam, lamp = math.cos(2 * math.pi * time), (0.7, 0.25)
    reach = -0.75 if beam < 0 else 0.75
    canvas.fill([lamp, (lamp[0] + reach, 0.1), (lamp[0] + reach, 0.4)], "#fff2b8", opacity=0.5 * abs(beam))
    canvas.box(0, 0.66, 1, 1, "#3f5f93")
    for row in range(7):
        y = 0.67 + 0.045 * row
        crest = [(x / 24, y + 0.01 * wave(time, 1, x / 8 + row / 3)) for x in range(25)]
        canvas.fill([(0, 1), *crest, (1, 1)], mixed("#4f6f9f", "#14244f", row / 6))
        canvas.line(crest, 0.004, "#f5b08a", opacity=0.5 - 0.06 * row)
    canvas.fill([(0.45, 1), (0.52, 0.78), (0.6, 0.71), (0.82, 0.7), (0.95, 0.78), (1, 0.77), (1, 1)], "#1d1c33")
    for band in range(5):
        top, half = 0.31 + 0.08 * band, 0.045 + 0.006 * band
        colour = "#e9e3e0" if band % 2 else "#c8363f"
        canvas.fill(
            [(0.7 - half, top), (0.7 + half, top), (0.7 + half + 0.006, top + 0.08), (0.7 - half - 0.006, top + 0.08)], colour
        )
    canvas.fill([(0.715, 0.31), (0.745, 0.31), (0.775, 0.71), (0.725, 0.71)], "#141430", opacity=0.25)
    canvas.box(0.64, 0.295, 0.76, 0.312, "#22203a")
    canvas.box(0.665, 0.21, 0.735, 0.295, "#ffe9a0")
    canvas.fill([(0.65, 0.212), (0.75, 0.212), (0.7, 0.15)], "#c8363f")
    canvas.glow(lamp, 0.16 + 0.05 * abs(beam), "#fff2b8", strength=0.9)
    return canvas.image


def balloons(time: float) -> Image.Image:
    """Draw hot-air balloons that rise over a valley in the morning."""
    canvas = Canvas((0, "#6aa9dc"), (0.5, "#f6dcc0"), (0.7, "#f7b58b"))
    canvas.glow((0.8, 0.6), 0.4, "#fff0c8", strength=0.8)
    for number, colour in enumerate(("#c98f9b", "#a86f86", "#7d5577", "#543e62")):
        canvas.ridge(0.66 + 0.09 * number, 0.035, colour, waves=1.3 + 0.4 * number, shift=0.23 * number)
    bright = (("#e2483d", "#f7d9a8"), ("#f2a63c", "#fff3d4"), ("#3d8fb5", "#f4e3c4"), ("#8a4fa0", "#f6c3a0"))
    globes = ((0.56, 0.38, 0.16), (0.82, 0.22, 0.09), (0.87, 0.55, 0.065), (0.17, 0.56, 0.05))
    for number, ((x, y, size), colours) in enumerate(zip(globes, bright, strict=True)):
        _balloon(canvas, (x + 0.01 * wave(time, 1, number / 3), y + 0.025 * wave(time, 1, number / 4)), size, colours)
    return canvas.image


def _balloon(canvas: Canvas, centre: tuple[float, float], size: float, colours: tuple[str, str]) -> None:
    x, y = centre
    for side in (-1, 1):
        canvas.line([(x + side * 0.5 * size, y + 0.8 * size), (x + side * 0.13 * size, y + 1.45 * size)], 0.004, "#4a3038")
    for number, width in enumerate((1.0, 0.72, 0.44, 0.16)):
        globe = ellipse((x, y), (width * size, size), start=0.5, end=1)
        canvas.fill(
            [*globe, (x + 0.26 * width * size, y + 1.2 * size), (x - 0.26 * width * size, y + 1.2 * size)], colours[number % 2]
        )
    canvas.oval((x - 0.4 * size, y - 0.25 * size), (0.16 * size, 0.42 * size), "#ffffff", turned=16, opacity=0.25)
    canvas.box(x - 0.15 * size, y + 1.4 * size, x + 0.15 * size, y + 1.65 * size, "#7a4a2b")


def day_to_night(share: float) -> Image.Image:
    """Draw a mountain lake between noon, at 0, and midnight, at 1."""
    canvas = Canvas((0, mixed("#4f9fe0", "#0b1030", share)), (0.6, mixed("#d8ecf7", "#3b3f7d", share)))
    dusk = math.sin(math.pi * share)
    canvas.glow((0.2, 0.56), 0.6, "#ff9a5a", strength=0.8 * dusk)
    rng = np.random.default_rng(4)
    for x, y, size in rng.random((60, 3)):
        canvas.disc((x, 0.5 * y), 0.002 + 0.003 * size, "#ffffff", opacity=max(0.0, 2 * share - 1))
    canvas.disc((0.28 - 0.1 * share, 0.14 + 0.6 * share), 0.065, mixed("#fff7cf", "#ff8a4a", share))
    canvas.disc((0.72, 0.75 - 0.58 * share), 0.055, "#f4f1de")
    near, far = mixed("#6d86a8", "#141a40", share), mixed("#9db4cc", "#2a3063", share)
    canvas.fill([(0, 0.62), (0.18, 0.4), (0.36, 0.6), (0.55, 0.33), (0.8, 0.58), (1, 0.42), (1, 0.66), (0, 0.66)], far)
    canvas.fill([(0.3, 0.65), (0.62, 0.22), (1, 0.65)], near)
    canvas.fill(
        [(0.514, 0.36), (0.62, 0.22), (0.743, 0.36), (0.68, 0.34), (0.63, 0.38), (0.57, 0.33)],
        mixed("#ffffff", "#7c86c0", share),
    )
    canvas.ridge(0.645, 0.012, mixed("#3f7a4f", "#0c1a2e", share), waves=3)
    canvas.mirror(0.66, light=0.8, ripple=share)
    for number in range(7):
        x, tall = (0.02, 0.1, 0.17, 0.8, 0.88, 0.95, 1.0)[number], 0.2 + 0.05 * math.sin(5 * number)
        canvas.fill([(x - 0.06, 1), (x, 1 - 1.6 * tall), (x + 0.06, 1)], mixed("#2c5f3c", "#070d1d", share))
    return canvas.image


def marble(time: float) -> Image.Image:
    """Draw a glass marble that rolls over a wooden table in sunlight."""
    canvas = Canvas((0, "#f3d9ae"), (0.3, "#e9c48d"), (0.34, "#c98d52"), (1, "#8f5a2e"))
    canvas.glow((0.1, 0.05), 0.7, "#fff4d0", strength=0.9)
    for number in range(-6, 8):
        canvas.line([(0.5 + 0.07 * number, 0.33), (0.5 + 0.34 * number, 1)], 0.006, "#6b3f1f", opacity=0.55)
    for row in range(16):
        y = 0.36 + 0.04 * row
        canvas.line(
            [(0.02 + 0.3 * abs(math.sin(5 * row)), y), (0.4 + 0.55 * abs(math.sin(9 * row)), y + 0.004)],
            0.004,
            "#7a4a26",
            opacity=0.3,
        )
    x, radius = 0.52 + 0.12 * wave(time), 0.23 + 0.02 * wave(time, 1, 0.25)
    y, turned = 0.6, 360 * 0.12 * wave(time) / 0.6
    canvas.oval((x + 0.1, y + radius), (1.1 * radius, 0.05), "#4a2a14", opacity=0.5)
    canvas.glow((x + 0.16, y + radius + 0.02), 0.13, "#bff3ff", strength=0.8)
    canvas.disc((x, y), radius, "#2a7fa8")
    for ring in range(12):
        share = ring / 12
        canvas.disc(
            (x + 0.1 * radius * share, y + 0.12 * radius * share),
            radius * (1 - 0.07 * ring),
            mixed("#2a7fa8", "#c9f3f7", share),
        )
    for colour, offset in (("#f2a03c", 0), ("#e2495a", 120), ("#fff3c4", 240)):
        angle = math.radians(offset + 2 * turned)
        swirl = [
            (x + 0.72 * radius * s * math.cos(angle + 2.2 * s), y + 0.72 * radius * s * math.sin(angle + 2.2 * s))
            for s in np.linspace(-1, 1, 30)
        ]
        canvas.line(swirl, 0.03, colour, opacity=0.85)
    canvas.line(ellipse((x, y), (0.93 * radius, 0.93 * radius), start=0.08, end=0.32), 0.014, "#e6fbff", opacity=0.6)
    canvas.oval((x - 0.4 * radius, y - 0.45 * radius), (0.22 * radius, 0.13 * radius), "#ffffff", turned=-40, opacity=0.9)
    return canvas.image


def canal(time: float) -> Image.Image:
    """Draw coloured houses at a canal, and a rowing boat that passes."""
    canvas = Canvas((0, "#7fb7de"), (0.6, "#e6f1f4"))
    colours = ("#d9573f", "#efb04f", "#5b8fa8", "#e8dcc3", "#a8506b", "#78a25c")
    for number, colour in enumerate(colours):
        left, top = number / 6 - 0.01, 0.24 + 0.06 * math.sin(4 * number + 1)
        canvas.box(left, top, left + 0.172, 0.68, colour)
        canvas.fill([(left - 0.008, top), (left + 0.086, top - 0.11), (left + 0.18, top)], mixed(colour, "#3a2530", 0.55))
        for row in range(3):
            for column in range(2):
                x, y = left + 0.03 + 0.07 * column, top + 0.05 + 0.12 * row
                canvas.box(x - 0.006, y - 0.006, x + 0.05, y + 0.066, "#f7efe0")
                canvas.box(x, y, x + 0.044, y + 0.06, "#3e4a63")
    canvas.box(0, 0.66, 1, 0.7, "#8c8378")
    canvas.mirror(0.7, light=0.78, ripple=2 * time)
    x, y = 1.2 - 1.4 * ((time + 0.4) % 1), 0.83
    canvas.oval((x, y + 0.045), (0.17, 0.012), "#22313d", opacity=0.5)
    canvas.fill([(x - 0.17, y - 0.01), (x + 0.17, y - 0.01), (x + 0.11, y + 0.05), (x - 0.11, y + 0.05)], "#8c3b2a")
    canvas.oval((x, y - 0.05), (0.035, 0.055), "#f2e6d0")
    canvas.disc((x - 0.004, y - 0.125), 0.026, "#dba27c")
    canvas.oval((x - 0.004, y - 0.143), (0.045, 0.012), "#e8c25a")
    canvas.line([(x, y - 0.04), (x + 0.1 * wave(time, 4), y + 0.07)], 0.01, "#5a3a22")
    return canvas.image


def watercolour(time: float) -> Image.Image:
    """Draw the canal as a watercolour."""
    small = canal(time).resize((SIDE // 2, SIDE // 2)).filter(ImageFilter.ModeFilter(7)).filter(ImageFilter.GaussianBlur(1.5))
    picture = small.resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    picture = ImageEnhance.Color(ImageEnhance.Brightness(picture).enhance(1.12)).enhance(1.25)
    washed = Image.blend(picture, Image.new("RGB", picture.size, "#fffaf0"), 0.28)
    edges = (
        canal(time)
        .filter(ImageFilter.GaussianBlur(2))
        .filter(ImageFilter.FIND_EDGES)
        .convert("L")
        .filter(ImageFilter.GaussianBlur(1.5))
    )
    pencil = edges.point([255 - min(90, light) for light in range(256)])
    rng = np.random.default_rng(0)
    grain = Image.fromarray(rng.integers(228, 256, (SIDE // 3, SIDE // 3), dtype=np.uint8)).resize(
        picture.size, Image.Resampling.BICUBIC
    )
    painted = ImageChops.multiply(washed, Image.merge("RGB", [pencil] * 3))
    return ImageChops.multiply(painted, Image.merge("RGB", [grain] * 3))


def train(time: float) -> Image.Image:
    """Draw a steam train that crosses a viaduct in autumn hills."""
    canvas = Canvas((0, "#8fb9cf"), (0.5, "#f4e2c0"))
    for number, colour in enumerate(("#c9a06a", "#bf7a3f", "#9c5530")):
        canvas.ridge(0.48 + 0.08 * number, 0.05, colour, waves=1.2 + 0.5 * number, shift=0.3 * number)
    for number in range(26):
        x, y = number / 25, 0.6 + 0.05 * math.sin(5 * number)
        canvas.disc((x, y), 0.035, ("#d98b2f", "#c2542b", "#e2b23f", "#8f6a2e")[number % 4])
    x = 1.25 - 2.3 * ((time + 0.45) % 1)
    for puff in range(9):
        drift = (puff + 6 * time % 1) / 9
        centre = x - 0.2 + 0.75 * drift, 0.4 - 0.16 * drift + 0.015 * math.sin(9 * drift)
        canvas.disc(centre, 0.025 + 0.07 * drift, "#fdfaf4", opacity=0.8 * (1 - drift))
    _carriages(canvas, x)
    canvas.box(0, 0.61, 1, 0.65, "#8d8078")
    for number in range(6):
        left = 0.2 * number - 0.1
        arch = ellipse((left + 0.1, 0.76), (0.075, 0.08), start=0.5, end=1)
        canvas.fill(
            [
                (left, 0.65),
                (left + 0.2, 0.65),
                (left + 0.2, 1),
                (left + 0.175, 1),
                *reversed(arch),
                (left + 0.025, 1),
                (left, 1),
            ],
            "#a39488",
        )
    canvas.ridge(0.93, 0.02, "#6b4526", waves=2)
    return canvas.image


def _carriages(canvas: Canvas, x: float) -> None:
    for number in range(3):
        left = x + 0.14 + 0.27 * number
        canvas.box(left, 0.5, left + 0.25, 0.595, ("#7d2433", "#8c2c3b", "#7d2433")[number])
        for window in range(4):
            canvas.box(left + 0.02 + 0.056 * window, 0.52, left + 0.062 + 0.056 * window, 0.555, "#fbe7b0")
        for wheel in (0.05, 0.2):
            canvas.disc((left + wheel, 0.6), 0.018, "#26222a")
    canvas.box(x - 0.23, 0.52, x + 0.02, 0.595, "#22303a")
    canvas.box(x - 0.02, 0.46, x + 0.12, 0.595, "#2b3d49")
    canvas.box(x + 0.015, 0.485, x + 0.075, 0.53, "#fbe7b0")
    canvas.box(x - 0.035, 0.45, x + 0.135, 0.465, "#161f26")
    canvas.fill([(x - 0.215, 0.52), (x - 0.225, 0.435), (x - 0.165, 0.435), (x - 0.175, 0.52)], "#161f26")
    canvas.oval((x - 0.09, 0.52), (0.03, 0.025), "#c9a03f")
    canvas.fill([(x - 0.23, 0.57), (x - 0.29, 0.61), (x - 0.23, 0.61)], "#8c2c3b")
    for wheel in (-0.18, -0.1, -0.02, 0.07):
        canvas.disc((x + wheel, 0.6), 0.027, "#8c2c3b")
        canvas.disc((x + wheel, 0.6), 0.012, "#161f26")


def potter(time: float) -> Image.Image:
    """Draw a clay bowl on a potter's wheel, shaped by two hands in warm light."""
    canvas = Canvas((0, "#4a2f25"), (0.6, "#8a5636"), (1, "#3a231a"))
    canvas.glow((0.16, 0.18), 0.55, "#ffd592", strength=0.95)
    for number in range(2):
        canvas.box(0.04 + 0.13 * number, 0.05, 0.15 + 0.13 * number, 0.3, "#ffe9b8")
    for number in range(5):
        canvas.oval(
            (0.56 + 0.1 * number, 0.2), (0.036, 0.03 + 0.014 * (number % 3)), ("#c98a5a", "#8fa08c", "#b5654a")[number % 3]
        )
    canvas.box(0.48, 0.235, 1, 0.255, "#5d3a28")
    canvas.oval((0.5, 0.83), (0.4, 0.085), "#241712")
    canvas.oval((0.5, 0.8), (0.4, 0.085), "#9b8d80")
    canvas.oval((0.5, 0.795), (0.36, 0.072), "#b9ab9c")
    wide = 0.235 + 0.02 * wave(time, 1)
    side = [
        (0.5 + sign * (0.11 + (wide - 0.11) * share**0.6), 0.79 - 0.25 * share)
        for sign in (1, -1)
        for share in np.linspace(0, 1, 16)[::sign]
    ]
    canvas.fill([*side, *ellipse((0.5, 0.79), (0.11, 0.022), start=0.5, end=0)], "#c07a4c")
    for line in range(6):
        share = (line + time) / 6
        half = 0.11 + (wide - 0.11) * share**0.6
        canvas.line(ellipse((0.5, 0.79 - 0.25 * share), (half, 0.03), start=0.02, end=0.48), 0.006, "#9c5c36", opacity=0.8)
    canvas.oval((0.5, 0.54), (wide, 0.05), "#dc9a68")
    canvas.oval((0.5, 0.545), (wide - 0.025, 0.038), "#7a4529")
    for sign in (-1, 1):
        x = 0.5 + sign * (wide + 0.035)
        canvas.line([(0.5 + sign * 0.58, 0.98), (x + sign * 0.1, 0.72), (x, 0.64)], 0.11, "#d99f78")
        for finger in range(4):
            canvas.line([(x + sign * 0.02, 0.6 + 0.035 * finger), (x - sign * 0.055, 0.585 + 0.04 * finger)], 0.032, "#e3ae88")
    return canvas.image


def tram(time: float) -> Image.Image:
    """Draw a tram that crosses a rainy square at night, with neon signs and their reflections."""
    canvas = Canvas((0, "#0d1230"), (0.6, "#2b2a5c"))
    rng = np.random.default_rng(8)
    for number in range(6):
        left, top = 0.18 * number - 0.04, 0.1 + 0.12 * ((number * 5) % 3)
        canvas.box(left, top, left + 0.17, 0.66, ("#191c40", "#20224d", "#151838")[number % 3])
        for x, y in rng.random((11, 2)):
            corner = left + 0.015 + 0.12 * round(4 * x) / 4, top + 0.03 + 0.4 * round(8 * y) / 8
            canvas.box(corner[0], corner[1], corner[0] + 0.02, min(0.64, corner[1] + 0.026), "#ffd27a", opacity=0.85)
    for (x, y), (half, tall), colour in (
        ((0.14, 0.34), (0.02, 0.1), "#ff3d8b"),
        ((0.5, 0.22), (0.09, 0.028), "#35e0ff"),
        ((0.88, 0.38), (0.022, 0.11), "#8dff5a"),
    ):
        canvas.box(x - half, y - tall, x + half, y + tall, colour)
        canvas.glow((x, y), 0.16, colour, strength=0.55 + 0.25 * wave(time, 2, x))
    x = -0.75 + 1.9 * ((time + 0.45) % 1)
    canvas.line([(0, 0.37), (1, 0.36)], 0.003, "#0a0c1e")
    canvas.box(x, 0.43, x + 0.7, 0.64, "#f2c53d")
    canvas.box(x, 0.56, x + 0.7, 0.64, "#c63a32")
    for window in range(6):
        canvas.box(x + 0.025 + 0.112 * window, 0.455, x + 0.115 + 0.112 * window, 0.55, "#fff3c9")
    canvas.line([(x + 0.3, 0.43), (x + 0.36, 0.365), (x + 0.42, 0.43)], 0.006, "#0a0c1e")
    canvas.glow((x + 0.7, 0.6), 0.14, "#fff6d0", strength=0.9)
    canvas.mirror(0.66, light=0.62, ripple=3 * time)
    for left, top, length in rng.random((45, 3)):
        y = (top + 2 * time) % 1
        canvas.line([(left, y), (left - 0.008, y + 0.02 + 0.03 * length)], 0.003, "#cfe0ff", opacity=0.4)
    return canvas.image


def lanterns(time: float) -> Image.Image:
    """Draw paper lanterns that rise over a dark lake."""
    canvas = Canvas((0, "#070b26"), (0.5, "#232556"), (0.72, "#4d3a6b"))
    rng = np.random.default_rng(2)
    for x, y, size in rng.random((50, 3)):
        canvas.disc((x, 0.45 * y), 0.0015 + 0.002 * size, "#ffffff", opacity=0.8)
    canvas.ridge(0.7, 0.03, "#15163a", waves=1.6, shift=0.1)
    for number in range(7):
        small = 0.02 + 0.006 * (number % 3)
        centre = (
            0.09 + 0.137 * number + 0.01 * wave(time, 1, number / 5),
            0.12 + 0.4 * abs(math.sin(2.6 * number)) - 0.02 * wave(time, 1, number / 7),
        )
        _lantern(canvas, centre, small)
    _lantern(canvas, (0.5 + 0.015 * wave(time), 0.42 - 0.05 * wave(time, 1, 0.2)), 0.1)
    canvas.mirror(0.72, light=0.7, ripple=2 * time)
    for ring in range(3):
        share = (ring + time) / 3
        canvas.line(
            ellipse((0.5, 0.85), (0.06 + 0.3 * share, 0.012 + 0.05 * share)), 0.004, "#ffcf8a", opacity=0.55 * (1 - share)
        )
    return canvas.image


def _lantern(canvas: Canvas, centre: tuple[float, float], size: float) -> None:
    x, y = centre
    canvas.glow((x, y), 3 * size, "#ffae4a", strength=0.8)
    canvas.fill(
        [(x - 0.8 * size, y - size), (x + 0.8 * size, y - size), (x + 0.62 * size, y + size), (x - 0.62 * size, y + size)],
        "#f58b2e",
    )
    canvas.fill(
        [
            (x - 0.4 * size, y - 0.7 * size),
            (x + 0.4 * size, y - 0.7 * size),
            (x + 0.5 * size, y + size),
            (x - 0.5 * size, y + size),
        ],
        "#ffc65c",
    )
    canvas.oval((x, y + 0.6 * size), (0.3 * size, 0.36 * size), "#fff3c4")
    canvas.oval((x, y - size), (0.8 * size, 0.14 * size), "#c9611f")


def kite(time: float) -> Image.Image:
    """Draw a kite over a windy beach, whose tail writes loops into a pale sky."""
    canvas = Canvas((0, "#9cc9e8"), (0.5, "#e9f2f4"), (0.68, "#fbead0"))
    canvas.box(0, 0.68, 1, 0.8, "#4f9fae")
    for row in range(4):
        crest = [(x / 24, 0.7 + 0.03 * row + 0.006 * wave(time, 1, x / 6 + row / 3)) for x in range(25)]
        canvas.line(crest, 0.006, "#f4fbfb", opacity=0.8)
    canvas.ridge(0.82, 0.015, "#e8cf9f", waves=0.8, shift=0.2)
    x, y, lean = 0.6 + 0.03 * wave(time), 0.3 + 0.03 * wave(time, 1, 0.25), 0.03 * wave(time, 2)
    canvas.line([(x, y + 0.02), (0.42, 0.55), (0.24, 0.83)], 0.004, "#6b5b4a")
    tail = [
        (x + 0.05 * math.sin(0.9 * knot + 2 * math.pi * time) + 0.016 * knot, y + 0.16 + 0.022 * knot - 0.001 * knot**2)
        for knot in range(17)
    ]
    canvas.line(tail, 0.01, "#c4453f")
    for knot in tail[2::3]:
        canvas.fill([(knot[0] - 0.028, knot[1] - 0.014), knot, (knot[0] - 0.028, knot[1] + 0.014)], "#f3b63f")
        canvas.fill([(knot[0] + 0.028, knot[1] - 0.014), knot, (knot[0] + 0.028, knot[1] + 0.014)], "#f3b63f")
    top, bottom, left, right = (x + lean, y - 0.2), (x, y + 0.18), (x - 0.15, y - 0.03), (x + 0.15, y - 0.01)
    for side, colour in ((left, "#d9463e"), (right, "#f0893c")):
        canvas.fill([top, side, (x, y)], colour)
        canvas.fill([bottom, side, (x, y)], mixed(colour, "#ffd07a", 0.45))
    canvas.line([top, bottom], 0.006, "#5a3a2c")
    canvas.line([left, right], 0.006, "#5a3a2c")
    return canvas.image
