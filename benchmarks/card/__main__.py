"""Measure sampling and training on this machine's card, and write the table of docs/benchmarks.md.

Everything runs in the real ComfyUI through the nodes, on random weights of Wan's real dimensions that are made on the card.
Each section compares its numbers with plain runs beside them, and is stored when it is done: run the command again to resume. A
whole run is planned for 8 minutes on an H100; a section that no longer fits into --budget is left for the next run.

Run: .venv/bin/python -m benchmarks.card [--tiny] [--checkpoint FILE] [--only SECTION ...] [--write docs/benchmarks.md]
"""

from __future__ import annotations

import argparse
import logging
import time
from pathlib import Path

import torch

from harness.in_process import ROOT, stream_weights, use_comfyui

from ..written_page import write

SCRIPT = "benchmarks/card"


def options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.card", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tiny", action="store_true", help="measure the tiny Wan, which runs on a CPU in a few minutes")
    parser.add_argument("--checkpoint", type=Path, metavar="FILE", help="a real Wan2.1 1.3B transformer for ComfyUI")
    parser.add_argument("--only", nargs="+", metavar="SECTION", help="measure these sections, again if they are done")
    parser.add_argument("--budget", type=float, default=480, help="seconds after which no further section starts")
    parser.add_argument(
        "--stream", action="store_true", help="let ComfyUI stream weights; the section about that does it by itself"
    )
    parser.add_argument("--results", type=Path, metavar="FILE", help="the JSON file (.state/card.json, card_tiny.json)")
    parser.add_argument("--write", type=Path, metavar="PAGE", help="replace the table between the marks of this file")
    return parser.parse_args()


def start_comfyui() -> None:
    """Make ComfyUI importable, on a CPU with the attention of a card: the CPU's own cannot be compiled."""
    on_cpu = not torch.cuda.is_available()
    use_comfyui(cpu=on_cpu, pack=False)
    from comfy.cli_args import args

    args.use_pytorch_cross_attention = args.use_pytorch_cross_attention or on_cpu  # read when the pack is imported
    use_comfyui(cpu=on_cpu)


def main() -> None:
    """Measure what is missing, print the table, and write it."""
    chosen = options()
    start_comfyui()
    logging.disable(logging.INFO)
    if chosen.stream and not stream_weights():
        raise SystemExit("this ComfyUI does not stream weights on this device; leave out --stream")
    from .machine import this_machine
    from .results import Results
    from .sections import SECTIONS
    from .setting import Setting

    setting = Setting(chosen.tiny, chosen.checkpoint)
    path = chosen.results or ROOT / ".state" / ("card_tiny.json" if chosen.tiny else "card.json")
    results = Results(path, this_machine(tiny=chosen.tiny, checkpoint=chosen.checkpoint and chosen.checkpoint.name))
    names = [section.name for section in SECTIONS]
    if unknown := set(chosen.only or ()) - set(names):
        raise SystemExit(f"unknown section '{min(unknown)}'; expected {', '.join(names)}")
    measure(setting, results, only=chosen.only, budget=chosen.budget)
    table = results.table([name for name in names if name not in results])
    print("\n".join(table))
    if chosen.write:
        write(chosen.write, SCRIPT, table)


def measure(setting, results, *, only: list[str] | None, budget: float) -> None:
    """Measure the sections that are missing, or the named ones, as far as the budget of seconds allows."""
    import comfy.utils

    from .sections import SECTIONS

    comfy.utils.PROGRESS_BAR_ENABLED = False
    began = time.perf_counter()
    for section in SECTIONS:
        if section.name not in only if only else section.name in results:
            continue
        start = time.perf_counter()
        if start - began + (0 if setting.tiny else section.seconds) > budget:
            print(
                f"{section.name}: left for the next run, about {section.seconds} s do not fit into {budget:.0f} s", flush=True
            )
            continue
        with torch.inference_mode():
            rows = list(section.measure(setting))
        results.add(section.name, rows, seconds=time.perf_counter() - start)
        print(f"{section.name}: {time.perf_counter() - start:.0f} s", flush=True)


if __name__ == "__main__":
    main()
