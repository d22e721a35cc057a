"""One prompt, sampled without and with a pyramid: the real ComfyUI with the pack and a trained tiny Wan, on a CPU.

Run: make demo    (or .venv/bin/python -m demo.run, from the root of the checkout)
     make demo PROMPT="a white disc moving up on the left over a striped grey background"
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from harness.server import ComfyUIServer, Graph, GraphError, Progress, ServerError
from harness.workspace import EMPTY_PROMPT, Workspace, default_workspace, prepare, write_prompt
from pyramid.flops import WAN_DIMENSIONS, schedule_cost, total_tflops
from pyramid.schedules import parse_steps
from pyramid.sizes import VideoSize
from pyramid.stages import PRESETS
from tiny_wan.world.grammar import ATTRIBUTES, Caption, parse
from tiny_wan.world.reading import accuracy, read
from tiny_wan.world.videos import ClipShape, clips_of

from .contact_sheet import Strip, contact_sheet

PROMPT = "a red ring moving left in the centre over a striped blue background"
SIZE = VideoSize(width=128, height=128, frames=17)
SEEDS = 4
FPS = 8
SEED = 3

PAPER_SIZE = VideoSize(width=832, height=448, frames=81)
PAPER_SCHEDULES = (("0-0-50", True), ("20-20-10", True), ("2-2-1", False))
"""Steps from low to high resolution, and whether cfg runs the model twice in every one of them."""


@dataclass(frozen=True)
class Sampling:
    """A way to sample the prompt.

    Attributes:
        name: First part of its files' names.
        label: Its row in the table.
        preset: Name of a pyramid preset.
        steps: Steps per stage, from low to high resolution.
        cfg: Guidance scale; 1 runs the model once a step.
        model: File in tiny_wan/weights.
        sampler: ComfyUI's name of the sampler.
        lift: Method of 'Pyramidal Lift from VAE'; None leaves the node out.
    """

    name: str
    label: str
    preset: str
    steps: str
    cfg: float
    model: str = "tiny_wan_t2v.safetensors"
    sampler: str = "euler"
    lift: str | None = None

    @property
    def tflops(self) -> float:
        """TFLOPs of the same steps with Wan2.1 1.3B at the paper's size."""
        spec = PRESETS[self.preset]
        steps = parse_steps(self.steps, spec.number_of_stages)
        return total_tflops(schedule_cost(spec, PAPER_SIZE.latent, steps, WAN_DIMENSIONS["1.3B"], cfg=self.cfg != 1))


FINETUNED, DISTILLED = "tiny_wan_t2v_20-20-10.safetensors", "tiny_wan_t2v_2-2-1.safetensors"
SAMPLINGS = (
    Sampling("plain", "plain, 50 steps", "plain", "50", 4.0),
    Sampling("training-free", "training-free 20-10, with a lift", "training-free", "20-10", 4.0, lift="pixels"),
    Sampling("unlifted", "training-free 20-10, without a lift", "training-free", "20-10", 4.0, lift="none"),
    Sampling("finetuned", "finetuned, 20-20-10 steps", "pyramidal-wan", "20-20-10", 4.0, FINETUNED),
    Sampling("distilled", "distilled, 2-2-1 steps", "pyramidal-wan", "2-2-1", 1.0, DISTILLED, "pyramid_few_step"),
)


@dataclass(frozen=True)
class Result:
    """The videos of a sampling.

    Attributes:
        sampling: How they were sampled.
        first_video: The video of the first seed.
        all_videos: The videos of all seeds, one after the other in one file.
        seconds: Wall-clock time.
    """

    sampling: Sampling
    first_video: Path
    all_videos: Path
    seconds: float


def sampling_graph(sampling: Sampling, prompt: str, size: VideoSize = SIZE, *, seeds: int = SEEDS) -> Graph:
    """Build a text-to-video graph with several seeds in one batch; prompts are files, so no text encoder is loaded."""
    sides = {"width": size.width, "height": size.height, "frames": size.frames, "batch_size": seeds}
    wires = {name: [name, 0] for name in ("model", "positive", "negative", "latent", "pyramid")}
    settings = {"seed": SEED, "quality": "custom", "steps": sampling.steps, "cfg": f"{sampling.cfg:g}"}
    settings["sampler_name"] = sampling.sampler
    mp4 = {"format": "mp4", "codec": "h264"}
    nodes = {
        "model": ("UNETLoader", {"unet_name": sampling.model, "weight_dtype": "default"}),
        "vae": ("VAELoader", {"vae_name": "tiny_wan_vae.safetensors"}),
        "positive": ("PyramidalWanLoadConditioning", {"filename": prompt}),
        "negative": ("PyramidalWanLoadConditioning", {"filename": EMPTY_PROMPT}),
        "pyramid": ("PyramidalWanPreset", {"preset": sampling.preset, "scale": "half" if sampling.lift else "auto"}),
        "latent": ("PyramidalWanEmptyLatent", {**sides, "pyramid": ["pyramid", 0]}),
        "samples": ("PyramidalWanSampler", {**wires, **settings}),
        "frames": ("VAEDecode", {"samples": ["samples", 0], "vae": ["vae", 0]}),
        "first": ("ImageFromBatch", {"image": ["frames", 0], "batch_index": 0, "length": size.frames}),
        "first_video": ("CreateVideo", {"images": ["first", 0], "fps": FPS}),
        "save_first": ("SaveVideo", {"video": ["first_video", 0], "filename_prefix": f"demo/{sampling.name}", **mp4}),
        "all_videos": ("CreateVideo", {"images": ["frames", 0], "fps": FPS}),
        "save_all": ("SaveVideo", {"video": ["all_videos", 0], "filename_prefix": f"demo/{sampling.name}-all-seeds", **mp4}),
    }
    if sampling.lift is not None:
        nodes["lift"] = ("PyramidalWanLiftFromVAE", {"vae": ["vae", 0], "method": sampling.lift, "pyramid": ["pyramid", 0]})
        nodes["samples"][1]["lift"] = ["lift", 0]
    return {name: {"class_type": kind, "inputs": inputs} for name, (kind, inputs) in nodes.items()}


