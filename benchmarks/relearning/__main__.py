"""Measure what a pyramid saves in training: how soon the tiny Wan relearns its colours.

    python -m benchmarks.relearning                                # print the tables of the results so far
    python -m benchmarks.relearning --run                          # run all arms, or the named ones; interrupted ones resume
    python -m benchmarks.relearning --run tpdiff-0.0005-1 --minutes 10
    python -m benchmarks.relearning --write                        # write table and plot for docs/benchmarks.md

Every colour word is given the next one's vector, and stock weights are finetuned on the new words by each method, with as many
samples in a step. At equal training operations 48 clips are sampled in ComfyUI with twelve steps and their colours read. The
cache of the tiny world (`python -m tiny_wan.recipes.make_cache`) must exist. A point takes about 80 seconds
on one core, so all of them take three hours.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from pathlib import Path

import torch

from .. import written_page
from .arms import ARMS, RATES, ROOT
from .measurement import results_of, run_arm
from .tables import lines, plot

PAGE = ROOT / "docs" / "benchmarks.md"
PICTURE = ROOT / "docs" / "images" / "relearning.svg"
SCRIPT = "benchmarks/relearning"


def main() -> None:
    """Run arms, and print or write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", nargs="*", metavar="ARM", help=f"arms, such as {ARMS[0].name}; all without names")
    parser.add_argument("--minutes", type=float, default=math.inf, help="start no point after this time")
    parser.add_argument("--cache", type=Path, default=ROOT / ".state" / "tiny_cache", help="cache of the tiny world")
    parser.add_argument("--write", action="store_true", help="write table and plot")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="CPU threads (default: %(default)s)")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.run is not None:
        known = {arm.name: arm for arm in ARMS}
        if unknown := [name for name in options.run if name not in known]:
            sys.exit(f"unknown arm '{unknown[0]}'; expected {', '.join(known)}")
        deadline = time.monotonic() + 60 * options.minutes
        for name in options.run or known:
            run_arm(known[name], options.cache, deadline=deadline)
    results = {arm.name: points for arm in ARMS if (points := results_of(arm))}
    text = list(lines(results))
    if options.write:
        written_page.write(PAGE, SCRIPT, text)
        if results:
            PICTURE.write_text(plot(results, RATES[0]), encoding="utf-8")
    print("\n".join(text))


if __name__ == "__main__":
    main()
