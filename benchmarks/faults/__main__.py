"""Run the campaign of faults, and print how many cases were tried, held and failed in each part.

    python -m benchmarks.faults --minutes 10                 # all parts in turn, at most ten minutes
    python -m benchmarks.faults --parts kills --minutes 5    # one part
    python -m benchmarks.faults --minutes 0 --write          # write the table of the results so far into docs/reliability.md

The same seed makes the same cases. Results are kept in .state/faults, so that the next call continues with the cases that were
not tried yet or failed; after a change of the code it starts again. Linux, with fork.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from .. import written_page
from .cases import Case, Part, run_case
from .results import ROOT, Result, Results

PAGE = ROOT / "docs" / "reliability.md"
SCRIPT = "benchmarks/faults"


def parts() -> list[Part]:
    """Return the parts of the campaign; each is a module with a ``PART``."""
    from . import disks, kills, malformed, malformed_nodes, two_processes, unwritable_nodes

    return [module.PART for module in (kills, malformed, malformed_nodes, disks, unwritable_nodes, two_processes)]


def turns(waiting: dict[str, list[Case]]) -> Iterator[tuple[str, Case]]:
    """Yield the waiting cases of all parts in turn."""
    while any(waiting.values()):
        for name in [name for name, cases in waiting.items() if cases]:
            yield name, waiting[name].pop(0)


def run(chosen: Sequence[Part], seed: int, minutes: float) -> dict[str, Results]:
    """Try the cases that were not tried yet until the time is up; return all results."""
    deadline = time.monotonic() + 60 * minutes
    results = {part.name: Results(part.name, seed, part.tested) for part in chosen}
    shared = Path(tempfile.mkdtemp(prefix="faults"))
    by_name = {part.name: part for part in chosen}
    try:
        waiting = {}
        for part in chosen if minutes else []:
            reasons = results[part.name].reasons  # those that failed are tried again
            cases = [case for case in part.cases(seed, shared) if reasons.get(case.name, "not tried")]
            random.Random(seed).shuffle(cases)
            waiting[part.name] = cases
        for name, case in turns(waiting):
            if time.monotonic() > deadline:
                break
            reason = run_case(case, seconds=by_name[name].seconds)
            results[name].add(Result(case.name, reason))
            if reason:
                print(f"{name}: {case.name}: {reason}", flush=True)
    finally:
        shutil.rmtree(shared, ignore_errors=True)
    return results


def table(chosen: Sequence[Part], results: dict[str, Results]) -> list[str]:
    """Return the lines of the table."""
    lines = ["| part | what holds | tried | held | failed |", "|---|---|---|---|---|"]
    for part in chosen:
        tried, failed = len(results[part.name].reasons), len(results[part.name].failed)
        lines.append(f"| {part.name} | {part.promise} | {tried} | {tried - failed} | {failed} |")
    return lines


def main() -> None:
    """Run cases, and print or write the table. The exit status is 1 if a case failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported: a fork must not inherit a pool of threads
    by_name = {part.name: part for part in parts()}
    parser.add_argument("--parts", nargs="*", choices=sorted(by_name), default=list(by_name), help="default: all")
    parser.add_argument("--minutes", type=float, default=10.0, help="time limit; 0 runs nothing (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of all random choices (default: %(default)s)")
    parser.add_argument("--write", action="store_true", help="write the table into docs/reliability.md")
    options = parser.parse_args()
    chosen = [by_name[name] for name in options.parts]
    results = run(chosen, options.seed, options.minutes)
    lines = table(chosen, results)
    print("\n".join(lines))
    if options.write:
        written_page.write(PAGE, SCRIPT, lines)
    if any(result.failed for result in results.values()):
        sys.exit(1)


if __name__ == "__main__":
    main()
