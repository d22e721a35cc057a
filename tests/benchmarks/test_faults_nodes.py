"""The judge of the campaign of malformed inputs finds every kind of failure, and its files are damaged."""

import math
import random

import folder_paths
import pytest
import torch
from safetensors.torch import save_file

from benchmarks.faults.audited_values import audited_values
from benchmarks.faults.cases import NotHeldError
from benchmarks.faults.damaged_files import damage
from benchmarks.faults.graph_runner import GraphRunner, Outcome
from benchmarks.faults.malformed_nodes import expect_loads, expect_sentence
from benchmarks.faults.node_graphs import valid_inputs
from harness.in_process import pack_module


def test_every_node_takes_part():
    ids = {node.GET_SCHEMA().node_id for node in pack_module("nodes").NODES}
    assert ids == {f"PyramidalWan{node}" for node in valid_inputs()}


@pytest.mark.parametrize(
    "outcome",
    [
        Outcome(error="'NoneType' object has no attribute 'shape'", kind="AttributeError"),
        Outcome(error="'int' object has no attribute 'strip'", kind="ValueError"),
        Outcome(error="first line\nsecond line", kind="ValueError"),
        Outcome(error="x" * 501, kind="ValueError"),
        Outcome(refused=("Exception when validating inner node: x",), crashes=("Exception when validating inner node: x",)),
        Outcome(refused=("Custom validation failed for node: steps - could not convert string to float",)),
        Outcome(kept={"samples": {"samples": torch.tensor(math.nan)}}),
        Outcome(kept={"drafts": [{"samples": torch.tensor(math.inf)}]}),
    ],
)
def test_what_is_no_sentence_fails(outcome):
    with pytest.raises(NotHeldError):
        expect_sentence(outcome, "case")


@pytest.mark.parametrize(
    "outcome",
    [
        Outcome(error="steps 'a' has no steps; the last number must be at least 1", kind="ValueError"),
        Outcome(refused=("Value not in list: grid: 'x' not in ['auto']",)),
        Outcome(kept={"samples": {"samples": torch.zeros(2)}, "text": "a"}),
    ],
)
def test_a_sentence_and_a_finite_result_hold(outcome):
    expect_sentence(outcome, "case")


def test_every_damage_changes_the_file_and_the_same_seed_does_the_same(tmp_path):
    ways = set()
    for seed in range(30):
        paths = [tmp_path / f"{seed} {copy}.safetensors" for copy in range(2)]
        for path in paths:
            save_file({"a": torch.arange(12.0).reshape(3, 4), "b": torch.ones(2)}, path, {"spec": '{"a": [1, {"b": 2}]}'})
        before = paths[0].read_bytes()
        first, second = (damage(path, random.Random(seed)) for path in paths)
        assert first == second
        assert not paths[0].is_file() or paths[0].read_bytes() == paths[1].read_bytes() != before, first
        ways.add(first)
    assert len(ways) > 15


def test_a_file_that_was_saved_and_cannot_be_loaded_fails(tmp_path, monkeypatch):
    for kind in ("input", "output"):
        monkeypatch.setattr(folder_paths, f"{kind}_directory", str(tmp_path / kind))
    path = tmp_path / "output" / "conditioning" / "x.safetensors"
    path.parent.mkdir(parents=True)
    runner = GraphRunner()
    save_file({"cross_attn": torch.ones(1, 2, 8)}, path)
    expect_loads(runner, tmp_path, path, "case")
    save_file({"cross_attn": torch.ones(2)}, path)
    with pytest.raises(NotHeldError, match="case: saved, but cannot be loaded: .* is damaged: an embedding of shape"):
        expect_loads(runner, tmp_path, path, "case")


def test_every_audited_value_is_for_an_input_of_a_node():
    inputs = valid_inputs()
    assert all(name in inputs[node] for node, name, _ in audited_values().values()) and len(audited_values()) > 60
