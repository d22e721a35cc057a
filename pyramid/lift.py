"""Maps between the latents of one video at two sizes, and their closed-form fit on pairs that a VAE encoded.

A VAE's latent of a small video is not the average of its latent of the large one. Enlarging a clean prediction with an
orthonormal resize is therefore wrong in both bands, and the finer stage starts from a video without texture. A lift maps the
clean latent of the small video to that of the large one. The transition then becomes

    start = alpha * up(x) + sigma_n * (z - up(down(z))) + (1 - sigma_n) * (lift(clean_hat) - up(clean_hat)),

which leaves the noise alone: its covariance stays ``sigma_n ** 2`` times the identity, and a lift that equals ``up`` gives the
plain transition. A drop is the map in the other direction, from the large video to the small one.
"""

# Derived: x = (1 - sigma) * clean + sigma * noise is known at the coarse size; up(clean) is exchanged for lift(clean), scaled
# by the share of the signal at the fine noisy end. Latents are (B, C, T, H, W) in the model's normalisation. The causal VAE
# of Wan encodes one pixel frame into latent frame 0 and four into each of the others, so frame 0 always has a map of its own.

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Protocol

import torch
from einops import rearrange
from torch import Tensor

from .neighbourhoods import FrameClass, Ratios, Size, check_ratios, frame_classes, size_of
from .resize import OrthonormalResize
from .untrusted import read_json_object, shown

FORMAT = 1
METADATA_KEY = "pyramid_latent_map"

MAX_RATIO = 8
"""Largest change of a side that a file of a fitted map may name."""

MAX_KERNEL = 15
"""Largest side of the neighbourhoods that a file of a fitted map may name."""


class Lift(Protocol):
    """Map clean latents ``(B, C, T, H, W)`` to those of the same video at another size; drops have this form, too."""

    def __call__(self, clean: Tensor, size: Size) -> Tensor:
        """Return latents ``(B, C, *size)``."""
        ...


@dataclass(frozen=True)
class ResizeLift:
    """The orthonormal resize itself; the transition stays what it is without a lift, bit for bit."""

    resize: OrthonormalResize

    def __call__(self, clean: Tensor, size: Size) -> Tensor:
        """Return ``clean`` at another size, ``(B, C, *size)``."""
        return _checked(self.resize.up(clean), clean, size)


@dataclass(frozen=True)
class ResizeDrop:
    """The orthonormal resize downwards: latents of the large video are averaged."""

    resize: OrthonormalResize

    def __call__(self, clean: Tensor, size: Size) -> Tensor:
        """Return ``clean`` at another size, ``(B, C, *size)``."""
        return _checked(self.resize.down(clean), clean, size)


@dataclass(frozen=True)
class FunctionLift:
    """A lift that is computed elsewhere, for example by decoding, enlarging the pixels and encoding.

    Attributes:
        function: Takes the clean latents and the size, and returns latents of that size; device and dtype may differ.
    """

    function: Callable[[Tensor, Size], Tensor]

    def __call__(self, clean: Tensor, size: Size) -> Tensor:
        """Return ``clean`` at another size, ``(B, C, *size)``."""
        return _checked(self.function(clean, size), clean, size).to(clean)


def lift_correction(clean: Tensor, resize: OrthonormalResize, lift: Lift) -> Tensor:
    """Return ``lift(clean) - up(clean)``, which is added to the signal of a plain transition.

    Args:
        clean: The coarse stage's last clean prediction, ``(B, C, T, h, w)``.
        resize: The resize of the transition; its ``up`` fixes the size.
        lift: Enlarges the clean prediction.
    """
    plain = resize.up(clean)
    return lift(clean, size_of(plain)) - plain


