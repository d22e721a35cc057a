"""Maps that a run fits on its cache: a finetuned pyramid's lift, whose path is the sampler's, and a student's drops."""

import json

import pytest
import torch

from pyramid.latent_shape import LatentShape
from pyramid.lift import ResizeLift, lift_correction
from pyramid.lift_fit import PairSums
from pyramid.noise_levels import add_noise
from pyramid.noise_pyramid import noise_pyramid
from pyramid.paths import stage_path
from pyramid.sampling import sample_pyramid
from pyramid.stages import PyramidSpec
from pyramid.training import run as runs
from pyramid.training.config.distill import DistillConfig
from pyramid.training.config.finetune import FinetuneConfig
from pyramid.training.config.toml_config import check_config
from pyramid.training.data.batches import StageBatch
from pyramid.training.data.cache_files import Cache
from pyramid.training.engine.checkpoints import Checkpoints
from pyramid.training.export import trained_network
from pyramid.training.fitted_maps import DROP, LIFT, fitted_drops, fitted_lift, read_map
from pyramid.training.recipes import dmd
from pyramid.training.recipes.finetune import Finetuning
from pyramid.training.recipes.losses import blurred_signal
from pyramid.training.validation import sample
from tiny_wan.training_files import distillation_settings, settings, with_changes

AXES = ["HW", "THW"]
TWO = {"pyramid__boundaries": [0.602], "pyramid__downsample_axes": ["THW"], "validation__steps": "1-1"}


def draw(*shape, seed):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def batch(stages):
    """A batch of the finer stage, with coarse latents that are not averages of the fine ones."""
    sizes = [(2, 16, *stage.shape) for stage in stages]
    clean, coarse, noise = draw(*sizes[1], seed=1), draw(*sizes[0], seed=2), draw(*sizes[1], seed=3)
    return StageBatch(1, clean, coarse, noise, torch.tensor([1.0, 0.3]), draw(2, 6, 8, seed=4), draw(6, 8, seed=5))


def random_map(stages):
    sums = PairSums(source=tuple(stages[0].shape), target=tuple(stages[1].shape), channels=16)
    sums.add(draw(1, 16, *stages[0].shape, seed=6), draw(1, 16, *stages[1].shape, seed=7))
    return sums.solve(ridge=0.1)


def path_of(made, stage, lift):
    return stage_path(made.clean, blurred_signal(made, stage, lift), made.noise, stage, stage.natural_at(made.rho))


@pytest.mark.parametrize("axes", AXES)
def test_the_resize_as_a_lift_is_the_path_from_doubled_data_bit_for_bit(axes):
    stages = PyramidSpec((0.602,), (axes,)).stages(LatentShape(5, 8, 8))
    doubled, lifted = (path_of(batch(stages), stages[1], lift) for lift in (None, ResizeLift(stages[1].from_coarser)))
    assert torch.equal(doubled.x, lifted.x) and torch.equal(doubled.velocity, lifted.velocity)


@pytest.mark.parametrize("axes", AXES)
def test_the_samplers_transition_from_clean_coarse_data_is_the_start_of_the_path(axes):
    stages = PyramidSpec((0.602,), (axes,)).stages(LatentShape(5, 8, 8))
    made, lift, starts = batch(stages), random_map(stages), []

    def run_stage(signal, noise, stage):
        starts.append(add_noise(signal, noise, stage.sigma_at(torch.tensor(1.0))))
        end = stage.sigma_at(torch.tensor(0.0))
        return add_noise(made.coarse if stage is stages[0] else made.clean, noise, end) / (1 - end)

    sample_pyramid(
        run_stage,
        noise_pyramid(made.noise, stages),
        stages,
        correction=lambda coarse, fine: lift_correction(made.coarse, fine.from_coarser, lift),
    )
    path = path_of(made, stages[1], lift)
    torch.testing.assert_close(starts[1][:1], path.x[:1], atol=1e-5, rtol=1e-5)  # the first of the two samples has rho 1


def config(folder, **changes):
    """A run of two stages on a cache whose description says that small videos were encoded."""
    folder.mkdir(exist_ok=True)
    tables = settings(folder, train__lift=True, data__held_out=1, **TWO, **changes)
    info = folder / "cache" / "cache.json"
    info.write_text(json.dumps({**json.loads(info.read_text()), "definition": "pixels"}))
    return check_config(FinetuneConfig, tables, "test")


def weights(made):
    checkpoints = Checkpoints(runs.Path(made.out), keep=9)
    return trained_network(made, checkpoints, checkpoints.steps()[-1]).state_dict()


