"""What cannot work is refused before a network is loaded."""

import copy
import os

import pytest
import torch

from pyramid.training import run as runs
from pyramid.training.config.finetune import FinetuneConfig
from pyramid.training.config.toml_config import check_config
from pyramid.training.data.cache_files import Cache, CachedItem, write_info, write_shard
from tiny_wan.training_files import settings


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    return settings(tmp_path_factory.mktemp("inputs"))


@pytest.fixture
def start(tables, tmp_path, monkeypatch):
    """Start a run in an empty folder, with changes; loading a network fails the test."""

    def load(*_):
        pytest.fail("a network is loaded")

    def start(**changes):
        made = copy.deepcopy(tables) | {"out": str(tmp_path / "run")}
        for name, value in changes.items():
            table, _, key = name.partition("__")
            made[table][key] = value
        runs.run_finetuning(check_config(FinetuneConfig, made, "test"))

    monkeypatch.setattr(runs, "Finetuning", load)
    return start


@pytest.mark.parametrize("name", ["checkpoints", "samples", "export", "tensorboard"])
@pytest.mark.parametrize("make", [lambda path: path.write_text("x"), os.mkfifo, lambda path: path.symlink_to("nowhere")])
def test_names_that_become_folders_must_be_free(start, tmp_path, name, make):
    (tmp_path / "run").mkdir()
    make(tmp_path / "run" / name)
    with pytest.raises(ValueError, match=f"run/{name} is not a folder; move it away, or choose another 'out'"):
        start()


@pytest.mark.parametrize("name", ["log.jsonl", "config.toml", "inputs.json", "lock"])
@pytest.mark.parametrize("make, kind", [(os.mkdir, "a folder"), (os.mkfifo, "a pipe, socket or device")])
def test_names_that_become_files_must_be_free(start, tmp_path, name, make, kind):
    (tmp_path / "run").mkdir()
    make(tmp_path / "run" / name)
    with pytest.raises(ValueError, match=f"run/{name} is {kind}; expected a file, or a name that does not exist yet"):
        start()


def changed_cache(tables, folder, *, width=4096, channels=16):
    """Copy a cache with narrower text embeddings, or with fewer channels; return its folder."""
    cache = Cache(tables["data"]["cache"])
    write_info(folder, cache.info, cache.empty[:, :width].clone())
    for shard in range(cache.info.shards):
        numbers = range(shard * 4, min(len(cache), shard * 4 + 4))
        items = [
            CachedItem(
                cache.name(item),
                cache.caption(item),
                [cache.latent(item, stage)[:channels] for stage in range(cache.stages)],
                cache.text(item)[:, :width],
            )
            for item in numbers
        ]
        write_shard(folder, shard, items, [])
    return folder


def test_a_cache_of_another_text_encoder_is_refused(start, tables, tmp_path):
    folder = changed_cache(tables, tmp_path / "cache", width=64)
    with pytest.raises(
        ValueError, match="model.transformer .* reads text embeddings of width 4096, but those in the cache .* have width 64;"
    ):
        start(data__cache=str(folder))


def test_latents_of_another_size_than_the_cache_says_are_named(tables, tmp_path):
    cache = Cache(changed_cache(tables, tmp_path / "cache", channels=8))
    with pytest.raises(
        ValueError, match="'item 1' in the cache .* has a latent of 8x5x16x16, expected 16x5x16x16; make another"
    ):
        cache.latent(1, 2)
    cache.empty = torch.zeros(6, 8)
    with pytest.raises(ValueError, match="has a text embedding of .*x4096, expected tokensx8; make another cache"):
        cache.text(1)
