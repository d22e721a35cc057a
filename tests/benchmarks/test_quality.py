"""The benchmark's own machinery: rows, going on, intervals, and a real batch through the host."""

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
    wanted = captions()[:count]
    return render(
        [scene_for(caption, seed=seed + place) for place, caption in enumerate(wanted)], frames=17, height=128, width=128
    )


def filled(name, right):
    """Results with made-up readings."""
    count = len(right)
    found = Results(name, "x")
    rng = np.random.default_rng(0)
    measured = {"right": right, "detail": np.ones((count, 2)), "motion": np.ones(count)}
    found.add({**measured, "features": rng.normal(size=(count, 45))}, seconds=1.0)
    return found


def test_every_row_has_a_name_of_its_own_and_costs_what_the_formula_says():
    assert len({row.name for row in ROWS}) == len(ROWS)
    by_name = {row.name: row for row in ROWS}
    whole, half = (tables.cost(by_name[name], tables.TINY_SHAPE, tables.TINY) for name in ("plain-50", "plain-25"))
    assert whole == pytest.approx(2 * half)
    shape, dimensions = tables.PAPER_SHAPE, tables.WAN_DIMENSIONS["1.3B"]
    share = tables.cost(by_name["three-time-20-20-10"], shape, dimensions) / tables.cost(by_name[PLAIN], shape, dimensions)
    assert share == pytest.approx(2821 / 12592, rel=1e-3)


def test_prompts_are_balanced_and_come_with_several_seeds():
    wanted = captions()
    assert len(wanted) == results.PROMPTS * results.SEEDS >= 256
    assert all(len(set(wanted[start : start + results.SEEDS])) == 1 for start in range(0, len(wanted), results.SEEDS))
    for name in ATTRIBUTES:
        counts = np.unique([getattr(caption, name) for caption in wanted], return_counts=True)[1]
        assert max(counts) - min(counts) <= results.SEEDS


def test_real_clips_are_right_and_like_themselves(folder):
    found = Results("data", "rendered")
    found.add(measure(clips(8), captions()[:8]))
    assert found["right"].mean() > 0.97
    sharp, coarser, moves, distance, spread = map(float, tables.qualities(found, found))
    assert (sharp, coarser, moves, spread) == (1.0, 1.0, 1.0, 1.0) and abs(distance) < 0.1


def test_a_row_goes_on_where_it_stopped_and_starts_again_with_other_weights(folder):
    first = Results("row", "weights")
    first.add(measure(clips(4), captions()[:4]), seconds=2.0)
    again = Results("row", "weights")
    assert len(again) == 4 and again.seconds == 0.5
    again.add(measure(clips(4), captions()[4:8]), seconds=2.0)
    assert len(Results("row", "weights")) == 8
    assert len(Results("row", "others")) == 0


def test_the_interval_is_of_paired_differences(folder):
    plain = filled("a", np.ones((64, 6), dtype=int))
    worse = np.ones((64, 6), dtype=int)
    worse[:16, 0] = 0
    other = filled("b", worse)
    apart = tables.difference(other, plain, ATTRIBUTES[0])
    assert apart.value == -25 and -38 < apart.low < -15 and -15 < apart.high < -12
    assert tables.difference(other, plain, ATTRIBUTES[1]).low == 0
    held = tables.holds(other, plain, margin=5)
    assert not held[ATTRIBUTES[0]] and held[ATTRIBUTES[1]]


def test_rows_that_were_not_run_say_so(folder):
    plain = filled(PLAIN, np.ones((256, 6), dtype=int))
    text = tables.page(GROUPS, {PLAIN: plain}, plain)
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    assert sum("not run" in line for line in lines) == 2 * sum(len(group.rows) - 1 for group in GROUPS)
    assert "| plain, 50 steps | 50 | 100.0 | 100.0 |" in text and text.count("| 100.0 | all |") == len(GROUPS)
    with pytest.raises(ValueError, match="run it first"):
        tables.page(GROUPS, {}, plain)


@pytest.mark.skipif(not all(path.is_file() for path in results.weights(ROWS[0])), reason="no trained weights")
def test_a_short_run_through_comfyui_reads_its_colour_back(folder):
    """Four steps at full size are enough for the colours of the tiny model."""
    row = next(row for row in ROWS if row.name == "plain-4")
    wanted = captions()[::4][:4]
    sampler = sampling.ComfyUISampler(row)
    latents = sampler.sample(wanted, seed=1)
    assert latents.shape == (4, 16, 5, 16, 16) and torch.equal(latents, sampler.sample(wanted, seed=1))
    right = np.array(measure(sampler.decode(latents), wanted)["right"])
    assert right[:, ATTRIBUTES.index("colour")].mean() >= 0.75 and right[:, ATTRIBUTES.index("ground")].mean() >= 0.75
    assert fingerprint(row) != fingerprint(ROWS[0])
