"""What the registry hands out: enough to run, and nothing that its scanner or an artist would stumble over."""

import ast
import re
import subprocess
from pathlib import Path, PurePosixPath

import pytest

ROOT = Path(__file__).resolve().parent.parent
MEGABYTE = 2**20
LEFT_OUT = ("tests/", "demo/", "scripts/", "pyramid/training/", ".")
RISKY_MODULES = {"subprocess", "socket", "urllib", "http", "requests", "aiohttp", "ctypes", "pickle"}
RISKY_CALLS = re.compile(r"(?<!\.)\b(exec|eval)\(|\bos\.(system|popen)\b")


def tracked():
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    listing = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if listing.returncode:
        pytest.skip("not a git checkout")
    return [name for name in listing.stdout.split("\0") if name and (ROOT / name).is_file()]


def ignored(name):
    """Whether .comfyignore leaves a file out; its lines are folders (with a slash at the end) or files."""
    lines = (ROOT / ".comfyignore").read_text().splitlines()
    patterns = [line for line in lines if line and not line.startswith("#")]
    return any(name.startswith(pattern) if pattern.endswith("/") else name == pattern for pattern in patterns)


def archive():
    return [name for name in tracked() if not ignored(name)]


def relative_imports(name):
    """Paths, without ending, of the modules that a module may mean by its relative imports."""
    for node in ast.walk(ast.parse((ROOT / name).read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level:
            package = PurePosixPath(name).parents[node.level - 1]
            base = package.joinpath(*(node.module or "").split("."))
            yield {str(base), str(base / "__init__"), *(str(base / alias.name) for alias in node.names)}


def test_every_module_finds_what_it_imports():
    shipped = {name.removesuffix(".py") for name in archive() if name.endswith(".py")}
    assert "nodes/__init__" in shipped
    for name in sorted(shipped):
        for candidates in relative_imports(f"{name}.py"):
            assert candidates & shipped, f"{name}.py imports {min(candidates)}, which is not in the archive"


def test_no_module_starts_programs_opens_connections_or_runs_text():
    for name in archive():
        if name.endswith(".py"):
            assert not set(absolute_imports(name)) & RISKY_MODULES, name
            assert not RISKY_CALLS.search((ROOT / name).read_text(encoding="utf-8")), name


def absolute_imports(name):
    for node in ast.walk(ast.parse((ROOT / name).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield (node.module or "").partition(".")[0]


def test_the_archive_holds_what_the_registry_wants_and_is_small():
    names = archive()
    assert {"__init__.py", "pyproject.toml", "requirements.txt", "LICENSE"} <= set(names)
    assert not [name for name in names if name.startswith(LEFT_OUT)]
    assert sum((ROOT / name).stat().st_size for name in names) < 5 * MEGABYTE


def test_requirements_are_those_of_the_project_and_without_torch():
    wanted = (ROOT / "requirements.txt").read_text().split()
    listed = re.search(r"^dependencies = \[(.*)\]$", (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert listed and wanted == re.findall(r'"([^"]+)"', listed[1])
    assert not any(name.lower().startswith("torch") for name in wanted)
