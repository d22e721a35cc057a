"""Errors that end a training run, apart from invalid configurations, which raise ValueError."""

from __future__ import annotations


class StoppedError(RuntimeError):
    """Training ended before its last step. The message says why, and which checkpoint is intact."""


class NotFiniteError(RuntimeError):
    """A gradient is infinite or not a number. Weights and optimiser are as they were before the step."""


class SaveError(RuntimeError):
    """A checkpoint cannot be written. The message says why."""
