"""The grammar of the tiny world: six attributes, one word each, and the sentence they make.

A caption is "a red ring moving left on the right over a striped blue background". Every attribute is a short literal list,
so a prompt can be drawn, enumerated, parsed and checked, and a metric knows exactly which answers are possible.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from difflib import get_close_matches
from itertools import product

import numpy as np

SHAPES = ("disc", "square", "triangle", "ring")
COLOURS = ("red", "green", "yellow", "cyan", "magenta", "white")
MOTIONS = ("still", "left", "right", "up", "down")
PLACES = ("left", "centre", "right")
PATTERNS = ("plain", "striped", "banded", "checkered")
GROUNDS = ("blue", "grey", "brown")

MOTION_PHRASES = {"still": "resting", "left": "moving left", "right": "moving right", "up": "moving up", "down": "moving down"}
PLACE_PHRASES = {"left": "on the left", "centre": "in the centre", "right": "on the right"}


@dataclass(frozen=True)
class Caption:
    """The contents of a clip. `str(caption)` is the prompt, and `parse` its inverse.

    Attributes:
        shape: Outline of the shape.
        colour: Colour of the shape.
        motion: Direction in which the shape travels.
        place: Horizontal third in which the shape is on average over the clip.
        pattern: Texture behind the shape: vertical stripes, horizontal bands, a chequerboard or none.
        ground: Colour behind the shape.
    """

    shape: str
    colour: str
    motion: str
    place: str
    pattern: str
    ground: str

    def __post_init__(self):
        for name, allowed in VOCABULARY.items():
            if (word := getattr(self, name)) not in allowed:
                near = get_close_matches(str(word), allowed, n=1, cutoff=0.0)[0]
                raise ValueError(
                    f"{name} {word!r} is not in the tiny world's grammar; allowed: {', '.join(allowed)} (nearest: {near!r})"
                )

    def __str__(self) -> str:
        return (
            f"a {self.colour} {self.shape} {MOTION_PHRASES[self.motion]} {PLACE_PHRASES[self.place]} "
            f"over a {self.pattern} {self.ground} background"
        )


VOCABULARY = {
    "shape": SHAPES,
    "colour": COLOURS,
    "motion": MOTIONS,
    "place": PLACES,
    "pattern": PATTERNS,
    "ground": GROUNDS,
}
ATTRIBUTES = tuple(field.name for field in fields(Caption))


def every_caption() -> list[Caption]:
    """Return all captions of the grammar, in the order of the vocabulary."""
    return [Caption(*words) for words in product(*(VOCABULARY[name] for name in ATTRIBUTES))]


def draw_caption(rng: np.random.Generator) -> Caption:
    """Draw a caption with uniform, independent attributes."""
    return Caption(**{name: str(rng.choice(VOCABULARY[name])) for name in ATTRIBUTES})


def draw_captions(count: int, *, seed: int) -> list[Caption]:
    """Draw `count` captions in which every word of an attribute appears equally often (to within one)."""
    return [Caption(**words) for words in balanced_words(VOCABULARY, count, seed=seed)]


def balanced_words(vocabulary: Mapping[str, Sequence[str]], count: int, *, seed: int) -> list[dict[str, str]]:
    """Draw `count` words of every attribute, each word equally often (to within one).

    For tables: a balanced draw removes chance from the mix of easy and hard words.
    """
    rng = np.random.default_rng(np.random.SeedSequence([seed, 0xCA97]))
    columns = {name: rng.permutation(np.resize(np.array(words), count)) for name, words in vocabulary.items()}
    return [{name: str(column[row]) for name, column in columns.items()} for row in range(count)]


def parse(prompt: str) -> Caption:
    """Return the caption that a prompt spells.

    Raises:
        ValueError: The prompt is not a sentence of the grammar; the message has the template, or the nearest caption.
    """
    sentence = " ".join(prompt.lower().split())
    words = sentence.removesuffix(".").split(" ")
    motion, place = _phrase_in(sentence, MOTION_PHRASES), _phrase_in(sentence, PLACE_PHRASES)
    if len(words) < 10 or motion is None or place is None:
        raise ValueError(
            f"cannot read the prompt {prompt!r}; the tiny world understands "
            f'"a COLOUR SHAPE MOTION PLACE over a PATTERN GROUND background", for example "{EXAMPLE}"; '
            f"MOTION is one of {list(MOTION_PHRASES.values())}, PLACE one of {list(PLACE_PHRASES.values())}"
        )
    caption = Caption(colour=words[1], shape=words[2], motion=motion, place=place, pattern=words[-3], ground=words[-2])
    if str(caption) != " ".join(words):
        raise ValueError(f'cannot read the prompt {prompt!r}; did you mean "{caption}"?')
    return caption


def _phrase_in(sentence: str, phrases: dict[str, str]) -> str | None:
    return next((word for word, phrase in phrases.items() if f" {phrase} " in sentence), None)


EXAMPLE = Caption(shape="ring", colour="red", motion="left", place="right", pattern="striped", ground="blue")
