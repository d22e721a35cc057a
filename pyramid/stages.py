"""The pyramid as data: which stages there are, at which size and between which noise levels each one runs.

Stages are listed in running order, coarse to fine. A stage's level counts halvings from full resolution, as the paper's
stage index does. The natural noise level falls from one to zero through the whole pyramid without overlap and equals
sigma at full resolution.
"""

# Natural noise level: PyramidalWan, arXiv 2601.04792, section 3; the closed form below is derived: equal signal-to-noise
# ratio in the low band.

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from .noise_levels import Level, NoiseLevel, shift_sigma
from .resize import AXES, RESIZES, OrthonormalResize, children_per_frame, make_resize

FIELDS = ("pyramidal", "natural")
TOLD = ("natural", "sigma", "pyramid-flow")
FIRST_FRAME = ("per-frame", "shared")
ROPE = ("native", "scaled")

FORMAT = 1
METADATA_KEY = "pyramid_spec"

PerFrame = tuple[float, float]
"""A number for latent frame 0 and one for all the others."""


@dataclass(frozen=True)
class LatentShape:
    """Size of a latent in latent frames, rows and columns. Wan: ``1 + (frames - 1) / 4`` and pixels / 8."""

    frames: int
    height: int
    width: int

    def halved(self, axes: str) -> LatentShape:
        """The next coarser size; ValueError in plain words if an axis does not halve."""
        if "HW" in axes and (self.height % 2 or self.width % 2):
            raise ValueError(f"a latent of {self.height}x{self.width} cannot be halved: both sides must be even")
        if "T" in axes and self.frames % 2 == 0:
            raise ValueError(f"{self.frames} latent frames cannot be halved: it must be an odd number (1 + 2k)")
        return LatentShape(
            frames=(self.frames + 1) // 2 if "T" in axes else self.frames,
            height=self.height // 2 if "HW" in axes else self.height,
            width=self.width // 2 if "HW" in axes else self.width,
        )

    def doubled(self, axes: str) -> LatentShape:
        """The next finer size; the inverse of ``halved``."""
        return LatentShape(
            frames=2 * self.frames - 1 if "T" in axes else self.frames,
            height=2 * self.height if "HW" in axes else self.height,
            width=2 * self.width if "HW" in axes else self.width,
        )


