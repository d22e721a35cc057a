"""Make and score the videos of VBench and VBench-2.0, and compare the totals with the paper's.

    python -m benchmarks.vbench generate RUN --suite vbench --graph graph.json --server http://127.0.0.1:8188 [--server ...]
    python -m benchmarks.vbench score RUN --suite vbench --python vbench-env/bin/python
    python -m benchmarks.vbench table RUN [RUN ...] [--write docs/benchmarks.md]

RUN is a name; its videos and results are in .state/vbench/RUN. The graph is any graph in API format that saves one video: write
{prompt} as its positive prompt. Interrupted commands resume. VBench takes 5 videos of each of 944 prompts, VBench-2.0 takes 3
of 1012, and 20 for diversity. Scoring never downloads models unless --download is given; it lists the files that are missing.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from pathlib import Path

from harness.in_process import ROOT

from ..written_page import write
from .generate import Production, generate, missing
from .score import missing_models, score, scores_of
from .suites import SUITES, find_info, this_python
from .table import table

SCRIPT = "benchmarks/vbench"


def options(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.vbench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, default=ROOT / ".state" / "vbench", help="where the runs are")
    verbs = parser.add_subparsers(dest="verb", required=True)
    make, rate, show = (verbs.add_parser(name) for name in ("generate", "score", "table"))
    for verb in (make, rate):
        verb.add_argument("run")
        verb.add_argument("--suite", choices=list(SUITES), required=True)
        verb.add_argument("--python", default=this_python(), help="the Python that has the suite's package")
        verb.add_argument("--info", type=Path, help="the suite's list of prompts, if its package is not installed")
    make.add_argument("--graph", type=Path, required=True, help="a graph in API format with {prompt} as its prompt")
    make.add_argument("--server", action="append", default=[], help="address of a running ComfyUI; several run in parallel")
    make.add_argument("--seed", type=int, default=0, help="another number gives other seeds")
    make.add_argument("--texts", type=Path, help="JSON of prompts and the rewritten texts that are sampled instead")
    make.add_argument("--first", type=int, help="only the first videos, to try the graph out")
    rate.add_argument("--download", action="store_true", help="let the package download the models that are missing")
    show.add_argument("runs", nargs="*", metavar="run")
    show.add_argument("--write", type=Path, metavar="PAGE", help="replace the table between the marks of this file")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    """Run one of the verbs."""
    chosen = options(arguments)
    try:
        {"generate": run_generate, "score": run_score, "table": run_table}[chosen.verb](chosen)
    except (FileNotFoundError, ValueError) as error:
        raise SystemExit(str(error)) from None


def run_generate(chosen: argparse.Namespace) -> None:
    """Make the videos that are missing; the exit status is 1 if some are still missing."""
    suite, folder = SUITES[chosen.suite], chosen.folder / chosen.run / chosen.suite / "videos"
    videos = suite.videos_of(chosen.info or find_info(suite, chosen.python))[: chosen.first]
    texts = json.loads(chosen.texts.read_text(encoding="utf-8")) if chosen.texts else {}
    graph = json.loads(chosen.graph.read_text(encoding="utf-8"))
    print(f"{suite.title}: {len(videos)} videos, {len(missing(videos, folder))} of them missing", flush=True)
    servers = chosen.server or ["http://127.0.0.1:8188"]
    production = Production(graph, folder, base_seed=chosen.seed, texts=texts)
    problems = asyncio.run(generate(videos, production, servers))
    print("\n".join(problems))
    if rest := missing(videos, folder):
        raise SystemExit(f"{len(rest)} videos are missing; run the command again to resume")
    print(f"all videos are in {folder}")


def run_score(chosen: argparse.Namespace) -> None:
    """Score the dimensions that have no result."""
    suite, folder = SUITES[chosen.suite], chosen.folder / chosen.run / chosen.suite
    info = chosen.info or find_info(suite, chosen.python)
    if rest := missing(suite.videos_of(info), folder / "videos"):
        raise SystemExit(f"{len(rest)} videos of {suite.title} are missing in {folder / 'videos'}, such as {rest[0].name}")
    for line in score(suite, folder / "videos", folder / "results", info, python=chosen.python, download=chosen.download):
        print(line, flush=True)
    if not chosen.download and (absent := missing_models(suite)):
        files = sorted({path for paths in absent.values() for path in paths})
        print("\n".join([f"put these files there, or let {suite.name} fetch them with --download:", *map(str, files)]))
    parts = suite.totals(scores_of(folder / "results", suite))
    print(", ".join(f"{name} {'-' if value is None else format(value, '.2f')}" for name, value in parts.items()))


def run_table(chosen: argparse.Namespace) -> None:
    """Print or write the table."""
    folders = [(run, {name: chosen.folder / run / name / "results" for name in SUITES}) for run in chosen.runs]
    present = [(run, {name: path for name, path in of.items() if path.is_dir()}) for run, of in folders]
    lines = table(present)
    print("\n".join(lines))
    if chosen.write:
        write(chosen.write, SCRIPT, lines)


if __name__ == "__main__":
    main()
