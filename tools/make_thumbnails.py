"""Write the workflows' pictures in the template browser: moving drawings of their prompts and of what they do.

Run: .venv/bin/python -m tools.make_thumbnails [NAME ...]    (from the root of the checkout, after 'make set-up')

They are drawings, and say so, because a video of the tiny Wan looks like a poor result of Wan. The picture is an animated WebP,
saved beside the workflow as TITLE.jpg, or in the folder of --into: the template browser asks for that name, and browsers look
at the content of a picture, not at its name. A test compares the files with what this draws.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path

from PIL import Image

from .build_workflows import FOLDER
from .pictures import animals, scenery
from .pictures.canvas import wave
from .pictures.layout import (
    between_nodes,
    compared,
    detail_curve,
    growing,
    in_frame_rates,
    in_patches,
    labelled,
    swept,
    with_node,
    with_pills,
    with_small,
    with_steps,
    with_stills,
)

FRAMES, MILLISECONDS, QUALITY = 14, 150, 42


def day_and_night(time: float) -> Image.Image:
    """Draw a lake at noon, at midnight, and at noon again."""
    return scenery.day_to_night(0.5 - 0.5 * wave(time, 1, 0.25))


PICTURES: dict[str, Callable[[float], Image.Image]] = {
    "wan_any_graph": partial(with_node, animals.fox),
    "wan22_t2v_two_experts": partial(with_steps, animals.owl, (2, 2)),
    "wan22_i2v_two_experts": partial(with_stills, scenery.lighthouse, (scenery.lighthouse(0),)),
    "wan22_flf2v_two_experts": partial(with_stills, day_and_night, (scenery.day_to_night(0), scenery.day_to_night(1))),
    "wan22_5b_ti2v": partial(with_stills, scenery.marble, (scenery.marble(0),)),
    "wan_vace_inpaint": partial(swept, animals.lawn, animals.puppy, region=(0.5, 0.6, 0.34)),
    "wan_t2v_training_free": partial(with_steps, scenery.boat, (20, 10)),
    "wan_i2v_training_free": partial(with_stills, scenery.balloons, (scenery.balloons(0),)),
    "wan_v2v_pyramid": partial(swept, scenery.canal, scenery.watercolour),
    "wan_draft_then_finish": partial(growing, scenery.train, ("draft", "finished")),
    "wan_compare_plain_vs_pyramid": partial(compared, scenery.potter, (50, 20, 10)),
    "wan_t2v_stage_lora": partial(with_pills, scenery.tram, ("style: all stages", "detail: full size")),
    "wan_calibrate_from_video": partial(detail_curve, animals.starlings),
    "wan_t2v_hand_wired": partial(between_nodes, scenery.night_boat),
    "wan_t2v_pyramid_20-20-10": partial(with_small, scenery.lanterns, ("20", "20", "10")),
    "wan_t2v_pyramid_2-2-1": partial(with_steps, animals.hummingbird, (2, 2, 1)),
    "wan_t2v_ppf_2-2-1": partial(in_patches, scenery.kite, (2, 2, 1)),
    "wan_t2v_tpdiff": partial(in_frame_rates, animals.dolphin, (20, 20, 10)),
}
"""What draws a picture at a time from 0 to 1, by workflow."""


def animation(draw: Callable[[float], Image.Image]) -> list[Image.Image]:
    """Return the frames of a picture."""
    return [labelled(draw(number / FRAMES)) for number in range(FRAMES)]


def save(frames: list[Image.Image], path: Path) -> None:
    """Write an animated WebP that plays without end."""
    first, *others = frames
    motion = {"save_all": True, "append_images": others, "duration": MILLISECONDS, "loop": 0}
    first.save(path, "WEBP", quality=QUALITY, method=6, minimize_size=True, **motion)


def main() -> None:
    """Read the command line and draw the pictures."""
    from harness.in_process import use_comfyui

    use_comfyui()
    from .graphs import title

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="workflows; all of them if none is given")
    parser.add_argument("--into", type=Path, default=FOLDER, help="folder for the pictures")
    options = parser.parse_args()
    options.into.mkdir(parents=True, exist_ok=True)
    for name in options.names or PICTURES:
        path = options.into / f"{title(name)}.jpg"
        save(animation(PICTURES[name]), path)
        print(f"{path}  {path.stat().st_size / 1000:.0f} kB", flush=True)


if __name__ == "__main__":
    main()