@dataclass(frozen=True)
class Stage:
    """One stage of a pyramid at one size.

    index: place in running order. level: halvings from full resolution.
    natural_noisy, natural_clean: natural levels at its two ends.
    sigma_noisy, sigma_clean: what is in the tensor there, (frame 0, other frames).
    told_noisy, told_clean: what the network is told there.
    children: fine latents at full resolution per latent of this stage, frames other than 0 (the paper's N).
    from_coarser: the resize between the coarser stage and this one; None where the pyramid starts.
    rope_scale: distance of neighbouring positions on the time, height and width axes.
    """

    index: int
    level: int
    shape: LatentShape
    field: str
    told: str
    natural_noisy: float
    natural_clean: float
    sigma_noisy: PerFrame
    sigma_clean: PerFrame
    told_noisy: float
    told_clean: float
    children: int
    from_coarser: OrthonormalResize | None
    rope_scale: tuple[float, float, float]

    def reference_sigma(self, natural: Level) -> Level:
        """The sigma of the frames other than 0 at a natural level (method: T_N inverse)."""
        return shift_sigma(natural, 1 / math.sqrt(self.children))

    def natural_level(self, reference_sigma: Level) -> Level:
        """Inverse of ``reference_sigma``."""
        return shift_sigma(reference_sigma, math.sqrt(self.children))

    def rho(self, natural: Level) -> Level:
        """Local time: 1 at the noisy end, 0 at the clean end; linear in sigma."""
        clean, noisy = self.sigma_clean[1], self.sigma_noisy[1]
        return (self.reference_sigma(natural) - clean) / (noisy - clean)

    def natural_at(self, rho: float) -> float:
        """Inverse of ``rho``."""
        clean, noisy = self.sigma_clean[1], self.sigma_noisy[1]
        return self.natural_level(clean + rho * (noisy - clean))

    def at(self, natural: float | Tensor) -> NoiseLevel:
        """The noise level at a natural level, () or (B,); see ``NoiseLevel`` for the shapes that come out."""
        natural = torch.as_tensor(natural)
        rho = self.rho(natural)
        if self.told == "natural":
            told = natural
        elif self.told == "sigma":
            told = self.reference_sigma(natural)
        else:
            told = self.told_clean + rho * (self.told_noisy - self.told_clean)
        local = rho.reshape(-1, 1, 1, 1, 1) if rho.ndim else rho
        clean, noisy = self.per_frame(self.sigma_clean, natural), self.per_frame(self.sigma_noisy, natural)
        return NoiseLevel(told=told, sigma=clean + local * (noisy - clean))

    @property
    def noisy(self) -> NoiseLevel:
        return self.at(self.natural_noisy)

    @property
    def clean(self) -> NoiseLevel:
        return self.at(self.natural_clean)

    @property
    def pace(self) -> PerFrame:
        """d sigma of a frame per d reference sigma: frame 0 can run at another pace than the others."""
        reference = self.sigma_noisy[1] - self.sigma_clean[1]
        first, rest = (noisy - clean for noisy, clean in zip(self.sigma_noisy, self.sigma_clean, strict=True))
        return first / reference, rest / reference

    def per_frame(self, values: PerFrame, like: Tensor) -> Tensor:
        """``(T, 1, 1)`` on the device and in the dtype of ``like`` (a floating point tensor)."""
        first, rest = values
        return torch.tensor([first, *[rest] * (self.shape.frames - 1)], dtype=like.dtype, device=like.device)[:, None, None]


