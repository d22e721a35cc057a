"""What a setting of the sampler costs in quality, on the tiny Wan world.

    python -m benchmarks.quality                          # what is there so far
    python -m benchmarks.quality --run plain-50 two-20-10 # run rows, or go on with them; all of them without names
    python -m benchmarks.quality --write                  # the tables into docs/benchmarks.md

Every clip is sampled by the sampler node in the real ComfyUI and decoded by the tiny VAE; its six attributes are read back by
image analysis. Results are kept batch by batch in .state/quality: a row goes on where it stopped, and starts again when its
weights or settings change. A row takes between one and fifteen minutes on two cores.
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
    """Rows whose clips are all there, for the weights of now."""
    found = {}
    for row in ROWS:
        if all(path.is_file() for path in weights(row)):
            results = Results(row.name, fingerprint(row))
            if len(results) == len(captions()):
                found[row.name] = results
    return found


def chosen(names: list[str]) -> list[Row]:
    known = {row.name: row for row in ROWS}
    if unknown := [name for name in names if name not in known]:
        sys.exit(f"there is no row '{unknown[0]}'; rows are {', '.join(known)}")
    return [known[name] for name in names or known]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", nargs="*", metavar="ROW", help=f"rows: {', '.join(row.name for row in ROWS)}")
    parser.add_argument("--write", action="store_true", help="write docs/benchmarks.md")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="CPU threads (default: %(default)s)")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    skipped = False
    if options.run is not None:
        for row in chosen(options.run):
            if missing := [path for path in weights(row) if not path.is_file()]:
                skipped = bool(options.run)  # somebody asked for this row
                print(f"{row.name}: not run, there is no {missing[0]}", file=sys.stderr)
            else:
                run_row(row)
    found = complete()
    if PLAIN not in found:
        sys.exit(f"nothing to compare with yet: run '{PLAIN}' first")
    text = page(GROUPS, found, run_data())
    if options.write:
        written_page.write(PAGE, SCRIPT, [text])
    print(text)
    if skipped:
        sys.exit(1)


if __name__ == "__main__":
    main()
