"""A cache of the tiny world for the training code."""

import pytest
import torch

from pyramid.stages import PRESETS, TRAINING_PRESETS
from pyramid.training.data.cache_files import Cache
from tiny_wan.recipes import make_cache
from tiny_wan.recipes.patch_code import fit
from tiny_wan.world.scenes import render, scene_at
from tiny_wan.world.words import embed


@pytest.fixture(scope="module")
def code():
    return fit(seed=1, clips_per_size=32)


@pytest.mark.parametrize("definition", ["pixels", "latents"])
def test_a_cache_holds_every_stage_of_every_scene(tmp_path, code, definition):
    make_cache.make_cache(tmp_path, code, clips=3, preset="pyramidal-wan", definition=definition)
    cache = Cache(tmp_path)
    assert len(cache) == 3 and cache.info.definition == definition
    scene = scene_at(2, seed=make_cache.SEED)
    assert cache.caption(2) == str(scene.caption)
    assert torch.allclose(cache.text(2), embed(scene.caption), atol=0.02)
    full = code.latents(render([scene], frames=17, height=128, width=128))[0]
    assert (cache.latent(2, 2) - full).abs().max() < 0.05
    smaller = code.latents(render([scene], frames=9, height=64, width=64))[0]
    averaged = PRESETS["pyramidal-wan"].stages(make_cache.SHAPE)[2].from_coarser.down(full[None])[0]
    expected, other = (smaller, averaged) if definition == "pixels" else (averaged, smaller)
    assert (cache.latent(2, 1) - expected).abs().max() < 0.05 < (cache.latent(2, 1) - other).abs().max()
    assert [tuple(cache.latent(0, stage).shape) for stage in range(3)] == [(16, 2, 4, 4), (16, 3, 8, 8), (16, 5, 16, 16)]


def test_a_cache_can_be_of_a_pyramid_that_only_training_knows(tmp_path, code):
    make_cache.make_cache(tmp_path, code, clips=1, preset="tpdiff-2", definition="pixels")
    cache = Cache(tmp_path)
    assert cache.info.spec == TRAINING_PRESETS["tpdiff-2"]
    assert [tuple(cache.latent(0, stage).shape) for stage in range(2)] == [(16, 3, 16, 16), (16, 5, 16, 16)]


def test_an_interrupted_cache_is_completed(tmp_path, code, monkeypatch):
    monkeypatch.setattr(make_cache, "PER_SHARD", 2)
    make_cache.make_cache(tmp_path, code, clips=4, preset="pyramidal-wan", definition="pixels")
    expected = Cache(tmp_path).latent(1, 0).clone()
    (tmp_path / "shard-00000.safetensors").unlink()
    with pytest.raises(ValueError, match="1 of 2 shards are missing"):
        Cache(tmp_path)
    make_cache.make_cache(tmp_path, code, clips=4, preset="pyramidal-wan", definition="pixels")
    assert torch.equal(Cache(tmp_path).latent(1, 0), expected)
