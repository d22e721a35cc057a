"""Sizes of Wan's latents and of the videos they decode to."""

from __future__ import annotations

from fractions import Fraction
from typing import NamedTuple

from .axes import is_auto, space_scale

CHANNELS = 16
"""Latent channels of Wan 2.1 and of Wan 2.2's 14B models."""

VAE_SPACE = 8
"""Pixels per latent on the height and width axes."""

VAE_TIME = 4
"""Video frames per latent frame; the first latent frame holds the first video frame alone."""

PATCH = 2
"""Latents per token on the height and width axes."""


def latent_frames(frames: int) -> int:
    """Return the number of latent frames of a video of ``1 + 4k`` frames."""
    return (frames - 1) // VAE_TIME + 1


def video_frames(latents: int) -> int:
    """Return the number of video frames that latent frames decode to, ``1 + 4k``."""
    return (latents - 1) * VAE_TIME + 1


class LatentShape(NamedTuple):
    """Size of a latent in latent frames, rows and columns."""

    frames: int
    height: int
    width: int

    @classmethod
    def of_video(cls, frames: int, height: int, width: int) -> LatentShape:
        """Return the size of the latent of a video of ``1 + 4k`` frames, height and width in pixels."""
        return cls(latent_frames(frames), height // VAE_SPACE, width // VAE_SPACE)

    def coarser(self, axes: str) -> LatentShape:
        """Return the next coarser size.

        A scale of height and width rounds to whole patches, upwards from the middle between two: 90x160 latents at 2/3 become
        60x106, and 60x104 at 3/4 become 46x78.

        Args:
            axes: What the transition shrinks, see ``pyramid.axes``.

        Raises:
            ValueError: An axis has an odd number of blocks or is too small, or the scale is not known.
        """
        if is_auto(axes):
            raise ValueError("the scale 'auto' depends on the size of the video, which is not known here; choose a scale")
        scale = space_scale(axes)
        if "T" in axes and self.frames % 2 == 0:
            raise ValueError(f"{self.frames} latent frames cannot be halved: the number must be odd (1 + 2k)")
        frames = (self.frames + 1) // 2 if "T" in axes else self.frames
        if "HW" not in axes:
            return LatentShape(frames, self.height, self.width)
        if scale is not None:
            return LatentShape(frames, _scaled(self.height, scale), _scaled(self.width, scale))
        if self.height % 2 or self.width % 2:
            raise ValueError(f"a latent of {self.height}x{self.width} cannot be halved: both sides must be even")
        return LatentShape(frames, self.height // 2, self.width // 2)

    def doubled(self, axes: str) -> LatentShape:
        """Return the next finer size where ``axes`` halve; the inverse of ``coarser``."""
        return LatentShape(
            frames=2 * self.frames - 1 if "T" in axes else self.frames,
            height=2 * self.height if "HW" in axes else self.height,
            width=2 * self.width if "HW" in axes else self.width,
        )


def _scaled(side: int, scale: Fraction) -> int:
    """Return a side at a scale in whole patches, smaller than it was."""
    patches = int(side * scale / PATCH + Fraction(1, 2))
    patches = min(max(1, patches), (side - 1) // PATCH)
    if not patches:
        raise ValueError(f"a side of {side} latents cannot shrink: a stage has at least {PATCH}")
    return patches * PATCH
