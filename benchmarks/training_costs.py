"""Estimate the costs of training on several machines from counted operations; nothing is measured.

Time is operations divided by 40 % of a card's published dense 16-bit tensor rate, the share that PyramidalWan's published
latency of a full-size forward pass implies (see `benchmarks/cards.py`). Communication is not included. The VAE's operations are
counted by PyTorch on its real layers, without weights.

Run: .venv/bin/python -m benchmarks.training_costs [--write docs/training.md]
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch

from pyramid.latent_shape import LatentShape
from pyramid.sizes import video_size
from pyramid.stages import PRESETS
from pyramid.training.config.distill import DistillConfig
from pyramid.training.config.finetune import FinetuneConfig
from pyramid.training.config.toml_config import load_config, read_tables
from pyramid.training.estimate.dry_run import StepEstimate, estimate_iteration, estimate_step

from .cards import ANCHORS, CARDS
from .written_page import print_or_write

SCRIPT = "benchmarks/training_costs.py"
ROOT = Path(__file__).resolve().parent.parent
SHARE = min(anchor.share for anchor in ANCHORS)
VIDEOS = 80_000


@dataclass(frozen=True)
class Machine:
    """Several identical GPUs.

    Attributes:
        card: Name of a card in `benchmarks/cards.py`.
        count: Number of cards.
        dollars: Assumed rent of one card for an hour.
    """

    card: str
    count: int
    dollars: float

    @property
    def rate(self) -> float:
        """TFLOPs per hour."""
        peak = next(card.peak for card in CARDS if card.name == self.card)
        return peak * SHARE * self.count * 3600

    def __str__(self) -> str:
        return self.card if self.count == 1 else f"{self.count} x {self.card}"


@dataclass(frozen=True)
class Run:
    """A shipped configuration.

    Attributes:
        name: File in runs/wan.
        processes: Processes that it is meant for; other machines train on as many samples in all.
        machines: Machines to estimate.
    """

    name: str
    processes: int
    machines: tuple[Machine, ...]


H100 = 2.5
RUNS = (
    Run("1.3b_20-20-10", 2, (Machine("H100", 1, H100), Machine("H100", 2, H100), Machine("H100", 16, H100))),
    Run("1.3b_tpdiff", 2, (Machine("H100", 2, H100),)),
    Run("1.3b_20-20-10_lora", 1, (Machine("RTX 4090", 1, 0.5), Machine("H100", 1, H100))),
    Run("14b_20-20-10_lora", 8, (Machine("H100", 8, H100),)),
    Run("1.3b_multires", 2, (Machine("H100", 2, H100),)),
    Run("1.3b_ppf", 2, (Machine("H100", 2, H100),)),
    *(
        Run(f"1.3b_{name}", 2, (Machine("H100", 2, H100),))
        for name in (
            "2-2-1_dmd-pt-star",
            "2-2-1_dmd-pt",
            "2-2-1_dmd-ot",
            "2-2-1_dmd-ppf",
            "2-2-1_adv-od",
            "2-2-1_adv-pd",
            "0-0-2_dmd",
        )
    ),
)


@cache
def encode_tflops() -> float:
    """Return the TFLOPs of encoding one 81-frame clip of 832x448 at every stage with the VAE of Wan 2.1."""
    from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
    from torch.utils.flop_counter import FlopCounterMode

    shapes = PRESETS["pyramidal-wan"].shapes(LatentShape(21, 56, 104))
    with torch.device("meta"), torch.no_grad():
        vae = AutoencoderKLWan()
        with FlopCounterMode(display=False) as counter:
            for size in map(video_size, shapes):
                vae.encode(torch.empty(1, 3, size.frames, size.height, size.width))
    return counter.get_total_flops() / 1e12


def estimate(name: str) -> tuple[FinetuneConfig | DistillConfig, StepEstimate]:
    """Load a configuration of runs/wan and estimate one of its optimiser steps."""
    path = ROOT / "runs" / "wan" / f"{name}.toml"
    if "networks" in read_tables(path):
        config = load_config(DistillConfig, path)
        return config, estimate_iteration(config)
    config = load_config(FinetuneConfig, path)
    return config, estimate_step(config)


def table() -> Iterator[str]:
    """Yield the lines of the table."""
    yield "| run | steps x processes | TFLOPs in all | memory of a process: state + activations | on | hours | dollars |"
    yield "|---|---|---|---|---|---|---|"
    for run in RUNS:
        config, step = estimate(run.name)
        total = step.tflops * config.train.steps * run.processes
        for machine in run.machines:
            hours = total / machine.rate
            state = step.state_gib / (machine.count if config.system.parallel == "fsdp2" else 1)
            yield (
                f"| `{run.name}` | {config.train.steps} x {run.processes} | {total / 1e6:.1f} million | "
                f"{state:.0f} + {step.activation_gib:.0f} GiB | {machine} | {_hours(hours)} | "
                f"{hours * machine.count * machine.dollars:.0f} |"
            )
    hours = VIDEOS * encode_tflops() / Machine("H100", 1, H100).rate
    yield (
        f"\nThe cache of {VIDEOS:,} videos: {encode_tflops():.0f} TFLOPs of the VAE for each, so {_hours(hours)} on one H100 "
        "at that rate. Convolutions reach less of the peak than matrix products, and the files must be decoded: expect more."
    )


def _hours(hours: float) -> str:
    return f"{hours:.0f} h" if hours >= 10 else f"{hours:.1f} h"


if __name__ == "__main__":
    print_or_write(SCRIPT, table(), __doc__)
