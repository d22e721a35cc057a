"""Fit a lift or a drop in closed form, on pairs of latents that a VAE encoded from one video at two sizes.

Everything follows from sums of products over the pairs: the weights, and their error on the pairs that are held out. Pairs are
therefore read once, one after the other, and any number of them needs the same memory.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from .lift import LinearMap
from .neighbourhoods import Ratios, Size, check_ratios, frame_classes, ratios_between, size_of

LIFT_RIDGE, DROP_RIDGE = 1e-2, 1e-3
"""Penalties of the weights, in units of the variance of the latents."""


@dataclass(frozen=True)
class FrameFit:
    """Held-out mean square error and variance of one class of frames, per channel."""

    error: tuple[float, ...]
    variance: tuple[float, ...]

    @property
    def mean_error(self) -> float:
        """Return the mean square error over the channels."""
        return sum(self.error) / len(self.error)

    @property
    def mean_variance(self) -> float:
        """Return the variance over the channels."""
        return sum(self.variance) / len(self.variance)


@dataclass(frozen=True)
class FitReport:
    """Error of a fitted map on held-out pairs.

    Attributes:
        first: Latent frame 0.
        rest: The other frames.
        fitted_pairs: Number of pairs that the map was fitted on.
        held_out_pairs: Number of pairs that the errors are from.
    """

    first: FrameFit
    rest: FrameFit
    fitted_pairs: int
    held_out_pairs: int


class PairSums:
    """Sums of products over pairs of latents, from which both the fit and its error follow; memory does not grow."""

    def __init__(self, *, source: Size, target: Size, channels: int, kernel: Size | None = None):
        """Start with empty sums.

        Args:
            source: Size of the map's input; only the ratios of the sizes matter.
            target: Size of the map's output.
            channels: Latent channels.
            kernel: Inputs that one output sees along time, height and width; None for that of ``default_kernel``.
        """
        self.ratios, self.pairs = ratios_between(source, target), 0
        self.kernel = default_kernel(self.ratios) if kernel is None else kernel
        self.frame_classes = frame_classes(self.ratios, self.kernel)
        self.sums = [_Sums.zeros(frames.phases, frames.inputs(channels) + 1, channels) for frames in self.frame_classes]

    def add(self, source: Tensor, target: Tensor) -> None:
        """Add one pair of latents ``(B, C, T, H, W)``."""
        check_ratios(self.ratios, size_of(source), size_of(target))
        self.pairs += 1
        for frames, sums in zip(self.frame_classes, self.sums, strict=True):
            x, y = source[:, :, frames.slice].float(), target[:, :, frames.slice].float()
            for group in frames.groups(size_of(x), size_of(y)):
                inputs = group.neighbourhoods(x).flatten(0, 2)
                targets = rearrange(y[group.outputs(y.device)], "b c h w -> (b h w) c")
                sums.add(group.phase, inputs.cpu().numpy(), targets.cpu().numpy())

    def solve(self, *, ridge: float) -> LinearMap:
        """Minimise ``mean |target - M [source; 1]|^2 + ridge * |M|^2``; the bias is not penalised."""
        for sums in self.sums:
            sums.check_samples()
        first, rest = (torch.from_numpy(sums.solve(ridge)).float() for sums in self.sums)
        return LinearMap(ratios=self.ratios, kernel=self.kernel, first=first, rest=rest)

    def errors(self, fitted: LinearMap) -> tuple[FrameFit, FrameFit]:
        """Return the errors of a map on these pairs."""
        weights = (fitted.first, fitted.rest)
        for sums in self.sums:
            sums.check_samples()
        first, rest = (sums.error(w.cpu().numpy()) for sums, w in zip(self.sums, weights, strict=True))
        return first, rest


@dataclass(frozen=True)
class _Sums:
    """``X^T X``, ``X^T Y`` and ``Y^2`` in float64, per phase; the last column of X is 1."""

    xx: np.ndarray
    xy: np.ndarray
    yy: np.ndarray

    @classmethod
    def zeros(cls, phases: Size, inputs: int, channels: int) -> _Sums:
        return cls(np.zeros((*phases, inputs, inputs)), np.zeros((*phases, inputs, channels)), np.zeros((*phases, channels)))

    def add(self, phase: Size, inputs: np.ndarray, targets: np.ndarray) -> None:
        x = np.concatenate([inputs, np.ones((len(inputs), 1))], axis=1, dtype=np.float64)
        y = targets.astype(np.float64)
        self.xx[phase] += x.T @ x
        self.xy[phase] += x.T @ y
        self.yy[phase] += (y * y).sum(axis=0)

    def check_samples(self) -> None:
        """Raise ValueError where a phase has no samples."""
        if not self.xx[..., -1, -1].all():
            raise ValueError(
                "the pairs do not cover every position that the fitted map distinguishes: "
                "use larger clips, and clips of more than one latent frame"
            )

    def solve(self, ridge: float) -> np.ndarray:
        """Return the weights ``(*phases, C, inputs)``."""
        penalty = np.full(self.xx.shape[-1], ridge)
        penalty[-1] = 0.0
        count = self.xx[..., -1:, -1:]
        return np.swapaxes(np.linalg.solve(self.xx + count * np.diag(penalty), self.xy), -1, -2)

    def error(self, weights: np.ndarray) -> FrameFit:
        """Return the mean square error from the sums: ``|Y|^2 - 2 <M, Y^T X> + <M X^T X, M>``."""
        m = np.swapaxes(weights.astype(np.float64), -1, -2)
        squares = self.yy - 2 * (m * self.xy).sum(axis=-2) + (m * (self.xx @ m)).sum(axis=-2)
        phases, count = (0, 1, 2), self.xx[..., -1, -1].sum()
        mean = self.xy[..., -1, :].sum(axis=phases) / count
        variance = self.yy.sum(axis=phases) / count - mean**2
        return FrameFit(tuple((squares.sum(axis=phases) / count).tolist()), tuple(variance.tolist()))


def fit_lift(
    pairs: Iterable[tuple[Tensor, Tensor]], *, kernel: Size | None = None, ridge: float = LIFT_RIDGE, hold_out: int = 5
) -> tuple[LinearMap, FitReport]:
    """Fit the map from the small video's latents to the large one's.

    Args:
        pairs: clean latents of the same video, (small, large), each ``(B, C, T, H, W)`` and in the model's normalisation;
            all of one ratio of sizes. Read once. Single frames are allowed after the first pair; they only fit the map of
            frame 0, for which each clip yields few samples.
        kernel: latents of the small video that one latent of the large one sees along time, height and width; None
            takes ``default_kernel``.
        ridge: penalty, in units of the variance of the latents.
        hold_out: hold out every n-th pair to measure the error.
    """
    return _fit(pairs, kernel=kernel, ridge=ridge, hold_out=hold_out)


def fit_drop(
    pairs: Iterable[tuple[Tensor, Tensor]], *, kernel: Size | None = None, ridge: float = DROP_RIDGE, hold_out: int = 5
) -> tuple[LinearMap, FitReport]:
    """Fit the map from the large video's latents to the small one's; see ``fit_lift``, the pairs are the same."""
    return _fit(((large, small) for small, large in pairs), kernel=kernel, ridge=ridge, hold_out=hold_out)


def default_kernel(ratios: Ratios) -> Size:
    """Return the kernel that a few dozen clips suffice for: 3x3, or 4x4 downwards; in time only what is merged.

    A kernel of three frames in time has three times as many weights and does worse on fewer than about 50 clips.
    """
    time, height, width = ratios
    return 2 if time < 1 else 1, 4 if height < 1 else 3, 4 if width < 1 else 3


class RunningFit:
    """A fit that grows with its pairs: it can be solved at any time, and ``gain`` shows when more pairs stop helping."""

    def __init__(self, *, ridge: float, kernel: Size | None = None):
        """Start without pairs; see ``fit_lift`` for the options."""
        if not ridge > 0:
            raise ValueError(
                f"ridge must be above 0, got {ridge}: inputs repeated beyond an edge would leave the fit undetermined"
            )
        self.ridge, self.kernel = ridge, kernel
        self.fitted: PairSums | None = None
        self.held_out: PairSums | None = None

    def add(self, source: Tensor, target: Tensor, *, held_out: bool) -> None:
        """Add a pair to the fit, or to those that measure its error."""
        if self.fitted is None or self.held_out is None:
            sizes = {"source": size_of(source), "target": size_of(target), "channels": source.shape[1]}
            self.fitted, self.held_out = (PairSums(**sizes, kernel=self.kernel) for _ in range(2))
        (self.held_out if held_out else self.fitted).add(source, target)

    def solve(self) -> tuple[LinearMap, FitReport]:
        """Return the map and its error on the held-out pairs.

        Raises:
            ValueError: No pair is held out, or the pairs do not determine the map.
        """
        if self.fitted is None or self.held_out is None or not self.held_out.pairs:
            raise ValueError("a fit needs pairs of latents, and others that are held out to measure its error")
        result = self.fitted.solve(ridge=self.ridge)
        first, rest = self.held_out.errors(result)
        return result, FitReport(first, rest, self.fitted.pairs, self.held_out.pairs)

    def gain(self, before: LinearMap) -> float:
        """Return the share of the held-out variance that the map explains more than an earlier one, on all present pairs.

        It is that of the class of frames that gained most.
        """
        assert self.held_out is not None  # the earlier map was solved from it
        _, report = self.solve()
        earlier = self.held_out.errors(before)
        return max(
            (old.mean_error - new.mean_error) / new.mean_variance
            for old, new in zip(earlier, (report.first, report.rest), strict=True)
        )


def _fit(
    pairs: Iterable[tuple[Tensor, Tensor]], *, kernel: Size | None, ridge: float, hold_out: int
) -> tuple[LinearMap, FitReport]:
    if hold_out < 2:
        raise ValueError(f"hold_out keeps every n-th pair out of the fit and must be at least 2, got {hold_out}")
    fit, count = RunningFit(ridge=ridge, kernel=kernel), 0
    for source, target in pairs:
        count += 1
        fit.add(source, target, held_out=count % hold_out == 0)
    if count < hold_out:
        raise ValueError(f"a fit needs at least {hold_out} pairs of latents, every {hold_out}th to measure the error")
    return fit.solve()
