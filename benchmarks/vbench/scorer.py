"""Run in the environment of a suite's package: tell where its list of prompts is, or score one dimension.

It imports nothing of this project, so any Python that has the package can run it:

    python scorer.py info SUITE
    python scorer.py score SUITE DIMENSION VIDEOS INFO RESULTS
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path

CLASSES = {"vbench": "VBench", "vbench2": "VBench2"}


def info(suite: str) -> Path:
    """Return the list of prompts in a package, without importing it."""
    spec = importlib.util.find_spec(suite)
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit(f"the package {suite} is not installed")
    return Path(spec.submodule_search_locations[0]) / f"{CLASSES[suite]}_full_info.json"


def score(suite: str, dimension: str, videos: str, prompts: str, results: str) -> None:
    """Write ``DIMENSION_eval_results.json`` with the package's metric; ``local`` uses the files in its cache."""
    import torch

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    benchmark = vars(importlib.import_module(suite))[CLASSES[suite]](device, prompts, results)
    benchmark.evaluate(videos_path=videos, name=dimension, dimension_list=[dimension], local=True)


if __name__ == "__main__":
    if sys.argv[1] == "info":
        print(info(sys.argv[2]))
    else:
        score(*sys.argv[2:])
