"""Writes the pictures that the template browser shows for the workflows: frames of what their tiny twins make.

Run: .venv/bin/python -m tools.make_thumbnails [NAME ...]    (from the root of the checkout, after 'make set-up')

Each workflow is run in a headless ComfyUI with the trained tiny Wan, with its own steps, at a small size.
The picture lies beside the workflow as NAME.jpg, which is where ComfyUI looks for it. --into puts them elsewhere.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import av
from PIL import Image, ImageDraw, ImageFont

from .build_workflows import FOLDER

if TYPE_CHECKING:
    from harness.server import ComfyUIServer
    from harness.workspace import Workspace

    from .graphs import Graph

SIDE, LABEL_HEIGHT, MARGIN = 400, 36, 6
BACKGROUND, FOREGROUND = (24, 24, 27), (240, 240, 240)
FONT_SIZE = 20
QUALITY = 85
FRAMES_OF_A_CLIP = 17


def steps_of(graph: Graph) -> str:
    """The steps of its samplers as they stand on the nodes, each once."""
    steps = dict.fromkeys(str(node.values["steps"]) for node in graph.nodes if "steps" in node.values)
    return " and ".join(steps)


def frames_of(video: Path, count: int) -> list[Image.Image]:
    """Evenly spaced ones, the first and the last among them."""
    with av.open(str(video)) as container:
        frames = [frame.to_image() for frame in container.decode(video=0)]
    return [frames[round(place * (len(frames) - 1) / max(1, count - 1))] for place in range(count)]


def picture(videos: list[Path], label: str) -> Image.Image:
    """Four frames in reading order above the label; of two videos a row each."""
    rows = [frames_of(video, 2) for video in videos] if len(videos) > 1 else [frames_of(videos[0], 4)]
    frames = [frame for row in rows for frame in row]
    sheet = Image.new("RGB", (SIDE, SIDE), BACKGROUND)
    width, height = (SIDE - 3 * MARGIN) // 2, (SIDE - LABEL_HEIGHT - 3 * MARGIN) // 2
    for number, frame in enumerate(frames[:4]):
        scale = min(width / frame.width, height / frame.height)
        small = frame.resize((round(scale * frame.width), round(scale * frame.height)), Image.Resampling.LANCZOS)
        left = MARGIN + number % 2 * (width + MARGIN) + (width - small.width) // 2
        top = MARGIN + number // 2 * (height + MARGIN) + (height - small.height) // 2
        sheet.paste(small, (left, top))
    middle = SIDE // 2, SIDE - LABEL_HEIGHT // 2 - MARGIN // 2
    ImageDraw.Draw(sheet).text(middle, label, FOREGROUND, ImageFont.load_default(FONT_SIZE), anchor="mm")
    return sheet


async def saved_videos(server: ComfyUIServer, graph: Graph) -> list[Path]:
    """Runs the graph; the videos that it saves, in the order of its nodes."""
    from .graphs import api

    outputs = await server.run(api(graph), timeout=1800)
    videos = []
    for node in graph.nodes:
        if node.kind == "SaveVideo":
            (saved,) = outputs[str(node.id)]["images"]
            videos.append(server.workspace.output / saved["subfolder"] / saved["filename"])
    return videos


async def make(workspace: Workspace, names: list[str], side: int, folder: Path) -> None:
    from harness.server import ComfyUIServer

    from .graphs import TinySize, build, tiny_graph

    graphs = {name: tiny_graph(name, TinySize(side, side, FRAMES_OF_A_CLIP, most_steps=1000, trained=True)) for name in names}
    labels = {name: f"tiny demo model, {steps_of(build(name))} steps" for name in names}
    async with ComfyUIServer(workspace) as server:
        for name, graph in graphs.items():
            path = folder / f"{name}.jpg"
            picture(await saved_videos(server, graph), labels[name]).save(path, quality=QUALITY, optimize=True)
            print(f"{path}  {path.stat().st_size / 1000:.0f} kB", flush=True)


def main() -> None:
    from harness.in_process import use_comfyui

    use_comfyui()
    from harness.workspace import Workspace, default_workspace, prepare

    from .graphs import WORKFLOWS, write_inputs

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="workflows; all of them if none is given")
    parser.add_argument("--side", type=int, default=128, help="width and height of the videos in pixels, a multiple of 64")
    parser.add_argument("--into", type=Path, default=FOLDER, help="folder for the pictures")
    options = parser.parse_args()
    options.into.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        workspace = Workspace(default_workspace().comfyui, Path(name) / "base", Path(name) / "output")
        prepare(workspace)
        write_inputs(workspace, trained=True)
        asyncio.run(make(workspace, options.names or list(WORKFLOWS), options.side, options.into))


if __name__ == "__main__":
    main()
