"""The pictures for the template browser."""

import io
from fractions import Fraction

import av
import numpy as np
import pytest

from tools.graphs import WORKFLOWS, build, has_trained
from tools.make_thumbnails import LABEL_HEIGHT, QUALITY, SIDE, card, picture, steps_of, title_of

RED, GREEN, BLUE, WHITE = (220, 30, 30), (30, 220, 30), (30, 30, 220), (220, 220, 220)
MIDDLES = [(100, 90), (300, 90), (100, 270), (300, 270)]


@pytest.fixture
def video(tmp_path):
    """Return a function that writes a video from one colour per frame."""

    def write(name, colours):
        path = tmp_path / name
        with av.open(str(path), "w") as container:
            stream = container.add_stream("h264", rate=Fraction(16))
            stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
            for colour in colours:
                frame = np.full((64, 64, 3), colour, dtype=np.uint8)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
            container.mux(stream.encode(None))
        return path

    return write


def shown(sheet):
    """Return the colours in the centres of the four frames."""
    return [sheet.getpixel(middle) for middle in MIDDLES]


def test_the_frames_of_one_video_are_in_reading_order(video):
    sheet = picture([video("one.mp4", [RED] * 2 + [GREEN] * 4 + [BLUE] * 4 + [WHITE] * 2)], "label")
    assert sheet.size == (SIDE, SIDE)
    assert np.allclose(shown(sheet), [RED, GREEN, BLUE, WHITE], atol=25)


def test_two_videos_have_a_row_each(video):
    sheet = picture([video("one.mp4", [RED] * 3 + [GREEN] * 3), video("other.mp4", [BLUE] * 3 + [WHITE] * 3)], "label")
    assert np.allclose(shown(sheet), [RED, GREEN, BLUE, WHITE], atol=25)


def test_the_label_fits_and_the_file_is_small(video):
    noise = np.random.default_rng(0).integers(0, 255, (17, 3))
    sheet = picture([video("one.mp4", noise)], "tiny demo model, 50 and 20-10 steps")
    band = np.asarray(sheet.convert("L"))[SIDE - LABEL_HEIGHT :]
    written = np.flatnonzero((band > 128).any(axis=0))
    assert 0 < written[0] and written[-1] < SIDE - 1 and len(written) > SIDE / 4
    file = io.BytesIO()
    sheet.save(file, "jpeg", quality=QUALITY)
    assert file.tell() < 100_000


@pytest.mark.parametrize("name", [name for name in WORKFLOWS if not has_trained(name)])
def test_a_card_shows_the_whole_title(name):
    sheet = np.asarray(card(title_of(build(name)), "20 steps").convert("L"))[: SIDE - LABEL_HEIGHT]
    rows, columns = (np.flatnonzero((sheet > 128).any(axis=axis)) for axis in (1, 0))
    assert 0 < rows[0] and rows[-1] < len(sheet) - 1 and 0 < columns[0] and columns[-1] < SIDE - 1
    assert abs(columns[0] + columns[-1] - SIDE) < 0.1 * SIDE and len(columns) > SIDE / 3


def test_the_steps_are_those_of_the_workflow():
    assert steps_of(build("wan_t2v_pyramid_2-2-1")) == "2-2-1"
    assert steps_of(build("wan_compare_plain_vs_pyramid")) == "50 and 20-10"
