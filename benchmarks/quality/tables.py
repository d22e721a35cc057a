"""The tables of docs/benchmarks.md, from the stored measurements."""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
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
    """Return the TFLOPs of one clip, cfg included."""
    steps = parse_steps(row.steps, row.spec.number_of_stages)
    return total_tflops(schedule_cost(row.spec, shape, steps, dimensions, cfg=row.cfg != "1"))


def scores(results: Results, attribute: str) -> np.ndarray:
    """Return 1 for clips whose attribute (or `ALL`) is right and 0 for the others, (n,)."""
    right = results["right"]
    return right.min(axis=1) if attribute == ALL else right[:, ATTRIBUTES.index(attribute)]


def difference(results: Results, baseline: Results, attribute: str) -> Interval:
    """Return the paired difference in percentage points with its 95 % bootstrap interval."""
    return bootstrap(100 * scores(results, attribute), baseline=100 * scores(baseline, attribute))


def saturated_columns(rows: Sequence[Row], results_by_row: Mapping[str, Results]) -> list[str]:
    """Return the attributes that are right in every clip of every row."""
    measured = [results_by_row[row.name] for row in rows if row.name in results_by_row]
    return [name for name in ATTRIBUTES if all(scores(results, name).all() for results in measured)]


def saturation_note(columns: Sequence[str]) -> str:
    """Return the sentence that replaces saturated columns."""
    return f"Left out because every row has 100.0: {', '.join(columns)}."


def accuracy_table(group: Group, results_by_row: Mapping[str, Results], baseline: Results) -> Iterator[str]:
    """Yield the lines of a group's prompt accuracies, without saturated columns."""
    saturated = saturated_columns(group.rows, results_by_row)
    columns = [name for name in (*ATTRIBUTES, ALL) if name not in saturated]
    yield "| row | steps | " + " | ".join(columns) + f" | within {group.margin:g} points |"
    yield "|---|---" + "|---" * len(columns) + "|---|"
    for row in group.rows:
        if (results := results_by_row.get(row.name)) is None:
            yield f"| {row.label} | {row.steps} | " + " | ".join(["not run"] * (len(columns) + 1)) + " |"
            continue
        cells = []
        for column in columns:
            percent = f"{100 * scores(results, column).mean():.1f}"
            interval = difference(results, baseline, column)
            cells.append(percent if row.name == PLAIN else f"{percent} ({interval.low:+.1f} to {interval.high:+.1f})")
        lost = [name for name, held in holds(results, baseline, margin=group.margin).items() if not held]
        cells.append(f"not {', '.join(lost)}" if lost else "all")
        yield f"| {row.label} | {row.steps} | " + " | ".join(cells) + " |"
    if saturated:
        yield f"\n{saturation_note(saturated)}"


def other_table(rows: Sequence[Row], results_by_row: Mapping[str, Results], baseline: Results, data: Results) -> Iterator[str]:
    """Yield the lines of a group's costs, detail, motion, distance and diversity."""
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
        results = results_by_row.get(row.name)
        if results is None:
            cells = ["not run"] * 6
        else:
            cells = [*qualities(results, data), f"{results.seconds / baseline.seconds:.1%}"]
        yield f"| {row.label} | {row.steps} | {shares} | " + " | ".join(cells) + " |"


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
    return {name: within_margin(difference(results, baseline, name), margin=margin) for name in ATTRIBUTES}


def environment() -> str:
    """Return machine, threads, PyTorch version and commit."""
    command = ["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(command, capture_output=True, text=True).stdout.strip() or "unknown"
    threads = "one CPU thread" if torch.get_num_threads() == 1 else f"{torch.get_num_threads()} CPU threads"
    return f"{platform.machine()}, {threads}, PyTorch {torch.__version__}, after commit {commit}"


def page(groups: Sequence[Group], results_by_row: Mapping[str, Results], data: Results) -> str:
    """Return the text of docs/benchmarks.md between its markers.

    Raises:
        ValueError: The row with which all others are compared is missing.
    """
    if PLAIN not in results_by_row:
        raise ValueError(f"the row '{PLAIN}', with which all others are compared, is incomplete: run it first")
    baseline, lines = results_by_row[PLAIN], []
    for group in groups:
        lines += ["", f"### {group.title}", "", *accuracy_table(group, results_by_row, baseline), ""]
        lines += other_table(group.rows, results_by_row, baseline, data)
    return "\n".join([*introduction(environment()), *lines])


def introduction(environment: str) -> list[str]:
    """Return the lines above the tables."""
    return [
        f"n = {PROMPTS * SEEDS} clips for each row: {PROMPTS} balanced prompts, {SEEDS} seeds each, the same noise in all "
        f"rows. {environment}.",
        "",
        "**Prompt accuracy**: percentage of clips in which image analysis reads the prompt's attribute. In parentheses is the "
        "95 % bootstrap interval of the paired difference from plain, 50 steps, in percentage points. A row is within the "
        "margin if the worse end of the interval is.",
        "",
        "**Cost and other metrics.** Detail, motion and diversity are relative to rendered clips of the same prompts (1 is "
        "equal). Distance is a Fréchet distance of 45 simple features (`tiny_wan/world/metrics.py`); smaller is better. TFLOPs "
        "are those of one clip on the tiny transformer; the next two columns relate them to plain, 50 steps, on the tiny "
        "transformer and for the same schedule on Wan2.1 1.3B at 81 x 448 x 832.",
    ]
