"""Band energies of latents with the boundaries they propose."""

from __future__ import annotations

from collections.abc import Sequence

from ..pyramid.noise_levels import shift_sigma
from ..pyramid.spectrum import BandEnergy
from .chart import COLOURS, Area, Chart, Line

FLOOR = 1e-4


def band_text(bands: Sequence[BandEnergy], threshold: float) -> str:
    lines = [
        f"level {band.level + 1} -> {band.level}: energy {band.energy:.4g}, drowned above natural level {band.natural:.4f}"
        for band in bands
    ]
    return "\n".join([f"threshold {threshold:g} (signal to noise)", *lines])


def band_chart(bands: Sequence[BandEnergy], threshold: float) -> Chart:
    """Signal-to-noise ratio of each band over the natural noise level, and where it falls below the threshold."""
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
        "Band energies",
        "natural noise level",
        "signal to noise",
        (0, 1),
        (FLOOR, 1e3),
        [*lines, limit],
        areas,
        log=True,
    )


def _ratio(band: BandEnergy, sigma: float) -> float:
    return max(FLOOR, (1 - sigma) ** 2 * band.energy / sigma**2)
