"""Batches: the samples of a step, and how processes divide them."""

import torch

from pyramid.training.data.batches import Plan, StepDataset
from pyramid.training.data.cache_files import Cache
from pyramid.training.engine import draws
from tiny_wan.training_files import cache_folder

FIELDS = ("clean", "coarse", "noise", "rho", "context")


def plan(**changes):
    return Plan(**{"seed": 1, "per_stage": 2, "accumulation": 1, "first": 0, "last": 6, "drop": 0.3, **changes})


def gather(batches, field):
    values = [getattr(batch, field) for batch in batches]
    return None if values[0] is None else torch.cat(values)


def test_two_processes_read_the_samples_of_one_with_twice_the_batch_size(tmp_path):
    cache = Cache(cache_folder(tmp_path))
    single = StepDataset(cache, plan(per_stage=4))
    shares = [StepDataset(cache, plan(process=process, processes=2)) for process in range(2)]
    for step in range(3):
        for stage in range(3):
            alone = single[step][0][stage]
            together = [share[step][0][stage] for share in shares]
            for field in FIELDS:
                one, both = getattr(alone, field), gather(together, field)
                assert (one is None and both is None) or torch.equal(one, both)


def test_accumulation_reads_the_samples_of_a_larger_batch(tmp_path):
    cache = Cache(cache_folder(tmp_path))
    large, parts = StepDataset(cache, plan(per_stage=4)), StepDataset(cache, plan(accumulation=2))
    for field in FIELDS:
        assert torch.equal(getattr(large[5][0][1], field), gather([part[1] for part in parts[5]], field))


def test_every_pass_over_the_data_is_a_new_permutation():
    passes = [[draws.shuffled(turn * 7 + number, 7, 3, "item", 0) for number in range(7)] for turn in range(4)]
    assert all(sorted(one) == list(range(7)) for one in passes)
    assert len({tuple(one) for one in passes}) == 4


def test_stratified_draws_fill_every_stratum_and_are_uniform():
    values = torch.tensor([draws.stratified(number, 8, 0, "rho") for number in range(4000)])
    strata = (values.reshape(-1, 8) * 8).floor().sort(dim=1).values
    assert torch.equal(strata, torch.arange(8.0).expand(500, 8))
    assert abs(values.mean() - 0.5) < 0.01 and abs(values.var() - 1 / 12) < 0.005


def test_draws_of_stages_and_samples_are_independent(tmp_path):
    cache = Cache(cache_folder(tmp_path))
    step = StepDataset(cache, plan(drop=0.0))[0][0]
    high = step[2]
    assert abs(torch.corrcoef(torch.stack([high.noise[0].flatten(), high.noise[1].flatten()]))[0, 1]) < 0.05
    assert len({float(rho) for batch in step for rho in batch.rho}) == 6


def test_the_share_of_empty_prompts_is_as_configured(tmp_path):
    cache = Cache(cache_folder(tmp_path))
    batches = [StepDataset(cache, plan(per_stage=8, drop=0.25))[step][0][0] for step in range(40)]
    empty = torch.cat([(batch.context == batch.empty).flatten(1).all(1) for batch in batches])
    assert 0.17 < empty.float().mean() < 0.33


def test_coarse_and_clean_latents_are_of_the_same_item(tmp_path):
    cache = Cache(cache_folder(tmp_path))
    mid, high = StepDataset(cache, plan())[0][0][1:]
    stage = cache.info.spec.stages(cache.info.latent)[2]
    assert torch.allclose(stage.from_coarser.down(high.clean), high.coarse, atol=1e-5)
    assert mid.coarse.shape[-3:] == (2, 4, 4)
