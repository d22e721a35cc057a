"""How scenes become the picture of a workflow: what goes in and what comes out, small and large, before and after."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from pyramid.flops import WAN_DIMENSIONS, forward_tflops, schedule_cost, tokens, total_tflops
from pyramid.sizes import VideoSize
from pyramid.spectrum import band_energies
from pyramid.stages import PRESETS

from .canvas import wave

SIDE, LABEL_HEIGHT, MARGIN = 320, 26, 10
HEIGHT = SIDE - LABEL_HEIGHT
BACKGROUND, FOREGROUND, FRAME = (24, 24, 27), (240, 240, 240), (250, 250, 250)
SHADE, ACCENT = (16, 16, 20, 200), (255, 198, 92)
SMALL_TYPE, TYPE, LABEL_TYPE = 13, 15, 13
LABEL = "drawn for illustration, not a result"
THRESHOLD = 0.1
PATCH = 80
"""Pixels of the largest patches of a picture."""
FULL_RATE = 16
"""Frames a second of the last stage."""
LEAP_FRAMES = 9
"""Frames of the last stage that show a movement."""
MANY = 10
"""Steps from which on their dots are small."""
MEASURED_SIDE, MEASURED_FRAMES = 64, 5

Scene = Callable[[float], Image.Image]
Exposed = Callable[[float, Sequence[float], int], Image.Image]
"""A scene at a time, with a movement exposed at several moments from 0 to 1, one of which is the current one."""
Box = tuple[float, float, float, float]


def labelled(picture: Image.Image) -> Image.Image:
    """Write below a picture that it was drawn."""
    sheet = picture.copy()
    draw = ImageDraw.Draw(sheet)
    draw.rectangle((0, HEIGHT, SIDE, SIDE), BACKGROUND)
    draw.text((SIDE / 2, HEIGHT + LABEL_HEIGHT / 2), LABEL, (200, 200, 204), _font(LABEL_TYPE), anchor="mm")
    return sheet


def with_node(scene: Scene, time: float) -> Image.Image:
    """Draw a scene, and a node between two others of a graph."""
    sheet = _whole(scene(time))
    draw, middle = _draw(sheet), HEIGHT - 30
    draw.line((0, middle, SIDE, middle), (179, 157, 219), 3)
    for left, right, text, bright in (
        (8, 82, "model", False),
        (96, 224, "Pyramidal Model", True),
        (238, 312, "sampler", False),
    ):
        fill, ink = ((47, 74, 92, 255), FOREGROUND) if bright else ((45, 45, 50, 235), (190, 190, 196))
        draw.rounded_rectangle((left, middle - 15, right, middle + 15), 6, fill, ACCENT if bright else None, 2)
        draw.text(((left + right) / 2, middle), text, ink, _font(SMALL_TYPE), anchor="mm")
    x = 82 + 14 * (2 * time % 1) if time < 0.5 else 224 + 14 * (2 * time % 1)
    draw.ellipse((x - 4, middle - 4, x + 4, middle + 4), ACCENT)
    return sheet


def with_steps(scene: Scene, counts: Sequence[int], time: float) -> Image.Image:
    """Draw a scene, and a dot for every step, larger in later stages; the dots light up one after the other."""
    sheet = _whole(scene(time))
    draw, total = _draw(sheet), sum(counts)
    radii = [_radius(stage, len(counts), total) for stage, count in enumerate(counts) for _ in range(count)]
    gap = 3.5 if total > MANY else 12
    width = sum(2 * radius for radius in radii) + gap * (total - 1)
    x, middle = (SIDE - width) / 2, HEIGHT - 28
    draw.rounded_rectangle((x - 14, middle - 18, x + width + 14, middle + 18), 18, SHADE)
    for number, radius in enumerate(radii):
        lit = number <= 1.25 * time * total
        draw.ellipse((x, middle - radius, x + 2 * radius, middle + radius), ACCENT if lit else (110, 110, 118))
        x += 2 * radius + gap
    return sheet


def in_patches(scene: Scene, counts: Sequence[int], time: float) -> Image.Image:
    """Draw a scene, and over it the patches in which each step reads it, smaller from stage to stage."""
    sheet = _whole(scene(time))
    draw, step = _draw(sheet), min(int(time * sum(counts)), sum(counts) - 1)
    stage = next(index for index in range(len(counts)) if step < sum(counts[: index + 1]))
    side = PATCH // 2**stage
    for offset in range(side, SIDE, side):
        draw.line((offset, 0, offset, HEIGHT), (*FRAME, 120), 1)
        draw.line((0, offset, SIDE, offset), (*FRAME, 120), 1)
    return sheet


def in_frame_rates(scene: Exposed, counts: Sequence[int], time: float) -> Image.Image:
    """Draw a movement exposed at every frame of a stage, at twice as many from stage to stage, and name steps and rate."""
    stage = min(int(time * len(counts)), len(counts) - 1)
    gap = 2 ** (len(counts) - 1 - stage)
    moments = [frame / (LEAP_FRAMES - 1) for frame in range(0, LEAP_FRAMES, gap)]
    sheet = _whole(scene(time, moments, int((time * len(counts) - stage) * len(moments))))
    draw, middle, font = _draw(sheet), HEIGHT - 24, _font(SMALL_TYPE)
    text = f"{counts[stage]} steps, {FULL_RATE // gap} frames a second"
    half = draw.textlength(text, font) / 2 + 12
    draw.rounded_rectangle((SIDE / 2 - half, middle - 14, SIDE / 2 + half, middle + 14), 14, SHADE)
    draw.text((SIDE / 2, middle), text, FOREGROUND, font, anchor="mm")
    return sheet


def _radius(stage: int, stages: int, total: int) -> float:
    small, large = (2, 4) if total > MANY else (5, 11)
    return small + (large - small) * (stage / (stages - 1)) ** 1.5


def with_stills(scene: Scene, stills: Sequence[Image.Image], time: float) -> Image.Image:
    """Draw a scene, and in its corners the one or two images that go in."""
    sheet = _whole(scene(time))
    large = 92
    corners = (MARGIN, MARGIN), (SIDE - MARGIN - large, HEIGHT - MARGIN - large)
    for still, (x, y) in zip(stills, corners, strict=False):
        _paste(sheet, still, (x, y, x + large, y + large))
    return sheet


def swept(before: Scene, after: Scene, time: float, *, region: tuple[float, float, float] | None = None) -> Image.Image:
    """Draw two scenes with a line between them that moves to and fro.

    Args:
        before: The scene on the left.
        after: The scene on the right.
        time: From 0 to 1.
        region: Centre and radius of a mask that is painted over the scene on the left.
    """
    left, right = _whole(before(time)), _whole(after(time))
    if region:
        _paint_mask(left, region, time)
    x = round(SIDE * (0.5 + 0.3 * wave(time)))
    left.paste(right.crop((x, 0, SIDE, SIDE)), (x, 0))
    draw = _draw(left)
    draw.rectangle((x - 1, 0, x + 1, HEIGHT), FRAME)
    draw.ellipse((x - 9, HEIGHT / 2 - 9, x + 9, HEIGHT / 2 + 9), FRAME)
    for way in (-1, 1):
        draw.polygon([(x + 6 * way, HEIGHT / 2), (x + 2 * way, HEIGHT / 2 - 4), (x + 2 * way, HEIGHT / 2 + 4)], BACKGROUND)
    return left


def _paint_mask(sheet: Image.Image, region: tuple[float, float, float], time: float) -> None:
    x, y, radius = (share * SIDE for share in region)
    y -= LABEL_HEIGHT / 2
    draw = _draw(sheet)
    draw.ellipse((x - radius, y - radius, x + radius, y + radius), (236, 72, 153, 90))
    for dash in range(0, 360, 20):
        start = dash + 40 * time
        draw.arc((x - radius, y - radius, x + radius, y + radius), start, start + 11, FRAME, 3)


def growing(scene: Scene, names: tuple[str, str], time: float) -> Image.Image:
    """Draw a scene small, an arrow, and the scene large."""
    moment = scene(time)
    sheet = _backdrop(moment)
    small, large = (MARGIN + 2, 166, 94, 248), (112, 16, SIDE - MARGIN, 224)
    soft = moment.resize((40, 40), Image.Resampling.LANCZOS)
    _paste(sheet, soft, small)
    _paste(sheet, moment, large)
    draw = _draw(sheet)
    draw.line((52, 156, 52, 112, 96, 112), FRAME, 4, joint="curve")
    draw.polygon([(106, 112), (92, 103), (92, 121)], FRAME)
    for name, box in zip(names, (small, large), strict=True):
        draw.text(((box[0] + box[2]) / 2, box[3] + 20), name, FOREGROUND, _font(TYPE), anchor="mm")
    return sheet


def with_small(scene: Scene, names: Sequence[str], time: float) -> Image.Image:
    """Draw a scene in the sizes of three stages, each with its steps."""
    moment = scene(time)
    sheet = _backdrop(moment)
    draw = _draw(sheet)
    boxes = ((36, 30, 82, 76), (14, 128, 104, 218), (124, 38, 308, 222))
    for name, box, pixels in zip(names, boxes, (24, 60, 320), strict=True):
        _paste(sheet, moment.resize((pixels, pixels), Image.Resampling.LANCZOS), box)
        draw.text(((box[0] + box[2]) / 2, box[3] + 17), f"{name} steps", FOREGROUND, _font(SMALL_TYPE), anchor="mm")
    return sheet


def compared(scene: Scene, counts: tuple[int, int, int], time: float) -> Image.Image:
    """Draw a scene on both sides of a line, and below it the operations of each as bars.

    Args:
        scene: What both make.
        counts: Steps of the plain run, and of both stages of the pyramid.
        time: From 0 to 1.
    """
    sheet = _whole(scene(time))
    draw, middle = _draw(sheet), SIDE // 2
    draw.rectangle((middle - 1, 0, middle + 1, HEIGHT), FRAME)
    share = _share_of_operations(counts)
    for left, name, part in ((0, "plain", 1.0), (middle, "pyramid", share)):
        draw.rounded_rectangle((left + 14, 12, left + 92, 36), 12, SHADE)
        draw.text((left + 53, 24), name, FOREGROUND, _font(TYPE), anchor="mm")
        draw.rounded_rectangle((left + 12, HEIGHT - 40, left + 148, HEIGHT - 12), 8, SHADE)
        done = min(part, 1.25 * time)
        draw.rectangle((left + 20, HEIGHT - 34, left + 20 + 120 * done, HEIGHT - 30), ACCENT)
        draw.text((left + 80, HEIGHT - 21), f"{100 * part:.0f} % of operations", FOREGROUND, _font(11), anchor="mm")
    return sheet


@functools.cache
def _share_of_operations(counts: tuple[int, int, int]) -> float:
    """Return the operations of two stages as a share of a plain run's, for Wan 2.1 1.3B with 81 frames at 832x480."""
    plain, *steps = counts
    latent, dimensions = VideoSize(832, 480, 81).latent, WAN_DIMENSIONS["1.3B"]
    spec = PRESETS["training-free"].scaled("auto").at_size(latent)
    ours = total_tflops(schedule_cost(spec, latent, tuple(steps), dimensions, cfg=True))
    return ours / (2 * plain * forward_tflops(tokens(latent), dimensions))


