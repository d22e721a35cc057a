"""Find the stage in which a distilled tiny Wan loses an attribute: start its run from data at the noisy end of each stage.

What is right from data and wrong from the student's own run was lost in a stage before. Clips are those that training held out.

Run: .venv/bin/python -m benchmarks.student_stages runs/tiny/2-2-1_dmd-ppf_simulated.toml STUDENT.safetensors [--clips 32]
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from pyramid.training.config.distill import DistillConfig
from pyramid.training.config.toml_config import load_config
from pyramid.training.data.cache_files import Cache
from pyramid.training.engine import draws, parallel
from pyramid.training.models.encoders import WanVae, open_vae
from pyramid.training.recipes.student import FewStepStudent
from tiny_wan.world.grammar import ATTRIBUTES, parse
from tiny_wan.world.reading import accuracy, read

ROOT = Path(__file__).resolve().parent.parent
VAE = ROOT / "tiny_wan" / "weights" / "tiny_wan_vae.safetensors"
SEED = 7
TOGETHER = 8
"""Clips that are sampled at once."""


def data_signal(cache: Cache, items: Sequence[int], student: FewStepStudent, first: int) -> Tensor | None:
    """Return what a stage starts from besides its noise where the run before it was perfect; None for the first stage.

    Returns:
        The data ``(B, C, T, H, W)``, or the blurred signal of a stage that starts from a smaller one.
    """
    if first == 0:
        return None
    stage = student.stages[first]
    if not stage.has_blur:
        return torch.stack([cache.latent(item, first) for item in items]).float()
    assert stage.from_coarser is not None  # a stage with a blurred signal has a coarser one
    return stage.from_coarser.up(torch.stack([cache.latent(item, first - 1) for item in items]).float())


@torch.no_grad()
def sample(student: FewStepStudent, cache: Cache, items: Sequence[int], first: int) -> Tensor:
    """Return latents of the student's run from the noisy end of stage ``first``, ``(B, C, T, H, W)``."""
    noise = torch.stack([draws.white(cache.size(cache.stages - 1), SEED, "start", item) for item in items])
    context = torch.stack([cache.text(item) for item in items])
    return student.run(
        lambda x, level, stage: student.velocity(x, level.conditioning, context, stage),
        noise,
        list(items),
        first=first,
        signal=data_signal(cache, items, student, first),
    )


def accuracies(student: FewStepStudent, cache: Cache, vae: WanVae, items: Sequence[int]) -> list[dict[str, float]]:
    """Return the share of clips that agree with their caption, by attribute, for a run that starts at each stage."""
    captions = [parse(cache.caption(item)) for item in items]
    parts = [items[index : index + TOGETHER] for index in range(0, len(items), TOGETHER)]
    rows = []
    for first in range(len(student.stages)):
        videos = torch.cat([vae.decode(sample(student, cache, part, first)) for part in parts])
        rows.append(accuracy(read(videos), captions))
    return rows


def open_run(path: Path, weights: str) -> tuple[FewStepStudent, Cache]:
    """Return the student of a run with the weights of a file, and the run's cache."""
    config = load_config(DistillConfig, path, [f"networks.student={weights}"])
    cache = Cache(config.data.cache, stages=config.pyramid.spec().number_of_stages, all_full_size=config.traits.patches)
    return FewStepStudent(config, parallel.start(config.system)), cache


def main() -> None:
    """Print a row of accuracies for every stage that the run starts at."""
    parser = argparse.ArgumentParser(description="Find the stage in which a distilled tiny Wan loses an attribute.")
    parser.add_argument("run", type=Path, help="configuration of the distillation")
    parser.add_argument("weights", help="its exported student")
    parser.add_argument("--clips", type=int, default=32)
    options = parser.parse_args()
    student, cache = open_run(options.run, options.weights)
    items = range(len(cache) - options.clips, len(cache))
    print("| starts in stage | from | " + " | ".join(ATTRIBUTES) + " |\n|" + "---|" * (len(ATTRIBUTES) + 2))
    for first, row in enumerate(accuracies(student, cache, open_vae(VAE), items)):
        level = student.levels[first][0]
        source = "noise" if first == 0 else f"data at {level:.3g}"
        print(f"| {first} | {source} | " + " | ".join(f"{100 * row[name]:.0f}" for name in ATTRIBUTES) + " |")


if __name__ == "__main__":
    main()
