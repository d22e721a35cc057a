"""Read a clip's six attributes by deterministic image analysis, without a network and without randomness.

Every attribute builds on the ones before: the ground colour that fills the frame, the shape colour that differs from it, the
position of that colour in every frame (place, motion), its outline (shape), and the periodic texture behind it (pattern).
Lengths are fractions of the frame, so clips of any size and length can be read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .grammar import ATTRIBUTES, COLOURS, GROUNDS, PATTERNS, PLACES, SHAPES, Caption
from .scenes import COLOUR_RGB, DISTANCES, GROUND_RGB, PATTERN_PERIODS, PLACE_X, RADIUS, TRAVEL

NOTHING = "none"  # label when no shape was found
SHADES = (0.42, 1.75)  # texture and light multiply a ground colour by a factor in this range
MIN_AREA = 0.004  # a frame shows the shape where at least this share of it has its colour (a whole ring covers 0.04)
STILL_BELOW = 0.42 * TRAVEL  # travel over the clip, fraction of the side
PATTERN_ABOVE = 0.012  # energy of the relative brightness at the texture's frequency; a ground-truth texture has 0.06
WINDOW = 1.7 * RADIUS  # half side of the square around the centroid that belongs to the shape


@dataclass(frozen=True)
class Reading:
    """The attributes read from one clip. Lengths are fractions of the frame.

    Attributes:
        words: The grammar's attributes and their words.
        centre: Mean position (x, y) of the shape.
        travel: Displacement (x, y) from the first frame to the last, by a straight-line fit.
        seen: Share of the frames in which the shape was found.
    """

    words: dict[str, str]
    centre: tuple[float, float]
    travel: tuple[float, float]
    seen: float

    def agrees(self, caption: Caption) -> dict[str, bool]:
        """Return for every attribute whether it agrees with the caption."""
        return {name: self.words[name] == getattr(caption, name) for name in ATTRIBUTES}


def read(video: Tensor, *, batch: int = 8) -> list[Reading]:
    """Read clips (B, 3, T, H, W) in -1..1, `batch` at a time."""
    return [reading for part in video.float().split(batch) for reading in _read(part.clamp(-1, 1).add(1).div(2))]


def accuracy(readings: Sequence[Reading], captions: Sequence[Caption]) -> dict[str, float]:
    """Return the share of clips that agree with their caption, per attribute and in all attributes at once (`all`)."""
    right = [reading.agrees(caption) for reading, caption in zip(readings, captions, strict=True)]
    shares = {name: sum(row[name] for row in right) / len(right) for name in ATTRIBUTES}
    return shares | {"all": sum(all(row.values()) for row in right) / len(right)}


def _read(image: Tensor) -> list[Reading]:
    """Read one batch (B, 3, T, H, W) in 0..1."""
    ground, from_ground = _ground(image)
    colour, alpha = _colour(image, from_ground)  # (B,), (B, T, H, W)
    centre, seen = _centroids(alpha)
    middle, travel = _line(centre, seen)
    shape = _shape(alpha, centre, seen)
    pattern = _pattern(image, alpha)
    readings = []
    for row in range(len(image)):
        words = dict.fromkeys(("colour", "shape", "motion", "place"), NOTHING)
        if seen[row].any():
            words = {
                "colour": COLOURS[colour[row]],
                "shape": SHAPES[shape[row]],
                "motion": _direction(travel[row]),
                "place": _place(middle[row]),
            }
        words |= {"ground": GROUNDS[ground[row]], "pattern": PATTERNS[pattern[row]]}
        (x, y), (dx, dy) = middle[row].tolist(), travel[row].tolist()
        readings.append(Reading(words, (x, y), (dx, dy), seen[row].float().mean().item()))
    return readings


def _ground(image: Tensor) -> tuple[Tensor, Tensor]:
    """Return the ground colour that fills most of the clip, (B,), and every pixel's distance from its shades, (B, T, H, W)."""
    distances = []
    for name in GROUNDS:
        colour = torch.tensor(GROUND_RGB[name], device=image.device)
        shade = torch.einsum("bcthw,c->bthw", image, colour / colour.square().sum()).clamp_(*SHADES)
        distances.append((image - shade[:, None] * colour[:, None, None, None]).square().sum(dim=1).sqrt())
    stacked = torch.stack(distances, dim=1)  # (B, G, T, H, W)
    ground = stacked.clamp(max=0.3).flatten(2).mean(dim=2).argmin(dim=1)
    return ground, stacked[torch.arange(len(image)), ground]


