"""Values from outside: JSON within limits, counts within limits, and messages of one short line whatever the value is."""

import json
import math

import pytest
import torch

from pyramid.lift import LinearMap
from pyramid.schedules import LEVELS_KEY, MAX_STEPS, levels_from_metadata, levels_to_metadata, parse_steps, split_schedule
from pyramid.segments import follow_curve
from pyramid.stage_names import stage_index, stage_set
from pyramid.stages import PRESETS, PyramidSpec
from pyramid.untrusted import MAX_JSON, first_line, read_json, read_json_object, shown

WAN = PRESETS["pyramidal-wan"]
VALUES = (
    None,
    True,
    "a\nb",
    "x" * 10**6,
    10**5000,
    -(10**5000),
    math.nan,
    [1] * 10**5,
    {"a": 1},
    torch.zeros(9, 9),
    object(),
    b"a",
)


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_every_value_is_shown_in_one_short_line(value):
    text = shown(value)
    assert text.isprintable() and 0 < len(text) < 100


def test_short_texts_and_numbers_are_shown_as_they_are():
    assert [shown(value) for value in ("low", 5, 0.5, None)] == ["'low'", "5", "0.5", "None"]


def test_an_exception_without_a_message_is_named():
    assert first_line(IndexError()) == "IndexError"
    assert first_line(ValueError("\n first \nsecond")) == "first"
    assert len(first_line(ValueError("x" * 10**6))) < 200


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[" * 200_000 + "]" * 200_000, "nested too deeply"),
        ("9" * 5000, "a number of 5000 digits is too large"),
        ("9" * 400, "a number of 400 digits is too large"),
        ("[NaN]", "NaN is not a number"),
        ('{"a": -Infinity}', "-Infinity is not a number"),
        ("1e400", "1e400 is too large"),
        ("{", "is not valid JSON"),
        (" " * (MAX_JSON + 1), f"expected at most {MAX_JSON}"),
    ],
    ids=lambda text: text[:12],
)
def test_json_that_python_reads_or_fails_on_is_rejected_by_name(text, words):
    with pytest.raises(ValueError, match=f"^the file.*{words}") as caught:
        read_json(text, "the file")
    assert len(str(caught.value)) < 300 and "\n" not in str(caught.value)


def test_json_of_another_kind_than_an_object_is_rejected():
    with pytest.raises(ValueError, match="must be a JSON object, got a list of 1"):
        read_json_object("[1]", "the file")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"boundaries": 5}, "boundaries must be a list with one entry per transition, got 5"),
        ({"boundaries": None}, "got None"),
        ({"downsample_axes": "HW"}, "downsample_axes must be a list"),
        ({"boundaries": [0.5] * 10**5}, "boundaries has 100000 entries; a pyramid has at most 10 stages"),
        ({"boundaries": [0.8, 1e-300]}, "between 0 and 1, got 1e-300"),
        ({"boundaries": [1 - 1e-16, 0.5]}, "between 0 and 1"),
        ({"boundaries": [[0.8], 0.5]}, "got a list of 1"),
        ({"resize": ["haar"]}, "unknown resize a list of 1"),
        ({"rope": "x" * 10**5}, "unknown rope 'xxx.*100000 characters"),
        ({"format": [1]}, "unsupported pyramid spec format a list of 1"),
        ({"more" * 10**4: 1}, "unknown fields in the pyramid spec"),
    ],
    ids=lambda value: str(value)[:40] if isinstance(value, dict) else "",
)
def test_a_damaged_pyramid_is_rejected_in_one_sentence(changes, words):
    values = {**json.loads(WAN.to_json()), **changes}
    with pytest.raises(ValueError, match=words) as caught:
        PyramidSpec.from_json(json.dumps(values))
    assert len(str(caught.value)) < 400


def test_a_pyramid_of_not_a_number_is_rejected():
    with pytest.raises(ValueError, match="NaN is not a number"):
        PyramidSpec.from_json(WAN.to_json().replace("0.602", "NaN"))


@pytest.mark.parametrize("steps", [f"{MAX_STEPS}-1", "99999999999-1", "1-" + "9" * 5000, "1" * 10**5 + "-1"])
def test_more_steps_than_a_run_has_are_rejected(steps):
    with pytest.raises(ValueError, match=f"are more than {MAX_STEPS} in all") as caught:
        parse_steps(steps, 2)
    assert len(str(caught.value)) < 200


