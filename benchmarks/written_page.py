"""Puts what a script measured or counted between two marks of a page."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path


def marks(script: str) -> tuple[str, str]:
    """The first and the last line of what ``script`` writes."""
    return f"<!-- written by {script} -->", f"<!-- end of {script} -->"


def block(script: str, lines: Iterable[str]) -> str:
    begin, end = marks(script)
    return "\n".join([begin, "", *lines, "", end])


def write(page: Path, script: str, lines: Iterable[str]) -> None:
    begin, end = marks(script)
    before, rest = page.read_text(encoding="utf-8").split(begin)
    page.write_text(before + block(script, lines) + rest.split(end)[1], encoding="utf-8")


def print_or_write(script: str, lines: Iterable[str], description: str | None) -> None:
    """The command line of a script that makes a table: prints it, or writes it with --write PAGE."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", type=Path, metavar="PAGE", help="put the table between the marks of this file")
    page = parser.parse_args().write
    if page is None:
        print("\n".join(lines))
    else:
        write(page, script, lines)
