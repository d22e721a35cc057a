"""Who may import whom, and names of the host that must not appear; read off the source."""

import ast
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MATHEMATICS = {
    "torch",
    "numpy",
    "einops",
    "pywt",
    "__future__",
    "abc",
    "collections",
    "dataclasses",
    "enum",
    "functools",
    "re",
}
MATHEMATICS |= {"hashlib", "itertools", "json", "math", "typing"}
TRAINING = {
    "safetensors",
    "diffusers",
    "peft",
    "accelerate",
    "av",
    "transformers",
    "tensorboard",
    "pydantic",
    "tomli",
}
COMFYUI = {
    "comfy",
    "comfy_api",
    "comfy_execution",
    "comfy_extras",
    "folder_paths",
    "latent_preview",
    "node_helpers",
    "nodes",
    "server",
}
PACK = {"pyramid", "samplers", "nodes", "plots", "demo", "benchmarks", "harness", "tests", "tiny_wan", "tools"}

FORBIDDEN = [
    "patch_model(",
    "partially_load(",
    ".pin_weight",
    "cast_bias_weight",
    "_calc_cond_batch",
    "forward_orig",
    ".patches[",
    ".weight.data",
]


def sources(folder):
    return [path for path in sorted((ROOT / folder).rglob("*.py"))]


def imports(path):
    """(absolute top-level names, relative targets as (level, first name)) that a file imports anywhere."""
    absolute, relative = set(), set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            absolute |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                names = [node.module.split(".")[0]] if node.module else [alias.name for alias in node.names]
                relative |= {(node.level, name) for name in names}
            else:
                absolute.add(node.module.split(".")[0])
    return absolute, relative


def reaches(path, relative):
    """Top-level folders of the pack that relative imports lead to."""
    depth = len(path.relative_to(ROOT).parts)
    return {name if level == depth else path.relative_to(ROOT).parts[0] for level, name in relative}


CORE = [path for path in sources("pyramid") if "training" not in path.parts]
SHIPPED = [*CORE, *sources("samplers"), *sources("nodes"), *sources("plots")]


@pytest.mark.parametrize("path", CORE, ids=lambda p: p.name)
def test_the_core_knows_only_mathematics(path):
    absolute, relative = imports(path)
    assert absolute <= MATHEMATICS
    assert reaches(path, relative) <= {"pyramid"}
    source = path.read_text(encoding="utf-8")
    assert not re.search(r"\bopen\(|\.cuda\(|device\(|\bPath\(|os\.environ", source)
    assert not re.search(r"torch\.(float64|double)|\.double\(", source), "Apple's GPUs have no float64"


@pytest.mark.parametrize("path", sources("pyramid/training"), ids=lambda p: p.name)
def test_training_knows_no_comfyui(path):
    absolute, relative = imports(path)
    assert not absolute & (COMFYUI | PACK)
    assert absolute <= MATHEMATICS | TRAINING | set(sys.stdlib_module_names) | {"tomllib"}  # of Python 3.11
    assert reaches(path, relative) <= {"pyramid"}


@pytest.mark.parametrize("path", sources("samplers"), ids=lambda p: p.name)
def test_comfyui_adapter_knows_comfyui_and_the_core(path):
    absolute, relative = imports(path)
    assert not absolute & PACK
    assert absolute <= COMFYUI - {"nodes", "comfy_extras", "server"} | {
        "torch",
        "numpy",
        "einops",
        "tqdm",
        "safetensors",
        "PIL",
    } | set(sys.stdlib_module_names)
    assert reaches(path, relative) <= {"pyramid", "samplers"}


@pytest.mark.parametrize("path", sources("nodes"), ids=lambda p: p.name)
def test_nodes_hold_no_tensor_arithmetic(path):
    absolute, relative = imports(path)
    assert absolute <= {"comfy_api", "__future__", "dataclasses", "sys", "typing"}
    assert reaches(path, relative) <= {"nodes", "pyramid", "samplers", "plots"}


@pytest.mark.parametrize("path", sources("plots"), ids=lambda p: p.name)
def test_plots_know_no_comfyui(path):
    absolute, relative = imports(path)
    assert absolute <= {"PIL"} | set(sys.stdlib_module_names)
    assert reaches(path, relative) <= {"plots", "pyramid"}


@pytest.mark.parametrize(
    "path",
    [ROOT / "__init__.py", *SHIPPED],
    ids=lambda p: str(p.relative_to(ROOT)),
)
def test_nothing_comfyui_may_change_under_us(path):
    source = path.read_text(encoding="utf-8")
    assert not [name for name in FORBIDDEN if name in source]
    assert not re.search(r"comfyui_version|__version__", source), "probe features, never compare versions"
    assert not re.search(r"\b(exec|eval)\(|subprocess|os\.system|urllib|requests\.", source)


def test_the_rule_itself_sees_what_it_should(tmp_path):
    file = tmp_path / "x.py"
    file.write_text("import comfy.sd\nfrom torch import nn\nfrom ..samplers import run\nfrom . import y\n")
    assert imports(file) == ({"comfy", "torch"}, {(2, "samplers"), (1, "y")})