def with_pills(scene: Scene, texts: Sequence[str], time: float) -> Image.Image:
    """Draw a scene and what LoRAs do in it."""
    sheet = _whole(scene(time))
    draw = _draw(sheet)
    for number, text in enumerate(texts):
        top = HEIGHT - 76 + 34 * number
        width = draw.textlength(f"LoRA  {text}", _font(SMALL_TYPE)) + 24
        draw.rounded_rectangle((MARGIN, top, MARGIN + width, top + 28), 14, SHADE)
        draw.text((MARGIN + 12, top + 14), "LoRA", ACCENT, _font(SMALL_TYPE), anchor="lm")
        draw.text((MARGIN + width - 12, top + 14), text, FOREGROUND, _font(SMALL_TYPE), anchor="rm")
    return sheet


def between_nodes(scene: Scene, time: float) -> Image.Image:
    """Draw a small and a large scene inside nodes that a link connects."""
    moment = scene(time)
    sheet = _backdrop(moment)
    draw = _draw(sheet)
    bend = [(110 + 46 * s, 96 + 70 * (0.5 - 0.5 * math.cos(math.pi * s))) for s in np.linspace(0, 1, 20)]
    for box, title, pixels in (((12, 50, 110, 168), "low", 60), ((156, 60, 308, 256), "high", 320)):
        left, top, right, bottom = box
        draw.rounded_rectangle(box, 8, (45, 45, 50), (90, 90, 98), 1)
        draw.text((left + 12, top + 14), title, FOREGROUND, _font(SMALL_TYPE), anchor="lm")
        side = right - left - 16
        y = top + 28 + (bottom - top - 28 - side) / 2 - 2
        tile = moment.resize((pixels, pixels), Image.Resampling.LANCZOS).resize((side, side), Image.Resampling.BICUBIC)
        sheet.paste(tile, (left + 8, round(y)))
    draw.line(bend, (255, 156, 249), 4, joint="curve")
    along = bend[round(19 * time)]
    for (x, y), radius, colour in ((bend[0], 5, (255, 156, 249)), (bend[-1], 5, (255, 156, 249)), (along, 5, FRAME)):
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), colour)
    return sheet


