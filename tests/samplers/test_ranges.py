"""Ranges of other nodes mean the same steps with 'Pyramidal Model' as without it."""

from __future__ import annotations

import comfy.samplers
import pytest
import torch
from comfy_extras import nodes_custom_sampler as custom
from comfy_extras.nodes_cfg import CFGZeroStar
from comfy_extras.nodes_differential_diffusion import DifferentialDiffusion
from comfy_extras.nodes_model_advanced import ModelSamplingSD3
from comfy_extras.nodes_slg import SkipLayerGuidanceDiT
from comfyui_graph import empty, guider, prompt

import nodes
from pyramidalwan.pyramid.latent_shape import LatentShape
from pyramidalwan.pyramid.noise_pyramid import noise_pyramid
from pyramidalwan.pyramid.stages import PRESETS, PyramidSpec
from pyramidalwan.samplers.any_sampler import pyramidal_model
from pyramidalwan.samplers.noise import SeedNoise
from pyramidalwan.samplers.supported_samplers import make_sampler

STEPS = 12
SPECS = {
    "free": PRESETS["training-free"],
    "natural-3": PyramidSpec((0.9, 0.7), ("THW", "HW"), field="natural", timestep_source="sigma", first_frame="shared"),
    "wan": PyramidSpec((0.9, 0.6), ("THW", "HW")),
}
LATENT = empty(frames=3, height=8, width=8)


def node(cls, *args):
    """Return the first output of a node of either of ComfyUI's kinds."""
    made = cls.execute(*args) if hasattr(cls, "execute") else getattr(cls(), cls.FUNCTION)(*args)
    return made[0]


def shifted(model, shift=5.0):
    return ModelSamplingSD3().patch(model, shift)[0]


def pyramidal(model, name):
    return model if name is None else pyramidal_model(model, SPECS[name], lambda text: None)


def watched(model):
    """Return a clone, and a list of the natural level, rows and prompt tokens of each step's calls."""
    calls, clone = [], model.clone()

    def call(apply, args):
        natural = round(float(args["timestep"][0]), 4)
        if not calls or calls[-1][0] != natural:
            calls.append([natural, 0, args["c"]["c_crossattn"].shape[1]])
        calls[-1][1] += args["input"].shape[0]
        return apply(args["input"], args["timestep"], **args["c"])

    clone.set_model_unet_function_wrapper(call)
    return clone, calls


def ksampler(model, *, cfg=3.0, positive=None, latent=LATENT, **options):
    positive = positive or prompt(1)
    return nodes.common_ksampler(model, 5, STEPS, cfg, "euler", "simple", positive, prompt(2), latent, **options)[0]["samples"]


def steps_where(condition, model, name, **options):
    clone, calls = watched(model)
    ksampler(pyramidal(clone, name), **options)
    assert len(calls) == STEPS
    return [index for index, call in enumerate(calls) if condition(call)]


@pytest.mark.parametrize("shift", [1.0, 5.0])
@pytest.mark.parametrize("name", ["free", "natural-3"])
@pytest.mark.parametrize(("start", "end"), [(0.0, 0.15), (0.0, 0.5), (0.4, 0.9)])
def test_skip_layer_guidance_acts_in_the_same_steps(t2v_model, name, shift, start, end):
    model = node(SkipLayerGuidanceDiT, shifted(t2v_model, shift), 3.0, start, end, "1", "")
    wanted, found = (steps_where(lambda call: call[1] > 2, model, spec) for spec in (None, name))
    assert found == wanted and 0 < len(wanted) < STEPS


@pytest.mark.parametrize("shift_first", [True, False])
@pytest.mark.parametrize("name", ["free", "natural-3"])
@pytest.mark.parametrize("shift", [3.0, 5.0, 8.0])
def test_a_prompt_for_a_range_is_used_in_the_same_steps(t2v_model, name, shift, shift_first):
    """With 'ModelSamplingSD3' before or after the node."""
    first = node(nodes.ConditioningSetTimestepRange, prompt(1, tokens=7), 0.0, 0.5)
    rest = node(nodes.ConditioningSetTimestepRange, prompt(3, tokens=9), 0.5, 1.0)
    found = []
    for spec in (None, name):
        clone, calls = watched(t2v_model)
        model = pyramidal(shifted(clone, shift), spec) if shift_first else shifted(pyramidal(clone, spec), shift)
        ksampler(model, cfg=1.0, positive=first + rest)
        found.append([index for index, call in enumerate(calls) if call[2] == 7])
    assert found[0] == found[1] and 0 < len(found[0]) < STEPS


