"""Files in ComfyUI's model folders: LoRAs by name, and the pyramid in a file's metadata."""

from __future__ import annotations

import difflib

import folder_paths

from ...pyramid.key_names import Expert
from ...pyramid.patches import PREFIX
from ...pyramid.stages import PyramidSpec
from ...pyramid.untrusted import first_line, shown
from .lora_file import LoraFile, load_lora_file
from .patch_files import PatchSet, read_patches
from .safetensors_file import read_metadata

SPEC_FOLDERS = ("diffusion_models", "loras", "checkpoints")
"""Model folders whose files can carry a pyramid."""

MAX_NAME = 1000
"""Longest name, in characters, for which a message suggests the nearest one."""


def lora_names() -> list[str]:
    """Return the names of all LoRA files."""
    return folder_paths.get_filename_list("loras")


def lora_from_list(name: str, expert: Expert | None = None) -> LoraFile:
    """Read a LoRA of models/loras, with the slashes of this machine or another.

    Args:
        name: The name that the artist sees.
        expert: The network of Wan 2.2 to take the LoRA for, from a file that holds one for each.

    Raises:
        ValueError: There is no such file, or it cannot be read.
    """
    if (path := _lora_path(name)) is None:
        raise ValueError(lora_problem(name))
    return load_lora_file(path, name, expert)


def lora_problem(name: str) -> str | None:
    """Return a sentence if models/loras has no file of a name; None if it has."""
    if not isinstance(name, str):
        return f"the name of a LoRA is {shown(name)}; expected a text"
    if _lora_path(name) is not None:
        return None
    nearest = difflib.get_close_matches(name.replace("\\", "/")[:MAX_NAME], lora_names(), n=1, cutoff=0.3)
    return f"models/loras has no file {shown(name)}" + (f"; the nearest name is '{nearest[0]}'" if nearest else "")


def _lora_path(name: str) -> str | None:
    """Return the path of a LoRA. Graphs saved on Windows have backslashes in their names of folders."""
    names = (name, name.replace("\\", "/"), name.replace("/", "\\"))
    return next((path for each in names if (path := folder_paths.get_full_path("loras", each)) is not None), None)


def spec_file_names() -> list[str]:
    """Return ``folder/name`` of every safetensors file that can carry a pyramid."""
    return [
        f"{folder}/{name}"
        for folder in SPEC_FOLDERS
        for name in folder_paths.get_filename_list(folder)
        if name.endswith(".safetensors")
    ]


def patches_from_file(name: str) -> PatchSet:
    """Return the layers of coarse stages in a file.

    Args:
        name: ``folder/name``, one of ``spec_file_names``.

    Raises:
        ValueError: The file cannot be read, or has no such layers.
    """
    patches = read_patches(_listed_path(name), name)
    if patches is None:
        raise ValueError(
            f"'{name}' has no layers for larger patches ({PREFIX}*): it was not trained for a pyramid of patches; "
            "use it without this node"
        )
    return patches


def spec_from_file(name: str) -> PyramidSpec:
    """Return the pyramid in the metadata of a file.

    Args:
        name: ``folder/name``, one of ``spec_file_names``.

    Raises:
        ValueError: The file cannot be read, or has no pyramid.
    """
    metadata = read_metadata(_listed_path(name), f"'{name}'")
    try:
        return PyramidSpec.from_metadata(metadata)
    except ValueError as error:
        raise ValueError(f"'{name}': {first_line(error)}") from None


def _listed_path(name: str) -> str:
    """Return the path of a file ``folder/name``.

    Raises:
        ValueError: There is no such file.
    """
    folder, _, file = name.partition("/")
    path = folder_paths.get_full_path(folder, file) if folder in SPEC_FOLDERS else None
    if path is None:
        raise ValueError(f"there is no file {shown(name)} in models; expected one in {', '.join(SPEC_FOLDERS)}")
    return path
