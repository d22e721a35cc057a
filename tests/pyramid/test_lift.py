"""Lifts and drops: the plain transition bit for bit, exact laws on Gaussian data, and fits that recover known maps."""

import dataclasses
import json
from fractions import Fraction

import pytest
import torch
import torch.nn.functional as F
from gaussian_data import as_matrix, basis

from pyramid.lift import METADATA_KEY, FunctionLift, LinearMap, ResizeDrop, ResizeLift, lift_correction
from pyramid.lift_fit import PairSums, RunningFit, default_kernel, fit_drop, fit_lift
from pyramid.noise_levels import add_noise
from pyramid.resize import AXES, make_resize
from pyramid.stages import LatentShape, PyramidSpec
from pyramid.transition import transition

# (small, large) in latent frames, rows, columns: halved space, both, time, and ratios of 3/2, 4/3 and 3/2 x 13/8
SIZES = {
    "HW": ((3, 4, 6), (3, 8, 12)),
    "THW": ((3, 4, 6), (5, 8, 12)),
    "T": ((3, 4, 6), (5, 4, 6)),
    "3/2": ((3, 4, 6), (3, 6, 9)),
    "4/3": ((3, 6, 3), (3, 8, 4)),
    "mixed": ((3, 4, 8), (3, 6, 13)),
}
CHANNELS = 2


def hand_over(coarse, fine):
    """Return the noise levels at the clean end of a stage and at the noisy end of the next."""
    return coarse.at(torch.tensor(coarse.clean.natural)), fine.at(torch.tensor(fine.noisy.natural))


def draw(*shape, seed=0, dtype=torch.float32):
    return torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def random_map(source, target, channels=CHANNELS):
    """A map with random weights, of the form that a fit between these sizes has."""
    sums = PairSums(source=source, target=target, channels=channels, kernel=(3, 3, 3))
    sums.add(draw(1, channels, *source), draw(1, channels, *target))
    fitted = sums.solve(ridge=1.0)
    first, rest = draw(*fitted.first.shape, seed=1), draw(*fitted.rest.shape, seed=2)
    return dataclasses.replace(fitted, first=first, rest=rest)


@pytest.mark.parametrize("axes", AXES)
@pytest.mark.parametrize("name", ["haar", "dct", "db2"])
def test_the_resize_as_a_lift_is_the_plain_transition_bit_for_bit(name, axes):
    coarse, fine = PyramidSpec((0.6,), (axes,), resize=name).stages(LatentShape(5, 8, 12))
    signal, clean = (draw(2, 3, *tuple(coarse.shape), seed=seed) for seed in (1, 2))
    noise = draw(2, 3, *tuple(fine.shape), seed=3)
    resize = make_resize(name, axes)
    plain, _ = transition(signal, *hand_over(coarse, fine), resize, noise)
    assert not torch.count_nonzero(lift_correction(clean, resize, ResizeLift(resize)))
    assert torch.equal(ResizeDrop(resize)(plain, tuple(coarse.shape)), resize.down(plain))


def affine_parts(function, shapes):
    """Return the matrices of an affine function of several latents, and its value at zero."""
    zeros = [torch.zeros(1, 1, *tuple(shape), dtype=torch.float64) for shape in shapes]
    offset = function(*zeros)
    matrices = []
    for index, shape in enumerate(shapes):
        units = basis(shape)
        arguments = [zero.expand(len(units), *zero.shape[1:]) for zero in zeros]
        arguments[index] = units
        matrices.append(as_matrix(function(*arguments) - offset))
    return matrices, offset.flatten()


