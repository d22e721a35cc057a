"""The pyramid as data: its stages, their sizes and the noise levels between which each one runs.

Stages are listed in running order, coarse to fine. The level of a stage counts transitions from full resolution, as the
paper's stage index does. The natural noise level falls from 1 to 0 through the whole pyramid without overlap and equals
sigma at full resolution (PyramidalWan, arXiv 2601.04792, section 3; its closed form is derived from an equal
signal-to-noise ratio in the low band).
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .axes import AUTO_SCALE, SCALES, has_scale, is_auto, parse_axes, space_scale
from .latent_shape import PATCH, VAE_SPACE, LatentShape
from .noise_levels import Level, NoiseLevel, shift_sigma
from .resize import RESIZES, OrthonormalResize, make_resize, project, volume_ratio
from .untrusted import read_json_object, shown

FIELDS = ("pyramidal", "natural")
TIMESTEP_SOURCES = ("natural", "sigma", "pyramid-flow")
FIRST_FRAME = ("per-frame", "shared")
ROPE = ("native", "scaled")
COARSE = ("latents", "patches")

FORMAT = 1
PATCHES_FORMAT = 2
"""Format of the pyramids that grow the patches, which earlier versions cannot run. Format 1 does not have their field."""

METADATA_KEY = "pyramid_spec"
FORM_KEY = "pyramid_form"
"""Metadata key of what a trained network predicts, see ``pyramid.forms``; flow where it is missing."""

CLOSEST = 1e-7
"""Least distance of a boundary from 0 and 1, which float32 can tell from them."""

MAX_STAGES = 10
"""Largest number of stages: as often as the largest video of ComfyUI's empty latents can be halved."""


class NotFlowError(ValueError):
    """A network that predicts something other than flow, which ComfyUI cannot sample."""


PerFrame = tuple[float, float]
"""A number for latent frame 0 and one for all other frames."""


@dataclass(frozen=True)
class StageEnd:
    """The noise level at one end of a stage.

    Attributes:
        natural: Natural noise level.
        sigma: Coefficient of the noise in the tensor, for frame 0 and for the other frames.
        conditioning: What the network is conditioned on, in [0, 1].
    """

    natural: float
    sigma: PerFrame
    conditioning: float


