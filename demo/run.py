"""One video through a pyramid, on a CPU in a minute: the real ComfyUI with the pack, tiny random weights, an .mp4.

Run: make demo    (or .venv/bin/python -m demo.run, from the root of the checkout)
"""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from pathlib import Path

import av

from pyramid.flops import WAN_DIMENSIONS, schedule_cost, total_tflops
from pyramid.schedules import parse_steps
from pyramid.sizes import VideoSize
from pyramid.stages import PRESETS

from .comfyui_server import ComfyUIServer, Graph, GraphError, Progress, ServerError
from .workspace import PROMPTS, Workspace, default_workspace, prepare

PRESET = "pyramidal-wan"
SIZE = VideoSize(width=192, height=128, frames=33)
STEPS = "20-20-10"
FPS = 16

PAPER_SIZE = VideoSize(width=832, height=448, frames=81)
PAPER_SCHEDULES = (("0-0-50", True), ("20-20-10", True), ("2-2-1", False))
"""Steps from low to high resolution, and whether cfg runs every one of them twice."""


def video_graph(size: VideoSize = SIZE, steps: str = STEPS) -> Graph:
    """Text to video through three stages; the prompts' embeddings come from files, so no text encoder is loaded."""
    positive, negative = (f"{name}.safetensors" for name in PROMPTS)
    sides = {"width": size.width, "height": size.height, "frames": size.frames}
    sampling = {name: [name, 0] for name in ("model", "positive", "negative", "latent", "pyramid")}
    sampling |= {"seed": 0, "steps": steps, "cfg": "5"}
    nodes = {
        "model": ("UNETLoader", {"unet_name": "tiny_random_wan_t2v.safetensors", "weight_dtype": "default"}),
        "vae": ("VAELoader", {"vae_name": "tiny_random_wan_vae.safetensors"}),
        "positive": ("PyramidalWanLoadConditioning", {"filename": positive}),
        "negative": ("PyramidalWanLoadConditioning", {"filename": negative}),
        "pyramid": ("PyramidalWanSpec", {"preset": PRESET}),
        "latent": ("PyramidalWanEmptyLatent", {**sides, "pyramid": ["pyramid", 0]}),
        "samples": ("PyramidalWanSampler", sampling),
        "frames": ("VAEDecode", {"samples": ["samples", 0], "vae": ["vae", 0]}),
        "video": ("CreateVideo", {"images": ["frames", 0], "fps": FPS}),
        "file": ("SaveVideo", {"video": ["video", 0], "filename_prefix": "demo", "format": "mp4", "codec": "h264"}),
    }
    return {name: {"class_type": kind, "inputs": inputs} for name, (kind, inputs) in nodes.items()}


class ProgressLine:
    """The running node on one line of a terminal; elsewhere a line for each node."""

    BAR = 24

    def __init__(self, graph: Graph):
        self._graph = graph
        self._node = ""
        self._started = time.monotonic()

    def show(self, progress: Progress) -> None:
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
        if sys.stdout.isatty():
            print("\r\033[K", end="", flush=True)


def cost_table() -> str:
    """What the released 1.3B model would cost, from `pyramid.flops`: plain sampling against two pyramid schedules."""
    spec = PRESETS[PRESET]
    lines = [f"{'steps, low to high':<20}{'cfg':<6}{'TFLOPs':>8}{'of plain':>10}"]
    plain = 0.0
    for steps, cfg in PAPER_SCHEDULES:
        counts = parse_steps(steps, spec.number_of_stages)
        costs = schedule_cost(spec, PAPER_SIZE.latent, counts, WAN_DIMENSIONS["1.3B"], cfg=cfg)
        total = total_tflops(costs)
        plain = plain or total
        lines.append(f"{steps:<20}{'yes' if cfg else 'no':<6}{total:>8.0f}{total / plain:>10.1%}")
    return "\n".join(lines)


def describe_video(path: Path) -> str:
    """Size and length as they stand in the file."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        frames = sum(1 for _ in container.decode(stream))
        return f"{stream.width}x{stream.height}, {frames} frames at {float(stream.average_rate or 0):g} fps"


async def make_video(workspace: Workspace, graph: Graph) -> Path:
    """Start ComfyUI, run the graph, stop ComfyUI."""
    async with ComfyUIServer(workspace) as server:
        line = ProgressLine(graph)
        try:
            outputs = await server.run(graph, line.show)
        finally:
            line.end()
    (saved,) = outputs["file"]["images"]
    return workspace.output / saved["subfolder"] / saved["filename"]


async def main() -> None:
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    workspace = default_workspace()
    print(f"Starting ComfyUI ({workspace.comfyui}) ...", flush=True)
    prepare(workspace)
    started = time.monotonic()
    video = await make_video(workspace, video_graph())
    print(f"{video}\n  {describe_video(video)}, {time.monotonic() - started:.0f} s with ComfyUI's start")
    print("  The weights are tiny and random: this shows that the machinery runs, not a picture.\n")
    print(f"Wan2.1 1.3B at {PAPER_SIZE.width}x{PAPER_SIZE.height}, {PAPER_SIZE.frames} frames, would take:\n")
    print(cost_table())


if __name__ == "__main__":
    try:
        asyncio.run(main())
    except (ServerError, GraphError, FileNotFoundError) as error:
        sys.exit(str(error))
    except (KeyboardInterrupt, asyncio.CancelledError):
        sys.exit("\nStopped.")
