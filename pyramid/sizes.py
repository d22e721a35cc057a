"""Video sizes that a pyramid can shrink down to its lowest stage, for Wan's VAE and patches.

Wan's VAE encodes 8x8 pixels of 4 frames into one latent, and the first frame alone: ``1 + 4k`` frames become ``1 + k`` latent
frames. Its transformer takes 2x2 latents as one token, so the sides of every stage should be even.
"""

from __future__ import annotations

from dataclasses import dataclass

from .axes import has_scale
from .latent_shape import PATCH, VAE_SPACE, VAE_TIME, LatentShape, video_frames
from .stage_names import stage_name
from .stages import MIN_SIDE, TRAINED_SIDE, PyramidSpec, Stage
from .untrusted import shown

SNAPS = ("nearest", "smaller", "larger")
"""Rules for the choice of a size that fits."""

SEARCHED = 32
"""How many multiples in each direction are searched for a side that fits halvings below a scale."""


@dataclass(frozen=True)
class VideoSize:
    """Width and height in pixels, and number of frames."""

    width: int
    height: int
    frames: int

    @property
    def latent(self) -> LatentShape:
        """Return the size of the latent."""
        return LatentShape.of_video(self.frames, self.height, self.width)


def video_size(shape: LatentShape) -> VideoSize:
    """Return the size of the video that a latent of this size decodes to."""
    return VideoSize(shape.width * VAE_SPACE, shape.height * VAE_SPACE, video_frames(shape.frames))


def side_multiple(spec: PyramidSpec) -> int:
    """Return the pixels that width and height must be multiples of: 64 for three stages in space, 16 above a scale.

    Where coarser stages than that of a scale are halved, sides must also fit those.
    """
    multiple = VAE_SPACE * PATCH
    for axes in reversed(spec.downsample_axes):
        if has_scale(axes):
            break
        multiple *= 2 if "HW" in axes else 1
    return multiple


def frame_multiple(spec: PyramidSpec) -> int:
    """Return the number that frames must be 1 plus a multiple of: 16 for three stages in time."""
    return VAE_TIME * 2 ** sum("T" in axes for axes in spec.downsample_axes)


def snap(size: VideoSize, spec: PyramidSpec, rule: str = "nearest") -> VideoSize:
    """Return a size close to ``size`` that the pyramid can shrink.

    Args:
        size: The requested size.
        spec: The pyramid.
        rule: "nearest", or the nearest that is not larger ("smaller") or not smaller ("larger"). A tie goes to the smaller
            size: 832x480 becomes 832x448.

    Raises:
        ValueError: The rule is unknown.
    """
    if rule not in SNAPS:
        raise ValueError(f"unknown snap {shown(rule)}; expected {', '.join(SNAPS)}")
    step = frame_multiple(spec)
    return VideoSize(
        width=_snap_side(size.width, spec, rule),
        height=_snap_side(size.height, spec, rule),
        frames=1 + _snap(size.frames - 1, step, rule, least=0),
    )


def _snap_side(value: int, spec: PyramidSpec, rule: str) -> int:
    """Return the nearest side in pixels that is whole patches in every stage; a tie goes to the smaller one."""
    multiple = side_multiple(spec)
    below = value // multiple * multiple
    near = range(max(multiple, below - SEARCHED * multiple), below + SEARCHED * multiple, multiple)
    fitting = [side for side in near if _fits_side(side, spec)]
    sides = {"smaller": [side for side in fitting if side <= value], "larger": [side for side in fitting if side >= value]}
    return min(sides.get(rule) or fitting, key=lambda side: abs(side - value))


def _fits_side(side: int, spec: PyramidSpec) -> bool:
    """Return whether a side in pixels is whole patches in every stage."""
    latents = side // VAE_SPACE
    try:
        grids = spec.grids(LatentShape(1 + 2 ** len(spec.downsample_axes), latents, latents))
    except ValueError:
        return False
    return all(grid.height % PATCH == 0 for grid in grids)


