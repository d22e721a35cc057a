"""The graphs, one function each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .any_sampler import any_graph, flf2v_two_experts, i2v_two_experts, t2v_two_experts, ti2v_5b, vace_inpaint
from .graph import MUTED, Graph, Node
from .notes import STEPS_THREE, STEPS_TWO, add_notes, cost_sentence, start_level
from .parts import (
    CLIP_VISION,
    FRAMES,
    HEIGHT,
    I2V,
    T2V,
    T2V_PROMPT,
    TEXT_ENCODER,
    VAE,
    WIDTH,
    Parts,
    Value,
    download,
    lift,
    load_model,
    load_text,
    load_vae,
    prompts,
    pyramid,
    save_video,
    size,
    video_clip,
)

TEXT_FILES = (T2V, TEXT_ENCODER, VAE)
TRAINED_MODEL = "my_pyramidal_wan_1.3B.safetensors"
FEW_STEP_LORA = "my_pyramidal_wan_2-2-1_lora.safetensors"
PATCH_MODEL = "my_wan_ppf_2-2-1.safetensors"
TEMPORAL_MODEL = "my_wan_tpdiff_1.3B.safetensors"
STYLE_LORA, DETAIL_LORA = "my_style_lora.safetensors", "my_detail_lora.safetensors"
BELOW_A_LINK = 96
"""How much lower a group begins so that a straight link passes above it."""
LOOP = 30
"""How much lower a group begins so that a link has space to come back above it."""
THREE_STAGE_HEIGHT = 448
"""480 cannot be halved for three stages."""


def sample(graph: Graph, parts: Parts, latent: Value, **widgets: object) -> Node:
    """Add the sampler; a ``model`` among the widgets replaces that of the parts."""
    sockets = {"model": parts.model, "positive": parts.positive, "negative": parts.negative, "latent": latent}
    return graph.add("PyramidalWanSampler", **{**sockets, "quality": "custom", **widgets})


def models(graph: Graph, model_name: str = T2V) -> tuple[Node, Node, Node]:
    """Add the first group: diffusion model, text encoder, VAE."""
    graph.group("1 · Models", column=0)
    return load_model(graph, model_name), load_text(graph), load_vae(graph)


def t2v_training_free(graph: Graph) -> None:
    model, clip, vae = models(graph)
    graph.group("2 · Size", column=0)
    latent = size(graph)
    graph.group("3 · Prompt", column=1, drop=BELOW_A_LINK)
    parts = Parts(model, vae, *prompts(graph, clip, T2V_PROMPT))
    graph.group("4 · Texture", column=1)
    texture = lift(graph, vae)
    graph.group("5 · Sample", column=2)
    done = sample(graph, parts, latent, steps="20-10", cfg="6", sampler_name="euler", lift=texture)
    save_video(graph, parts, done, graph.name, title="6 · Video", column=3)
    about = f"""# Text to video with stock Wan 2.1

Early steps run at a smaller width and height, the last ones at full size. Queue it as it is; then change steps and compare.

{cost_sentence("training-free", "20-10")}

{STEPS_TWO} More low steps improve motion and cost little; more high steps improve detail."""
    add_notes(graph, about, TEXT_FILES, column=3)


def t2v_20_20_10(graph: Graph) -> None:
    model, clip, vae = models(graph, TRAINED_MODEL)
    graph.group("2 · Size and pyramid", column=0)
    spec = pyramid(graph, "pyramidal-wan")
    graph.group("3 · Prompt", column=1, drop=BELOW_A_LINK)
    parts = Parts(model, vae, *prompts(graph, clip, "A paper lantern rises over a dark lake, ripples spread below it."))
    graph.group("4 · Size", column=1)
    latent = size(graph, spec, height=THREE_STAGE_HEIGHT)
    graph.group("5 · Sample", column=2)
    done = sample(graph, parts, latent, pyramid=spec, steps="20-20-10", cfg="5", sampler_name="euler")
    save_video(graph, parts, done, graph.name, title="6 · Video", column=3)
    about = f"""# Weights finetuned for three stages

{cost_sentence("pyramidal-wan", "20-20-10", height=THREE_STAGE_HEIGHT)}

{STEPS_THREE.format(20, 20, 10)}

