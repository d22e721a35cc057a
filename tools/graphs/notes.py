"""The texts of the notes in the graphs."""

from __future__ import annotations

import math
import re

from pyramid.flops import WAN_DIMENSIONS, forward_tflops, schedule_cost, tokens, total_tflops
from pyramid.schedules import keep_last, parse_steps
from pyramid.segments import plain_levels
from pyramid.sizes import VideoSize
from pyramid.stages import PRESETS

from .graph import Graph
from .parts import FRAMES, HEIGHT, PUBLIC, WIDTH, link

ABOUT, MODELS = "About this graph", "Models and memory"
NOTE_WIDTH = 480
TYPE = {"# ": (40, 36), "## ": (50, 32), "- ": (60, 21)}
PLAIN_TYPE = (74, 17)
EMPTY_LINE = 9
"""Characters per line of a note and height of a line, for headings, lists and other text, in the front end's new node design,
whose type is the larger one."""

PLAIN_STEPS = 50
SHIFT = 8.0
"""Flow shift of ComfyUI's Wan models without a 'ModelSamplingSD3' node."""

STEPS_TWO = """## Steps are written low-high

`20-10` is 20 steps at a smaller size, then 10 at full size. The smaller one is as near to 480 pixels as possible, which Wan was
trained at; 'Pyramid' can set it to half. More low steps improve composition and motion and cost less; more high steps improve
detail and cost most. A leading 0, as in `0-30`, skips the low stage."""

STEPS_THREE = """## Steps are written low-mid-high

`20-20-10` is 20 steps at a quarter of the width, height and frame rate, 20 at half, 10 at full size: in running order, from
the lowest resolution to the full one. The last number costs most. A leading 0 skips the lowest stage."""

STOCK = """Stock Wan weights were never trained to change resolution during sampling, so this run is faster but not equal to an
ordinary one: compare the two before you rely on it. We have not measured the quality with real Wan weights."""

NOT_PUBLIC = """**{names} is a placeholder: no such weights are public.** Choose a file of your own. Stock weights make poor
videos with these three stages; use `wan_t2v_training_free` for them."""

MEMORY = """## Memory

The last stage is as large as an ordinary run of the same size: the pyramid saves time, not peak VRAM. If memory runs out,
use a smaller size or fewer frames, or 'VAE Decode (Tiled)' if only decoding fails. We have not measured memory or times on
particular cards."""


def cost_sentence(preset: str, steps: str, *, cfg: bool = True, height: int = HEIGHT, size: str = "1.3B") -> str:
    """Return the share of the operations of an ordinary run: counted, not measured."""
    video = VideoSize(WIDTH, height, FRAMES)
    spec = PRESETS[preset]
    if spec.field == "natural":
        spec = spec.scaled("auto").at_size(video.latent)
    dimensions = WAN_DIMENSIONS[size]
    counts = parse_steps(steps, spec.number_of_stages)
    ours = total_tflops(schedule_cost(spec, video.latent, counts, dimensions, cfg=cfg))
    plain = 2 * PLAIN_STEPS * forward_tflops(tokens(video.latent), dimensions)
    return (
        f"`{steps}` at {WIDTH}x{height} with {FRAMES} frames takes {100 * ours / plain:.2g} % of the operations of "
        f"{PLAIN_STEPS} ordinary steps with cfg (counted without text encoder and VAE; times depend on the card)."
    )


def start_level(steps: str, denoise: float) -> float:
    """Return the natural noise level where video to video starts without 'ModelSamplingSD3' and with the sampler's defaults."""
    spec = PRESETS["training-free"]
    _, levels = plain_levels(spec, parse_steps(steps, spec.number_of_stages), SHIFT)
    count = sum(len(stage) - 1 for stage in levels)
    return next(stage[0] for stage in keep_last(levels, round(denoise * count)) if stage)


def models_text(names: tuple[str, ...], missing: tuple[str, ...] = ()) -> str:
    """Return the note about files and memory; ``missing`` are placeholders for files that are not public."""
    lines = ["## Files", ""]
    for name in names:
        folder, large = PUBLIC[name]
        lines.append(f"- [{name}]({link(name)}), about {large}, into `models/{folder}`")
    if missing:
        text = NOT_PUBLIC if len(missing) == 1 else NOT_PUBLIC.replace("is a placeholder", "are placeholders")
        lines += ["", text.format(names=" and ".join(f"`{name}`" for name in missing))]
    return "\n".join([*lines, "", MEMORY])


def unwrapped(text: str) -> str:
    """Return the text with each paragraph on one line, because the front end shows every line break."""
    return re.sub(r"(?<!\n)\n *(?!\n|[-#]|\d+\. )", " ", text)


def note_height(text: str) -> int:
    """Return the height of a note for a text, with some margin for other fonts."""
    height = 50
    for line in re.sub(r"\]\(.*?\)", "]", text).splitlines():  # only a link's text is rendered
        characters, line_height = next((size for mark, size in TYPE.items() if line.startswith(mark)), PLAIN_TYPE)
        height += line_height * math.ceil(len(line) / characters) if line else EMPTY_LINE
    return height


def add_notes(graph: Graph, about: str, files: tuple[str, ...], *, missing: tuple[str, ...] = ()) -> None:
    """Add the first column: what the graph does, and its files."""
    graph.group("Read me")
    for title, text in ((ABOUT, unwrapped(about)), (MODELS, unwrapped(models_text(files, missing)))):
        graph.note(text, title=title, size=(NOTE_WIDTH, note_height(text)))
