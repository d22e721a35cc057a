"""A cache of the tiny world for `python -m pyramid.training`: rendered clips instead of video files.

    python -m tiny_wan.recipes.make_cache                        # 2,048 clips into .state/tiny_cache
    python -m tiny_wan.recipes.make_cache --definition latents --out .state/tiny_cache_1

Latents are the patch code's, which the tiny VAE was trained to compute; a coarse stage is the code of the smaller *video*
(definition "pixels", as in the paper) or the mean of the finer stage's latents ("latents"). Interrupted, it goes on.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from harness.wan_modules import ROOT
from pyramid.latent_shape import LatentShape
from pyramid.stages import PRESETS, PyramidSpec
from pyramid.training.data.cache_files import CachedItem, CacheInfo, missing_shards, write_info, write_shard

from ..world.scenes import Scene, render, scene_at
from ..world.words import TEXT_LENGTH, embed
from . import train_t2v
from .patch_code import PatchCode

PER_SHARD = 64
FRAMES, SIDE = 17, 128
SHAPE = LatentShape.of_video(FRAMES, SIDE, SIDE)
SEED = 20261121  # of the scenes; the transformer was trained on those of another seed


def latents_of(scenes: list[Scene], spec: PyramidSpec, code: PatchCode, *, definition: str) -> list[torch.Tensor]:
    """Clean latents of the scenes at every stage, in running order: each (B, 16, t, h, w)."""
    if definition == "latents":
        latents = [code.latents(render(scenes, frames=FRAMES, height=SIDE, width=SIDE))]
        for stage in reversed(spec.stages(SHAPE)[1:]):
            latents.append(stage.from_coarser.down(latents[-1]))
        return latents[::-1]
    frames = [1 + 4 * (shape.frames - 1) for shape in spec.shapes(SHAPE)]
    sides = [8 * shape.height for shape in spec.shapes(SHAPE)]
    return [
        code.latents(render(scenes, frames=count, height=side, width=side)) for count, side in zip(frames, sides, strict=True)
    ]


def make_cache(folder: Path, code: PatchCode, *, clips: int, preset: str, definition: str) -> None:
    """Writes the shards that are missing."""
    spec = PRESETS[preset]
    info = CacheInfo(spec, SIDE, SIDE, FRAMES, definition, TEXT_LENGTH, clips, PER_SHARD, f"tiny world, seed {SEED}")
    write_info(folder, info, embed(None).bfloat16())
    for number in missing_shards(folder, info):
        places = range(number * PER_SHARD, min(clips, (number + 1) * PER_SHARD))
        scenes = [scene_at(place, seed=SEED) for place in places]
        stages = [stage.bfloat16() for stage in latents_of(scenes, spec, code, definition=definition)]
        items = [
            CachedItem(f"scene {place}", str(scene.caption), [stage[row] for stage in stages], embed(scene.caption).bfloat16())
            for row, (place, scene) in enumerate(zip(places, scenes, strict=True))
        ]
        write_shard(folder, number, items, [])
        print(f"shard {number + 1} of {info.shards}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0], epilog="To continue, run the same command again.")
    parser.add_argument("--out", type=Path, default=ROOT / ".state" / "tiny_cache", help="folder (default: %(default)s)")
    parser.add_argument("--clips", type=int, default=2048)
    parser.add_argument("--preset", default="pyramidal-wan", help="pyramid (default: %(default)s)")
    parser.add_argument("--definition", default="pixels", choices=["pixels", "latents"])
    parser.add_argument("--code", type=Path, default=train_t2v.STATE, help="run folder of the transformer, which has the code")
    options = parser.parse_args()
    code = train_t2v.saved_code(options.code, seed=train_t2v.Recipe().seed)
    make_cache(options.out, code, clips=options.clips, preset=options.preset, definition=options.definition)


if __name__ == "__main__":
    main()
