"""The pictures for the template browser."""

import numpy as np
import pytest
from PIL import Image

from tiny_wan.world.grammar import parse
from tools.build_workflows import FOLDER
from tools.graphs import WORKFLOWS, build, has_trained, title
from tools.make_thumbnails import (
    FRAMES,
    LABEL_HEIGHT,
    MOTIFS,
    SIDE,
    Motif,
    alone,
    animation,
    growing,
    inset,
    label_of,
    rendered,
    save,
    split,
    two_insets,
)

RED, GREEN, BLUE = (220, 30, 30), (30, 220, 30), (30, 30, 220)
PROMPT = MOTIFS["wan_any_graph"].prompt
MIDDLE = SIDE // 2, (SIDE - LABEL_HEIGHT) // 2


def plain(colour):
    return Image.new("RGB", (128, 128), colour)


def near(sheet, place, colour):
    return np.allclose(sheet.getpixel(place), colour, atol=25)


def test_halves_of_two_pictures_are_beside_each_other():
    sheet = split([plain(RED), plain(GREEN)])
    assert (
        near(sheet, (30, 100), RED) and near(sheet, (SIDE - 30, 100), GREEN) and near(sheet, (SIDE // 2, 100), (250, 250, 250))
    )


def test_what_goes_in_is_smaller_than_what_is_made():
    for arrange, small in ((inset, (50, 50)), (growing, (45, SIDE - LABEL_HEIGHT - 45))):
        sheet = arrange([plain(RED), plain(GREEN)])
        assert near(sheet, small, RED)
        colours = np.asarray(sheet)
        assert (colours[..., 1] > 150).sum() > 3 * (colours[..., 0] > 150).sum() / 2
    sheet = two_insets([plain(RED), plain(BLUE), plain(GREEN)])
    assert (
        near(sheet, (50, 50), RED) and near(sheet, MIDDLE, GREEN) and near(sheet, (SIDE - 50, SIDE - LABEL_HEIGHT - 50), BLUE)
    )


def test_a_picture_moves_and_is_read_by_browsers_whatever_its_name(tmp_path):
    clip = [plain((step * 14, 0, 0)) for step in range(FRAMES)]
    path = tmp_path / "picture.jpg"
    save(animation(Motif(PROMPT, alone), "label", clip), path)
    with Image.open(path) as picture:
        assert picture.format == "WEBP" and picture.n_frames == 2 * FRAMES - 2 and picture.size == (SIDE, SIDE)
        reds = []
        for number in (0, FRAMES - 1):
            picture.seek(number)
            reds.append(picture.convert("RGB").getpixel(MIDDLE)[0])
    assert reds[1] - reds[0] > 150


def test_the_label_fits():
    longest = max((label_of(build(name), trained=MOTIFS[name].trained) for name in WORKFLOWS), key=len)
    sheet = animation(Motif(PROMPT, alone), longest, [plain(GREEN)])[0]
    band = np.asarray(sheet.convert("L"))[SIDE - LABEL_HEIGHT :]
    written = np.flatnonzero((band > 128).any(axis=0))
    assert 0 < written[0] and written[-1] < SIDE - 1 and len(written) > SIDE / 4


def test_the_label_says_how_it_was_made():
    assert label_of(build("wan_t2v_pyramid_2-2-1"), trained=True) == "tiny demo model · 2-2-1 steps"
    assert label_of(build("wan_compare_plain_vs_pyramid"), trained=True) == "tiny demo model · 50 and 20-10 steps"
    assert [name for name in WORKFLOWS if not has_trained(name)] == [name for name in MOTIFS if not MOTIFS[name].trained]


def test_every_workflow_has_a_prompt_of_its_own():
    assert list(MOTIFS) == list(WORKFLOWS)
    captions = [parse(motif.prompt) for motif in MOTIFS.values()]
    assert len(set(map(str, captions))) == len(captions)
    assert len(rendered(PROMPT)) == FRAMES


@pytest.mark.parametrize("name", WORKFLOWS)
def test_the_pictures_are_small_and_move(name):
    path = FOLDER / f"{title(name)}.jpg"
    with Image.open(path) as picture:
        assert picture.format == "WEBP" and picture.n_frames > 10 and picture.size == (SIDE, SIDE)
    assert path.stat().st_size < 100_000


def test_no_two_pictures_look_alike():
    first = {name: Image.open(FOLDER / f"{title(name)}.jpg").convert("RGB").resize((16, 16)) for name in WORKFLOWS}
    pixels = {name: np.asarray(picture, dtype=float) for name, picture in first.items()}
    names = list(pixels)
    differences = [abs(pixels[a] - pixels[b]).mean() for i, a in enumerate(names) for b in names[i + 1 :]]
    assert min(differences) > 8
