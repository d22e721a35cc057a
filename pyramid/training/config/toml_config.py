"""Configurations in TOML: strict, with errors in one sentence, and settings from the command line on top."""

from __future__ import annotations

import difflib
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pyright: ignore[reportMissingImports]


class Section(BaseModel):
    """A table of a TOML file: immutable, no unknown keys, no conversion between types (but 1 is fine for 1.0)."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


S = TypeVar("S", bound=Section)


def load_config(kind: type[S], path: str | Path, settings: Iterable[str] = ()) -> S:
    """The TOML file at ``path`` as a ``kind``, with ``table.key=value`` settings on top; ValueError in plain words."""
    values = read_tables(path)
    for setting in settings:
        _set(values, setting)
    return check_config(kind, values, str(path))


def read_tables(path: str | Path) -> dict[str, Any]:
    try:
        return tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"there is no configuration file {path}") from None
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{path} is not TOML: {error}") from None


def check_config(kind: type[S], values: dict[str, Any], where: str) -> S:
    """``values`` as a ``kind``; a ValueError lists everything that is wrong with them."""
    try:
        return kind.model_validate_json(json.dumps(values))
    except ValidationError as error:
        problems = "; ".join(_problem(kind, one) for one in error.errors())
        raise ValueError(f"{where}: {problems}") from None


def _set(values: dict[str, Any], setting: str) -> None:
    name, equals, text = setting.partition("=")
    if not equals:
        raise ValueError(f"--set takes table.key=value, such as train.steps=100; got {setting!r}")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text
    *tables, key = name.strip().split(".")
    for table in tables:
        values = values.setdefault(table, {})
        if not isinstance(values, dict):
            raise ValueError(f"--set {setting}: '{table}' is a value, not a table")
    values[key] = value


def _problem(kind: type[Section], error: Any) -> str:
    place = ".".join(map(str, error["loc"]))
    if error["type"] == "extra_forbidden":
        *tables, key = error["loc"]
        known = list(_section(kind, tables).model_fields)
        close = difflib.get_close_matches(str(key), known, n=1)
        hint = f" (did you mean '{close[0]}'?)" if close else ""
        return f"there is no setting '{place}'{hint}; known here: {', '.join(known)}"
    if error["type"] == "missing":
        return f"'{place}' is missing"
    message = error["msg"].removeprefix("Value error, ")
    if not place:
        return message
    return f"'{place}' is {json.dumps(error['input'], default=str)}: {message[0].lower()}{message[1:]}"


def _section(kind: type[Section], tables: Iterable[Any]) -> type[Section]:
    for table in tables:
        kind = kind.model_fields[str(table)].annotation  # pyright: ignore[reportAssignmentType] - tables are sections
    return kind


def to_toml(config: Section) -> str:
    """The resolved configuration as TOML, every setting with its explanation; ``load_config`` reads it back."""
    lines: list[str] = []
    sections = [name for name in type(config).model_fields if isinstance(getattr(config, name), Section)]
    for name in [name for name in type(config).model_fields if name not in sections]:
        lines += _line(config, name)
    for name in sections:
        section = getattr(config, name)
        lines += ["", f"[{name}]"]
        for key in type(section).model_fields:
            lines += _line(section, key)
    return "\n".join(lines) + "\n"


def _line(section: Section, name: str) -> list[str]:
    value = getattr(section, name)
    comment = type(section).model_fields[name].description or ""
    if value is None:
        return [f"# {name}: not set. {comment}"]
    shown = json.dumps(list(value) if isinstance(value, tuple) else value, ensure_ascii=False)
    return [f"{name} = {shown}  # {comment}" if comment else f"{name} = {shown}"]