def _colour(image: Tensor, from_ground: Tensor) -> tuple[Tensor, Tensor]:
    """Return the shape's colour, (B,), and the share of each pixel that has it instead of the ground's, (B, T, H, W)."""
    palette = torch.tensor([COLOUR_RGB[name] for name in COLOURS], device=image.device)
    distances = torch.stack([(image - colour[:, None, None, None]).square().sum(dim=1).sqrt() for colour in palette], dim=1)
    nearest = distances.argmin(dim=1)
    clear = distances.amin(dim=1) < 0.7 * from_ground
    votes = torch.stack([((nearest == index) & clear).flatten(1).sum(dim=1) for index in range(len(COLOURS))], dim=1)
    colour = votes.argmax(dim=1)
    chosen = distances[torch.arange(len(image)), colour]
    return colour, from_ground / (from_ground + chosen).clamp_(min=1e-6)


def _centroids(alpha: Tensor) -> tuple[Tensor, Tensor]:
    """Return the shape's position in each frame, (B, T, 2) as (x, y) fractions, and whether it was found, (B, T).

    Stray pixels of the same colour shift the centroid, so it is computed again inside a window around itself.
    """
    mask = (alpha > 0.5).float()
    height, width = mask.shape[-2:]
    x = (torch.arange(width, device=mask.device) + 0.5) / width
    y = (torch.arange(height, device=mask.device) + 0.5) / height
    short = min(height, width)
    seen = mask.mean(dim=(-2, -1)) > MIN_AREA
    centre = torch.stack(_mean_position(mask, x, y), dim=-1)
    for _ in range(3):
        near_x = ((x - centre[..., :1]) * width / short).abs() < WINDOW  # (B, T, W)
        near_y = ((y - centre[..., 1:]) * height / short).abs() < WINDOW
        centre = torch.stack(_mean_position(mask * near_x[:, :, None, :] * near_y[:, :, :, None], x, y), dim=-1)
    return centre, seen


