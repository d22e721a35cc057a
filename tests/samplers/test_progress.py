"""The bar counts operations, the text tells the step and the time left, and times of runs are kept for later ones."""

import json
import math
import os
import re

import pytest
import torch
from comfyui_graph import empty, progress, prompt

from pyramidalwan.nodes.analysis import PyramidalWanCostEstimate
from pyramidalwan.nodes.sampler import PyramidalWanSampler
from pyramidalwan.pyramid.flops import forward_tflops, tokens
from pyramidalwan.pyramid.latent_shape import LatentShape
from pyramidalwan.pyramid.stages import PRESETS
from pyramidalwan.samplers import options as sampler_options
from pyramidalwan.samplers.comfyui.timings import (
    keep_timings,
    key_of,
    read_timings,
    seconds_per_pass,
    timings_age,
    timings_path,
)
from pyramidalwan.samplers.noise import SeedNoise
from pyramidalwan.samplers.options import StageOptions, sample_with_conds
from pyramidalwan.samplers.progress import BAR
from pyramidalwan.samplers.run import PyramidRun
from pyramidalwan.samplers.run_report import PlannedStage, dimensions_of
from pyramidalwan.samplers.schedule import levels_for
from pyramidalwan.samplers.supported_samplers import make_sampler
from pyramidalwan.samplers.time_left import StepClock, duration_text

FREE = PRESETS["training-free"]
STAGES = [PlannedStage(0, "low 416x240", 100, 4, 1.0), PlannedStage(1, "high 832x480", 400, 3, 5.0)]


def sample(model, said, **changes):
    values = dict(seed=1, steps="3-2", denoise=1.0, sampler_name="euler", grid="auto", shift=5.0)
    return sample_with_conds(
        model, prompt(1), prompt(2), empty(), FREE, StageOptions(cfg="1"), **{**values, **changes}, report=said.append
    )


def timed(clock, seconds):
    """Run all steps, the first with 100 extra seconds of loading; return the estimates after each step."""
    now, left = 0.0, []
    for stage in STAGES:
        clock.stage_starts(stage.index, now)
        for done in range(1, stage.steps + 1):
            now += seconds[stage.index] + (100.0 if (stage.index, done) == (0, 1) else 0.0)
            clock.step_done(stage.index, done, now)
            left.append(clock.seconds_left(stage.index, done))
    return left


def test_the_time_left_is_exact_where_time_follows_operations():
    assert timed(StepClock(STAGES), {0: 2.0, 1: 10.0}) == [None, 34.0, 32.0, 30.0, 20.0, 10.0, 0.0]


def test_a_stage_counts_as_measured_or_as_known_from_an_earlier_run():
    known = {100: 2.0, 400: 7.0}
    assert timed(StepClock(STAGES, lambda stage: known[stage.tokens]), {0: 3.0, 1: 6.0}) == [27, 27, 24, 21, 12, 6, 0]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.2, "1 s"), (55.4, "55 s"), (99.6, "2 min"), (200, "3 min"), (3599, "1 h 0 min"), (4800, "1 h 20 min")],
)
def test_durations_are_told_as_people_say_them(seconds, text):
    assert duration_text(seconds) == text


def test_the_bar_moves_by_the_operations_of_a_step(t2v_model, monkeypatch):
    seen, said = progress(monkeypatch), []
    sample(t2v_model, said)
    low, high = (forward_tflops(tokens(LatentShape(5, side, side)), dimensions_of(t2v_model)) for side in (8, 16))
    spent = [low, 2 * low, 3 * low, 3 * low + high, 3 * low + 2 * high]
    assert [value for value, _ in seen] == pytest.approx([BAR * cost / spent[-1] for cost in spent], abs=1)
    assert {total for _, total in seen} == {BAR} and seen[2][0] < 0.5 * BAR, "3 of 5 steps are less than half of the work"


def test_each_step_is_told_above_the_summary_which_stays(t2v_model):
    said = []
    sample(t2v_model, said)
    summary = said[0]
    assert summary.splitlines()[0].startswith("low 64x64 · 3 steps; high 128x128 · 2 steps; ")
    assert "custom: steps 3-2 · cfg 1 · grid auto · shift 5" in summary.splitlines()
    assert said[-1] == summary
    lines = [text.removesuffix(f"\n{summary}") for text in said[1:-1]]
    steps = [re.fullmatch(r"(\w+ \d+x\d+ · \d/\d)( · about \d+ s left)?", line) for line in lines]
    assert [step and step[1] for step in steps] == [
        *(f"low 64x64 · {done}/3" for done in range(4)),
        *(f"high 128x128 · {done}/2" for done in range(3)),
    ]
    assert all(step[2] for step in steps[2:-1]) and steps[-1][2] is None


def test_a_cancelled_run_leaves_no_step_on_the_node(t2v_model):
    said = []

    def cancel(text):
        said.append(text)
        if text.startswith("high") and "1/2" in text:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        sample_with_conds(
            t2v_model, prompt(1), prompt(2), empty(), FREE, StageOptions(cfg="1"), seed=1, steps="3-2", denoise=1.0,
            sampler_name="euler", grid="auto", shift=5.0, report=cancel,
        )  # fmt: skip
    assert said[-1] == said[0] and said[0].startswith("low 64x64 · 3 steps")