def detail_curve(scene: Scene, time: float) -> Image.Image:
    """Draw a scene and over it the curve that is measured on it: how far its detail stands above the noise."""
    sheet = _whole(scene(time))
    draw, energy = _draw(sheet), _detail_energy(scene)
    left, top, right, bottom = 16, 150, SIDE - 16, HEIGHT - 12
    draw.rounded_rectangle((left - 6, top - 8, right + 6, bottom + 4), 10, (16, 16, 20, 215))
    levels = np.linspace(0.02, 0.98, 60)
    ratios = np.log10(energy * ((1 - levels) / levels) ** 2)

    def position(level: float, ratio: float) -> tuple[float, float]:
        return left + (right - left) * level, top + 10 + (bottom - top - 34) * (1 - (ratio + 5) / 8)

    boundary = math.sqrt(energy) / (math.sqrt(energy) + math.sqrt(THRESHOLD))
    x, y = position(boundary, math.log10(THRESHOLD))
    draw.line((left + 4, y, right - 4, y), (150, 150, 160), 1)
    shown = [position(*point) for point in zip(levels.tolist(), ratios.tolist(), strict=True)]
    draw.line(shown, (86, 104, 140), 3, joint="curve")
    draw.line(shown[: 2 + round(57 * min(1, 1.3 * time))], (110, 190, 255), 4, joint="curve")
    draw.line((x, y, x, bottom - 22), ACCENT, 2)
    draw.ellipse((x - 6, y - 6, x + 6, y + 6), ACCENT)
    draw.text((right - 4, top + 8), "detail above noise", (190, 200, 220), _font(SMALL_TYPE), anchor="rm")
    draw.text((x, bottom - 11), f"boundary {boundary:.2f}", ACCENT, _font(SMALL_TYPE), anchor="mm")
    return sheet


