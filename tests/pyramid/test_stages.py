"""Levels, stages and the spec: maps and their inverses, published constants, and clear errors."""

import json
import math

import pytest
import torch

from pyramid.latent_shape import LatentShape
from pyramid.noise_levels import shift_sigma
from pyramid.stages import FORMAT, PRESETS, TRAINING_PRESETS, PyramidSpec

FULL = LatentShape(21, 56, 104)
WAN = PyramidSpec()


def test_shift_multiplies_the_odds_and_composes():
    for sigma in (0.0, 0.1, 0.5, 0.93, 1.0):
        assert shift_sigma(sigma, 1.0) == sigma
        assert shift_sigma(shift_sigma(sigma, math.sqrt(8)), math.sqrt(8)) == pytest.approx(shift_sigma(sigma, 8), abs=1e-15)
        assert shift_sigma(shift_sigma(sigma, 3.0), 1 / 3) == pytest.approx(sigma, abs=1e-15)
    assert shift_sigma(0.5, 4.0) / (1 - shift_sigma(0.5, 4.0)) == pytest.approx(4.0)
    assert shift_sigma(1.0, 0.123) == 1.0 and shift_sigma(0.0, 9.0) == 0.0


def test_sizes_and_sigmas_of_the_default_pyramid():
    low, mid, high = WAN.stages(FULL)
    assert [s.shape for s in (low, mid, high)] == [LatentShape(6, 14, 26), LatentShape(11, 28, 52), FULL]
    assert [s.level for s in (low, mid, high)] == [2, 1, 0]
    rounded = lambda pair: tuple(round(v, 4) for v in pair)  # noqa: E731
    assert rounded(low.clean.sigma) == (0.6829, 0.5185) and low.noisy.sigma == (1.0, 1.0)
    assert rounded(mid.noisy.sigma) == (0.8116, 0.7528) and rounded(mid.clean.sigma) == (0.4306, 0.3484)
    assert rounded(high.noisy.sigma) == (0.602, 0.602) and high.clean.sigma == (0.0, 0.0)


def test_pyramidal_flow_constants():
    low, mid, high = PRESETS["pyramidal-flow"].stages(LatentShape(21, 64, 64))
    assert [round(s.noisy.sigma[1], 12) for s in (low, mid, high)] == [1.0, 0.8, 0.5]
    assert [round(s.clean.sigma[1], 12) for s in (low, mid, high)] == [round(2 / 3, 12), round(1 / 3, 12), 0.0]
    assert [int(1000 * s.clean.conditioning + 1) for s in (low, mid)] == [744, 385]
    for coarse, fine in ((low, mid), (mid, high)):
        a = 1 - coarse.clean.sigma[1]  # their corrected sigma with gamma = 1/3
        gamma = 1 / 3
        corrected = 1 / (math.sqrt(1 + 1 / gamma) * (1 - a) + a)
        assert corrected == pytest.approx((1 - fine.noisy.sigma[1]) / (1 - coarse.clean.sigma[1]))
        assert corrected * a == pytest.approx(1 - fine.noisy.sigma[1])


@pytest.mark.parametrize("timestep_source", ["natural", "sigma", "pyramid-flow"])
def test_levels_invert_and_set_the_conditioning_of_the_network(timestep_source):
    spec = PyramidSpec(timestep_source=timestep_source)
    previous = 1.0
    for stage in spec.stages(FULL):
        for rho in (1.0, 0.7, 0.2, 0.0):
            natural = stage.natural_at(rho)
            assert stage.rho(natural) == pytest.approx(rho, abs=1e-12)
            assert stage.natural_level(stage.reference_sigma(natural)) == pytest.approx(natural, abs=1e-12)
            level = stage.at(torch.tensor(natural, dtype=torch.float64))
            assert level.sigma.shape == (stage.shape.frames, 1, 1)
            for frame, pair in ((0, 0), (1, 1), (-1, 1)):
                expected = stage.clean.sigma[pair] + rho * (stage.noisy.sigma[pair] - stage.clean.sigma[pair])
                assert float(level.sigma[frame]) == pytest.approx(expected, abs=1e-12)
            if rho in (0.0, 1.0):
                end = stage.noisy.conditioning if rho else stage.clean.conditioning
                assert float(level.conditioning) == pytest.approx(end, abs=1e-12)
            flow = stage.clean.conditioning + rho * (stage.noisy.conditioning - stage.clean.conditioning)
            expected = {"natural": natural, "sigma": float(level.sigma[-1]), "pyramid-flow": flow}[timestep_source]
            assert float(level.conditioning) == pytest.approx(expected, abs=1e-12)
            if timestep_source != "sigma":  # one falling axis through the whole pyramid
                assert float(level.conditioning) <= previous + 1e-12
                previous = float(level.conditioning)
    batched = spec.stages(FULL)[1].at(torch.tensor([0.7, 0.8]))
    assert batched.sigma.shape == (2, 1, 11, 1, 1) and batched.conditioning.shape == (2,)


def test_sigma_rate_is_the_derivative_of_each_frames_sigma():
    for stage in WAN.stages(FULL):
        a, b = (stage.at(torch.tensor(stage.natural_at(rho), dtype=torch.float64)).sigma for rho in (0.3, 0.3001))
        slope = (b - a) / (b - a)[-1]
        assert float(slope[0]) == pytest.approx(stage.sigma_rate[0], rel=1e-6) and stage.sigma_rate[1] == 1.0


