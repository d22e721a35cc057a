"""Common parts of graphs: loaders, prompts, size, and the video at the end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .graph import ON, Graph, Node, Output

REPOSITORIES = {
    "wan2.2": "https://huggingface.co/Comfy-Org/Wan_2.2_ComfyUI_Repackaged/resolve/main/split_files",
    "": "https://huggingface.co/Comfy-Org/Wan_2.1_ComfyUI_repackaged/resolve/main/split_files",
}
"""Where a public file is, by the beginning of its name."""

T2V = "wan2.1_t2v_1.3B_fp16.safetensors"
I2V = "wan2.1_i2v_480p_14B_fp8_e4m3fn.safetensors"
TEXT_ENCODER = "umt5_xxl_fp8_e4m3fn_scaled.safetensors"
VACE = "wan2.1_vace_1.3B_fp16.safetensors"
T2V_HIGH, T2V_LOW = (f"wan2.2_t2v_{expert}_noise_14B_fp8_scaled.safetensors" for expert in ("high", "low"))
T2V_HIGH_LORA, T2V_LOW_LORA = (f"wan2.2_t2v_lightx2v_4steps_lora_v1.1_{name}_noise.safetensors" for name in ("high", "low"))
I2V_HIGH, I2V_LOW = (f"wan2.2_i2v_{expert}_noise_14B_fp8_scaled.safetensors" for expert in ("high", "low"))
I2V_HIGH_LORA, I2V_LOW_LORA = (f"wan2.2_i2v_lightx2v_4steps_lora_v1_{name}_noise.safetensors" for name in ("high", "low"))
TI2V = "wan2.2_ti2v_5B_fp16.safetensors"
VAE = "wan_2.1_vae.safetensors"
VAE22 = "wan2.2_vae.safetensors"
CLIP_VISION = "clip_vision_h.safetensors"
PUBLIC = {
    T2V: ("diffusion_models", "2.8 GB"),
    I2V: ("diffusion_models", "16 GB"),
    VACE: ("diffusion_models", "4.3 GB"),
    **dict.fromkeys((T2V_HIGH, T2V_LOW, I2V_HIGH, I2V_LOW), ("diffusion_models", "14.3 GB")),
    **dict.fromkeys((T2V_HIGH_LORA, T2V_LOW_LORA, I2V_HIGH_LORA, I2V_LOW_LORA), ("loras", "1.2 GB")),
    TI2V: ("diffusion_models", "10 GB"),
    TEXT_ENCODER: ("text_encoders", "6.7 GB"),
    VAE: ("vae", "0.25 GB"),
    VAE22: ("vae", "1.4 GB"),
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
    """Return the address of a public file."""
    repository = next(address for start, address in REPOSITORIES.items() if name.startswith(start))
    return f"{repository}/{PUBLIC[name][0]}/{name}"


def download(name: str) -> tuple[dict[str, str], ...]:
    """Return the download that the front end offers for a loader's file; nothing for files that are not public."""
    return ({"name": name, "url": link(name), "directory": PUBLIC[name][0]},) if name in PUBLIC else ()


@dataclass(frozen=True)
class Parts:
    """The parts of a graph that sampling and decoding connect to."""

    model: Node
    vae: Node
    positive: Value
    negative: Value


def load_model(graph: Graph, name: str = T2V) -> Node:
    """Add the loader of a diffusion model."""
    return graph.add("UNETLoader", models=download(name), unet_name=name, weight_dtype="default")


def load_vae(graph: Graph, name: str = VAE) -> Node:
    return graph.add("VAELoader", models=download(name), vae_name=name)


def load_lora(graph: Graph, model: Value, name: str) -> Node:
    return graph.add("LoraLoaderModelOnly", models=download(name), model=model, lora_name=name, strength_model=1.0)


def load_text(graph: Graph) -> Node:
    """Add the loader of Wan's text encoder."""
    return graph.add("CLIPLoader", models=download(TEXT_ENCODER), clip_name=TEXT_ENCODER, type="wan", device="default")


def prompts(graph: Graph, clip: Value, prompt: str = PROMPT) -> tuple[Node, Node]:
    """Add the positive and the negative prompt."""
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


def video_clip(graph: Graph, *, height: int = HEIGHT) -> tuple[Node, Node]:
    """Add a video file to the open group; return its parts and its first 81 frames at the size of the graph."""
    video = graph.add("LoadVideo", file="my_video.mp4")
    clip = graph.add("GetVideoComponents", video=video)
    cut = graph.add("ImageFromBatch", title="First frames", image=clip["images"], batch_index=0, length=FRAMES)
    return clip, graph.add("ImageScale", image=cut, upscale_method="lanczos", width=WIDTH, height=height, crop="center")


def pyramid(graph: Graph, preset: str) -> Node:
    """Add the pyramid of a preset."""
    return graph.add("PyramidalWanPreset", preset=preset)


def size(graph: Graph, spec: Value | None = None, *, height: int = HEIGHT) -> Node:
    """Add an empty latent, of a size that suits the pyramid."""
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
