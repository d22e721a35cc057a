"""A tiny Wan with random weights and a tiny cache of Gaussian latents, for tests of the training code."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file

from pyramid.stages import PRESETS, PyramidSpec
from pyramid.training.data.cache_files import CachedItem, CacheInfo, write_info, write_shard
from tiny_wan.checkpoints import t2v_state_dict

TEXT = 6


def transformer_file(folder: Path, **sizes) -> Path:
    """Write a tiny transformer with random weights; return its path."""
    path = folder / "tiny.safetensors"
    save_file(t2v_state_dict(**sizes), path)
    return path


def cache_folder(
    folder: Path, *, items: int = 6, spec: PyramidSpec = PRESETS["pyramidal-wan"], video=(128, 128, 17), per_shard: int = 4
) -> Path:
    """Write a cache of Gaussian latents; those of every stage are downsampled from the next finer one. Return its folder."""
    width, height, frames = video
    info = CacheInfo(spec, width, height, frames, "latents", TEXT, items, per_shard, "test")
    generator = torch.Generator().manual_seed(0)
    write_info(folder, info, torch.randn(TEXT, 4096, generator=generator))
    made = [_item(number, info, generator) for number in range(items)]
    for number in range(info.shards):
        write_shard(folder, number, made[number * per_shard : (number + 1) * per_shard], [])
    return folder


def _item(number: int, info: CacheInfo, generator: torch.Generator) -> CachedItem:
    shape = info.latent
    latents = [torch.randn(1, 16, shape.frames, shape.height, shape.width, generator=generator)]
    for stage in reversed(info.spec.stages(shape)[1:]):
        latents.append(stage.from_coarser.down(latents[-1]))
    text = torch.randn(TEXT - number % 3, 4096, generator=generator)
    return CachedItem(f"item {number}", f"prompt {number}", [one[0] for one in reversed(latents)], text)


def settings(folder: Path, **changes) -> dict:
    """Return a finetuning run as nested tables, with changes given as ``table__key=value``."""
    values = {
        "out": str(folder / "run"),
        "model": {"transformer": str(transformer_file(folder)), "gradient_checkpointing": False},
        "data": {"cache": str(cache_folder(folder / "cache")), "held_out": 2, "workers": 0},
        "video": {"width": 128, "height": 128, "frames": 17},
        "train": {"steps": 4, "per_stage": 2},
        "optimizer": {"learning_rate": 1e-3, "warm_up": 1, "ema": 0.9},
        "adapter": {"rank": 4},
        "system": {"device": "cpu", "precision": "fp32"},
        "keep": {"save_every": 2, "log_every": 1},
        "validation": {"every": 100, "videos": 0, "steps": "1-1-1"},
    }
    for name, value in changes.items():
        table, _, key = name.partition("__")
        values.setdefault(table, {})[key] = value
    return values
