"""Write a cache of the tiny world for `python -m pyramid.training`, from rendered clips instead of video files.

    python -m tiny_wan.recipes.make_cache                        # 2,048 clips into .state/tiny_cache
    python -m tiny_wan.recipes.make_cache --definition latents --out .state/tiny_cache_1

Latents are those of the patch code, which the tiny VAE was trained to compute. A coarse stage is the code of the smaller
*video* (definition "pixels", as in the paper) or the downsampled latents of the finer stage ("latents"). An interrupted run
resumes.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from harness.in_process import ROOT
from pyramid.latent_shape import LatentShape, video_frames
from pyramid.stages import TRAINING_PRESETS, PyramidSpec
from pyramid.training.data.cache_files import CachedItem, CacheInfo, missing_shards, write_info, write_shard

from ..world.scenes import Scene, render, scene_at
from ..world.words import TEXT_LENGTH, embed
from . import train_t2v
from .patch_code import PatchCode

PER_SHARD = 64
FRAMES, SIDE = 17, 128
SHAPE = LatentShape.of_video(FRAMES, SIDE, SIDE)
SEED = 20261121  # of the scenes; the transformer was trained on scenes of another seed


def latents_of(scenes: list[Scene], spec: PyramidSpec, code: PatchCode, *, definition: str) -> list[torch.Tensor]:
    """Return the clean latents of the scenes at every stage, in running order: each (B, 16, t, h, w)."""
    if definition == "latents":
        latents = [code.latents(render(scenes, frames=FRAMES, height=SIDE, width=SIDE))]
        for stage in reversed(spec.stages(SHAPE)[1:]):
            assert stage.from_coarser is not None
            latents.append(stage.from_coarser.down(latents[-1]))
        return latents[::-1]
    frames = [video_frames(shape.frames) for shape in spec.shapes(SHAPE)]
    sides = [8 * shape.height for shape in spec.shapes(SHAPE)]
    return [
        code.latents(render(scenes, frames=count, height=side, width=side)) for count, side in zip(frames, sides, strict=True)
    ]


def make_cache(folder: Path, code: PatchCode, *, clips: int, preset: str, definition: str) -> None:
    """Write the shards that are missing."""
    spec = TRAINING_PRESETS[preset]
    info = CacheInfo(spec, SIDE, SIDE, FRAMES, definition, TEXT_LENGTH, clips, PER_SHARD, f"tiny world, seed {SEED}")
    write_info(folder, info, embed(None).bfloat16())
    for number in missing_shards(folder, info):
        indices = range(number * PER_SHARD, min(clips, (number + 1) * PER_SHARD))
        scenes = [scene_at(index, seed=SEED) for index in indices]
        stages = [stage.bfloat16() for stage in latents_of(scenes, spec, code, definition=definition)]
        items = [
            CachedItem(f"scene {index}", str(scene.caption), [stage[row] for stage in stages], embed(scene.caption).bfloat16())
            for row, (index, scene) in enumerate(zip(indices, scenes, strict=True))
        ]
        write_shard(folder, number, items, [])
        print(f"shard {number + 1} of {info.shards}", flush=True)


def main() -> None:
    """Read the command line and write the cache."""
    summary = (__doc__ or "").partition("\n\n")[0]
    parser = argparse.ArgumentParser(description=summary, epilog="To continue, run the same command again.")
    parser.add_argument("--out", type=Path, default=ROOT / ".state" / "tiny_cache", help="folder (default: %(default)s)")
    parser.add_argument("--clips", type=int, default=2048)
    parser.add_argument("--preset", default="pyramidal-wan", help="pyramid (default: %(default)s)")
    parser.add_argument("--definition", default="pixels", choices=["pixels", "latents"])
    parser.add_argument("--code", type=Path, default=train_t2v.STATE, help="run folder that holds the patch code")
    options = parser.parse_args()
    code = train_t2v.saved_code(options.code, seed=train_t2v.Recipe.code_seed)
    make_cache(options.out, code, clips=options.clips, preset=options.preset, definition=options.definition)


if __name__ == "__main__":
    main()
