"""A contact sheet: frames of several videos in one picture, a row for each video."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from tiny_wan.world.videos import evenly_spaced_frames

FRAMES, SIDE, GAP = 6, 160, 6
TEXT, TITLE = 26, 34
BACKGROUND, FOREGROUND = (24, 24, 27), (235, 235, 235)


@dataclass(frozen=True)
class Strip:
    """A video file and the text above its frames."""

    video: Path
    label: str


def contact_sheet(strips: Sequence[Strip], path: Path, *, title: str) -> Path:
    """Write a PNG with a row for each video, and return its path."""
    row = TEXT + SIDE + GAP
    sheet = Image.new("RGB", (FRAMES * (SIDE + GAP) + GAP, TITLE + len(strips) * row + GAP), BACKGROUND)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(16)
    draw.text((GAP, TITLE // 2), f'"{title}"', FOREGROUND, ImageFont.load_default(18), anchor="lm")
    for number, strip in enumerate(strips):
        top = TITLE + number * row
        draw.text((GAP, top + TEXT // 2), strip.label, FOREGROUND, font, anchor="lm")
        for column, frame in enumerate(evenly_spaced_frames(strip.video, FRAMES)):
            scaled = frame.resize((SIDE, SIDE * frame.height // frame.width), Image.Resampling.LANCZOS)
            sheet.paste(scaled, (GAP + column * (SIDE + GAP), top + TEXT))
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path)
    return path
