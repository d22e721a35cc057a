"""The same graphs with tiny random models, prompts from files, small sizes and few steps.

They are made from the graphs themselves, so a twin cannot differ from its workflow in how it is wired.
"""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file

from pyramid.stages import PyramidSpec

from ..comfyui_server import Graph as Prompt
from ..workspace import PROMPTS, Workspace
from .graph import api
from .graphs import DETAIL_LORA, FEW_STEP_LORA, STYLE_LORA, build
from .parts import I2V, NEGATIVE

WIDTH, HEIGHT, FRAMES = 64, 64, 17
"""The smallest that three stages can halve."""

MOST_STEPS = 2
VIDEO, IMAGE = "tiny.mp4", "tiny.png"
FEW_STEP, STYLE = "tiny_random_few_step_lora.safetensors", "tiny_random_style_lora.safetensors"
LORAS = {FEW_STEP_LORA: FEW_STEP, STYLE_LORA: STYLE, DETAIL_LORA: STYLE}
DROPPED = ("CLIPLoader", "CLIPVisionLoader", "CLIPVisionEncode")
"""Large encoders that have no tiny one: prompts come from files, and the image goes in through the VAE only."""

SMALL = {"width": WIDTH, "height": HEIGHT, "frames": FRAMES, "length": FRAMES, "file": VIDEO, "image": IMAGE}


def tiny_twin(name: str) -> Prompt:
    """The workflow in API format, to be queued where ``write_inputs`` has been."""
    whole = api(build(name))
    gone = {key for key, node in whole.items() if node["class_type"] in DROPPED}
    return {key: _tiny_node(node, gone) for key, node in whole.items() if key not in gone}


def _tiny_node(node: dict[str, Any], gone: set[str]) -> dict[str, Any]:
    if node["class_type"] == "CLIPTextEncode":
        prompt = PROMPTS[node["inputs"]["text"] == NEGATIVE]
        return {**node, "class_type": "PyramidalWanLoadConditioning", "inputs": {"filename": f"{prompt}.safetensors"}}
    kept = {name: value for name, value in node["inputs"].items() if not (isinstance(value, list) and value[0] in gone)}
    return {**node, "inputs": {name: _tiny_value(name, value) for name, value in kept.items()}}


def _tiny_value(name: str, value: Any) -> Any:
    if isinstance(value, list):
        return value  # a link
    if name == "unet_name":
        return f"tiny_random_wan_{'i2v' if value == I2V else 't2v'}.safetensors"
    if name == "vae_name":
        return "tiny_random_wan_vae.safetensors"
    if name == "lora_name":
        return LORAS[value]
    if name == "steps":
        return few_steps(value)
    return SMALL.get(name, value)


def few_steps(steps: str | int) -> str | int:
    if isinstance(steps, int):
        return min(steps, MOST_STEPS)
    return "-".join(str(min(int(count), MOST_STEPS)) for count in steps.split("-"))


def write_inputs(workspace: Workspace) -> None:
    """The twins' LoRAs, video and image, next to the models and prompts of ``workspace.prepare``."""
    loras, inputs = workspace.base / "models" / "loras", workspace.base / "input"
    for folder in (loras, inputs):
        folder.mkdir(parents=True, exist_ok=True)
    save_file(_lora(seed=0), loras / FEW_STEP, PyramidSpec().to_metadata())
    save_file(_lora(seed=1), loras / STYLE)
    pictures = _pictures()
    Image.fromarray(pictures[0]).save(inputs / IMAGE)
    _write_video(inputs / VIDEO, pictures)


def _lora(*, seed: int, width: int = 128, rank: int = 2) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    module = "diffusion_model.blocks.0.self_attn.q"
    up, down = (0.1 * torch.randn(size, generator=generator) for size in ((width, rank), (rank, width)))
    return {f"{module}.lora_up.weight": up, f"{module}.lora_down.weight": down}


def _pictures() -> list[np.ndarray]:
    """A bright square that moves over a gradient."""
    gradient = np.broadcast_to(np.linspace(0, 180, WIDTH, dtype=np.uint8)[None, :, None], (HEIGHT, WIDTH, 3))
    pictures = []
    for frame in range(FRAMES):
        picture = gradient.copy()
        picture[20:40, 2 * frame : 2 * frame + 20] = (240, 200, 40)
        pictures.append(picture)
    return pictures


def _write_video(path: Path, pictures: list[np.ndarray]) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("h264", rate=Fraction(16))
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for picture in pictures:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
