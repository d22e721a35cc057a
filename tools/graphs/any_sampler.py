"""The graphs with 'Pyramidal Model': ComfyUI's own samplers, in the wiring of ComfyUI's templates."""

from __future__ import annotations

from dataclasses import dataclass

from pyramid.flops import WAN_DIMENSIONS, WanDimensions, forward_tflops, tokens
from pyramid.latent_shape import LatentShape, latent_frames
from pyramid.noise_levels import shift_sigma
from pyramid.segments import follow_curve
from pyramid.stages import PRESETS

from .graph import Graph, Node
from .notes import add_notes
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
    lift,
    load_lora,
    load_model,
    load_text,
    load_vae,
    prompts,
    save_video,
    video_clip,
)

DIMENSIONS_5B = WanDimensions(dim=3072, ffn_dim=14336, layers=30, in_channels=48, out_channels=48)

PLAIN_GRAPH = "Steps are those of the sampler, and the node shows sizes and steps when it runs. Bypass it (Ctrl+B) to compare."
IMAGE_PROMPT = "The scene comes to life, gentle natural movement, the camera slowly moves in."
BELOW_A_LINK = 96
"""How much lower a group begins so that a straight link passes above it."""


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
        full = LatentShape(latent_frames(self.frames), self.height // self.pixels, self.width // self.pixels)
        spec = PRESETS["training-free"].scaled("auto").at_size(full, pixels=self.pixels)
        _, levels = follow_curve(spec, [shift_sigma(1 - step / steps, shift) for step in range(steps + 1)])
        counts = [len(stage) - 1 for stage in levels]
        forwards = [forward_tflops(tokens(shape), self.network) for shape in spec.shapes(full)]
        share = sum(count * forward for count, forward in zip(counts, forwards, strict=True)) / (steps * forwards[-1])
        low = spec.shapes(full)[0]
        small, plain = (f"{width * self.pixels}x{height * self.pixels}" for _, height, width in (low, full))
        return (
            f"Of {steps} steps with shift {shift:g}, {counts[0]} run at {small}: **{100 * share:.0f} % of the operations** of "
            f"{steps} plain steps at {plain} with {self.frames} frames, without text encoder and VAE."
        )


def any_graph(graph: Graph) -> None:
    """Add ComfyUI's text-to-video template for Wan 2.1 with one more node."""
    video = Video(frames=33)
    graph.group("1 · Models", column=0)
    model, clip, vae = load_model(graph, T2V), load_text(graph), load_vae(graph)
    graph.group("2 · Shift", column=1)
    shifted = graph.add("ModelSamplingSD3", model=model, shift=8.0)
    graph.group("3 · Size", column=0)
    latent = graph.add("EmptyHunyuanLatentVideo", width=WIDTH, height=HEIGHT, length=video.frames, batch_size=1)
    graph.group("4 · Prompt", column=1)
    positive, negative = prompts(graph, clip)
    graph.group("5 · Texture", column=1)
    texture = lift(graph, vae)
    graph.group("6 · One node", column=2)
    parts = Parts(graph.add("PyramidalWanModel", model=shifted, lift=texture), vae, positive, negative)
    graph.group("7 · Sample", column=2)
    done = ksampler(graph, parts.model, parts, latent, steps=30, cfg=6.0, sampler_name="uni_pc")
    save_video(graph, parts, done, graph.name, title="8 · Video", column=3)
    about = f"""# Your own graph, one more node

This is ComfyUI's text-to-video template for Wan 2.1 with 'Pyramidal Model' before the sampler, and 'Pyramidal Lift from VAE',
which keeps texture. Add both to any Wan graph in the same place: after the LoRAs and the shift node, before the sampler.

{video.cost_sentence(30, 8.0)}

{PLAIN_GRAPH}"""
    add_notes(graph, about, (T2V, TEXT_ENCODER, VAE), column=3)


def t2v_two_experts(graph: Graph) -> None:
    """Add text to video with the two Wan 2.2 14B models in four steps."""
    high, low, clip, vae = experts(graph, (T2V_HIGH, T2V_HIGH_LORA), (T2V_LOW, T2V_LOW_LORA))
    graph.group("4 · Prompt", column=1)
    prompt = "A barn owl glides low over a misty meadow at dawn and turns towards the camera."
    parts = Parts(low, vae, *prompts(graph, clip, prompt))
    high = pyramidal(graph, high, vae)
    graph.group("7 · Size", column=2)
    latent = graph.add("EmptyHunyuanLatentVideo", width=WIDTH, height=HEIGHT, length=FRAMES, batch_size=1)
    done = two_samplers(graph, high, parts, latent, number=8)
    save_video(graph, parts, done, graph.name, title="9 · Video", column=6)
    about = f"""# Wan 2.2 14B: two experts, four steps

ComfyUI's own wiring with the four-step LoRAs. 'Pyramidal Model' is on the **high-noise expert only**: its two steps run at a
smaller size, the low-noise expert takes its two at full size.

{Video(network=WAN_DIMENSIONS["14B"]).cost_sentence(4, 5.0)}

{WITHOUT_LORAS}

{PLAIN_GRAPH}"""
    add_notes(graph, about, (T2V_HIGH, T2V_HIGH_LORA, T2V_LOW, T2V_LOW_LORA, TEXT_ENCODER, VAE), column=6)


def i2v_two_experts(graph: Graph) -> None:
    """Add image to video with the two Wan 2.2 14B models in four steps."""
    video = Video(640, 640, network=WAN_DIMENSIONS["14B"])
    high, low, clip, vae = experts(graph, (I2V_HIGH, I2V_HIGH_LORA), (I2V_LOW, I2V_LOW_LORA))
    graph.group("4 · Prompt", column=1)
    positive, negative = prompts(graph, clip, IMAGE_PROMPT)
    high = pyramidal(graph, high, vae)
    graph.group("7 · Image", column=2)
    image = graph.add("LoadImage", image="example.png")
    graph.group("8 · Image and size", column=3)
    start = graph.add(
        "WanImageToVideo", positive=positive, negative=negative, vae=vae, width=video.width, height=video.height,
        length=video.frames, batch_size=1, start_image=image["IMAGE"],
    )  # fmt: skip
    parts = Parts(low, vae, start["positive"], start["negative"])
    done = two_samplers(graph, high, parts, start["latent"], number=9)
    save_video(graph, parts, done, graph.name, title="10 · Video", column=6)
    about = f"""# Wan 2.2 14B, image to video: two experts, four steps

**Choose an image of your own in 'Load Image'.** 'Pyramidal Model' is on the **high-noise expert only** and resizes the image
for its small steps.

{video.cost_sentence(4, 5.0)}

{WITHOUT_LORAS}

{PLAIN_GRAPH}"""
    add_notes(graph, about, (I2V_HIGH, I2V_HIGH_LORA, I2V_LOW, I2V_LOW_LORA, TEXT_ENCODER, VAE), column=6)


def flf2v_two_experts(graph: Graph) -> None:
    """Add first and last frame to video with the two Wan 2.2 14B models in four steps."""
    video = Video(640, 640, network=WAN_DIMENSIONS["14B"])
    high, low, clip, vae = experts(graph, (I2V_HIGH, I2V_HIGH_LORA), (I2V_LOW, I2V_LOW_LORA))
    graph.group("4 · Prompt", column=1)
    positive, negative = prompts(graph, clip, "One continuous shot, the first picture turns smoothly into the last one.")
    high = pyramidal(graph, high, vae)
    graph.group("7 · First and last frame", column=0)
    first = graph.add("LoadImage", title="First frame", image="example.png")
    graph.next_column()
    last = graph.add("LoadImage", title="Last frame", image="example.png")
    graph.group("8 · Frames and size", column=3)
    start = graph.add(
        "WanFirstLastFrameToVideo", positive=positive, negative=negative, vae=vae, width=video.width, height=video.height,
        length=video.frames, batch_size=1, start_image=first["IMAGE"], end_image=last["IMAGE"],
    )  # fmt: skip
    parts = Parts(low, vae, start["positive"], start["negative"])
    done = two_samplers(graph, high, parts, start["latent"], number=9)
    save_video(graph, parts, done, graph.name, title="10 · Video", column=6)
    about = f"""# Wan 2.2 14B, first to last frame: two experts, four steps

**Choose two images of your own**: the video begins with the first and ends with the second. 'Pyramidal Model' is on the
**high-noise expert only**: its two of four steps run at a smaller size, with both images resized.

{WITHOUT_LORAS}

{PLAIN_GRAPH}"""
    add_notes(graph, about, (I2V_HIGH, I2V_HIGH_LORA, I2V_LOW, I2V_LOW_LORA, TEXT_ENCODER, VAE), column=6)


def ti2v_5b(graph: Graph) -> None:
    """Add text or image to video with Wan 2.2 5B."""
    video = Video(1280, 704, 121, 16, DIMENSIONS_5B)
    graph.group("1 · Models", column=0)
    model, clip, vae = load_model(graph, TI2V), load_text(graph), load_vae(graph, VAE22)
    graph.group("2 · Shift", column=1)
    shifted = graph.add("ModelSamplingSD3", model=model, shift=8.0)
    graph.group("3 · Image", column=0)
    image = graph.add("LoadImage", image="example.png")
    graph.group("4 · Prompt", column=1)
    positive, negative = prompts(
        graph, clip, "A glass marble rolls over a wooden table towards the camera, sunlight refracts in it."
    )
    graph.group("5 · Image and size", column=1)
    latent = graph.add(
        "Wan22ImageToVideoLatent", vae=vae, width=video.width, height=video.height, length=video.frames, batch_size=1,
        start_image=image["IMAGE"],
    )  # fmt: skip
    graph.group("6 · Texture", column=2)
    texture = lift(graph, vae)
    graph.group("7 · Pyramid", column=2)
    parts = Parts(graph.add("PyramidalWanModel", model=shifted, lift=texture), vae, positive, negative)
    graph.group("8 · Sample", column=3)
    done = ksampler(graph, parts.model, parts, latent, steps=20, cfg=5.0, sampler_name="uni_pc")
    save_video(graph, parts, done, graph.name, title="9 · Video", column=4, fps=24)
    about = f"""# Wan 2.2 5B, text or image to video

**Choose an image of your own in 'Load Image'**, or bypass it (Ctrl+B) to make the video from the prompt alone. The image is the
first frame; a noise mask keeps it in every stage. Width and height must be multiples of 32.

{video.cost_sentence(20, 8.0)}

{PLAIN_GRAPH}"""
    add_notes(graph, about, (TI2V, TEXT_ENCODER, VAE22), column=4)


def vace_inpaint(graph: Graph) -> None:
    """Add inpainting of a video with VACE."""
    graph.group("1 · Models", column=0)
    model, clip, vae = load_model(graph, VACE), load_text(graph), load_vae(graph)
    graph.group("2 · Prompt", column=1)
    positive, negative = prompts(graph, clip, "A golden retriever puppy sits in the grass and looks around, soft daylight.")
    graph.group("3 · Shift, texture", column=2)
    shifted = graph.add("ModelSamplingSD3", model=model, shift=8.0)
    texture = lift(graph, vae)
    graph.group("4 · Pyramid", column=3)
    model = graph.add("PyramidalWanModel", model=shifted, lift=texture)
    frames = video_clip(graph, title="5 · Video")
    mask = painted_mask(graph)
    graph.group("7 · VACE", column=3)
    cleared = graph.add(
        "ImageCompositeMasked", title="Clear what should change", destination=frames.fitted, source=mask.grey, x=0, y=0,
        resize_source=False, mask=mask.painted,
    )  # fmt: skip
    graph.next_column()
    start = graph.add(
        "WanVaceToVideo", positive=positive, negative=negative, vae=vae, width=WIDTH, height=HEIGHT, length=FRAMES,
        batch_size=1, strength=1.0, control_video=cleared, control_masks=mask.of_every_frame,
    )  # fmt: skip
    parts = Parts(model, vae, start["positive"], start["negative"])
    graph.group("8 · Sample", column=5)
    done = ksampler(graph, model, parts, start["latent"], steps=20, cfg=6.0, sampler_name="uni_pc")
    graph.group("9 · Without the reference", column=5)
    trimmed = graph.add("TrimVideoLatent", samples=done, trim_amount=start["trim_latent"])
    save_video(graph, parts, trimmed, graph.name, title="10 · Video", column=6, fps=frames.parts["fps"])
    about = f"""# Inpainting with VACE

**Choose a video of your own in 'Load Video', and in 'Load Image' one of its frames.** Right-click 'Load Image', open the mask
editor, and paint what should change; the mask holds for all frames. The prompt describes what appears there.

{Video().cost_sentence(20, 8.0)}

Reference images, control videos and moving masks work as usual, and so does **wan2.1_vace_14B_fp16**.

{PLAIN_GRAPH}"""
    add_notes(graph, about, (VACE, TEXT_ENCODER, VAE), column=6)


@dataclass(frozen=True)
class PaintedMask:
    """A mask that an artist paints: itself, a grey picture to put there, and the mask of every frame."""

    painted: Value
    grey: Node
    of_every_frame: Node


def painted_mask(graph: Graph) -> PaintedMask:
    """Add a painted mask, in three columns."""
    graph.group("6 · Mask", column=0)
    mask = graph.add("LoadImage", title="Mask: paint it in the mask editor", image="example.png")["MASK"]
    graph.next_column()
    solid = graph.add("SolidMask", value=0.5, width=WIDTH, height=HEIGHT)
    picture = graph.add("MaskToImage", mask=mask)
    graph.next_column()
    grey = graph.add("MaskToImage", title="Grey", mask=solid)
    repeated = graph.add("RepeatImageBatch", image=picture, amount=FRAMES)
    return PaintedMask(mask, grey, graph.add("ImageToMask", image=repeated, channel="red"))


WITHOUT_LORAS = "Without the LoRAs: 20 steps and cfg 3.5 in both samplers, steps 0 to 10 in the first, 10 to 20 in the second."


def experts(graph: Graph, high: tuple[str, str], low: tuple[str, str]) -> tuple[Node, Node, Node, Node]:
    """Add both experts, each a model with its four-step LoRA and shift; return them, text encoder and VAE."""
    shifted = []
    for title, (model, lora) in (("1 · High-noise expert, runs first", high), ("2 · Low-noise expert", low)):
        graph.group(title, column=0)
        loaded = load_model(graph, model)
        graph.next_column()
        loaded = load_lora(graph, loaded, lora)
        graph.next_column()
        shifted.append(graph.add("ModelSamplingSD3", model=loaded, shift=5.0))
    graph.group("3 · Text encoder, VAE", column=0)
    return shifted[0], shifted[1], load_text(graph), load_vae(graph)


def pyramidal(graph: Graph, model: Value, vae: Value) -> Node:
    """Add 'Pyramidal Model' with a lift, each in a group of its own."""
    graph.group("5 · Texture", column=2)
    texture = lift(graph, vae)
    graph.group("6 · Smaller size", column=3)
    return graph.add("PyramidalWanModel", model=model, lift=texture)


def two_samplers(graph: Graph, high: Value, parts: Parts, latent: Value, *, number: int) -> Node:
    """Add two of four steps with the high-noise expert, and two with the model of the parts, in two columns."""
    same = {
        "steps": 4, "cfg": 1.0, "sampler_name": "euler", "scheduler": "simple", "positive": parts.positive,
        "negative": parts.negative,
    }  # fmt: skip
    graph.group(f"{number} · Sample", column=4)
    begun = graph.add(
        "KSamplerAdvanced", title="High noise: smaller size", model=high, add_noise="enable", noise_seed=0, latent_image=latent,
        start_at_step=0, end_at_step=2, return_with_leftover_noise="enable", **same,
    )  # fmt: skip
    graph.next_column()
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
