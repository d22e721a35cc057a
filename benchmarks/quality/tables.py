"""The tables of docs/benchmarks.md, from the stored measurements."""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch

from pyramid.flops import WAN_DIMENSIONS, WanDimensions, forward_tflops, schedule_cost, tokens, total_tflops
from pyramid.latent_shape import LatentShape
from pyramid.schedules import parse_steps
from tiny_wan.world.metrics import Interval, bootstrap, diversity, frechet_distance, within_margin
from tiny_wan.worlds import LEAVES, SHAPES, WORLDS

from .published import NOT_RUN as MISSING
from .published import NOTHING, Published
from .results import ROOT, SEEDS, Results
from .rivals import RIVALS
from .rows import FRAMES, SIDE, Group, Reference, Row
from .statistics_table import reading_line, statistics_table

TINY = WanDimensions(dim=128, ffn_dim=512, layers=6, text=len(SHAPES.vocabulary))
TINY_SHAPE, PAPER_SHAPE = LatentShape(5, 16, 16), LatentShape(21, 56, 104)
ALL = {SHAPES.name: "all six", LEAVES.name: "all four"}
"""Column of clips in which every attribute is right."""
NOT_RUN = "Not run yet."


def paper_shape(row: Row) -> LatentShape:
    """Return the size at which 1.3B is counted: that of the paper, longer or smaller where the row's videos are."""
    frames = 1 + (PAPER_SHAPE.frames - 1) * (row.frames - 1) // (FRAMES - 1)
    return PAPER_SHAPE._replace(
        frames=frames, height=PAPER_SHAPE.height * row.side // SIDE, width=PAPER_SHAPE.width * row.side // SIDE
    )


def tiny(row: Row) -> WanDimensions:
    """Return the dimensions of the tiny transformer with the prompts of the row's world."""
    return replace(TINY, text=len(WORLDS[row.world].vocabulary))


def cost(row: Row, shape: LatentShape, dimensions: WanDimensions) -> float:
    """Return the TFLOPs of one clip, cfg included."""
    steps = parse_steps(row.steps, row.spec.number_of_stages)
    if row.rival:
        counts = [tokens(size) for size in (RIVALS[row.rival].low_shape(shape), shape)]
        guided = 2 if row.cfg != "1" else 1
        return sum(guided * count * forward_tflops(n, dimensions) for count, n in zip(steps, counts, strict=True))
    guided, first = row.cfg != "1", row.full_size_first
    steps = (steps[0] - first, *steps[1:])
    at_full_size = first * (2 if guided else 1) * forward_tflops(tokens(shape), dimensions)
    return at_full_size + total_tflops(schedule_cost(row.spec, shape, steps, dimensions, cfg=guided))


def scores(results: Results, attribute: str) -> np.ndarray:
    """Return 1 for clips whose attribute (or `ALL`) is right and 0 for the others, (n,)."""
    right, world = results["right"], results.world
    return right.min(axis=1) if attribute == ALL[world.name] else right[:, list(world.vocabulary).index(attribute)]


def difference(results: Results, baseline: Results, attribute: str) -> Interval:
    """Return the paired difference in percentage points with its 95 % bootstrap interval."""
    return bootstrap(100 * scores(results, attribute), baseline=100 * scores(baseline, attribute))


def saturated_columns(rows: Sequence[Row], results_by_row: Mapping[str, Results]) -> list[str]:
    """Return the attributes that are right in every clip of every row."""
    measured = [results_by_row[row.name] for row in rows if row.name in results_by_row]
    names = WORLDS[rows[0].world].vocabulary
    return [name for name in names if all(scores(results, name).all() for results in measured)]


def saturation_note(columns: Sequence[str]) -> str:
    """Return the sentence that replaces saturated columns."""
    return f"Left out because every row has 100.0: {', '.join(columns)}."


def accuracy_table(group: Group, results_by_row: Mapping[str, Results], published: Published = NOTHING) -> Iterator[str]:
    """Yield the lines of a group's prompt accuracies, without saturated columns."""
    kept = published.columns()
    saturated = [name for name in saturated_columns(group.rows, results_by_row) if name not in kept]
    world = WORLDS[group.rows[0].world]
    columns = [name for name in (*world.vocabulary, ALL[world.name]) if name not in saturated]
    within = f"within {group.margin:g} points"
    yield "| row | steps | " + " | ".join(columns) + f" | {within} |"
    yield "|---|---" + "|---" * len(columns) + "|---|"
    for row in group.rows:
        if (results := results_by_row.get(row.name)) is None:
            names = [*columns, within]
            cells = published.cells(0, (row.label, row.steps), names) or [MISSING] * len(names)
            yield f"| {row.label} | {row.steps} | " + " | ".join(cells) + " |"
            continue
        baseline, cells = results_by_row[group.rows[0].name], []
        for column in columns:
            cells.append(accuracy_cell(results, None if row is group.rows[0] else baseline, column))
        lost = [name for name, held in holds(results, baseline, margin=group.margin).items() if not held]
        cells.append(f"not {', '.join(lost)}" if lost else "all")
        yield f"| {row.label} | {row.steps} | " + " | ".join(cells) + " |"
    if saturated:
        yield f"\n{saturation_note(saturated)}"


