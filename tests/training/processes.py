"""Run training from the command line, as users do, in one process or several; or in two forks, which start sooner."""

from __future__ import annotations

import multiprocessing
import os
import socket
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TIMEOUT = 240  # seconds
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["pyramid.training.runs", "torch.distributed.fsdp", "accelerate", "peft"])


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


def run_pair(*arguments: str | Path, output: Path) -> str:
    """Run training as the two processes of ``torch.distributed.run``, which write into files in a folder; return their output.

    They are forks of a process that has imported PyTorch and the training code once for all tests.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    files = [output / f"rank{rank}.txt" for rank in range(2)]
    ranks = [
        FORKS.Process(target=_run_rank, args=(rank, port, list(map(str, arguments)), file)) for rank, file in enumerate(files)
    ]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(TIMEOUT)
        if process.exitcode is None:
            process.kill()
    texts = [file.read_text(errors="replace") for file in files if file.exists()]
    assert [process.exitcode for process in ranks] == [0, 0], "\n".join(text[-3000:] for text in texts)
    return "".join(texts)


def _run_rank(rank: int, port: int, arguments: list[str], output: Path) -> None:
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2, "MASTER_PORT": port}
    os.environ.update({**environment(), "MASTER_ADDR": "127.0.0.1", **{name: str(value) for name, value in place.items()}})
    file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(file, stream)
    import torch

    from pyramid.training.__main__ import main

    torch.set_num_threads(1)
    sys.exit(main(arguments))
