"""The relearning experiment: the task, equal costs, resuming, and the table."""

import dataclasses
import itertools
import re

import pytest
import torch

from benchmarks.quality.rows import VAE
from benchmarks.relearning import arms, measurement, tables
from benchmarks.relearning.arms import ARMS, METHODS, POINTS, RATES, SAMPLES, SEEDS, Arm
from benchmarks.relearning.words import prompts, rotated, write_cache
from pyramid.stages import PRESETS
from pyramid.training.data.cache_files import Cache, CachedItem, CacheInfo, write_info, write_shard
from tiny_wan.world.grammar import ATTRIBUTES, COLOURS
from tiny_wan.world.scenes import render, scene_for
from tiny_wan.world.words import TEXT_LENGTH, embed


@pytest.fixture
def source(tmp_path):
    """A cache of random latents with prompts of the tiny world."""
    info = CacheInfo(PRESETS["plain"], 128, 128, 17, "pixels", TEXT_LENGTH, 24, 24, "test")
    write_info(tmp_path / "source", info, embed(None))
    generator = torch.Generator().manual_seed(0)
    items = [
        CachedItem(str(number), str(caption), [torch.randn(16, 5, 16, 16, generator=generator)], embed(caption))
        for number, caption in enumerate(prompts(24))
    ]
    write_shard(tmp_path / "source", 0, items, [])
    return Cache(tmp_path / "source")


def test_every_colour_gets_the_vector_of_another_and_other_words_keep_theirs():
    captions = prompts()
    assert {caption.colour for caption in captions} == set(COLOURS)
    assert {rotated(caption).colour for caption in captions} == set(COLOURS)
    for caption in captions:
        assert rotated(caption).colour != caption.colour
        assert dataclasses.replace(rotated(caption), colour=caption.colour) == caption


@pytest.mark.parametrize("method", METHODS)
def test_a_cache_holds_rotated_words_and_averaged_latents(tmp_path, source, method):
    spec = ARMS[0].config(steps=1).pyramid.spec() if method == "plain" else PRESETS[method]
    cache = Cache(write_cache(source, tmp_path / method, spec, clips=24))
    full, caption = source.latent(3, 0), prompts(24)[3]
    torch.testing.assert_close(cache.latent(3, cache.stages - 1), full, atol=0.02, rtol=0)
    assert torch.equal(cache.text(3), embed(rotated(caption)).bfloat16().float())
    assert cache.caption(3) == str(caption)
    if cache.stages > 1:
        down = spec.stages(cache.info.latent)[-1].from_coarser.down(full[None])[0]
        torch.testing.assert_close(cache.latent(3, cache.stages - 2), down, atol=0.02, rtol=0)


@pytest.mark.parametrize("method", METHODS)
def test_methods_are_compared_at_equal_operations_and_samples(method):
    arm, plain = Arm(method, False, 5e-4, 1), Arm("plain", False, 5e-4, 1)
    assert arm.config(steps=1).train.per_stage * arm.config(steps=1).pyramid.spec().number_of_stages == SAMPLES
    for point in POINTS:
        operations = arm.steps_at(point) * arm.tflops_per_step()
        assert operations == pytest.approx(point * plain.tflops_per_step(), rel=0.05)
    assert plain.steps_at(10) == 10
    assert arm.tflops_per_step() / plain.tflops_per_step() == pytest.approx(
        {"plain": 1, "tpdiff": 0.628, "pyramidal-wan": 0.383}[method], abs=1e-3
    )


def test_there_is_an_arm_for_every_combination_and_none_with_operations_that_are_not_counted():
    assert len({arm.name for arm in ARMS}) == len(ARMS) == 3 * 2 * 2 * 3
    configs = [arm.config(steps=1) for arm in ARMS]
    trained = {(made.pyramid.preset, made.train.align_noise, made.optimizer.learning_rate, made.train.seed) for made in configs}
    assert trained == set(itertools.product(METHODS, (False, True), RATES, SEEDS))
    assert {made.losses.teacher for made in configs} == {0.0}


