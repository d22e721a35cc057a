"""The maps between latents of the large and of the small video that a run uses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ...pyramid.axes import is_auto
from ...pyramid.latent_shape import LatentShape
from ...pyramid.lift import Lift, lift_correction
from ...pyramid.stages import PyramidSpec, Stage
from ..comfyui.conditioning import halve_latent
from ..comfyui.finite import is_finite


def check_changes_size(spec: PyramidSpec) -> None:
    """Raise ValueError for a pyramid of patches, whose latents keep their size."""
    if spec.coarse == "patches":
        raise ValueError(
            "a lift enlarges latents, but those of a pyramid of patches keep their size; disconnect 'Pyramidal Lift from VAE'"
        )


@dataclass(frozen=True)
class VideoLift:
    """Lifts and drops for the latents of one VAE, in its scale; if empty, latents are resized.

    Attributes:
        name: Name that the nodes show.
        channels: Latent channels of the VAE.
        lifts: From the small to the large video, by the axes of a transition.
        drops: From the large to the small video, by the axes of a transition; averages where there is none.
        everywhere: Serves the axes without a lift and a drop of their own; None where there is no such map.
    """

    name: str
    channels: int
    lifts: Mapping[str, Lift] = field(default_factory=dict)
    drops: Mapping[str, Lift] = field(default_factory=dict)
    everywhere: Lift | None = None

    def check(self, spec: PyramidSpec, channels: int) -> None:
        """Check that the lift serves a pyramid and a model.

        Raises:
            ValueError: It is for another VAE, or lacks a transition of the pyramid.
        """
        if channels != self.channels:
            raise ValueError(
                f"the lift '{self.name}' expects {self.channels} latent channels; this model has {channels}: make one with "
                "the model's VAE"
            )
        self.check_axes(spec)

    def check_axes(self, spec: PyramidSpec) -> None:
        """Check that there is a lift for every transition of a pyramid.

        Raises:
            ValueError: A transition has no lift, or the pyramid's latents keep their size.
        """
        if self.lifts or self.everywhere:
            check_changes_size(spec)
        missing = sorted({axes for axes in spec.downsample_axes if not is_auto(axes)} - self.lifts.keys())
        if self.lifts and not self.everywhere and missing:
            raise ValueError(
                f"the lift '{self.name}' has no map for {', '.join(missing)}, which this pyramid downsamples; it has "
                f"{', '.join(sorted(self.lifts))}: connect the pyramid to 'Pyramidal Lift from VAE'"
            )

    def correction(self, clean: Tensor, fine: Stage, axes: str) -> Tensor:
        """Return what the upsampled clean prediction of a coarse stage lacks at the size of the finer one.

        Args:
            clean: The coarse stage's clean prediction, in the scale of the VAE.
            fine: The finer stage.
            axes: Axes of the transition.
        """
        assert fine.from_coarser is not None  # only the first stage of a pyramid has none
        lift = self.lifts.get(axes, self.everywhere)
        if lift is None:
            return clean.new_zeros(*clean.shape[:2], *fine.shape)
        return self._checked(lift_correction(clean, fine.from_coarser, lift))

    def down(self, latent: Tensor, axes: str) -> Tensor:
        """Return a latent, or several side by side in the channels, at the next coarser size."""
        drop = self.drops.get(axes, self.everywhere)
        if drop is None or latent.shape[1] % self.channels:
            return halve_latent(latent, axes)
        size = LatentShape(*latent.shape[2:]).coarser(axes)
        return self._checked(torch.cat([drop(part, size) for part in latent.split(self.channels, dim=1)], dim=1))

    def _checked(self, latent: Tensor) -> Tensor:
        """Return a latent that the lift made, if it holds numbers only."""
        if not is_finite(latent):
            raise ValueError(f"the lift '{self.name}' gives NaN or infinity; make another one, or disconnect it")
        return latent
