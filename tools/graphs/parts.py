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
    T2V: ("diffusion_models", "2.8 GB", "Wan 2.1 1.3B, text to video"),
    I2V: ("diffusion_models", "16 GB", "Wan 2.1 14B, image to video, fp8"),
    VACE: ("diffusion_models", "4.3 GB", "Wan 2.1 VACE 1.3B"),
    T2V_HIGH: ("diffusion_models", "14.3 GB", "high-noise expert"),
    T2V_HIGH_LORA: ("loras", "1.2 GB", "four-step LoRA for high noise"),
    T2V_LOW: ("diffusion_models", "14.3 GB", "low-noise expert"),
    T2V_LOW_LORA: ("loras", "1.2 GB", "four-step LoRA for low noise"),
    I2V_HIGH: ("diffusion_models", "14.3 GB", "high-noise expert"),
    I2V_HIGH_LORA: ("loras", "1.2 GB", "four-step LoRA for high noise"),
    I2V_LOW: ("diffusion_models", "14.3 GB", "low-noise expert"),
    I2V_LOW_LORA: ("loras", "1.2 GB", "four-step LoRA for low noise"),
    TI2V: ("diffusion_models", "10 GB", "Wan 2.2 5B"),
    TEXT_ENCODER: ("text_encoders", "6.7 GB", "text encoder"),
    VAE: ("vae", "0.25 GB", "VAE"),
    VAE22: ("vae", "1.4 GB", "VAE of Wan 2.2 5B"),
    CLIP_VISION: ("clip_vision", "1.3 GB", "image encoder"),
}
"""Public files: their folder under models, their approximate size, and what they are."""

PROMPT = "A red fox trots through a snowy birch forest at sunrise, powder snow flies up, the camera follows at eye level."
T2V_PROMPT = "A sailing boat glides over a calm turquoise bay, gulls circle above it, warm evening light."
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


def lift(graph: Graph, vae: Value) -> Node:
    """Add 'Pyramidal Lift from VAE', which keeps texture when the size grows."""
    return graph.add("PyramidalWanLiftFromVAE", vae=vae)


@dataclass(frozen=True)
class Clip:
    """A video file in a graph: its parts, and its first frames at the size of the graph."""

    parts: Node
    fitted: Node


def video_clip(graph: Graph, *, title: str) -> Clip:
    """Add a group of three columns with a video file; it stays open."""
    graph.group(title, column=0)
    video = graph.add("LoadVideo", file="my_video.mp4")
    graph.next_column()
    clip = graph.add("GetVideoComponents", video=video)
    graph.next_column()
    cut = graph.add("ImageFromBatch", title="First frames", image=clip["images"], batch_index=0, length=FRAMES)
    return Clip(clip, graph.add("ImageScale", image=cut, upscale_method="lanczos", width=WIDTH, height=HEIGHT, crop="center"))


def pyramid(graph: Graph, preset: str) -> Node:
    """Add the pyramid of a preset."""
    return graph.add("PyramidalWanPreset", preset=preset)


def size(graph: Graph, spec: Value | None = None, *, height: int = HEIGHT) -> Node:
    """Add an empty latent, of a size that suits the pyramid."""
    fit: dict[str, Any] = {} if spec is None else {"pyramid": spec}
    return graph.add("PyramidalWanEmptyLatent", width=WIDTH, height=height, frames=FRAMES, **fit)


def save_video(
    graph: Graph, parts: Parts, samples: Value, name: str, *, title: str, column: int, fps: Value | float = FPS, mode: int = ON,
) -> None:  # fmt: skip
    """Add a group of two columns that decodes and saves."""
    graph.group(title, column=column, mode=mode)
    frames = graph.add("VAEDecode", samples=samples, vae=parts.vae)
    video = graph.add("CreateVideo", images=frames, fps=fps)
    graph.next_column()
    graph.add("SaveVideo", video=video, filename_prefix=f"video/{name}", format="auto", codec="auto")
