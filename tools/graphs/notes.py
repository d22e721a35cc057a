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

ABOUT, MODELS = "About this graph", "Files"
TYPE = {"# ": (0.1, 30), "## ": (0.12, 26), "- ": (0.15, 20)}
PLAIN_TYPE = (0.16, 17)
EMPTY_LINE = 5
"""Characters per pixel of a line of a note and height of a line, for headings, lists and other text, in the new node
design of the front end, whose type is the larger one."""

WIDE_NOTE, NARROW_NOTE = 620, 310
"""Widths of notes below two columns and below one, about those of the columns."""

PLAIN_STEPS = 50
SHIFT = 8.0
"""Flow shift of ComfyUI's Wan models without a 'ModelSamplingSD3' node."""

STEPS_TWO = "Steps are written low-high: **20-10** is 20 at a smaller size, then 10 at full size."

STEPS_THREE = (
    "Steps are written low-mid-high: **{0}-{1}-{2}** is {0} at a quarter of width, height and frame rate, {1} at half, {2} at "
    "full size."
)

NOT_PUBLIC = "**{names}** {are}: no such weights are public. Choose your own; stock weights make poor videos here."

MEMORY = "Peak VRAM is that of a plain run of this size."


def cost_sentence(preset: str, steps: str, *, cfg: bool = True, height: int = HEIGHT, size: str = "1.3B") -> str:
    """Return the share of the operations of an ordinary run: counted, not measured."""
    video = VideoSize(WIDTH, height, FRAMES)
    spec = PRESETS[preset]
    if spec.for_stock_weights:
        spec = spec.scaled("auto").at_size(video.latent)
    dimensions = WAN_DIMENSIONS[size]
    counts = parse_steps(steps, spec.number_of_stages)
    ours = total_tflops(schedule_cost(spec, video.latent, counts, dimensions, cfg=cfg))
    plain = 2 * PLAIN_STEPS * forward_tflops(tokens(video.latent), dimensions)
    return (
        f"**{steps}** at {WIDTH}x{height} with {FRAMES} frames: **{100 * ours / plain:.2g} % of the operations** of "
        f"{PLAIN_STEPS} plain steps with cfg, counted without text encoder and VAE."
    )


def start_level(steps: str, denoise: float) -> float:
    """Return the natural noise level where video to video starts without 'ModelSamplingSD3' and with the sampler's defaults."""
    spec = PRESETS["training-free"]
    _, levels = plain_levels(spec, parse_steps(steps, spec.number_of_stages), SHIFT)
    count = sum(len(stage) - 1 for stage in levels)
    return next(stage[0] for stage in keep_last(levels, round(denoise * count)) if stage)


def models_text(names: tuple[str, ...], missing: tuple[str, ...] = ()) -> str:
    """Return the note about files and memory; ``missing`` are placeholders for files that are not public."""
    lines = []
    for name in names:
        folder, large, role = PUBLIC[name]
        lines.append(f"- [{role}]({link(name)}), {large}, into **{folder}**")
    if missing:
        are = "is a placeholder" if len(missing) == 1 else "are placeholders"
        lines += ["", NOT_PUBLIC.format(names="** and **".join(missing), are=are)]
    return "\n".join([*lines, "", MEMORY])


def unwrapped(text: str) -> str:
    """Return the text with each paragraph on one line, because the front end shows every line break."""
    return re.sub(r"(?<!\n)\n *(?!\n|[-#]|\d+\. )", " ", text)


def note_height(text: str, width: int) -> int:
    """Return the height of a note for a text, with some margin for other fonts."""
    height = 30
    for line in re.sub(r"\]\(.*?\)", "]", text).splitlines():  # only a link's text is rendered
        per_pixel, line_height = next((size for mark, size in TYPE.items() if line.startswith(mark)), PLAIN_TYPE)
        height += line_height * math.ceil(len(line) / (per_pixel * (width - 40))) if line else EMPTY_LINE
    return height


def add_notes(
    graph: Graph, about: str, files: tuple[str, ...], *, column: int, span: int = 2, missing: tuple[str, ...] = ()
) -> None:  # fmt: skip
    """Add what the graph does, and its files, below what is in these columns."""
    graph.group("Read me", column=column, span=span)
    width = WIDE_NOTE if span > 1 else NARROW_NOTE
    for title, text in ((ABOUT, unwrapped(about)), (MODELS, unwrapped(models_text(files, missing)))):
        graph.note(text, title=title, size=(width, note_height(text, width)))
