"""Times and memory by card class: estimated from counted operations, not measured.

Time is operations divided by the rate that a card sustains: its published dense 16-bit tensor rate times a share between the
lowest and the highest that published Wan times imply (see ANCHORS). Memory is the weights plus ComfyUI's own estimate for one
step. Text encoder and VAE are not included.

Run: .venv/bin/python -m benchmarks.cards [--write docs/artists.md]
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from pyramid.flops import WAN_DIMENSIONS, forward_tflops, schedule_cost, tokens, total_tflops
from pyramid.latent_shape import LatentShape
from pyramid.schedules import parse_steps
from pyramid.sizes import VideoSize
from pyramid.stages import PRESETS

from .written_page import print_or_write

SCRIPT = "benchmarks/cards.py"


@dataclass(frozen=True)
class Card:
    """A graphics card.

    Attributes:
        name: Its name in the tables.
        gigabytes: VRAM.
        peak: Dense 16-bit tensor TFLOPs per second with 32-bit accumulation, as published by NVIDIA.
    """

    name: str
    gigabytes: int
    peak: float


CARDS = (
    Card("RTX 3060", 12, 25),
    Card("RTX 4060 Ti", 16, 44),
    Card("RTX 3090", 24, 71),
    Card("RTX 4090", 24, 165),
    Card("RTX 5090", 32, 209),
    Card("H100", 80, 989),
)

FULL, FULL_THREE = VideoSize(832, 480, 81), VideoSize(832, 448, 81)


@dataclass(frozen=True)
class Anchor:
    """A published time of Wan 2.1 1.3B.

    Attributes:
        source: Card and publication.
        tflops: Operations of the published run.
        seconds: Its time.
        peak: Peak rate of its card, in TFLOPs per second.
    """

    source: str
    tflops: float
    seconds: float
    peak: float

    @property
    def share(self) -> float:
        """Return the share of the card's peak rate."""
        return self.tflops / self.seconds / self.peak


def full_forward(size: VideoSize) -> float:
    """Return the TFLOPs of one forward pass of the 1.3B model."""
    return forward_tflops(tokens(size.latent), WAN_DIMENSIONS["1.3B"])


ANCHORS = (
    # PyramidalWan: 631.77 ms for one full forward of 448x832, presumably on an H100
    Anchor("H100 (PyramidalWan's latency of one full step)", full_forward(FULL_THREE), 0.63177, 989),
    # README of Wan 2.1: a 5-second 480P video in about 4 minutes; its default is 50 steps with cfg
    Anchor("RTX 4090 (README of Wan 2.1: about 4 minutes for 50 steps)", 100 * full_forward(FULL), 240, 165),
)


@dataclass(frozen=True)
class Run:
    """A row of the table; without a preset it is ordinary sampling."""

    label: str
    preset: str | None
    steps: str
    cfg: bool
    size: VideoSize
    scale: str = "auto"


RUNS = (
    Run("ordinary, 30 steps, cfg 6", None, "30", True, FULL),
    Run("`training-free` 20-10, cfg 6", "training-free", "20-10", True, FULL),
    Run("`training-free` with scale `half`, 20-10, cfg 6", "training-free", "20-10", True, FULL, "half"),
    Run("`training-free` 2-2, cfg 1, four-step LoRA", "training-free", "2-2", False, FULL),
    Run("`pyramidal-wan` 20-20-10, cfg 5 *", "pyramidal-wan", "20-20-10", True, FULL_THREE),
    Run("`pyramidal-wan` 2-2-1, cfg 1 *", "pyramidal-wan", "2-2-1", False, FULL_THREE),
)

WEIGHTS = (("1.3B", "fp16", 2.8), ("14B", "fp8", 14.3), ("14B", "fp16", 28.6))
"""Model, format, gigabytes of the public files."""


def run_tflops(run: Run, model: str) -> float:
    """Return the TFLOPs of all steps of a run."""
    spec = PRESETS[run.preset or "plain"]
    if spec.field == "natural":
        spec = spec.scaled(run.scale).at_size(run.size.latent)
    counts = parse_steps(run.steps, spec.number_of_stages)
    return total_tflops(schedule_cost(spec, run.size.latent, counts, WAN_DIMENSIONS[model], cfg=run.cfg))


def working_memory(shape: LatentShape, model: str, *, batch: int) -> float:
    """Return the gigabytes that ComfyUI reserves for a step of Wan in 16 bit, by the rule of version 0.3.75."""
    latents = batch * shape.frames * shape.height * shape.width
    return latents * 2 * 0.01 * WAN_DIMENSIONS[model].dim / 2222 * 2**20 / 1e9


def estimate(tflops: float, card: Card) -> str:
    """Return a range of times, from the highest to the lowest share of the card's peak rate."""
    shares = [anchor.share for anchor in ANCHORS]
    seconds = [tflops / card.peak / share for share in (max(shares), min(shares))]
    unit, name = (1, "s") if seconds[1] < 120 else (60, "min")
    return "-".join(f"{value / unit:.{1 if value < 10 * unit else 0}f}" for value in seconds) + f" {name}"


def table() -> Iterator[str]:
    """Yield the lines of the tables."""
    shares = "; ".join(f"{anchor.source}: {100 * anchor.share:.0f} %" for anchor in ANCHORS)
    yield f"Share of the peak rate that published times show: {shares}."
    for model in ("1.3B", "14B"):
        yield f"\n**Wan 2.1 {model}, {FULL.frames} frames, 832x480 (* 832x448), transformer only, estimated**\n"
        yield "| run | TFLOPs | " + " | ".join(f"{card.name}, {card.gigabytes} GB" for card in CARDS) + " |"
        yield "|---|---" + "|---" * len(CARDS) + "|"
        for run in RUNS:
            tflops = run_tflops(run, model)
            yield f"| {run.label} | {tflops:.0f} | " + " | ".join(estimate(tflops, card) for card in CARDS) + " |"
    yield "\n**Memory of the last, full-size step, 832x480, 81 frames, estimated**\n"
    yield "| weights | file | + one step, cfg 1 | + one step, cfg above 1 | fits whole (cfg 1) into |"
    yield "|---|---|---|---|---|"
    for model, kind, file in WEIGHTS:
        single, double = (file + working_memory(FULL.latent, model, batch=batch) for batch in (1, 2))
        cards = sorted({card.gigabytes for card in CARDS if card.gigabytes > single + 1})
        yield f"| {model} {kind} | {file} GB | {single:.1f} GB | {double:.1f} GB | {cards[0]} GB and more |"


if __name__ == "__main__":
    print_or_write(SCRIPT, table(), __doc__)