def test_the_most_steps_are_accepted():
    assert parse_steps(f"{MAX_STEPS - 1}-1", 2) == (MAX_STEPS - 1, 1)


@pytest.mark.parametrize("stage", ["9" * 5000, "9" * 100_000, "4", "low" * 10**5])
def test_a_stage_without_end_is_rejected_in_one_sentence(stage):
    for choose in (lambda: stage_index(stage, 3), lambda: stage_set(stage, 3)):
        with pytest.raises(ValueError, match="unknown stage") as caught:
            choose()
        assert len(str(caught.value)) < 200


LEVELS = [[1.0, 0.95], [0.896, 0.7], [0.602]]


def test_levels_come_back_from_metadata():
    assert levels_from_metadata(levels_to_metadata(LEVELS), WAN) == [(1.0, 0.95, 0.896), (0.896, 0.7, 0.602), (0.602, 0.0)]


@pytest.mark.parametrize(
    ("levels", "words"),
    [
        ("[]", "expected a list of 3, one per stage"),
        ("{}", "expected a list of 3"),
        ("[[1.0], [0.896]]", "expected a list of 3"),
        ("[[1.0], [0.896], []]", "expected a list of numbers"),
        ("[[1.0], [0.896], 5]", "expected a list of numbers"),
        ('[[1.0], [0.896], ["a"]]', "a noise level is 'a'"),
        ("[[1.0], [0.896], [NaN]]", "NaN is not a number"),
        ("[[1.0, 1.0], [0.896], [0.602]]", "must fall from 1 to 0.896"),
        ("[[2.0], [0.896], [0.602]]", "must fall from 1 to 0.896"),
        ("[[1.0], [0.5], [0.602]]", "must fall from 0.896 to 0.602"),
        ("[[1.0], [0.896], [-0.5]]", "must fall from 0.602 to 0"),
    ],
)
def test_damaged_levels_are_rejected_in_one_sentence(levels, words):
    with pytest.raises(ValueError, match=words):
        levels_from_metadata({LEVELS_KEY: levels}, WAN)


def test_more_levels_than_a_run_has_steps_are_rejected():
    many = [1 - 0.1 * step / 20_000 for step in range(20_000)]
    with pytest.raises(ValueError, match="more than 10000 steps"):
        levels_from_metadata(levels_to_metadata([many, [0.896], [0.602]]), WAN)


@pytest.mark.parametrize(
    "split", [lambda curve: split_schedule(curve, (0.5,)), lambda curve: follow_curve(PRESETS["plain"], curve)]
)
def test_a_schedule_with_not_a_number_does_not_fall(split):
    with pytest.raises(ValueError, match="fall from step to step"):
        split([1.0, math.nan, 0.0])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"ratios": ["1", "2"]}, "ratios of the fitted map"),
        ({"ratios": ["1", "2", "1/0"]}, "ratios of the fitted map"),
        ({"ratios": ["1", "2", "9" * 5000]}, "ratios of the fitted map"),
        ({"ratios": ["1", "2", "1000"]}, "ratios of the fitted map"),
        ({"ratios": None}, "ratios of the fitted map are None"),
        ({"kernel": [3, 3, 10**12]}, "kernel of the fitted map"),
        ({"kernel": [3, 3, 0]}, "kernel of the fitted map"),
        ({"kernel": 3}, "kernel of the fitted map is 3"),
        ({"format": None}, "has format None"),
    ],
)
def test_a_damaged_map_is_rejected_in_one_sentence(changes, words):
    linear = LinearMap((1, 2, 2), (1, 1, 1), torch.zeros(1, 2, 2, 4, 5), torch.zeros(1, 2, 2, 4, 5))
    tensors, metadata = linear.to_tensors()
    (key,) = metadata
    values = {**json.loads(metadata[key]), **changes}
    assert LinearMap.from_tensors(tensors, metadata).ratios == (1, 2, 2)
    with pytest.raises(ValueError, match=words):
        LinearMap.from_tensors(tensors, {key: json.dumps(values)})
