"""Models, latents, samplers and levels that a pyramid does not support raise a clear error."""

import comfy.latent_formats
import comfy.model_base
import comfy.model_sampling
import comfy.samplers
import pytest
import torch
from comfyui_graph import empty, guider

from pyramidalwan.pyramid.latent_shape import LatentShape
from pyramidalwan.pyramid.schedules import stage_levels
from pyramidalwan.pyramid.stages import PRESETS, PyramidSpec
from pyramidalwan.samplers.comfyui.stage_model import bind_stage
from pyramidalwan.samplers.noise import SeedNoise
from pyramidalwan.samplers.options import parse_cfg
from pyramidalwan.samplers.run import PyramidRun
from pyramidalwan.samplers.supported_samplers import check_sampler, make_sampler

WAN, FREE = PRESETS["pyramidal-wan"], PRESETS["training-free"]


def sample(model, spec=WAN, latent=None, sampler=None, steps=2):
    levels = stage_levels(spec, [steps] * spec.number_of_stages)
    return PyramidRun(guider(model), SeedNoise(1), sampler or make_sampler("euler"), levels, spec).sample(latent or empty())


@pytest.mark.parametrize(
    ("latent", "words"),
    [
        ({"samples": torch.ones(1, 16, 64)}, "3 dimensions, a video latent has 5"),
        ({"samples": torch.ones(1, 48, 5, 16, 16)}, "48 channels and this model's latents have 16"),
        (
            empty(height=60, width=104, frames=21),
            "832x480 with 81 frames does not fit.*832x448 with 81 frames and 832x512",
        ),
        (empty(frames=20), "with 77 frames does not fit.*65 frames and .*81 frames"),
        (empty(height=6), "multiples of 64"),
    ],
)
def test_latents_that_do_not_fit(t2v_model, latent, words):
    with pytest.raises(ValueError, match=words):
        sample(t2v_model, latent=latent)


def test_empty_image_latents_become_videos_of_one_frame_as_in_comfyui(t2v_model):
    spec = PyramidSpec((0.6,), ("HW",))
    assert sample(t2v_model, spec, {"samples": torch.zeros(1, 4, 16, 16)}).output["samples"].shape == (1, 16, 1, 16, 16)


def test_models_that_are_not_wan_or_not_flow(t2v_model):
    eps = t2v_model.clone()

    class Eps(comfy.model_sampling.ModelSamplingDiscrete, comfy.model_sampling.EPS):
        pass

    eps.add_object_patch("model_sampling", Eps(t2v_model.model.model_config))
    with pytest.raises(ValueError, match="samples flow models"):
        sample(eps)
    other = t2v_model.clone()
    other.model = comfy.model_base.BaseModel.__new__(comfy.model_base.Flux)
    torch.nn.Module.__init__(other.model)
    with pytest.raises(ValueError, match="only Wan 2.1/2.2 video models are supported; this MODEL is Flux"):
        sample(other)


def test_models_with_another_vae(t2v_model):
    other = t2v_model.clone()
    other.add_object_patch("latent_format", comfy.latent_formats.Wan22())
    with pytest.raises(ValueError, match="16 channels and this model's latents have 48: it was made for another model"):
        sample(other, latent={"samples": torch.ones(1, 16, 5, 16, 16)})


def test_a_model_bound_to_a_stage_is_not_sampled_again(t2v_model):
    bound = bind_stage(t2v_model, WAN.stages(LatentShape(5, 16, 16))[0], 3)
    with pytest.raises(ValueError, match="already bound to a stage"):
        sample(bound)


def test_context_windows_require_one_sigma_for_all_frames(t2v_model):
    model = t2v_model.clone()
    model.model_options["context_handler"] = object()
    with pytest.raises(ValueError, match="context windows"):
        sample(model)


def test_samplers_that_a_pyramid_does_not_support(t2v_model):
    with pytest.raises(ValueError, match="'lcm' adds noise.*'pyramid_few_step'"):
        sample(t2v_model, sampler=make_sampler("lcm"))
    with pytest.raises(ValueError, match="chooses its own number of steps"):
        sample(t2v_model, FREE, sampler=make_sampler("dpm_adaptive"))
    with pytest.raises(ValueError, match="'dpm_fast' requires at least 2 steps"):
        check_sampler(make_sampler("dpm_fast"), WAN, (2, 2, 1))
    with pytest.raises(ValueError, match="s_churn is 0.5"):
        sample(t2v_model, sampler=comfy.samplers.ksampler("euler", {"s_churn": 0.5}))
    sample(t2v_model, FREE, sampler=make_sampler("dpmpp_sde"))


@pytest.mark.parametrize("name", comfy.samplers.SAMPLER_NAMES)
def test_stock_weights_run_with_every_sampler_of_comfyui(t2v_model, name):
    if name != "dpm_adaptive":
        assert torch.isfinite(sample(t2v_model, FREE, sampler=make_sampler(name), steps=3).output["samples"]).all()


def test_cfg_is_parsed_per_stage():
    assert parse_cfg("6", 3) == [6, 6, 6] and parse_cfg("5-6.5-4", 3) == [5, 6.5, 4]
    with pytest.raises(ValueError, match="2 numbers, but the pyramid has 3 stages"):
        parse_cfg("5-6", 3)
    for text in ("", "x", "5--6", "nan", "-1"):
        with pytest.raises(ValueError, match="cfg"):
            parse_cfg(text, 3)