If your file names its pyramid, replace 'Pyramid' by 'Pyramid from File'. Choose a deterministic sampler: euler, heun, dpmpp_2m,
uni_pc."""
    add_notes(graph, about, (TEXT_ENCODER, VAE), column=3, missing=(TRAINED_MODEL,))


def t2v_2_2_1(graph: Graph) -> None:
    model, clip, vae = models(graph, TRAINED_MODEL)
    graph.group("2 · Size", column=0)
    latent = size(graph, height=THREE_STAGE_HEIGHT)
    graph.group("3 · Few-step LoRA", column=1)
    model = graph.add("PyramidalWanStageLoRA", model=model, lora_name=FEW_STEP_LORA, strength=1.0, stages="all")
    graph.group("4 · Prompt", column=1)
    parts = Parts(
        model, vae, *prompts(graph, clip, "A hummingbird hovers at a red flower, its wings a blur, dew on the petals.")
    )
    graph.group("5 · Sample", column=2)
    done = sample(graph, parts, latent, steps="2-2-1", cfg="1", sampler_name="pyramid_few_step")
    save_video(graph, parts, done, graph.name, title="6 · Video", column=3)
    about = f"""# Five steps, one of them at full size

{cost_sentence("pyramidal-wan", "2-2-1", cfg=False, height=THREE_STAGE_HEIGHT)}

{STEPS_THREE.format(2, 2, 1)}

The LoRA belongs on the weights that it was distilled from, and passes its pyramid to the sampler. If all weights were
distilled, load them as the model, bypass the LoRA, and connect 'Pyramid from File'. Leave cfg at 1."""
    add_notes(graph, about, (TEXT_ENCODER, VAE), column=3, missing=(TRAINED_MODEL, FEW_STEP_LORA))


def t2v_ppf(graph: Graph) -> None:
    model, clip, vae = models(graph, PATCH_MODEL)
    graph.group("2 · Size", column=0)
    latent = size(graph, height=THREE_STAGE_HEIGHT)
    graph.group("3 · Larger patches", column=1)
    model = graph.add("PyramidalWanPatches", model=model, file=f"diffusion_models/{PATCH_MODEL}")
    graph.group("4 · Prompt", column=1)
    parts = Parts(model, vae, *prompts(graph, clip, "A kite climbs over a windy beach, its tail writes loops into a pale sky."))
    graph.group("5 · Sample", column=2)
    done = sample(graph, parts, latent, steps="2-2-1", cfg="1", sampler_name="pyramid_few_step")
    save_video(graph, parts, done, graph.name, title="6 · Video", column=3)
    about = f"""# Five steps at full size, four of them in larger patches

{cost_sentence("ppf", "2-2-1", cfg=False, height=THREE_STAGE_HEIGHT)}

Steps are written low-mid-high: **2-2-1** is 2 in patches of 4x8x8 latents, 2 in patches of 2x4x4, 1 in 1x2x2, as in plain
Wan.

'Load Diffusion Model' leaves the layers for larger patches out, so 'Pyramidal Patches from File' attaches them from the same
file, which also names its pyramid. Leave cfg at 1. If the weights were only finetuned, set steps to 20-20-10, cfg to 5 and the
sampler to euler."""
    add_notes(graph, about, (TEXT_ENCODER, VAE), column=3, missing=(PATCH_MODEL,))


def t2v_tpdiff(graph: Graph) -> None:
    model, clip, vae = models(graph, TEMPORAL_MODEL)
    graph.group("2 · Size and pyramid", column=0)
    spec = pyramid(graph, "tpdiff")
    graph.group("3 · Prompt", column=1, drop=BELOW_A_LINK)
    parts = Parts(
        model,
        vae,
        *prompts(graph, clip, "A dolphin leaps from a sunlit bay, water streams off its fins, spray hangs in the air."),
    )
    graph.group("4 · Size", column=1)
    latent = size(graph, spec)
    graph.group("5 · Sample", column=2)
    done = sample(graph, parts, latent, pyramid=spec, steps="20-20-10", cfg="5", sampler_name="euler")
    save_video(graph, parts, done, graph.name, title="6 · Video", column=3)
    about = f"""# The frame rate grows along the sampling (TPDiff)

