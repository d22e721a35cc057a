"""The pictures for the template browser.

After a change of a drawing: .venv/bin/python -m tools.make_thumbnails
"""

import numpy as np
import pytest
from PIL import Image

from tools.build_workflows import FOLDER
from tools.graphs import WORKFLOWS, build, title
from tools.make_thumbnails import FRAMES, PICTURES, save
from tools.pictures.canvas import Canvas, mixed, wave
from tools.pictures.layout import (
    HEIGHT,
    LABEL,
    LABEL_HEIGHT,
    SIDE,
    compared,
    growing,
    in_frame_rates,
    in_patches,
    labelled,
    swept,
    with_steps,
    with_stills,
)

LARGEST = 100_000
"""Bytes."""
RED, GREEN = "#dc1e1e", "#1edc1e"
LIT = (255, 198, 92)


def plain(colour):
    return lambda time: Canvas((0, colour), (1, colour)).image


def pixels(picture):
    return np.asarray(picture.convert("RGB"), dtype=float)


def share_of(picture, colour):
    return (abs(pixels(picture) - np.array(Image.new("RGB", (1, 1), colour).getpixel((0, 0)))).max(axis=2) < 30).mean()


def test_what_is_before_and_after_are_on_both_sides_of_a_line():
    for time, more in ((0.25, RED), (0.75, GREEN)):
        sheet = swept(plain(RED), plain(GREEN), time)
        assert share_of(sheet, more) > 0.6 and share_of(sheet, RED) + share_of(sheet, GREEN) > 0.85


def test_what_goes_in_is_smaller_than_what_is_made():
    sheet = with_stills(plain(GREEN), (plain(RED)(0), plain(RED)(0)), 0)
    assert 0.1 < share_of(sheet, RED) < 0.2 and share_of(sheet, GREEN) > 0.6
    sheet = growing(plain(GREEN), ("draft", "finished"), 0)
    across = np.flatnonzero(share_of_rows(sheet, GREEN))
    assert 0.3 < share_of(sheet, GREEN) < 0.6 and len(across) > HEIGHT / 2


def share_of_rows(sheet, colour):
    return (abs(pixels(sheet) - Image.new("RGB", (1, 1), colour).getpixel((0, 0))).max(axis=2) < 30).any(axis=1)


def test_every_step_has_a_dot_that_lights_up():
    shares = [share_of(with_steps(plain("#000000"), (2, 2), time), LIT) for time in (0, 0.3, 0.5, 0.99)]
    assert shares == sorted(set(shares))


def test_patches_become_smaller_from_stage_to_stage():
    lines = [(pixels(in_patches(plain("#000000"), (2, 2, 1), time))[5].mean(axis=1) > 60).sum() for time in (0.1, 0.5, 0.9)]
    assert lines == [3, 7, 15]


def test_frames_double_from_stage_to_stage_and_each_is_the_current_one_once():
    shown = []

    def scene(time, moments, current):
        shown.append((list(moments), current))
        return plain("#000000")(time)

    for step in range(54):
        in_frame_rates(scene, (20, 20, 10), step / 54)
    expected = [(np.linspace(0, 1, count).tolist(), current) for count in (3, 5, 9) for current in range(count)]
    assert list(dict.fromkeys((tuple(moments), current) for moments, current in shown)) == [
        (tuple(moments), current) for moments, current in expected
    ]


def test_the_bars_show_the_operations_of_both():
    done = pixels(compared(plain("#000000"), (50, 20, 10), 0.99))
    lit = (abs(done - LIT).max(axis=2) < 10).any(axis=0)
    left, right = lit[: SIDE // 2].sum(), lit[SIDE // 2 :].sum()
    assert left == pytest.approx(120, abs=2) and right == pytest.approx(120 * 0.36, abs=3)


def test_the_label_fits():
    band = pixels(labelled(Image.new("RGB", (SIDE, SIDE), GREEN)))[HEIGHT:].mean(axis=2)
    written = np.flatnonzero((band > 128).any(axis=0))
    assert "not a result" in LABEL and band.shape[0] == LABEL_HEIGHT
    assert 0 < written[0] and written[-1] < SIDE - 1 and len(written) > SIDE / 4


def test_motion_begins_again_without_a_jump():
    assert all(abs(wave(0, cycles, 0.3) - wave(1, cycles, 0.3)) < 1e-9 for cycles in (1, 2, 3))
    assert mixed("#000000", "#ffffff", 0.5) in ("#808080", "#7f7f7f")


def test_every_workflow_has_a_picture():
    assert list(PICTURES) == list(WORKFLOWS)


@pytest.mark.parametrize(
    ("name", "counts"),
    [
        ("wan_t2v_training_free", "20-10"),
        ("wan_t2v_pyramid_2-2-1", "2-2-1"),
        ("wan_t2v_ppf_2-2-1", "2-2-1"),
        ("wan_t2v_tpdiff", "20-20-10"),
    ],
)
def test_dots_stand_for_the_steps_of_the_workflow(name, counts):
    steps = {node.values["steps"] for node in build(name).nodes if "steps" in node.values}
    assert steps == {counts} and "-".join(map(str, PICTURES[name].args[1])) == counts


def test_a_picture_moves_and_is_read_by_browsers_whatever_its_name(tmp_path):
    path = tmp_path / "picture.jpg"
    save([Image.new("RGB", (SIDE, SIDE), (14 * number, 0, 0)) for number in range(FRAMES)], path)
    with Image.open(path) as picture:
        assert picture.format == "WEBP" and picture.n_frames == FRAMES
        reds = []
        for number in (0, FRAMES - 1):
            picture.seek(number)
            reds.append(picture.convert("RGB").getpixel((50, 50))[0])
    assert reds[1] - reds[0] > 150


@pytest.mark.parametrize("name", WORKFLOWS)
def test_the_file_is_small_moves_and_is_what_the_script_draws(name):
    path = FOLDER / f"{title(name)}.jpg"
    with Image.open(path) as picture:
        assert picture.format == "WEBP" and picture.n_frames == FRAMES and picture.size == (SIDE, SIDE)
        drawn = pixels(labelled(PICTURES[name](0)))
        assert abs(pixels(picture) - drawn).mean() < 6
    assert path.stat().st_size < LARGEST


def test_no_two_pictures_look_alike():
    first = {name: Image.open(FOLDER / f"{title(name)}.jpg").convert("RGB").resize((16, 16)) for name in WORKFLOWS}
    shown = {name: np.asarray(picture, dtype=float) for name, picture in first.items()}
    names = list(shown)
    differences = [abs(shown[a] - shown[b]).mean() for i, a in enumerate(names) for b in names[i + 1 :]]
    assert min(differences) > 20
