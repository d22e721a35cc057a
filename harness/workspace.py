"""The folders that a trial ComfyUI works in, so that nothing of the checkout's own is read or littered."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file

from tiny_wan.checkpoints import TEXT_DIM, write_checkpoints
from tiny_wan.world.words import save_conditioning

ROOT = Path(__file__).resolve().parent.parent
PACK_NAME = "comfyui-pyramidalwan"
WEIGHTS = ROOT / "tiny_wan" / "weights"
PROMPTS = ("tiny_random_prompt.safetensors", "tiny_random_negative_prompt.safetensors")
EMPTY_PROMPT = "empty_prompt.safetensors"
FOLDERS = {"tiny_wan_t2v": "diffusion_models", "tiny_wan_i2v": "diffusion_models", "tiny_wan_vae": "vae"}
"""Trained weights by the first part of their file's name, and the model folder they belong to; all others are LoRAs."""


@dataclass(frozen=True)
class Workspace:
    """comfyui: folder of the program; base: models, custom nodes, inputs and user data; output: what graphs save."""

    comfyui: Path
    base: Path
    output: Path


def default_workspace() -> Workspace:
    """``$COMFYUI_DIR`` or the ComfyUI that the set-up made, with data in ``.host/base`` and results in ``output``."""
    comfyui = Path(os.environ.get("COMFYUI_DIR") or ROOT / ".host" / "ComfyUI")
    if not (comfyui / "main.py").is_file():
        raise FileNotFoundError(f"no ComfyUI in {comfyui}: run 'make demo', or set COMFYUI_DIR to a checkout")
    return Workspace(comfyui.resolve(), ROOT / ".host" / "base", ROOT / "output")


def prepare(workspace: Workspace) -> None:
    """Link the pack in as a custom node, and write the tiny checkpoints, random and trained, and prompts."""
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
    """Writes a prompt of the tiny world as embeddings; returns the file's name for 'Load Conditioning'."""
    name = prompt_file(prompt)
    path = workspace.base / "input" / "conditioning" / name
    unfinished = path.with_name(f"{name}.{os.getpid()}.unfinished")
    save_conditioning(unfinished, prompt)
    unfinished.replace(path)
    return name


def prompt_file(prompt: str) -> str:
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
    """Random prompt embeddings: with them no text encoder is needed."""
    for seed, name in enumerate(PROMPTS):
        embedding = torch.randn(1, 32, TEXT_DIM, generator=torch.Generator().manual_seed(seed))
        unfinished = folder / f"{name}.{os.getpid()}.unfinished"
        save_file({"cross_attn": embedding}, unfinished)
        unfinished.replace(folder / name)
