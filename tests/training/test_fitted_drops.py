"""The maps that blur a student's predictions: fitted once on what a run may see, kept, and used on every stage's path."""

import json

import pytest
import torch

from pyramid.training import run as runs
from pyramid.training.config.distill import DistillConfig
from pyramid.training.config.toml_config import check_config
from pyramid.training.data.cache_files import Cache
from pyramid.training.engine.checkpoints import Checkpoints
from pyramid.training.export import trained_network
from pyramid.training.fitted_drops import DROP, fitted_drops, read_drop
from pyramid.training.recipes import dmd
from tiny_wan.training_files import distillation_settings, with_changes


def config(folder, recipe="dmd-pt-star", definition="pixels", **changes):
    """A run on a cache of some definition."""
    folder.mkdir(exist_ok=True)
    tables = with_changes(distillation_settings(folder, recipe=recipe), data__held_out=1, **changes)
    tables["discriminator"] = {"taps": [0, 1], "width": 8}
    info = folder / "cache" / "cache.json"
    info.write_text(json.dumps({**json.loads(info.read_text()), "definition": definition}))
    return check_config(DistillConfig, tables, "test")


@pytest.mark.parametrize("recipe", ["dmd-pt-star", "adv-pd"])
def test_predictions_are_blurred_by_the_drops_that_a_run_keeps(tmp_path, recipe, monkeypatch):
    made, seen, path = config(tmp_path, recipe), {}, dmd.student_path

    def noting(clean, noise, stage, natural, drop):
        seen[stage.index] = drop
        return path(clean, noise, stage, natural, drop)

    monkeypatch.setattr(dmd, "student_path", noting)
    runs.run_distillation(made)
    assert sorted(path.name for path in runs.Path(made.out).glob("drop-*")) == [DROP.format("high"), DROP.format("mid")]
    assert seen[0] is None
    for index, name in enumerate(("mid", "high"), start=1):
        kept = read_drop(runs.Path(made.out) / DROP.format(name))
        assert torch.equal(seen[index].rest, kept.rest) and kept.ratios[1] == 0.5


def weights(made):
    checkpoints = Checkpoints(runs.Path(made.out), keep=9)
    return trained_network(made, checkpoints, checkpoints.steps()[-1]).state_dict()


def test_a_resumed_run_keeps_its_drops_and_equals_an_uninterrupted_one(tmp_path):
    uninterrupted, resumed = config(tmp_path / "uninterrupted"), config(tmp_path / "resumed", train__steps=2)
    runs.run_distillation(uninterrupted)
    runs.run_distillation(resumed)
    path = runs.Path(resumed.out) / DROP.format("high")
    kept = path.stat().st_mtime_ns
    runs.run_distillation(resumed.model_copy(update={"train": uninterrupted.train}))
    assert path.stat().st_mtime_ns == kept
    one, other = weights(uninterrupted), weights(resumed)
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


class ReadItems(Cache):
    """A cache that notes which items were read."""

    items: frozenset[int] = frozenset()

    def latent(self, item, stage):
        self.items |= {item}
        return super().latent(item, stage)


def test_drops_are_fitted_on_the_items_that_are_not_held_out(tmp_path):
    made = config(tmp_path)
    cache = ReadItems(made.data.cache, stages=3)
    runs.Path(made.out).mkdir()
    fitted_drops(made, cache)
    assert cache.items == set(range(5))


@pytest.mark.parametrize(
    ("recipe", "definition", "blurred", "count"),
    [
        ("dmd-pt", "pixels", "auto", 2), ("dmd-pt", "pixels", "low band", 0), ("dmd-pt", "latents", "auto", 0),
        ("dmd-ot", "pixels", "auto", 0), ("adv-od", "pixels", "auto", 0),
    ],
)  # fmt: skip
def test_drops_are_fitted_where_a_pyramidal_path_has_pairs(tmp_path, recipe, definition, blurred, count):
    made = config(tmp_path, recipe, definition, losses__blurred=blurred)
    runs.Path(made.out).mkdir()
    assert len(fitted_drops(made, runs.open_cache(made))) == count


def test_drops_that_cannot_be_fitted_or_used_are_refused(tmp_path):
    with pytest.raises(ValueError, match="losses.blurred 'dropped' requires coarse latents .* definition 'latents'"):
        runs.run_distillation(config(tmp_path, definition="latents", losses__blurred="dropped"))
    with pytest.raises(ValueError, match="'dropped' requires a recipe that noises .* got 'dmd-ot' and pyramid.preset"):
        config(tmp_path / "other", "dmd-ot", losses__blurred="dropped")
