"""The graphs, one function each."""

from __future__ import annotations

from collections.abc import Callable

from .any_sampler import any_graph, i2v_two_experts, t2v_two_experts, ti2v_5b, vace_inpaint
from .graph import MUTED, Graph, Node
from .notes import STEPS_THREE, STEPS_TWO, STOCK, add_notes, cost_sentence, start_level
from .parts import (
    CLIP_VISION,
    FRAMES,
    HEIGHT,
    I2V,
    T2V,
    TEXT_ENCODER,
    VAE,
    WIDTH,
    Parts,
    Value,
    download,
    load_model,
    load_text,
    load_vae,
    prompts,
    pyramid,
    save_video,
    size,
    text_to_video,
    video_clip,
)

TEXT_FILES = (T2V, TEXT_ENCODER, VAE)
TRAINED_MODEL = "my_pyramidal_wan_1.3B.safetensors"
FEW_STEP_LORA = "my_pyramidal_wan_2-2-1_lora.safetensors"
STYLE_LORA, DETAIL_LORA = "my_style_lora.safetensors", "my_detail_lora.safetensors"
THREE_STAGE_HEIGHT = 448
"""480 cannot be halved for three stages."""


def sample(graph: Graph, parts: Parts, latent: Value, **widgets: object) -> Node:
    """Add the sampler; a ``model`` among the widgets replaces that of the parts."""
    sockets = {"model": parts.model, "positive": parts.positive, "negative": parts.negative, "latent": latent}
    return graph.add("PyramidalWanSampler", **{**sockets, "quality": "custom", **widgets})


def t2v_training_free(graph: Graph) -> None:
    about = f"""# Text to video with stock Wan 2.1

Early steps run at a smaller width and height, the last ones at full size. Only Wan's own files are needed.

{cost_sentence("training-free", "20-10")}

{STEPS_TWO}

{STOCK}"""
    add_notes(graph, about, TEXT_FILES)
    parts = text_to_video(graph)
    graph.group("3 · Size and pyramid", new_column=True)
    spec = pyramid(graph, "training-free")
    latent = size(graph, spec)
    graph.group("4 · Sample", new_column=True)
    done = sample(graph, parts, latent, pyramid=spec, steps="20-10", cfg="6", sampler_name="euler")
    save_video(graph, parts, done, graph.name, title="5 · Video")


def t2v_20_20_10(graph: Graph) -> None:
    about = f"""# Text to video with weights finetuned for three stages

{cost_sentence("pyramidal-wan", "20-20-10", height=THREE_STAGE_HEIGHT)}

{STEPS_THREE}

If the file names the pyramid it was trained for, replace 'Pyramid' by 'Pyramid from File'. The sampler must be deterministic
(euler, heun, dpmpp_2m, uni_pc)."""
    add_notes(graph, about, (TEXT_ENCODER, VAE), missing=(TRAINED_MODEL,))
    parts = text_to_video(graph, TRAINED_MODEL)
    graph.group("3 · Size and pyramid", new_column=True)
    spec = pyramid(graph, "pyramidal-wan")
    latent = size(graph, spec, height=THREE_STAGE_HEIGHT)
    graph.group("4 · Sample", new_column=True)
    done = sample(graph, parts, latent, pyramid=spec, steps="20-20-10", cfg="5", sampler_name="euler")
    save_video(graph, parts, done, graph.name, title="5 · Video")


def t2v_2_2_1(graph: Graph) -> None:
    about = f"""# Text to video in five steps, one of them at full size

{cost_sentence("pyramidal-wan", "2-2-1", cfg=False, height=THREE_STAGE_HEIGHT)}

{STEPS_THREE}

Use the LoRA with the weights it was distilled from, those of `wan_t2v_pyramid_20-20-10`. It passes its pyramid to the
sampler, so the sampler's pyramid input stays open. If all weights were distilled, choose that file as the model, bypass the
LoRA, and connect 'Pyramid from File' to the sampler. Leave cfg at 1 and the sampler at pyramid_few_step: few-step weights are
distilled for them. At this speed text encoding and decoding can take longer than sampling; 'Save Conditioning' saves a prompt
for later runs."""
    add_notes(graph, about, (TEXT_ENCODER, VAE), missing=(TRAINED_MODEL, FEW_STEP_LORA))
    parts = text_to_video(graph, TRAINED_MODEL)
    graph.group("3 · Few-step LoRA and size", new_column=True)
    model = graph.add("PyramidalWanStageLoRA", model=parts.model, lora_name=FEW_STEP_LORA, strength=1.0, stages="all")
    latent = size(graph, height=THREE_STAGE_HEIGHT)
    graph.group("4 · Sample", new_column=True)
    done = sample(graph, parts, latent, model=model, steps="2-2-1", cfg="1", sampler_name="pyramid_few_step")
    save_video(graph, parts, done, graph.name, title="5 · Video")