def test_rope_scale_counts_halvings():
    spec = PyramidSpec(downsample_axes=("T", "THW"), rope="scaled")
    assert [s.rope_scale for s in spec.stages(FULL)] == [(4.0, 2.0, 2.0), (2.0, 2.0, 2.0), (1.0, 1.0, 1.0)]
    assert WAN.stages(FULL)[0].rope_scale == (1.0, 1.0, 1.0)


def test_presets_have_the_published_sizes_and_boundaries():
    shapes = {name: [s.shape for s in spec.stages(FULL)] for name, spec in PRESETS.items()}
    assert shapes["tpdiff"] == [LatentShape(6, 56, 104), LatentShape(11, 56, 104), FULL]
    assert shapes["pyramidal-flow"][0] == LatentShape(21, 14, 26)
    assert shapes["plain"] == [FULL]
    assert shapes["training-free"] == [LatentShape(21, 28, 52), FULL]
    free = PRESETS["training-free"]
    assert free.boundaries == (0.8,) and PRESETS["pyramidal-wan"] == PyramidSpec()
    assert PRESETS["tpdiff"].boundaries == (pytest.approx(0.8), pytest.approx(2**0.5 / (2 + 2**0.5)))
    assert (free.field, free.timestep_source, free.first_frame) == ("natural", "sigma", "shared")


@pytest.mark.parametrize(("name", "frames"), [("tpdiff-2", [11, 21]), ("tpdiff", [6, 11, 21]), ("tpdiff-4", [4, 7, 13, 25])])
def test_stages_in_time_double_the_frame_rate_end_at_even_sigmas_and_keep_the_distance_of_positions(name, frames):
    stages = TRAINING_PRESETS[name].stages(LatentShape(frames[-1], 8, 8))
    assert [stage.shape for stage in stages] == [LatentShape(count, 8, 8) for count in frames]
    count = len(stages)
    assert [stage.clean.sigma[1] for stage in stages] == pytest.approx([level / count for level in range(count - 1, -1, -1)])
    assert [stage.rope_scale for stage in stages] == [(2.0**level, 1.0, 1.0) for level in range(count - 1, -1, -1)]


def test_leaving_out_the_first_stage_starts_the_next_from_pure_noise():
    short = WAN.starting_at(1).stages(FULL)
    assert [s.shape for s in short] == [s.shape for s in WAN.stages(FULL)[1:]]
    assert short[0].noisy.sigma == (1.0, 1.0) and short[0].from_coarser is None
    assert short[0].clean.sigma == WAN.stages(FULL)[1].clean.sigma


@pytest.mark.parametrize("spec", PRESETS.values(), ids=PRESETS.keys())
def test_json_and_metadata_round_trip(spec):
    assert PyramidSpec.from_json(spec.to_json()) == spec
    metadata = spec.to_metadata()
    assert all(isinstance(value, str) for value in metadata.values())
    assert PyramidSpec.from_metadata({"other": "x", **metadata}) == spec


def change(**values):
    return json.dumps({**json.loads(WAN.to_json()), **values})


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: PyramidSpec((0.6, 0.9)), "must fall.*0.9, 0.6"),
        (lambda: PyramidSpec((0.6, 0.6)), "must fall"),
        (lambda: PyramidSpec((1.2, 0.6)), "between 0 and 1, got 1.2"),
        (lambda: PyramidSpec((0.9, 0.0)), "between 0 and 1"),
        (lambda: PyramidSpec((True, 0.6)), "between 0 and 1, got True"),
        (lambda: PyramidSpec(("0.9", 0.6)), "between 0 and 1, got '0.9'"),
        (lambda: PyramidSpec((0.9,)), "got 1 boundaries and 2 downsample_axes"),
        (lambda: PyramidSpec(downsample_axes=("THW", "H")), "unknown downsample_axes 'H'; expected THW, HW, T"),
        (lambda: PyramidSpec(resize="dmey"), "unknown resize 'dmey'; expected haar, dct"),
        (lambda: PyramidSpec(field="natural"), "first_frame must be 'shared'"),
        (lambda: PyramidSpec(timestep_source="t"), "expected natural, sigma, pyramid-flow"),
        (lambda: PyramidSpec(rope="warped"), "expected native, scaled"),
        (lambda: PyramidSpec.from_json("{"), "not valid JSON"),
        (lambda: PyramidSpec.from_json("[1]"), "JSON object, got a list of 1"),
        (lambda: PyramidSpec.from_json(change(boundary=1)), "unknown fields in the pyramid spec: boundary; expected"),
        (lambda: PyramidSpec.from_json(change(format=FORMAT + 2)), "format 3; this version reads formats 1 and 2"),
        (lambda: PyramidSpec.from_json(json.dumps({"format": FORMAT})), "missing fields in the pyramid spec: boundaries"),
        (lambda: PyramidSpec.from_metadata({"format": "pt"}), "no 'pyramid_spec'"),
        (lambda: PyramidSpec.from_metadata(None), "no 'pyramid_spec'"),
        (lambda: WAN.stages(LatentShape(20, 56, 104)), "20 latent frames cannot be halved"),
        (lambda: WAN.stages(LatentShape(21, 58, 104)), "29x52 cannot be halved"),
    ],
)  # fmt: skip
def test_bad_input_is_rejected_with_a_clear_error(make, words):
    with pytest.raises(ValueError, match=words):
        make()