def accuracy_cell(results: Results, baseline: Results | None, column: str) -> str:
    """Return an accuracy in percent, with the interval of its difference from a baseline unless both are 100 %."""
    percent = f"{100 * scores(results, column).mean():.1f}"
    if baseline is None or (scores(results, column).all() and scores(baseline, column).all()):
        return percent
    interval = difference(results, baseline, column)
    return f"{percent} ({interval.low:+.1f} to {interval.high:+.1f})"


MEASURED = ["fine detail", "coarser detail", "motion", "distance", "diversity", "CPU time, of plain"]
"""Columns of the second table that are measured, and not counted."""


def other_table(
    rows: Sequence[Row], results_by_row: Mapping[str, Results], data: Results, published: Published = NOTHING
) -> Iterator[str]:
    """Yield the lines of a group's costs, detail, motion, distance and diversity."""
    plain = rows[0]
    yield "| row | steps | TFLOPs | of plain | of plain, 1.3B | " + " | ".join(MEASURED) + " |"
    yield "|---" * (5 + len(MEASURED)) + "|"
    for row in rows:
        operations, full = cost(row, row.latent, tiny(row)), cost(row, paper_shape(row), WAN_DIMENSIONS["1.3B"])
        shares = (
            f"{operations:.3f} | {operations / cost(plain, plain.latent, tiny(plain)):.1%} | "
            f"{full / cost(plain, paper_shape(plain), WAN_DIMENSIONS['1.3B']):.1%}"
        )
        results = results_by_row.get(row.name)
        if results is None:
            cells = published.cells(1, (row.label, row.steps), MEASURED) or [MISSING] * len(MEASURED)
        else:
            cells = [*qualities(results, data), f"{results.seconds / results_by_row[plain.name].seconds:.1%}"]
        yield f"| {row.label} | {row.steps} | {shares} | " + " | ".join(cells) + " |"


def comparison_table(
    group: Group, results_by_row: Mapping[str, Results], data: Results, published: Published = NOTHING
) -> Iterator[str]:
    """Yield the lines that compare training-free rows with plain ones of at least the same cost."""
    by_name, dimensions = {row.name: row for row in group.rows}, tiny(group.rows[0])
    plain_cost, every = cost(group.rows[0], TINY_SHAPE, dimensions), ALL[group.rows[0].world]
    heading = f"| row | steps | cost | than | cost | {every}, difference in points | distance | fine detail | coarser detail |"
    yield heading
    yield "|---" * 9 + "|"
    for name, other in group.equal_cost.items():
        row, plain = by_name[name], by_name[other]
        shares = [f"{cost(each, TINY_SHAPE, dimensions) / plain_cost:.1%}" for each in (row, plain)]
        start = f"| {row.label} | {row.steps} | {shares[0]} | {plain.label} | {shares[1]} | "
        if name not in results_by_row or other not in results_by_row:
            yield published.line(heading, start) or start + " | ".join([MISSING] * 4) + " |"
            continue
        results, against = results_by_row[name], results_by_row[other]
        interval = difference(results, against, every)
        pairs = list(zip(qualities(results, data), qualities(against, data), strict=True))
        cells = [f"{pairs[index][0]} against {pairs[index][1]}" for index in (DISTANCE, FINE, COARSER)]
        yield start + " | ".join([f"{interval.value:+.1f} ({interval.low:+.1f} to {interval.high:+.1f})", *cells]) + " |"


FINE, COARSER, DISTANCE = 0, 1, 3
"""Places of measures in ``qualities``."""