def test_callbacks_of_other_packs_get_steps(t2v_model):
    """They may look a step up in a list of their own."""
    from comfyui_graph import guider

    seen = []
    spec, levels = levels_for(FREE, "3-2", "auto", 5.0)

    def count(step, denoised, x, total):
        seen.append((step, total))

    PyramidRun(guider(t2v_model), SeedNoise(1), make_sampler("euler"), levels, spec, callback=count).sample(empty())
    assert seen == [(step, 5) for step in range(5)]


def test_times_are_kept_and_told_by_the_cost_node(t2v_model):
    timings_path().unlink(missing_ok=True)
    cost = ["3-2", "6", "auto", 5.0, FREE, t2v_model]
    assert "about" not in PyramidalWanCostEstimate.execute(empty(), *cost).args[0]
    sample(t2v_model, [])
    text = PyramidalWanCostEstimate.execute(empty(), *cost).args[0]
    total, *stages = text.splitlines()
    assert re.fullmatch(r"total: .* % of 50 steps at full size · about \d+ s", total)
    assert [re.fullmatch(r"(\w+ \d+x\d+ · \d steps) · \d+(\.\d)? % · about \d+ s", line)[1] for line in stages] == [
        "low 64x64 · 3 steps",
        "high 128x128 · 2 steps",
    ]
    said = []
    sample(t2v_model, said)
    assert "0/3 · about" in said[1], "known before the first step"
    timings_path().unlink()
    sample(t2v_model, [], sampler_name="heun")
    assert not timings_path().exists(), "two passes per step"


def test_kept_times_are_scaled_by_operations_from_the_nearest_size(t2v_model):
    dimensions = dimensions_of(t2v_model)
    timings_path().unlink(missing_ok=True)
    keep_timings(key_of(dimensions), {100: 2.0})
    keep_timings(key_of(dimensions), {1000: 50.0})
    kept = read_timings()
    assert seconds_per_pass(key_of(dimensions), 100, dimensions, kept) == 2.0
    grown = forward_tflops(400, dimensions) / forward_tflops(100, dimensions)
    assert seconds_per_pass(key_of(dimensions), 400, dimensions, kept) == pytest.approx(2.0 * grown)
    assert seconds_per_pass("another card", 100, dimensions, kept) is None
    timings_path().write_text("{damaged")
    assert read_timings() == {}
    timings_path().unlink()


DAMAGED_TIMES = [
    "[" * 100_000,
    '{"a": {"1": ' + "1" * 400 + "}}",
    '{"a": {"1": 1e999}}',
    '{"a": {"1": NaN}}',
    '{"a": ' + "9" * 5000 + "}",
    " " * 2_000_000 + "{}",
    "[1]",
]


@pytest.mark.parametrize("text", DAMAGED_TIMES, ids=lambda text: text[:20].strip())
def test_kept_times_that_cannot_be_read_are_none(text):
    timings_path().parent.mkdir(parents=True, exist_ok=True)
    timings_path().write_text(text)
    assert read_timings() == {}
    keep_timings("b", {100: 2.0, 200: 0.0, 300: math.inf})
    assert read_timings() == {"b": {100: 2.0}}
    timings_path().unlink()


def test_only_kept_times_that_can_have_been_measured_count():
    kept = {
        "100": 2.0,
        "0": 1.0,
        "-3": 1.0,
        "1": 1e308,
        "2": 0,
        "3": -5,
        "4": None,
        "5": True,
        "1" * 400: 1.0,
        "a": 1,
        "²": 1.0,
    }
    timings_path().parent.mkdir(parents=True, exist_ok=True)
    timings_path().write_text(json.dumps({"a": kept, "b": None, "c": 5}))
    assert read_timings() == {"a": {100: 2.0}}
    timings_path().unlink()


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: os.symlink("/dev/zero", path)])
def test_only_a_file_is_read_for_kept_times(make):
    timings_path().parent.mkdir(parents=True, exist_ok=True)
    timings_path().unlink(missing_ok=True)
    make(timings_path())
    try:
        assert read_timings() == {} and timings_age() == 0.0
    finally:
        os.rmdir(timings_path()) if timings_path().is_dir() else timings_path().unlink()


def test_the_sampler_node_shows_its_progress_on_itself(t2v_model, monkeypatch):
    said, original = [], sampler_options.PyramidRun.sample

    def sample_run(run, *args, **kwargs):
        said.append(run.report)
        return original(run, *args, **kwargs)

    monkeypatch.setattr(sampler_options.PyramidRun, "sample", sample_run)
    out = PyramidalWanSampler.execute(
        t2v_model, prompt(1), prompt(2), empty(), 1, "1-1", "1", "euler", 1.0, "auto", 5.0, "auto", "auto", FREE
    )
    assert callable(said[0]) and torch.isfinite(out.args[0]["samples"]).all()
