"""The benchmark itself: rows, stored results, intervals, the page, and a real batch in ComfyUI."""

import numpy as np
import pytest
import torch

from benchmarks.quality import results, sampling, tables
from benchmarks.quality.results import Results, captions, fingerprint, measure
from benchmarks.quality.rows import GROUPS, PLAIN, ROWS
from tiny_wan.world.grammar import ATTRIBUTES
from tiny_wan.world.scenes import render, scene_for


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(results, "FOLDER", tmp_path)
    return tmp_path


def clips(count, *, seed=0):
    prompts = captions()[:count]
    return render(
        [scene_for(caption, seed=seed + row) for row, caption in enumerate(prompts)], frames=17, height=128, width=128
    )


def results_with(name, right):
    """Return results with these readings and random features."""
    count = len(right)
    row = Results(name, "x")
    rng = np.random.default_rng(0)
    measured = {"right": right, "detail": np.ones((count, 2)), "motion": np.ones(count)}
    row.add({**measured, "features": rng.normal(size=(count, 45))}, seconds=1.0)
    return row


def test_row_names_are_unique_and_costs_follow_the_formula():
    assert len({row.name for row in ROWS}) == len(ROWS)
    by_name = {row.name: row for row in ROWS}
    whole, half = (tables.cost(by_name[name], tables.TINY_SHAPE, tables.TINY) for name in ("plain-50", "plain-25"))
    assert whole == pytest.approx(2 * half)
    shape, dimensions = tables.PAPER_SHAPE, tables.WAN_DIMENSIONS["1.3B"]
    share = tables.cost(by_name["three-time-20-20-10"], shape, dimensions) / tables.cost(by_name[PLAIN], shape, dimensions)
    assert share == pytest.approx(2821 / 12592, rel=1e-3)


def test_prompts_are_balanced_and_repeated_for_several_seeds():
    prompts = captions()
    assert len(prompts) == results.PROMPTS * results.SEEDS >= 256
    assert all(len(set(prompts[start : start + results.SEEDS])) == 1 for start in range(0, len(prompts), results.SEEDS))
    for name in ATTRIBUTES:
        counts = np.unique([getattr(caption, name) for caption in prompts], return_counts=True)[1]
        assert max(counts) - min(counts) <= results.SEEDS


def test_rendered_clips_are_read_correctly_and_equal_themselves(folder):
    data = Results("data", "rendered")
    data.add(measure(clips(8), captions()[:8]))
    assert data["right"].mean() > 0.97
    sharp, coarser, moves, distance, spread = map(float, tables.qualities(data, data))
    assert (sharp, coarser, moves, spread) == (1.0, 1.0, 1.0, 1.0) and abs(distance) < 0.1


def test_a_row_resumes_and_starts_again_with_other_weights(folder):
    first = Results("row", "weights")
    first.add(measure(clips(4), captions()[:4]), seconds=2.0)
    again = Results("row", "weights")
    assert len(again) == 4 and again.seconds == 0.5
    again.add(measure(clips(4), captions()[4:8]), seconds=2.0)
    assert len(Results("row", "weights")) == 8
    assert len(Results("row", "others")) == 0


def test_intervals_are_of_paired_differences(folder):
    plain = results_with("a", np.ones((64, 6), dtype=int))
    worse = np.ones((64, 6), dtype=int)
    worse[:16, 0] = 0
    other = results_with("b", worse)
    interval = tables.difference(other, plain, ATTRIBUTES[0])
    assert interval.value == -25 and -38 < interval.low < -15 and -15 < interval.high < -12
    assert tables.difference(other, plain, ATTRIBUTES[1]).low == 0
    held = tables.holds(other, plain, margin=5)
    assert not held[ATTRIBUTES[0]] and held[ATTRIBUTES[1]]


def test_the_page_marks_rows_that_were_not_run(folder):
    plain = results_with(PLAIN, np.ones((256, 6), dtype=int))
    text = tables.page(GROUPS, {PLAIN: plain}, plain)
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    assert sum("not run" in line for line in lines) == 2 * sum(len(group.rows) - 1 for group in GROUPS)
    assert text.count("| plain, 50 steps | 50 | 100.0 | all |") == len(GROUPS)
    with pytest.raises(ValueError, match="run it first"):
        tables.page(GROUPS, {}, plain)


def test_columns_that_are_right_in_every_row_are_left_out(folder):
    worse = np.ones((256, 6), dtype=int)
    worse[:8, ATTRIBUTES.index("pattern")] = 0
    by_row = {PLAIN: results_with(PLAIN, np.ones((256, 6), dtype=int)), "plain-4": results_with("plain-4", worse)}
    lines = list(tables.accuracy_table(GROUPS[0], by_row, by_row[PLAIN]))
    assert lines[0] == "| row | steps | pattern | all six | within 5 points |"
    assert lines[-1].strip() == "Left out because every row has 100.0: shape, colour, motion, place, ground."
    assert lines[2] == "| plain, 50 steps | 50 | 100.0 | 100.0 | all |" and "| 96.9 (" in "\n".join(lines)


def test_the_published_page_has_the_rows_and_costs_that_the_code_has():
    page = (results.ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    assert "\n".join(tables.introduction("")[1:]) in page
    plain = tables.cost(ROWS[0], tables.TINY_SHAPE, tables.TINY)
    for group in GROUPS:
        section = page.partition(f"### {group.title}\n")[2].partition("\n##")[0]
        lines = [line for line in section.splitlines() if line.startswith("| ") and not line.startswith("| row |")]
        assert [line.split(" | ")[0] for line in lines] == 2 * [f"| {row.label}" for row in group.rows]
        for row, line in zip(group.rows, lines[len(group.rows) :], strict=True):
            operations = tables.cost(row, tables.TINY_SHAPE, tables.TINY)
            assert line.startswith(f"| {row.label} | {row.steps} | {operations:.3f} | {operations / plain:.1%} | "), row.name


@pytest.mark.skipif(not all(path.is_file() for path in results.weights(ROWS[0])), reason="no trained weights")
def test_a_short_run_in_comfyui_has_the_colours_of_its_prompts(folder):
    """Four steps at full size are enough for the colours of the tiny model."""
    row = next(row for row in ROWS if row.name == "plain-4")
    prompts = captions()[::4][:4]
    sampler = sampling.ComfyUISampler(row)
    latents = sampler.sample(prompts, seed=1)
    assert latents.shape == (4, 16, 5, 16, 16) and torch.equal(latents, sampler.sample(prompts, seed=1))
    right = np.array(measure(sampler.decode(latents), prompts)["right"])
    assert right[:, ATTRIBUTES.index("colour")].mean() >= 0.75 and right[:, ATTRIBUTES.index("ground")].mean() >= 0.75
    assert fingerprint(row) != fingerprint(ROWS[0])
