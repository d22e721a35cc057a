"""The folders that a trial ComfyUI works in, apart from the checkout's own models, inputs and outputs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file

from pyramid.training.engine.atomic import atomic_file
from tiny_wan.checkpoints import TEXT_DIM, write_checkpoints
from tiny_wan.world.words import save_conditioning

from .in_process import ROOT, comfyui_folder

PACK_NAME = "comfyui-pyramidalwan"
WEIGHTS = ROOT / "tiny_wan" / "weights"
PROMPTS = ("tiny_random_prompt.safetensors", "tiny_random_negative_prompt.safetensors")
EMPTY_PROMPT = "empty_prompt.safetensors"
FOLDERS = {"tiny_wan_t2v": "diffusion_models", "tiny_wan_i2v": "diffusion_models", "tiny_wan_vae": "vae"}
"""Model folder of trained weights, by the first part of their file's name; all others are LoRAs."""


@dataclass(frozen=True)
class Workspace:
    """The folders of one ComfyUI.

    Attributes:
        comfyui: The program.
        base: Models, custom nodes, inputs and user data.
        output: Files that graphs save.
    """

    comfyui: Path
    base: Path
    output: Path


def default_workspace() -> Workspace:
    """Return the workspace of `make demo` and `make serve`: data in ``.host/base`` and results in ``output``."""
    return Workspace(comfyui_folder(), ROOT / ".host" / "base", ROOT / "output")


def prepare(workspace: Workspace) -> None:
    """Link the pack as a custom node and the trained tiny weights as models; write the random checkpoints and the prompts."""
    for folder in ("custom_nodes", "input/conditioning", "user"):
        (workspace.base / folder).mkdir(parents=True, exist_ok=True)
    workspace.output.mkdir(parents=True, exist_ok=True)
    link = workspace.base / "custom_nodes" / PACK_NAME
    if link.is_symlink() and link.resolve() != ROOT:
        link.unlink()
    if not link.is_symlink():
        link.symlink_to(ROOT, target_is_directory=True)
    write_checkpoints(workspace.base / "models")
    _link_trained(workspace.base / "models")
    _write_prompts(workspace.base / "input" / "conditioning")
    write_prompt(workspace, "")


def write_prompt(workspace: Workspace, prompt: str) -> str:
    """Write a prompt of the tiny world as embeddings, and return the file's name for 'Load Conditioning'."""
    name = prompt_file(prompt)
    with atomic_file(workspace.base / "input" / "conditioning" / name) as partial:
        save_conditioning(partial, prompt)
    return name


def prompt_file(prompt: str) -> str:
    """Return the file name of a prompt's embeddings."""
    return f"{prompt.replace(' ', '_')}.safetensors" if prompt else EMPTY_PROMPT


def _link_trained(models: Path) -> None:
    for path in sorted(WEIGHTS.glob("*.safetensors")):
        folder = next((folder for start, folder in FOLDERS.items() if path.stem.startswith(start)), "loras")
        link = models / folder / path.name
        link.parent.mkdir(parents=True, exist_ok=True)
        if not (link.is_symlink() and link.resolve() == path):
            link.unlink(missing_ok=True)
            link.symlink_to(path)


def _write_prompts(folder: Path) -> None:
    """Write random prompt embeddings, with which no text encoder is needed."""
    for seed, name in enumerate(PROMPTS):
        embedding = torch.randn(1, 32, TEXT_DIM, generator=torch.Generator().manual_seed(seed))
        with atomic_file(folder / name) as partial:
            save_file({"cross_attn": embedding}, partial)
