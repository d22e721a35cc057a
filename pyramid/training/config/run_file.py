"""Load the configuration of a run without knowing which kind it is."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from .distill import DistillConfig
from .finetune import FinetuneConfig
from .run_config import RunConfig
from .toml_config import load_config, read_tables


def load_run_config(path: str | Path, settings: Iterable[str] = ()) -> RunConfig:
    """Load a finetuning or distillation run; only the latter has a table ``networks``.

    Args:
        path: The TOML file.
        settings: ``table.key=value`` strings that override it.

    Raises:
        ValueError: The file or a setting is invalid.
    """
    kind = DistillConfig if "networks" in read_tables(path) else FinetuneConfig
    return load_config(kind, path, settings)
