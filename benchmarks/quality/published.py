"""Rows of the existing page, kept where their weights are no longer available."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

NOT_RUN = "not run"
SATURATED = "100.0"
"""An accuracy in a column that was left out, because every row had 100."""

NUMBER = re.compile(r"n = (\d+):")


@dataclass(frozen=True)
class Published:
    """The measured rows of a group's section.

    Attributes:
        number: Clips of each row; 0 of an empty section.
        tables: Cells by column, for each row, a pair of label and steps; first the accuracies, then the other table.
        lines: The lines of every table, by the table's heading.
    """

    number: int = 0
    tables: tuple[Mapping[tuple[str, str], Mapping[str, str]], ...] = field(default=({}, {}))
    lines: Mapping[str, Sequence[str]] = field(default_factory=dict)

    @classmethod
    def read(cls, section: str) -> Published:
        """Read the lines below a group's heading."""
        number, tables = NUMBER.match(section), list(_tables(section))
        if number is None or len(tables) < 2:
            return cls()
        blocks = [[line for line in block.splitlines() if line.startswith("|")] for block in section.split("\n\n")]
        return cls(int(number[1]), tuple(tables[:2]), {block[0]: block[2:] for block in blocks if block})

    def cells(self, table: int, key: tuple[str, str], columns: list[str]) -> list[str] | None:
        """Return a row's cells in these columns, or None if the section does not have them."""
        row = self.tables[table].get(key)
        if row is None:
            return None
        absent = SATURATED if table == 0 else None
        cells = [row.get(column, absent) for column in columns]
        return None if None in cells else [cell for cell in cells if cell is not None]

    def line(self, heading: str, start: str) -> str | None:
        """Return the measured line of a table that begins like this, or None if the section has none."""
        lines = self.lines.get(heading, ())
        return next((line for line in lines if line.startswith(start) and NOT_RUN not in line), None)

    def columns(self) -> set[str]:
        """Return the columns of the table of accuracies."""
        return {column for row in self.tables[0].values() for column in row}


NOTHING = Published()


def _tables(section: str) -> Iterator[dict[tuple[str, str], dict[str, str]]]:
    """Yield the tables of a section, without rows that were not run."""
    for block in section.split("\n\n"):
        lines = [line.strip("| ").split(" | ") for line in block.splitlines() if line.startswith("|")]
        if len(lines) < 2:
            continue
        names = lines[0][2:]
        yield {
            (label, steps): dict(zip(names, cells, strict=True))
            for label, steps, *cells in lines[2:]
            if len(cells) == len(names) and NOT_RUN not in cells
        }
