"""Compare pyramidal finetuning with finetuning as many samples at full size: operations are counted, time is measured.

Both run alternately in one process on the tiny Wan and random latents, without a teacher, which makes them do the same work for
each sample; then the pyramid runs again with its teacher. The script prints and writes ratios of the medians of CPU time.

Run: .venv/bin/python -m benchmarks.training_speed [--rounds 7] [--write docs/training.md]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from pyramid.latent_shape import CHANNELS, LatentShape
from pyramid.stages import PyramidSpec
from pyramid.training.config.finetune import FinetuneConfig
from pyramid.training.config.toml_config import load_config
from pyramid.training.data.batches import StageBatch
from pyramid.training.engine import parallel
from pyramid.training.estimate.dry_run import estimate_step
from pyramid.training.models.networks import transformer_dimensions
from pyramid.training.recipes.finetune import Finetuning

from .written_page import write

SCRIPT = "benchmarks/training_speed.py"
ROOT = Path(__file__).resolve().parent.parent
CONFIG = ROOT / "runs" / "tiny" / "20-20-10.toml"
PAPER = ROOT / "runs" / "wan" / "1.3b_20-20-10.toml"
PER_STAGE = 4
PLAIN = ("pyramid.preset=plain", "validation.steps=50", "losses.teacher=0")
"""Settings of a plain training."""


def batches(spec: PyramidSpec, full: LatentShape, samples: int, text: int) -> list[StageBatch]:
    """Draw random batches of `samples` clips for every stage; `text` is the width of prompt embeddings."""
    made = []
    shapes = spec.shapes(full)
    for index, shape in enumerate(shapes):
        size = (samples, CHANNELS, shape.frames, shape.height, shape.width)
        coarse = None if index == 0 else torch.randn(samples, CHANNELS, *shapes[index - 1])
        made.append(
            StageBatch(
                index, torch.randn(size), coarse, torch.randn(size), torch.rand(samples), torch.randn(samples, 16, text),
                torch.zeros(16, text),
            )
        )  # fmt: skip
    return made


def contender(*settings: str, samples: int) -> tuple[Finetuning, list[StageBatch]]:
    """Build the tiny recipe with these settings, and its batches."""
    config = load_config(FinetuneConfig, CONFIG, list(settings))
    recipe = Finetuning(config, parallel.start(config.system))
    text = transformer_dimensions(config.model.transformer, text=16).text_dim
    return recipe, batches(config.pyramid.spec(), config.video.latent, samples, text)


def seconds(recipe: Finetuning, parts: list[StageBatch]) -> float:
    """Return the CPU time of one optimiser step."""
    began = time.process_time()
    recipe.step([parts])
    return time.process_time() - began


def lines(rounds: int) -> Iterator[str]:
    """Measure, and yield the lines of the table."""
    contenders = [
        contender(*PLAIN, samples=3 * PER_STAGE),
        contender("losses.teacher=0", samples=PER_STAGE),
        contender(samples=PER_STAGE),
    ]
    for recipe, parts in contenders:
        recipe.step([parts])
    times = [[seconds(recipe, parts) for recipe, parts in contenders] for _ in range(rounds)]
    plain, without, with_teacher = (statistics.median(column) for column in zip(*times, strict=True))
    tiny = [estimate_step(load_config(FinetuneConfig, CONFIG, more)) for more in (["losses.teacher=0"], [])]
    paper = [estimate_step(load_config(FinetuneConfig, PAPER, more)) for more in (["losses.teacher=0"], [])]
    yield "| a pyramidal step, of as many samples at full size | 1.3B, operations | tiny, operations | tiny, CPU time |"
    yield "|---|---|---|---|"
    for name, small, large, measured in zip(("without L_dist", "with it"), tiny, paper, (without, with_teacher), strict=True):
        shares = [f"{one.tflops / one.plain_tflops:.0%}" for one in (large, small)]
        yield f"| {name} | {shares[0]} | {shares[1]} | {measured / plain:.0%} |"
    yield ""
    yield (
        f"Counted by `pyramid/training/estimate/costs.py`; time: medians of {rounds} alternating steps in one process on one "
        f"CPU thread. On 1.3B an optimiser step of one process (6 samples) is {paper[1].tflops:.0f} TFLOPs."
    )


def main() -> None:
    """Measure, print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--write", type=Path, metavar="PAGE", help="replace the table between the marks of this file")
    options = parser.parse_args()
    torch.set_num_threads(1)
    text = list(lines(options.rounds))
    print("\n".join(text))
    if options.write:
        write(options.write, SCRIPT, text)


if __name__ == "__main__":
    main()
