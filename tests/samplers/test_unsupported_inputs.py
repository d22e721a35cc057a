"""Models, latents, samplers and levels that a pyramid does not support raise a clear error."""

import comfy.latent_formats
import comfy.model_base
import comfy.model_sampling
import comfy.samplers
import pytest
import torch
from comfy_extras import nodes_custom_sampler as custom
from comfy_extras.nodes_advanced_samplers import SamplerLCMUpscale
from comfy_extras.nodes_video_model import ConditioningSetAreaPercentageVideo
from comfyui_graph import empty, guider, prompt

from pyramidalwan.nodes.sampler import PyramidalWanSampler, PyramidalWanSamplerAdvanced
from pyramidalwan.nodes.schedule import PyramidalWanSchedule
from pyramidalwan.pyramid.latent_shape import LatentShape
from pyramidalwan.pyramid.schedules import stage_levels
from pyramidalwan.pyramid.stages import PRESETS, PyramidSpec
from pyramidalwan.samplers.comfyui.lora_file import LoraFile
from pyramidalwan.samplers.comfyui.stage_lora import StageLora, add_stage_lora
from pyramidalwan.samplers.comfyui.stage_model import bind_stage
from pyramidalwan.samplers.hand_wired import stage_model
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


def advanced(model, guider, sampler=None, sigmas=None, cfg="", pyramid=WAN, latent=None):
    """Return the video of 'Pyramidal Sampler (Advanced)'."""
    if sigmas is None:
        sigmas = PyramidalWanSchedule.execute(pyramid, "-".join("1" * pyramid.number_of_stages), "auto", 5.0).args[0]
    parts = (SeedNoise(1), guider, sampler or make_sampler("euler"), sigmas, latent or empty())
    return PyramidalWanSamplerAdvanced.execute(*parts, cfg, "auto", "auto", pyramid).args[0]["samples"]


class TestGuiders:
    def test_two_cfg_cannot_change_from_stage_to_stage(self, t2v_model):
        two = custom.DualCFGGuider.execute(t2v_model, prompt(1), prompt(2), prompt(3), 2.0, 3.0, "regular").args[0]
        with pytest.raises(ValueError, match="no single cfg that could change from stage to stage; leave cfg empty"):
            advanced(t2v_model, two, cfg="3-2-1")
        assert torch.isfinite(advanced(t2v_model, two)).all()

    def test_a_guider_without_a_negative_prompt_has_no_cfg(self, t2v_model):
        basic = custom.BasicGuider.execute(t2v_model, prompt(1)).args[0]
        with pytest.raises(ValueError, match="no negative prompt, so it has no cfg; leave cfg empty, or use 'CFGGuider'"):
            advanced(t2v_model, basic, cfg="3-2-1")
        assert torch.equal(advanced(t2v_model, basic, cfg="1"), advanced(t2v_model, basic))
        assert torch.equal(advanced(t2v_model, basic), advanced(t2v_model, guider(t2v_model, 1.0)))

    def test_a_guider_of_another_pack_with_its_own_formula_may_lack_a_negative_prompt(self, t2v_model):
        class Other(comfy.samplers.CFGGuider):
            def predict_noise(self, x, timestep, model_options={}, seed=None):  # noqa: B006 - ComfyUI's signature
                return super().predict_noise(x, timestep, model_options, seed)

        other = Other(t2v_model)
        other.inner_set_conds({"positive": prompt(1)})
        assert torch.isfinite(advanced(t2v_model, other, cfg="3-2-1")).all()


class TestSamplersOfOtherNodes:
    def test_a_sampler_that_enlarges_the_latent_is_rejected_by_name(self, t2v_model):
        enlarging = SamplerLCMUpscale.execute(2.0, -1, "bislerp").args[0]
        for spec in (WAN, FREE):
            with pytest.raises(ValueError, match="'SamplerLCMUpscale' enlarges the latent itself.*use 'KSamplerSelect'"):
                sample(t2v_model, spec, sampler=enlarging)

    def test_comfyuis_stochastic_samplers_are_known_from_their_own_nodes(self, t2v_model):
        for sde in (custom.SamplerDPMPP_SDE.execute(1.0, 1.0, 0.5, "cpu"), custom.SamplerEulerAncestral.execute(1.0, 1.0)):
            with pytest.raises(ValueError, match="adds noise that does not fit a pyramidal stage"):
                sample(t2v_model, sampler=sde.args[0])

    def test_an_unknown_sampler_that_draws_noise_is_rejected_unless_its_eta_is_zero(self, t2v_model):
        def sample_with_noise(model, x, sigmas, extra_args=None, callback=None, disable=None, eta=1.0, noise_sampler=None):
            return comfy.k_diffusion.sampling.sample_euler_ancestral(
                model, x, sigmas, extra_args, callback, disable, eta, noise_sampler=noise_sampler
            )

        noisy = comfy.samplers.KSAMPLER(sample_with_noise)
        with pytest.raises(ValueError, match="the sampler 'sample_with_noise' adds noise.*set its eta to 0, or use"):
            sample(t2v_model, sampler=noisy)
        sample(t2v_model, FREE, sampler=noisy)
        still = comfy.samplers.KSAMPLER(sample_with_noise, extra_options={"eta": 0.0})
        assert torch.isfinite(sample(t2v_model, sampler=still).output["samples"]).all()

    def test_an_unknown_sampler_runs_with_a_warning(self, t2v_model, caplog):
        def sample_of_another_pack(model, x, sigmas, **options):
            return comfy.k_diffusion.sampling.sample_euler(model, x, sigmas, **options)

        other = comfy.samplers.KSAMPLER(sample_of_another_pack)
        assert torch.equal(sample(t2v_model, sampler=other).output["samples"], sample(t2v_model).output["samples"])
        assert "cannot tell whether the sampler sample_of_another_pack adds noise" in caplog.text
        caplog.clear()
        sample(t2v_model, FREE, sampler=other)
        assert "cannot tell" not in caplog.text


