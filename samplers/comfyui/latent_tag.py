"""What a LATENT between stages says about itself.

A latent that a stage hands out is ``x / (1 - sigma)``: amplified noise when decoded, and wrong at any other place. The tag
travels in the LATENT, which the host copies from node to node, so the wrong place can be named.
"""

from __future__ import annotations

from dataclasses import dataclass

from ...pyramid.latent_shape import LatentShape
from ...pyramid.stages import PyramidSpec

KEY = "pyramid"

START, END, CLEAN = "start", "end", "clean"
"""Where in its stage: at the noisy end, at the clean end, or the clean prediction. The host's own sampler copies the
tag of what it was given, so behind it a latent still says START."""


@dataclass(frozen=True)
class StageTag:
    """spec: the pyramid. stage: index in running order. size: of the full-resolution latent. state: see above."""

    spec: PyramidSpec
    stage: int
    size: LatentShape
    state: str


def tagged(latent: dict, tag: StageTag) -> dict:
    return {**latent, KEY: tag}


def tag_of(latent: dict) -> StageTag | None:
    tag = latent.get(KEY)
    return tag if isinstance(tag, StageTag) else None


def check_same_pyramid(tag: StageTag, spec: PyramidSpec) -> None:
    if tag.spec != spec:
        raise ValueError("this LATENT comes from another pyramid than the one given here; wire the same 'Pyramid' to all nodes")
