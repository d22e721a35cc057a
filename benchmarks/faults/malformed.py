"""Malformed inputs of training: configurations, captions, tables, archives, videos, networks, checkpoints, caches, exports."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path

from . import malformed_data, malformed_exports, malformed_settings, malformed_states
from .cases import Case, Part
from .training_runs import SECONDS, make_inputs, run_undisturbed


def cases(seed: int, shared: Path) -> Sequence[Case]:
    """Return the malformed inputs of every kind; the seed chooses the positions of damage."""
    inputs = make_inputs(shared)
    runs = {command: run_undisturbed(command, inputs) for command in ("cache", "finetune")}
    makers = {
        "setting": malformed_settings.settings(inputs),
        "configuration": malformed_settings.files(inputs),
        "data": malformed_data.sources(inputs),
        "network": malformed_data.networks(inputs),
        "checkpoint": malformed_states.checkpoints(inputs, runs["finetune"], seed),
        "export": malformed_exports.exports(inputs, runs["finetune"]),
        "cache": malformed_states.caches(inputs, runs, seed),
    }
    return [
        Case(f"{kind}: {name}", functools.partial(check)) for kind, checks in makers.items() for name, check in checks.items()
    ]


PART = Part(
    "malformed-training",
    "a malformed input of training is rejected with one sentence or skipped with a reason, and nothing else changes",
    cases,
    seconds=3 * SECONDS,
)
