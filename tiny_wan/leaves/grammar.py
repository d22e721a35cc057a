"""The grammar of the dead leaves: four attributes, one word each, and the sentence they make.

A caption is "fine green leaves behind a pale leaf on the left, panning right".
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..world.grammar import balanced_words

PALETTES = ("red", "yellow", "green", "blue", "violet", "grey")
SCALES = ("fine", "medium", "coarse")
LAYOUTS = ("left", "right", "top", "bottom", "centre")
MOTIONS = ("still", "left", "right", "up", "down", "in", "out")

LAYOUT_PHRASES = {
    "left": "on the left", "right": "on the right", "top": "at the top", "bottom": "at the bottom", "centre": "in the centre",
}  # fmt: skip
MOTION_PHRASES = {
    "still": "the camera resting", "left": "panning left", "right": "panning right", "up": "panning up",
    "down": "panning down", "in": "zooming in", "out": "zooming out",
}  # fmt: skip

VOCABULARY = {"palette": PALETTES, "scale": SCALES, "layout": LAYOUTS, "motion": MOTIONS}
ATTRIBUTES = tuple(VOCABULARY)


@dataclass(frozen=True)
class Caption:
    """The contents of a clip. `str(caption)` is the prompt.

    Attributes:
        palette: Hue of the leaves.
        scale: Size of the smallest leaves.
        layout: Place of the pale leaf in front.
        motion: Movement of the camera; the leaves behind move the other way.
    """

    palette: str
    scale: str
    layout: str
    motion: str

    def __post_init__(self):
        for name, allowed in VOCABULARY.items():
            if (word := getattr(self, name)) not in allowed:
                raise ValueError(f"{name} {word!r} is not in the grammar of the dead leaves; allowed: {', '.join(allowed)}")

    def __str__(self) -> str:
        layout, motion = LAYOUT_PHRASES[self.layout], MOTION_PHRASES[self.motion]
        return f"{self.scale} {self.palette} leaves behind a pale leaf {layout}, {motion}"


def draw_caption(rng: np.random.Generator) -> Caption:
    """Draw a caption with uniform, independent attributes."""
    return Caption(**{name: str(rng.choice(allowed)) for name, allowed in VOCABULARY.items()})


def draw_captions(count: int, *, seed: int) -> list[Caption]:
    """Draw `count` captions in which every word of an attribute appears equally often (to within one)."""
    return [Caption(**words) for words in balanced_words(VOCABULARY, count, seed=seed)]
