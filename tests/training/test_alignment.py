"""Data-noise alignment: the best assignment of the same draws, inside one forward pass, and never in validation."""

import itertools
import math

import pytest
import torch
from test_finetune_run import assert_equal, config, weights

from pyramid.training import run as runs
from pyramid.training import validation
from pyramid.training.config.distill import DistillConfig
from pyramid.training.config.toml_config import check_config
from pyramid.training.data.alignment import aligned
from pyramid.training.data.batches import Plan, StepDataset
from pyramid.training.data.cache_files import Cache
from pyramid.training.recipes.finetune import Finetuning
from tiny_wan.training_files import cache_folder, distillation_settings


def random(*size, seed):
    return torch.randn(size, generator=torch.Generator().manual_seed(seed))


def distance(noise, clean):
    return (noise - clean).square().sum().item()


@pytest.mark.parametrize("seed", range(4))
def test_the_assignment_is_the_best_of_all(seed):
    noise, clean = random(5, 2, 1, 2, 3, seed=seed), random(5, 2, 1, 2, 3, seed=seed + 100)
    best = min(distance(noise[list(order)], clean) for order in itertools.permutations(range(5)))
    assert distance(aligned(noise, clean), clean) == pytest.approx(best, rel=1e-6)
    assert best < 0.99 * distance(noise, clean)


def test_the_draws_stay_the_same_and_a_single_one_stays_where_it_is():
    noise, clean = random(7, 2, 1, 2, 3, seed=0), random(7, 2, 1, 2, 3, seed=1)
    order = [next(i for i, draw in enumerate(noise) if torch.equal(draw, row)) for row in aligned(noise, clean)]
    assert sorted(order) == list(range(7)) and order != list(range(7))
    assert torch.equal(aligned(noise[:1], clean[:1]), noise[:1])


def test_clips_of_half_precision_can_be_aligned():
    noise, clean = random(6, 4, 1, 8, 8, seed=0), random(6, 4, 1, 8, 8, seed=1)
    assert torch.equal(aligned(noise, clean.bfloat16()), aligned(noise, clean.bfloat16().float()))


@pytest.mark.parametrize(("clips", "values"), [(8, 4096), (64, 4096), (64, 16384)])
def test_the_distance_falls_by_less_than_the_bound(clips, values):
    noise, clean = random(clips, values, seed=0), random(clips, values, seed=1)
    fall = 1 - distance(aligned(noise, clean), clean) / distance(noise, clean)
    bound = math.sqrt(2 * math.log(clips) / values)
    assert 0.4 * bound < fall < bound


def test_noise_changes_places_only_within_a_forward_pass_of_a_stage(tmp_path):
    cache = Cache(cache_folder(tmp_path))
    plan = {"seed": 1, "per_stage": 3, "accumulation": 2, "first": 0, "last": 6}
    usual, with_alignment = (StepDataset(cache, Plan(**plan, align_noise=align))[0] for align in (False, True))
    moved = False
    for before, after in zip(itertools.chain(*usual), itertools.chain(*with_alignment), strict=True):
        assert all(torch.equal(getattr(before, name), getattr(after, name)) for name in ("clean", "rho", "context"))
        assert torch.equal(after.noise, aligned(before.noise, before.clean))
        moved |= not torch.equal(before.noise, after.noise)
    assert moved


def test_an_aligned_run_resumes_exactly_and_differs_from_an_ordinary_one(tmp_path):
    changes = {"train__align_noise": True, "train__per_stage": 4, "losses__teacher": 0.0}
    whole = config(tmp_path / "whole", **changes)
    runs.run_finetuning(whole)
    half = config(tmp_path / "half", **changes, train__steps=2)
    runs.run_finetuning(half)
    runs.run_finetuning(half.model_copy(update={"train": whole.train}))
    assert_equal(weights(whole), weights(half))
    ordinary = config(tmp_path / "ordinary", **{**changes, "train__align_noise": False})
    runs.run_finetuning(ordinary)
    assert any(not torch.equal(value, weights(ordinary)[name]) for name, value in weights(whole).items())


def test_validation_draws_independent_noise(tmp_path, monkeypatch):
    made = config(tmp_path, train__align_noise=True, losses__teacher=0.0)
    recipe, plans = Finetuning(made, runs.parallel.start(made.system)), []
    draw = validation.draw_batch
    monkeypatch.setattr(validation, "draw_batch", lambda cache, plan, *rest: plans.append(plan) or draw(cache, plan, *rest))
    with torch.no_grad():
        validation.FinetuneValidation(recipe, Cache(made.data.cache)).losses()
    assert len(plans) == 6 and not any(plan.align_noise for plan in plans)


def test_a_student_is_trained_on_independent_noise(tmp_path, monkeypatch):
    student = check_config(DistillConfig, distillation_settings(tmp_path, recipe="dmd-pt-star"), "test")
    plans, accelerator = [], runs.parallel.start(student.system)
    monkeypatch.setattr(runs, "StepDataset", lambda cache, plan: plans.append(plan))
    for made in (student, config(tmp_path / "finetuned", train__align_noise=True)):
        runs.step_batches(made, Cache(made.data.cache), accelerator)
    assert [plan.align_noise for plan in plans] == [False, True]
