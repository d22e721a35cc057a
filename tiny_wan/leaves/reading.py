"""Read a clip's four attributes by deterministic image analysis, without a network and without randomness.

Palette, layout and movement have absolute answers. The scale is read from the energies in octaves of space, of which a decoder
loses some: it is compared with clips of known scale that were decoded in the same way.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .grammar import ATTRIBUTES, LAYOUTS, PALETTES, SCALES, Caption
from .scenes import BRIGHTNESS, CAMERA, PAN, PLACES, TINTS, ZOOM

PALE_ABOVE = 0.74  # the darkest channel of a pixel of the pale leaf; few other pixels reach it
BLOCKS = (1, 2, 4, 8, 16)  # sides of blocks, in pixels of 128
KNOWN = 0.6  # share of a block that must be outside the pale leaf
MIN_VARIANCE = 1e-4  # of log energies; small clips have no blocks of some sizes
CELLS = (8, 16, 32)  # along the shorter side, in which the movement of the camera is fitted
REWEIGHTED = 4  # rounds of the robust fit


@dataclass(frozen=True)
class Scales:
    """The distribution of `energies` for every scale: Gaussians of one covariance.

    Attributes:
        means: (scales, 5).
        precision: Inverse covariance (5, 5).
    """

    means: Tensor
    precision: Tensor

    @staticmethod
    def of(video: Tensor, captions: Sequence[Caption]) -> Scales:
        """Fit clips (B, 3, T, H, W) of known scales, at least six of each."""
        values, words = energies(*_parts(video)).double(), [caption.scale for caption in captions]
        groups = [values[[word == scale for word in words]] for scale in SCALES]
        covariance = torch.stack([torch.cov(group.T) for group in groups]).mean(dim=0)
        covariance += MIN_VARIANCE * torch.eye(len(covariance))
        return Scales(torch.stack([group.mean(dim=0) for group in groups]), torch.linalg.inv(covariance))

    def nearest(self, values: Tensor) -> list[str]:
        """Return the most likely scales of energies (B, 5)."""
        offset = values.double()[:, None] - self.means
        distances = torch.einsum("bsi,ij,bsj->bs", offset, self.precision, offset)
        return [SCALES[index] for index in distances.argmin(dim=1).tolist()]


def read(video: Tensor, scales: Scales) -> list[dict[str, str]]:
    """Read clips (B, 3, T, H, W) in -1..1: the word of every attribute, for each clip."""
    image, pale = _parts(video)
    camera = camera_movement(video) / torch.tensor([PAN, PAN, ZOOM])
    columns = {
        "palette": _nearest(tint(image, pale), PALETTES, [TINTS[name] for name in PALETTES]),
        "scale": scales.nearest(energies(image, pale)),
        "layout": _nearest(place(pale), LAYOUTS, [PLACES[name] for name in LAYOUTS]),
        "motion": _nearest(camera, tuple(CAMERA), list(CAMERA.values())),
    }
    return [{name: columns[name][row] for name in ATTRIBUTES} for row in range(len(image))]


def agrees(words: dict[str, str], caption: Caption) -> dict[str, bool]:
    """Return for every attribute whether it agrees with the caption."""
    return {name: words[name] == getattr(caption, name) for name in ATTRIBUTES}


def _parts(video: Tensor) -> tuple[Tensor, Tensor]:
    """Return the image in 0..1, and which pixels are pale, (B, T, H, W)."""
    image = video.float().clamp(-1, 1).add(1).div(2)
    return image, image.amin(dim=1) > PALE_ABOVE


def _nearest(values: Tensor, words: Sequence[str], centres: Sequence[Sequence[float]]) -> list[str]:
    return [words[int(index)] for index in torch.cdist(values, torch.tensor(centres)).argmin(dim=1)]


def tint(image: Tensor, pale: Tensor) -> Tensor:
    """Return the mean colour outside the pale leaf without its brightness, (B, 3), in the unit of `TINTS`."""
    behind = (~pale).float()[:, None]
    colour = (image * behind).sum(dim=(2, 3, 4)) / behind.sum(dim=(2, 3, 4)).clamp(min=1.0)
    return (colour - colour.mean(dim=1, keepdim=True)) / (0.5 + sum(BRIGHTNESS) / 2)


def place(pale: Tensor) -> Tensor:
    """Return the mean place (x, y) of the pale pixels from the centre of the frame, (B, 2), in shorter sides."""
    height, width = pale.shape[-2:]
    short, density = min(height, width), pale.float().mean(dim=1)
    total = density.sum(dim=(1, 2)).clamp(min=1e-6)
    x, y = ((torch.arange(side) + 0.5 - side / 2) / short for side in (width, height))
    return torch.stack([density.sum(dim=1) @ x / total, density.sum(dim=2) @ y / total], dim=1)


def energies(image: Tensor, pale: Tensor) -> Tensor:
    """Return the logarithms of the variances of brightness, (B, 5), that block means lose from one size to the next, and keep.

    The number of leaves in a block decides how much its mean varies, so the variance moves to smaller blocks with the scale.
    The pale leaf and a border of two pixels around it do not count.
    """
    light = image.mean(dim=1).flatten(0, 1)[:, None]
    behind = 1.0 - F.max_pool2d(pale.float().flatten(0, 1)[:, None], 5, stride=1, padding=2)
    unit, variances = min(image.shape[-2:]) / 128, []
    for side in BLOCKS:
        side = max(1, round(side * unit))
        share = F.avg_pool2d(behind, side)
        mean, known = F.avg_pool2d(light * behind, side) / share.clamp(min=KNOWN), (share > KNOWN).float()
        count = known.sum(dim=(1, 2, 3)).clamp(min=1.0)
        average = (mean * known).sum(dim=(1, 2, 3)) / count
        variances.append(((mean - average[:, None, None, None]).square() * known).sum(dim=(1, 2, 3)) / count)
    variance = torch.stack(variances, dim=1).view(len(image), -1, len(BLOCKS)).mean(dim=1)
    lost = (variance[:, :-1] - variance[:, 1:]).clamp(min=1e-7)
    return torch.cat([lost, variance[:, -1:].clamp(min=1e-7)], dim=1).log()


def camera_movement(video: Tensor) -> Tensor:
    """Return the movement of the leaves behind over the clip.

    For each pair of frames, the movement (u + s x, v + s y) is fitted to the brightness I outside the pale leaf, from coarse to
    finer cells: I_t + I_x (u + s x) + I_y (v + s y) = 0, with both frames moved by half of what the coarser cells found. The
    fit is robust, because the leaves in front move on their own (Black and Anandan 1996).

    Returns:
        (B, 3): displacement (x, y) in shorter sides, and the logarithm of the magnification.
    """
    image, pale = _parts(video)
    (height, width), short = image.shape[-2:], min(image.shape[-2:])
    light, hidden = image.mean(dim=1), F.max_pool2d(pale.float(), 5, stride=1, padding=2)
    movement = light.new_zeros(len(light), light.shape[1] - 1, 3)
    for cells in CELLS:
        size = (round(height * cells / short), round(width * cells / short))
        known = (F.interpolate(hidden, size, mode="area") == 0).float()
        movement = movement + _correction(_smooth(F.interpolate(light, size, mode="area")), known, movement, cells)
    return movement.sum(dim=1)


def _correction(light: Tensor, known: Tensor, movement: Tensor, cells: int) -> Tensor:
    """Return what is missing in the movements (B, T - 1, 3) from frame to frame, from brightness (B, T, h, w) in cells."""
    before, known_before = (_moved(part[:, :-1], -0.5 * movement, cells) for part in (light, known))
    after, known_after = (_moved(part[:, 1:], 0.5 * movement, cells) for part in (light, known))
    visible = (known_before * known_after > 0.999).float()
    middle, inside = (before + after) / 2, (..., slice(1, -1), slice(1, -1))
    slope_x, slope_y = middle[..., 1:-1, 2:] - middle[..., 1:-1, :-2], middle[..., 2:, 1:-1] - middle[..., :-2, 1:-1]
    y, x = _positions(light, cells)
    columns = torch.stack([slope_x, slope_y, slope_x * x[1:-1] + slope_y * y[1:-1, None]], dim=-1) * (cells / 2)
    target = (before - after)[inside]
    return _robust_fit(columns.flatten(2, 3), target.flatten(2, 3), visible[inside].flatten(2, 3))


def _positions(light: Tensor, cells: int) -> tuple[Tensor, Tensor]:
    """Return the places (h,) and (w,) of cells from the centre of the frame, in shorter sides."""
    y, x = ((torch.arange(side) + 0.5 - side / 2) / cells for side in light.shape[-2:])
    return y, x


def _moved(light: Tensor, movement: Tensor, cells: int) -> Tensor:
    """Return frames (B, T, h, w) as seen from places that are displaced by movements (B, T, 3); zero outside of the frames."""
    height, width = light.shape[-2:]
    y, x = _positions(light, cells)
    u, v, zoom = (value[..., None, None] for value in movement.unbind(dim=-1))
    at_x, at_y = torch.broadcast_tensors(x + u + zoom * x, y[:, None] + v + zoom * y[:, None])
    grid = torch.stack([2 * cells / width * at_x, 2 * cells / height * at_y], dim=-1).flatten(0, 1)
    return F.grid_sample(light.flatten(0, 1)[:, None], grid, align_corners=False)[:, 0].view_as(light)


def _smooth(light: Tensor) -> Tensor:
    """Weigh neighbouring cells by (1, 2, 1) / 4 along both axes: central differences underestimate slopes of finer detail."""
    kernel = torch.tensor([1.0, 2.0, 1.0]) / 4
    padded = F.pad(light, (1, 1, 1, 1), mode="replicate")
    return F.conv2d(padded.flatten(0, 1)[:, None], (kernel[:, None] * kernel)[None, None])[:, 0].view_as(light)


def _robust_fit(columns: Tensor, target: Tensor, known: Tensor) -> Tensor:
    """Return the least squares solutions (..., 3), with Geman and McClure's weights: large residuals count less."""
    weight, solution = known, torch.zeros_like(columns[..., 0, :])
    ridge = 1e-3 * torch.eye(3)
    for _ in range(REWEIGHTED):
        weighted = columns * weight[..., None]
        solution = torch.linalg.solve(weighted.mT @ columns + ridge, weighted.mT @ target[..., None])[..., 0]
        residual = (columns @ solution[..., None])[..., 0] - target
        spread = (residual.abs() * known).sum(dim=-1, keepdim=True) / known.sum(dim=-1, keepdim=True).clamp(min=1.0)
        weight = known / (1.0 + (residual / (1.5 * spread + 1e-6)).square()).square()
    return solution