def test_cfg_zero_star_acts_in_the_low_stage_as_in_a_small_video(t2v_model):
    model, seen = node(CFGZeroStar, shifted(t2v_model)), []
    model.set_model_sampler_post_cfg_function(lambda args: seen.append(args["denoised"]) or args["denoised"])
    ksampler(pyramidal(model, "free"))
    in_pyramid = [video for video in seen if video.shape[-1] == 4]
    seen.clear()
    stages = SPECS["free"].stages(LatentShape(*LATENT["samples"].shape[2:]))
    noise = noise_pyramid(SeedNoise(5).generate_noise(LATENT), stages)[0]
    sigmas = comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "simple", STEPS)
    sigmas = stages[0].reference_sigma(sigmas[: len(in_pyramid) + 1])
    guider(model, 3.0).sample(noise, torch.zeros_like(noise), make_sampler("euler"), sigmas, seed=5)
    assert 2 < len(in_pyramid) < STEPS
    torch.testing.assert_close(torch.cat(in_pyramid), torch.cat(seen), atol=1e-5, rtol=1e-5)


class Scheduled(comfy.samplers.CFGGuider):
    """Guidance for the first third of the steps, found by equality in ``sample_sigmas`` as many packs do."""

    def predict_noise(self, x, timestep, model_options={}, seed=None):  # noqa: B006 - as in ComfyUI
        sigmas = model_options["transformer_options"]["sample_sigmas"]
        (place,) = (sigmas == timestep[0]).nonzero().flatten().tolist()
        negative = self.conds.get("negative") if place < STEPS // 3 else None
        cfg = self.cfg if place < STEPS // 3 else 1.0
        options = {"model_options": model_options, "seed": seed}
        return comfy.samplers.sampling_function(self.inner_model, x, timestep, negative, self.conds["positive"], cfg, **options)


@pytest.mark.parametrize("name", ["free", "natural-3", "wan"])
def test_guidance_by_the_place_in_sample_sigmas_acts_in_the_same_steps(t2v_model, name):
    found = []
    model = shifted(t2v_model)
    sigmas = comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "simple", STEPS)
    for spec in (None, name):
        clone, calls = watched(model)
        guider = Scheduled(pyramidal(clone, spec))
        guider.set_conds(prompt(1), prompt(2))
        guider.set_cfg(3.0)
        noise, euler = custom.Noise_RandomNoise(5), comfy.samplers.sampler_object("euler")
        custom.SamplerCustomAdvanced.execute(noise, guider, euler, sigmas, LATENT)
        found.append([index for index, call in enumerate(calls) if call[1] > 1])
    assert found[0] == found[1] == list(range(STEPS // 3))


@pytest.mark.parametrize("name", ["free", "natural-3"])
def test_every_level_that_other_nodes_see_is_one_of_sample_sigmas(t2v_model, name):
    """Bit for bit, in the calls of the network and in the functions of guidance."""
    seen, model = [], shifted(t2v_model)

    def look(args):
        options = args["model_options"]["transformer_options"]
        seen.append(bool((options["sample_sigmas"] == args["sigma"][0]).any()))
        return args["denoised"]

    model.set_model_sampler_post_cfg_function(look)
    ksampler(pyramidal(model, name))
    assert seen == [True] * STEPS


@pytest.mark.parametrize("name", ["free", "natural-3"])
@pytest.mark.parametrize("options", [{}, {"start_step": 2, "last_step": 9, "force_full_denoise": False}], ids=["whole", "part"])
def test_differential_diffusion_opens_the_mask_at_the_same_steps(t2v_model, name, options):
    """A mask of grey levels, of which each is sampled from its own step on; shown by the mask's share of ones."""
    latent = {"samples": torch.randn(1, 16, 3, 8, 8, generator=torch.Generator().manual_seed(1))}
    grey = torch.tensor([0.05, 0.2, 0.35, 0.5, 0.65, 0.8, 0.95, 1.0])
    grey = grey.view(1, 1, 1, 8, 1).expand(1, 1, 3, 8, 8)
    latent["noise_mask"] = grey

    def opened(spec):
        shares, model = {}, node(DifferentialDiffusion, shifted(t2v_model), 1.0)
        change = model.model_options["denoise_mask_function"]

        def watch(sigma, mask, extra_options):
            made = change(sigma, torch.linspace(0, 1, 101).to(mask), extra_options=extra_options)
            shares[round(float(sigma[0]), 4)] = float(made.mean())
            return change(sigma, mask, extra_options=extra_options)

        model.set_model_denoise_mask_function(watch)
        made = ksampler(pyramidal(model, spec), latent=latent, **options)
        return [share for _, share in sorted(shares.items())], made

    (wanted, _), (found, made) = opened(None), opened(name)
    assert found == pytest.approx(wanted, abs=0.011) and len(set(wanted)) > 3 and torch.isfinite(made).all()