def test_a_resumed_run_keeps_its_lift_and_equals_an_uninterrupted_one(tmp_path):
    uninterrupted = config(tmp_path / "uninterrupted", validation__videos=1)
    resumed = config(tmp_path / "resumed", validation__videos=1, train__steps=2)
    runs.run_finetuning(uninterrupted)
    runs.run_finetuning(resumed)
    path = runs.Path(resumed.out) / LIFT
    kept = path.stat().st_mtime_ns
    runs.run_finetuning(resumed.model_copy(update={"train": uninterrupted.train}))
    assert path.stat().st_mtime_ns == kept
    one, other = weights(uninterrupted), weights(resumed)
    assert [name for name in one if not torch.equal(one[name], other[name])] == []
    assert path.read_bytes() == (runs.Path(uninterrupted.out) / LIFT).read_bytes()


class ReadItems(Cache):
    """A cache that notes which items were read."""

    items: frozenset[int] = frozenset()

    def latent(self, item, stage):
        self.items |= {item}
        return super().latent(item, stage)


def test_the_lift_is_fitted_on_the_items_that_are_not_held_out(tmp_path):
    made = config(tmp_path)
    cache = ReadItems(made.data.cache, stages=2)
    runs.Path(made.out).mkdir()
    fitted_lift(made, cache)
    assert cache.items == set(range(5))


def test_averaged_latents_are_no_pairs_to_fit_on(tmp_path):
    made = check_config(FinetuneConfig, settings(tmp_path, train__lift=True, **TWO), "test")
    with pytest.raises(
        ValueError, match="train.lift requires .* the cache has definition 'latents'; make a cache of definition"
    ):
        runs.run_finetuning(made)


def test_validation_samples_start_from_lifted_predictions(tmp_path):
    made = config(tmp_path, validation__videos=1)
    cache, accelerator = runs.open_cache(made), runs.parallel.start(made.system)
    lift = random_map(made.pyramid.spec().stages(made.video.latent))
    doubled, lifted = (sample(Finetuning(made, accelerator, each), cache, 5, steps="1-1", cfg=1.0) for each in (None, lift))
    assert (doubled - lifted).abs().max() > 0.1


def student(folder, recipe="dmd-pt-star", definition="pixels", **changes):
    """A distillation run on a cache of some definition."""
    folder.mkdir(exist_ok=True)
    tables = with_changes(distillation_settings(folder, recipe=recipe), data__held_out=1, **changes)
    tables["discriminator"] = {"taps": [0, 1], "width": 8}
    info = folder / "cache" / "cache.json"
    info.write_text(json.dumps({**json.loads(info.read_text()), "definition": definition}))
    return check_config(DistillConfig, tables, "test")


@pytest.mark.parametrize("recipe", ["dmd-pt-star", "adv-pd"])
def test_predictions_are_blurred_by_the_drops_that_a_run_keeps(tmp_path, recipe, monkeypatch):
    made, seen, path = student(tmp_path, recipe), {}, dmd.student_path

    def noting(clean, noise, stage, natural, drop):
        seen[stage.index] = drop
        return path(clean, noise, stage, natural, drop)

    monkeypatch.setattr(dmd, "student_path", noting)
    runs.run_distillation(made)
    assert sorted(path.name for path in runs.Path(made.out).glob("drop-*")) == [DROP.format("high"), DROP.format("mid")]
    assert seen[0] is None
    for index, name in enumerate(("mid", "high"), start=1):
        kept = read_map(runs.Path(made.out) / DROP.format(name))
        assert torch.equal(seen[index].rest, kept.rest) and kept.ratios[1] == 0.5


@pytest.mark.parametrize(
    ("recipe", "definition", "blurred", "count"),
    [
        ("dmd-pt", "pixels", "auto", 2), ("dmd-pt", "pixels", "low band", 0), ("dmd-pt", "latents", "auto", 0),
        ("dmd-ot", "pixels", "auto", 0), ("adv-od", "pixels", "auto", 0),
    ],
)  # fmt: skip
def test_drops_are_fitted_where_a_pyramidal_path_has_pairs(tmp_path, recipe, definition, blurred, count):
    made = student(tmp_path, recipe, definition, losses__blurred=blurred)
    runs.Path(made.out).mkdir()
    assert len(fitted_drops(made, runs.open_cache(made))) == count


def test_drops_that_cannot_be_fitted_or_used_are_refused(tmp_path):
    with pytest.raises(ValueError, match="losses.blurred 'dropped' requires coarse latents .* definition 'latents'"):
        runs.run_distillation(student(tmp_path, definition="latents", losses__blurred="dropped"))
    with pytest.raises(ValueError, match="'dropped' requires a recipe that noises .* got 'dmd-ot' and pyramid.preset"):
        student(tmp_path / "other", "dmd-ot", losses__blurred="dropped")
