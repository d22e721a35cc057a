"""The graphs with 'Pyramidal Model': ComfyUI's own samplers, in the wiring of ComfyUI's templates."""

from __future__ import annotations

from dataclasses import dataclass

from pyramid.flops import WAN_DIMENSIONS, WanDimensions, forward_tflops, tokens
from pyramid.latent_shape import VAE_TIME, LatentShape
from pyramid.noise_levels import shift_sigma
from pyramid.segments import follow_curve
from pyramid.stages import PRESETS

from .graph import Graph, Node
from .notes import STOCK, add_notes
from .parts import (
    FRAMES,
    HEIGHT,
    I2V_HIGH,
    I2V_HIGH_LORA,
    I2V_LOW,
    I2V_LOW_LORA,
    T2V,
    T2V_HIGH,
    T2V_HIGH_LORA,
    T2V_LOW,
    T2V_LOW_LORA,
    TEXT_ENCODER,
    TI2V,
    VACE,
    VAE,
    VAE22,
    WIDTH,
    Parts,
    Value,
    load_lora,
    load_model,
    load_text,
    load_vae,
    prompts,
    save_video,
    text_to_video,
    video_clip,
)

DIMENSIONS_5B = WanDimensions(dim=3072, ffn_dim=14336, layers=30, in_channels=48, out_channels=48)

PLAIN_GRAPH = """## Steps are those of the sampler

Every step keeps its noise level; the first ones run at a smaller width and height. The node shows the sizes, the steps and the
share of the operations when it runs. Bypass it (Ctrl+B) to compare with ordinary sampling."""


