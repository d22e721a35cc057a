"""The command line of the recipes that train a network."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from .training_state import Run


def train_or_export(description: str, state: Path, *, train: Callable[..., Any], export: Callable[[Run, Path], None]) -> None:
    """Read the command line, and train or export.

    Args:
        description: Docstring of the script; its first paragraph is the help text.
        state: Default run folder.
        train: Takes the run, and ``device``, ``seconds`` and ``workers``.
        export: Writes the weights of a run to a file.
    """
    parser = argparse.ArgumentParser(
        description=description.partition("\n\n")[0], epilog="To continue, run the same command again."
    )
    parser.add_argument("--out", type=Path, default=state, help="run folder (default: %(default)s)")
    parser.add_argument("--mirror", type=Path, help="second folder for a copy of every saved state")
    parser.add_argument(
        "--minutes", type=float, default=math.inf, help="stop after this long (default: at the recipe's last step)"
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="CPU threads (default: %(default)s)")
    parser.add_argument("--workers", type=int, help="threads that draw batches ahead (default: 8 with a GPU, else 0)")
    parser.add_argument("--export", type=Path, help="write the weights of the run folder to this file, and stop")
    options = parser.parse_args()
    run = Run(options.out, options.mirror)
    if options.export:
        return export(run, options.export)
    torch.set_num_threads(options.threads)
    workers = options.workers if options.workers is not None else 8 * (options.device != "cpu")
    train(run, device=torch.device(options.device), seconds=60 * options.minutes, workers=workers)
