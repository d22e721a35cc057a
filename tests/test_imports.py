"""Imports between the folders of the project, of external packages and of ComfyUI, as the source files have them."""

import ast
import re
import sys
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Allowed:
    """What the modules of a folder may import, besides the folder itself and the standard library.

    Attributes:
        folders: Other folders of the project.
        packages: External packages; "ComfyUI" stands for those of `COMFYUI`.
    """

    folders: tuple[str, ...] = ()
    packages: tuple[str, ...] = ()


TENSORS = ("torch", "numpy", "einops")
MATHEMATICS = ("pyramid", "pyramid/training")
ALLOWED = {
    "pyramid": Allowed((), (*TENSORS, "pywt")),
    "pyramid/training": Allowed(
        ("pyramid",),
        (
            "torch",
            "scipy",
            "einops",
            "safetensors",
            "diffusers",
            "transformers",
            "peft",
            "accelerate",
            "pydantic",
            "tomli",
            "av",
        ),
    ),
    "plots": Allowed(("pyramid",), ("PIL",)),
    "samplers": Allowed(("pyramid",), (*TENSORS, "safetensors", "tqdm", "PIL", "ComfyUI")),
    "nodes": Allowed(("pyramid", "samplers", "plots"), ("ComfyUI",)),
    "tiny_wan": Allowed(
        MATHEMATICS,
        ("torch", "numpy", "safetensors", "sentencepiece", "tokenizers", "transformers", "av", "PIL", "ComfyUI"),
    ),
    "harness": Allowed((*MATHEMATICS, "tiny_wan"), ("torch", "numpy", "safetensors", "aiohttp", "av", "PIL", "ComfyUI")),
    "tiny_wan/recipes": Allowed((*MATHEMATICS, "tiny_wan", "harness"), (*TENSORS, "safetensors", "ComfyUI")),
    "demo": Allowed(("pyramid", "tiny_wan", "harness"), ("torch", "PIL")),
    "benchmarks": Allowed((*MATHEMATICS, "tiny_wan", "harness"), ("torch", "numpy", "safetensors", "diffusers", "ComfyUI")),
    "tools": Allowed(("pyramid", "tiny_wan", "harness"), ("torch", "numpy", "safetensors", "av", "PIL", "ComfyUI")),
}
"""Every folder with Python files but tests/, which may import everything. A folder inside another one has its own entry."""

COMFYUI = {"comfy", "comfy_api", "comfy_execution", "comfy_extras", "folder_paths", "latent_preview", "node_helpers"}
COMFYUI |= {"execution", "nodes", "server"}
SHIPPED = ("nodes", "samplers", "plots", "pyramid")
"""Folders of the archive: ComfyUI loads the pack under a name of its own, so their imports must be relative."""

STANDARD = {*sys.stdlib_module_names, "tomllib", "_typeshed"}  # tomllib since 3.11; _typeshed exists for type checkers only
CORE_STANDARD = {"__future__", "abc", "collections", "dataclasses", "enum", "functools", "hashlib", "itertools", "json", "math"}
CORE_STANDARD |= {"contextlib", "fractions", "re", "typing"}
NODE_STANDARD = {"__future__", "collections", "dataclasses", "functools", "inspect", "sys", "textwrap", "typing"}

COMFYUI_INTERNALS = [
    "patch_model(",
    "partially_load(",
    ".pin_weight",
    "cast_bias_weight",
    "_calc_cond_batch",
    "forward_orig",
    ".patches[",
    ".weight.data",
]


def folder_of(path):
    """Return the entry of `ALLOWED` that a file belongs to, or its top-level folder."""
    parts = path.relative_to(ROOT).parts
    return next(("/".join(parts[:depth]) for depth in (2, 1) if "/".join(parts[:depth]) in ALLOWED), parts[0])


def sources(folder):
    """Return the Python files of a folder that belong to this entry and not to one inside it."""
    return [path for path in sorted((ROOT / folder).rglob("*.py")) if folder_of(path) == folder]


FILES = {folder: sources(folder) for folder in (*ALLOWED, "tests")}
MODULES = {
    path.relative_to(ROOT).with_suffix("").as_posix().removesuffix("/__init__"): path for path in sum(FILES.values(), [])
}
"""Every file of the project by the path of its module."""