@dataclass(frozen=True)
class Video:
    """The video of a graph and the network that samples it.

    Attributes:
        width: Pixels.
        height: Pixels.
        frames: Frames.
        pixels: Pixels per latent on the height and width axes.
        network: Sizes of the transformer.
    """

    width: int = WIDTH
    height: int = HEIGHT
    frames: int = FRAMES
    pixels: int = 8
    network: WanDimensions = WAN_DIMENSIONS["1.3B"]

    def cost_sentence(self, steps: int, shift: float) -> str:
        """Return the steps of both sizes and their share of the operations of an ordinary run of as many steps."""
        full = LatentShape((self.frames - 1) // VAE_TIME + 1, self.height // self.pixels, self.width // self.pixels)
        spec = PRESETS["training-free"].scaled("auto").at_size(full, pixels=self.pixels)
        _, levels = follow_curve(spec, [shift_sigma(1 - step / steps, shift) for step in range(steps + 1)])
        low = spec.shapes(full)[0]
        counts = [len(stage) - 1 for stage in levels]
        forwards = [forward_tflops(tokens(shape), self.network) for shape in spec.shapes(full)]
        share = sum(count * forward for count, forward in zip(counts, forwards, strict=True)) / (steps * forwards[-1])
        small, plain = (f"{width * self.pixels}x{height * self.pixels}" for _, height, width in (low, full))
        return (
            f"Of {steps} steps with shift {shift:g}, {counts[0]} run at {small} and {counts[1]} at full size: "
            f"{100 * share:.0f} % of the operations of {steps} ordinary steps at {plain} with {self.frames} frames (counted "
            "without text encoder and VAE; times depend on the card)."
        )


def any_graph(graph: Graph) -> None:
    """Add ComfyUI's text-to-video template for Wan 2.1 with one more node."""
    video = Video(frames=33)
    about = f"""# Your own graph, one more node

This is ComfyUI's text-to-video template for Wan 2.1 with 'Pyramidal Model' before the sampler. Nothing else is changed. Add the
node to any Wan graph in the same place: after the LoRAs and the shift node, before the sampler.

{video.cost_sentence(30, 8.0)}

{PLAIN_GRAPH}

{STOCK}"""
    add_notes(graph, about, (T2V, TEXT_ENCODER, VAE))
    parts = text_to_video(graph)
    graph.group("3 · Size, shift, pyramid", new_column=True)
    latent = graph.add("EmptyHunyuanLatentVideo", width=WIDTH, height=HEIGHT, length=video.frames, batch_size=1)
    model = pyramidal(graph, parts.model, shift=8.0)
    graph.group("4 · Sample", new_column=True)
    done = ksampler(graph, model, parts, latent, steps=30, cfg=6.0, sampler_name="uni_pc")
    save_video(graph, parts, done, graph.name, title="5 · Video")


def t2v_two_experts(graph: Graph) -> None:
    """Add text to video with the two Wan 2.2 14B models in four steps."""
    about = f"""# Wan 2.2 14B: two experts, four steps

ComfyUI's own wiring with the four-step LoRAs; 'Pyramidal Model' is on the **high-noise expert only**. Its two steps run at a
smaller size, and the sample is carried to full size where they end. The low-noise expert then takes its two steps as usual.

{Video(network=WAN_DIMENSIONS["14B"]).cost_sentence(4, 5.0)}

Without the LoRAs: 20 steps and cfg 3.5 in both samplers, steps 0 to 10 in the first and 10 to 20 in the second.

{PLAIN_GRAPH}

{STOCK}"""
    add_notes(graph, about, (T2V_HIGH, T2V_HIGH_LORA, T2V_LOW, T2V_LOW_LORA, TEXT_ENCODER, VAE))
    graph.group("1 · Text encoder, VAE", new_column=True)
    clip, vae = load_text(graph), load_vae(graph)
    graph.group("2 · Prompt")
    positive, negative = prompts(graph, clip)
    high, low = experts(graph, (T2V_HIGH, T2V_HIGH_LORA), (T2V_LOW, T2V_LOW_LORA))
    graph.group("5 · Size", new_column=True)
    latent = graph.add("EmptyHunyuanLatentVideo", width=WIDTH, height=HEIGHT, length=FRAMES, batch_size=1)
    parts = Parts(low, vae, positive, negative)
    done = two_samplers(graph, high, parts, latent)
    save_video(graph, parts, done, graph.name, title="7 · Video")


def i2v_two_experts(graph: Graph) -> None:
    """Add image to video with the two Wan 2.2 14B models in four steps."""
    video = Video(640, 640, network=WAN_DIMENSIONS["14B"])
    about = f"""# Wan 2.2 14B, image to video: two experts, four steps

**Choose an image of your own in 'Load Image'.** 'Pyramidal Model' is on the **high-noise expert only**; the image is resized
for its small steps.

{video.cost_sentence(4, 5.0)}

For first and last frame, use 'WanFirstLastFrameToVideo' instead of 'WanImageToVideo'; nothing else changes. Without the LoRAs:
20 steps and cfg 3.5 in both samplers, steps 0 to 10 in the first and 10 to 20 in the second.

{PLAIN_GRAPH}

{STOCK}"""
    add_notes(graph, about, (I2V_HIGH, I2V_HIGH_LORA, I2V_LOW, I2V_LOW_LORA, TEXT_ENCODER, VAE))
    graph.group("1 · Text encoder, VAE", new_column=True)
    clip, vae = load_text(graph), load_vae(graph)
    graph.group("2 · Prompt")
    positive, negative = prompts(graph, clip, "The scene comes to life, gentle natural movement, the camera slowly moves in.")
    high, low = experts(graph, (I2V_HIGH, I2V_HIGH_LORA), (I2V_LOW, I2V_LOW_LORA))
    graph.group("5 · Image and size", new_column=True)
    image = graph.add("LoadImage", image="example.png")
    start = graph.add(
        "WanImageToVideo", positive=positive, negative=negative, vae=vae, width=video.width, height=video.height,
        length=video.frames, batch_size=1, start_image=image["IMAGE"],
    )  # fmt: skip
    parts = Parts(low, vae, start["positive"], start["negative"])
    done = two_samplers(graph, high, parts, start["latent"])
    save_video(graph, parts, done, graph.name, title="7 · Video")


def ti2v_5b(graph: Graph) -> None:
    """Add text or image to video with Wan 2.2 5B."""
    video = Video(1280, 704, 121, 16, DIMENSIONS_5B)
    about = f"""# Wan 2.2 5B, text or image to video

**Choose an image of your own in 'Load Image'**, or bypass it (Ctrl+B) to make the video from the prompt alone. The image is the
first frame, which a noise mask keeps in every stage.

{video.cost_sentence(20, 8.0)}

Width and height must be multiples of 32.

{PLAIN_GRAPH}

{STOCK}"""
    add_notes(graph, about, (TI2V, TEXT_ENCODER, VAE22))
    graph.group("1 · Models", new_column=True)
    model, clip, vae = load_model(graph, TI2V), load_text(graph), load_vae(graph, VAE22)
    graph.group("2 · Prompt")
    positive, negative = prompts(graph, clip)
    graph.group("3 · Image and size", new_column=True)
    image = graph.add("LoadImage", image="example.png")
    latent = graph.add(
        "Wan22ImageToVideoLatent", vae=vae, width=video.width, height=video.height, length=video.frames, batch_size=1,
        start_image=image["IMAGE"],
    )  # fmt: skip
    graph.group("4 · Shift, pyramid")
    model = pyramidal(graph, model, shift=8.0)
    graph.group("5 · Sample", new_column=True)
    parts = Parts(model, vae, positive, negative)
    done = ksampler(graph, model, parts, latent, steps=20, cfg=5.0, sampler_name="uni_pc")
    save_video(graph, parts, done, graph.name, title="6 · Video", fps=24)


def vace_inpaint(graph: Graph) -> None:
    """Add inpainting of a video with VACE."""
    about = f"""# Inpainting with VACE

**Choose a video of your own in 'Load Video', and in 'Load Image' one of its frames.** Right-click 'Load Image', open the mask
editor, and paint what should change. The prompt describes what appears there; the mask holds for all frames.

{Video().cost_sentence(20, 8.0)}

The other inputs of 'WanVaceToVideo' work as usual: a reference image, control videos, masks that move. `wan2.1_vace_14B_fp16`
fits into the same graph.

{PLAIN_GRAPH}

{STOCK}"""
    add_notes(graph, about, (VACE, TEXT_ENCODER, VAE))
    parts = text_to_video(graph, VACE, prompt="A golden retriever puppy sits in the grass and looks around, soft daylight.")
    graph.group("3 · Video and mask", new_column=True)
    clip, fitted = video_clip(graph)
    mask = graph.add("LoadImage", title="Mask: paint it in the mask editor", image="example.png")["MASK"]
    graph.group("4 · VACE", new_column=True)
    grey = graph.add("MaskToImage", title="Grey", mask=graph.add("SolidMask", value=0.5, width=WIDTH, height=HEIGHT))
    cleared = graph.add(
        "ImageCompositeMasked", title="Clear what should change", destination=fitted, source=grey, x=0, y=0,
        resize_source=False, mask=mask,
    )  # fmt: skip
    start = graph.add(
        "WanVaceToVideo", positive=parts.positive, negative=parts.negative, vae=parts.vae, width=WIDTH, height=HEIGHT,
        length=FRAMES, batch_size=1, strength=1.0, control_video=cleared, control_masks=mask_of_every_frame(graph, mask),
    )  # fmt: skip
    graph.group("5 · Shift, pyramid", new_column=True)
    model = pyramidal(graph, parts.model, shift=8.0)
    graph.group("6 · Sample")
    parts = Parts(model, parts.vae, start["positive"], start["negative"])
    done = ksampler(graph, model, parts, start["latent"], steps=20, cfg=6.0, sampler_name="uni_pc")
    trimmed = graph.add("TrimVideoLatent", samples=done, trim_amount=start["trim_latent"])
    save_video(graph, parts, trimmed, graph.name, title="7 · Video", fps=clip["fps"])


def mask_of_every_frame(graph: Graph, mask: Value) -> Node:
    """Add nodes that repeat a mask for every frame."""
    picture = graph.add("MaskToImage", mask=mask)
    repeated = graph.add("RepeatImageBatch", image=picture, amount=FRAMES)
    return graph.add("ImageToMask", image=repeated, channel="red")


def pyramidal(graph: Graph, model: Value, *, shift: float) -> Node:
    """Add the shift node and 'Pyramidal Model'."""
    return graph.add("PyramidalWanModel", model=graph.add("ModelSamplingSD3", model=model, shift=shift))


def experts(graph: Graph, high: tuple[str, str], low: tuple[str, str]) -> tuple[Node, Node]:
    """Add the high-noise and the low-noise expert, each a model with its four-step LoRA, and return both."""
    graph.group("3 · High-noise expert", new_column=True)
    first = pyramidal(graph, load_lora(graph, load_model(graph, high[0]), high[1]), shift=5.0)
    graph.group("4 · Low-noise expert", new_column=True)
    second = load_lora(graph, load_model(graph, low[0]), low[1])
    return first, graph.add("ModelSamplingSD3", model=second, shift=5.0)


def two_samplers(graph: Graph, high: Node, parts: Parts, latent: Value) -> Node:
    """Add two of four steps with the high-noise expert, and two with the model of the parts."""
    same = {
        "steps": 4, "cfg": 1.0, "sampler_name": "euler", "scheduler": "simple", "positive": parts.positive,
        "negative": parts.negative,
    }  # fmt: skip
    graph.group("6 · Sample", new_column=True)
    begun = graph.add(
        "KSamplerAdvanced", title="High noise: smaller size", model=high, add_noise="enable", noise_seed=0, latent_image=latent,
        start_at_step=0, end_at_step=2, return_with_leftover_noise="enable", **same,
    )  # fmt: skip
    return graph.add(
        "KSamplerAdvanced", title="Low noise: full size", model=parts.model, add_noise="disable", noise_seed=0,
        latent_image=begun, start_at_step=2, end_at_step=4, return_with_leftover_noise="disable", **same,
    )  # fmt: skip


def ksampler(graph: Graph, model: Value, parts: Parts, latent: Value, *, steps: int, cfg: float, sampler_name: str) -> Node:
    """Add ComfyUI's 'KSampler'."""
    return graph.add(
        "KSampler", model=model, seed=0, steps=steps, cfg=cfg, sampler_name=sampler_name, scheduler="simple",
        positive=parts.positive, negative=parts.negative, latent_image=latent, denoise=1.0,
    )  # fmt: skip
