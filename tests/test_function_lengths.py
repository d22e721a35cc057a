"""The length of functions, from ``def`` to their last line, docstring included."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MAX_LINES = 40
SCHEMA = "define_schema"
"""Name of the functions that return one literal, the description of a node, and may be longer."""

FOLDERS = sorted({path.relative_to(ROOT).parts[0] for path in ROOT.glob("[!.]*/**/*.py")})


def lengths(source):
    """Yield the name and the number of lines of each function."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield node.name, (node.end_lineno or 0) - node.lineno + 1


@pytest.mark.parametrize("folder", FOLDERS)
def test_functions_are_at_most_40_lines_long(folder):
    long = [
        f"{path.relative_to(ROOT)}: {name} has {lines} lines"
        for path in sorted((ROOT / folder).rglob("*.py"))
        for name, lines in lengths(path.read_text(encoding="utf-8"))
        if lines > MAX_LINES and name != SCHEMA
    ]
    assert not long, "\n".join(long)


def test_lengths_count_from_def_to_the_last_line():
    source = "@decorator\ndef one():\n    pass\n\nasync def two(\n    x,\n):\n    return x\n"
    assert dict(lengths(source)) == {"one": 2, "two": 4}