def test_a_stage_lora_names_a_stage_of_the_pyramid(t2v_model):
    weight = {"lora_up.weight": torch.ones(128, 2), "lora_down.weight": torch.ones(2, 128)}
    file = LoraFile("detail.safetensors", {"blocks.0.self_attn.q": weight})
    model, _ = add_stage_lora(t2v_model, StageLora(file, 1.0, "mid"))
    words = "the LoRA 'detail.safetensors' is set to stages 'mid': unknown stage 'mid' in a pyramid of 2 stages"
    with pytest.raises(ValueError, match=words):
        sample(model, FREE)
    with pytest.raises(ValueError, match=words):
        stage_model(model, FREE, "low")
    assert torch.isfinite(sample(model, WAN).output["samples"]).all()


def test_a_schedule_that_starts_almost_at_noise_starts_a_new_video(t2v_model):
    """ComfyUI's 'ddim_uniform' starts at 0.9997."""
    sampling = t2v_model.get_model_object("model_sampling")
    sigmas = comfy.samplers.calculate_sigmas(sampling, "ddim_uniform", 12)
    assert 0.99 < sigmas[0] < 1
    for spec in (FREE, WAN):
        assert torch.isfinite(advanced(t2v_model, guider(t2v_model), sigmas=sigmas, pyramid=spec)).all()


def test_the_node_that_replaces_areas_in_pixels_works(t2v_model):
    import nodes

    area = nodes.ConditioningSetArea().append(prompt(1), 64, 64, 0, 0, 1.0)[0]
    with pytest.raises(ValueError, match="area in pixels.*use 'ConditioningSetAreaPercentageVideo'"):
        advanced(t2v_model, guider(t2v_model, positive=area))
    share = ConditioningSetAreaPercentageVideo().append(prompt(1), 0.5, 0.5, 1.0, 0.25, 0.0, 0.0, 1.0)[0]
    both = advanced(t2v_model, guider(t2v_model, positive=share + prompt(3)))
    assert torch.isfinite(both).all() and not torch.equal(both, advanced(t2v_model, guider(t2v_model, positive=prompt(3))))


NAN, INFINITY = float("nan"), float("inf")


class TestNotNumbers:
    @pytest.mark.parametrize("denoise", [NAN, INFINITY, -INFINITY, 0.0, -0.5, 1.5])
    def test_denoise(self, t2v_model, denoise):
        values = (5, "1-1", "1", "euler", denoise, "auto", 5.0, "auto", "auto", FREE)
        with pytest.raises(ValueError, match=f"denoise is {denoise}; expected a number from 0.01 to 1"):
            PyramidalWanSampler.execute(t2v_model, prompt(1), prompt(2), empty(), *values)

    @pytest.mark.parametrize(
        ("cfg", "words"),
        [
            ("nan", "must be one number"),
            ("inf", "must be one number"),
            ("9" * 400, "above 100"),
            ("6-" + "9" * 400, "above 100"),
        ],
    )
    def test_cfg(self, cfg, words):
        with pytest.raises(ValueError, match=f"cfg .*{words}"):
            parse_cfg(cfg, 2)
        assert words in PyramidalWanSamplerAdvanced.validate_inputs(cfg)

    @pytest.mark.parametrize("cfg", [NAN, INFINITY])
    def test_the_cfg_of_a_guider(self, t2v_model, cfg):
        with pytest.raises(ValueError, match=f"the cfg of the GUIDER is {cfg:g}"):
            advanced(t2v_model, guider(t2v_model, cfg))

    @pytest.mark.parametrize("level", [NAN, INFINITY])
    @pytest.mark.parametrize("spec", [FREE, WAN], ids=["training-free", "pyramidal-wan"])
    def test_sigmas(self, t2v_model, spec, level):
        sigmas = torch.tensor([1.0, 0.9, level, 0.5, 0.3, 0.0])
        with pytest.raises(ValueError, match="SIGMAS hold NaN or infinity"):
            advanced(t2v_model, guider(t2v_model), sigmas=sigmas, pyramid=spec)

    @pytest.mark.parametrize("strength", [NAN, INFINITY])
    def test_the_strength_of_a_lora(self, strength):
        with pytest.raises(ValueError, match=f"strength is {strength}; expected a finite number"):
            StageLora(LoraFile("x.safetensors", {}), strength, "all")
