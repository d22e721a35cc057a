"""Measured rows in a JSON file, by section: an interrupted run resumes, another machine starts over."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from pyramid.training.engine.atomic import write_text

from .machine import Machine


@dataclass(frozen=True)
class Row:
    """One measured number.

    Attributes:
        measure: What was measured.
        value: The number; None where it could not be measured.
        unit: Unit of the number; "x" for a ratio.
        limit: The largest value to aim at; None for a number that is only reported.
        note: What it is a ratio of, what was extrapolated, or why it was not measured.
    """

    measure: str
    value: float | None
    unit: str
    limit: float | None = None
    note: str = ""

    @property
    def verdict(self) -> str:
        """Return "yes" or "no" for a limit that is kept or not, and "-" where there is nothing to compare."""
        if self.value is None or self.limit is None:
            return "-"
        return "yes" if self.value <= self.limit else "**no**"

    def line(self, *, judged: bool = True) -> str:
        """Return the row of the table; without a verdict where the limit is for another model."""
        value = "not measured" if self.value is None else f"{_rounded(self.value)} {self.unit}"
        limit = "" if self.limit is None else f"{_rounded(self.limit)} {self.unit}"
        return f"| {self.measure} | {value} | {limit} | {self.verdict if judged else '-'} | {self.note} |"


class Results:
    """The sections that were measured on one machine."""

    def __init__(self, path: Path, machine: Machine) -> None:
        """Load the sections of a file, unless they were measured on another machine."""
        self.path, self.machine = path, machine
        self.sections: dict[str, dict] = {}
        if path.exists():
            before = json.loads(path.read_text(encoding="utf-8"))
            if before["machine"] == machine.as_dict():
                self.sections = before["sections"]

    def __contains__(self, section: str) -> bool:
        return section in self.sections

    def add(self, section: str, rows: Sequence[Row], *, seconds: float) -> None:
        """Store the rows of a section, and the time that they took."""
        self.sections[section] = {"seconds": round(seconds, 1), "rows": [asdict(row) for row in rows]}
        stored = {"machine": self.machine.as_dict(), "sections": self.sections}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_text(self.path, json.dumps(stored, indent=1) + "\n")

    def rows(self) -> Iterator[tuple[str, Row]]:
        """Yield every row with the name of its section."""
        for name, section in self.sections.items():
            for row in section["rows"]:
                yield name, Row(**row)

    def table(self, missing: Sequence[str]) -> list[str]:
        """Return the lines of the page: the machine, the rows, and the sections that are missing."""
        seconds = sum(section["seconds"] for section in self.sections.values())
        lines = [self.machine.sentence(), ""]
        lines += ["| measure | value | limit | kept | against |", "|---|---|---|---|---|"]
        lines += [row.line(judged=not self.machine.tiny) for _, row in self.rows()]
        lines += ["", f"One run of {seconds:.0f} s. Every ratio is of numbers that were measured alternately in one process."]
        return [*lines, *([f"Not run: {', '.join(missing)}."] if missing else [])]


def _rounded(value: float) -> str:
    """Return a number with three significant digits, without an exponent."""
    digits = max(0, 2 - math.floor(math.log10(abs(value)))) if value else 0
    return f"{value:.{digits}f}"