{cost_sentence("tpdiff", "20-20-10")}

Steps are written low-mid-high: **20-20-10** is 20 at a quarter of the frame rate, 20 at half, 10 at all frames, each at full
width and height.

Train such weights with runs/wan/1.3b_tpdiff.toml in the pack's repository; docs/training.md explains it. If your file names its
pyramid, replace 'Pyramid' by 'Pyramid from File'.

The preset has **rope** scaled, which needs ComfyUI 0.3.68. Choose a deterministic sampler."""
    add_notes(graph, about, (TEXT_ENCODER, VAE), column=3, missing=(TEMPORAL_MODEL,))


def t2v_stage_lora(graph: Graph) -> None:
    model, clip, vae = models(graph)
    graph.group("2 · LoRAs", column=1)
    lora = {"model": model, "lora_name": STYLE_LORA, "strength": 0.8, "stages": "all"}
    everywhere = graph.add("PyramidalWanStageLoRA", title="All stages", **lora)
    graph.next_column()
    lora = {"model": everywhere, "lora_name": DETAIL_LORA, "strength": 0.6, "stages": "high"}
    model = graph.add("PyramidalWanStageLoRA", title="Only full size", **lora)
    graph.group("3 · Size", column=0)
    latent = size(graph)
    graph.group("4 · Prompt", column=1)
    parts = Parts(model, vae, *prompts(graph, clip, "A tram crosses a rainy square at night, neon signs mirror on wet stone."))
    graph.group("5 · Texture", column=2)
    texture = lift(graph, vae)
    graph.group("6 · Sample", column=3)
    done = sample(graph, parts, latent, steps="20-10", cfg="6", sampler_name="euler", lift=texture)
    save_video(graph, parts, done, graph.name, title="7 · Video", column=4)
    about = f"""# A LoRA for all stages and one for a single stage

**Choose two LoRAs of your own for Wan 2.1 1.3B.** The first, such as a style, acts in all stages; the second, such as fine
detail, only in the stage named, here **high**. **low** changes composition and motion. After a run each node shows how many of
its modules act.

{STEPS_TWO}"""
    add_notes(graph, about, TEXT_FILES, column=4)


def t2v_hand_wired(graph: Graph) -> None:
    model, clip, vae = models(graph)
    graph.group("2 · Size", column=0)
    latent = size(graph)
    graph.group("3 · Pyramid", column=1)
    spec = pyramid(graph, "training-free")
    graph.group("4 · Prompt", column=1)
    parts = Parts(model, vae, *prompts(graph, clip, T2V_PROMPT))
    graph.group("5 · Texture", column=1)
    texture = lift(graph, vae)
    graph.group("6 · Settings", column=2)
    schedule = graph.add("PyramidalWanSchedule", pyramid=spec, steps="20-10", model=parts.model)
    shared: dict[str, Value] = {
        "spec": schedule["pyramid"],  # the grid may move the boundaries of `spec`
        "sigmas": schedule,
        "lift": texture,
        "latent": latent,
        "noise": graph.add("RandomNoise", noise_seed=0),
        "sampler": graph.add("KSamplerSelect", sampler_name="euler"),
    }
    graph.group("7 · Stage low", column=3)
    common: dict[str, Any] = {"noise": shared["noise"], "pyramid": shared["spec"]}
    low = one_stage(graph, parts, shared, graph.add("PyramidalWanStageStart", latent=latent, **common), "low")
    graph.group("8 · Stage high", column=3, drop=LOOP)
    between = graph.add(
        "PyramidalWanStageTransition", latent=low, denoised=low["denoised_output"], stage="low", lift=texture, **common
    )
    high = one_stage(graph, parts, shared, between, "high")
    save_video(graph, parts, high, graph.name, title="9 · Video", column=6)
    about = f"""# The same run wired by hand

Every stage has a 'SamplerCustomAdvanced' with a model, a guider and sigmas; 'Pyramidal Stage Transition' connects the stages.
With the same settings the video is that of 'Pyramidal Sampler'. Change it to give a stage another model, cfg or sampler.