def check_shape(shape: LatentShape, spec: PyramidSpec, *, pixels: int = VAE_SPACE) -> None:
    """Check that the pyramid can shrink a latent of this size.

    Args:
        shape: Size of the full-resolution latent.
        spec: The pyramid.
        pixels: Pixels per latent on the height and width axes, for the message.

    Raises:
        ValueError: It cannot; the message names the nearest sizes that fit.
    """
    size = video_size(shape)
    fits = snap(size, spec)
    sides_fit = (fits.width, fits.height) == (size.width, size.height) or not any("HW" in axes for axes in spec.downsample_axes)
    if sides_fit and fits.frames == size.frames:
        return
    smaller, larger = snap(size, spec, "smaller"), snap(size, spec, "larger")
    scale = pixels // VAE_SPACE
    size, smaller, larger = (_scaled(each, scale) for each in (size, smaller, larger))
    raise ValueError(
        f"a video of {_text(size)} does not fit a pyramid of {spec.number_of_stages} stages: width and height must be "
        f"multiples of {scale * side_multiple(spec)}, frames 1 plus a multiple of {frame_multiple(spec)}; "
        f"the nearest that fit are {_text(smaller)} and {_text(larger)}"
    )


def _scaled(size: VideoSize, scale: int) -> VideoSize:
    return VideoSize(size.width * scale, size.height * scale, size.frames)


def _snap(value: int, multiple: int, rule: str, least: int | None = None) -> int:
    least = multiple if least is None else least
    down = value // multiple * multiple
    up = -(-value // multiple) * multiple
    if rule == "nearest":
        return max(least, down if value - down <= up - value else up)
    return max(least, down if rule == "smaller" else up)


def _text(size: VideoSize) -> str:
    return f"{size.width}x{size.height} with {size.frames} frames"


def patch_text(cell: tuple[int, int, int]) -> str:
    """Return the latents per token on the time, height and width axes as text, such as "4x8x8" for cells of 4x4x4."""
    time, height, width = cell
    return f"{time}x{height * PATCH}x{width * PATCH}"


def stage_labels(spec: PyramidSpec, full: LatentShape, *, pixels: int = VAE_SPACE) -> list[str]:
    """Return the name and the size of each stage, such as "low 416x240", with its frames where they change, or its patches.

    Args:
        spec: The pyramid.
        full: Size of the full-resolution latent.
        pixels: Pixels per latent on the height and width axes.
    """
    count, in_time = spec.number_of_stages, any("T" in axes for axes in spec.latent_axes)
    return [
        f"{stage_name(stage.index, count)} {stage.shape.width * pixels}x{stage.shape.height * pixels}"
        + (f" ({video_size(stage.shape).frames} frames)" if in_time else "")
        + _in_patches(spec, stage)
        for stage in spec.stages(full)
    ]


def _in_patches(spec: PyramidSpec, stage: Stage) -> str:
    """Return the patches of a stage where they differ from stage to stage, as a part of a text."""
    return "" if spec.coarse == "latents" else f" in patches of {patch_text(stage.cell)}"


def describe_stages(requested: VideoSize, size: VideoSize, spec: PyramidSpec) -> str:
    """Return one line with the chosen size and one for each stage, low to high resolution."""
    lines = [_text(size) if size == requested else f"{_text(size)} instead of {_text(requested)}"]
    for stage in spec.stages(size.latent):
        name, latent = stage_name(stage.index, spec.number_of_stages), "x".join(map(str, stage.shape))
        lines.append(f"{name}: {_text(video_size(stage.shape))} (latent {latent}{_in_patches(spec, stage)})")
    return "\n".join([*lines, *small_stage_note(spec, size.latent)])


def small_stage_note(spec: PyramidSpec, full: LatentShape, *, pixels: int = VAE_SPACE) -> list[str]:
    """Return a sentence about a stage that is too small for stock Wan, if there is one.

    Args:
        spec: The pyramid.
        full: Size of the full-resolution latent.
        pixels: Pixels per latent on the height and width axes.
    """
    if not spec.for_stock_weights or spec.number_of_stages == 1:
        return []
    for index, (shape, boundary) in enumerate(zip(spec.shapes(full), spec.boundaries, strict=False)):
        short = min(shape.height, shape.width) * pixels
        if short < MIN_SIDE:
            name = stage_name(index, spec.number_of_stages)
            note = f"stage '{name}' has a short side of {short} pixels, and stock Wan gets worse below {TRAINED_SIDE}"
            return [note + "; boundaries 0.9 in 'Custom Pyramid' leave less to it" if boundary < 0.85 else note]
    return []
