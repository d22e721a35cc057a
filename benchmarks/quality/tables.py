"""The tables, out of what was measured."""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Iterator, Mapping, Sequence

import torch

from pyramid.flops import WAN_DIMENSIONS, WanDimensions, schedule_cost, total_tflops
from pyramid.latent_shape import LatentShape
from pyramid.schedules import parse_steps
from tiny_wan.world.grammar import ATTRIBUTES
from tiny_wan.world.metrics import Interval, bootstrap, diversity, frechet_distance, within_margin
from tiny_wan.world.words import TEXT_LENGTH

from .results import PROMPTS, ROOT, SEEDS, Results
from .rows import PLAIN, Group, Row

TINY = WanDimensions(dim=128, ffn_dim=512, layers=6, text=TEXT_LENGTH)
TINY_SHAPE, PAPER_SHAPE = LatentShape(5, 16, 16), LatentShape(21, 56, 104)
ALL = "all six"


def cost(row: Row, shape: LatentShape, dimensions: WanDimensions) -> float:
    """TFLOPs of one clip, cfg included."""
    steps = parse_steps(row.steps, row.spec.number_of_stages)
    return total_tflops(schedule_cost(row.spec, shape, steps, dimensions, cfg=row.cfg != "1"))


def scores(results: Results, attribute: str):
    """1 where a clip is right, (n,)."""
    right = results["right"]
    return right.min(axis=1) if attribute == ALL else right[:, ATTRIBUTES.index(attribute)]


def difference(results: Results, baseline: Results, attribute: str) -> Interval:
    """In points, paired, with its 95 % bootstrap interval."""
    return bootstrap(100 * scores(results, attribute), baseline=100 * scores(baseline, attribute))


def accuracy_table(group: Group, found: Mapping[str, Results], baseline: Results) -> Iterator[str]:
    columns = (*ATTRIBUTES, ALL)
    yield "| row | steps | " + " | ".join(columns) + f" | within {group.margin:g} points |"
    yield "|---|---" + "|---" * len(columns) + "|---|"
    for row in group.rows:
        if (results := found.get(row.name)) is None:
            yield f"| {row.label} | {row.steps} | " + " | ".join(["not run"] * (len(columns) + 1)) + " |"
            continue
        cells = []
        for column in columns:
            own = f"{100 * scores(results, column).mean():.1f}"
            apart = difference(results, baseline, column)
            cells.append(own if row.name == PLAIN else f"{own} ({apart.low:+.1f} to {apart.high:+.1f})")
        lost = [name for name, held in holds(results, baseline, margin=group.margin).items() if not held]
        cells.append(f"not {', '.join(lost)}" if lost else "all")
        yield f"| {row.label} | {row.steps} | " + " | ".join(cells) + " |"


def other_table(rows: Sequence[Row], found: Mapping[str, Results], baseline: Results, data: Results) -> Iterator[str]:
    plain = next(row for row in rows if row.name == PLAIN)
    yield (
        "| row | steps | TFLOPs | of plain | of plain, 1.3B | fine detail | coarser detail | motion | distance | diversity | "
        "CPU time, of plain |"
    )
    yield "|---" * 11 + "|"
    for row in rows:
        operations, full = cost(row, TINY_SHAPE, TINY), cost(row, PAPER_SHAPE, WAN_DIMENSIONS["1.3B"])
        shares = (
            f"{operations:.3f} | {operations / cost(plain, TINY_SHAPE, TINY):.1%} | "
            f"{full / cost(plain, PAPER_SHAPE, WAN_DIMENSIONS['1.3B']):.1%}"
        )
        results = found.get(row.name)
        if results is None:
            cells = ["not run"] * 6
        else:
            cells = [*qualities(results, data), f"{results.seconds / baseline.seconds:.1%}"]
        yield f"| {row.label} | {row.steps} | {shares} | " + " | ".join(cells) + " |"


def qualities(results: Results, data: Results) -> list[str]:
    """Detail in two octaves and motion as shares of the data's, Frechet distance, and diversity as a share of the data's."""
    sharp = results["detail"].mean(axis=0) / data["detail"].mean(axis=0)
    moves = results["motion"].mean() / data["motion"].mean()
    own, real = torch.tensor(results["features"]), torch.tensor(data["features"])
    scale = real.std(dim=0)
    spread = sum(diversity(part, scale) for part in own.split(SEEDS)) / sum(
        diversity(part, scale) for part in real.split(SEEDS)
    )
    return [f"{sharp[0]:.2f}", f"{sharp[1]:.2f}", f"{moves:.2f}", f"{frechet_distance(own, real):.1f}", f"{spread:.2f}"]


def holds(results: Results, baseline: Results, *, margin: float) -> dict[str, bool]:
    """By attribute: is the worse end of the interval within the margin, in points?"""
    return {name: within_margin(difference(results, baseline, name), margin=margin) for name in ATTRIBUTES}


def where() -> str:
    """Machine and commit."""
    command = ["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(command, capture_output=True, text=True).stdout.strip() or "unknown"
    threads = "one CPU thread" if torch.get_num_threads() == 1 else f"{torch.get_num_threads()} CPU threads"
    return f"{platform.machine()}, {threads}, PyTorch {torch.__version__}, after commit {commit}"


def page(groups: Sequence[Group], found: Mapping[str, Results], data: Results) -> str:
    """What stands in docs/benchmarks.md; ValueError while the row that all are compared with is not there."""
    if PLAIN not in found:
        raise ValueError(f"the row '{PLAIN}' is what all others are compared with: run it first")
    baseline, lines = found[PLAIN], []
    for group in groups:
        lines += ["", f"### {group.title}", "", *accuracy_table(group, found, baseline), ""]
        lines += other_table(group.rows, found, baseline, data)
    return "\n".join(
        [
            f"n = {PROMPTS * SEEDS} clips for each row: {PROMPTS} balanced prompts, {SEEDS} seeds each, the same noise in all "
            f"rows. {where()}.",
            "",
            "**Prompt accuracy**, percent of clips in which the attribute was read back as asked. In brackets the 95 % "
            "bootstrap interval of the paired difference from plain, 50 steps, in points; a row is within a margin where the "
            "worse end of the interval is.",
            "",
            "**Cost and everything else.** Detail, motion and diversity are shares of what rendered clips of the same prompts "
            "have (1 is alike); distance is a Fréchet distance of 45 simple features (`tiny_wan/world/metrics.py`), smaller is "
            "better. TFLOPs of one clip on the tiny transformer, and the same schedule on Wan2.1 1.3B at 81 x 448 x 832, both "
            "as a share of plain, 50 steps.",
            *lines,
        ]
    )