{STEPS_TWO}"""
    add_notes(graph, about, TEXT_FILES, column=6)


def one_stage(graph: Graph, parts: Parts, shared: dict[str, Value], start: Node, stage: str) -> Node:
    """Add one stage of the hand-wired run; ``start`` gives its latent and noise."""
    of_stage = {"pyramid": shared["spec"], "stage": stage, "latent": shared["latent"]}
    model = graph.add("PyramidalWanStageModel", model=parts.model, **of_stage, lift=shared["lift"])
    sigmas = graph.add("PyramidalWanStageSigmas", sigmas=shared["sigmas"], **of_stage)
    graph.next_column()
    guider = graph.add("CFGGuider", model=model, positive=parts.positive, negative=parts.negative, cfg=6.0)
    graph.next_column()
    return graph.add(
        "SamplerCustomAdvanced", noise=start["noise"], guider=guider, sampler=shared["sampler"], sigmas=sigmas,
        latent_image=start["latent"],
    )  # fmt: skip


def i2v_training_free(graph: Graph) -> None:
    model, clip, vae = models(graph, I2V)
    graph.group("2 · Prompt", column=1, drop=BELOW_A_LINK)
    positive, negative = prompts(graph, clip, "The scene comes to life, gentle natural movement, the camera slowly moves in.")
    graph.group("3 · Image", column=0)
    image = graph.add("LoadImage", image="example.png")
    graph.group("4 · What is in the image", column=1)
    vision = graph.add("CLIPVisionLoader", models=download(CLIP_VISION), clip_name=CLIP_VISION)
    graph.group("5 · Image and size", column=2, drop=BELOW_A_LINK)
    seen = graph.add("CLIPVisionEncode", clip_vision=vision, image=image["IMAGE"], crop="none")
    start = graph.add(
        "WanImageToVideo", positive=positive, negative=negative, vae=vae, width=WIDTH, height=HEIGHT, length=FRAMES,
        batch_size=1, clip_vision_output=seen, start_image=image["IMAGE"],
    )  # fmt: skip
    graph.group("6 · Texture", column=2)
    texture = lift(graph, vae)
    graph.group("7 · Sample", column=3)
    parts = Parts(model, vae, start["positive"], start["negative"])
    widgets = {"steps": "20-10", "cfg": "5", "sampler_name": "euler", "shift": 3.0}
    done = sample(graph, parts, start["latent"], **widgets, lift=texture)
    save_video(graph, parts, done, graph.name, title="8 · Video", column=4)
    about = f"""# Image to video with stock Wan 2.1

**Choose an image of your own in 'Load Image'.** The sampler resizes it for every stage.

{cost_sentence("training-free", "20-10", size="14B")}

{STEPS_TWO} **shift** is 3 for this 480p model; use 5 for the 720p one. Width and height must be multiples of 16."""
    add_notes(graph, about, (I2V, TEXT_ENCODER, VAE, CLIP_VISION), column=4)


def v2v(graph: Graph) -> None:
    model, clip, vae = models(graph)
    graph.group("2 · Prompt", column=1, drop=BELOW_A_LINK)
    prompt = "The same scene as a hand-painted watercolour, soft edges, visible paper grain."
    parts = Parts(model, vae, *prompts(graph, clip, prompt))
    graph.group("3 · Texture", column=2, drop=BELOW_A_LINK)
    texture = lift(graph, vae)
    frames = video_clip(graph, title="4 · Video")
    latent = graph.add("VAEEncode", pixels=frames.fitted, vae=parts.vae)
    graph.group("5 · Sample", column=3)
    widgets = {"steps": "20-10", "cfg": "6", "sampler_name": "euler", "denoise": 0.5}
    done = sample(graph, parts, latent, **widgets, lift=texture)
    save_video(graph, parts, done, graph.name, title="6 · Video", column=4, fps=frames.parts["fps"])
    about = f"""# Video to video with stock Wan 2.1

**Choose a video of your own in 'Load Video'.** Its first {FRAMES} frames are noised and sampled again.

**denoise** sets how much changes. With **20-10**, 0.3 starts at noise level {start_level("20-10", 0.3):.2f}, 0.5 at
{start_level("20-10", 0.5):.2f}, 0.7 at {start_level("20-10", 0.7):.2f}. Up to 0.33 all steps run at full size.

