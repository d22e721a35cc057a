"""The registry's archive: it runs, is small and loads quickly, and the scanners report nothing."""

import ast
import json
import re
import subprocess
import sys
from pathlib import Path, PurePosixPath

import pytest

from harness.in_process import comfyui_folder
from tools.pack import archive_names, copy, suspicious, unknown_to_comfyui

ROOT = Path(__file__).resolve().parent.parent
MEGABYTE = 2**20
FOLDERS = {"locales", "nodes", "plots", "pyramid", "samplers", "web", "workflows"}
FILES = {"__init__.py", "pyproject.toml", "requirements.txt", "LICENSE", "README.md", "CHANGELOG.md"}
ENDINGS = {".py", ".js", ".json", ".md", ".toml", ".txt", ".jpg", ".svg", ""}
"""No weights, pickles or programs; the empty ending is LICENSE."""

RISKY_MODULES = {
    *("subprocess", "multiprocessing", "pty", "ctypes", "cffi", "pip", "runpy", "webbrowser"),
    *("socket", "ssl", "urllib", "http", "ftplib", "smtplib", "requests", "httpx", "aiohttp", "websockets", "huggingface_hub"),
    *("pickle", "marshal", "shelve", "dill", "joblib"),
}
RISKY_CALLS = re.compile(r"(?<!\.)\b(exec|eval|compile|__import__)\(|\bos\.(system|popen|spawn\w*)\b|\btorch\.(load|hub)\b")
TRAINING_CODE = re.compile(r"\.backward\(|\boptim\.|requires_grad_?\(|\.training\b")

COMFYUI_PACKAGES = {"torch": "torch", "numpy": "numpy", "einops": "einops", "tqdm": "tqdm", "PIL": "Pillow"}
COMFYUI_PACKAGES |= {"safetensors": "safetensors"}
"""Module, and its name in ComfyUI's requirements."""

COMFYUI_MODULES = {"comfy", "comfy_api", "folder_paths", "latent_preview"}
OPTIONAL = {("pywt", "pyramid/resize.py")}
"""Imported only where they are used. The pack runs without them, and a test below hides them."""

IMPORT_SECONDS = 0.3


@pytest.fixture(scope="module")
def archive():
    try:
        return archive_names()
    except OSError as error:
        pytest.skip(f"not a git checkout: {error}")


@pytest.fixture(scope="module")
def modules(archive):
    """Parse every Python file of the archive."""
    return {name: ast.parse((ROOT / name).read_text(encoding="utf-8")) for name in archive if name.endswith(".py")}


@pytest.fixture(scope="module")
def unpacked(archive, tmp_path_factory):
    folder = tmp_path_factory.mktemp("archive") / "pyramidalwan"
    copy(ROOT, folder, archive)
    return folder


