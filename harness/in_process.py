"""ComfyUI and the pack inside this process, for tests, benchmarks and recipes: no server, ComfyUI's own objects."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "pyramidalwan"
"""The name under which the pack is imported: as a package by its path, which is how ComfyUI imports it."""


def comfyui_folder() -> Path:
    """Return ComfyUI's folder: ``$COMFYUI_DIR``; else the checkout in .host; else the ComfyUI that this pack is installed in.

    Raises:
        FileNotFoundError: There is no ComfyUI in any of them.
    """
    chosen = os.environ.get("COMFYUI_DIR")
    candidates = [Path(chosen)] if chosen else [ROOT / ".host" / "ComfyUI", ROOT.parents[1]]
    for folder in candidates:
        if (folder / "main.py").is_file():
            return folder.resolve()
    searched = ", ".join(map(str, candidates))
    raise FileNotFoundError(f"no ComfyUI in {searched}; run 'make set-up', or set COMFYUI_DIR to a checkout")


def use_comfyui(*, cpu: bool = True, pack: bool = True) -> None:
    """Make ``comfy`` importable, and ``pyramidalwan`` unless ``pack`` is False.

    ComfyUI's folder is put first on ``sys.path``, because its ``nodes.py`` must take precedence over our folder of that name.
    ComfyUI parses the command line on import unless that is switched off. ``cpu`` has no effect once ComfyUI has chosen its
    device.
    """
    folder = str(comfyui_folder())
    if "comfy" not in sys.modules or folder not in sys.path:
        sys.path.insert(0, folder)
    import comfy.options

    comfy.options.enable_args_parsing(False)
    from comfy.cli_args import args

    if "comfy.model_management" not in sys.modules:
        args.cpu = cpu
    args.base_directory = str(ROOT / ".host" / "base")  # newer versions create folders where they look for inputs
    if pack:
        _import_pack()


def stream_weights() -> bool:
    """Let ComfyUI stream weights (dynamic VRAM) as its main program does on NVIDIA cards; return whether it can.

    Call it after `use_comfyui` and before any model is loaded.
    """
    import comfy.memory_management
    import comfy.model_management
    import comfy.model_patcher

    dynamic = getattr(comfy.model_patcher, "ModelPatcherDynamic", None)
    if dynamic is None or not comfy.model_management.is_nvidia():
        return False
    control = importlib.import_module("comfy_aimdo.control")
    control.init()
    devices = comfy.model_management.get_all_torch_devices()
    try:
        started = control.init_devices((device.index, 0) for device in devices)
    except TypeError:  # older ones take the device alone
        started = control.init_devices(device.index for device in devices)
    if started:
        setattr(comfy.model_patcher, "CoreModelPatcher", dynamic)  # noqa: B010  (declared as the other class)
        setattr(comfy.memory_management, "aimdo_enabled", True)  # noqa: B010
    return bool(started)


def pack_module(name: str) -> Any:
    """Return a module of the pack as ComfyUI imports it, for example ``nodes.sampler``, after `use_comfyui`.

    ``import nodes`` would be ComfyUI's module of that name.
    """
    return importlib.import_module(f"{PACKAGE}.{name}")


def _import_pack() -> None:
    if PACKAGE in sys.modules:
        return
    spec = importlib.util.spec_from_file_location(PACKAGE, ROOT / "__init__.py", submodule_search_locations=[str(ROOT)])
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[PACKAGE] = module
    spec.loader.exec_module(module)
