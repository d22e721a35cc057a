"""The configuration that is kept in the folder of a run."""

from __future__ import annotations

from pathlib import Path

from .run_config import RunConfig
from .toml_config import load_config

CONFIG = "config.toml"
FREE_TABLES = ("keep", "validation", "system", "out")
"""Tables that may change when a run is resumed."""
FREE_KEYS = (("train", "steps"), ("data", "workers"))
"""Single settings that may change; all others would make it a different run."""


def check_unchanged(config: RunConfig, folder: Path) -> None:
    """Check that the folder of a run, if there is one, has the same settings.

    Raises:
        ValueError: The folder holds a run with different settings.
    """
    path = folder / CONFIG
    if not path.exists():
        return
    before, now = (each.model_dump() for each in (load_config(type(config), path), config))
    changed = [
        f"{table}.{key}".rstrip(".")
        for table in now
        if table not in FREE_TABLES
        for key in (now[table] if isinstance(now[table], dict) else [""])
        if _value(before, table, key) != _value(now, table, key) and (table, key) not in FREE_KEYS
    ]
    if changed:
        raise ValueError(
            f"{folder} holds a run with different settings: {', '.join(changed)} changed; restore them or choose another 'out'"
        )


def _value(tables: dict, table: str, key: str) -> object:
    return tables[table][key] if key else tables[table]
