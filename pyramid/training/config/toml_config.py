"""Configurations in TOML: validated strictly, with settings from the command line on top."""

from __future__ import annotations

import difflib
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from ...untrusted import decode
from ..files import read_limited

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pyright: ignore[reportMissingImports]


MAX_FILE = 2**20
"""Bytes of the largest configuration that is read."""
MAX_SHOWN = 200
"""Characters of a wrong value that a message shows."""


class Section(BaseModel):
    """A table of a TOML file: immutable, without unknown keys, without conversion between types (except 1 for 1.0)."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


S = TypeVar("S", bound=Section)


def load_config(kind: type[S], path: str | Path, settings: Iterable[str] = ()) -> S:
    """Load a configuration from a TOML file.

    Args:
        kind: Class of the configuration.
        path: The file.
        settings: ``table.key=value`` strings that override the file. A value that is not valid TOML is taken as a string.

    Raises:
        ValueError: The file cannot be read, a setting is malformed, or values are invalid; all invalid values are listed.
    """
    return config_of(kind, read_tables(path), settings, str(path))


def config_of(kind: type[S], values: dict[str, Any], settings: Iterable[str], where: str) -> S:
    """Return a configuration from values and ``key=value`` strings that override them; otherwise like ``load_config``.

    Args:
        kind: Class of the configuration.
        values: Its values; changed in place.
        settings: The strings.
        where: Name of their source, for the message.
    """
    for setting in settings:
        _set(values, setting)
    return check_config(kind, values, where)


def read_tables(path: str | Path) -> dict[str, Any]:
    """Return the tables of a TOML file, unchecked.

    Raises:
        ValueError: The file does not exist or is not valid TOML.
    """
    path = Path(path)
    try:
        values = tomllib.loads(decode(read_limited(path, MAX_FILE)))
        json.dumps(values)
        return values
    except FileNotFoundError:
        raise ValueError(f"there is no configuration file {path}") from None
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{path} is not valid TOML: {error}") from None
    except TypeError:
        raise ValueError(f"{path} holds a date or time, which no setting is; put it in quotation marks") from None
    except RecursionError:
        raise ValueError(f"{path} is nested too deeply; expected tables of settings") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else _without_python(error)
        raise ValueError(f"{path} cannot be read as a configuration: {reason}") from None


def _without_python(error: Exception) -> str:
    """Return what an error says; for a number that Python refuses to convert, without its advice to programmers."""
    return "holds a number of too many digits" if "set_int_max_str_digits" in str(error) else str(error)


def check_config(kind: type[S], values: dict[str, Any], where: str) -> S:
    """Return ``values`` as a ``kind``.

    Args:
        kind: Class of the configuration.
        values: Nested tables.
        where: Name of their source, for the message.

    Raises:
        ValueError: Values are missing, unknown or invalid; the message lists all of them.
    """
    try:
        return kind.model_validate_json(json.dumps(values))
    except ValidationError as error:
        problems = "; ".join(_describe(kind, details) for details in error.errors())
        raise ValueError(f"{where}: {problems}") from None


def _set(values: dict[str, Any], setting: str) -> None:
    name, equals, text = setting.partition("=")
    if not equals:
        raise ValueError(f"--set expects table.key=value, such as train.steps=100; got '{setting}'")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
        json.dumps(value)
    except (tomllib.TOMLDecodeError, TypeError):  # such as a path, or a date
        value = text
    except RecursionError:
        raise ValueError(f"--set {setting[:MAX_SHOWN]}...: the value is nested too deeply") from None
    except ValueError as error:
        raise ValueError(f"--set {setting[:MAX_SHOWN]}...: {_without_python(error)}") from None
    *tables, key = name.strip().split(".")
    for table in tables:
        values = values.setdefault(table, {})
        if not isinstance(values, dict):
            raise ValueError(f"--set {setting}: '{table}' is a value, not a table")
    values[key] = value


def _describe(kind: type[Section], error: Any) -> str:
    name = ".".join(map(str, error["loc"]))[:MAX_SHOWN]
    if error["type"] == "extra_forbidden":
        *tables, key = error["loc"]
        known = list(_section(kind, tables).model_fields)
        close = difflib.get_close_matches(str(key), known, n=1)
        hint = f" (did you mean '{close[0]}'?)" if close else ""
        return f"unknown setting '{name}'{hint}; expected {', '.join(known)}"
    if error["type"] == "missing":
        return f"'{name}' is required"
    message = error["msg"].removeprefix("Value error, ")
    if not name:
        return message
    shown = json.dumps(error["input"], default=str)
    shown = shown if len(shown) <= MAX_SHOWN else f"{shown[:MAX_SHOWN]}..."
    return f"'{name}' is {shown}: {message[0].lower()}{message[1:]}"


def _section(kind: type[Section], tables: Iterable[Any]) -> type[Section]:
    for table in tables:
        kind = kind.model_fields[str(table)].annotation  # pyright: ignore[reportAssignmentType] - tables are sections
    return kind


def to_toml(config: Section) -> str:
    """Return a configuration as TOML, with the description of every setting; ``load_config`` reads it back."""
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
