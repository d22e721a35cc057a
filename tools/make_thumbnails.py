"""Write the workflows' pictures in the template browser: the videos that their tiny twins make, moving.

Run: .venv/bin/python -m tools.make_thumbnails [NAME ...]    (from the root of the checkout, after 'make set-up')

Each workflow runs in a headless ComfyUI with the trained tiny Wan, with its own steps, at a small size, with a prompt of its
own. A workflow whose models have no trained tiny twin shows rendered clips, and its label says so. The picture is an animated
WebP, saved beside the workflow as TITLE.jpg, or in the folder of --into: the template browser asks for that name, and browsers
look at the content of a picture, not at its name.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from tiny_wan.world.grammar import parse
from tiny_wan.world.scenes import render, scene_for
from tiny_wan.world.videos import evenly_spaced_frames

from .build_workflows import FOLDER

if TYPE_CHECKING:
    from harness.server import ComfyUIServer
    from harness.workspace import Workspace

    from .graphs import Graph

SIDE, LABEL_HEIGHT, MARGIN = 320, 26, 10
BACKGROUND, FOREGROUND, FRAME = (24, 24, 27), (240, 240, 240), (250, 250, 250)
FONT_SIZE = 14
QUALITY, MILLISECONDS = 40, 110
FRAMES = 17
VIDEO_SIDE = 128

Frames = list[Image.Image]


@dataclass(frozen=True)
class Motif:
    """The subject of a picture.

    Attributes:
        prompt: A prompt of the tiny world.
        arrange: Draws one frame of the picture from the frames of what the graph takes and makes.
        other: Prompt of the video that goes in, where it is not the same.
        trained: Whether the graph runs with trained weights; otherwise clips are rendered.
    """

    prompt: str
    arrange: Callable[[Sequence[Image.Image]], Image.Image]
    other: str | None = None
    trained: bool = True


def alone(shown: Sequence[Image.Image]) -> Image.Image:
    """Show the last picture as large as possible."""
    sheet = _sheet()
    _paste(sheet, shown[-1], (0, 0, SIDE, SIDE - LABEL_HEIGHT), frame=0)
    return sheet


def inset(shown: Sequence[Image.Image]) -> Image.Image:
    """Show what is made, and in its corner what goes in."""
    sheet = alone(shown)
    _paste(sheet, shown[0], (MARGIN, MARGIN, MARGIN + 96, MARGIN + 96), frame=3)
    return sheet


def two_insets(shown: Sequence[Image.Image]) -> Image.Image:
    """Show what is made, and in its corners the two pictures that go in."""
    sheet = inset(shown)
    corner = SIDE - MARGIN, SIDE - LABEL_HEIGHT - MARGIN
    _paste(sheet, shown[1], (corner[0] - 96, corner[1] - 96, *corner), frame=3)
    return sheet


def split(shown: Sequence[Image.Image]) -> Image.Image:
    """Show the left half of the first picture and the right half of the last one, with a line between them."""
    sheet, right = alone(shown[:1]), alone(shown[-1:])
    middle = SIDE // 2
    sheet.paste(right.crop((middle, 0, SIDE, SIDE)), (middle, 0))
    ImageDraw.Draw(sheet).rectangle((middle - 1, 0, middle + 1, SIDE - LABEL_HEIGHT), FRAME)
    return sheet


def growing(shown: Sequence[Image.Image]) -> Image.Image:
    """Show the first picture small, an arrow, and the last one large."""
    sheet, bottom = _sheet(), SIDE - LABEL_HEIGHT - MARGIN
    _paste(sheet, shown[0], (MARGIN, bottom - 76, MARGIN + 76, bottom), frame=2)
    _paste(sheet, shown[-1], (SIDE - MARGIN - 200, MARGIN, SIDE - MARGIN, MARGIN + 200), frame=2)
    draw, (x, y) = ImageDraw.Draw(sheet), (MARGIN + 84, bottom - 40)
    draw.line((x, y, x + 58, y - 24), FOREGROUND, 4)
    draw.polygon(((x + 70, y - 29), (x + 54, y - 32), (x + 60, y - 16)), FOREGROUND)
    return sheet


def chart(shown: Sequence[Image.Image]) -> Image.Image:
    """Show the measured curve, and below it the clip."""
    sheet = _sheet()
    _paste(sheet, shown[1], (0, 0, SIDE, SIDE - LABEL_HEIGHT - 110), frame=0)
    middle, bottom = SIDE // 2, SIDE - LABEL_HEIGHT - MARGIN
    _paste(sheet, shown[0], (middle - 50, bottom - 100, middle + 50, bottom), frame=2)
    return sheet


MOTIFS = {
    "wan_any_graph": Motif("a cyan ring moving right in the centre over a plain brown background", alone),
    "wan22_t2v_two_experts": Motif("a white triangle moving up in the centre over a banded blue background", alone),
    "wan22_i2v_two_experts": Motif("a magenta square moving left in the centre over a plain grey background", inset),
    "wan22_flf2v_two_experts": Motif("a green disc moving right in the centre over a plain blue background", two_insets),
    "wan22_5b_ti2v": Motif("a yellow ring moving down in the centre over a checkered brown background", inset, trained=False),
    "wan_vace_inpaint": Motif(
        "a red triangle moving right in the centre over a striped grey background", split,
        other="a white disc moving right in the centre over a striped grey background", trained=False,
    ),
    "wan_t2v_training_free": Motif("a green square moving left in the centre over a banded brown background", growing),
    "wan_i2v_training_free": Motif("a red disc moving up in the centre over a banded grey background", inset),
    "wan_v2v_pyramid": Motif(
        "a cyan square moving left in the centre over a striped blue background", split,
        other="a yellow disc moving left in the centre over a striped grey background",
    ),
    "wan_draft_then_finish": Motif("a magenta ring moving up in the centre over a striped grey background", growing),
    "wan_compare_plain_vs_pyramid": Motif("a white ring moving down in the centre over a checkered blue background", split),
    "wan_t2v_stage_lora": Motif("a yellow triangle moving right in the centre over a plain blue background", alone),
    "wan_calibrate_from_video": Motif(
        "a red square moving right in the centre over a plain grey background", chart,
        other="a green triangle moving up in the centre over a checkered brown background",
    ),
    "wan_t2v_hand_wired": Motif("a cyan disc moving down in the centre over a banded blue background", alone),
    "wan_t2v_pyramid_20-20-10": Motif("a red ring moving left in the centre over a checkered grey background", alone),
    "wan_t2v_pyramid_2-2-1": Motif("a magenta triangle moving left in the centre over a striped brown background", alone),
}  # fmt: skip


def label_of(graph: Graph, *, trained: bool) -> str:
    """Return what stands below a picture: which model made it in how many steps."""
    steps = dict.fromkeys(str(node.values["steps"]) for node in graph.nodes if "steps" in node.values)
    return f"tiny demo model · {' and '.join(steps)} steps" if trained else "rendered clip, for illustration"


def animation(motif: Motif, label: str, *parts: Frames) -> Frames:
    """Draw the frames of a picture from the frames of its parts; a part of one frame stands still."""
    drawn = []
    for number in range(FRAMES):
        sheet = motif.arrange([part[number * len(part) // FRAMES] for part in parts])
        draw = ImageDraw.Draw(sheet)
        draw.rectangle((0, SIDE - LABEL_HEIGHT, SIDE, SIDE), BACKGROUND)
        font = ImageFont.load_default(FONT_SIZE)
        draw.text((SIDE // 2, SIDE - LABEL_HEIGHT // 2), label, FOREGROUND, font, anchor="mm")
        drawn.append(sheet)
    return drawn


def save(frames: Frames, path: Path) -> None:
    """Write an animated WebP that plays forwards and backwards."""
    there_and_back = [*frames, *frames[-2:0:-1]]
    there_and_back[0].save(
        path, "WEBP", save_all=True, append_images=there_and_back[1:], duration=MILLISECONDS, loop=0, quality=QUALITY, method=4
    )  # fmt: skip


def _sheet() -> Image.Image:
    return Image.new("RGB", (SIDE, SIDE), BACKGROUND)


def _paste(sheet: Image.Image, picture: Image.Image, box: tuple[int, int, int, int], *, frame: int) -> None:
    """Paste a picture as large as it fits the box, cropped to it if it has no frame."""
    left, top, right, bottom = box
    width, height = right - left, bottom - top
    fit = min if frame or picture.width != picture.height else max
    scale = fit(width / picture.width, height / picture.height)
    sized = picture.resize((round(scale * picture.width), round(scale * picture.height)), Image.Resampling.LANCZOS)
    x, y = left + (width - sized.width) // 2, top + (height - sized.height) // 2
    if frame:
        edges = x - frame, y - frame, x + sized.width + frame - 1, y + sized.height + frame - 1
        ImageDraw.Draw(sheet).rectangle(edges, FRAME)
    sheet.paste(sized, (x, y))


def rendered(prompt: str) -> Frames:
    """Render a clip of the tiny world."""
    (video,) = render([scene_for(parse(prompt), seed=0)], frames=FRAMES, height=VIDEO_SIDE, width=VIDEO_SIDE)
    pixels = video.add(1).mul(127.5).round().byte().permute(1, 2, 3, 0).numpy()
    return [Image.fromarray(np.ascontiguousarray(frame)) for frame in pixels]


def with_inputs(graph: Graph, motif: Motif, workspace: Workspace, name: str) -> list[Frames]:
    """Write the picture or the video that goes into a graph, choose it there, and return its frames."""
    from .graphs.tiny import write_video

    clip, inputs, given = rendered(motif.other or motif.prompt), workspace.base / "input", []
    still = iter((clip[0], clip[-1]))
    for node in graph.nodes:
        if node.kind == "LoadImage":
            file = f"{name}_{node.id}.png"
            given.append([next(still)])
            given[-1][0].save(inputs / file)
            node.values["image"] = file
        if node.kind == "LoadVideo":
            node.values["file"] = f"{name}.mp4"
            write_video(inputs / f"{name}.mp4", [np.asarray(frame) for frame in clip])
            given.append(clip)
    return given


async def made(server: ComfyUIServer, graph: Graph) -> list[Frames]:
    """Run a graph, and return the frames of the charts and videos that it makes."""
    from .graphs import api

    outputs, found = await server.run(api(graph), timeout=1800), []
    for node in graph.nodes:
        if node.kind in ("PreviewImage", "SaveVideo"):
            (saved,) = outputs[str(node.id)]["images"]
            folder = server.workspace.base / "temp" if saved["type"] == "temp" else server.workspace.output
            path = folder / saved["subfolder"] / saved["filename"]
            found.append([Image.open(path).convert("RGB")] if node.kind == "PreviewImage" else _frames(path))
    return found


def _frames(video: Path) -> Frames:
    return evenly_spaced_frames(video, FRAMES)


async def parts_of(server: ComfyUIServer, name: str) -> list[Frames]:
    """Return the frames of what a graph takes and what it makes."""
    from .graphs import TinySize, tiny_graph
    from .graphs.graph import ON

    motif = MOTIFS[name]
    if not motif.trained:
        clip = rendered(motif.prompt)
        return [rendered(motif.other) if motif.other else clip[:1], clip]
    graph = tiny_graph(name, TinySize(VIDEO_SIDE, VIDEO_SIDE, FRAMES, most_steps=1000, trained=True, prompt=motif.prompt))
    for node in graph.nodes:
        node.mode = ON
    return [*with_inputs(graph, motif, server.workspace, name), *await made(server, graph)]


async def make(workspace: Workspace, names: list[str], folder: Path) -> None:
    """Run the workflows of these names and save their pictures."""
    from harness.server import ComfyUIServer
    from harness.workspace import write_prompt

    from .graphs import build, title

    async with ComfyUIServer(workspace) as server:
        for name in names:
            motif, path = MOTIFS[name], folder / f"{title(name)}.jpg"
            write_prompt(workspace, motif.prompt)
            parts = await parts_of(server, name)
            save(animation(motif, label_of(build(name), trained=motif.trained), *parts), path)
            print(f"{path}  {path.stat().st_size / 1000:.0f} kB", flush=True)


def main() -> None:
    """Read the command line and make the pictures."""
    from harness.in_process import use_comfyui

    use_comfyui()
    from harness.workspace import Workspace, default_workspace, prepare

    from .graphs import write_inputs

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="workflows; all of them if none is given")
    parser.add_argument("--into", type=Path, default=FOLDER, help="folder for the pictures")
    options = parser.parse_args()
    options.into.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        workspace = Workspace(default_workspace().comfyui, Path(name) / "base", Path(name) / "output")
        prepare(workspace)
        write_inputs(workspace, trained=True)
        asyncio.run(make(workspace, options.names or list(MOTIFS), options.into))


if __name__ == "__main__":
    main()
