"""Sizes of Wan's latents and of the videos they decode to."""

from __future__ import annotations

from typing import NamedTuple

CHANNELS = 16
"""Latent channels of Wan 2.1 and of Wan 2.2's 14B models."""

VAE_SPACE = 8
"""Pixels per latent on the height and width axes."""

VAE_TIME = 4
"""Video frames per latent frame; the first latent frame holds the first video frame alone."""

PATCH = 2
"""Latents per token on the height and width axes."""


class LatentShape(NamedTuple):
    """Size of a latent in latent frames, rows and columns."""

    frames: int
    height: int
    width: int

    @classmethod
    def of_video(cls, frames: int, height: int, width: int) -> LatentShape:
        """Return the size of the latent of a video of ``1 + 4k`` frames, height and width in pixels."""
        return cls((frames - 1) // VAE_TIME + 1, height // VAE_SPACE, width // VAE_SPACE)

    def halved(self, axes: str) -> LatentShape:
        """Return the next coarser size.

        Raises:
            ValueError: An axis has an odd number of blocks.
        """
        if "HW" in axes and (self.height % 2 or self.width % 2):
            raise ValueError(f"a latent of {self.height}x{self.width} cannot be halved: both sides must be even")
        if "T" in axes and self.frames % 2 == 0:
            raise ValueError(f"{self.frames} latent frames cannot be halved: the number must be odd (1 + 2k)")
        return LatentShape(
            frames=(self.frames + 1) // 2 if "T" in axes else self.frames,
            height=self.height // 2 if "HW" in axes else self.height,
            width=self.width // 2 if "HW" in axes else self.width,
        )

    def doubled(self, axes: str) -> LatentShape:
        """Return the next finer size; the inverse of ``halved``."""
        return LatentShape(
            frames=2 * self.frames - 1 if "T" in axes else self.frames,
            height=2 * self.height if "HW" in axes else self.height,
            width=2 * self.width if "HW" in axes else self.width,
        )