@dataclass(frozen=True)
class Stage:
    """One stage of a pyramid at one size.

    Attributes:
        index: Position in running order.
        level: Transitions from full resolution.
        shape: Size of the stage's latent.
        field: One of ``FIELDS``.
        timestep_source: One of ``TIMESTEP_SOURCES``.
        noisy: The end where the stage starts (rho = 1).
        clean: The end where the stage stops (rho = 0).
        downsample_factor: Full-resolution latents per latent of this stage in frames other than 0 (the paper's N).
        from_coarser: Resize between the coarser stage and this one; None where the pyramid starts.
        rope_scale: Distance of neighbouring positions on the time, height and width axes.
        cell: Latents that the network reads as one on the time, height and width axes; more than one in the coarse stages
            of a pyramid of patches.
    """

    index: int
    level: int
    shape: LatentShape
    field: str
    timestep_source: str
    noisy: StageEnd
    clean: StageEnd
    downsample_factor: float
    from_coarser: OrthonormalResize | None
    rope_scale: tuple[float, float, float]
    cell: tuple[int, int, int] = (1, 1, 1)

    @property
    def has_blur(self) -> bool:
        """True if the path runs from blurred to clean data, so that the high band needs a correction."""
        return self.field == "pyramidal" and self.from_coarser is not None

    @property
    def frames_agree(self) -> bool:
        """True if frame 0 has the sigmas of all other frames."""
        return self.noisy.sigma[0] == self.noisy.sigma[1] and self.clean.sigma[0] == self.clean.sigma[1]

    def reference_sigma(self, natural: Level) -> Level:
        """Return the sigma of the frames other than 0 at a natural level (the inverse of the map T_N)."""
        return shift_sigma(natural, 1 / math.sqrt(self.downsample_factor))

    def natural_level(self, reference_sigma: Level) -> Level:
        """Return the natural level of a sigma of the frames other than 0; the inverse of ``reference_sigma``."""
        return shift_sigma(reference_sigma, math.sqrt(self.downsample_factor))

    def rho(self, natural: Level) -> Level:
        """Return the local time: 1 at the noisy end, 0 at the clean end, linear in sigma."""
        return (self.reference_sigma(natural) - self.clean.sigma[1]) / (self.noisy.sigma[1] - self.clean.sigma[1])

    def natural_at(self, rho: Level) -> Level:
        """Return the natural level at a local time; the inverse of ``rho``."""
        return self.natural_level(self.reference_sigma_at(rho))

    def reference_sigma_at(self, rho: Level) -> Level:
        """Return the sigma of the frames other than 0 at a local time."""
        return self.clean.sigma[1] + rho * (self.noisy.sigma[1] - self.clean.sigma[1])

    def at(self, natural: float | Tensor) -> NoiseLevel:
        """Return the noise level at a natural level, ``()`` or ``(B,)``."""
        natural = torch.as_tensor(natural)
        rho = self.rho(natural)
        if self.timestep_source == "natural":
            conditioning = natural
        elif self.timestep_source == "sigma":
            conditioning = self.reference_sigma(natural)
        else:
            conditioning = self.clean.conditioning + rho * (self.noisy.conditioning - self.clean.conditioning)
        return NoiseLevel(conditioning=conditioning, sigma=self.sigma_at(rho))

    def sigma_at(self, rho: Tensor) -> Tensor:
        """Return the sigma of every frame at a local time ``()`` or ``(B,)``: ``(T, 1, 1)`` or ``(B, 1, T, 1, 1)``."""
        clean, noisy = self.end_sigmas(rho)
        return clean + (rho.reshape(-1, 1, 1, 1, 1) if rho.ndim else rho) * (noisy - clean)

    def end_sigmas(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Return the sigmas of every frame at the clean and at the noisy end, each ``(T, 1, 1)``."""
        return self.per_frame(self.clean.sigma, like), self.per_frame(self.noisy.sigma, like)

    def low_band(self, x: Tensor) -> Tensor:
        """Return the part of ``x`` that the coarser stage can hold, at this stage's size.

        Raises:
            ValueError: The pyramid starts with this stage.
        """
        if self.from_coarser is None:
            raise ValueError("the first stage of a pyramid has no coarser stage")
        return project(x, self.from_coarser)

    @property
    def sigma_rate(self) -> PerFrame:
        """Return d sigma of a frame per d reference sigma; frame 0 can run at another rate than the others."""
        reference = self.noisy.sigma[1] - self.clean.sigma[1]
        first, rest = (noisy - clean for noisy, clean in zip(self.noisy.sigma, self.clean.sigma, strict=True))
        return first / reference, rest / reference

    def per_frame(self, values: PerFrame, like: Tensor) -> Tensor:
        """Return ``(T, 1, 1)`` on the device and in the dtype of ``like`` (a floating point tensor)."""
        first, rest = values
        return torch.tensor([first, *[rest] * (self.shape.frames - 1)], dtype=like.dtype, device=like.device)[:, None, None]


@dataclass(frozen=True)
class PyramidSpec:
    """A pyramid: the one a checkpoint was trained for, or one for stock weights.

    Attributes:
        boundaries: Natural levels at the transitions in running order, so falling; none is an ordinary run.
        downsample_axes: What shrinks at each transition, in running order: axes that are halved, or "HW" with a scale, see
            ``pyramid.axes``. The sizes and noise levels of scales depend on the size of the video.
        resize: How height and width are halved, one of ``RESIZES``; other scales use the DCT.
        field: "pyramidal" for weights finetuned for the pyramidal flow; "natural" for stock weights, which follow the
            ordinary flow at each resolution without a correction of the high band.
        timestep_source: What the network is conditioned on: the natural level, the sigma in the tensor, or Pyramidal
            Flow's axis, which is cut in proportion to the length of the stages.
        first_frame: "per-frame" gives latent frame 0 its own sigmas; "shared" gives it those of all frames and tops up
            its noise.
        rope: "native" positions count from 0 in every stage; "scaled" ones keep their distance in the full video
            (TPDiff, arXiv 2503.09566).
        coarse: What is coarser in the early stages: the "latents", which grow from stage to stage, or the "patches" in which
            the network reads latents of full size (Pyramidal Patchification Flow, arXiv 2506.23543). ``downsample_axes`` are
            then the axes on which patches halve. They follow the ordinary flow, which does not change at a boundary.
    """

    boundaries: tuple[float, ...] = (0.896, 0.602)
    downsample_axes: tuple[str, ...] = ("THW", "THW")
    resize: str = "haar"
    field: str = "pyramidal"
    timestep_source: str = "natural"
    first_frame: str = "per-frame"
    rope: str = "native"
    coarse: str = "latents"

    def __post_init__(self) -> None:
        """Convert lists to tuples, spell the axes in one way, and check the fields."""
        for name in ("boundaries", "downsample_axes"):
            value = vars(self)[name]
            if not isinstance(value, (tuple, list)):
                raise ValueError(f"{name} must be a list with one entry per transition, got {shown(value)}")
            if len(value) >= MAX_STAGES:
                raise ValueError(f"{name} has {len(value)} entries; a pyramid has at most {MAX_STAGES} stages")
        object.__setattr__(self, "boundaries", tuple(self.boundaries))
        object.__setattr__(self, "downsample_axes", tuple(map(parse_axes, self.downsample_axes)))
        _check_choices(self)
        _check_boundaries(self.boundaries, self.downsample_axes)
        if self.field == "natural" and self.first_frame != "shared":
            raise ValueError(
                "field 'natural' follows the ordinary flow, which has one sigma for all frames: "
                f"first_frame must be 'shared', got '{self.first_frame}'"
            )
        if self.field != "natural" and self.has_auto_scale:
            raise ValueError(
                f"the scale 'auto' is for stock weights; weights of field '{self.field}' were finetuned for fixed scales, such "
                "as HW 2/3"
            )
        _check_patches(self)

    @property
    def number_of_stages(self) -> int:
        """Return the number of stages."""
        return len(self.boundaries) + 1

    @property
    def for_stock_weights(self) -> bool:
        """Return whether stock weights can run the pyramid, so that nothing was trained with its boundaries."""
        return self.field == "natural" and self.coarse == "latents"

    @property
    def latent_axes(self) -> tuple[str, ...]:
        """Return the axes of the latent that shrink at each transition, in running order; "" where only patches grow."""
        return self.downsample_axes if self.coarse == "latents" else ("",) * len(self.downsample_axes)

    def starting_at(self, index: int) -> PyramidSpec:
        """Return the pyramid without its first ``index`` stages; the next one then starts from pure noise."""
        return dataclasses.replace(self, boundaries=self.boundaries[index:], downsample_axes=self.downsample_axes[index:])

    @property
    def depends_on_size(self) -> bool:
        """Return whether the noise levels of the stages depend on the size of the video."""
        return any(map(has_scale, self.downsample_axes))

    @property
    def has_auto_scale(self) -> bool:
        """Return whether a scale is chosen by the size of the video."""
        return any(map(is_auto, self.downsample_axes))

    def scaled(self, scale: str) -> PyramidSpec:
        """Return the pyramid with another scale at every transition of height and width.

        Args:
            scale: "auto", or one of ``SCALES``.
        """
        axes = SCALES.get(scale, f"HW {scale}")
        return dataclasses.replace(
            self,
            downsample_axes=tuple(("T" if "T" in old else "") + axes if "HW" in old else old for old in self.downsample_axes),
        )

    def at_size(self, full: LatentShape, *, pixels: int = VAE_SPACE) -> PyramidSpec:
        """Return the pyramid with the scales that "auto" chooses for a video.

        Args:
            full: Size of the full-resolution latent.
            pixels: Pixels per latent on the height and width axes.
        """
        if not self.has_auto_scale:
            return self
        known: list[str] = []
        for axes in reversed(self.downsample_axes):
            known.append(axes.replace(f"HW {AUTO_SCALE}", auto_scale(full, pixels=pixels)))
            with contextlib.suppress(ValueError):  # a size that does not fit, for which check_shape names the nearest
                full = full.coarser(known[-1])
        return dataclasses.replace(self, downsample_axes=tuple(reversed(known)))

    def shapes(self, full: LatentShape) -> tuple[LatentShape, ...]:
        """Return the size of every stage's latent in running order.

        Raises:
            ValueError: ``full`` cannot shrink that often.
        """
        grids = self.grids(full)
        return grids if self.coarse == "latents" else (full,) * len(grids)

    def grids(self, full: LatentShape) -> tuple[LatentShape, ...]:
        """Return the size of what the network reads in every stage, in running order: the latent, or its folded cells.

        Raises:
            ValueError: ``full`` cannot shrink that often.
        """
        grids = [full]
        for axes in reversed(self.downsample_axes):
            grids.append(grids[-1].coarser(axes))
        return tuple(reversed(grids))

    def full_shape(self, shape: LatentShape, index: int) -> LatentShape:
        """Return the full-resolution size of a pyramid whose stage ``index`` has this size; the inverse of ``shapes``.

        Raises:
            ValueError: Several sizes have such a stage, because a transition rounds.
        """
        for axes in self.latent_axes[index:]:
            if has_scale(axes):
                raise ValueError(
                    f"the full size does not follow from a stage of {shape.height}x{shape.width} latents, because the "
                    f"transition '{axes}' rounds; connect the full-size latent, or the output of a sampler of the run"
                )
            shape = shape.doubled(axes)
        return shape

    def smallest_shape(self) -> LatentShape:
        """Return the smallest full-resolution size at which no transition rounds."""
        side, frames = PATCH, 2
        for axes in self.downsample_axes:
            scale = space_scale(axes)
            side *= (2 if scale is None else scale.denominator) if "HW" in axes else 1
            frames = 2 * frames - 1 if "T" in axes else frames
        return LatentShape(frames, side, side)

    def nominal_stages(self) -> tuple[Stage, ...]:
        """Return stages that do not depend on the size of the video: scales do not round, and "auto" counts as half."""
        axes = tuple(axes.replace(f" {AUTO_SCALE}", "") for axes in self.downsample_axes)
        spec = dataclasses.replace(self, downsample_axes=axes)
        return spec.stages(spec.smallest_shape())

    def stages(self, full: LatentShape) -> tuple[Stage, ...]:
        """Return the stages of a full-resolution latent of this size, in running order."""
        shapes, grids = self.shapes(full), self.grids(full)
        ends = self._ends(shapes)
        return tuple(
            Stage(
                index=index,
                level=self.number_of_stages - 1 - index,
                shape=shapes[index],
                field=self.field,
                timestep_source=self.timestep_source,
                noisy=noisy,
                clean=clean,
                downsample_factor=self._downsample_factors(index, shapes)[1],
                from_coarser=make_resize(self.resize, self.latent_axes[index - 1], shapes[index][1:]) if index else None,
                rope_scale=self._rope_scale(index, grids),
                cell=(1, 1, 1) if self.coarse == "latents" else self.cell(index),
            )
            for index, (noisy, clean) in enumerate(ends)
        )

    def _ends(self, shapes: Sequence[LatentShape]) -> list[tuple[StageEnd, StageEnd]]:
        """Return the noisy and the clean end of every stage."""
        naturals = (1.0, *self.boundaries, 0.0)
        pairs = [(naturals[index], naturals[index + 1]) for index in range(self.number_of_stages)]
        sigmas = [tuple(self._sigmas(index, natural, shapes) for natural in pair) for index, pair in enumerate(pairs)]
        conditioning = _conditioning_ends(self.timestep_source, pairs, sigmas)
        return [
            (StageEnd(pair[0], sigma[0], at[0]), StageEnd(pair[1], sigma[1], at[1]))
            for pair, sigma, at in zip(pairs, sigmas, conditioning, strict=True)
        ]

    def _downsample_factors(self, index: int, shapes: Sequence[LatentShape]) -> PerFrame:
        """Return full-resolution latents per latent of a stage, for frame 0 and for the other frames."""
        transitions = zip(self.latent_axes[index:], shapes[index + 1 :], strict=True)
        per_transition = [volume_ratio(axes, fine[1:]) for axes, fine in transitions]
        return math.prod(first for first, _ in per_transition), math.prod(rest for _, rest in per_transition)

    def _sigmas(self, index: int, natural: float, shapes: Sequence[LatentShape]) -> PerFrame:
        first, rest = (shift_sigma(natural, 1 / math.sqrt(n)) for n in self._downsample_factors(index, shapes))
        return (rest if self.first_frame == "shared" else first), rest

    def _rope_scale(self, index: int, grids: Sequence[LatentShape]) -> tuple[float, float, float]:
        if self.rope == "native":
            return 1.0, 1.0, 1.0
        full, stage = grids[-1], grids[index]
        time = 2.0 ** sum("T" in axes for axes in self.downsample_axes[index:])
        return time, full.height / stage.height, full.width / stage.width

    def cell(self, index: int) -> tuple[int, int, int]:
        """Return the latents on the time, height and width axes that a stage of a pyramid of patches reads as one."""
        time = 2 ** sum("T" in axes for axes in self.downsample_axes[index:])
        space = 2 ** sum("HW" in axes for axes in self.downsample_axes[index:])
        return time, space, space

    def to_json(self) -> str:
        """Return the spec as a JSON object with its format number."""
        values = dataclasses.asdict(self)
        if self.coarse == "latents":
            del values["coarse"]
        return json.dumps({"format": FORMAT if self.coarse == "latents" else PATCHES_FORMAT, **values})

    @classmethod
    def from_json(cls, text: str) -> PyramidSpec:
        """Return the spec that ``to_json`` wrote.

        Raises:
            ValueError: The text is not such an object, or a value is not allowed.
        """
        return cls.from_values(read_json_object(text, "the pyramid spec"))

    @classmethod
    def from_values(cls, values: Mapping[str, Any]) -> PyramidSpec:
        """Return the spec of the values in the JSON that ``to_json`` wrote.

        Raises:
            ValueError: They do not describe a pyramid, or a value is not allowed.
        """
        if not isinstance(values, Mapping):
            raise ValueError(f"a pyramid spec must be a JSON object, got {shown(values)}")
        values = dict(values)
        version = values.pop("format", None)
        if version not in (FORMAT, PATCHES_FORMAT):
            raise ValueError(
                f"unsupported pyramid spec format {shown(version)}; this version reads formats {FORMAT} and {PATCHES_FORMAT}"
            )
        if version == FORMAT:
            values.setdefault("coarse", "latents")
        known = {field.name for field in dataclasses.fields(cls)}
        if unknown := sorted(values.keys() - known):
            names = ", ".join(map(str, unknown))
            names = names if len(names) < 200 and names.isprintable() else shown(names)
            raise ValueError(f"unknown fields in the pyramid spec: {names}; expected {', '.join(sorted(known))}")
        if missing := sorted(known - values.keys()):
            raise ValueError(f"missing fields in the pyramid spec: {', '.join(missing)}")
        return cls(**values)

    def to_metadata(self) -> dict[str, str]:
        """Return the entry for the header of a safetensors file."""
        return {METADATA_KEY: self.to_json()}

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str] | None) -> PyramidSpec:
        """Return the spec in the header of a safetensors file.

        Raises:
            ValueError: The header has none.
            NotFlowError: The network is not a flow model.
        """
        if not metadata or METADATA_KEY not in metadata:
            raise ValueError(f"the file's metadata has no '{METADATA_KEY}', so its pyramid is unknown")
        form = read_json_object(metadata.get(FORM_KEY, "{}"), "the form of the network").get("form", "flow")
        if form != "flow":
            raise NotFlowError(
                f"its network predicts {shown(form)}, and ComfyUI has no video model of that kind with 5-D latents; only those "
                "that predict 'flow' can be sampled"
            )
        return cls.from_json(metadata[METADATA_KEY])


TRAINED_SIDE = 480
"""Short side in pixels of the smallest videos that stock Wan was trained on; it breaks down at smaller ones."""

MIN_SIDE = TRAINED_SIDE - 2 * VAE_SPACE
"""Short side that counts as trained: 704 pixels at 2/3 are 464 in whole patches."""


def auto_scale(full: LatentShape, *, pixels: int = VAE_SPACE) -> str:
    """Return the transition of height and width that "auto" chooses: the cheapest whose stage is a size that stock Wan knows.

    If none is, it is the largest; for videos that are small for stock Wan in any case, the cheapest.

    Args:
        full: Size of the larger stage.
        pixels: Pixels per latent on the height and width axes.
    """
    halving, *others = SCALES.values()
    short = min(full.height, full.width) * pixels
    halves = full.height % (2 * PATCH) == full.width % (2 * PATCH) == 0
    scales = [halving, *others] if halves else others
    if short < TRAINED_SIDE * 3 // 4:
        return scales[0]
    return next((axes for axes in scales if min(full.coarser(axes)[1:]) * pixels >= MIN_SIDE), scales[-1])


def _check_choices(spec: PyramidSpec) -> None:
    choices = {
        "resize": RESIZES,
        "field": FIELDS,
        "timestep_source": TIMESTEP_SOURCES,
        "first_frame": FIRST_FRAME,
        "rope": ROPE,
        "coarse": COARSE,
    }
    for name, allowed in choices.items():
        value = vars(spec)[name]
        if value not in allowed:
            choice = ", ".join(allowed if len(allowed) < 9 else [*allowed[:4], "...", allowed[-1]])
            raise ValueError(f"unknown {name} {shown(value)}; expected {choice}")


def _check_patches(spec: PyramidSpec) -> None:
    """Raise ValueError for a pyramid of patches that does not follow the ordinary flow at full size."""
    if spec.coarse == "latents":
        return
    for name, required in (("field", "natural"), ("timestep_source", "natural"), ("resize", "haar")):
        if vars(spec)[name] != required:
            raise ValueError(
                "a pyramid of patches follows the ordinary flow of latents that keep their size: "
                f"{name} must be '{required}', got '{vars(spec)[name]}'"
            )
    for axes in filter(has_scale, spec.downsample_axes):
        raise ValueError(
            f"patches double from stage to stage, so downsample_axes must be THW, HW or T, got '{axes}'; use "
            f"{axes.split(' ')[0]}"
        )


def _check_boundaries(boundaries: tuple[float, ...], downsample_axes: tuple[str, ...]) -> None:
    if len(boundaries) != len(downsample_axes):
        raise ValueError(
            f"boundaries and downsample_axes must have one entry per transition; got {len(boundaries)} boundaries and "
            f"{len(downsample_axes)} downsample_axes"
        )
    for boundary in boundaries:
        if not isinstance(boundary, (int, float)) or not CLOSEST <= boundary <= 1 - CLOSEST:
            raise ValueError(f"a boundary must be a natural noise level between 0 and 1, got {shown(boundary)}")
    if any(later >= earlier for earlier, later in zip(boundaries, boundaries[1:], strict=False)):
        raise ValueError(
            f"boundaries must fall from stage to stage, got {', '.join(map(str, boundaries))}; "
            f"in running order that is {', '.join(map(str, sorted(boundaries, reverse=True)))}"
        )


def _conditioning_ends(source: str, naturals: list[PerFrame], sigmas: list[tuple[PerFrame, ...]]) -> list[PerFrame]:
    """Return what the network is conditioned on at the noisy and the clean end of each stage."""
    if source == "natural":
        return naturals
    if source == "sigma":
        return [(noisy[1], clean[1]) for noisy, clean in sigmas]
    lengths = [noisy[1] - clean[1] for noisy, clean in sigmas]  # Pyramidal Flow: proportional to sigma_n - sigma_c
    cuts = [1 - sum(lengths[:index]) / sum(lengths) for index in range(len(lengths) + 1)]
    return list(zip(cuts, [*cuts[1:-1], 0.0], strict=False))


def _in_time(stages: int) -> PyramidSpec:
    """Return TPDiff's pyramid (arXiv 2503.09566): stages that double the frame rate and end at evenly spaced sigmas."""
    boundaries = tuple(shift_sigma(level / stages, math.sqrt(2**level)) for level in range(stages - 1, 0, -1))
    return PyramidSpec(boundaries, ("T",) * (stages - 1), rope="scaled")


PRESETS: dict[str, PyramidSpec] = {
    # Three spatio-temporal stages; the boundaries are SwD's spectral ones for Wan2.1 (arXiv 2503.16397), an assumption here.
    "pyramidal-wan": PyramidSpec(),
    # arXiv 2410.05954: sigma_c = 2/3 and 1/3 with n = 4 are the natural levels 8/9 and 1/2.
    "pyramidal-flow": PyramidSpec((8 / 9, 1 / 2), ("HW", "HW"), timestep_source="pyramid-flow", first_frame="shared"),
    "tpdiff": _in_time(3),
    # PyramidalWan's third system (arXiv 2601.04792) did not publish its boundaries; these kept the most fine detail on the
    # tiny Wan. Early ones cost nothing, because the steps of each stage decide what a run costs.
    "ppf": PyramidSpec((0.95, 0.8), ("THW", "THW"), field="natural", first_frame="shared", coarse="patches"),
    "plain": PyramidSpec((), (), field="natural", timestep_source="sigma", first_frame="shared"),
    # Stock weights. Time is not halved: a stock model would make 41 frames that are then played as 81, in slow motion. The
    # boundary is earlier than SwD's trained stages (0.602), because detail that half size cannot hold must still be noise
    # by then (docs/benchmarks.md; Jenga, arXiv 2505.16864, at 25 of 50 steps with shift 8: about 0.89). It serves the scales,
    # too: the rule of SPEED (arXiv 2605.18736, d = 0.01 to 0.02) gives 0.79 to 0.72 for 720p from 2/3 and 0.83 to 0.77 for 480p
    # from 3/4, and what a fitted lift leaves on the tiny VAE gives 0.81 and 0.80.
    "training-free": PyramidSpec((0.8,), ("HW",), field="natural", timestep_source="sigma", first_frame="shared"),
    # Two experts of Wan 2.2 A14B: the resolution changes with the expert, at the levels in Wan's own configurations.
    "wan2.2-t2v": PyramidSpec((0.875,), ("HW",), field="natural", timestep_source="sigma", first_frame="shared"),
    "wan2.2-i2v": PyramidSpec((0.9,), ("HW",), field="natural", timestep_source="sigma", first_frame="shared"),
}

TRAINING_PRESETS = {**PRESETS, "tpdiff-2": _in_time(2), "tpdiff-4": _in_time(4)}
"""Presets of training; those that the node does not offer reach a graph through the trained file's header."""

STOCK = PRESETS["training-free"].scaled(AUTO_SCALE)
"""The pyramid of stock weights where none is given."""
