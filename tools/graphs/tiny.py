"""Tiny twins of the graphs, with tiny models, prompts from files, small sizes and few steps.

They are made from the graphs themselves, so a twin has the wiring of its workflow.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image
from safetensors.torch import save_file

from harness.server import Graph as Prompt
from harness.templates.exchange import SECOND_EXPERT, WAN22_VAE, network_file, variant_of
from harness.templates.small_files import link_stand_ins, write_networks
from harness.workspace import EMPTY_PROMPT, PROMPTS, Workspace, prompt_file, write_prompt
from pyramid.patches import coarse_cells, lifted, to_tensors, wan_layers
from pyramid.schedules import levels_to_metadata, stage_levels
from pyramid.stages import PRESETS, PyramidSpec
from tiny_wan.checkpoints import random_lora, t2v_state_dict
from tiny_wan.encoders import write_vae22
from tiny_wan.world.grammar import parse
from tiny_wan.world.scenes import render, scene_for

from .graph import Graph, Node, Output, api
from .graphs import DETAIL_LORA, FEW_STEP_LORA, PATCH_MODEL, STYLE_LORA, TEMPORAL_MODEL, TRAINED_MODEL, WORKFLOWS, build
from .parts import (
    I2V,
    I2V_HIGH,
    I2V_HIGH_LORA,
    I2V_LOW,
    I2V_LOW_LORA,
    NEGATIVE,
    T2V,
    T2V_HIGH,
    T2V_HIGH_LORA,
    T2V_LOW,
    T2V_LOW_LORA,
    VAE22,
)

TRAINED_PROMPT = "a yellow square moving up on the left over a checkered blue background"
OTHER_PROMPT = "a white disc moving left in the centre over a striped grey background"
"""Prompt of the video from which video-to-video starts."""
VIDEO, IMAGE = "tiny.mp4", "tiny.png"
FEW_STEP, STYLE = "tiny_random_few_step_lora.safetensors", "tiny_random_style_lora.safetensors"
OF_EXPERTS = (T2V_HIGH_LORA, T2V_LOW_LORA, I2V_HIGH_LORA, I2V_LOW_LORA)
LORAS = {FEW_STEP_LORA: FEW_STEP, **dict.fromkeys((STYLE_LORA, DETAIL_LORA, *OF_EXPERTS), STYLE)}
TRAINED = {
    **dict.fromkeys((T2V, T2V_HIGH, T2V_LOW), "tiny_wan_t2v.safetensors"),
    **dict.fromkeys((I2V, I2V_HIGH, I2V_LOW), "tiny_wan_i2v.safetensors"),
    TRAINED_MODEL: "tiny_wan_t2v_20-20-10.safetensors",
}
"""Files in tiny_wan/weights that twins with trained weights use."""
PATCHES = "tiny_random_wan_ppf_2-2-1.safetensors"
"""Layers for larger patches that fit the random network."""
STUDENT = "tiny_wan_t2v_2-2-1.safetensors"
"""The few-step model with all weights distilled."""
DROPPED = ("CLIPLoader", "CLIPVisionLoader", "CLIPVisionEncode")
"""Large encoders without a tiny version: prompts are read from files, and the image is encoded by the VAE only."""


@dataclass(frozen=True)
class TinySize:
    """The size of a twin.

    Attributes:
        width: Pixels.
        height: Pixels.
        frames: Frames.
        most_steps: Limit of the steps per stage.
        trained: Use the trained tiny Wan and a prompt of its world, instead of random weights and prompts.
    """

    width: int = 64
    height: int = 64
    frames: int = 17
    most_steps: int = 2
    trained: bool = False


SMALLEST = TinySize()
"""The smallest size that three stages can halve."""


def tiny_twin(name: str, size: TinySize = SMALLEST) -> Prompt:
    """Return a workflow's twin in API format; it requires the files of ``write_inputs``."""
    return api(tiny_graph(name, size))


def has_trained(name: str) -> bool:
    """Return whether the tiny Wan was trained for the models of a workflow."""
    return all(node.values["unet_name"] in TRAINED for node in build(name).nodes if node.kind == "UNETLoader")


def tiny_graph(name: str, size: TinySize = SMALLEST) -> Graph:
    """Return a workflow's twin as a graph.

    Raises:
        ValueError: Trained weights are requested and there are none for the workflow's models.
    """
    if size.trained and not has_trained(name):
        raise ValueError(f"the models of {name} have no trained tiny twin; use random weights")
    graph = build(name)
    gone = {node for node in graph.nodes if node.kind in DROPPED}
    graph.nodes = [node for node in graph.nodes if node not in gone]
    for group in graph.groups:
        group.remove(gone)
    graph.groups = [group for group in graph.groups if group.nodes]
    for node in graph.nodes:
        _make_tiny(node, gone, size)
    if size.trained:
        _use_student(graph)
    return graph


def _use_student(graph: Graph) -> None:
    """Replace a few-step LoRA by the model with all weights distilled and 'Pyramid from File', as the notes describe."""
    for lora in [node for node in graph.nodes if node.values.get("lora_name") == FEW_STEP]:
        model = lora.links["model"]
        model.node.values["unet_name"] = STUDENT
        lora.kind, lora.links = "PyramidalWanFromFile", {}
        lora.values = {"file": f"diffusion_models/{STUDENT}"}
        for node in [node for node in graph.nodes if any(source.node is lora for source in node.links.values())]:
            node.links |= {"model": model, "pyramid": Output(lora, 0)}


