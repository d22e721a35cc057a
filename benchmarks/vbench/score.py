"""Score a folder of videos with a suite's package, one dimension at a time; list the model files that are missing."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

from .suites import SCORER, Suite

OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}


def cache_folder(suite: Suite) -> Path:
    """Return the folder of a suite's models."""
    return Path(os.environ.get(suite.cache_variable) or suite.cache).expanduser()


def missing_models(suite: Suite) -> dict[str, list[Path]]:
    """Return the model files that are not there, by dimension."""
    lacking: dict[str, list[Path]] = {}
    for name, dimension in suite.dimensions.items():
        paths = [cache_folder(suite) / model for model in dimension.models]
        absent = [path for path, model in zip(paths, dimension.models, strict=True) if not _is_there(path, model.endswith("/"))]
        if absent:
            lacking[name] = absent
    return lacking


def _is_there(path: Path, folder: bool) -> bool:
    return path.is_dir() and any(path.iterdir()) if folder else path.is_file()


def result_file(results: Path, dimension: str) -> Path:
    """Return the file that a package writes for a dimension."""
    return results / f"{dimension}_eval_results.json"


def scores_of(results: Path, suite: Suite) -> dict[str, float]:
    """Return the scores that a folder has, by dimension."""
    scores = {}
    for name in suite.dimensions:
        if (path := result_file(results, name)).is_file():
            value = json.loads(path.read_text(encoding="utf-8"))[name]
            scores[name] = float(value[0] if isinstance(value, list) else value)
    return scores


def score(suite: Suite, videos: Path, results: Path, info: Path, *, python: str, download: bool = False) -> Iterator[str]:
    """Score the dimensions that have no result yet, and yield a line about each.

    Args:
        suite: The suite.
        videos: Folder of its videos.
        results: Folder of the results.
        info: Its list of prompts.
        python: The Python that has its package.
        download: Whether the package may download what is missing; otherwise such dimensions are left out.
    """
    lacking = {} if download else missing_models(suite)
    environment: Mapping[str, str] = os.environ if download else {**os.environ, **OFFLINE}
    results.mkdir(parents=True, exist_ok=True)
    for name, dimension in suite.dimensions.items():
        if result_file(results, name).is_file():
            continue
        if name in lacking:
            besides = f"; besides, {dimension.note}" if dimension.note else ""
            yield f"{name}: left out, missing {', '.join(map(str, lacking[name]))}{besides}"
            continue
        arguments = [suite.name, name, str(videos.resolve()), str(info.resolve()), str(results.resolve())]
        done = subprocess.run(
            [python, str(SCORER.resolve()), "score", *arguments], env=environment, capture_output=True, text=True, check=False
        )
        if done.returncode or name not in scores_of(results, suite):
            reason = (done.stderr.strip() or done.stdout.strip() or "no result").rpartition("\n")[2]
            yield f"{name}: failed, {reason}" + (f"; it requires {dimension.note}" if dimension.note else "")
        else:
            yield f"{name}: {scores_of(results, suite)[name]:.4f}"