class ProgressLine:
    """The running node on one line of a terminal; elsewhere a line for each node."""

    BAR = 24

    def __init__(self, graph: Graph):
        self._graph = graph
        self._node = ""
        self._started = time.monotonic()

    def show(self, progress: Progress) -> None:
        """Print the progress of the running node."""
        name = self._graph[progress.node]["class_type"]
        if sys.stdout.isatty():
            done = self.BAR * progress.step // max(progress.steps, 1)
            count = f"{progress.step}/{progress.steps}" if progress.steps else ""
            seconds = f"{time.monotonic() - self._started:.0f} s"
            print(f"\r\033[K  [{'#' * done:{self.BAR}}] {seconds:>5}  {name} {count}", end="", flush=True)
        elif progress.node != self._node:
            print(f"  {name}", flush=True)
        self._node = progress.node

    def end(self) -> None:
        """Clear the line."""
        if sys.stdout.isatty():
            print("\r\033[K", end="", flush=True)


def cost_table() -> str:
    """Return a table of TFLOPs of Wan2.1 1.3B: ordinary sampling and two pyramid schedules."""
    spec = PRESETS["pyramidal-wan"]
    lines = [f"{'steps, low to high':<20}{'cfg':<6}{'TFLOPs':>8}{'of plain':>10}"]
    plain = 0.0
    for steps, cfg in PAPER_SCHEDULES:
        counts = parse_steps(steps, spec.number_of_stages)
        costs = schedule_cost(spec, PAPER_SIZE.latent, counts, WAN_DIMENSIONS["1.3B"], cfg=cfg)
        total = total_tflops(costs)
        plain = plain or total
        lines.append(f"{steps:<20}{'yes' if cfg else 'no':<6}{total:>8.0f}{total / plain:>10.1%}")
    return "\n".join(lines)


async def make_videos(workspace: Workspace, samplings: Sequence[Sampling], prompt: str) -> list[Result]:
    """Start ComfyUI, run the graphs, and stop ComfyUI."""
    results = []
    async with ComfyUIServer(workspace) as server:
        for sampling in samplings:
            print(f"{sampling.label} ...", flush=True)
            graph = sampling_graph(sampling, prompt)
            line, began = ProgressLine(graph), time.monotonic()
            try:
                outputs = await server.run(graph, line.show)
            finally:
                line.end()
            names = [outputs[node]["images"][0]["filename"] for node in ("save_first", "save_all")]
            first, every = (workspace.output / "demo" / name for name in names)
            results.append(Result(sampling, first, every, time.monotonic() - began))
    return results


def read_back(result: Result, caption: Caption) -> tuple[list[str], float]:
    """Return the attributes that image analysis reads in the first seed's video, and the share that is right over all seeds."""
    clips = list(clips_of(result.all_videos, ClipShape(SIZE.frames, SIZE.height, SIZE.width)))
    readings = read(torch.stack(clips))
    shares = accuracy(readings, [caption] * len(readings))
    return [readings[0].words[name] for name in ATTRIBUTES], sum(shares[name] for name in ATTRIBUTES) / len(ATTRIBUTES)


def report(results: Sequence[Result], caption: Caption) -> tuple[str, list[Strip]]:
    """Return a table, and a strip of frames for each sampling; costs are relative to the first sampling."""
    plain = results[0]
    lines = [f"{'':<38}{'accuracy':>9}{'cost':>7}{'time':>7}   attributes read from the first video"]
    strips = []
    for result in results:
        words, share = read_back(result, caption)
        label, cost = result.sampling.label, result.sampling.tflops / plain.sampling.tflops
        lines.append(f"{label:<38}{share:>9.0%}{cost:>7.0%}{result.seconds:>6.0f}s   {', '.join(words)}")
        strips.append(Strip(result.first_video, f"{label}: {share:.0%} accuracy, {cost:.0%} of the cost"))
    return "\n".join(lines), strips


async def main() -> None:
    """Sample the prompt in every way, and print the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompt", default=PROMPT, help='default: "%(default)s"')
    caption = parse(parser.parse_args().prompt)
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    workspace = default_workspace()
    print(f'"{caption}", {SEEDS} seeds\nStarting ComfyUI ({workspace.comfyui}) ...', flush=True)
    prepare(workspace)
    results = await make_videos(workspace, SAMPLINGS, write_prompt(workspace, str(caption)))
    table, strips = report(results, caption)
    sheet = contact_sheet(strips, workspace.output / "demo" / "comparison.png", title=str(caption))
    print(f"\n{table}\n\naccuracy: share of the prompt's attributes that image analysis reads in {SEEDS} videos;")
    print("cost: operations on Wan2.1 1.3B; time: on this machine, with decoding, and in the first row with loading.\n")
    print("\n".join(str(path) for path in (sheet, *(result.first_video for result in results))))
    print(f"\nWan2.1 1.3B at {PAPER_SIZE.width}x{PAPER_SIZE.height}, {PAPER_SIZE.frames} frames, would take:\n\n{cost_table()}")


if __name__ == "__main__":
    try:
        asyncio.run(main())
    except (ServerError, GraphError, FileNotFoundError, ValueError) as error:
        sys.exit(str(error))
    except (KeyboardInterrupt, asyncio.CancelledError):
        sys.exit("\nStopped.")