def _mean_position(mask: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    area = mask.sum(dim=(-2, -1)).clamp(min=1.0)
    return mask.sum(dim=-2) @ x / area, mask.sum(dim=-1) @ y / area


def _line(centre: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
    """Fit a straight line to the frames that show the shape: middle (B, 2) and travel (B, 2), fractions of the frame."""
    time = torch.linspace(-0.5, 0.5, centre.shape[1], device=centre.device) if centre.shape[1] > 1 else centre.new_zeros(1)
    weight = seen.float()[..., None]  # (B, T, 1)
    total = weight.sum(dim=1).clamp(min=1.0)
    mean_time = (weight * time[:, None]).sum(dim=1) / total
    middle = (weight * centre).sum(dim=1) / total
    offset = weight * (time[:, None] - mean_time[:, None])
    travel = (offset * (centre - middle[:, None])).sum(dim=1) / offset.square().sum(dim=1).clamp(min=1e-3)
    return middle - travel * mean_time, travel


def _direction(travel: Tensor) -> str:
    dx, dy = travel.tolist()
    if max(abs(dx), abs(dy)) < STILL_BELOW:
        return "still"
    if abs(dx) > abs(dy):
        return "right" if dx > 0 else "left"
    return "down" if dy > 0 else "up"


def _place(middle: Tensor) -> str:
    return min(PLACES, key=lambda place: abs(PLACE_X[place] - middle[0].item()))


def _shape(alpha: Tensor, centre: Tensor, seen: Tensor, *, grid: int = 41) -> Tensor:
    """Return the template that fits the outline best, averaged over the frames: (B,) indices into `SHAPES`."""
    batch, frames, height, width = alpha.shape
    short = min(height, width)
    offset = torch.linspace(-WINDOW, WINDOW, grid, device=alpha.device)  # fractions of the shorter side
    at_x = 2.0 * (centre[..., 0, None] + offset * short / width) - 1.0  # (B, T, grid), in grid_sample's -1..1
    at_y = 2.0 * (centre[..., 1, None] + offset * short / height) - 1.0
    where = torch.stack(torch.broadcast_tensors(at_x[:, :, None, :], at_y[:, :, :, None]), dim=-1).flatten(0, 1)
    looks = F.grid_sample(alpha.reshape(-1, 1, height, width), where, align_corners=False).view(batch, frames, grid, grid)
    inside = (where.abs().amax(dim=-1) < 1.0).view_as(looks) * seen[:, :, None, None]
    weight = inside.float().sum(dim=1)  # (B, grid, grid)
    look = (looks * inside).sum(dim=1) / weight.clamp(min=1.0)
    soft = ((look - 0.5) * 4.0 + 0.5).clamp_(0.0, 1.0)
    templates = _templates(offset)  # (shapes, variants, grid, grid)
    errors = (
        torch.einsum("bij,bsvij->bsv", weight, (soft[:, None, None] - templates).square())
        / weight.sum(dim=(1, 2)).clamp(min=1.0)[:, None, None]
    )
    return errors.amin(dim=2).argmin(dim=1)


def _templates(offset: Tensor) -> Tensor:
    """Return the coverage of every shape in several sizes, centred on its centroid: (shapes, variants, grid, grid)."""
    radii = RADIUS * torch.tensor([0.75, 0.82, 0.9, 0.96, 1.0, 1.04, 1.1, 1.2], device=offset.device)[:, None, None]
    x, y = torch.broadcast_tensors(offset[None, None, :], offset[None, :, None])
    x, y = x.expand(len(radii), -1, -1), y.expand(len(radii), -1, -1)
    step = offset[1] - offset[0]
    return torch.stack([(0.5 - DISTANCES[shape](x, y, radii) / step).clamp(0.0, 1.0) for shape in SHAPES])


def _pattern(image: Tensor, alpha: Tensor) -> Tensor:
    """Return the texture behind the shape, (B,) indices into `PATTERNS`: the strongest of three pairs of frequencies."""
    height, width = image.shape[-2:]
    short = min(height, width)
    behind = (F.max_pool2d(alpha, 5, stride=1, padding=2) < 0.4).float()  # (B, T, H, W)
    valid = behind.sum(dim=1)
    light = (image.mean(dim=1) * behind).sum(dim=1) / valid.clamp(min=1.0)  # brightness without the shape: (B, H, W)
    known = (valid > 0).float()
    relative = _without_slow_changes(light, known, kernel=2 * round(short / PATTERN_PERIODS) + 1)
    pixels = known.sum(dim=(1, 2)).clamp(min=1.0)
    energies = []
    for factor in (0.85, 0.92, 1.0, 1.08, 1.15):
        cycles = 2.0 * torch.pi * factor * PATTERN_PERIODS / short
        wave_x = torch.exp(1j * cycles * torch.arange(width, device=image.device))
        wave_y = torch.exp(1j * cycles * torch.arange(height, device=image.device))
        along_x = relative.to(wave_x.dtype) @ wave_x  # (B, H)
        striped, banded = along_x.sum(dim=1).abs().square(), (relative.sum(dim=2).to(wave_y.dtype) @ wave_y).abs().square()
        checkered = (along_x @ wave_y).abs().square() + (along_x @ wave_y.conj()).abs().square()
        energies.append(2.0 * torch.stack([striped, banded, checkered], dim=1) / pixels.square()[:, None])
    strongest = torch.stack(energies).amax(dim=0)  # (B, 3): mean square of the relative brightness in that texture
    return torch.where(strongest.amax(dim=1) > PATTERN_ABOVE, strongest.argmax(dim=1) + 1, 0)


def _without_slow_changes(light: Tensor, known: Tensor, *, kernel: int) -> Tensor:
    """Return the brightness relative to its surroundings, zero where unknown: (B, H, W)."""

    def blur(x: Tensor) -> Tensor:
        return F.avg_pool2d(x[:, None], kernel, stride=1, padding=kernel // 2)[:, 0]

    around = blur(light * known) / blur(known).clamp(min=1e-6)
    return (light / around.clamp(min=0.02) - 1.0) * known
