"""Measure how much data-noise alignment shortens the distance between noise and data, on the clips of a cache.

The table compares the fall of ``|noise - clean|^2`` with the bound ``sqrt(2 ln B / d)`` for B clips of d values. Sizes of real
videos have the bound alone.

Run: .venv/bin/python -m benchmarks.noise_alignment [--cache .state/tiny_cache] [--write docs/training.md]
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from pyramid.latent_shape import CHANNELS, LatentShape
from pyramid.training.data.alignment import aligned
from pyramid.training.data.cache_files import Cache

from .written_page import write

SCRIPT = "benchmarks/noise_alignment.py"
ROOT = Path(__file__).resolve().parent.parent
SIZES = (2, 8, 32, 128)
CLIPS = 256
VIDEOS = {"81 x 448 x 832": LatentShape(21, 56, 104), "81 x 480 x 832": LatentShape(21, 60, 104)}


def bound(clips: int, values: int) -> float:
    """Return the largest expected fall of the squared distance, as a share of it, for data of variance 1."""
    return math.sqrt(2 * math.log(clips) / values)


def fall(clean: Tensor, clips: int) -> float:
    """Return the fall of the squared distance over batches of this many clips, as a share of it."""
    before = after = 0.0
    for number, part in enumerate(clean.split(clips)):
        noise = torch.randn(part.shape, generator=torch.Generator().manual_seed(number))
        before += (noise - part).square().sum().item()
        after += (aligned(noise, part) - part).square().sum().item()
    return 1 - after / before


def lines(cache: Cache) -> Iterator[str]:
    """Measure, and yield the lines of the table."""
    yield "| size | values d | " + " | ".join(f"B = {clips}" for clips in SIZES) + " |"
    yield "|---" * (2 + len(SIZES)) + "|"
    finest = cache.stages - 1
    clean = torch.stack([cache.latent(item, finest) for item in range(CLIPS)])
    coarse = clean[:, :, :: 2 ** (cache.stages - 1)]
    for name, part in (("tiny, full rate", clean), ("tiny, every fourth latent frame", coarse)):
        values = part[0].numel()
        cells = [f"{fall(part, clips):.2%} (at most {bound(clips, values):.2%})" for clips in SIZES]
        yield f"| {name}, measured | {values:,} | " + " | ".join(cells) + " |"
    for name, shape in VIDEOS.items():
        values = CHANNELS * math.prod(shape)
        cells = [f"at most {bound(clips, values):.2%}" for clips in SIZES]
        yield f"| {name}, bound | {values:,} | " + " | ".join(cells) + " |"
    noise = torch.randn(clean[: SIZES[-1]].shape, generator=torch.Generator().manual_seed(0))
    began = time.process_time()
    aligned(noise, clean[: SIZES[-1]])
    yield ""
    yield (
        f"{CLIPS} clips of the tiny world, one draw of noise each. Aligning {SIZES[-1]} of them takes "
        f"{1000 * (time.process_time() - began):.0f} ms of CPU time."
    )


def main() -> None:
    """Print the table, or write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, default=ROOT / ".state" / "tiny_cache", help="cache of the tiny world")
    parser.add_argument("--write", type=Path, metavar="PAGE", help="replace the table between the marks of this file")
    options = parser.parse_args()
    text = list(lines(Cache(options.cache)))
    print("\n".join(text))
    if options.write:
        write(options.write, SCRIPT, text)


if __name__ == "__main__":
    main()
