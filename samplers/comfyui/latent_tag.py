"""The tag that a LATENT between two stages carries.

The output of a stage is ``x / (1 - sigma)``: decoded, it shows amplified noise, and it is wrong in any other place of a graph.
The tag travels in the LATENT, which ComfyUI copies from node to node, so a wrong connection can be reported by name. A sampler
copies it to its finished video, too, so a tag only counts as long as the LATENT is still the one that it was made for.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

from torch import Tensor

from ...pyramid.latent_shape import LatentShape
from ...pyramid.stages import PyramidSpec

TAG_KEY = "pyramid"
"""Key of the tag in a LATENT."""

START, END, CLEAN = "start", "end", "clean"
"""States of a stage's LATENT: at the noisy end, at the clean end, or the clean prediction. ComfyUI's own sampler copies the
tag of its input, so its output still has the state START."""


SAME = 1e-3
"""Relative difference of a fingerprint that a change of precision explains."""

Fingerprint = tuple[float, float]
"""Mean square and mean magnitude of a video's latent; flipping or moving it does not change them."""


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
        fingerprints: One per video of the LATENT; none for ``START``, where a sampler follows.
    """

    spec: PyramidSpec
    stage: int
    size: LatentShape
    state: str
    given: Tensor | None = field(default=None, repr=False, compare=False)
    clean: Tensor | None = field(default=None, repr=False, compare=False)
    fingerprints: tuple[Fingerprint, ...] = field(default=(), repr=False, compare=False)


def tagged(latent: dict, tag: StageTag) -> dict:
    """Return a copy of the LATENT with the tag."""
    fingerprints = () if tag.state == START else _fingerprints(latent["samples"])
    return {**latent, TAG_KEY: replace(tag, fingerprints=fingerprints)}


def tag_of(latent: dict) -> StageTag | None:
    """Return the tag of a LATENT, or None if there is none or another node has sampled or changed the LATENT since.

    A draft that was resized keeps its tag: it is noise of the wrong size, and no video.
    """
    tag, samples = latent.get(TAG_KEY), latent["samples"]
    if not isinstance(tag, StageTag):
        return None
    resized = tag.state == END and tuple(samples.shape[2:]) != tuple(tag.spec.stages(tag.size)[tag.stage].shape)
    return tag if tag.state == START or resized or _is_any(_fingerprints(samples), tag.fingerprints) else None


def _fingerprints(samples: Tensor) -> tuple[Fingerprint, ...]:
    """Return the fingerprint of each video."""
    each = samples.detach().float().flatten(1)
    return tuple(zip(each.square().mean(1).tolist(), each.abs().mean(1).tolist(), strict=True))


def _is_any(some: tuple[Fingerprint, ...], known: tuple[Fingerprint, ...]) -> bool:
    """Return whether one of some fingerprints is known."""
    return any(
        all(math.isclose(new, old, rel_tol=SAME) for new, old in zip(made, kept, strict=True))
        for made in some
        for kept in known
    )


def check_same_pyramid(tag: StageTag, spec: PyramidSpec) -> None:
    """Check that a tagged LATENT comes from this pyramid.

    Raises:
        ValueError: It comes from a different one.
    """
    if tag.spec != spec:
        raise ValueError("this LATENT comes from a different pyramid; connect the same 'Pyramid' to all nodes of the run")