@functools.cache
def _detail_energy(scene: Scene) -> float:
    """Measure the energy of what a smaller size lacks, as 'Pyramidal Calibrate' does, on the pixels of a scene."""
    frames = [scene(number / MEASURED_FRAMES).resize((MEASURED_SIDE, MEASURED_SIDE)) for number in range(MEASURED_FRAMES)]
    clip = torch.stack([torch.from_numpy(np.asarray(frame, dtype=np.float32)) for frame in frames]).movedim(-1, 0)[None]
    clip = (clip - clip.mean((2, 3, 4), keepdim=True)) / clip.std((2, 3, 4), keepdim=True)
    (band,) = band_energies([clip], PRESETS["training-free"], threshold=THRESHOLD)
    return band.energy


def _whole(picture: Image.Image) -> Image.Image:
    """Return a picture in the size of the sheet, its middle above the label."""
    sheet = Image.new("RGB", (SIDE, SIDE), BACKGROUND)
    sized = picture.resize((SIDE, SIDE), Image.Resampling.LANCZOS)
    sheet.paste(sized.crop((0, LABEL_HEIGHT // 2, SIDE, LABEL_HEIGHT // 2 + HEIGHT)), (0, 0))
    return sheet


def _backdrop(picture: Image.Image) -> Image.Image:
    """Return a picture dark and blurred, as the ground for others."""
    return Image.blend(_whole(picture).filter(ImageFilter.GaussianBlur(16)), Image.new("RGB", (SIDE, SIDE), BACKGROUND), 0.62)


def _paste(sheet: Image.Image, picture: Image.Image, box: Box, *, frame: int = 3) -> None:
    """Paste a square picture in a box, with a frame around it."""
    left, top, right, bottom = (round(edge) for edge in box)
    _draw(sheet).rectangle((left - frame, top - frame, right + frame - 1, bottom + frame - 1), FRAME)
    sheet.paste(picture.resize((right - left, bottom - top), Image.Resampling.LANCZOS), (left, top))


def _draw(sheet: Image.Image) -> ImageDraw.ImageDraw:
    return ImageDraw.Draw(sheet, "RGBA")


@functools.cache
def _font(size: int) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    return ImageFont.load_default(size)
