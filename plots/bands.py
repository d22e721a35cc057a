"""Band energies of latents and the boundaries they propose, as text and as a chart."""

from __future__ import annotations

from collections.abc import Sequence

from ..pyramid.noise_levels import shift_sigma
from ..pyramid.spectrum import BandEnergy
from .chart import COLOURS, Area, Chart, Line

FLOOR = 1e-4
"""Lowest signal-to-noise ratio that the chart shows."""


def band_text(bands: Sequence[BandEnergy], threshold: float) -> str:
    """Return one line for the threshold and one for each band."""
    lines = [
        f"level {band.level + 1} -> {band.level}: energy {band.energy:.4g}, masked above natural level {band.natural:.4f}"
        for band in bands
    ]
    return "\n".join([f"threshold {threshold:g} (signal to noise)", *lines])


def band_chart(bands: Sequence[BandEnergy], threshold: float) -> Chart:
    """Return a chart of each band's signal-to-noise ratio over the natural noise level, with the threshold.

    A band of energy E at level sigma has the ratio ``(1 - sigma)^2 E / sigma^2``.
    """
    naturals = [i / 200 for i in range(1, 200)]
    lines = []
    for band, colour in zip(bands, COLOURS, strict=False):
        shift = band.sigma / (1 - band.sigma) / (band.natural / (1 - band.natural))
        ratios = [_ratio(band, shift_sigma(natural, shift)) for natural in naturals]
        lines.append(Line(naturals, ratios, colour, f"detail that level {band.level + 1} lacks: boundary {band.natural:.3f}"))
        lines.append(Line([band.natural] * 2, [FLOOR, threshold], colour))
    limit = Line([0, 1], [threshold, threshold], "#888888", f"threshold {threshold:g}")
    ends = (1.0, *(band.natural for band in bands), 0.0)
    areas = [
        Area(clean, noisy, colour, f"stage {index}")
        for index, (noisy, clean, colour) in enumerate(zip(ends, ends[1:], COLOURS, strict=False))
        if noisy > clean
    ]
    return Chart(
        title="Band energies",
        x_label="natural noise level",
        y_label="signal to noise",
        x_range=(0, 1),
        y_range=(FLOOR, 1e3),
        lines=[*lines, limit],
        areas=areas,
        log=True,
    )


def _ratio(band: BandEnergy, sigma: float) -> float:
    return max(FLOOR, (1 - sigma) ** 2 * band.energy / sigma**2)