def t2v_stage_lora(graph: Graph) -> None:
    about = f"""# A LoRA for all stages and one for a single stage

**Choose two LoRAs of your own for Wan 2.1 1.3B**: the names in the two nodes are placeholders. The first one, such as a style,
acts in all stages; the second one, such as fine detail, only in the stage named, here `high`. `low` changes composition and
motion. After a run each node shows how many of its modules act. Chain as many as you like; ordinary LoRA loaders work,
too.

{STEPS_TWO}

{STOCK}"""
    add_notes(graph, about, TEXT_FILES)
    parts = text_to_video(graph)
    graph.group("3 · LoRAs: choose your own", new_column=True)
    everywhere = graph.add(
        "PyramidalWanStageLoRA", title="All stages", model=parts.model, lora_name=STYLE_LORA, strength=0.8, stages="all"
    )
    model = graph.add(
        "PyramidalWanStageLoRA", title="Only full size", model=everywhere, lora_name=DETAIL_LORA, strength=0.6, stages="high"
    )
    graph.group("4 · Size and pyramid")
    spec = pyramid(graph, "training-free")
    latent = size(graph, spec)
    graph.group("5 · Sample", new_column=True)
    done = sample(graph, parts, latent, model=model, pyramid=spec, steps="20-10", cfg="6", sampler_name="euler")
    save_video(graph, parts, done, graph.name, title="6 · Video")


def t2v_hand_wired(graph: Graph) -> None:
    about = f"""# The same run wired by hand

Every stage has a 'SamplerCustomAdvanced' with a model, a guider and sigmas, and 'Pyramidal Stage Transition' connects the
stages. With the same seed and settings it makes the same video as 'Pyramidal Sampler'. Change it to give a stage another model,
cfg or sampler.

{STEPS_TWO}

{STOCK}"""
    add_notes(graph, about, TEXT_FILES)
    parts = text_to_video(graph)
    graph.group("3 · Pyramid, schedule, noise", new_column=True)
    spec = pyramid(graph, "training-free")
    schedule = graph.add("PyramidalWanSchedule", pyramid=spec, steps="20-10", model=parts.model)
    scheduled = schedule["pyramid"]  # the grid may move the boundaries of `spec`
    shared: dict[str, Value] = {
        "spec": scheduled,
        "sigmas": schedule,
        "noise": graph.add("RandomNoise", noise_seed=0),
        "sampler": graph.add("KSamplerSelect", sampler_name="euler"),
        "latent": size(graph, spec),
    }
    graph.group("4 · Stage low", new_column=True)
    start = graph.add("PyramidalWanStageStart", noise=shared["noise"], latent=shared["latent"], pyramid=scheduled)
    low = one_stage(graph, parts, shared, start, "low")
    graph.group("5 · Transition, stage high", new_column=True)
    between = graph.add("PyramidalWanStageTransition", latent=low, noise=shared["noise"], pyramid=scheduled, stage="low")
    high = one_stage(graph, parts, shared, between, "high")
    save_video(graph, parts, high, graph.name, title="6 · Video")


def one_stage(graph: Graph, parts: Parts, shared: dict[str, Value], start: Node, stage: str) -> Node:
    """Add one stage of the hand-wired run; ``start`` gives its latent and noise."""
    of_stage = {"pyramid": shared["spec"], "stage": stage, "latent": shared["latent"]}
    model = graph.add("PyramidalWanStageModel", model=parts.model, **of_stage)
    guider = graph.add("CFGGuider", model=model, positive=parts.positive, negative=parts.negative, cfg=6.0)
    sigmas = graph.add("PyramidalWanStageSigmas", sigmas=shared["sigmas"], **of_stage)
    return graph.add(
        "SamplerCustomAdvanced", noise=start["noise"], guider=guider, sampler=shared["sampler"], sigmas=sigmas,
        latent_image=start["latent"],
    )  # fmt: skip


