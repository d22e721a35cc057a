"""Frames at a constant rate from videos of any: time stamps decide which frame stands at each instant."""

import io
from fractions import Fraction

import av
import numpy as np
import pytest

from pyramid.training.data.clips import ClipSize, UnusableError, clips_of, nearest_frames


def chosen(milliseconds, *, rate=16, count=1):
    times = [(Fraction(time, 1000), number) for number, time in enumerate(milliseconds)]
    return list(nearest_frames(iter(times), Fraction(rate), count))


def test_a_constant_rate_keeps_every_frame_or_every_second_one():
    assert chosen(range(0, 1000, 50), rate=20) == list(range(20))
    assert chosen(range(0, 1000, 25), rate=20) == list(range(0, 40, 2))


def test_every_instant_gets_the_nearest_frame_and_the_earlier_of_two():
    """Instants are 0, 100, 200, ... ms."""
    assert chosen([0, 60, 130, 180, 290, 350, 450], rate=10) == [0, 2, 3, 4, 5]


def test_a_frame_stands_until_the_next_one_is_nearer():
    """Instants are 0, 100, ..., 500 ms; the frame of 100 ms is the nearest to three of them."""
    assert chosen([0, 50, 100, 400, 420, 440, 460, 480, 500], rate=10, count=6) == [0, 2, 2, 3, 3, 8]


def test_times_may_start_anywhere():
    assert chosen(range(5000, 6000, 50), rate=20) == list(range(20))


@pytest.mark.parametrize(
    "milliseconds, message",
    [
        ([0, 50, 100, 100], "has time stamps that do not rise: 0.100 s follows 0.100 s"),
        ([0, 50, 100, 40], "has time stamps that do not rise: 0.040 s follows 0.100 s"),
        ([*range(0, 1000, 50), 2000], "has a gap of 1.05 s after 0.95 s; at most 0.15 s is allowed"),
        ([0, 500, 1000], "too slow: 2 frames per second; at least 20 are required"),
        (range(0, 1000, 100), "too slow: 10 frames per second; at least 20 are required"),
    ],
)
def test_gaps_and_impossible_times_are_reasons(milliseconds, message):
    with pytest.raises(UnusableError, match=message):
        chosen(milliseconds, rate=20)


def test_an_impossible_rate_is_a_reason():
    times = ((Fraction(number, 100_000), number) for number in range(100_000))
    with pytest.raises(UnusableError, match="has 1e.05 frames per second, which is impossible; at most 1000 are expected"):
        list(nearest_frames(times, Fraction(16), 1))


def video(times, *, rate=1000, unit=Fraction(1, 1000)):
    """Return a Matroska file whose frames have these times, in units, and the brightness of their number times ten."""
    file = io.BytesIO()
    with av.open(file, "w", format="matroska") as container:
        stream = container.add_stream("ffv1", rate=rate)
        stream.width, stream.height, stream.pix_fmt, stream.time_base = 16, 16, "bgr0", unit
        stream.codec_context.time_base = unit
        for number, time in enumerate(times):
            frame = av.VideoFrame.from_ndarray(np.full((16, 16, 3), 10 * number, dtype=np.uint8), format="rgb24")
            frame.pts, frame.time_base = time, unit
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return io.BytesIO(file.getvalue())


def numbers(clip):
    return ((clip[0, :, 0, 0] + 1) * 12.75).round().int().tolist()


def test_a_video_of_variable_rate_is_read_by_its_time_stamps():
    (clip,) = clips_of(video([0, 30, 100, 160, 200, 320, 400, 480]), ClipSize(16, 16, 5, fps=10))
    assert numbers(clip) == [0, 2, 4, 5, 6]


def test_the_rate_of_the_file_is_kept_if_it_can_be():
    (clip,) = clips_of(video(range(0, 1000, 50), rate=20), ClipSize(16, 16, 5, fps=0))
    assert numbers(clip) == [0, 1, 2, 3, 4]
    with pytest.raises(UnusableError, match="says that it has 5000 frames per second; expected 1 to 1000"):
        clips_of(video([0, 1, 2], rate=5000), ClipSize(16, 16, 2, fps=0))


@pytest.mark.parametrize(
    "text", [b"#EXTM3U\n#EXTINF:1,\nfile:///etc/hostname\n", b"ffconcat version 1.0\nfile /etc/hostname\n"]
)
def test_a_playlist_is_not_followed(text):
    with pytest.raises(UnusableError, match="cannot be decoded"):
        clips_of(io.BytesIO(text), ClipSize(16, 16, 2))
