"""Measure the quality of the sampler's settings on the tiny Wan world.

    python -m benchmarks.quality                          # print the tables of the results so far
    python -m benchmarks.quality --run plain-50 auto-4-2  # run these rows, or all without names; interrupted ones resume
    python -m benchmarks.quality --run --minutes 5        # stop after five minutes; run it again for the next five
    python -m benchmarks.quality --write                  # write the tables into docs/benchmarks.md

Every clip is sampled by the sampler node in the real ComfyUI and decoded by the tiny VAE; image analysis reads its
attributes. Results are stored after every batch in .state/quality: an interrupted row resumes, and a row whose weights or
settings have changed starts again. A row takes between five and twenty minutes on one core.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch

from tiny_wan.worlds import WORLDS

from .. import written_page
from .results import PROMPTS, SEEDS, Results, fingerprint, weights
from .rows import GROUPS, ROWS, Reference, Row
from .sampling import run_data, run_row
from .tables import page

PAGE = Path(__file__).resolve().parents[2] / "docs" / "benchmarks.md"
SCRIPT = "benchmarks/quality"


def complete(clips: int) -> dict[str, Results]:
    """Return the rows of which as many clips, or all, are measured for the present weights."""
    results_by_row = {}
    for row in ROWS:
        if all(path.is_file() for path in weights(row)):
            number = min(clips, row.clips)
            results = Results(row.name, fingerprint(row), WORLDS[row.world]).first(number)
            if len(results) == number:
                results_by_row[row.name] = results
    return results_by_row


def rows_named(names: list[str]) -> list[Row]:
    """Return the rows of these names, or all rows without names."""
    known = {row.name: row for row in ROWS}
    if unknown := [name for name in names if name not in known]:
        sys.exit(f"unknown row '{unknown[0]}'; expected {', '.join(known)}")
    return [known[name] for name in names or known]


def run_rows(rows: list[Row], *, seconds: float, clips: int) -> bool:
    """Run rows for this time, and return whether weights of any were missing."""
    deadline, skipped = time.monotonic() + seconds, False
    for row in rows:
        if missing := [path for path in weights(row) if not path.is_file()]:
            skipped = True
            print(f"{row.name}: not run, {missing[0]} is missing", file=sys.stderr)
        elif time.monotonic() < deadline:
            run_row(row, deadline=deadline, clips=clips)
    return skipped


def references(results_by_row: Mapping[str, Results]) -> dict[Reference, Results]:
    """Return the measurements of as many rendered clips as the rows have, those of leaves also before they were decoded."""
    most: dict[Reference, int] = {}
    for row in ROWS:
        for reference in {row.reference, replace(row.reference, decoded=False)}:
            most[reference] = max(most.get(reference, 0), len(results_by_row.get(row.name, ())))
    return {reference: run_data(number, reference) for reference, number in most.items() if number}


def main() -> None:
    """Run rows, and print or write the tables. The exit status is 1 if a row that was named could not be run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", nargs="*", metavar="ROW", help=f"rows: {', '.join(row.name for row in ROWS)}")
    parser.add_argument("--minutes", type=float, default=math.inf, help="stop after the batch that exceeds this time")
    parser.add_argument("--clips", type=int, default=PROMPTS * SEEDS, help="clips of each row (default: %(default)s)")
    parser.add_argument("--write", action="store_true", help="write the tables into docs/benchmarks.md")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="CPU threads (default: %(default)s)")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    seconds, skipped = 60 * options.minutes, False
    if options.run is not None:
        missing = run_rows(rows_named(options.run), seconds=seconds, clips=options.clips)
        skipped = missing and bool(options.run)
    results_by_row = complete(options.clips)
    text = page(GROUPS, results_by_row, references(results_by_row), before=PAGE.read_text(encoding="utf-8"))
    if options.write:
        written_page.write(PAGE, SCRIPT, [text])
    print(text)
    if skipped:
        sys.exit(1)


if __name__ == "__main__":
    main()
