"""Runs over a part of the noise levels with 'Pyramidal Model', against closed forms on Gaussian data.

Each band of Gaussian data follows a linear flow of its own, so its deviation after any chain of samplers is a formula. The
draws have bands of exactly unit deviation; only the noise that tops up frame 0 is a sample.
"""

from __future__ import annotations

import itertools
import math

import comfy.samplers
import pytest
import torch
from comfy.patcher_extension import WrappersMP
from comfy_extras.nodes_model_advanced import ModelSamplingSD3
from comfyui_gaussian import BAND_STD, GaussianComfyUI
from comfyui_graph import empty, guider, prompt

import nodes
from pyramidalwan.pyramid.latent_shape import LatentShape
from pyramidalwan.pyramid.lift import FunctionLift
from pyramidalwan.pyramid.noise_pyramid import noise_pyramid
from pyramidalwan.pyramid.stages import PRESETS, PyramidSpec
from pyramidalwan.samplers.any_sampler import pyramidal_model
from pyramidalwan.samplers.lift.video_lift import VideoLift

FULL = LatentShape(5, 32, 32)
FREE = PRESETS["training-free"]


def natural(boundaries, axes):
    return PyramidSpec(boundaries, axes, field="natural", timestep_source="sigma", first_frame="shared")


SPECS = [FREE, natural((0.8,), ("THW",)), natural((0.9, 0.7), ("HW", "HW")), natural((0.9, 0.7), ("THW", "HW"))]
NAMES = ["HW", "THW", "HW-HW", "THW-HW"]


def curve(start: float, end: float, steps: int = 60) -> torch.Tensor:
    return torch.linspace(start, end, steps + 1)


class Bands:
    """Runs on Gaussian data, and the deviations of its bands."""

    def __init__(self, model, spec: PyramidSpec):
        self.spec, self.data, self.base = spec, GaussianComfyUI(spec, FULL), model
        self.plain = self.data.into(model)
        self.pyramid = pyramidal_model(self.plain, spec, lambda text: None)
        generator = torch.Generator().manual_seed(4)
        self.noise = self.data.whitened(torch.randn(4, 16, *FULL, generator=generator))

    def run(self, model, sigmas, latent=None, noise=None):
        """Return the output in the scale of the network, as ``guider.sample`` makes it for every sampler node."""
        latent = torch.zeros_like(self.noise) if latent is None else self.base.model.process_latent_out(latent)
        noise = self.noise if noise is None else noise
        made = guider(model).sample(noise, latent, comfy.samplers.sampler_object("heun"), sigmas, seed=3)
        return self.base.model.process_latent_in(made)

    def video(self, seed=6):
        """Return a video with exactly the law of the data."""
        draw = self.data.whitened(torch.randn(4, 16, *FULL, generator=torch.Generator().manual_seed(seed)))
        return self.data.per_band(draw.double(), self.data.stages[-1], torch.tensor(0.5), self._std_gain).float()

    @staticmethod
    def _std_gain(std, signal, slope, sigma, kappa, noise):
        return std / math.sqrt(noise)

    def noise_std(self, level: int, frame: int) -> float:
        """Return the deviation of full-size white noise in a band, in units of its level."""
        factors = [stage.from_coarser.fine_per_coarse(2)[min(frame, 1)] for stage in self.data.stages if stage.from_coarser]
        return 1 / math.sqrt(math.prod(factors[len(factors) - level :]))

    def at(self, level: int, frame: int, sigma: float) -> float:
        """Return the deviation of a band of the noised data at a natural level."""
        return math.hypot((1 - sigma) * BAND_STD[level][min(frame, 1)], sigma * self.noise_std(level, frame))

    def check(self, samples, expected, *, frame_0=0.06):
        """Compare every band with ``expected(level, frame)``; frame 0 is a sample where its noise was topped up."""
        tops_up = any("T" in axes for axes in self.spec.downsample_axes)
        for (level, frame), std in self.data.band_std(samples).items():
            tolerance = frame_0 if tops_up and frame == 0 else 1e-2
            assert std == pytest.approx(expected(level, frame), rel=tolerance), (level, frame)

    def stage_at(self, sigma: float) -> int:
        """Return the level of the stage that a run which ends at this natural level is in."""
        return sum(sigma >= boundary - 1e-6 for boundary in self.spec.boundaries)


@pytest.mark.one_version
@pytest.mark.parametrize("spec", SPECS, ids=NAMES)
@pytest.mark.parametrize("end", [0.95, 0.85, 0.75, 0.4])
def test_a_run_that_ends_above_zero_has_the_low_bands_of_its_level_and_noise_above(t2v_model, spec, end):
    """The bands that the last stage can hold have the law of the data at that level, all others hold noise alone."""
    bands = Bands(t2v_model, spec)
    ended = bands.stage_at(end)
    made = bands.run(bands.pyramid, curve(1.0, end)) * (1 - end)

    def expected(level, frame):
        if level >= ended:
            return law_after_stages(bands, level, frame, end)
        return end * bands.noise_std(level, frame)

    bands.check(made, expected)