def imports_of(path, tree):
    """Yield (level, dotted name, names) of every import statement; the level is 0 for absolute ones."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((0, alias.name, ()) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.level, node.module or "", tuple(alias.name for alias in node.names)


def targets(path, *, tree=None):
    """Return (modules of the project, external packages, absolute imports of the project) that a file imports."""
    modules, packages, absolute = set(), set(), set()
    for level, name, names in imports_of(path, tree or ast.parse(path.read_text(encoding="utf-8"))):
        base = path.relative_to(ROOT).parts[:-level] if level else ()
        module = "/".join([*base, *filter(None, name.split("."))])
        if not level and (folder := module.split("/")[0]) not in {entry.split("/")[0] for entry in ALLOWED}:
            packages.add(folder)
        elif not level and folder == "nodes":
            packages.add(folder)  # an absolute "nodes" is ComfyUI's
        else:
            modules |= {f"{module}/{name}" if f"{module}/{name}" in MODULES else module for name in names or ("",)}
            absolute |= set() if level else {module}
    return modules, packages, absolute


@pytest.mark.parametrize("folder", ALLOWED)
def test_a_folder_imports_only_what_the_table_allows(folder):
    allowed = ALLOWED[folder]
    packages = {*allowed.packages, *(COMFYUI if "ComfyUI" in allowed.packages else ()), *STANDARD}
    for path in FILES[folder]:
        modules, external, absolute = targets(path)
        assert {folder_of(ROOT / f"{module}.py") for module in modules} <= {folder, *allowed.folders}, path
        assert external <= packages, path
        assert not absolute or folder.split("/")[0] not in SHIPPED, f"{path} imports {absolute} absolutely"


@pytest.mark.parametrize("folder", ALLOWED)
def test_the_table_allows_no_more_than_a_folder_uses(folder):
    found = [targets(path) for path in FILES[folder]]
    folders = {folder_of(ROOT / f"{module}.py") for modules, _, _ in found for module in modules}
    packages = {"ComfyUI" if name in COMFYUI else name for _, external, _ in found for name in external}
    assert set(ALLOWED[folder].folders) <= folders
    assert set(ALLOWED[folder].packages) <= packages


def test_every_folder_with_python_files_is_in_the_table():
    tracked = {path.relative_to(ROOT).parts[0] for path in ROOT.glob("[!.]*/**/*.py")}
    assert tracked == {folder.split("/")[0] for folder in (*ALLOWED, "tests")}


def test_the_folders_form_layers():
    """Every folder imports only those above it in the table, so there is no circle between folders."""
    order = list(ALLOWED)
    for folder, allowed in ALLOWED.items():
        assert all(order.index(other) < order.index(folder) for other in allowed.folders), folder


def test_no_modules_import_each_other_in_a_circle():
    """Imports that only type checkers read count, too."""
    graph = {}
    for module, path in MODULES.items():
        imported, _, _ = targets(path)
        graph[module] = {name for name in imported if name in MODULES and name != module}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_contributing_has_the_table():
    """Its rows are the folders in order, with the folders and packages that each may import."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([\w/]+)/` \|[^|]*\|([^|]*)\|([^|]*)\|$", text, re.MULTILINE)
    table = {
        folder: (re.findall(r"`([\w/]+)/`", folders), re.findall(r"[\w]+", packages)) for folder, folders, packages in rows
    }
    assert list(table) == list(ALLOWED)
    for folder, (folders, packages) in table.items():
        assert (tuple(folders), tuple(packages)) == (ALLOWED[folder].folders, ALLOWED[folder].packages), folder


@pytest.mark.parametrize("path", FILES["pyramid"], ids=lambda path: path.name)
def test_the_mathematics_needs_no_files_devices_or_float64(path):
    source = path.read_text(encoding="utf-8")
    assert targets(path)[1] <= {*ALLOWED["pyramid"].packages, *CORE_STANDARD}
    assert not re.search(r"\bopen\(|\.cuda\(|device\(|\bPath\(|os\.environ", source)
    assert not re.search(r"torch\.(float64|double)|\.double\(", source), "Apple's GPUs have no float64"


@pytest.mark.parametrize("path", FILES["nodes"], ids=lambda path: path.name)
def test_nodes_contain_no_tensor_arithmetic(path):
    assert targets(path)[1] <= {"comfy_api", *NODE_STANDARD}


@pytest.mark.parametrize("path", FILES["samplers"], ids=lambda path: path.name)
def test_samplers_use_no_nodes_of_comfyui(path):
    assert not targets(path)[1] & {"nodes", "comfy_extras", "server"}


@pytest.mark.parametrize(
    "path",
    [ROOT / "__init__.py", *(path for folder in SHIPPED for path in FILES[folder])],
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_the_pack_uses_no_internals_of_comfyui(path):
    """Internals change between versions without notice."""
    source = path.read_text(encoding="utf-8")
    assert not [name for name in COMFYUI_INTERNALS if name in source]
    assert not re.search(r"comfyui_version|__version__", source), "probe features, never compare versions"
    assert not re.search(r"\b(exec|eval)\(|subprocess|os\.system|urllib|requests\.", source)


def test_imports_are_resolved_to_modules_and_packages():
    """Of a file in samplers/comfyui, with every form of import."""
    source = "import comfy.sd\nimport nodes\nfrom torch import nn\n"
    source += "from ...pyramid import stages\nfrom ..run import x\nfrom . import y\n"
    modules, packages, absolute = targets(ROOT / "samplers" / "comfyui" / "latents.py", tree=ast.parse(source))
    assert modules == {"pyramid/stages", "samplers/run", "samplers/comfyui"}
    assert packages == {"comfy", "nodes", "torch"} and absolute == set()
    assert targets(ROOT / "demo" / "run.py", tree=ast.parse("from harness.server import x"))[2] == {"harness/server"}
