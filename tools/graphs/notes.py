"""The notes in the graphs."""

from __future__ import annotations

import math
import re

from pyramid.flops import WAN_DIMENSIONS, forward_tflops, schedule_cost, tokens, total_tflops
from pyramid.schedules import parse_steps
from pyramid.sizes import VideoSize
from pyramid.stages import PRESETS

from .graph import Graph
from .parts import FRAMES, HEIGHT, PUBLIC, WIDTH, link

ABOUT, MODELS = "About this graph", "Models and memory"
NOTE_WIDTH = 480
TYPE = {"# ": (40, 36), "## ": (50, 32), "- ": (60, 21)}
PLAIN_TYPE = (74, 17)
EMPTY_LINE = 9
"""Characters that a line of a note holds, and its height: of headings, of lists and of everything else. They are those of
the front end's new node design, whose type is larger than that of the old one."""

PLAIN_STEPS = 50

STEPS_TWO = """## Steps are written low-high

`20-10` is 20 steps at half the width and height, then 10 at full size. More in the first number: better composition and
motion, cheap. More in the last: better detail, dear. A leading 0, `0-30`, leaves the small stage out."""

STEPS_THREE = """## Steps are written low-mid-high

`20-20-10` is 20 steps at a quarter of the width, height and frame rate, 20 at a half, 10 at full size: in running order,
from the lowest resolution to the full one. The last number is the dear one. A leading 0 leaves the lowest stage out."""

STOCK = """Stock Wan weights were never trained to hand over between resolutions, so this is a faster first pass, not a free
lunch: compare with an ordinary run before you rely on it. We have not measured the quality."""

NOT_PUBLIC = """**{names} is a placeholder: no such weights are public.** Train them or load your own, then choose the
file here. Stock weights alone make poor videos with these three stages; `wan_t2v_training_free` is for those."""

MEMORY = """## Memory

The last stage is as large as an ordinary run of the same size, so the peak of VRAM is about that run's; only the time is
less. Too much for the card: a smaller size or fewer frames, or 'VAE Decode (Tiled)' if only decoding fails. We have not
measured peaks or times on particular cards."""


def cost_sentence(preset: str, steps: str, *, cfg: bool = True, height: int = HEIGHT, size: str = "1.3B") -> str:
    """Counted, not measured."""
    spec, video = PRESETS[preset], VideoSize(WIDTH, height, FRAMES)
    dimensions = WAN_DIMENSIONS[size]
    counts = parse_steps(steps, spec.number_of_stages)
    ours = total_tflops(schedule_cost(spec, video.latent, counts, dimensions, cfg=cfg))
    plain = 2 * PLAIN_STEPS * forward_tflops(tokens(video.latent), dimensions)
    return (
        f"`{steps}` at {WIDTH}x{height} with {FRAMES} frames takes {100 * ours / plain:.2g} % of the operations of "
        f"{PLAIN_STEPS} ordinary steps with cfg (counted, without text encoder and VAE; times depend on the card)."
    )


def models_text(names: tuple[str, ...], missing: tuple[str, ...] = ()) -> str:
    lines = ["## Files", ""]
    for name in names:
        folder, large = PUBLIC[name]
        lines.append(f"- [{name}]({link(name)}), about {large}, into `models/{folder}`")
    if missing:
        text = NOT_PUBLIC if len(missing) == 1 else NOT_PUBLIC.replace("is a placeholder", "are placeholders")
        lines += ["", text.format(names=" and ".join(f"`{name}`" for name in missing))]
    return "\n".join([*lines, "", MEMORY])


def unwrapped(text: str) -> str:
    """Each paragraph on one line: the front end shows every line break."""
    return re.sub(r"(?<!\n)\n *(?!\n|[-#]|\d+\. )", " ", text)


def note_height(text: str) -> int:
    """Room for a text, with some to spare for other fonts."""
    height = 50
    for line in re.sub(r"\]\(.*?\)", "]", text).splitlines():  # of a link only the name shows
        characters, line_height = next((size for mark, size in TYPE.items() if line.startswith(mark)), PLAIN_TYPE)
        height += line_height * math.ceil(len(line) / characters) if line else EMPTY_LINE
    return height


def add_notes(graph: Graph, about: str, files: tuple[str, ...], *, missing: tuple[str, ...] = ()) -> None:
    """The first column."""
    graph.group("Read me")
    for title, text in ((ABOUT, unwrapped(about)), (MODELS, unwrapped(models_text(files, missing)))):
        graph.note(text, title=title, size=(NOTE_WIDTH, note_height(text)))
