"""Tables of videos or prompts: rows of .csv and .jsonl files, each by itself, so that a bad one does not stop the others."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

from ...untrusted import decode, encoding_of
from ..files import parse_json, read_limited

MAX_TABLE = 2**32
"""Bytes of the largest table that is read."""
MAX_FIELD = 2**20
"""Characters of the longest field."""
Row = dict[str, str | None]


def text_lines(path: Path) -> list[str | ValueError]:
    """Return the lines of a text file, with the error in place of each line that cannot be decoded.

    In every encoding, lines end at a line feed, a carriage return, or both; other separators of Unicode are part of the text.

    Raises:
        OSError: The file cannot be read.
        ValueError: The file is too large, or cannot be decoded as a whole.
    """
    contents = read_limited(path, MAX_TABLE)
    encoding, skipped = encoding_of(contents[:4])
    if encoding != "utf-8":
        return [line.removesuffix("\n") for line in io.StringIO(decode(contents), newline=None)]
    return [_line(line) for line in contents[skipped:].splitlines()]


def _line(line: bytes) -> str | ValueError:
    try:
        return decode(line)
    except ValueError as error:
        return error


def rows(path: Path) -> Iterator[tuple[int, Row | str]]:
    """Yield every row of a table with its number from 1, or the reason in place of a row that cannot be read.

    Raises:
        OSError: The file cannot be read.
        ValueError: The file is too large, is text in another encoding, or has no header.
    """
    lines = text_lines(path)
    yield from enumerate(_csv_rows(lines) if path.suffix == ".csv" else map(_json_row, _not_empty(lines)), 1)


def _not_empty(lines: Sequence[str | ValueError]) -> Iterator[str | ValueError]:
    return (line for line in lines if isinstance(line, ValueError) or line.strip())


def _json_row(line: str | ValueError) -> Row | str:
    if isinstance(line, ValueError):
        return str(line)
    try:
        values = parse_json(line)
    except ValueError as error:
        return str(error)
    if not isinstance(values, dict):
        return f"is a JSON {type(values).__name__}; expected an object with the keys 'path' and 'caption'"
    return _checked({name: values[name] for name in ("path", "caption") if name in values})


def _checked(row: dict) -> Row | str:
    for name, value in row.items():
        if value is not None and not isinstance(value, str):
            return f"'{name}' is {value!r:.50}; expected a string"
        if value is not None and len(value) > MAX_FIELD:
            return f"'{name}' has {len(value)} characters; at most {MAX_FIELD} are allowed"
    return row


def _csv_rows(lines: Sequence[str | ValueError]) -> Iterator[Row | str]:
    """Yield the rows below the header.

    After a row that cannot be parsed, such as one with an unclosed quotation mark, continue in the next line.
    """
    csv.field_size_limit(MAX_FIELD)
    header, start = _csv_row(lines, 0)
    if isinstance(header, str):
        raise ValueError(f"the header {header}")
    while start < len(lines):
        if not isinstance(lines[start], ValueError) and not str(lines[start]).strip():
            start += 1
            continue
        values, start = _csv_row(lines, start)
        if isinstance(values, str):
            yield values
        elif len(values) > len(header):
            yield f"has {len(values)} columns, the header has {len(header)}; put values with a comma in quotation marks"
        else:
            yield _checked(dict(zip(header, [*values, *[None] * (len(header) - len(values))], strict=True)))


def _csv_row(lines: Sequence[str | ValueError], start: int) -> tuple[list[str] | str, int]:
    """Return the row that begins in a line, or the reason why there is none, and the line after it."""
    while start < len(lines) and not isinstance(lines[start], ValueError) and not str(lines[start]).strip():
        start += 1
    if start == len(lines):
        return "is missing", start
    if isinstance(line := lines[start], ValueError):
        return str(line), start + 1
    readable = (f"{'' if isinstance(each, ValueError) else each}\n" for each in islice(lines, start, None))
    reader = csv.reader(readable, strict=True)
    try:
        values = next(reader)
    except (csv.Error, StopIteration) as error:
        return f"cannot be parsed ({error})", start + 1
    if any(isinstance(each, ValueError) for each in lines[start : start + reader.line_num]):
        return "has a line that cannot be decoded; save the table as UTF-8", start + 1
    return values, start + reader.line_num
