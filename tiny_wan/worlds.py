"""The worlds that the recipes train on and the benchmarks sample."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from .leaves import grammar as leaves_grammar
from .leaves import scenes as leaves_scenes
from .world import grammar, scenes
from .world.words import embed_words


class SceneAt(Protocol):
    """Return scene number `index` of the endless stream `seed`."""

    def __call__(self, index: int, *, seed: int) -> Any: ...


class SceneFor(Protocol):
    """Return the ground truth for a caption and a seed."""

    def __call__(self, caption: Any, *, seed: int) -> Any: ...


class Render(Protocol):
    """Render scenes: (B, 3, frames, height, width) in -1..1."""

    def __call__(self, scenes: Sequence[Any], *, frames: int, height: int, width: int) -> Tensor: ...


class DrawCaptions(Protocol):
    """Draw captions in which every word of an attribute appears equally often."""

    def __call__(self, count: int, *, seed: int) -> list[Any]: ...


@dataclass(frozen=True)
class World:
    """A seeded stream of captioned clips.

    Attributes:
        name: Its name in file names.
        vocabulary: The attributes of a caption and their words.
        draw_captions: Draws balanced captions.
        scene_at: Returns a scene of the stream, which has a `caption`.
        scene_for: Returns a scene of a caption.
        render: Renders scenes.
    """

    name: str
    vocabulary: Mapping[str, Sequence[str]]
    draw_captions: DrawCaptions
    scene_at: SceneAt
    scene_for: SceneFor
    render: Render

    def embed_all(self, captions: Sequence[Any]) -> Tensor:
        """Return the conditioning of captions, None being the empty prompt: (B, number of attributes, 4096)."""
        return torch.stack([embed_words(caption, length=len(self.vocabulary)) for caption in captions])


SHAPES = World("shapes", grammar.VOCABULARY, grammar.draw_captions, scenes.scene_at, scenes.scene_for, scenes.render)
LEAVES = World(
    "leaves", leaves_grammar.VOCABULARY, leaves_grammar.draw_captions, leaves_scenes.scene_at, leaves_scenes.scene_for,
    leaves_scenes.render,
)  # fmt: skip
WORLDS = {world.name: world for world in (SHAPES, LEAVES)}