def law_after_stages(bands: Bands, level: int, frame: int, sigma: float) -> float:
    """Return the deviation at a natural level of a band that started as noise at the boundary of its stage."""
    boundary = (1.0, *bands.spec.boundaries)[len(bands.spec.boundaries) - level]
    if boundary < 1:
        boundary = min(torch.linspace(1.0, sigma, 61).tolist(), key=lambda natural: abs(natural - boundary))
    start = boundary * bands.noise_std(level, frame)
    return bands.at(level, frame, sigma) * start / bands.at(level, frame, boundary)


@pytest.mark.one_version
@pytest.mark.parametrize("spec", [FREE, SPECS[2]], ids=["HW", "HW-HW"])
@pytest.mark.parametrize("start", [0.97, 0.85, 0.75, 0.4])
def test_a_sample_with_leftover_noise_keeps_the_law_of_its_low_bands(t2v_model, spec, start):
    """A full-size sample of stock weights, resumed without fresh noise: what a stage cannot hold waits for its stage."""
    bands = Bands(t2v_model, spec)
    noisy = ((1 - start) * bands.video() + start * bands.noise) / (1 - start)
    made = bands.run(bands.pyramid, curve(start, 0.0), noisy, torch.zeros_like(noisy))

    def expected(level, frame):
        std = BAND_STD[level][min(frame, 1)]
        boundary = (1.0, *spec.boundaries)[len(spec.boundaries) - level]
        if boundary >= start:
            return std
        waited = min(torch.linspace(start, 0, 61).tolist(), key=lambda natural: abs(natural - boundary))
        return std * (waited / start) * bands.at(level, frame, start) / bands.at(level, frame, waited)

    # The video and the noise are two fixed draws, and so nearly uncorrelated that the deviation is within 2 %.
    for (level, frame), std in bands.data.band_std(made).items():
        assert std == pytest.approx(expected(level, frame), rel=0.07 if frame == 0 else 0.03), (level, frame)


def test_leftover_noise_needs_a_stage_with_all_frames(t2v_model):
    bands = Bands(t2v_model, natural((0.9, 0.7), ("THW", "HW")))
    noisy = bands.video()
    with pytest.raises(ValueError, match="halves time cannot resume .* leftover noise"):
        bands.run(bands.pyramid, curve(0.95, 0.0), noisy, torch.zeros_like(noisy))
    made = bands.run(bands.pyramid, curve(0.85, 0.0, 4), noisy, torch.zeros_like(noisy))
    assert torch.isfinite(made).all()


@pytest.mark.one_version
@pytest.mark.parametrize("spec", SPECS, ids=NAMES)
@pytest.mark.parametrize("start", [0.97, 0.85, 0.75, 0.4])
def test_a_video_noised_to_a_level_keeps_the_law_of_its_low_bands(t2v_model, spec, start):
    """Denoise below 1: the bands of the first stage have the law of the data, finer ones start as noise."""
    bands = Bands(t2v_model, spec)
    made = bands.run(bands.pyramid, curve(start, 0.0), bands.video())

    def expected(level, frame):
        std = BAND_STD[level][min(frame, 1)]
        boundary = (1.0, *spec.boundaries)[len(spec.boundaries) - level]
        if boundary >= start:
            return std
        waited = min(torch.linspace(start, 0, 61).tolist(), key=lambda natural: abs(natural - boundary))
        return std * waited * bands.noise_std(level, frame) / bands.at(level, frame, waited)

    for (level, frame), std in bands.data.band_std(made).items():
        assert std == pytest.approx(expected(level, frame), rel=0.07 if frame == 0 else 0.03), (level, frame)


def test_the_missing_band_of_a_run_that_ends_early_is_its_noise(t2v_model):
    """Not only its deviation: the draw of the run is what stands there."""
    bands = Bands(t2v_model, FREE)
    made = bands.run(bands.pyramid, curve(1.0, 0.9)) * (1 - 0.9)
    _, wanted = noise_pyramid(bands.noise, bands.data.stages)
    _, found = noise_pyramid(made, bands.data.stages)
    torch.testing.assert_close(found, 0.9 * wanted, atol=1e-4, rtol=1e-4)


def shifted(model):
    return ModelSamplingSD3().patch(model, 5.0)[0]


def ksampler(model, *, sampler="euler", steps=8, seed=5, latent=None, **options):
    latent = latent or empty()
    made = nodes.common_ksampler(model, seed, steps, 1.0, sampler, "simple", prompt(1), prompt(2), latent, **options)
    return made[0]["samples"]