def relative_imports(name, tree):
    """Yield for every relative import the paths, without ending, of the modules that it may refer to."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level:
            package = PurePosixPath(name).parents[node.level - 1]
            base = package.joinpath(*(node.module or "").split("."))
            yield {str(base), str(base / "__init__"), *(str(base / alias.name) for alias in node.names)}


def absolute_imports(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield (node.module or "").partition(".")[0]


def test_the_archive_contains_the_pack_and_nothing_else(archive):
    assert set(archive) >= FILES
    assert {name.partition("/")[0] for name in archive} == FOLDERS | FILES, "add a new folder to .comfyignore or to FOLDERS"
    assert not [name for name in archive if name.startswith("pyramid/training/")]
    assert len([name for name in archive if name.startswith("web/docs/")]) >= 30, "the help pages"
    assert {PurePosixPath(name).suffix for name in archive} <= ENDINGS


def test_the_archive_has_neither_links_nor_caches(archive):
    """Policies for custom nodes refuse them."""
    assert not [name for name in archive if (ROOT / name).is_symlink() or "__pycache__" in name or name.endswith(".pyc")]
    assert not any(parent.is_symlink() for name in archive for parent in (ROOT / name).parents if parent != ROOT.parent)


def test_the_archive_is_small(archive):
    sizes = {name: (ROOT / name).stat().st_size for name in archive}
    assert not [name for name, size in sizes.items() if size > MEGABYTE]
    assert sum(sizes.values()) < 2 * MEGABYTE


def test_every_relative_import_is_in_the_archive(modules):
    shipped = {name.removesuffix(".py") for name in modules}
    assert "nodes/__init__" in shipped
    for name, tree in modules.items():
        for candidates in relative_imports(name, tree):
            assert candidates & shipped, f"{name} imports {min(candidates)}, which is not in the archive"


def test_modules_import_only_packages_that_comfyui_requires(modules):
    requirements = re.findall(r"^[\w-]+", (comfyui_folder() / "requirements.txt").read_text(encoding="utf-8"), re.MULTILINE)
    assert set(COMFYUI_PACKAGES.values()) <= set(requirements)
    known = COMFYUI_PACKAGES.keys() | COMFYUI_MODULES | sys.stdlib_module_names
    for name, tree in modules.items():
        foreign = {(module, name) for module in absolute_imports(tree) if module not in known}
        assert foreign <= OPTIONAL, name


def test_no_module_starts_programs_opens_connections_executes_text_or_trains(modules):
    for name, tree in modules.items():
        text = (ROOT / name).read_text(encoding="utf-8")
        assert not set(absolute_imports(tree)) & RISKY_MODULES, name
        assert not RISKY_CALLS.search(text), name
        assert not TRAINING_CODE.search(text), name


def test_nodesafe_reports_nothing(unpacked):
    assert suspicious(unpacked) == []


SIGNS = (
    "cos(t)*x - sin(t)/y = [a, -b] @ {c} <d|e> & ~f ^ 2 % 7; W_n `g` # h? !i $0.15 K=ABCDEFGHIJ LMNOPQRSTUVWXYZ kjvqzpw 346789"
)


def test_only_docstrings_may_contain_many_different_characters(tmp_path):
    """nodesafe reports such a text in both places; the finding in the docstring is waived."""
    (tmp_path / "docstring.py").write_text(f'def f():\n    """Return:\n\n    {SIGNS * 2}\n    """\n')
    (tmp_path / "payload.py").write_text(f'"""Short."""\nPAYLOAD = """{SIGNS * 2}"""\n')
    assert [finding.partition(":")[0] for finding in suspicious(tmp_path)] == ["payload.py"]


def test_comfy_import_guard_reports_nothing(unpacked):
    assert unknown_to_comfyui(unpacked, comfyui_folder()) == []


def test_comfy_import_guard_reports_a_name_that_comfyui_does_not_have(tmp_path):
    (tmp_path / "__init__.py").write_text("from comfy.samplers import CFGGuider, no_such_sampler\n")
    assert "no_such_sampler" in "\n".join(unknown_to_comfyui(tmp_path, comfyui_folder()))


LOAD = """
import asyncio, importlib, importlib.util, json, sys, time
sys.path.insert(0, {root!r})
sys.dont_write_bytecode = True
from harness import in_process
in_process.use_comfyui(pack=False)  # the pack is imported below, from the archive
for name in ("nodes", "comfy.sd", "comfy.samplers", "comfy_api.latest", "latent_preview"):
    importlib.import_module(name)
sys.modules["pywt"] = None  # as if it were not installed

def load():
    spec = importlib.util.spec_from_file_location("pack", {init!r}, submodule_search_locations=[{folder!r}])
    pack = sys.modules["pack"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(pack)
    return asyncio.run(asyncio.run(pack.comfy_entrypoint()).get_node_list())

before, seconds = set(sys.modules), []
for _ in range(5):
    for name in [name for name in sys.modules if name.partition(".")[0] == "pack"]:
        del sys.modules[name]
    start = time.process_time()
    nodes = load()
    seconds.append(time.process_time() - start)
new = sorted({{name.partition(".")[0] for name in set(sys.modules) - before}} - {{"pack"}} - set(sys.stdlib_module_names))
by_id = {{node.GET_SCHEMA().node_id: node for node in nodes}}

def sizes(resize):
    custom = ("0.6", "HW", resize, "natural", "sigma", "shared", "native")
    pyramid = by_id["PyramidalWanCustom"].execute(*custom).args[0]
    return pyramid.stages(pyramid.smallest_shape())[1].from_coarser

def halve(resize):
    import torch
    try:
        return list(sizes(resize).down(torch.zeros(1, 1, 1, 4, 4)).shape)
    except ValueError as error:
        return str(error)

latent = by_id["PyramidalWanEmptyLatent"].execute(832, 480, 81, 1, "nearest").args[0]
chart = by_id["PyramidalWanCostEstimate"].execute(latent, "20-10", "6", "auto", 5.0).args[1]
halved = {{resize: halve(resize) for resize in ("haar", "dct", "db2")}}
print(json.dumps(dict(seconds=min(seconds), new=new, nodes=len(nodes), chart=list(chart.shape), **halved)))
"""


def test_the_archive_loads_quickly_and_without_optional_packages(unpacked):
    """In a process that has ComfyUI already, without PyWavelets; CPU time, the best of five."""
    program = LOAD.format(root=str(ROOT), init=str(unpacked / "__init__.py"), folder=str(unpacked))
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["nodes"] >= 17 and found["new"] == []
    assert found["seconds"] < IMPORT_SECONDS
    assert found["haar"] == found["dct"] == [1, 1, 1, 2, 2] and found["chart"][-1] == 3
    assert found["db2"].startswith("resize 'db2' needs the Python package PyWavelets, which is not installed")


def test_requirements_equal_the_projects_dependencies_and_exclude_torch():
    requirements = (ROOT / "requirements.txt").read_text().split()
    listed = re.search(r"^dependencies = \[(.*)\]$", (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert listed and requirements == re.findall(r'"([^"]+)"', listed[1])
    assert not any(name.lower().startswith("torch") for name in requirements)
