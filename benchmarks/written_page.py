"""Tables in pages, between two marks, that scripts write."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path


def marks(script: str) -> tuple[str, str]:
    """Return the first and the last line of the block that a script writes."""
    return f"<!-- written by {script} -->", f"<!-- end of {script} -->"


def block(script: str, lines: Iterable[str]) -> str:
    """Return the lines with their marks."""
    begin, end = marks(script)
    return "\n".join([begin, "", *lines, "", end])


def write(page: Path, script: str, lines: Iterable[str]) -> None:
    """Replace the block between a script's marks."""
    begin, end = marks(script)
    before, rest = page.read_text(encoding="utf-8").split(begin)
    page.write_text(before + block(script, lines) + rest.split(end)[1], encoding="utf-8")


def print_or_write(script: str, lines: Iterable[str], description: str | None) -> None:
    """Read the command line of a script that makes a table, and print the table, or write it with --write PAGE."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", type=Path, metavar="PAGE", help="replace the table between the marks of this file")
    page = parser.parse_args().write
    if page is None:
        print("\n".join(lines))
    else:
        write(page, script, lines)
