"""Write the workflows' pictures in the template browser: frames of the videos that their tiny twins make.

Run: .venv/bin/python -m tools.make_thumbnails [NAME ...]    (from the root of the checkout, after 'make set-up')

Each workflow runs in a headless ComfyUI with the trained tiny Wan, with its own steps, at a small size. A workflow whose models
have no trained tiny twin gets a card with its title. The picture is saved beside the workflow as NAME.jpg, where ComfyUI looks
for it, or in the folder of --into.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image, ImageDraw, ImageFont

from tiny_wan.world.videos import evenly_spaced_frames

from .build_workflows import FOLDER

if TYPE_CHECKING:
    from harness.server import ComfyUIServer
    from harness.workspace import Workspace

    from .graphs import Graph

SIDE, LABEL_HEIGHT, MARGIN = 400, 36, 6
BACKGROUND, FOREGROUND = (24, 24, 27), (240, 240, 240)
FONT_SIZE, TITLE_SIZE, TITLE_CHARACTERS = 20, 34, 18
QUALITY = 85
FRAMES_OF_A_CLIP = 17


def steps_of(graph: Graph) -> str:
    """Return the steps of a graph's samplers as the nodes show them, each once."""
    steps = dict.fromkeys(str(node.values["steps"]) for node in graph.nodes if "steps" in node.values)
    return " and ".join(steps)


def picture(videos: list[Path], label: str) -> Image.Image:
    """Draw four frames in reading order above the label; two videos have a row each."""
    frames = [frame for video in videos for frame in evenly_spaced_frames(video, 2 if len(videos) > 1 else 4)]
    sheet = Image.new("RGB", (SIDE, SIDE), BACKGROUND)
    width, height = (SIDE - 3 * MARGIN) // 2, (SIDE - LABEL_HEIGHT - 3 * MARGIN) // 2
    for number, frame in enumerate(frames[:4]):
        scale = min(width / frame.width, height / frame.height)
        small = frame.resize((round(scale * frame.width), round(scale * frame.height)), Image.Resampling.LANCZOS)
        left = MARGIN + number % 2 * (width + MARGIN) + (width - small.width) // 2
        top = MARGIN + number // 2 * (height + MARGIN) + (height - small.height) // 2
        sheet.paste(small, (left, top))
    _write_label(ImageDraw.Draw(sheet), label)
    return sheet


def title_of(graph: Graph) -> str:
    """Return the heading of a graph's first note."""
    return graph.nodes[0].values["text"].splitlines()[0].removeprefix("# ")


def card(title: str, label: str) -> Image.Image:
    """Draw a title above the label."""
    sheet = Image.new("RGB", (SIDE, SIDE), BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    lines, middle = "\n".join(textwrap.wrap(title, TITLE_CHARACTERS)), (SIDE // 2, (SIDE - LABEL_HEIGHT) // 2)
    draw.multiline_text(middle, lines, FOREGROUND, ImageFont.load_default(TITLE_SIZE), anchor="mm", align="center")
    _write_label(draw, label)
    return sheet


def _write_label(draw: ImageDraw.ImageDraw, label: str) -> None:
    middle = SIDE // 2, SIDE - LABEL_HEIGHT // 2 - MARGIN // 2
    draw.text(middle, label, FOREGROUND, ImageFont.load_default(FONT_SIZE), anchor="mm")


async def saved_videos(server: ComfyUIServer, graph: Graph) -> list[Path]:
    """Run a graph, and return the videos that it saves, in the order of its nodes."""
    from .graphs import api

    outputs = await server.run(api(graph), timeout=1800)
    videos = []
    for node in graph.nodes:
        if node.kind == "SaveVideo":
            (saved,) = outputs[str(node.id)]["images"]
            videos.append(server.workspace.output / saved["subfolder"] / saved["filename"])
    return videos


async def make(workspace: Workspace, names: list[str], side: int, folder: Path) -> None:
    """Run the workflows of these names and save their pictures."""
    from harness.server import ComfyUIServer

    from .graphs import TinySize, build, has_trained, tiny_graph

    size = TinySize(side, side, FRAMES_OF_A_CLIP, most_steps=1000, trained=True)
    async with ComfyUIServer(workspace) as server:
        for name in names:
            whole, path = build(name), folder / f"{name}.jpg"
            steps = f"{steps_of(whole)} steps"
            if has_trained(name):
                sheet = picture(await saved_videos(server, tiny_graph(name, size)), f"tiny demo model, {steps}")
            else:
                sheet = card(title_of(whole), steps)
            sheet.save(path, quality=QUALITY, optimize=True)
            print(f"{path}  {path.stat().st_size / 1000:.0f} kB", flush=True)


def main() -> None:
    """Read the command line and make the pictures."""
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
