"""Common parts of graphs: loaders, prompts, size, and the video at the end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .graph import ON, Graph, Node, Output

REPOSITORY = "https://huggingface.co/Comfy-Org/Wan_2.1_ComfyUI_repackaged/resolve/main/split_files"
T2V = "wan2.1_t2v_1.3B_fp16.safetensors"
I2V = "wan2.1_i2v_480p_14B_fp8_e4m3fn.safetensors"
TEXT_ENCODER = "umt5_xxl_fp8_e4m3fn_scaled.safetensors"
VAE = "wan_2.1_vae.safetensors"
CLIP_VISION = "clip_vision_h.safetensors"
PUBLIC = {
    T2V: ("diffusion_models", "2.8 GB"),
    I2V: ("diffusion_models", "16 GB"),
    TEXT_ENCODER: ("text_encoders", "6.7 GB"),
    VAE: ("vae", "0.25 GB"),
    CLIP_VISION: ("clip_vision", "1.3 GB"),
}
"""Public files: their folder under models, and their approximate size."""

PROMPT = "A red fox trots through a snowy birch forest at sunrise, powder snow flies up, the camera follows at eye level."
NEGATIVE = (
    "色调艳丽，过曝，静态，细节模糊不清，字幕，风格，作品，画作，画面，静止，整体发灰，最差质量，低质量，JPEG压缩残留，丑陋的，"
    "残缺的，多余的手指，画得不好的手部，画得不好的脸部，畸形的，毁容的，形态畸形的肢体，手指融合，静止不动的画面，杂乱的背景，"
    "三条腿，背景人很多，倒着走"
)
"""Wan's own default negative prompt."""

WIDTH, HEIGHT, FRAMES, FPS = 832, 480, 81, 16
GREEN, RED = ("#232", "#353"), ("#322", "#533")

Value = Node | Output


def link(name: str) -> str:
    return f"{REPOSITORY}/{PUBLIC[name][0]}/{name}"


def download(name: str) -> tuple[dict[str, str], ...]:
    """Return the download that the front end offers for a loader's file; nothing for files that are not public."""
    return ({"name": name, "url": link(name), "directory": PUBLIC[name][0]},) if name in PUBLIC else ()


@dataclass(frozen=True)
class Parts:
    model: Node
    vae: Node
    positive: Value
    negative: Value


def load_model(graph: Graph, name: str = T2V) -> Node:
    return graph.add("UNETLoader", models=download(name), unet_name=name, weight_dtype="default")


def load_vae(graph: Graph) -> Node:
    return graph.add("VAELoader", models=download(VAE), vae_name=VAE)


def load_text(graph: Graph) -> Node:
    return graph.add("CLIPLoader", models=download(TEXT_ENCODER), clip_name=TEXT_ENCODER, type="wan", device="default")


def prompts(graph: Graph, clip: Value, prompt: str = PROMPT) -> tuple[Node, Node]:
    positive = graph.add("CLIPTextEncode", title="Positive prompt", color=GREEN, clip=clip, text=prompt)
    negative = graph.add("CLIPTextEncode", title="Negative prompt", color=RED, clip=clip, text=NEGATIVE)
    return positive, negative


def text_to_video(graph: Graph, model_name: str = T2V, prompt: str = PROMPT) -> Parts:
    """Add the column after the notes: models and prompts."""
    graph.group("1 · Models", new_column=True)
    model, clip, vae = load_model(graph, model_name), load_text(graph), load_vae(graph)
    graph.group("2 · Prompt")
    positive, negative = prompts(graph, clip, prompt)
    return Parts(model, vae, positive, negative)


def pyramid(graph: Graph, preset: str) -> Node:
    return graph.add("PyramidalWanPreset", preset=preset)


def size(graph: Graph, spec: Value | None = None, *, height: int = HEIGHT) -> Node:
    fit: dict[str, Any] = {} if spec is None else {"pyramid": spec}
    return graph.add("PyramidalWanEmptyLatent", width=WIDTH, height=height, frames=FRAMES, **fit)


def save_video(
    graph: Graph, parts: Parts, samples: Value, name: str, *, title: str, fps: Value | float = FPS, new_column: bool = True,
    under: str | None = None, mode: int = ON,
) -> None:  # fmt: skip
    """Add a group that decodes and saves: in a new column, below the last group, or under the group of that title."""
    graph.group(title, new_column=new_column and not under, under=under, mode=mode)
    frames = graph.add("VAEDecode", samples=samples, vae=parts.vae)
    video = graph.add("CreateVideo", images=frames, fps=fps)
    graph.add("SaveVideo", video=video, filename_prefix=f"video/{name}", format="auto", codec="auto")