def test_an_arm_trains_from_point_to_point_and_resumes(tmp_path, source, monkeypatch, capsys):
    for module in (arms, measurement):
        monkeypatch.setattr(module, "FOLDER", tmp_path)
        monkeypatch.setattr(module, "POINTS", (1, 2))
    monkeypatch.setattr(arms, "SAMPLES", 3)
    monkeypatch.setattr(measurement, "CLIPS", 24)
    monkeypatch.setattr(measurement, "PROMPTS", 2)
    monkeypatch.setitem(METHODS, "tpdiff", dataclasses.replace(METHODS["tpdiff"], steps="1-1-1"))
    arm = Arm("tpdiff", True, 5e-4, 1)
    with torch.enable_grad():
        measurement.run_arm(arm, source.folder, deadline=0.0)
        assert measurement.results_of(arm) == {}
        measurement.run_arm(arm, source.folder)
    results = measurement.results_of(arm)
    assert {point: (len(rows), len(rows[0])) for point, rows in results.items()} == {1: (2, 6), 2: (2, 6)}
    assert sorted(file.name for file in (tmp_path / "runs" / arm.name / "export").glob("*.safetensors")) == [
        f"{arm.name}-step{arm.steps_at(point)}.safetensors" for point in (1, 2)
    ]
    capsys.readouterr()
    measurement.run_arm(arm, source.folder)
    assert capsys.readouterr().out == ""
    monkeypatch.setattr(measurement, "POINTS", (1, 2, 3))
    assert measurement.results_of(arm) == {}


def test_results_are_of_the_settings_and_of_the_weights(monkeypatch):
    arm = Arm("tpdiff", False, 5e-4, 1)
    changes = ({"method": "plain"}, {"aligned": True}, {"rate": 2e-4}, {"seed": 2})
    others = [measurement.fingerprint(dataclasses.replace(arm, **change)) for change in changes]
    before = measurement.fingerprint(arm)
    monkeypatch.setattr(measurement, "MODEL", VAE)
    assert len({before, measurement.fingerprint(arm), *others}) == 2 + len(others)


class Relearned:
    """A sampler whose model has relearned its colours: it shows every colour for the vector of the next one."""

    def __init__(self, row):
        self.row = row

    def conditioning(self, captions, start):
        return captions

    def sample(self, captions, *, seed):
        shown = [caption for each in captions for caption in self.every_colour(each) if rotated(caption) == each]
        return [scene_for(caption, seed=seed + number) for number, caption in enumerate(shown)]

    def every_colour(self, caption):
        return [dataclasses.replace(caption, colour=colour) for colour in COLOURS]

    def decode(self, scenes):
        return render(scenes, frames=5, height=64, width=64)


def test_a_model_that_has_relearned_everything_is_read_as_right(monkeypatch):
    monkeypatch.setattr(measurement, "ComfyUISampler", Relearned)
    right = measurement.sample(Arm("plain", False, 5e-4, 1), arms.ROOT)
    assert len(right) == measurement.PROMPTS
    assert all(row[ATTRIBUTES.index("colour")] for row in right) and sum(map(sum, right)) > 0.95 * len(right) * len(ATTRIBUTES)


def test_the_table_and_the_plot_show_what_was_measured():
    right = [[int(name == "colour" and number < 36) for name in ATTRIBUTES] for number in range(48)]
    results = {Arm("tpdiff", False, 5e-4, seed).name: {POINTS[0]: right[8 * seed :], POINTS[1]: right} for seed in (1, 2)}
    text = "\n".join(tables.lines(results))
    assert text.startswith("4 of 144 points are measured.")
    assert "| frame rates (`tpdiff`) | independent | 2 | 64 | 66 (62-70) | 75 (75-75) | not run | not run |" in text
    assert text.count("not run") == 12 * len(POINTS) - 2
    picture = tables.plot(results, 5e-4)
    (points,) = re.findall(r'<polyline points="([^"]+)"', picture)
    (x, y), (next_x, next_y) = [map(float, point.split(",")) for point in points.split()]
    full = tables.HEIGHT - tables.BOTTOM - tables.TOP
    assert next_y == pytest.approx(tables.TOP + full / 4, abs=0.1) and y > next_y
    assert next_x - tables.LEFT == pytest.approx(2 * (x - tables.LEFT), abs=0.2)
    assert picture.count("<polyline") == 1 and tables.COLOURS["tpdiff"] in picture and "stroke-dasharray" not in picture
