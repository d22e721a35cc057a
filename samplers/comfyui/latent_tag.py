"""The tag that a LATENT between two stages carries.

The output of a stage is ``x / (1 - sigma)``: decoded, it shows amplified noise, and it is wrong in any other place of a graph.
The tag travels in the LATENT, which ComfyUI copies from node to node, so a wrong connection can be reported by name.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from ...pyramid.latent_shape import LatentShape
from ...pyramid.stages import PyramidSpec

TAG_KEY = "pyramid"
"""Key of the tag in a LATENT."""

START, END, CLEAN = "start", "end", "clean"
"""States of a stage's LATENT: at the noisy end, at the clean end, or the clean prediction. ComfyUI's own sampler copies the
tag of its input, so its output still has the state START."""


@dataclass(frozen=True)
class StageTag:
    """The position of a LATENT in a run.

    Attributes:
        spec: The pyramid.
        stage: Index of the stage in running order.
        size: Size of the full-resolution latent.
        state: ``START``, ``END`` or ``CLEAN``.
        given: The full-size video that the LATENT's noise mask keeps, or None.
        clean: The stage's clean prediction, which a lift needs when the run resumes, or None.
    """

    spec: PyramidSpec
    stage: int
    size: LatentShape
    state: str
    given: Tensor | None = field(default=None, repr=False, compare=False)
    clean: Tensor | None = field(default=None, repr=False, compare=False)


def tagged(latent: dict, tag: StageTag) -> dict:
    """Return a copy of the LATENT with the tag."""
    return {**latent, TAG_KEY: tag}


def tag_of(latent: dict) -> StageTag | None:
    """Return the tag of a LATENT, or None."""
    tag = latent.get(TAG_KEY)
    return tag if isinstance(tag, StageTag) else None


def check_same_pyramid(tag: StageTag, spec: PyramidSpec) -> None:
    """Check that a tagged LATENT comes from this pyramid.

    Raises:
        ValueError: It comes from a different one.
    """
    if tag.spec != spec:
        raise ValueError("this LATENT comes from a different pyramid; connect the same 'Pyramid' to all nodes of the run")