def i2v_training_free(graph: Graph) -> None:
    about = f"""# Image to video with stock Wan 2.1

Connect the first image as usual; the sampler resizes it for every stage. **Choose an image of your own in 'Load Image'.**

{cost_sentence("training-free", "20-10", size="14B")}

{STEPS_TWO}

Width and height must be multiples of 16. The sampler's `shift` is 3 for this 480p model; use 5 for the 720p one.

{STOCK}"""
    add_notes(graph, about, (I2V, TEXT_ENCODER, VAE, CLIP_VISION))
    graph.group("1 · Models", new_column=True)
    model, clip, vae = load_model(graph, I2V), load_text(graph), load_vae(graph)
    vision = graph.add("CLIPVisionLoader", models=download(CLIP_VISION), clip_name=CLIP_VISION)
    graph.group("2 · Prompt")
    positive, negative = prompts(graph, clip, "The scene comes to life, gentle natural movement, the camera slowly moves in.")
    graph.group("3 · Image, size and pyramid", new_column=True)
    image = graph.add("LoadImage", image="example.png")
    seen = graph.add("CLIPVisionEncode", clip_vision=vision, image=image["IMAGE"], crop="none")
    start = graph.add(
        "WanImageToVideo", positive=positive, negative=negative, vae=vae, width=WIDTH, height=HEIGHT, length=FRAMES,
        batch_size=1, clip_vision_output=seen, start_image=image["IMAGE"],
    )  # fmt: skip
    spec = pyramid(graph, "training-free")
    graph.group("4 · Sample", new_column=True)
    parts = Parts(model, vae, start["positive"], start["negative"])
    done = sample(graph, parts, start["latent"], pyramid=spec, steps="20-10", cfg="5", sampler_name="euler", shift=3.0)
    save_video(graph, parts, done, graph.name, title="5 · Video")


def v2v(graph: Graph) -> None:
    about = f"""# Video to video with stock Wan 2.1

**Choose a video of your own in 'Load Video'.** Its first {FRAMES} frames are encoded, noised, and sampled again from there.

`denoise` sets how much changes: only that share of the steps, the last ones, runs. With `20-10` a denoise of 0.3 starts at
noise level {start_level("20-10", 0.3):.2f}, 0.5 at {start_level("20-10", 0.5):.2f} and 0.7 at {start_level("20-10", 0.7):.2f};
1 keeps nothing of the video. Up to 0.33 all steps run at full size, above it the first ones run at the smaller size.

{STEPS_TWO}

{STOCK}"""
    add_notes(graph, about, TEXT_FILES)
    parts = text_to_video(graph, prompt="The same scene as a hand-painted watercolour, soft edges, visible paper grain.")
    graph.group("3 · Video", new_column=True)
    clip, fitted = video_clip(graph)
    latent = graph.add("VAEEncode", pixels=fitted, vae=parts.vae)
    graph.group("4 · Sample", new_column=True)
    spec = pyramid(graph, "training-free")
    done = sample(graph, parts, latent, pyramid=spec, steps="20-10", cfg="6", sampler_name="euler", denoise=0.5)
    save_video(graph, parts, done, graph.name, title="5 · Video", fps=clip["fps"])


def draft_then_finish(graph: Graph) -> None:
    about = f"""# Look at a draft, then finish it

1. Queue. Only the small stage runs, and its clean prediction is saved as a small video.
2. If you do not like it, change the seed and queue again.
3. If you like it, select the two muted groups, press Ctrl+M to unmute them, and queue: the second sampler continues from
   the draft. The video is that of an uninterrupted run.

Both samplers need the same settings: change steps, cfg and sampler in both.

{STEPS_TWO}

{STOCK}"""
    add_notes(graph, about, TEXT_FILES)
    parts = text_to_video(graph)
    graph.group("3 · Size, pyramid, seed", new_column=True)
    spec = pyramid(graph, "training-free")
    latent = size(graph, spec)
    seed = graph.add("PrimitiveInt", title="Seed of both", value=0)
    same = {"pyramid": spec, "seed": seed, "steps": "20-10", "cfg": "6", "sampler_name": "euler"}
    graph.group("4 · Draft", new_column=True)
    draft = sample(graph, parts, latent, **same, end_stage="low")
    save_video(graph, parts, draft["drafts"], f"{graph.name}_draft", title="5 · Draft as video")
    graph.group("6 · Finish (muted: Ctrl+M)", under="4 · Draft", mode=MUTED)
    done = sample(graph, parts, draft["latent"], **same)
    save_video(graph, parts, done, graph.name, title="7 · Video (muted: Ctrl+M)", under="5 · Draft as video", mode=MUTED)


