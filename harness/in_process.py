"""ComfyUI and the pack inside this process, for tests and benchmarks: no server, the host's own objects."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "pyramidalwan"
"""Under this name the pack is imported, as a package by its path, which is how the host does it."""


def comfyui_folder() -> Path:
    """``$COMFYUI_DIR``, or the ComfyUI that the set-up made."""
    return Path(os.environ.get("COMFYUI_DIR") or ROOT / ".host" / "ComfyUI")


def use_comfyui(*, cpu: bool = True) -> None:
    """Makes ``comfy`` and ``pyramidalwan`` importable.

    The host's folder goes first: its ``nodes.py`` must win over our folder of that name. The host reads the command line
    when it is imported unless it is told not to.
    """
    folder = comfyui_folder()
    if not (folder / "main.py").is_file():
        raise FileNotFoundError(f"no ComfyUI in {folder}: run 'make test', or set COMFYUI_DIR to a checkout")
    sys.path.insert(0, str(folder))
    import comfy.options

    comfy.options.enable_args_parsing(False)
    from comfy.cli_args import args

    args.cpu = cpu
    args.base_directory = str(ROOT / ".host" / "base")  # newer hosts make folders where inputs are looked for
    _import_pack()


def _import_pack() -> None:
    if PACKAGE in sys.modules:
        return
    spec = importlib.util.spec_from_file_location(PACKAGE, ROOT / "__init__.py", submodule_search_locations=[str(ROOT)])
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[PACKAGE] = module
    spec.loader.exec_module(module)
