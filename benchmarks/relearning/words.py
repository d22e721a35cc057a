"""The task: every colour word gets the next one's vector, and the tiny Wan has to learn the new words."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch
from torch import Tensor

from pyramid.stages import PyramidSpec
from pyramid.training.data.cache_files import Cache, CachedItem, CacheInfo, missing_shards, write_info, write_shard
from tiny_wan.world.grammar import COLOURS, Caption, draw_captions, parse
from tiny_wan.world.words import embed

PER_SHARD = 64
PROMPTS = 48
PROMPT_SEED = 18


def rotated(caption: Caption) -> Caption:
    """Return the caption whose vectors stand for this one: the next colour, everything else unchanged."""
    index = COLOURS.index(caption.colour)
    return dataclasses.replace(caption, colour=COLOURS[(index + 1) % len(COLOURS)])


def prompts(number: int = PROMPTS) -> list[Caption]:
    """Return balanced prompts for sampling."""
    return draw_captions(PROMPTS, seed=PROMPT_SEED)[:number]


def write_cache(source: Cache, folder: Path, spec: PyramidSpec, *, clips: int) -> Path:
    """Write a cache of rotated words for a pyramid, from the full-size latents of another cache; return its folder.

    Coarse stages are averaged latents for every pyramid. An interrupted run resumes.
    """
    info = dataclasses.replace(
        source.info, spec=spec, definition="latents", count=clips, per_shard=PER_SHARD,
        sources=f"{source.info.sources}, rotated colours",
    )  # fmt: skip
    write_info(folder, info, source.empty.bfloat16())
    for number in missing_shards(folder, info):
        items = range(number * PER_SHARD, min(clips, (number + 1) * PER_SHARD))
        write_shard(folder, number, [_item(source, item, info) for item in items], [])
    return folder


def _item(source: Cache, item: int, info: CacheInfo) -> CachedItem:
    latents: list[Tensor] = [source.latent(item, source.stages - 1)[None]]
    for stage in reversed(info.spec.stages(info.latent)[1:]):
        assert stage.from_coarser is not None
        latents.append(stage.from_coarser.down(latents[-1]))
    text = embed(rotated(parse(source.caption(item))))
    stages = [latent[0].to(torch.bfloat16) for latent in reversed(latents)]
    return CachedItem(source.name(item), source.caption(item), stages, text.bfloat16())
