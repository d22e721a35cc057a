"""The engine's parts on their own: the learning-rate schedule, the average of weights, atomic writes."""

import pytest
import torch

from pyramid.training.engine import atomic
from pyramid.training.engine.ema import ExponentialMovingAverage
from pyramid.training.engine.schedules import learning_rate_factor


def test_the_learning_rate_warms_up_stays_and_decays_to_zero():
    factors = [learning_rate_factor(step, steps=100, warm_up=10, decay_share=0.2) for step in range(101)]
    assert factors[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert set(factors[10:81]) == {1.0}
    assert factors[80:] == pytest.approx([(100 - step) / 20 for step in range(80, 101)])
    assert learning_rate_factor(120, steps=100, decay_share=0.2) == 0.0


def test_without_warm_up_and_decay_the_learning_rate_is_constant():
    assert {learning_rate_factor(step, steps=10) for step in range(11)} == {1.0}


def test_the_average_is_the_weighted_sum_of_all_weights_it_was_updated_with():
    weight = torch.zeros(3)
    average = ExponentialMovingAverage({"weight": weight}, decay=0.5)
    stored = average.values["weight"]
    expected = 0.0
    for step in range(20):
        weight.fill_(step)
        average.update(step)
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * step
        assert torch.allclose(stored, torch.full((3,), expected))


def test_a_loaded_average_resumes_where_it_was_saved():
    weight = torch.zeros(3)
    average, resumed = (ExponentialMovingAverage({"weight": weight}, decay=0.9) for _ in range(2))
    weight.fill_(1.0)
    average.update(5)
    resumed.load(average.values)
    weight.fill_(2.0)
    for one in (average, resumed):
        one.update(6)
    assert torch.equal(average.values["weight"], resumed.values["weight"])


def test_a_failed_write_leaves_the_old_file_and_no_leftover(tmp_path):
    path = tmp_path / "new folder" / "file.txt"
    atomic.write_text(path, "old")
    with pytest.raises(RuntimeError, match="disk"), atomic.atomic_file(path) as partial:
        partial.write_text("ne")
        raise RuntimeError("disk")
    assert path.read_text() == "old" and list(path.parent.iterdir()) == [path]


def test_leftovers_are_removed_from_a_folder_or_for_one_file(tmp_path):
    for name in ("one[1].12345678.partial", "other.12345678.partial", "one[1]"):
        (tmp_path / name).touch()
    atomic.remove_leftovers(tmp_path, "one[1]")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one[1]", "other.12345678.partial"]
    atomic.remove_leftovers(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["one[1]"]


def test_a_file_is_not_visible_before_it_is_complete(tmp_path):
    path = tmp_path / "file.txt"
    with atomic.atomic_file(path) as partial:
        partial.write_text("new")
        assert not path.exists()
    assert path.read_text() == "new" and list(tmp_path.iterdir()) == [path]


def test_a_published_folder_replaces_the_old_one_and_the_leftovers_of_an_interrupted_write(tmp_path):
    path = tmp_path / "folder"
    (atomic.fresh_folder(path) / "leftover").write_text("interrupted")
    (atomic.fresh_folder(path) / "one").write_text("1")
    assert not path.exists()
    atomic.publish_folder(path)
    (atomic.fresh_folder(path) / "two").write_text("2")
    assert [file.name for file in path.iterdir()] == ["one"]
    atomic.publish_folder(path)
    assert [file.name for file in path.iterdir()] == ["two"] and list(tmp_path.iterdir()) == [path]