def compare(graph: Graph) -> None:
    about = f"""# Ordinary sampling and a pyramid, side by side

Same model, prompt, seed and flow shift. Left: 50 ordinary steps, Wan's own number. Right: `20-10` through the pyramid. The
chart counts the operations of both. To compare equal numbers of steps, set the ordinary sampler to 30.

{cost_sentence("training-free", "20-10")}

{STEPS_TWO}

{STOCK}"""
    add_notes(graph, about, TEXT_FILES)
    parts = text_to_video(graph)
    graph.group("3 · Size, pyramid, seed", new_column=True)
    spec = pyramid(graph, "training-free")
    latent = size(graph, spec)
    seed = graph.add("PrimitiveInt", title="Seed of both", value=0)
    graph.group("4 · Ordinary", new_column=True)
    shifted = graph.add("ModelSamplingSD3", model=parts.model, shift=8.0)
    plain = graph.add(
        "KSampler", model=shifted, seed=seed, steps=50, cfg=6.0, sampler_name="euler", scheduler="simple",
        positive=parts.positive, negative=parts.negative, latent_image=latent, denoise=1.0,
    )  # fmt: skip
    save_video(graph, parts, plain, f"{graph.name}_plain", title="5 · Ordinary, as video", new_column=False)
    graph.group("6 · Pyramid", new_column=True)
    done = sample(graph, parts, latent, model=shifted, pyramid=spec, seed=seed, steps="20-10", cfg="6", sampler_name="euler")
    save_video(graph, parts, done, f"{graph.name}_pyramid", title="7 · Pyramid, as video", new_column=False)
    graph.group("8 · Cost", new_column=True)
    cost = graph.add("PyramidalWanCost", latent=latent, steps="20-10", cfg="6", pyramid=spec, model=shifted)
    graph.add("PreviewImage", images=cost["chart"])
    graph.add("PreviewAny", source=cost["text"])


def calibrate(graph: Graph) -> None:
    about = f"""# Where to change the resolution, measured on a clip

**Choose a video of your own in 'Load Video'**, one like those you want to make; only its first {FRAMES} frames are encoded.

'Pyramidal Calibrate' measures the noise level above which the detail that the low stage cannot hold is lost in the noise, and
moves the boundary of the pyramid there. `threshold` is the signal-to-noise ratio below which detail counts as lost: smaller is
more careful. The sampler's grid is `shift`, which keeps the boundary; `auto` would move it.

The chart and the text need no diffusion model; mute the sampler and the video to see only them.

{STEPS_TWO}

{STOCK}"""
    add_notes(graph, about, TEXT_FILES)
    parts = text_to_video(graph)
    graph.group("3 · Clip", new_column=True)
    clip = graph.add("VAEEncode", pixels=video_clip(graph)[1], vae=parts.vae)
    graph.group("4 · Measure", new_column=True)
    measured = graph.add("PyramidalWanCalibrate", latent=clip, threshold=0.1, pyramid=pyramid(graph, "training-free"))
    graph.add("PreviewImage", images=measured["chart"])
    graph.add("PreviewAny", source=measured["text"])
    graph.group("5 · Sample with it", new_column=True)
    latent = size(graph, measured["pyramid"])
    widgets = {"pyramid": measured["pyramid"], "steps": "20-10", "cfg": "6", "sampler_name": "euler", "grid": "shift"}
    done = sample(graph, parts, latent, **widgets)
    save_video(graph, parts, done, graph.name, title="6 · Video")


WORKFLOWS: dict[str, Callable[[Graph], None]] = {
    "wan_any_graph": any_graph,
    "wan22_t2v_two_experts": t2v_two_experts,
    "wan22_i2v_two_experts": i2v_two_experts,
    "wan22_5b_ti2v": ti2v_5b,
    "wan_vace_inpaint": vace_inpaint,
    "wan_t2v_training_free": t2v_training_free,
    "wan_t2v_pyramid_20-20-10": t2v_20_20_10,
    "wan_t2v_pyramid_2-2-1": t2v_2_2_1,
    "wan_t2v_stage_lora": t2v_stage_lora,
    "wan_t2v_hand_wired": t2v_hand_wired,
    "wan_i2v_training_free": i2v_training_free,
    "wan_v2v_pyramid": v2v,
    "wan_draft_then_finish": draft_then_finish,
    "wan_compare_plain_vs_pyramid": compare,
    "wan_calibrate_from_video": calibrate,
}


def build(name: str) -> Graph:
    graph = Graph(name)
    WORKFLOWS[name](graph)
    return graph


def build_all() -> list[Graph]:
    return [build(name) for name in WORKFLOWS]
