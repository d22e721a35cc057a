"""Run training from the command line, as users do, in one process or several."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TIMEOUT = 240  # seconds


def command(*arguments: str | Path, processes: int = 1) -> list[str]:
    """Return the command line of ``python -m pyramid.training``."""
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"] if processes > 1 else []
    return [sys.executable, *launcher, "-m", "pyramid.training", *map(str, arguments)]


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1", "PYTHONWARNINGS": "ignore"}


def start(*arguments: str | Path, processes: int = 1) -> subprocess.Popen:
    """Start training in the background."""
    return subprocess.Popen(
        command(*arguments, processes=processes), cwd=ROOT, env=environment(), text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def run(*arguments: str | Path, processes: int = 1, expect: int = 0) -> str:
    """Run training, check its exit status, and return its output."""
    process = start(*arguments, processes=processes)
    try:
        output, _ = process.communicate(timeout=TIMEOUT)
    except subprocess.TimeoutExpired:
        process.terminate()  # torchrun forwards it to its processes
        output, _ = process.communicate()
        raise AssertionError(f"still running after {TIMEOUT} s:\n{output[-3000:]}") from None
    assert process.returncode == expect, output[-3000:]
    return output
