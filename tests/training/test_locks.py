"""Locks: one process at a time, whatever ends it."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pyramid.training.engine import atomic
from pyramid.training.engine.locks import LOCK, locked

ROOT = Path(__file__).resolve().parents[2]
HOLD = """
import sys, time
from pathlib import Path
from pyramid.training.engine.locks import locked
with locked(Path(sys.argv[1])):
    print("locked", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "locked\n"
    yield process
    process.kill()
    process.wait()


def test_another_process_is_refused_with_the_holder(tmp_path, holder):
    with pytest.raises(ValueError, match=f"{tmp_path} is in use by process {holder.pid} on .*; wait until that process ends"):
        with locked(tmp_path):
            pass


def test_a_lock_ends_with_its_process(tmp_path, holder):
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert (tmp_path / LOCK).exists()
    with locked(tmp_path):
        pass


def test_the_same_process_is_refused_and_keeps_its_lock(tmp_path):
    with locked(tmp_path):
        with pytest.raises(ValueError, match="in use by this process"), locked(tmp_path):
            pass
        again = subprocess.run([sys.executable, "-c", HOLD, str(tmp_path)], cwd=ROOT, capture_output=True, text=True)
        assert "is in use by process" in again.stderr
    with locked(tmp_path):
        pass


def test_two_writers_of_one_file_do_not_disturb_each_other(tmp_path):
    path = tmp_path / "file"
    with atomic.atomic_file(path) as one, atomic.atomic_file(path) as other:
        one.write_text("one")
        other.write_text("other")
    assert path.read_text() == "one" and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("make, kind", [(os.mkdir, "a folder"), (os.mkfifo, "a pipe, socket or device")])
def test_only_files_are_locked_and_replaced(tmp_path, make, kind):
    """A pipe would wait for ever, and a device would be lost."""
    for name in (LOCK, "file"):
        make(tmp_path / name)
    with pytest.raises(ValueError, match=f"{LOCK} is {kind}; expected a file"), locked(tmp_path):
        pass
    with pytest.raises(ValueError, match=f"file is {kind}; expected a file, or a name that does not exist yet"):
        atomic.write_text(tmp_path / "file", "x")
    assert len(list(tmp_path.iterdir())) == 2
