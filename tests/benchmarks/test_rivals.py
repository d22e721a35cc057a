"""Other methods, against their published formulas."""

import math

import comfy.sd
import pytest
import torch

from benchmarks.quality.rivals import RIVALS, selflift
from benchmarks.quality.rows import speed_boundary
from pyramid.latent_shape import LatentShape
from pyramid.noise_levels import shift_sigma
from pyramid.resize import make_resize
from pyramid.stages import PyramidSpec
from pyramidalwan.samplers.lift.pixels import pixel_lift
from tiny_wan.checkpoints import vae_state_dict

FULL = LatentShape(5, 16, 16)


def test_speed_is_the_transition_of_this_pack_with_its_own_boundary():
    """At sigma t, SPEED multiplies an enlarged latent by r / (1 + (r - 1) t) and continues from r t / (1 + (r - 1) t)."""
    natural = speed_boundary(0.5)
    spec = PyramidSpec((natural,), ("HW",), resize="dct", field="natural", timestep_source="sigma", first_frame="shared")
    low, high = spec.stages(FULL)
    t = low.clean.sigma[1]
    assert t == pytest.approx(1 / (1 + math.sqrt(0.01 / (0.5 * 1.49))))
    ratio = 2
    assert high.noisy.sigma[1] == pytest.approx(ratio * t / (1 + (ratio - 1) * t)) == pytest.approx(natural)
    clean = torch.ones(1, 1, 5, 8, 8)
    enlarged = make_resize("dct", "HW").up(clean)  # keeps a constant, where SPEED keeps coefficients: the ratio is divided out
    signal = (1 - high.noisy.sigma[1]) * torch.ones(1, 1, 5, 16, 16)
    torch.testing.assert_close(ratio / (1 + (ratio - 1) * t) * (1 - t) * enlarged / ratio, signal)


def test_lightx2v_renoises_at_the_level_of_the_last_step_and_raises_the_shift():
    rival = RIVALS["jenga"]
    assert rival.low_shape(LatentShape(21, 60, 104)) == (21, 44, 78)
    first, then, level = rival.levels((25, 25), 8.0)
    assert len(first) == len(then) == 26 and first[0] == 1 and then[-1] == 0
    assert level == first[24] == pytest.approx(0.897, abs=1e-3) and then[0] == pytest.approx(shift_sigma(0.5, 9.0))


def test_selflift_continues_from_a_slightly_lower_level():
    first, then, level = RIVALS["selflift"].levels((20, 10), 5.0)
    assert then[0] == level == pytest.approx(0.97 * first[-1]) and then[1] == pytest.approx(shift_sigma(9 / 30, 5.0))


@pytest.mark.parametrize(("share", "least", "most"), [(1.0, 1.0, 1.0), (0.25, 0.7, 1.0)])
def test_selflift_corrects_the_largest_differences(t2v_model, share, least, most):
    vae, inner = comfy.sd.VAE(sd=vae_state_dict(dim=4)), t2v_model.model
    clean, size = torch.randn(2, 16, 2, 4, 4, generator=torch.Generator().manual_seed(0)), LatentShape(2, 8, 8)
    latent = inner.process_latent_out(clean)
    repeated = latent.repeat_interleave(2, -1).repeat_interleave(2, -2)
    difference = pixel_lift(vae)(latent, tuple(size)) - repeated
    made = inner.process_latent_out(selflift(t2v_model, vae, clean, size, share=share, least=least, most=most)) - repeated
    weights = ((made * difference).sum(dim=1) / difference.square().sum(dim=1)).flatten(1)
    for weight, risk in zip(weights, difference.abs().mean(dim=1).flatten(1), strict=True):
        order = risk.argsort(descending=True)
        count = round(share * len(risk))
        assert weight[order[0]] == pytest.approx(most, abs=1e-3) and weight[order[count - 1]] == pytest.approx(least, abs=1e-3)
        assert (weight[order[count:]].abs() < 1e-3).all() and (weight[order[:count]] > least - 1e-3).all()