def test_a_lifted_transition_is_exact_on_gaussian_data():
    """The large latent is ``L small + b + residual``, the residual independent with covariance R.

    Its noisy version has mean ``(1 - sigma_n) (L mean + b)`` and covariance ``(1 - sigma_n)^2 (L K L^T + R) + sigma_n^2 I``.
    The start from the true small latent has this law without R, which no function of the small latent knows.
    """
    coarse, fine = PyramidSpec((0.7,), ("THW",)).stages(LatentShape(5, 4, 4))
    large = tuple(fine.shape)
    lift, resize = random_map(tuple(coarse.shape), large, channels=1), make_resize("haar", "THW")
    sigma_c, sigma_n = (level.sigma.double() for level in hand_over(coarse, fine))

    def start(clean, coarse_noise, fine_noise):
        signal = clean + sigma_c / (1 - sigma_c) * coarse_noise  # (1 - sigma_c) * clean + sigma_c * noise, over 1 - sigma_c
        plain, noise = transition(signal, *hand_over(coarse, fine), resize, fine_noise)
        return add_noise(plain + lift_correction(clean, resize, lift), noise, sigma_n)

    (of_clean, *of_noises), offset = affine_parts(start, (coarse.shape, coarse.shape, fine.shape))
    (linear,), bias = affine_parts(lambda clean: lift(clean, large), (coarse.shape,))
    share = (1 - sigma_n).expand(1, 1, *large).flatten()
    root = draw(len(linear[0]), len(linear[0]), dtype=torch.float64)
    covariance_small, mean_small = root @ root.T, draw(len(root), seed=5, dtype=torch.float64)
    known = share[:, None] * linear
    variances = (sigma_n**2).expand(1, 1, *large).flatten()

    mean = of_clean @ mean_small + offset
    covariance = of_clean @ covariance_small @ of_clean.T + sum(matrix @ matrix.T for matrix in of_noises)
    torch.testing.assert_close(mean, share * (linear @ mean_small + bias), atol=1e-5, rtol=0)
    torch.testing.assert_close(covariance, known @ covariance_small @ known.T + torch.diag(variances), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", SIZES)
@pytest.mark.parametrize("fit", [fit_lift, fit_drop])
def test_a_known_map_is_recovered(fit, name):
    small, large = SIZES[name]
    source, target = (small, large) if fit is fit_lift else (large, small)
    known = random_map(source, target)
    sources = [draw(100, CHANNELS, *source, seed=seed) for seed in range(5)]
    pairs = [(x, known(x, target)) for x in sources]
    pairs = pairs if fit is fit_lift else [(y, x) for x, y in pairs]
    fitted, report = fit(pairs, kernel=(3, 3, 3), ridge=1e-10)
    # inputs repeated beyond an edge leave single weights undetermined, so the maps are compared by what they do
    x = draw(3, CHANNELS, *source, seed=1000)
    torch.testing.assert_close(fitted(x, target), known(x, target), atol=1e-4, rtol=1e-4)
    if name == "HW":
        torch.testing.assert_close(fitted.first, known.first, atol=1e-4, rtol=0)
    assert max(*report.first.error, *report.rest.error) < 1e-8


def test_the_fit_is_ridge_regression_of_unfolded_neighbourhoods():
    """Against an independent computation: convolution windows of the padded frames, one regression in torch."""
    clips = [(draw(1, 2, 3, 6, 5, seed=seed), draw(1, 2, 3, 12, 10, seed=seed + 50)) for seed in range(10)]
    fitted, report = fit_lift(clips, kernel=(1, 3, 3), ridge=0.3, hold_out=5)
    used = [pair for index, pair in enumerate(clips) if index % 5 != 4]
    frames = torch.cat([small[0, :, 1:].transpose(0, 1) for small, _ in used])
    seen = F.unfold(F.pad(frames, (1, 1, 1, 1), mode="replicate"), 3).transpose(1, 2).flatten(0, 1)
    x = torch.cat([seen, torch.ones(len(seen), 1)], dim=1).double()
    large = torch.cat([large[0, :, 1:].transpose(0, 1) for _, large in used])
    y = F.pixel_unshuffle(large, 2).flatten(2).transpose(1, 2).flatten(0, 1).double()  # (channel, row phase, column phase)
    penalty = 0.3 * len(x) * torch.eye(x.shape[1], dtype=torch.float64)
    penalty[-1, -1] = 0
    expected = torch.linalg.solve(x.T @ x + penalty, x.T @ y).T.reshape(2, 2, 2, -1).permute(1, 2, 0, 3)
    torch.testing.assert_close(fitted.rest[0].double(), expected, atol=1e-6, rtol=1e-5)
    assert report.fitted_pairs == 8 and report.held_out_pairs == 2


def test_a_large_ridge_leaves_the_mean():
    clips = [(draw(1, 2, 3, 4, 4, seed=seed), draw(1, 2, 3, 8, 8, seed=seed + 50) + 1.5) for seed in range(10)]
    fitted, _ = fit_lift(clips, ridge=1e9)
    mean = torch.cat([large[:, :, 1:] for index, (_, large) in enumerate(clips) if index % 5 != 4]).mean(dim=(0, 2, 3, 4))
    result = fitted(draw(1, 2, 3, 4, 4, seed=99), (3, 8, 8))[:, :, 1:]
    torch.testing.assert_close(result.mean(dim=(0, 2, 3, 4)), mean, atol=1e-4, rtol=0)


def test_pairs_one_by_one_equal_all_at_once():
    small, large = draw(6, CHANNELS, 3, 4, 6), draw(6, CHANNELS, 5, 8, 12, seed=1)
    options = {"source": (3, 4, 6), "target": (5, 8, 12), "channels": CHANNELS, "kernel": (3, 3, 3)}
    together, one_by_one = PairSums(**options), PairSums(**options)
    together.add(small, large)
    for index in range(6):
        one_by_one.add(small[index : index + 1], large[index : index + 1])
    a, b = together.solve(ridge=0.01), one_by_one.solve(ridge=0.01)
    torch.testing.assert_close(a.first, b.first)
    torch.testing.assert_close(a.rest, b.rest)


@pytest.mark.parametrize("fit", [fit_lift, fit_drop])
def test_the_report_is_the_error_of_the_map_on_held_out_pairs(fit):
    small, large = SIZES["THW"]
    pairs = []
    for seed in range(10):
        clean = draw(2, CHANNELS, *large, seed=seed) + 0.5
        pairs.append((make_resize("haar", "THW").down(clean), clean))
    fitted, report = fit(iter(pairs), hold_out=5)
    held_out = [pairs[index] if fit is fit_lift else pairs[index][::-1] for index in (4, 9)]
    targets = torch.cat([y for _, y in held_out])
    squares = torch.cat([fitted(x, y.shape[2:]) for x, y in held_out]).sub(targets).square()
    for frames, part in ((slice(0, 1), report.first), (slice(1, None), report.rest)):
        error = squares[:, :, frames].mean(dim=(0, 2, 3, 4))
        variance = targets[:, :, frames].var(dim=(0, 2, 3, 4), correction=0)
        torch.testing.assert_close(torch.tensor(part.error), error, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(torch.tensor(part.variance), variance, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", SIZES)
def test_frame_zero_is_apart_and_members_are_independent(name):
    small, large = SIZES[name]
    lift, clean = random_map(small, large), draw(3, CHANNELS, *small)
    both = lift(clean, large)
    assert both.shape == (3, CHANNELS, *large)
    torch.testing.assert_close(lift(clean[1:2], large), both[1:2])
    changed = clean.clone()
    changed[:, :, 0] += 1
    assert torch.equal(lift(changed, large)[:, :, 1:], both[:, :, 1:])
    changed = clean.clone()
    changed[:, :, 1:] += 1
    assert torch.equal(lift(changed, large)[:, :, :1], both[:, :, :1])
    torch.testing.assert_close(lift(clean[:, :, :1], (1, *large[1:])), both[:, :, :1])


@pytest.mark.parametrize("name", ["HW", "THW", "T"])
def test_a_fit_on_enlarged_latents_is_the_enlargement_and_keeps_constants(name):
    small, large = SIZES[name]
    haar = make_resize("haar", name)
    clips = [draw(4, CHANNELS, *small, seed=seed) for seed in range(20)]
    lift, _ = fit_lift([(clip, haar.up(clip)) for clip in clips], ridge=1e-9)
    drop, _ = fit_drop([(haar.down(haar.up(clip)), haar.up(clip)) for clip in clips], ridge=1e-6)
    clip = draw(1, CHANNELS, *small, seed=77)
    torch.testing.assert_close(lift(clip, large), haar.up(clip), atol=1e-4, rtol=0)
    torch.testing.assert_close(drop(haar.up(clip), small), clip, atol=1e-3, rtol=0)
    constant = torch.full((1, CHANNELS, *small), 1.7)
    torch.testing.assert_close(lift(constant, large), torch.full((1, CHANNELS, *large), 1.7), atol=1e-3, rtol=0)


def test_phases_follow_the_positions():
    """A 3/2 enlargement reads positions 1/3, 1, 5/3 of every two inputs, a 4/3 one 3/8, 9/8, 15/8, 21/8 of every three."""
    line = torch.arange(12.0).reshape(1, 1, 1, 1, 12).expand(1, 1, 2, 2, 12)
    for outputs in (18, 16, 24):
        ratio = outputs / 12
        positions = (torch.arange(outputs) + 0.5) / ratio - 0.5
        target = (
            positions.expand(1, 1, 2, 2 * outputs // 12, outputs) if outputs == 24 else positions.expand(1, 1, 2, 2, outputs)
        )
        noisy = [(line + draw(1, 1, 1, 1, 1, seed=s), target + draw(1, 1, 1, 1, 1, seed=s)) for s in range(10)]
        lift, _ = fit_lift(noisy, kernel=(1, 3, 3), ridge=1e-6)
        inner = lift(line, target.shape[2:])[..., 4:-4]
        torch.testing.assert_close(inner, target[..., 4:-4].contiguous(), atol=1e-2, rtol=0)


def test_another_ratio_is_sampled_at_the_nearest_phase():
    """A ramp enlarged by 20 / 13 with the map for 3 / 2 is wrong by at most half the distance of two phases."""
    line = torch.arange(52.0).expand(1, 1, 2, 52, 52)
    target = ((torch.arange(78) + 0.5) / 1.5 - 0.5).expand(1, 1, 2, 78, 78)
    shifts = [draw(1, 1, 1, 1, 1, seed=seed) for seed in range(5)]
    lift, _ = fit_lift([(line + shift, target + shift) for shift in shifts], kernel=(1, 3, 3), ridge=1e-6)
    exact = (torch.arange(80) + 0.5) * 13 / 20 - 0.5
    error = (lift(line, (2, 80, 80)) - exact)[..., 2:-2].abs()
    assert 0.1 < error.max() < 1 / 6 + 0.01


def test_ratios_must_be_near():
    """832x480 to 1280x720 is 20/13 x 3/2; the map for 3/2 is near enough, and 2 is not."""
    lift = random_map((2, 4, 6), (2, 6, 9))
    assert lift(draw(1, CHANNELS, 2, 60, 104), (2, 90, 160)).shape == (1, CHANNELS, 2, 90, 160)
    with pytest.raises(ValueError, match="changes the size by 1 x 1.5 x 1.5 .*got latents of 2x60x104 to 2x120x208"):
        lift(draw(1, CHANNELS, 2, 60, 104), (2, 120, 208))
    with pytest.raises(ValueError, match="got latents of 3x4x6 to 5x6x9"):
        lift(draw(1, CHANNELS, 3, 4, 6), (5, 6, 9))
    with pytest.raises(ValueError, match="latents of 2 channels, got 16"):
        lift(draw(1, 16, 2, 4, 6), (2, 6, 9))


def test_half_precision_latents_stay_so():
    lift = random_map(*SIZES["HW"])
    clean = draw(1, CHANNELS, *SIZES["HW"][0])
    half = lift(clean.bfloat16(), SIZES["HW"][1])
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), lift(clean.bfloat16().float(), SIZES["HW"][1]), atol=0.1, rtol=0.01)


def test_what_is_saved_is_loaded_again():
    lift = random_map(*SIZES["3/2"])
    tensors, metadata = lift.to_tensors()
    again = LinearMap.from_tensors(tensors, metadata)
    clean = draw(1, CHANNELS, 3, 4, 6)
    assert torch.equal(again(clean, (3, 6, 9)), lift(clean, (3, 6, 9)))
    assert (again.ratios, again.kernel) == (lift.ratios, lift.kernel)
    with pytest.raises(ValueError, match=f"no '{METADATA_KEY}'"):
        LinearMap.from_tensors(tensors, {})
    with pytest.raises(ValueError, match="no tensor rest"):
        LinearMap.from_tensors({"first": tensors["first"]}, metadata)
    with pytest.raises(ValueError, match="tensor 'rest' has shape .*expected"):
        LinearMap.from_tensors({**tensors, "rest": tensors["rest"][..., 1:]}, metadata)
    newer = {METADATA_KEY: json.dumps({**json.loads(metadata[METADATA_KEY]), "format": 2})}
    with pytest.raises(ValueError, match="has format 2; this version reads format 1"):
        LinearMap.from_tensors(tensors, newer)


def test_a_lift_from_outside_is_checked():
    clean = draw(1, 2, 3, 4, 6)
    doubled = FunctionLift(lambda x, size: F.interpolate(x.double(), size=size))
    result = doubled(clean, (3, 8, 12))
    assert result.shape == (1, 2, 3, 8, 12) and result.dtype == clean.dtype
    with pytest.raises(ValueError, match=r"returned latents of shape \(1, 2, 3, 4, 6\); expected \(1, 2, 3, 8, 12\)"):
        FunctionLift(lambda x, size: x)(clean, (3, 8, 12))


def test_a_fit_needs_enough_pairs_of_one_ratio():
    pair = (draw(1, 2, 2, 4, 4), draw(1, 2, 2, 8, 8))
    with pytest.raises(ValueError, match="at least 5 pairs"):
        fit_lift([pair] * 4)
    with pytest.raises(ValueError, match="at least 2 latent frames, got 1"):
        fit_lift([(pair[0][:, :, :1], pair[1][:, :, :1])] * 5)
    with pytest.raises(ValueError, match="changes the size by 1 x 2 x 2"):
        fit_lift([pair, (pair[0], pair[0])])
    with pytest.raises(ValueError, match="must be at least 2, got 1"):
        fit_lift([pair] * 4, hold_out=1)
    with pytest.raises(ValueError, match="ridge must be above 0, got 0"):
        fit_lift([pair] * 5, ridge=0)
    image = (pair[0][:, :, :1], pair[1][:, :, :1])
    with pytest.raises(ValueError, match="do not cover every position"):
        fit_lift([pair, *[image] * 4])


def test_a_running_fit_is_that_of_all_pairs_and_knows_its_gain():
    """On pairs without any relation more pairs only help against overfitting, on exact ones the first few are enough."""
    pairs = [(draw(1, 2, 3, 4, 4, seed=seed), draw(1, 2, 3, 8, 8, seed=seed + 50)) for seed in range(10)]
    haar = make_resize("haar", "HW")
    exact = [(small, haar.up(small)) for small, _ in pairs]
    gains = []
    for kind in (pairs, exact):
        running = RunningFit(ridge=1e-6)
        with pytest.raises(ValueError, match="needs pairs of latents, and others that are held out"):
            running.solve()
        for index, pair in enumerate(kind[:5]):
            running.add(*pair, held_out=index == 4)
        before, report = running.solve()
        for index, pair in enumerate(kind[5:]):
            running.add(*pair, held_out=index == 4)
        after, _ = running.solve()
        whole, of_all = fit_lift(kind, ridge=1e-6)
        assert torch.equal(after.rest, whole.rest) and of_all.held_out_pairs == 2 and report.held_out_pairs == 1
        gains.append(running.gain(before))
        assert running.gain(after) == 0
    assert gains[0] > 0.1 and abs(gains[1]) < 1e-4


def test_single_frames_only_fit_the_map_of_frame_zero():
    clips = [(draw(1, 2, 3, 4, 4, seed=seed), draw(1, 2, 3, 8, 8, seed=seed + 50)) for seed in range(5)]
    images = [(small[:, :, :1] + 1, large[:, :, :1] - 1) for small, large in clips]
    fitted, _ = fit_lift(clips)
    with_images, _ = fit_lift([*clips, *images])
    assert torch.equal(with_images.rest, fitted.rest)
    assert (with_images.first - fitted.first).abs().max() > 0.1


def test_latents_of_48_channels():
    small, large = draw(8, 48, 2, 8, 8), draw(8, 48, 2, 16, 16, seed=1)
    fitted, report = fit_lift([(small, large)] * 5)
    assert fitted.rest.shape == (1, 2, 2, 48, 48 * 9 + 1) and len(report.rest.error) == 48
    assert fitted(small, (2, 16, 16)).shape == large.shape


def test_kernels_follow_the_ratio():
    half, one, larger = Fraction(1, 2), Fraction(1), Fraction(3, 2)
    assert default_kernel((one, larger, larger)) == (1, 3, 3)
    assert default_kernel((half, half, half)) == (2, 4, 4)
    assert default_kernel((Fraction(2), one, one)) == (1, 3, 3)