{STEPS_TWO}"""
    add_notes(graph, about, TEXT_FILES, column=4)


def draft_then_finish(graph: Graph) -> None:
    model, clip, vae = models(graph)
    graph.group("2 · Size, seed", column=0)
    latent = size(graph)
    seed = graph.add("PrimitiveInt", title="Seed of both", value=0)
    graph.group("3 · Prompt", column=1, drop=BELOW_A_LINK)
    parts = Parts(model, vae, *prompts(graph, clip, "A steam train curves through autumn hills, smoke drifts over the valley."))
    graph.group("4 · Texture", column=1)
    same = {"seed": seed, "steps": "20-10", "cfg": "6", "sampler_name": "euler", "lift": lift(graph, vae)}
    graph.group("5 · Draft", column=2)
    draft = sample(graph, parts, latent, **same, end_stage="low")
    save_video(graph, parts, draft["drafts"], f"{graph.name}_draft", title="6 · Draft as video", column=3)
    graph.group("7 · Finish", column=5, mode=MUTED)
    done = sample(graph, parts, draft["latent"], **same)
    save_video(graph, parts, done, graph.name, title="8 · Video", column=6, mode=MUTED)
    about = f"""# Look at a draft, then finish it

1. Queue. Only the small stage runs.
2. If you do not like the draft, change the seed and queue again.
3. If you like it, select the two muted groups, press Ctrl+M, and queue. The video is that of an uninterrupted run.

{STEPS_TWO} Change steps, cfg and sampler in both samplers."""
    add_notes(graph, about, TEXT_FILES, column=3)


def compare(graph: Graph) -> None:
    model, clip, vae = models(graph)
    graph.group("2 · Prompt", column=1, drop=BELOW_A_LINK)
    parts = Parts(model, vae, *prompts(graph, clip, "A potter shapes a clay bowl on a wheel, wet hands, warm workshop light."))
    graph.group("3 · Texture", column=1)
    texture = lift(graph, vae)
    graph.group("4 · Shift, seed, size", column=2)
    shifted = graph.add("ModelSamplingSD3", model=parts.model, shift=8.0)
    seed = graph.add("PrimitiveInt", title="Seed of both", value=0)
    latent = size(graph)
    graph.group("5 · Plain", column=3)
    plain = graph.add(
        "KSampler", model=shifted, seed=seed, steps=50, cfg=6.0, sampler_name="euler", scheduler="simple",
        positive=parts.positive, negative=parts.negative, latent_image=latent, denoise=1.0,
    )  # fmt: skip
    graph.group("6 · Pyramid", column=4)
    widgets = {"seed": seed, "steps": "20-10", "cfg": "6", "sampler_name": "euler", "lift": texture}
    done = sample(graph, parts, latent, model=shifted, **widgets)
    save_video(graph, parts, plain, f"{graph.name}_plain", title="7 · Plain, as video", column=5)
    save_video(graph, parts, done, f"{graph.name}_pyramid", title="8 · Pyramid, as video", column=5)
    graph.group("9 · Cost", column=5)
    cost = graph.add("PyramidalWanCostEstimate", latent=latent, steps="20-10", cfg="6", model=shifted)
    graph.next_column()
    graph.add("PreviewImage", images=cost["chart"])
    graph.add("PreviewAny", source=cost["text"])
    about = f"""# Plain and pyramid, side by side

Same model, prompt, seed and shift: 50 plain steps, Wan's own number, and **20-10** through the pyramid. The chart counts the
operations of both. To compare equal numbers of steps, set the plain sampler to 30.

{STEPS_TWO}"""
    add_notes(graph, about, TEXT_FILES, column=0, span=2)


def calibrate(graph: Graph) -> None:
    model, clip, vae = models(graph)
    graph.group("2 · Prompt", column=1, drop=BELOW_A_LINK)
    parts = Parts(model, vae, *prompts(graph, clip, "A murmuration of starlings folds and unfolds over a marsh at dusk."))
    graph.group("3 · Texture", column=2)
    texture = lift(graph, vae)
    frames = video_clip(graph, title="4 · Clip")
    encoded = graph.add("VAEEncode", pixels=frames.fitted, vae=parts.vae)
    graph.group("5 · Measure", column=3, drop=BELOW_A_LINK)
    measured = graph.add("PyramidalWanCalibrate", latent=encoded, threshold=0.1, pyramid=pyramid(graph, "training-free"))
    graph.group("6 · Size", column=4)
    latent = size(graph, measured["pyramid"])
    graph.group("7 · What was measured", column=4)
    graph.add("PreviewImage", images=measured["chart"])
    graph.add("PreviewAny", source=measured["text"])
    graph.group("8 · Sample", column=5)
    widgets = {"pyramid": measured["pyramid"], "steps": "20-10", "cfg": "6", "sampler_name": "euler", "grid": "shift"}
    done = sample(graph, parts, latent, **widgets, lift=texture)
    save_video(graph, parts, done, graph.name, title="9 · Video", column=6)
    about = f"""# Where to change the resolution, measured on a clip