def _make_tiny(node: Node, gone: set[Node], size: TinySize) -> None:
    node.models = ()
    if node.kind == "CLIPTextEncode":
        prompts = (prompt_file(TRAINED_PROMPT), EMPTY_PROMPT) if size.trained else PROMPTS
        filename = prompts[node.values["text"] == NEGATIVE]
        node.kind, node.values, node.links = "PyramidalWanLoadConditioning", {"filename": filename}, {}
        return
    if node.values.get("vae_name") == VAE22:
        node.kind, node.values = "TinyWan22VAELoader", {"name": WAN22_VAE}
        return
    fixed = ("steps",) if node.kind == "KSamplerAdvanced" else ()  # so that the steps at which two samplers change stay in them
    values = {name: _tiny_value(name, value, size) for name, value in node.values.items() if name not in fixed}
    node.values = {**node.values, **values}
    node.links = {name: source for name, source in node.links.items() if source.node not in gone}


def _tiny_value(name: str, value: Any, size: TinySize) -> Any:
    if size.trained and value in TRAINED:
        return TRAINED[value]
    if name == "unet_name":
        return _random_network(value)
    if name == "vae_name":
        return "tiny_wan_vae.safetensors" if size.trained else "tiny_random_wan_vae.safetensors"
    if name == "method":
        return "pixels"  # a fit takes a minute
    if name == "lora_name":
        return LORAS[value]
    if value == f"diffusion_models/{PATCH_MODEL}":
        return f"diffusion_models/{PATCHES}"
    if name == "steps":
        return _few_steps(value, size.most_steps)
    frames = dict.fromkeys(("frames", "length", "amount"), size.frames)
    return {"width": size.width, "height": size.height, **frames, "file": VIDEO, "image": IMAGE}.get(name, value)


def _random_network(file: str) -> str:
    """Return the random network that stands for a model."""
    if file in (TRAINED_MODEL, PATCH_MODEL, TEMPORAL_MODEL):
        file = T2V
    return network_file(variant_of(file), second=bool(SECOND_EXPERT.search(file)))


def _few_steps(steps: str | int, most: int) -> str | int:
    if isinstance(steps, int):
        return min(steps, most)
    return "-".join(str(min(int(count), most)) for count in steps.split("-"))


def write_inputs(workspace: Workspace, *, trained: bool = False) -> None:
    """Write the twins' files, in addition to the models and prompts of ``workspace.prepare``.

    These are LoRAs, video, image, and the models that not every workspace needs. ComfyUI must be importable.

    Args:
        workspace: Where to write.
        trained: Also write the prompt for the trained model, and take video and image from its world.
    """
    loras, inputs = workspace.base / "models" / "loras", workspace.base / "input"
    for folder in (loras, inputs):
        folder.mkdir(parents=True, exist_ok=True)
    save_file(random_lora(seed=0), loras / FEW_STEP, PyramidSpec().to_metadata())
    save_file(random_lora(seed=1), loras / STYLE)
    write_patches(workspace.base / "models" / "diffusion_models" / PATCHES)
    link_stand_ins(workspace)
    write_vae22(workspace.base / "models")
    for name in WORKFLOWS:
        write_networks(workspace, tiny_twin(name))
    if trained:
        write_prompt(workspace, TRAINED_PROMPT)
    Image.fromarray((_scene_pictures(TRAINED_PROMPT) if trained else _pictures())[0]).save(inputs / IMAGE)
    write_video(inputs / VIDEO, _scene_pictures(OTHER_PROMPT) if trained else _pictures())


def write_patches(path: Path) -> None:
    """Write the layers of a few-step model of larger patches, made from those of the random network."""
    wan, spec = wan_layers(t2v_state_dict()), PRESETS["ppf"]
    tensors = to_tensors([lifted(wan, cell) for cell in coarse_cells(spec)])
    levels = [stage[:-1] for stage in stage_levels(spec, (2, 2, 1))]
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path, {**spec.to_metadata(), **levels_to_metadata(levels)})


def _pictures() -> list[np.ndarray]:
    """Draw a bright square that moves over a gradient."""
    width, height = SMALLEST.width, SMALLEST.height
    gradient = np.broadcast_to(np.linspace(0, 180, width, dtype=np.uint8)[None, :, None], (height, width, 3))
    pictures = []
    for frame in range(SMALLEST.frames):
        picture = gradient.copy()
        picture[20:40, 2 * frame : 2 * frame + 20] = (240, 200, 40)
        pictures.append(picture)
    return pictures


def _scene_pictures(prompt: str) -> list[np.ndarray]:
    """Render a clip of the tiny world."""
    (video,) = render([scene_for(parse(prompt), seed=0)], frames=SMALLEST.frames, height=128, width=128)
    return list(video.add(1).mul(127.5).round().byte().permute(1, 2, 3, 0).numpy())


def write_video(path: Path, pictures: list[np.ndarray]) -> None:
    """Write frames (H, W, 3) as a video."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("h264", rate=Fraction(16))
        stream.height, stream.width, _ = pictures[0].shape
        stream.pix_fmt = "yuv420p"
        for picture in pictures:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