@dataclass(frozen=True)
class PyramidSpec:
    """What a pyramidal checkpoint was trained for, or what to do with a stock one.

    boundaries: natural levels at the transitions, in running order, so falling; none is an ordinary run.
    halves: which axes shrink at each transition, in running order.
    field: whether the weights follow the pyramidal flow (finetuned), or the natural, ordinary flow at each resolution
        with nothing corrected in the high band (stock).
    told: what the network is conditioned on: the natural level, the sigma in the tensor, or Pyramidal Flow's axis that
        is cut in proportion to the length of the stages.
    first_frame: per-frame gives the first latent frame its own sigmas; shared gives it everybody's and tops up its noise.
    rope: native positions count anew in every stage; scaled ones keep their distance in the full video.
    """

    boundaries: tuple[float, ...] = (0.896, 0.602)
    halves: tuple[str, ...] = ("THW", "THW")  # AXES
    resize: str = "haar"  # RESIZES
    field: str = "pyramidal"  # FIELDS
    told: str = "natural"  # TOLD
    first_frame: str = "per-frame"  # FIRST_FRAME
    rope: str = "native"  # ROPE; "scaled" is TPDiff's, arXiv 2503.09566

    def __post_init__(self) -> None:
        for name in ("boundaries", "halves"):
            if not isinstance(vars(self)[name], tuple):
                object.__setattr__(self, name, tuple(vars(self)[name]))
        _check_choices(self)
        _check_boundaries(self.boundaries, self.halves)
        if self.field == "natural" and self.first_frame != "shared":
            raise ValueError(
                "field 'natural' runs the ordinary flow, which has one sigma for all frames: "
                f"first_frame must be 'shared', got '{self.first_frame}'"
            )

    @property
    def number_of_stages(self) -> int:
        return len(self.boundaries) + 1

    def starting_at(self, index: int) -> PyramidSpec:
        """The pyramid without its first ``index`` stages: the next one then starts from pure noise."""
        return dataclasses.replace(self, boundaries=self.boundaries[index:], halves=self.halves[index:])

    def shapes(self, full: LatentShape) -> tuple[LatentShape, ...]:
        """The size of every stage, in running order; ValueError if ``full`` cannot be halved that often."""
        shapes = [full]
        for axes in reversed(self.halves):
            shapes.append(shapes[-1].halved(axes))
        return tuple(reversed(shapes))

    def full_shape(self, shape: LatentShape, index: int) -> LatentShape:
        """The full-resolution size above stage ``index`` at this size; the inverse of ``shapes``."""
        for axes in self.halves[index:]:
            shape = shape.doubled(axes)
        return shape

    def smallest_shape(self) -> LatentShape:
        """A full-resolution size that halves as often as needed, for what does not depend on the size, such as levels."""
        return self.full_shape(LatentShape(2, 2, 2), 0)

    def stages(self, full: LatentShape) -> tuple[Stage, ...]:
        """The stages for a full-resolution latent of this size, in running order."""
        shapes = self.shapes(full)
        naturals = (1.0, *self.boundaries, 0.0)
        ends = [(self._sigmas(index, naturals[index]), self._sigmas(index, naturals[index + 1]))
                for index in range(len(shapes))]  # fmt: skip
        told = _told_ends(self.told, [(naturals[i], naturals[i + 1]) for i in range(len(shapes))], ends)
        return tuple(
            Stage(
                index=index,
                level=self.number_of_stages - 1 - index,
                shape=shapes[index],
                field=self.field,
                told=self.told,
                natural_noisy=naturals[index],
                natural_clean=naturals[index + 1],
                sigma_noisy=ends[index][0],
                sigma_clean=ends[index][1],
                told_noisy=told[index][0],
                told_clean=told[index][1],
                children=self._children(index)[1],
                from_coarser=make_resize(self.resize, self.halves[index - 1]) if index else None,
                rope_scale=self._rope_scale(index),
            )
            for index in range(len(shapes))
        )

    def _children(self, index: int) -> tuple[int, int]:
        """Full-resolution latents per latent of a stage, (frame 0, other frames)."""
        per_transition = [children_per_frame(axes) for axes in self.halves[index:]]
        return math.prod(first for first, _ in per_transition), math.prod(rest for _, rest in per_transition)

    def _sigmas(self, index: int, natural: float) -> PerFrame:
        first, rest = (shift_sigma(natural, 1 / math.sqrt(n)) for n in self._children(index))
        return (rest if self.first_frame == "shared" else first), rest

    def _rope_scale(self, index: int) -> tuple[float, float, float]:
        if self.rope == "native":
            return 1.0, 1.0, 1.0
        time = 2.0 ** sum("T" in axes for axes in self.halves[index:])
        space = 2.0 ** sum("HW" in axes for axes in self.halves[index:])
        return time, space, space

    def to_json(self) -> str:
        return json.dumps({"format": FORMAT, **dataclasses.asdict(self)})

    @classmethod
    def from_json(cls, text: str) -> PyramidSpec:
        """Inverse of ``to_json``; ValueError in plain words for anything else."""
        try:
            values = json.loads(text)
        except json.JSONDecodeError as error:
            raise ValueError(f"the pyramid spec is not JSON: {error}") from None
        if not isinstance(values, dict):
            raise ValueError(f"a pyramid spec is a JSON object, got {type(values).__name__}")
        version = values.pop("format", None)
        if version != FORMAT:
            raise ValueError(f"the pyramid spec has format {version!r}, this version reads format {FORMAT}")
        known = {field.name for field in dataclasses.fields(cls)}
        if unknown := sorted(values.keys() - known):
            raise ValueError(f"unknown in a pyramid spec: {', '.join(unknown)}; known are {', '.join(sorted(known))}")
        if missing := sorted(known - values.keys()):
            raise ValueError(f"missing in the pyramid spec: {', '.join(missing)}")
        return cls(**values)

    def to_metadata(self) -> dict[str, str]:
        """For the header of a safetensors file."""
        return {METADATA_KEY: self.to_json()}

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str] | None) -> PyramidSpec:
        """Reads what ``to_metadata`` wrote; ValueError if there is none."""
        if not metadata or METADATA_KEY not in metadata:
            raise ValueError(f"the file's metadata has no '{METADATA_KEY}': it does not say for which pyramid it is")
        return cls.from_json(metadata[METADATA_KEY])


