"""Strips of frames of several videos in one picture, for comparing them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import av
from PIL import Image, ImageDraw, ImageFont

FRAMES, SIDE, GAP = 6, 160, 6
TEXT, TITLE = 26, 34
BACKGROUND, FOREGROUND = (24, 24, 27), (235, 235, 235)


@dataclass(frozen=True)
class Strip:
    """A video file and what stands above its frames."""

    video: Path
    label: str


def frames_of(video: Path, count: int = FRAMES) -> list[Image.Image]:
    """Evenly spaced ones, the first and the last among them."""
    with av.open(str(video)) as container:
        frames = [frame.to_image() for frame in container.decode(video=0)]
    return [frames[round(place * (len(frames) - 1) / max(1, count - 1))] for place in range(count)]


def contact_sheet(strips: Sequence[Strip], path: Path, *, title: str) -> Path:
    """Writes a PNG with a row for each video."""
    row = TEXT + SIDE + GAP
    sheet = Image.new("RGB", (FRAMES * (SIDE + GAP) + GAP, TITLE + len(strips) * row + GAP), BACKGROUND)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(16)
    draw.text((GAP, TITLE // 2), f'"{title}"', FOREGROUND, ImageFont.load_default(18), anchor="lm")
    for number, strip in enumerate(strips):
        top = TITLE + number * row
        draw.text((GAP, top + TEXT // 2), strip.label, FOREGROUND, font, anchor="lm")
        for place, frame in enumerate(frames_of(strip.video)):
            scaled = frame.resize((SIDE, SIDE * frame.height // frame.width), Image.Resampling.LANCZOS)
            sheet.paste(scaled, (GAP + place * (SIDE + GAP), top + TEXT))
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path)
    return path
