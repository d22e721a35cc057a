"""Locate the latents of one size from which each latent of another size is computed.

The latents of two sizes lie on grids over the same picture. Output i of an axis lies at ``u = (i + 1/2) * inputs / outputs``
in units of inputs and sees the ``kernel`` inputs nearest to u. Its phase is the fraction of u: where the ratio of the sizes
is p / q, there are p phases, which repeat after p outputs.
"""

# Latents are (B, C, T, H, W). The causal VAE of Wan encodes one pixel frame into latent frame 0 and four into each of the
# others, so frame 0 is a class of its own: it never sees the other frames, and they never see it.

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

Size = tuple[int, int, int]
"""Latent frames, rows and columns."""

Ratios = tuple[Fraction, Fraction, Fraction]
"""Output size over input size on the time, height and width axes; time counts the frames other than 0."""

MAX_PHASES = 8
"""Phases per axis where the ratio has more: positions are then assigned to the nearest of 8 equally spaced phases."""

TOLERANCE = 0.15
"""Largest relative difference between the ratio that a map was fitted for and the one it is used for.

Stages are whole patches, so a side of 8 latents misses the ratio by up to 14 per cent. On the tiny VAE, the map for 2 / 3
leaves 0.20 of the variance at 12 of 18 latents, 0.35 at 14 of 22 and 0.45 at 10 of 16; the resize leaves 0.9 and more.
"""


def size_of(latent: Tensor) -> Size:
    """Return the frames, rows and columns of a latent ``(..., T, H, W)``."""
    frames, height, width = latent.shape[-3:]
    return frames, height, width


def ratios_between(source: Size, target: Size) -> Ratios:
    """Return the ratios of two sizes; ValueError without frames other than 0."""
    if min(source[0], target[0]) < 2:
        raise ValueError(f"a fit needs clips of at least 2 latent frames, got {source[0]} and {target[0]}")
    return Fraction(target[0] - 1, source[0] - 1), Fraction(target[1], source[1]), Fraction(target[2], source[2])


def check_ratios(ratios: Ratios, source: Size, target: Size) -> None:
    """Raise ValueError where the sizes do not have these ratios, exactly in time and to within the tolerance in space."""
    given = [Fraction(target[1], source[1]), Fraction(target[2], source[2])]
    near = all(abs(float(g / ratio) - 1) <= TOLERANCE for g, ratio in zip(given, ratios[1:], strict=True))
    if not near or target[0] - 1 != (source[0] - 1) * ratios[0]:
        expected = " x ".join(f"{float(ratio):.4g}" for ratio in ratios)
        sizes = " to ".join("x".join(map(str, size)) for size in (source, target))
        raise ValueError(
            f"the fitted map changes the size by {expected} (frames after the first, rows, columns), got latents of {sizes}"
        )


@dataclass(frozen=True)
class FrameClass:
    """Latent frame 0, or all the others: which frames these are, and how positions of their outputs are sampled."""

    slice: slice
    ratios: Ratios
    kernel: Size

    @property
    def phases(self) -> Size:
        """Return the phases along the time, height and width axes."""
        time, height, width = (min(ratio.numerator, MAX_PHASES) for ratio in self.ratios)
        return time, height, width

    def inputs(self, channels: int) -> int:
        """Return the number of input values per output."""
        return channels * math.prod(self.kernel)

    def groups(self, source: Size, target: Size) -> Iterator[OutputGroup]:
        """Yield the outputs of size ``target``, one frame and one phase in space at a time."""
        axes = [Axis(*values) for values in zip(source, target, self.ratios, self.kernel, self.phases, strict=True)]
        time, height, width = axes
        phases = list(itertools.product(range(height.phases), range(width.phases)))
        for frame, (row_phase, column_phase) in itertools.product(range(time.outputs), phases):
            rows, columns = height.of_phase(row_phase), width.of_phase(column_phase)
            yield OutputGroup(
                phase=(int(time.phase(np.array(frame))), row_phase, column_phase),
                positions=(frame, rows, columns),
                windows=(time.window(np.array([frame])), height.window(rows), width.window(columns)),
            )


@dataclass(frozen=True)
class Axis:
    """Sampling positions along one axis; see the top of the file."""

    inputs: int
    outputs: int
    ratio: Fraction
    kernel: int
    phases: int

    def phase(self, positions: np.ndarray) -> np.ndarray:
        """Return the phase of each output."""
        return self._nearest(positions) % self.phases

    def of_phase(self, phase: int) -> np.ndarray:
        """Return the outputs that have this phase."""
        positions = np.arange(self.outputs)
        return positions[self.phase(positions) == phase]

    def window(self, positions: np.ndarray) -> np.ndarray:
        """Return the inputs that these outputs see, ``(positions, kernel)``; beyond an edge the last input repeats."""
        start = (2 * self._nearest(positions) + 1 - self._from_zero - (self.kernel - 1) * self.phases) // (2 * self.phases)
        return (start[..., None] + np.arange(self.kernel)).clip(0, self.inputs - 1)

    @property
    def _from_zero(self) -> bool:
        """Return whether the phases lie at k / phases, as they do where u is a whole number for some outputs."""
        return self.phases == self.ratio.numerator and self.ratio.denominator % 2 == 0

    def _nearest(self, positions: np.ndarray) -> np.ndarray:
        """Return the number k of the nearest position that has a phase,
        in integer arithmetic, to avoid rounding ties.
        """
        twice = (2 * positions + 1) * self.inputs * self.phases + self._from_zero * self.outputs
        return twice // (2 * self.outputs)


@dataclass(frozen=True)
class OutputGroup:
    """Outputs of one frame that share a phase.

    positions: frame, rows and columns of the outputs. windows: the inputs that they see, ``(outputs, kernel)`` per axis.
    """

    phase: tuple[int, int, int]
    positions: tuple[int, np.ndarray, np.ndarray]
    windows: tuple[np.ndarray, np.ndarray, np.ndarray]

    def neighbourhoods(self, source: Tensor) -> Tensor:
        """Gather what each output sees: ``(B, C, T, H, W)`` to ``(B, rows, columns, C * k_t * k_h * k_w)``."""
        time, rows, columns = (torch.from_numpy(window).to(source.device) for window in self.windows)
        # (k_t, rows, k_h, columns, k_w)
        seen = source[:, :, time[0][:, None, None, None, None], rows[:, :, None, None], columns]
        return rearrange(seen, "b c kt h kh w kw -> b h w (c kt kh kw)")

    def outputs(self, device: torch.device) -> tuple[slice, slice, int, Tensor, Tensor]:
        """Return the index of the outputs in ``(B, C, T, H, W)``."""
        frame, rows, columns = self.positions
        everything = slice(None)
        return everything, everything, frame, torch.from_numpy(rows[:, None]).to(device), torch.from_numpy(columns).to(device)


def frame_classes(ratios: Ratios, kernel: Size) -> tuple[FrameClass, FrameClass]:
    """Return the classes of latent frame 0, which stands alone in time, and of the other frames."""
    alone = FrameClass(slice(0, 1), (Fraction(1), *ratios[1:]), (1, *kernel[1:]))
    return alone, FrameClass(slice(1, None), ratios, kernel)
