"""Puts the real ComfyUI and the pack on the path, in the order the host itself has: its ``nodes.py`` wins over ours."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
HOST = Path(os.environ.get("COMFYUI_DIR") or ROOT / ".host" / "ComfyUI")

sys.dont_write_bytecode = True
for folder in (ROOT / "tests", ROOT, HOST):
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))


def pytest_configure(config: pytest.Config) -> None:
    if not (HOST / "main.py").is_file():
        raise pytest.UsageError(f"no ComfyUI in {HOST}: run 'make test', or set COMFYUI_DIR to a checkout")
    sys.argv = sys.argv[:1]  # the host parses the command line when it is imported
    import comfy.options

    comfy.options.enable_args_parsing(False)
    from comfy.cli_args import args

    args.cpu = True
    import torch

    import_pack()
    torch.set_num_threads(max(1, int(os.environ.get("PYRAMID_TEST_THREADS", "1"))))


def import_pack() -> None:
    """The pack as the host imports it: a package by its path. Tests say ``from pyramidalwan.samplers import ...``."""
    spec = importlib.util.spec_from_file_location("pyramidalwan", ROOT / "__init__.py", submodule_search_locations=[str(ROOT)])
    module = importlib.util.module_from_spec(spec)
    sys.modules["pyramidalwan"] = module
    spec.loader.exec_module(module)


@pytest.fixture(scope="session")
def t2v_model():
    """A tiny random Wan text-to-video MODEL of the real host."""
    import comfy.sd

    from demo.tiny_wan import t2v_state_dict

    return comfy.sd.load_diffusion_model_state_dict(t2v_state_dict())


@pytest.fixture(scope="session")
def i2v_model():
    """A tiny random Wan image-to-video MODEL of the real host."""
    import comfy.sd

    from demo.tiny_wan import i2v_state_dict

    return comfy.sd.load_diffusion_model_state_dict(i2v_state_dict())


@pytest.fixture(autouse=True)
def as_the_host_runs_nodes():
    """Without gradients and without progress bars in the log."""
    import comfy.utils
    import torch

    comfy.utils.PROGRESS_BAR_ENABLED = False
    with torch.no_grad():
        yield
