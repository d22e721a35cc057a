"""The table of results beside the paper's numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from .score import scores_of
from .suites import SUITES, Suite


@dataclass(frozen=True)
class Published:
    """A row of PyramidalWan's tables (arXiv 2601.04792).

    Attributes:
        model: The model.
        steps: Its steps.
        vbench: VBench total.
        semantic: VBench's semantic part; None where the paper has none.
        vbench2: VBench-2.0 total.
    """

    model: str
    steps: str
    vbench: float
    semantic: float | None
    vbench2: float


PAPER = (
    Published("Wan2.1-1.3B", "50", 82.49, 78.57, 56.02),
    Published("PyramidalWan", "20-20-10", 82.83, 80.70, 54.93),
    Published("Wan-DMD", "2", 83.28, 80.41, 56.67),
    Published("Wan-DMD", "1", 79.45, 74.75, 53.17),
    Published("PyramidalWan-DMD-OT", "2-2-1", 82.86, 79.80, 55.36),
    Published("PyramidalWan-DMD-PT*", "2-2-1", 82.72, 79.75, 51.75),
)


def table(runs: Sequence[tuple[str, Mapping[str, Path]]]) -> list[str]:
    """Return the lines of the table.

    Args:
        runs: Name of each run, and its folders of results by suite.
    """
    lines = ["| model | steps | VBench | semantic | VBench-2.0 |", "|---|---|---|---|---|"]
    for name, folders in runs:
        lines.append(_line(name, folders))
    for row in PAPER:
        semantic = "" if row.semantic is None else f"{row.semantic:.2f}"
        lines.append(f"| {row.model}, published | {row.steps} | {row.vbench:.2f} | {semantic} | {row.vbench2:.2f} |")
    return lines


def _line(name: str, folders: Mapping[str, Path]) -> str:
    totals = {suite.name: (scores := scores_of(folders[suite.name], suite), suite.totals(scores)) for suite in _of(folders)}
    cells = []
    for suite, part in (("vbench", "total"), ("vbench", "semantic"), ("vbench2", "total")):
        if suite not in totals:
            cells.append("not scored")
            continue
        scores, parts = totals[suite]
        value = parts[part]
        cells.append(f"{len(scores)} of {len(SUITES[suite].dimensions)} dimensions" if value is None else f"{value:.2f}")
    return f"| {name} |  | {' | '.join(cells)} |"


def _of(folders: Mapping[str, Path]) -> list[Suite]:
    return [suite for name, suite in SUITES.items() if name in folders]