def qualities(results: Results, data: Results) -> list[str]:
    """Return detail in two octaves, motion, Fréchet distance and diversity; all but the distance are relative to the data's."""
    sharp = results["detail"].mean(axis=0) / data["detail"].mean(axis=0)
    moves = results["motion"].mean() / data["motion"].mean()
    sampled, real = torch.tensor(results["features"]), torch.tensor(data["features"])
    scale = real.std(dim=0)
    of_samples, of_data = (sum(diversity(part, scale) for part in features.split(SEEDS)) for features in (sampled, real))
    distance = frechet_distance(sampled, real)
    return [f"{sharp[0]:.2f}", f"{sharp[1]:.2f}", f"{moves:.2f}", f"{distance:.1f}", f"{of_samples / of_data:.2f}"]


def holds(results: Results, baseline: Results, *, margin: float) -> dict[str, bool]:
    """Return for every attribute whether the pessimistic end of the confidence interval is within the margin, in points."""
    return {name: within_margin(difference(results, baseline, name), margin=margin) for name in results.world.vocabulary}


def environment() -> str:
    """Return machine, threads, PyTorch version and commit."""
    command = ["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(command, capture_output=True, text=True).stdout.strip() or "unknown"
    threads = "one CPU thread" if torch.get_num_threads() == 1 else f"{torch.get_num_threads()} CPU threads"
    return f"{platform.machine()}, {threads}, PyTorch {torch.__version__}, after commit {commit}"


def group_lines(
    group: Group,
    results_by_row: Mapping[str, Results],
    data: Mapping[Reference, Results],
    environment: str,
    before: str = "",
) -> list[str]:
    """Return the lines below a group's heading; without the first row, with which the others are compared, none was run.

    Rows without results keep those of the section before, if they are of as many clips.
    """
    measured = {row.name: results_by_row[row.name] for row in group.rows if row.name in results_by_row}
    if group.rows[0].name not in measured:
        return [NOT_RUN]
    number = min(map(len, measured.values()))
    measured = {name: results.first(number) for name, results in measured.items()}
    reference = group.rows[0].reference
    compared = data[reference].first(number)
    published = Published.read(before)
    published = published if published.number == number else NOTHING
    older = {(row.label, row.steps) for row in group.rows if row.name not in measured} & set(published.tables[0])
    lines = [f"n = {number}: {number // SEEDS} prompts, {SEEDS} seeds each. {environment}."]
    lines += [f"Rows that were measured earlier and not again: {len(older)}."] if older else []
    lines += ["", *accuracy_table(group, measured, published), "", *other_table(group.rows, measured, compared, published)]
    if group.equal_cost:
        lines += ["", "At no more than the cost of a plain run:", "", *comparison_table(group, measured, compared, published)]
    if reference.decoded:
        rendered = data[replace(reference, decoded=False)].first(number)
        lines += [
            "",
            reading_line(compared),
            "",
            "Statistics in octaves of space:",
            "",
            *statistics_table(group.rows, measured, compared, rendered, published),
        ]
    return [*lines, "", group.note] if group.note else lines


def page(
    groups: Sequence[Group], results_by_row: Mapping[str, Results], data: Mapping[Reference, Results], *, before: str = ""
) -> str:
    """Return the text of docs/benchmarks.md between its markers.

    Args:
        groups: The groups of rows.
        results_by_row: Complete rows by name.
        data: Measurements of rendered clips.
        before: The page so far; a group without new results beside its first row keeps its tables.
    """
    lines = list(INTRODUCTION)
    for group in groups:
        lines += ["", f"### {group.title}", ""]
        kept, first = section(before, group.title), group.rows[0].name in results_by_row
        measured = first and any(row.name in results_by_row for row in group.rows[1:])
        lines += [kept] if kept and not measured else group_lines(group, results_by_row, data, environment(), kept)
    return "\n".join(lines)


def section(page: str, title: str) -> str:
    """Return the lines of a page below the heading of a group, or nothing."""
    return page.partition(f"### {title}\n")[2].partition("\n##")[0].partition("\n<!--")[0].strip("\n")


INTRODUCTION = (
    "All rows of a table have the same balanced prompts, seeds and noise.",
    "",
    "**Prompt accuracy**: percentage of clips in which image analysis reads the prompt's attribute. In parentheses is the "
    "95 % bootstrap interval of the paired difference from the first row, in percentage points; it is left out where both are "
    "100.0. A row is within the margin if the worse end of the interval is.",
    "",
    "**Cost and other metrics.** Detail, motion and diversity are relative to rendered clips of the same prompts (1 is "
    "equal). Distance is a Fréchet distance of 45 simple features (`tiny_wan/world/metrics.py`); smaller is better, and only "
    "values of as many clips are comparable. TFLOPs are those of one clip on the tiny transformer; the next two columns relate "
    "them to the first row, on the tiny transformer and for the same schedule on Wan2.1 1.3B at 81 x 448 x 832.",
)
