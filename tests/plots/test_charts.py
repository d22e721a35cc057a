"""Charts by both backends: what they show is where it should be. (They were looked at, too.)"""

import builtins

import numpy as np
import pytest
import torch
from comfyui_graph import empty
from PIL import Image

from pyramidalwan.nodes.analysis import PyramidalWanCalibrate, PyramidalWanCost
from pyramidalwan.plots import chart, with_pillow
from pyramidalwan.plots.chart import SIZE, Area, Chart, Line, draw, top_of_axis
from pyramidalwan.pyramid.stages import PRESETS, PyramidSpec
from pyramidalwan.samplers.analysis import calibrate, cost_of

WAN = PRESETS["pyramidal-wan"]
SIMPLE = Chart(
    "A title", "to the right", "upwards", (0, 10), (0, 1),
    lines=[Line([0, 10], [1, 0], "#ff0000", "falling")], areas=[Area(0, 5, "#0000ff", "first", "first half")],
)  # fmt: skip


def backends():
    yield "pillow", with_pillow.draw_chart
    try:
        from pyramidalwan.plots import with_matplotlib
    except ImportError:
        return
    yield "matplotlib", with_matplotlib.draw_chart


def red(picture):
    """Where the pure red line is: mean row for the leftmost and the rightmost of its columns."""
    pixels = np.asarray(picture).astype(int)
    rows, columns = np.nonzero((pixels[..., 0] > 200) & (pixels[..., 1] < 60) & (pixels[..., 2] < 60))
    return rows, columns


@pytest.mark.parametrize(("name", "backend"), list(backends()), ids=lambda v: v if isinstance(v, str) else "")
def test_a_falling_line_falls(name, backend):
    picture = backend(SIMPLE)
    assert picture.size == SIZE and picture.mode == "RGB"
    rows, columns = red(picture)
    curve = columns > 250  # right of the legend's sample of the line
    left, right = rows[curve & (columns < 350)].mean(), rows[columns > 900].mean()
    assert left < right - 200
    blue = np.asarray(picture)[70:300, 150:400].reshape(-1, 3).mean(0)
    white = np.asarray(picture)[300:480, 800:970].reshape(-1, 3).mean(0)
    assert blue[2] > blue[0] + 15 and abs(white[2] - white[0]) < 12


def test_logarithmic_axes():
    flat = Chart("t", "x", "y", (0, 1), (1e-4, 1e4), [Line([0, 1], [1, 1], "#ff0000")], log=True)
    assert top_of_axis(flat) > 1e4
    rows, _ = red(with_pillow.draw_chart(flat))
    assert abs(rows.mean() - (with_pillow.TOP + with_pillow.BOTTOM + 0.09 * (with_pillow.BOTTOM - with_pillow.TOP)) / 2) < 4


def test_pillow_draws_where_there_is_no_matplotlib(monkeypatch):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    monkeypatch.setattr(chart.importlib.util, "find_spec", lambda name: None)
    assert isinstance(draw(SIMPLE), Image.Image)


def test_the_cost_node_says_what_the_paper_says():
    text, image = PyramidalWanCost.execute(empty(21, 56, 104), "20-20-10", "1", "auto", 5.0, WAN).args
    lines = text.splitlines()
    assert lines[1].startswith("stage 0: 208x112 with 21 frames, 546 tokens, 20 steps x 1.626 TFLOPs")
    assert lines[0] == "total: 2821 TFLOPs, 22.4 % of 50 steps at full size"
    assert image.shape == (1, SIZE[1], SIZE[0], 3) and 0 <= image.min() and image.max() <= 1
    costs, plain = cost_of(empty(21, 56, 104, batch=2), WAN, "20-20-10", "5-1-1")
    assert plain == pytest.approx(2 * 2 * 12591.8, rel=1e-4) and costs[0].tflops == pytest.approx(2 * 2 * 20 * 1.626, rel=1e-3)
    assert costs[2].tflops == pytest.approx(2 * 10 * 251.84, rel=1e-3)
    skipped = PyramidalWanCost.execute(empty(21, 56, 104), "0-0-4", "1", "auto", 5.0, WAN).args[0]
    assert "total: 1007 TFLOPs" in skipped


def test_the_cost_of_the_model_in_the_graph(t2v_model):
    text = PyramidalWanCost.execute(empty(21, 56, 104), "2-2-1", "1", "auto", 5.0, WAN, t2v_model).args[0]
    assert float(text.splitlines()[0].split()[1]) < 20  # a tiny model
    with pytest.raises(ValueError, match="does not fit a pyramid of 3 stages"):
        PyramidalWanCost.execute(empty(21, 60, 104), "2-2-1", "1", "auto", 5.0, WAN)


def test_calibration_measures_and_proposes():
    generator = torch.Generator().manual_seed(0)
    coarse = torch.randn(2, 16, 5, 4, 4, generator=generator) * 3
    smooth = torch.nn.functional.interpolate(coarse, size=(5, 16, 16), mode="trilinear")
    latent = {"samples": smooth + 0.2 * torch.randn(2, 16, 5, 16, 16, generator=generator)}
    spec, image, text = PyramidalWanCalibrate.execute(latent, 0.1, WAN).args
    assert 1 > spec.boundaries[0] > spec.boundaries[1] > 0 and spec.downsample_axes == WAN.downsample_axes
    assert f"{spec.boundaries[0]:.4f}" in text and image.shape == (1, SIZE[1], SIZE[0], 3)
    careful = PyramidalWanCalibrate.execute(latent, 0.01, WAN).args[0]
    assert careful.boundaries[1] > spec.boundaries[1]


def test_calibration_refuses_what_it_cannot_measure():
    with pytest.raises(ValueError, match="needs encoded clips"):
        calibrate(empty(), WAN, 0.1)
    with pytest.raises(ValueError, match="1 stage has no boundary"):
        calibrate({"samples": torch.ones(1, 16, 5, 16, 16)}, PRESETS["plain"], 0.1)
    noise = torch.randn(1, 16, 5, 16, 16, generator=torch.Generator().manual_seed(0))
    with pytest.raises(ValueError, match="measured boundaries .* do not fall"):
        calibrate({"samples": noise}, PyramidSpec((0.9, 0.5), ("T", "HW")), 0.1)