**Choose a video of your own in 'Load Video'**, one like those you want to make. 'Pyramidal Calibrate' measures above which
noise level the small stage loses nothing that is not noise already, and moves the boundary there. A smaller **threshold** is
more careful. **grid** is shift, which keeps the boundary.

{STEPS_TWO} To see only chart and text, mute the sampler and the video."""
    add_notes(graph, about, TEXT_FILES, column=6)


WORKFLOWS: dict[str, Callable[[Graph], None]] = {
    "wan_any_graph": any_graph,
    "wan22_t2v_two_experts": t2v_two_experts,
    "wan22_i2v_two_experts": i2v_two_experts,
    "wan22_flf2v_two_experts": flf2v_two_experts,
    "wan22_5b_ti2v": ti2v_5b,
    "wan_vace_inpaint": vace_inpaint,
    "wan_t2v_training_free": t2v_training_free,
    "wan_i2v_training_free": i2v_training_free,
    "wan_v2v_pyramid": v2v,
    "wan_draft_then_finish": draft_then_finish,
    "wan_compare_plain_vs_pyramid": compare,
    "wan_t2v_stage_lora": t2v_stage_lora,
    "wan_calibrate_from_video": calibrate,
    "wan_t2v_hand_wired": t2v_hand_wired,
    "wan_t2v_pyramid_20-20-10": t2v_20_20_10,
    "wan_t2v_pyramid_2-2-1": t2v_2_2_1,
    "wan_t2v_ppf_2-2-1": t2v_ppf,
    "wan_t2v_tpdiff": t2v_tpdiff,
}
"""The graphs in the order of the template browser: what stock weights can do, its variations, other nodes, own weights."""

TITLES = {
    "wan_any_graph": "Your graph plus one node",
    "wan22_t2v_two_experts": "Wan 2.2 text to video, 4 steps",
    "wan22_i2v_two_experts": "Wan 2.2 image to video, 4 steps",
    "wan22_flf2v_two_experts": "Wan 2.2 first to last frame",
    "wan22_5b_ti2v": "Wan 2.2 5B, text or image",
    "wan_vace_inpaint": "VACE, repaint a region",
    "wan_t2v_training_free": "Text to video, one sampler",
    "wan_i2v_training_free": "Image to video, one sampler",
    "wan_v2v_pyramid": "Video to video",
    "wan_draft_then_finish": "Draft first, then finish",
    "wan_compare_plain_vs_pyramid": "Plain and pyramid compared",
    "wan_t2v_stage_lora": "LoRAs for single stages",
    "wan_calibrate_from_video": "Boundary measured on a clip",
    "wan_t2v_hand_wired": "Stages wired by hand",
    "wan_t2v_pyramid_20-20-10": "20-20-10, own weights",
    "wan_t2v_pyramid_2-2-1": "2-2-1, own weights",
    "wan_t2v_ppf_2-2-1": "2-2-1 in patches, own weights",
    "wan_t2v_tpdiff": "Frame rates, own weights",
}
"""What the template browser shows, after a number: it takes titles from the names of files, and on some systems their order."""


def title(name: str) -> str:
    """Return a graph's title in the template browser, which is the name of its file."""
    return f"{list(WORKFLOWS).index(name) + 1:02} {TITLES[name]}"


def build(name: str) -> Graph:
    graph = Graph(name)
    WORKFLOWS[name](graph)
    return graph


def build_all() -> list[Graph]:
    return [build(name) for name in WORKFLOWS]
