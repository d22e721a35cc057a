"""Transitions by any scale: the laws of a resize, exact transitions, and the sizes and scales that are chosen."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from gaussian_data import ExactField, GaussianData, as_matrix, basis

from pyramid.axes import parse_axes
from pyramid.flops import WAN_DIMENSIONS, schedule_cost, tokens
from pyramid.latent_shape import LatentShape
from pyramid.masks import coarser_mask
from pyramid.noise_levels import add_noise, shift_sigma
from pyramid.noise_pyramid import noise_pyramid
from pyramid.resize import make_resize, missing_band, project
from pyramid.sampling import into_stage, sample_pyramid, solver_stage
from pyramid.schedules import distilled_levels, stage_levels
from pyramid.segments import carry_to_full_size
from pyramid.sizes import VideoSize, check_shape, describe_stages, side_multiple, snap
from pyramid.solvers import heun
from pyramid.stages import PRESETS, STOCK, PyramidSpec

SIDES = [(90, 160), (60, 104), (9, 13), (6, 4)]  # 720p, 480p, sides that are not whole patches, small ones
AXES = ["HW 2/3", "HW 3/4", "THW 2/3", "HW 1/2", "HW 5/7"]
ROUNDED = [("HW 2/3",), ("HW 3/4",), ("HW", "HW 3/4"), ("HW 2/3", "HW 3/4"), ("T", "THW 2/3"), ("THW 3/4", "HW 2/3")]


def draw(*shape: int) -> torch.Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def free(*axes: str, first_frame: str = "shared") -> PyramidSpec:
    boundaries = (0.9, 0.6)[2 - len(axes) :]
    return PyramidSpec(boundaries, axes, field="natural", timestep_source="sigma", first_frame=first_frame)


@pytest.mark.parametrize("axes", AXES)
def test_a_resize_by_a_scale_is_orthonormal_and_keeps_constants(axes):
    for frames, sides in itertools.product((1, 5), SIDES):
        resize, x = make_resize("haar", axes, sides), draw(2, 3, frames, *sides)
        y = resize.down(x)
        assert tuple(y.shape[2:]) == LatentShape(frames, *sides).coarser(axes)
        torch.testing.assert_close(resize.down(resize.up(y)), y, atol=1e-9, rtol=0)
        other = draw(2, 3, frames, *sides).flip(-1)
        assert abs((project(x, resize) * other).sum() - (x * project(other, resize)).sum()) < 1e-8
        torch.testing.assert_close(project(missing_band(x, resize), resize), torch.zeros_like(x), atol=1e-9, rtol=0)
        ones = torch.full_like(x, 1.7)
        torch.testing.assert_close(resize.down(ones), torch.full_like(y, 1.7), atol=1e-9, rtol=0)
        torch.testing.assert_close(project(ones, resize), ones, atol=1e-9, rtol=0)
        n = torch.tensor(resize.fine_per_coarse(y.shape[2]), dtype=y.dtype)[:, None, None]
        torch.testing.assert_close((resize.up(y) ** 2).sum(), (n * y**2).sum(), atol=0, rtol=1e-9)
        assert float(n.sum()) * y.shape[3] * y.shape[4] == pytest.approx(x[0, 0].numel())


@pytest.mark.parametrize("axes", ["HW", "THW"])
def test_the_scale_one_half_is_the_halving_of_the_dct(axes):
    by_scale, halving = make_resize("haar", f"{axes} 1/2", (8, 12)), make_resize("dct", axes)
    x, y = draw(2, 3, 5, 8, 12), draw(2, 3, 3 if "T" in axes else 5, 4, 6)
    torch.testing.assert_close(by_scale.down(x), halving.down(x), atol=1e-12, rtol=0)
    torch.testing.assert_close(by_scale.up(y), halving.up(y), atol=1e-12, rtol=0)
    assert by_scale.fine_per_coarse(3) == halving.fine_per_coarse(3)


def test_the_low_coefficients_of_the_dct_are_kept():
    """A cosine below the coarse limit stays that cosine, sampled on the coarse grid; one above it is lost."""
    for k, kept in ((3, True), (7, True), (8, False), (11, False)):
        fine, coarse = ((torch.arange(n, dtype=torch.float64) + 0.5) * math.pi * k / n for n in (12, 8))
        x = fine.cos()[None, None, None, None].expand(1, 1, 1, 12, 12)
        expected = coarse.cos() if kept else torch.zeros(8, dtype=torch.float64)
        torch.testing.assert_close(make_resize("haar", "HW 2/3").down(x)[0, 0, 0, 0], expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize("sides", [(8, 12), (10, 14)], ids=str)
@pytest.mark.parametrize("axes", ROUNDED)
def test_mean_and_covariance_after_a_transition_are_exact(axes, sides):
    frames = 5
    for first_frame in ("shared", "per-frame") if any("T" in name for name in axes) else ("shared",):
        spec = PyramidSpec((0.9, 0.6)[2 - len(axes) :], axes, first_frame=first_frame)
        stages = spec.stages(LatentShape(frames, *snapped(spec, sides)))
        for coarse, fine in zip(stages, stages[1:], strict=False):
            mean, covariance, sigma_n = law_after(coarse, fine)
            variances = (sigma_n**2).expand(*fine.shape).flatten()
            torch.testing.assert_close(covariance, torch.diag(variances), atol=1e-10, rtol=0)
            expected = as_matrix((1 - sigma_n) * fine.from_coarser.up(basis(coarse.shape)))
            torch.testing.assert_close(mean, expected, atol=1e-10, rtol=0)


def snapped(spec: PyramidSpec, sides: tuple[int, int]) -> tuple[int, int]:
    size = snap(VideoSize(8 * sides[1], 8 * sides[0], 17), spec)
    return size.height // 8, size.width // 8


def law_after(coarse, fine):
    """Return the mean at the fine noisy end as a map of the coarse clean latent, the covariance there, and the sigma."""
    at = lambda stage, end: stage.at(torch.tensor(end.natural, dtype=torch.float64)).sigma  # noqa: E731
    sigma_c, sigma_n = at(coarse, coarse.clean), at(fine, fine.noisy)
    units, fine_units = basis(coarse.shape), basis(fine.shape)

    def end(signal, noise, top_up):
        pair = into_stage(signal / (1 - sigma_c), coarse, fine, noise, top_up=lambda _: top_up)
        return as_matrix(add_noise(*pair, sigma_n))

    none, no_signal = torch.zeros_like(fine_units[:1]), torch.zeros_like(units[:1])
    of_clean, of_noise = (end(share * units, none.expand(len(units), -1, -1, -1, -1), none) for share in (1 - sigma_c, sigma_c))
    no_signal = no_signal.expand(len(fine_units), -1, -1, -1, -1)
    fresh = [end(no_signal, fine_units, none), end(no_signal, torch.zeros_like(fine_units), fine_units)]
    return of_clean, sum(m @ m.T for m in (of_noise, *fresh)), sigma_n


@pytest.mark.parametrize("axes", ROUNDED)
def test_noise_of_the_stages_is_white_in_its_band_and_independent(axes):
    spec = PyramidSpec((0.9, 0.6)[2 - len(axes) :], axes)
    shape = LatentShape(5, *snapped(spec, (8, 12)))
    stages = spec.stages(shape)
    parts = [as_matrix(part) for part in noise_pyramid(basis(shape), stages)]
    for index, (stage, part) in enumerate(zip(stages, parts, strict=True)):
        white = basis(stage.shape)
        expected = as_matrix(missing_band(white, stage.from_coarser) if index else white)
        torch.testing.assert_close(part @ part.T, expected, atol=1e-10, rtol=0)
        for other in parts[:index]:
            assert float((part @ other.T).abs().max()) < 1e-10


@pytest.mark.parametrize("shape", [LatentShape(2, 6, 12), LatentShape(2, 8, 10)], ids=str)
@pytest.mark.parametrize(
    "spec",
    [
        PyramidSpec((0.6,), ("HW 2/3",)),
        PyramidSpec((0.6,), ("HW 3/4",)),
        PyramidSpec((0.9, 0.6), ("HW 2/3", "HW 3/4"), timestep_source="sigma", rope="scaled"),
    ],
    ids=["two-thirds", "three-quarters", "three-stages"],
)
def test_a_run_ends_with_the_mean_and_covariance_of_the_data(spec, shape):
    data, stages = GaussianData.smooth(shape), spec.stages(shape)
    noise = torch.cat([torch.zeros_like(basis(shape)[:1]), basis(shape)])
    runner = solver_stage(ExactField(data, stages), heun, stage_levels(spec, [100] * len(stages), full=shape))
    end = sample_pyramid(runner, noise_pyramid(noise, stages), stages).flatten(1)
    matrix = (end[1:] - end[0]).T
    assert (matrix @ matrix.T - data.covariance).abs().max() / data.covariance.abs().max() < 2e-3
    assert (end[0] - data.mean).abs().max() < 2e-3


@pytest.mark.parametrize("axes", [("HW 2/3",), ("HW 2/3", "HW 3/4"), ("THW 3/4",)])
def test_carry_to_full_size_keeps_the_level(axes):
    """The noise of the carried sample is white with the deviation of a full-size sample at the same natural level."""
    spec = free(*axes)
    shape = LatentShape(3, *snapped(spec, (8, 12)))
    stages, natural = spec.stages(shape), 0.7
    sigma = torch.tensor(stages[0].reference_sigma(natural), dtype=torch.float64)
    units, parts = basis(stages[0].shape), noise_pyramid(basis(shape), stages)[1:]
    none = lambda count: [torch.zeros(count, 1, *stage.shape, dtype=torch.float64) for stage in stages[1:]]  # noqa: E731
    zero = lambda stage: torch.zeros(1, 1, *stage.shape, dtype=torch.float64)  # noqa: E731

    def carried(signal, noises, top_up=zero):
        return (1 - natural) * as_matrix(carry_to_full_size(signal, natural, stages, noises, top_up=top_up))

    pieces = [carried(units * sigma / (1 - sigma), none(len(units)))]
    pieces.append(carried(torch.zeros(len(parts[0]), 1, *stages[0].shape, dtype=torch.float64), parts))
    for topped in stages[1:]:
        shape_units = basis(topped.shape)
        draws = lambda stage, t=topped, u=shape_units: u if stage is t else zero(stage)  # noqa: E731
        nothing = torch.zeros(len(shape_units), 1, *stages[0].shape, dtype=torch.float64)
        pieces.append(carried(nothing, none(len(shape_units)), draws))
    covariance = sum(piece @ piece.T for piece in pieces)
    torch.testing.assert_close(covariance, natural**2 * torch.eye(len(covariance), dtype=torch.float64), atol=1e-9, rtol=0)


@pytest.mark.parametrize("axes", ["HW 2/3", "THW 3/4", "HW 5/7"])
def test_a_coarse_mask_has_the_largest_value_that_it_overlaps(axes):
    mask = torch.rand(2, 3, 5, 10, 14, generator=torch.Generator().manual_seed(0))
    coarse = coarser_mask(mask, axes)
    halved = coarser_mask(mask, "T") if "T" in axes else mask
    rows, columns = coarse.shape[-2:]
    assert tuple(coarse.shape[2:]) == LatentShape(5, 10, 14).coarser(axes)
    for i, j in itertools.product(range(rows), range(columns)):
        top, left = i * 10 // rows, j * 14 // columns
        bottom, right = -(-(i + 1) * 10 // rows), -(-(j + 1) * 14 // columns)
        assert torch.equal(coarse[..., i, j], halved[..., top:bottom, left:right].amax((-2, -1)))


class TestSizes:
    @pytest.mark.parametrize(
        ("full", "axes", "coarse"),
        [
            ((90, 160), "HW 2/3", (60, 106)),
            ((60, 104), "HW 3/4", (46, 78)),
            ((44, 80), "HW 1/2", (22, 40)),
            ((90, 160), "HW 1/2", (46, 80)),
            ((4, 4), "HW 3/4", (2, 2)),
        ],
    )
    def test_scales_round_to_whole_patches(self, full, axes, coarse):
        assert LatentShape(5, *full).coarser(axes) == (5, *coarse)

    def test_a_side_of_one_patch_cannot_shrink(self):
        with pytest.raises(ValueError, match="a side of 2 latents cannot shrink: a stage has at least 2"):
            LatentShape(5, 2, 8).coarser("HW 2/3")

    def test_noise_levels_follow_the_real_ratio_of_the_sizes(self):
        low, high = free("HW 2/3").stages(LatentShape(21, 90, 160))
        n = 90 * 160 / (60 * 106)
        assert low.downsample_factor == pytest.approx(n) and high.noisy.sigma[1] == pytest.approx(0.6)
        assert low.clean.sigma[1] == pytest.approx(shift_sigma(0.6, n**-0.5))
        assert free("THW 2/3").stages(LatentShape(21, 90, 160))[0].downsample_factor == pytest.approx(2 * n)
        scaled = PyramidSpec((0.6,), ("HW 2/3",), rope="scaled").stages(LatentShape(21, 90, 160))[0]
        assert scaled.rope_scale == pytest.approx((1.0, 1.5, 160 / 106))

    def test_levels_for_a_size_tell_the_network_the_levels_that_it_was_distilled_on(self):
        spec, full = STOCK.at_size(LatentShape(21, 90, 160)), LatentShape(21, 90, 160)
        moved, levels = distilled_levels(spec, (2, 2), 5.0, full)
        told = [
            float(stage.at(level).conditioning)
            for stage, visited in zip(moved.stages(full), levels, strict=True)
            for level in visited[:-1]
        ]
        assert told == pytest.approx([shift_sigma(1 - step / 4, 5.0) for step in range(4)], abs=1e-6)

    @pytest.mark.parametrize(("video", "low"), [
        ((1280, 720), "848x480"), ((720, 1280), "480x848"), ((832, 480), "624x368"), ((1280, 704), "848x464"),
        ((1920, 1088), "960x544"), ((1280, 960), "640x480"), ((640, 640), "480x480"), ((1024, 576), "768x432"),
        ((416, 224), "208x112"), ((432, 240), "288x160"),
    ])  # fmt: skip
    def test_auto_keeps_the_size_that_stock_wan_was_trained_at_where_it_can(self, video, low):
        size = VideoSize(*video, 81)
        spec = STOCK.at_size(size.latent)
        assert snap(size, spec) == size and spec.at_size(size.latent) is spec
        lines = describe_stages(size, size, spec).splitlines()
        assert lines[1].startswith(f"low: {low} with 81 frames")
        small = min(map(int, low.split("x"))) < 464
        assert [line for line in lines if "stock Wan" in line] == lines[3:] and len(lines[3:]) == small
        if small:
            assert f"stage 'low' has a short side of {min(map(int, low.split('x')))} pixels" in lines[3]

    def test_auto_counts_in_the_pixels_of_the_vae(self):
        """Wan 2.2 5B has 16 pixels per latent and was trained at 1280x704."""
        shape = LatentShape(21, 44, 80)
        assert STOCK.at_size(shape, pixels=16).shapes(shape)[0] == (21, 30, 54)
        assert STOCK.at_size(shape).downsample_axes == ("HW",)

    def test_sizes_snap_to_patches_and_to_what_coarser_halvings_require(self):
        assert side_multiple(free("HW 2/3")) == 16 and side_multiple(free("HW", "HW")) == 64
        assert snap(VideoSize(1283, 725, 80), free("HW 2/3")) == VideoSize(1280, 720, 81)
        spec = free("HW", "HW 2/3")
        for rule in ("nearest", "smaller", "larger"):
            size = snap(VideoSize(1280, 720, 81), spec, rule)
            assert all(side % 2 == 0 for shape in spec.shapes(size.latent) for side in shape[1:])
            check_shape(size.latent, spec)
        with pytest.raises(ValueError, match="1280x720 with 81 frames does not fit.*multiples of 16"):
            check_shape(LatentShape(21, 90, 160), spec)

    def test_a_full_size_follows_from_a_stage_only_where_nothing_rounds(self):
        spec = free("HW", "HW 2/3")
        assert spec.full_shape(LatentShape(5, 12, 12), 2) == (5, 12, 12)
        with pytest.raises(ValueError, match="does not follow from a stage of 4x4 latents, because the transition 'HW 2/3'"):
            spec.full_shape(LatentShape(5, 4, 4), 1)
        nominal = spec.smallest_shape()
        assert [stage.downsample_factor for stage in spec.nominal_stages()] == [9, 2.25, 1] and nominal == (2, 12, 12)

    def test_the_cost_counts_the_tokens_of_every_stage(self):
        full = LatentShape(21, 90, 160)
        low, high = schedule_cost(free("HW 2/3"), full, (20, 10), WAN_DIMENSIONS["14B"])
        assert low.tokens == tokens(LatentShape(21, 60, 106)) and high.tokens == tokens(full)
        assert 0.26 < low.forward_tflops / high.forward_tflops < 0.30


class TestSpelling:
    @pytest.mark.parametrize(("text", "axes"), [
        ("hw", "HW"), (" HW  4/6 ", "HW 2/3"), ("thw 0.75", "THW 3/4"), ("HW AUTO", "HW auto"), ("HW 0.6667", "HW 2/3"),
    ])  # fmt: skip
    def test_a_transition_has_one_spelling(self, text, axes):
        assert parse_axes(text) == axes and parse_axes(axes) == axes
        assert free(text) == free(axes) and PyramidSpec.from_json(free(text).to_json()) == free(axes)

    @pytest.mark.parametrize(("text", "message"), [
        ("H", "unknown downsample_axes 'H'; expected THW, HW, T for each transition"),
        ("T 2/3", "unknown downsample_axes 'T 2/3'"),
        ("HW 3/2", "must be a number from 1/4 to below 1, such as 2/3, or auto; got '3/2'"),
        ("HW x", "such as 2/3, or auto; got 'x'"), ("HW 1/0", "got '1/0'"), ("HW 1/8", "got '1/8'"), ("HW 1", "got '1'"),
    ])  # fmt: skip
    def test_anything_else_is_rejected(self, text, message):
        with pytest.raises(ValueError, match=message):
            free(text)

    def test_auto_is_for_stock_weights_and_needs_a_size(self):
        with pytest.raises(ValueError, match="the scale 'auto' is for stock weights; weights of field 'pyramidal'"):
            PRESETS["pyramidal-wan"].scaled("auto")
        with pytest.raises(ValueError, match="the scale 'auto' depends on the size of the video"):
            STOCK.stages(LatentShape(5, 16, 16))

    def test_a_preset_takes_another_scale(self):
        assert PRESETS["training-free"].scaled("half") == PRESETS["training-free"]
        assert STOCK.scaled("two thirds").downsample_axes == ("HW 2/3",)
        assert free("THW", "HW").scaled("three quarters").downsample_axes == ("THW 3/4", "HW 3/4")
        assert free("T", "T").scaled("auto").downsample_axes == ("T", "T")
