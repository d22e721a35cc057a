"""Measure the quality of the sampler's settings on the tiny Wan world.

    python -m benchmarks.quality                          # print the tables of the results so far
    python -m benchmarks.quality --run plain-50 two-20-10 # run these rows, or all without names; interrupted ones resume
    python -m benchmarks.quality --write                  # write the tables into docs/benchmarks.md

Every clip is sampled by the sampler node in the real ComfyUI and decoded by the tiny VAE; image analysis reads its six
attributes. Results are stored after every batch in .state/quality: an interrupted row resumes, and a row whose weights or
settings have changed starts again. A row takes between one and fifteen minutes on two cores.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

from .. import written_page
from .results import Results, captions, fingerprint, weights
from .rows import GROUPS, PLAIN, ROWS, Row
from .sampling import run_data, run_row
from .tables import page

PAGE = Path(__file__).resolve().parents[2] / "docs" / "benchmarks.md"
SCRIPT = "benchmarks/quality"


def complete() -> dict[str, Results]:
    """Return the rows whose clips are complete, for the present weights."""
    results_by_row = {}
    for row in ROWS:
        if all(path.is_file() for path in weights(row)):
            results = Results(row.name, fingerprint(row))
            if len(results) == len(captions()):
                results_by_row[row.name] = results
    return results_by_row


def rows_named(names: list[str]) -> list[Row]:
    """Return the rows of these names, or all rows without names."""
    known = {row.name: row for row in ROWS}
    if unknown := [name for name in names if name not in known]:
        sys.exit(f"unknown row '{unknown[0]}'; expected {', '.join(known)}")
    return [known[name] for name in names or known]


def main() -> None:
    """Run rows, and print or write the tables. The exit status is 1 if a row that was named could not be run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", nargs="*", metavar="ROW", help=f"rows: {', '.join(row.name for row in ROWS)}")
    parser.add_argument("--write", action="store_true", help="write the tables into docs/benchmarks.md")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="CPU threads (default: %(default)s)")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    skipped = False
    if options.run is not None:
        for row in rows_named(options.run):
            if missing := [path for path in weights(row) if not path.is_file()]:
                skipped = bool(options.run)
                print(f"{row.name}: not run, {missing[0]} is missing", file=sys.stderr)
            else:
                run_row(row)
    results_by_row = complete()
    if PLAIN not in results_by_row:
        sys.exit(f"the row '{PLAIN}', with which all others are compared, is incomplete: run it first")
    text = page(GROUPS, results_by_row, run_data())
    if options.write:
        written_page.write(PAGE, SCRIPT, [text])
    print(text)
    if skipped:
        sys.exit(1)


if __name__ == "__main__":
    main()
