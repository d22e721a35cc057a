"""Untrusted values: decode text, parse JSON within limits, and format any value for an error message."""

from __future__ import annotations

import json
from typing import Any

MAX_SHOWN = 60
"""Characters of a value that a message shows."""

MAX_DIGITS = 20
"""Digits of a whole number in JSON; a seed has 20."""

MAX_JSON = 1_000_000
"""Characters of JSON that are read; the pack writes a few thousand."""


MARKS = ((b"\xef\xbb\xbf", "utf-8"), (b"\xff\xfe\0\0", "utf-32-le"), (b"\0\0\xfe\xff", "utf-32-be"),
         (b"\xff\xfe", "utf-16-le"), (b"\xfe\xff", "utf-16-be"))  # fmt: skip
"""Byte order marks, and the encodings that they announce; longer ones first."""


def shown(value: object) -> str:
    """Return a value for a message: one line, short, whatever the value is."""
    if isinstance(value, str):
        start = value[:MAX_SHOWN]
        text = f"'{start}'" if start.isprintable() else ascii(start)
        return text if start == value else f"{text}... ({len(value)} characters)"
    if isinstance(value, int) and abs(value) >= 10**MAX_SHOWN:
        return f"a number of more than {MAX_SHOWN} digits"
    if value is None or isinstance(value, (bool, int, float)):
        return repr(value)
    if isinstance(value, (list, tuple, dict, set, frozenset)):
        return f"a {type(value).__name__} of {len(value)}"
    return f"of type {type(value).__name__}"


def first_line(error: BaseException) -> str:
    """Return the first line of an exception's message, shortened; its class where it has none."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = lines[0] if lines else type(error).__name__
    return text if len(text) <= 3 * MAX_SHOWN else f"{text[: 3 * MAX_SHOWN]}..."


def encoding_of(start: bytes) -> tuple[str, int]:
    """Return the encoding of a text from its first bytes, and the length of its byte order mark."""
    return next(((name, len(mark)) for mark, name in MARKS if start.startswith(mark)), ("utf-8", 0))


def decode(contents: bytes) -> str:
    """Decode a text in UTF-8, or in the UTF encoding that its byte order mark announces; the mark is removed.

    Raises:
        ValueError: It is in another encoding, or holds NUL.
    """
    encoding, skipped = encoding_of(contents[:4])
    try:
        text = contents[skipped:].decode(encoding)
    except UnicodeDecodeError as error:
        raise ValueError(
            f"is not text in {encoding.upper()}: byte {error.start + skipped} cannot be decoded; save it as UTF-8"
        ) from None
    if "\0" in text:
        raise ValueError("holds NUL characters; save it as UTF-8 text")
    return text


def read_json(text: str, what: str, *, most: int = MAX_JSON) -> Any:
    """Return the value of a JSON text from outside.

    Args:
        text: The text.
        what: The name of the text in messages.
        most: Characters that it may have.

    Raises:
        ValueError: The text is too long, not JSON, nested too deeply, or holds NaN or infinity.
    """
    if len(text) > most:
        raise ValueError(f"{what} has {len(text)} characters; expected at most {most}")
    try:
        return json.loads(text, parse_constant=_refuse, parse_float=_finite, parse_int=_whole)
    except RecursionError:
        raise ValueError(f"{what} is not valid JSON: it is nested too deeply") from None
    except ValueError as error:
        raise ValueError(f"{what} is not valid JSON: {first_line(error)}") from None


def read_json_object(text: str, what: str) -> dict[str, Any]:
    """Return the JSON object in a text from outside; see ``read_json``.

    Raises:
        ValueError: The text cannot be read, or holds another value.
    """
    value = read_json(text, what)
    if not isinstance(value, dict):
        raise ValueError(f"{what} must be a JSON object, got {shown(value)}")
    return value


def _refuse(constant: str) -> float:
    raise ValueError(f"{constant} is not a number")


def _whole(text: str) -> int:
    if len(text) > MAX_DIGITS:
        raise ValueError(f"a number of {len(text)} digits is too large")
    return int(text)


def _finite(text: str) -> float:
    number = float(text)
    if number in (float("inf"), -float("inf")):
        raise ValueError(f"{text[:MAX_SHOWN]} is too large")
    return number