@dataclass(frozen=True)
class LinearMap:
    """An affine map of each output position's neighbourhood; fitted by ``fit_lift`` or ``fit_drop``.

    Each phase has weights of its own: a doubled axis has two phases, a halved one has one, and one that grows by 3 / 2 has
    three. (On dead leaves encoded by the tiny VAE, 32 clips to fit and 8 held out, they leave 0.20 of the variance of frame 0
    at 3 / 2 and at 4 / 3; a DCT resampling followed by one 3x3 or 5x5 convolution leaves 0.51. Downwards it is 0.02 and 0.05
    against 0.46.)

    Attributes:
        ratios: Output size over input size on the time, height and width axes; time counts the frames other than 0.
        kernel: Inputs that one output sees along the time, height and width axes; beyond an edge the last input repeats.
        first: Weights of frame 0, ``(1, phases_h, phases_w, C, C * k_h * k_w + 1)``; the last column is the bias.
        rest: Weights of the other frames, ``(phases_t, phases_h, phases_w, C, C * k_t * k_h * k_w + 1)``.
    """

    ratios: Ratios
    kernel: Size
    first: Tensor
    rest: Tensor

    def __call__(self, clean: Tensor, size: Size) -> Tensor:
        """Return ``clean`` at another size, ``(B, C, *size)``.

        Raises:
            ValueError: The map is for other channels or another ratio of sizes.
        """
        self.check(channels=clean.shape[1], source=size_of(clean), target=size)
        dtype = torch.promote_types(clean.dtype, self.first.dtype)
        out = clean.new_empty(*clean.shape[:2], *size)
        for frames, weights in zip(self.frame_classes, (self.first, self.rest), strict=True):
            source, target = clean[:, :, frames.slice].to(dtype), out[:, :, frames.slice]
            weights = weights.to(source)
            for group in frames.groups(size_of(source), size_of(target)):
                matrix = weights[group.phase]
                values = group.neighbourhoods(source) @ matrix[:, :-1].T + matrix[:, -1]
                target[group.outputs(target.device)] = rearrange(values, "b h w c -> b c h w").to(target)
        return out

    @property
    def frame_classes(self) -> tuple[FrameClass, FrameClass]:
        """Return the classes of latent frame 0 and of the other frames."""
        return frame_classes(self.ratios, self.kernel)

    @property
    def channels(self) -> int:
        """Return the number of latent channels that the map reads and writes."""
        return self.first.shape[-2]

    def check(self, *, channels: int, source: Size, target: Size) -> None:
        """Raise ValueError where the map does not fit these latents, so that it can be known before sampling."""
        if channels != self.channels:
            raise ValueError(f"the fitted map is for latents of {self.channels} channels, got {channels}")
        check_ratios(self.ratios, source, target)

    def to_tensors(self) -> tuple[dict[str, Tensor], dict[str, str]]:
        """Return tensors and metadata for a safetensors file; ``from_tensors`` is the inverse."""
        values = {"format": FORMAT, "ratios": [str(ratio) for ratio in self.ratios], "kernel": self.kernel}
        return {"first": self.first, "rest": self.rest}, {METADATA_KEY: json.dumps(values)}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None) -> LinearMap:
        """Build the map from what ``to_tensors`` returned; ValueError for anything else."""
        if not metadata or METADATA_KEY not in metadata:
            raise ValueError(f"the file's metadata has no '{METADATA_KEY}': it is not a fitted lift or drop")
        values = read_json_object(metadata[METADATA_KEY], "the fitted map")
        if values.get("format") != FORMAT:
            raise ValueError(f"the fitted map has format {shown(values.get('format'))}; this version reads format {FORMAT}")
        if missing := sorted({"first", "rest"} - set(tensors)):
            raise ValueError(f"the fitted map has no tensor {', '.join(missing)}")
        ratios, kernel = _ratios(values.get("ratios")), _kernel(values.get("kernel"))
        for frames, name in zip(frame_classes(ratios, kernel), ("first", "rest"), strict=True):
            channels = tensors[name].shape[-2] if tensors[name].ndim > 1 else 0
            expected = (*frames.phases, channels, frames.inputs(channels) + 1)
            if tensors[name].shape != expected or not channels:
                raise ValueError(f"tensor '{name}' has shape {tuple(tensors[name].shape)}; expected {expected}")
        return cls(ratios=ratios, kernel=kernel, first=tensors["first"], rest=tensors["rest"])


def _ratios(texts: object) -> Ratios:
    """Return the ratios that a file names, such as ["2", "1", "3/2"]."""
    if isinstance(texts, list) and len(texts) == 3 and all(isinstance(text, str) and len(text) < 16 for text in texts):
        try:
            time, height, width = map(Fraction, texts)
        except (ValueError, ZeroDivisionError):
            pass
        else:
            if all(Fraction(1, MAX_RATIO) <= ratio <= MAX_RATIO for ratio in (time, height, width)):
                return time, height, width
    raise ValueError(f"the ratios of the fitted map are {shown(texts)}; expected three such as '2', '1/2' or '3/2'")


def _kernel(sizes: object) -> Size:
    """Return the size of the neighbourhoods that a file names, such as [3, 3, 3]."""
    if isinstance(sizes, list) and len(sizes) == 3 and all(isinstance(s, int) and 1 <= s <= MAX_KERNEL for s in sizes):
        return sizes[0], sizes[1], sizes[2]
    raise ValueError(f"the kernel of the fitted map is {shown(sizes)}; expected three numbers from 1 to {MAX_KERNEL}")


def _checked(result: Tensor, clean: Tensor, size: Size) -> Tensor:
    expected = (*clean.shape[:2], *size)
    if result.shape != expected:
        raise ValueError(f"the lift returned latents of shape {tuple(result.shape)}; expected {expected}")
    return result