@pytest.mark.parametrize("spec", [FREE, natural((0.9, 0.7), ("HW", "HW"))], ids=["HW", "HW-HW"])
def test_two_samplers_with_the_node_are_one(t2v_model, spec):
    """Where the second gets the noise that the first left: at every step, with another seed, in any stage."""
    model = pyramidal_model(shifted(t2v_model), spec, lambda text: None)
    whole = ksampler(model)
    for cut in range(1, 8):
        first = ksampler(model, start_step=0, last_step=cut, force_full_denoise=False)
        second = ksampler(model, seed=99, latent={"samples": first}, disable_noise=True, start_step=cut, last_step=10000)
        torch.testing.assert_close(second, whole, atol=2e-4, rtol=1e-4, msg=lambda text, cut=cut: f"cut {cut}: {text}")


def predicting_black(model):
    """Return a clone whose network predicts a clean video of zeros at every noise level and in every stage."""
    clone = model.clone()

    def answer(executor, x, timestep, context, clip_fea=None, time_dim_concat=None, transformer_options=None, **kwargs):
        level = transformer_options["sigmas"].flatten()[0]
        factor = 256 / (x.shape[-1] * x.shape[-2])
        return x[:, :16] / (level / (level + (1 - level) * factor**0.5))

    clone.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "answer", answer)
    return clone


@pytest.mark.parametrize(
    "spec, end, cuts",
    [
        (FREE, 2, [(1,)]),
        (FREE, 6, [(1,), (3,), (4,), (1, 2), (1, 2, 3), (1, 2, 3, 4, 5)]),
        (natural((0.9, 0.7), ("HW", "HW")), 6, [(1,), (3,), (1, 2), (1, 5), (1, 2, 3)]),
    ],
    ids=["in-low", "HW", "HW-HW"],
)
def test_several_samplers_with_the_node_lift_as_often_as_one(t2v_model, spec, end, cuts):
    """A lift that adds a picture to every clean prediction adds it once, however often the run changes the sampler."""
    picture = torch.randn(1, 16, 1, 16, 16, generator=torch.Generator().manual_seed(1))

    def lift(clean, size):
        height, width = clean.shape[-2:]
        return clean.repeat_interleave(2, -2).repeat_interleave(2, -1) + picture[..., : 2 * height, : 2 * width].to(clean)

    base = shifted(predicting_black(t2v_model))
    lifts = VideoLift("none", 16), VideoLift("picture", 16, everywhere=FunctionLift(lift))
    models = [pyramidal_model(base, spec, lambda text: None, made) for made in lifts]

    def added(*cuts):
        """Return what the lift adds to the output of the last of several samplers."""
        outputs = []
        for model in models:
            video, bounds = torch.zeros(1, 16, 5, 16, 16), (0, *cuts, end)
            for first, last in itertools.pairwise(bounds):
                options = dict(start_step=first, last_step=last, disable_noise=first > 0, force_full_denoise=False)
                video = ksampler(model, latent={"samples": video}, **options)
            outputs.append(t2v_model.model.process_latent_in(video))
        return outputs[1] - outputs[0]

    whole = added()
    assert whole.abs().max() > 0.1
    for steps in cuts:
        torch.testing.assert_close(added(*steps), whole, atol=1e-4, rtol=1e-4, msg=lambda text, at=steps: f"{at}: {text}")


@pytest.mark.parametrize("axes", list(itertools.product(["HW", "THW"], repeat=2)), ids="-".join)
def test_members_of_a_batch_are_sampled_as_alone(t2v_model, axes):
    """Also where a stage draws noise of its own to top up frame 0."""
    model = pyramidal_model(shifted(t2v_model), natural((0.9, 0.7), axes), lambda text: None)
    both = ksampler(model, latent=empty(batch=3))
    for index in (0, 2):
        alone = ksampler(model, latent=empty(batch_index=[index]))
        torch.testing.assert_close(both[index : index + 1], alone, atol=1e-4, rtol=1e-4)


def test_one_sigma_is_no_run(t2v_model):
    """'SplitSigmas' at step 0 leaves one level; ComfyUI then passes the latent on."""
    made = [
        guider(model).sample(torch.zeros(1, 16, 5, 16, 16), torch.ones(1, 16, 5, 16, 16), sampler, torch.tensor([0.5]), seed=1)
        for sampler in [comfy.samplers.sampler_object("euler")]
        for model in (shifted(t2v_model), pyramidal_model(shifted(t2v_model), FREE, print))
    ]
    assert torch.equal(*made)


def test_a_part_of_the_last_stage_is_comfyuis_run(t2v_model):
    """Below the boundaries the node changes nothing, masks of any value included."""
    latent = {"samples": torch.randn(1, 16, 5, 16, 16, generator=torch.Generator().manual_seed(2))}
    latent["noise_mask"] = torch.rand(1, 1, 5, 16, 16, generator=torch.Generator().manual_seed(3))
    options = {"latent": latent, "start_step": 5, "last_step": 7, "force_full_denoise": False}
    made, wanted = (
        ksampler(model, **options) for model in (pyramidal_model(shifted(t2v_model), FREE, print), shifted(t2v_model))
    )
    torch.testing.assert_close(made, wanted, atol=1e-5, rtol=1e-5)
