"""Charts show lines and areas in the right places; the cost and calibration nodes report the right numbers."""

import numpy as np
import pytest
import torch
from comfyui_graph import empty

from pyramidalwan.nodes.analysis import PyramidalWanCalibrate, PyramidalWanCostEstimate
from pyramidalwan.plots.chart import Area, Chart, Line
from pyramidalwan.plots.drawing import BOTTOM, SIZE, TOP, draw, top_of_axis
from pyramidalwan.pyramid.stages import PRESETS, PyramidSpec
from pyramidalwan.samplers.analysis import calibrate, cost_of

WAN = PRESETS["pyramidal-wan"]
SIMPLE = Chart(
    "A title", "to the right", "upwards", (0, 10), (0, 1),
    lines=[Line([0, 10], [1, 0], "#ff0000", "falling")], areas=[Area(0, 5, "#0000ff", "first", "first half")],
)  # fmt: skip


def red(picture):
    """Return the rows and columns of all pure red pixels."""
    pixels = np.asarray(picture).astype(int)
    rows, columns = np.nonzero((pixels[..., 0] > 200) & (pixels[..., 1] < 60) & (pixels[..., 2] < 60))
    return rows, columns


def test_a_falling_line_falls_and_an_area_is_shaded():
    picture = draw(SIMPLE)
    assert picture.size == SIZE and picture.mode == "RGB"
    rows, columns = red(picture)
    curve = columns > 250  # right of the legend's sample of the line
    left, right = rows[curve & (columns < 350)].mean(), rows[columns > 900].mean()
    assert left < right - 200
    blue = np.asarray(picture)[70:300, 150:400].reshape(-1, 3).mean(0)
    white = np.asarray(picture)[300:480, 800:970].reshape(-1, 3).mean(0)
    assert blue[2] > blue[0] + 15 and abs(white[2] - white[0]) < 12


def test_the_middle_of_a_logarithmic_axis_is_the_geometric_mean():
    flat = Chart("t", "x", "y", (0, 1), (1e-4, 1e4), [Line([0, 1], [1, 1], "#ff0000")], log=True)
    assert top_of_axis(flat) > 1e4
    rows, _ = red(draw(flat))
    assert abs(rows.mean() - (TOP + BOTTOM + 0.09 * (BOTTOM - TOP)) / 2) < 4


def test_the_cost_node_reports_the_published_costs():
    text, image = PyramidalWanCostEstimate.execute(empty(21, 56, 104), "20-20-10", "1", "auto", 5.0, WAN).args
    lines = text.splitlines()
    assert lines[1] == "low 208x112 (21 frames) · 20 steps · 1.15 %"
    assert lines[0] == "total: 2821 TFLOPs, 22.4 % of 50 steps at full size"
    assert image.shape == (1, SIZE[1], SIZE[0], 3) and 0 <= image.min() and image.max() <= 1
    costs, plain = cost_of(empty(21, 56, 104, batch=2), WAN, "20-20-10", "5-1-1")
    assert plain == pytest.approx(2 * 2 * 12591.8, rel=1e-4) and costs[0].tflops == pytest.approx(2 * 2 * 20 * 1.626, rel=1e-3)
    assert costs[2].tflops == pytest.approx(2 * 10 * 251.84, rel=1e-3)
    skipped = PyramidalWanCostEstimate.execute(empty(21, 56, 104), "0-0-4", "1", "auto", 5.0, WAN).args[0]
    assert "total: 1007 TFLOPs" in skipped


def test_the_cost_is_that_of_the_connected_model(t2v_model):
    text = PyramidalWanCostEstimate.execute(empty(21, 56, 104), "2-2-1", "1", "auto", 5.0, WAN, t2v_model).args[0]
    assert float(text.splitlines()[0].split()[1]) < 20  # a tiny model
    with pytest.raises(ValueError, match="does not fit a pyramid of 3 stages"):
        PyramidalWanCostEstimate.execute(empty(21, 60, 104), "2-2-1", "1", "auto", 5.0, WAN)


def test_calibration_proposes_boundaries_that_rise_with_a_lower_threshold():
    generator = torch.Generator().manual_seed(0)
    coarse = torch.randn(2, 16, 5, 4, 4, generator=generator) * 3
    smooth = torch.nn.functional.interpolate(coarse, size=(5, 16, 16), mode="trilinear")
    latent = {"samples": smooth + 0.2 * torch.randn(2, 16, 5, 16, 16, generator=generator)}
    spec, image, text = PyramidalWanCalibrate.execute(latent, 0.1, WAN).args
    assert 1 > spec.boundaries[0] > spec.boundaries[1] > 0 and spec.downsample_axes == WAN.downsample_axes
    assert f"{spec.boundaries[0]:.4f}" in text and image.shape == (1, SIZE[1], SIZE[0], 3)
    careful = PyramidalWanCalibrate.execute(latent, 0.01, WAN).args[0]
    assert careful.boundaries[1] > spec.boundaries[1]


def test_calibration_rejects_latents_it_cannot_measure():
    with pytest.raises(ValueError, match="needs encoded clips"):
        calibrate(empty(), WAN, 0.1)
    with pytest.raises(ValueError, match="1 stage has no boundary"):
        calibrate({"samples": torch.ones(1, 16, 5, 16, 16)}, PRESETS["plain"], 0.1)
    noise = torch.randn(1, 16, 5, 16, 16, generator=torch.Generator().manual_seed(0))
    with pytest.raises(ValueError, match="measured boundaries .* do not fall"):
        calibrate({"samples": noise}, PyramidSpec((0.9, 0.5), ("T", "HW")), 0.1)
