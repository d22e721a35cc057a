"""Builds the archive that the registry hands out, as publishing does, and has two scanners look at it.

comfy-cli packs; with its fifty dependencies it gets an environment of its own in .host/comfy-cli. nodesafe looks for what
malicious packs do, comfy-import-guard for names that ComfyUI does not have. Both only read.

Run: .venv/bin/python -m tools.pack    (the Makefile does); the archive lands in output/.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterable
from pathlib import Path

from .set_up import run

ROOT = Path(__file__).resolve().parent.parent
NAME = "pyramidalwan"
CLI = ROOT / ".host" / "comfy-cli"
COMFY_CLI = "comfy-cli==1.23.0"
QUIET = ("--skip-prompt", "--no-enable-telemetry")


def main() -> None:
    from harness.in_process import comfyui_folder

    archive = pack()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / NAME
        with zipfile.ZipFile(archive) as opened:
            opened.extractall(folder)
            size = sum(entry.file_size for entry in opened.infolist())
        problems = [*suspicious(folder), *unknown_to_comfyui(folder, comfyui_folder())]
    if problems:
        sys.exit("\n".join(["the scanners object:", *problems]))
    print(f"{archive.relative_to(ROOT)}: {size / 1e6:.2f} MB unpacked; nodesafe and comfy-import-guard report nothing")


def pack() -> Path:
    """The archive by comfy-cli, checked to hold the tracked files that .comfyignore leaves."""
    comfy = comfy_cli()
    run(comfy, *QUIET, "node", "validate")
    run(comfy, *QUIET, "node", "pack")
    archive = ROOT / "output" / f"{NAME}.zip"
    archive.parent.mkdir(exist_ok=True)
    shutil.move(ROOT / "node.zip", archive)
    with zipfile.ZipFile(archive) as opened:
        packed = set(opened.namelist())
    expected = set(archive_names(untracked=False))
    if packed != expected:
        sys.exit(f"comfy-cli packs other files than tests/test_archive.py checks: {', '.join(sorted(packed ^ expected))}")
    return archive


def comfy_cli() -> Path:
    """The command, installed the first time."""
    command, stamp = CLI / "bin" / "comfy", CLI / ".made"
    if not (stamp.is_file() and stamp.read_text() == COMFY_CLI):
        print(f"[pack] installing {COMFY_CLI} into {CLI.relative_to(ROOT)}", flush=True)
        run(sys.executable, "-m", "venv", "--clear", str(CLI))
        run(CLI / "bin" / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", COMFY_CLI)
        stamp.write_text(COMFY_CLI)
    return command


def archive_names(*, untracked: bool = True) -> list[str]:
    """Files of the checkout that .comfyignore leaves, in git's own reading of such lists; with the new ones or without."""
    others = ("--others", "--exclude-standard") if untracked else ()
    names = [name for name in git("ls-files", "--cached", *others, "-z").split("\0") if name and (ROOT / name).is_file()]
    command = ("-c", f"core.excludesFile={ROOT / '.comfyignore'}", "check-ignore", "--no-index", "--stdin", "-z")
    ignored = set(git(*command, given="\0".join(names)).split("\0"))
    return [name for name in names if name not in ignored]


def git(*arguments: str, given: str | None = None, folder: Path = ROOT) -> str:
    """What git prints; OSError where there is no git or no checkout."""
    done = subprocess.run(["git", *arguments], cwd=folder, input=given, capture_output=True, text=True)
    if done.returncode > 1:
        raise OSError(done.stderr.strip())
    return done.stdout


def suspicious(folder: Path) -> list[str]:
    """What nodesafe finds in an unpacked archive, one line each."""
    command = [sys.executable, "-m", "nodesafe.cli", "scan", "--format", "json", str(folder)]
    report = json.loads(subprocess.run(command, capture_output=True, text=True).stdout)
    return [f"{found['file']}:{found['line']}: {found['title']}" for found in report["findings"]]


def unknown_to_comfyui(folder: Path, comfyui: Path) -> list[str]:
    """Names and calls of an unpacked archive that a ComfyUI does not have, by comfy-import-guard.

    It wants a repository of ComfyUI in its cache and a tree of custom nodes; both are made up here, without the network.
    """
    with tempfile.TemporaryDirectory() as name:
        comfyui, nodes = Path(name) / "ComfyUI", Path(name) / "install" / "custom_nodes"
        copy(comfyui, comfyui, (path.relative_to(comfyui) for path in (comfyui / "comfy").rglob("*.py")))
        git("init", "--quiet", folder=comfyui)
        git("add", "--all", "--force", folder=comfyui)
        author = ("-c", "user.name=pack", "-c", "user.email=pack@localhost", "-c", "commit.gpgsign=false")
        git(*author, "commit", "--quiet", "--message", "the host", folder=comfyui)
        shutil.copytree(folder, nodes / NAME)
        command = [sys.executable, "-m", "comfy_import_guard.cli", "--offline", "--quiet", "--cache-dir", name]
        command += ["check", "--strict", "--target", "HEAD", "--comfy-dir", str(nodes.parent)]
        checked = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "NO_COLOR": "1"})
    return [] if checked.returncode == 0 else (checked.stdout + checked.stderr).splitlines()


def copy(source: Path, target: Path, names: Iterable[str | Path]) -> None:
    """Files of one folder into another, with the folders they lie in."""
    for name in names:
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / name, target / name)


if __name__ == "__main__":
    main()
