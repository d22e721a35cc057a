"""Files in the host's model folders: LoRAs by name, and the pyramid in a file's header."""

from __future__ import annotations

import folder_paths
import safetensors

from ...pyramid.stages import PyramidSpec
from .lora_file import LoraFile, load_lora_file

SPEC_FOLDERS = ("diffusion_models", "loras", "checkpoints")


def lora_names() -> list[str]:
    return folder_paths.get_filename_list("loras")


def lora_from_list(name: str) -> LoraFile:
    return load_lora_file(folder_paths.get_full_path_or_raise("loras", name), name)


def spec_file_names() -> list[str]:
    """``folder/name`` of every safetensors file that can carry a pyramid."""
    return [
        f"{folder}/{name}"
        for folder in SPEC_FOLDERS
        for name in folder_paths.get_filename_list(folder)
        if name.endswith(".safetensors")
    ]


def spec_from_file(name: str) -> PyramidSpec:
    """The pyramid in a file's header; ValueError in one sentence if there is none."""
    folder, _, file = name.partition("/")
    path = folder_paths.get_full_path_or_raise(folder, file)
    try:
        with safetensors.safe_open(path, framework="pt") as opened:
            metadata = opened.metadata()
    except Exception as error:  # the format's own errors have no common base class
        raise ValueError(f"'{name}' is not a readable safetensors file ({error})") from None
    try:
        return PyramidSpec.from_metadata(metadata)
    except ValueError as error:
        raise ValueError(f"'{name}': {error}") from None
