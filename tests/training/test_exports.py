"""Exported and initialised files: whole, finite, and never in place of something else."""

import os

import pytest
import torch
from safetensors.torch import load_file, save_file

from pyramid.training import run as runs
from pyramid.training.__main__ import main
from pyramid.training.config.finetune import FinetuneConfig
from pyramid.training.config.toml_config import check_config, to_toml
from pyramid.training.engine.locks import locked
from tiny_wan.checkpoints import t2v_state_dict
from tiny_wan.training_files import settings

LARGE = "blocks.0.ffn.0.bias"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Finetune a step of a network with a bias that fp16 cannot hold; return the folder with the run and its inputs."""
    folder = tmp_path_factory.mktemp("trained")
    tables = settings(folder, train__steps=1, train__per_stage=1, losses__teacher=0.0, optimizer__learning_rate=1e-6)
    weights = {name: value.float() for name, value in load_file(folder / "tiny.safetensors").items()}
    weights[LARGE][0] = -9e4
    save_file(weights, folder / "tiny.safetensors")
    made = check_config(FinetuneConfig, tables, "test")
    with torch.enable_grad():
        runs.run_finetuning(made)
    (folder / "run.toml").write_text(to_toml(made))
    return folder


def export(trained, capsys, *arguments):
    """Run the command; return its exit status and what it said."""
    status = main(["export", str(trained / "run.toml"), *map(str, arguments)])
    said = capsys.readouterr()
    assert said.err.count("\n") == (status == 2)
    return status, said.err + said.out


def test_a_weight_that_a_precision_cannot_hold_is_named(trained, tmp_path, capsys):
    status, said = export(trained, capsys, "--precision", "fp16", "--to", tmp_path / "out.safetensors")
    assert status == 2 and not list(tmp_path.iterdir())
    assert f"'{LARGE}' holds 9e+04, which fp16 cannot represent (at most 6.55e+04); use --precision bf16" in said
    assert export(trained, capsys, "--to", tmp_path / "out.safetensors")[0] == 0
    assert load_file(tmp_path / "out.safetensors")[LARGE][0] < -8.9e4


@pytest.mark.parametrize(
    "target, message",
    [
        ("tiny.safetensors", "tiny.safetensors is model.transformer of this run and would be replaced; name another file"),
        ("link.safetensors", "link.safetensors is model.transformer of this run and would be replaced"),
        ("cache/shard-00000.safetensors", "shard-00000.safetensors is a file of the cache and would be replaced"),
        ("run/log.jsonl", "log.jsonl is a file of this run and would be replaced"),
        ("run/checkpoints/step-00000001/notes.json", "notes.json is a file of this run and would be replaced"),
        ("run", "run is a folder; expected a file, or a name that does not exist yet"),
        ("tiny.safetensors/to", "tiny.safetensors/to cannot be written, because "),
        ("pipe", "pipe is a pipe, socket or device; expected a file, or a name"),
    ],
)
def test_an_export_replaces_nothing_but_exports(trained, capsys, target, message):
    if target == "pipe":
        os.mkfifo(trained / target)
    if target.startswith("link"):
        (trained / target).symlink_to("tiny.safetensors")
    before = {path: path.lstat() for path in trained.rglob("*")}
    status, said = export(trained, capsys, "--to", trained / target)
    assert status == 2 and message in said
    after = {path: path.lstat() for path in trained.rglob("*")}
    assert {path: (stat.st_ino, stat.st_size, stat.st_mtime_ns) for path, stat in before.items()} == {
        path: (stat.st_ino, stat.st_size, stat.st_mtime_ns) for path, stat in after.items()
    }


def test_two_exports_do_not_disturb_each_other(trained, tmp_path, capsys):
    """What another export is writing looks like what an interrupted one left."""
    folder = trained / "run" / "export"
    leftover, elsewhere = folder / "run-step1.safetensors.ab.partial", tmp_path / "mine.safetensors.ab.partial"
    for path in (leftover, elsewhere):
        path.touch()
    with locked(folder):
        status, said = export(trained, capsys)
        assert status == 2 and "export is in use by this process; wait" in said and "name another file with --to" in said
        assert export(trained, capsys, "--to", tmp_path / "mine.safetensors")[0] == 0
    assert leftover.exists() and elsewhere.exists()
    assert export(trained, capsys)[0] == 0 and not leftover.exists()


def initialise(folder, weights, *arguments):
    save_file(weights, folder / "model.safetensors")
    return main(["init-ppf", str(folder / "model.safetensors"), *map(str, arguments)])


def cut(name, rows):
    return lambda weights: weights.update({name: weights[name][:rows].clone()})


@pytest.mark.parametrize(
    "change, message",
    [
        (
            lambda weights: weights["blocks.0.self_attn.q.weight"].view(-1)[:1].fill_(float("nan")),
            "holds NaN or infinity in 'blo",
        ),
        (cut("head.head.weight", 0), "its layers have sizes that do not belong together"),
        (cut("head.head.weight", 3), "its layers have sizes that do not belong together"),
        (cut("head.head.bias", 3), "its layers have sizes that do not belong together"),
        (cut("patch_embedding.bias", 3), "its layers have sizes that do not belong together"),
        (lambda weights: weights.update(x=torch.zeros(1).to(torch.float8_e4m3fn)), "is quantised and cannot be trained"),
    ],
)
def test_a_damaged_network_is_not_initialised(tmp_path, capsys, change, message):
    weights = t2v_state_dict()
    change(weights)
    assert initialise(tmp_path, weights) == 2
    assert message in capsys.readouterr().err and [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]


def test_an_initial_checkpoint_does_not_replace_its_model(tmp_path, capsys):
    assert initialise(tmp_path, t2v_state_dict(), "--to", tmp_path / "model.safetensors") == 2
    assert "model.safetensors is the model and would be replaced; name another file" in capsys.readouterr().err
    assert load_file(tmp_path / "model.safetensors").keys() == t2v_state_dict().keys()
    assert initialise(tmp_path, t2v_state_dict(), "--to", tmp_path) == 2
    assert f"{tmp_path} is a folder; expected a file" in capsys.readouterr().err
