"""Write the models, LoRAs, images, video and audio that the exchanged templates name."""

from __future__ import annotations

import math
import wave
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file

from pyramid.training.engine.atomic import atomic_file
from tiny_wan.checkpoints import random_lora, random_state_dict
from tiny_wan.encoders import write_encoders
from tiny_wan.variants import VARIANTS, shapes, write_variant

from ..workspace import Workspace
from .exchange import AUDIO, IMAGES, SECOND, VARIANT_FILES, VIDEO, WIDE, lora_file
from .graph import Graph, of_class

STAND_INS = Path(__file__).with_name("stand_ins.py")
WIDTH, HEIGHT, FRAMES, RATE = 128, 96, 33, 16
"""Size of the video; as many frames as two overlapping shrunk segments need."""
SECONDS, SAMPLE_RATE = 6, 16000


def write_small_files(workspace: Workspace) -> None:
    """Link the stand-in nodes into the workspace and write what most templates need: encoders, LoRAs and media.

    Requires ComfyUI on the path: networks of its own are built to read their shapes.
    """
    link_stand_ins(workspace)
    models, inputs = workspace.base / "models", workspace.base / "input"
    write_encoders(models)
    _write_loras(models / "loras")
    _write_media(inputs)


def link_stand_ins(workspace: Workspace) -> None:
    """Link the stand-in nodes into the workspace."""
    link = workspace.base / "custom_nodes" / STAND_INS.name
    link.unlink(missing_ok=True)
    link.symlink_to(STAND_INS)


def write_networks(workspace: Workspace, graph: Graph) -> None:
    """Write the diffusion models and model patches that an exchanged graph names, unless they are there."""
    models = workspace.base / "models"
    for _, node in of_class(graph, "UNETLoader"):
        path = models / "diffusion_models" / node["inputs"]["unet_name"]
        variant, second = VARIANT_FILES[path.name]
        if not path.is_file():
            write_variant(variant, path, seed=SECOND if second else 0)
    for _, node in of_class(graph, "ModelPatchLoader"):
        path = models / "model_patches" / node["inputs"]["name"]
        if not path.is_file():
            _write_model_patch(path)


def _write_loras(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    save_file(random_lora(seed=0, width=128), folder / lora_file())
    save_file(random_lora(seed=1, width=128), folder / lora_file(second=True))
    save_file(random_lora(seed=0, width=VARIANTS[WIDE].dim), folder / lora_file(wide=True))


def _write_model_patch(path: Path) -> None:
    """Write InfiniteTalk's patch for the network of 640 channels."""
    import comfy.ops
    import comfy_extras.nodes_model_patch as patches

    network = patches.MultiTalkModelPatch(  # pyright: ignore[reportAttributeAccessIssue] - only in newer ComfyUI
        audio_window=5,
        intermediate_dim=8,
        in_dim=VARIANTS[WIDE].dim,
        out_dim=8,
        context_tokens=32,
        vae_scale=4,
        device="meta",
        dtype=torch.float32,
        operations=comfy.ops.disable_weight_init,
    )
    with atomic_file(path) as partial:
        save_file({name: weight.half() for name, weight in random_state_dict(shapes(network), 0).items()}, partial)


def _write_media(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    pictures = list(_pictures())
    for name, picture in zip(IMAGES, pictures[:: FRAMES // len(IMAGES)], strict=False):
        Image.fromarray(picture).save(folder / name)
    _write_video(folder / VIDEO, pictures)
    _write_audio(folder / AUDIO)


def _pictures() -> Iterable[np.ndarray]:
    """Yield a bright square that moves over a gradient."""
    gradient = np.broadcast_to(np.linspace(0, 180, WIDTH, dtype=np.uint8)[None, :, None], (HEIGHT, WIDTH, 3))
    for frame in range(FRAMES):
        picture = gradient.copy()
        picture[20:60, 2 * frame : 2 * frame + 40] = (240, 200, 40)
        yield picture


def _write_video(path: Path, pictures: list[np.ndarray]) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("h264", rate=Fraction(RATE))
        stream.height, stream.width, stream.pix_fmt = HEIGHT, WIDTH, "yuv420p"
        for picture in pictures:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))


def _write_audio(path: Path) -> None:
    """Write clicks twice a second over a tone, so that there is a beat to track."""
    time = np.arange(SECONDS * SAMPLE_RATE) / SAMPLE_RATE
    sound = 0.2 * np.sin(2 * math.pi * 220 * time) + 0.6 * (time % 0.5 < 0.02)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SAMPLE_RATE)
        file.writeframes((32767 * sound).astype(np.int16).tobytes())