def stage_name(index: int, number_of_stages: int) -> str:
    """What people call a stage: low, mid, high; of more than three, the place in running order."""
    names = {1: ["high"], 2: ["low", "high"], 3: ["low", "mid", "high"]}.get(number_of_stages)
    return names[index] if names else str(index)


def _check_choices(spec: PyramidSpec) -> None:
    choices = {"resize": RESIZES, "field": FIELDS, "told": TOLD, "first_frame": FIRST_FRAME, "rope": ROPE}
    for name, allowed in choices.items():
        value = vars(spec)[name]
        if value not in allowed:
            shown = ", ".join(allowed if len(allowed) < 9 else [*allowed[:4], "...", allowed[-1]])
            raise ValueError(f"{name} is {value!r}; allowed are {shown}")
    for axes in spec.halves:
        if axes not in AXES:
            raise ValueError(f"a transition halves {axes!r}; allowed are {', '.join(AXES)}")


def _check_boundaries(boundaries: tuple[float, ...], halves: tuple[str, ...]) -> None:
    if len(boundaries) != len(halves):
        raise ValueError(
            f"{len(boundaries)} boundaries and {len(halves)} transitions contradict each other: "
            "there is one boundary for each transition"
        )
    for boundary in boundaries:
        if not isinstance(boundary, (int, float)) or not 0 < boundary < 1:
            raise ValueError(f"a boundary is a natural noise level between 0 and 1, got {boundary!r}")
    if any(later >= earlier for earlier, later in zip(boundaries, boundaries[1:], strict=False)):
        raise ValueError(
            f"boundaries must fall from stage to stage, got {', '.join(map(str, boundaries))}; "
            f"in running order that is {', '.join(map(str, sorted(boundaries, reverse=True)))}"
        )


def _told_ends(told: str, naturals: list[PerFrame], ends: list[tuple[PerFrame, PerFrame]]) -> list[PerFrame]:
    """What the network is told at the noisy and the clean end of each stage."""
    if told == "natural":
        return naturals
    if told == "sigma":
        return [(noisy[1], clean[1]) for noisy, clean in ends]
    lengths = [noisy[1] - clean[1] for noisy, clean in ends]  # Pyramidal Flow: proportional to sigma_n - sigma_c
    cuts = [1 - sum(lengths[:index]) / sum(lengths) for index in range(len(lengths) + 1)]
    return list(zip(cuts, [*cuts[1:-1], 0.0], strict=False))


PRESETS: dict[str, PyramidSpec] = {
    # Three spatio-temporal stages; the boundaries are SwD's spectral ones for Wan2.1 (arXiv 2503.16397), a guess here.
    "pyramidal-wan": PyramidSpec(),
    # arXiv 2410.05954: sigma_c = 2/3 and 1/3 with n = 4 are the natural levels 8/9 and 1/2.
    "pyramidal-flow": PyramidSpec((8 / 9, 1 / 2), ("HW", "HW"), told="pyramid-flow", first_frame="shared"),
    # arXiv 2503.09566: three equal stages in frame rate; sigma_c = 2/3 and 1/3 with n = 2.
    "tpdiff": PyramidSpec((shift_sigma(2 / 3, 2), shift_sigma(1 / 3, math.sqrt(2))), ("T", "T"), rope="scaled"),
    "plain": PyramidSpec((), (), field="natural", told="sigma", first_frame="shared"),
    # Stock weights. Halves no time: a stock model would make 41 frames that are then played as 81, slow motion. It hands over
    # earlier than SwD's trained stages (0.602), because what half size cannot hold must still be in the noise by then
    # (docs/benchmarks.md; Jenga, arXiv 2505.16864, at 25 of 50 steps with shift 8: about 0.89).
    "training-free": PyramidSpec((0.8,), ("HW",), field="natural", told="sigma", first_frame="shared"),
}
