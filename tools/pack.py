"""Build the archive that the registry distributes, as publishing does, and scan it.

comfy-cli builds the archive; because of its fifty dependencies it is installed into an environment of its own,
.host/comfy-cli. nodesafe looks for signs of malicious packs, comfy-import-guard for names that ComfyUI does not have. Neither
runs any code of the pack.

Run: .venv/bin/python -m tools.pack    (`make pack` does); the archive is written to output/.
"""

from __future__ import annotations

import ast
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
HIGH_ENTROPY = "code_obfuscation_high_entropy"


def main() -> None:
    """Build and scan the archive."""
    from harness.in_process import comfyui_folder

    archive = pack()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / NAME
        with zipfile.ZipFile(archive) as opened:
            opened.extractall(folder)
            size = sum(entry.file_size for entry in opened.infolist())
        problems = [*suspicious(folder), *unknown_to_comfyui(folder, comfyui_folder())]
    if problems:
        sys.exit("\n".join(["the scanners report:", *problems]))
    print(f"{archive.relative_to(ROOT)}: {size / 1e6:.2f} MB unpacked; nodesafe and comfy-import-guard report nothing")


def pack() -> Path:
    """Build the archive with comfy-cli, check that it holds the tracked files that .comfyignore keeps, and return its path."""
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
        sys.exit(f"comfy-cli packs other files than tests/test_archive.py expects: {', '.join(sorted(packed ^ expected))}")
    return archive


def comfy_cli() -> Path:
    """Return the path of the comfy command; install it the first time."""
    command, stamp = CLI / "bin" / "comfy", CLI / ".made"
    if not (stamp.is_file() and stamp.read_text() == COMFY_CLI):
        print(f"[pack] installing {COMFY_CLI} into {CLI.relative_to(ROOT)}", flush=True)
        run(sys.executable, "-m", "venv", "--clear", str(CLI))
        run(CLI / "bin" / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", COMFY_CLI)
        stamp.write_text(COMFY_CLI)
    return command


def archive_names(*, untracked: bool = True) -> list[str]:
    """Return the files of the checkout that .comfyignore keeps, as git reads such files; with untracked ones or without."""
    others = ("--others", "--exclude-standard") if untracked else ()
    names = [name for name in git("ls-files", "--cached", *others, "-z").split("\0") if name and (ROOT / name).is_file()]
    command = ("-c", f"core.excludesFile={ROOT / '.comfyignore'}", "check-ignore", "--no-index", "--stdin", "-z")
    ignored = set(git(*command, stdin="\0".join(names)).split("\0"))
    return [name for name in names if name not in ignored]


def git(*arguments: str, stdin: str | None = None, folder: Path = ROOT) -> str:
    """Run git and return its output. Raise OSError if there is no git or no checkout."""
    done = subprocess.run(["git", *arguments], cwd=folder, input=stdin, capture_output=True, text=True)
    if done.returncode > 1:
        raise OSError(done.stderr.strip())
    return done.stdout


def suspicious(folder: Path) -> list[str]:
    """Return nodesafe's findings in an unpacked archive, one line each, without high-entropy docstrings and tooltips.

    nodesafe flags any long, varied text as obfuscated code, including docstrings with formulas and tooltips with numbers.
    Neither is ever executed, so this one finding is waived there and nowhere else.
    """
    command = [sys.executable, "-m", "nodesafe.cli", "scan", "--format", "json", str(folder)]
    report = json.loads(subprocess.run(command, capture_output=True, text=True).stdout)
    return [
        f"{finding['file']}:{finding['line']}: {finding['title']}"
        for finding in report["findings"]
        if not (finding["category"] == HIGH_ENTROPY and finding["line"] in prose_lines(folder / finding["file"]))
    ]


def prose_lines(path: Path) -> set[int]:
    """Return the first lines of the docstrings (texts that are statements), tooltips and descriptions in a Python file."""
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    texts = [node.value for node in nodes if isinstance(node, ast.Expr)]
    texts += [node.value for node in nodes if isinstance(node, ast.keyword) and node.arg in ("tooltip", "description")]
    return {text.lineno for text in texts if isinstance(text, ast.Constant) and isinstance(text.value, str)}


def unknown_to_comfyui(folder: Path, comfyui: Path) -> list[str]:
    """Return comfy-import-guard's findings: names and calls in an unpacked archive that a ComfyUI does not have.

    The scanner requires a repository of ComfyUI in its cache and a folder of custom nodes; both are created for it, without
    the network.

    Raises:
        FileNotFoundError: ``comfyui`` is not a checkout of ComfyUI.
    """
    sources = [path.relative_to(comfyui) for path in (comfyui / "comfy").rglob("*.py")]
    if not sources:
        raise FileNotFoundError(f"no ComfyUI in {comfyui}: it has no folder 'comfy' with Python files")
    with tempfile.TemporaryDirectory() as name:
        repository, nodes = Path(name) / "ComfyUI", Path(name) / "install" / "custom_nodes"
        copy(comfyui, repository, sources)
        git("init", "--quiet", folder=repository)
        git("add", "--all", "--force", folder=repository)
        author = ("-c", "user.name=pack", "-c", "user.email=pack@localhost", "-c", "commit.gpgsign=false")
        git(*author, "commit", "--quiet", "--message", "ComfyUI", folder=repository)
        shutil.copytree(folder, nodes / NAME)
        command = [sys.executable, "-m", "comfy_import_guard.cli", "--offline", "--quiet", "--cache-dir", name]
        command += ["check", "--strict", "--target", "HEAD", "--comfy-dir", str(nodes.parent)]
        checked = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "NO_COLOR": "1"})
    return [] if checked.returncode == 0 else (checked.stdout + checked.stderr).splitlines()


def copy(source: Path, target: Path, names: Iterable[str | Path]) -> None:
    """Copy files of one folder into another, with their parent folders."""
    for name in names:
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / name, target / name)


if __name__ == "__main__":
    main()
