"""Checkpoints: complete, intact and best are what their files say."""

import json
import os
import shutil

import pytest
import torch

from pyramid.training.engine import atomic
from pyramid.training.engine.checkpoints import Checkpoints
from pyramid.training.engine.errors import SaveError


def save(checkpoints, step, validation=None):
    checkpoints.save(step, {"x": torch.tensor(float(step))}, {"n": step, "validation": validation})


def body_of(checkpoints, step):
    (path,) = checkpoints.path(step).glob("*.distcp")
    return path


def as_pipe(path):
    path.unlink()
    os.mkfifo(path)


def test_the_newest_checkpoints_and_the_best_one_are_kept(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=2)
    for step, validation in ((1, 3.0), (2, None), (3, 1.0), (4, 2.0), (5, None), (6, None)):
        save(checkpoints, step, validation)
    assert checkpoints.steps() == [3, 5, 6] and checkpoints.best() == 3
    state = {"x": torch.tensor(0.0)}
    assert checkpoints.load(5, state) == {"n": 5, "validation": None} and state["x"] == 5


def test_the_best_follows_from_the_checkpoints_alone(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=9)
    for step, validation in ((1, 2.0), (2, 1.0), (3, 1.0)):
        save(checkpoints, step, validation)
    assert Checkpoints(tmp_path, keep=9).best() == 2
    atomic.remove(checkpoints.path(2))
    assert Checkpoints(tmp_path, keep=9).best() == 3
    assert sorted(path.name for path in checkpoints.folder.iterdir()) == ["step-00000001", "step-00000003"]


def test_without_validation_there_is_no_best(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=9)
    save(checkpoints, 1)
    assert checkpoints.best() is None


def test_an_incomplete_checkpoint_is_ignored_and_removed_with_the_leftovers(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=2)
    save(checkpoints, 1)
    interrupted = checkpoints.folder / "step-00000002.partial"
    interrupted.mkdir()
    (interrupted / "checksums.json").write_text("{}")
    (checkpoints.folder / "step-3").mkdir()
    assert checkpoints.steps() == [1]
    atomic.remove_leftovers(checkpoints.folder)
    assert not interrupted.exists() and checkpoints.steps() == [1]


@pytest.mark.parametrize(
    "damage, message",
    [
        (lambda path: path.write_bytes(path.read_bytes()[:-8] + bytes(8)), "has changed since it was written"),
        (lambda path: os.truncate(path, 10), "has changed since it was written"),
        (lambda path: path.unlink(), "is missing"),
        (lambda path: (path.parent / "more").touch(), "more is not part of it"),
        (lambda path: (path.parent / "checksums.json").write_text("{"), "checksums.json cannot be read"),
        (lambda path: (path.parent / "notes.json").write_text("{}"), "notes.json has changed since it was written"),
        (lambda path: (path.parent / "checksums.json").unlink(), "checksums.json is missing"),
        (lambda path: shutil.rmtree(path.parent), "checksums.json is missing"),
        (lambda path: as_pipe(path.parent / "checksums.json"), "is not a file but a pipe"),
        (lambda path: as_pipe(path.parent / "notes.json"), "notes.json is missing"),
    ],
)
def test_the_newest_intact_checkpoint_is_resumed_and_damaged_ones_are_set_aside(tmp_path, capsys, damage, message):
    checkpoints = Checkpoints(tmp_path, keep=9)
    for step in (1, 2):
        save(checkpoints, step)
    assert checkpoints.newest_intact() == 2
    damage(body_of(checkpoints, 2))
    checkpoints.path(2).mkdir(exist_ok=True)
    assert checkpoints.newest_intact() == 1
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1 and "resuming from step 1" in said
    assert checkpoints.steps() == [1] and (checkpoints.folder / "step-00000002.damaged").is_dir()


@pytest.mark.parametrize("damage", [lambda path: os.truncate(path, 10), lambda path: (path.parent / "checksums.json").unlink()])
def test_if_all_are_damaged_the_run_does_not_start_anew(tmp_path, damage):
    checkpoints = Checkpoints(tmp_path, keep=9)
    for step in (1, 2):
        save(checkpoints, step)
        damage(body_of(checkpoints, step))
    with pytest.raises(ValueError, match="all checkpoints in .* are damaged .step 2: .*; step 1: .*; restore one"):
        checkpoints.newest_intact()
    assert checkpoints.steps() == [1, 2]


def test_a_damaged_note_cannot_make_a_checkpoint_the_best(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=9)
    save(checkpoints, 1, 2.0)
    save(checkpoints, 2, 3.0)
    (checkpoints.path(2) / "notes.json").write_text(json.dumps({"n": 2, "validation": 0.0}))
    assert checkpoints.best() == 1
    as_pipe(checkpoints.path(2) / "notes.json")
    assert checkpoints.best() == 1


def test_other_tensors_are_an_error_in_words(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=9)
    save(checkpoints, 1)
    for state in ({"x": torch.zeros(3)}, {"y": torch.tensor(0.0)}):
        with pytest.raises(ValueError, match="the checkpoint of step 1 in .* does not fit this run: "):
            checkpoints.load(1, state)


def test_a_checkpoint_that_cannot_be_written_leaves_the_others(tmp_path, monkeypatch):
    checkpoints = Checkpoints(tmp_path, keep=1)
    save(checkpoints, 1)

    def full(path):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(atomic, "publish_folder", full)
    with pytest.raises(SaveError, match="the checkpoint of step 2 cannot be written to .*No space left on device"):
        save(checkpoints, 2)
    assert [path.name for path in checkpoints.folder.iterdir()] == ["step-00000001"]
