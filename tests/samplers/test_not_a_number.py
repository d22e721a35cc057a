"""NaN and infinity never reach a video: refused where they enter, by name, and the next run is what it was."""

import math

import comfy.sd
import folder_paths
import pytest
import torch
from comfy_extras.nodes_custom_sampler import CFGGuider, KSamplerSelect, RandomNoise, SamplerCustomAdvanced
from comfyui_graph import GivenNoise, empty, guider, prompt

from pyramidalwan.nodes.model import PyramidalWanModel
from pyramidalwan.nodes.sampler import PyramidalWanSampler, PyramidalWanSamplerAdvanced
from pyramidalwan.nodes.stages import PyramidalWanStageModel
from pyramidalwan.pyramid.lift import FunctionLift
from pyramidalwan.pyramid.stages import PRESETS
from pyramidalwan.samplers.comfyui.finite import is_finite, key_of_nan
from pyramidalwan.samplers.comfyui.flow_shift import flow_shift
from pyramidalwan.samplers.hand_wired import stage_sigmas
from pyramidalwan.samplers.lift import fitting
from pyramidalwan.samplers.lift.choice import make_lift
from pyramidalwan.samplers.lift.video_lift import VideoLift
from pyramidalwan.samplers.noise import SeedNoise
from tiny_wan.checkpoints import t2v_state_dict, vae_state_dict

NAN, FREE = math.nan, PRESETS["training-free"]
SIGMAS = torch.tensor([1.0, 0.8, 0.0])
SMALL = {"frames": 3, "height": 8, "width": 8}


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.float8_e5m2, torch.complex64]
)
@pytest.mark.parametrize("bad", [NAN, math.inf, -math.inf])
def test_one_bad_number_is_found_in_every_type(dtype, bad):
    tensor = torch.ones(3, 4).to(dtype)
    assert is_finite(tensor)
    tensor = torch.ones(3, 4)
    tensor[1, 2] = bad
    assert not is_finite(tensor.to(dtype))


def test_whole_numbers_and_nothing_are_finite():
    assert all(map(is_finite, (torch.tensor([1, 2]), torch.zeros(0), torch.tensor(True))))


def test_a_bad_number_is_found_inside_lists_and_dicts():
    assert key_of_nan({"a": 1, "b": [torch.ones(2), {"c": 2.0}]}) is None
    assert key_of_nan({"a": 1, "b": [torch.ones(2), {"c": NAN}]}) == "b"
    assert key_of_nan(torch.tensor(NAN)) == "" and key_of_nan([1.0, math.inf]) == ""


def one_node(model, positive=None, **changes):
    values = dict(
        positive=positive or prompt(1), negative=prompt(2), latent=empty(**SMALL), seed=5, steps="1-1", cfg="2", denoise=1.0,
        sampler_name="euler", grid="auto", shift=5.0, start_stage="auto", end_stage="auto", pyramid=FREE,
    )  # fmt: skip
    return PyramidalWanSampler.execute(model, **{**values, **changes}).args[0]["samples"]


def advanced(model, positive=None, noise=None, cfg=2.0, latent=None):
    given = CFGGuider.execute(model, positive or prompt(1), prompt(2), cfg).args[0]
    noise, sampler = noise or RandomNoise.execute(5).args[0], KSamplerSelect.execute("euler").args[0]
    latent = latent or empty(**SMALL)
    return PyramidalWanSamplerAdvanced.execute(noise, given, sampler, SIGMAS, latent, "", "auto", "auto", FREE).args[0][
        "samples"
    ]


def any_sampler(model, positive=None, noise=None, cfg=2.0, latent=None):
    given = CFGGuider.execute(PyramidalWanModel.execute(model, FREE).args[0], positive or prompt(1), prompt(2), cfg).args[0]
    noise, sampler = noise or RandomNoise.execute(5).args[0], KSamplerSelect.execute("euler").args[0]
    return SamplerCustomAdvanced.execute(noise, given, sampler, SIGMAS, latent or empty(**SMALL)).args[0]["samples"]


def by_hand(model, positive=None, noise=None, cfg=2.0, latent=None):
    given = CFGGuider.execute(
        PyramidalWanStageModel.execute(model, FREE, "high").args[0], positive or prompt(1), prompt(2), cfg
    )
    sigmas, sampler = stage_sigmas(SIGMAS, FREE, "high"), KSamplerSelect.execute("euler").args[0]
    latent = latent or {"samples": torch.randn(1, 16, 3, 8, 8, generator=torch.Generator().manual_seed(1))}
    noise = noise or RandomNoise.execute(5).args[0]
    return SamplerCustomAdvanced.execute(noise, given.args[0], sampler, sigmas, latent).args[0]["samples"]


FORMS = [one_node, advanced, any_sampler, by_hand]


@pytest.fixture(scope="module")
def broken_model():
    weights = t2v_state_dict(layers=1)
    weights["blocks.0.ffn.0.weight"][3, 5] = NAN
    return comfy.sd.load_diffusion_model_state_dict(weights)


@pytest.mark.parametrize("form", FORMS)
def test_a_damaged_weight_is_named_and_the_next_run_is_what_it_was(t2v_model, broken_model, form):
    before = form(t2v_model)
    with pytest.raises(
        ValueError, match="stage '(low|high)' holds NaN or infinity: the MODEL's weight 'blocks.0.ffn.0.weight' does"
    ):
        form(broken_model)
    assert torch.equal(form(t2v_model), before)
    assert not broken_model.wrappers and not broken_model.object_patches and not broken_model.patches


def test_the_first_step_already_stops_a_run_of_a_damaged_model(broken_model):
    steps = []
    watched = broken_model.clone()
    watched.set_model_sampler_post_cfg_function(lambda given: steps.append(1) or given["denoised"])
    with pytest.raises(ValueError, match="stage 'low' holds NaN"):
        one_node(watched, steps="9-9")
    assert len(steps) == 1


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("embedding", "options", "words"),
    [
        (torch.full((1, 7, 4096), NAN), {}, "NaN|holds NaN or infinity in 'cross_attn'"),
        (torch.ones(1, 7, 4096), {"reference_latents": [torch.full((1, 16, 1, 8, 8), NAN)]}, "in 'reference_latents'"),
        (torch.ones(1, 7, 4096), {"strength": NAN}, "positive conditioning holds NaN or infinity in 'strength'"),
        (torch.ones(1, 7, 4096), {"strength": "a"}, "positive conditioning has strength 'a'; expected 0 to 1000"),
        (torch.ones(1, 7, 768), {}, "an embedding of size 1x7x768, but this MODEL takes tokens of width 4096.*type 'wan'"),
    ],
)
def test_a_damaged_prompt_is_named_before_anything_is_sampled(t2v_model, form, embedding, options, words, monkeypatch):
    monkeypatch.setattr(type(t2v_model.model), "apply_model", lambda *_, **__: pytest.fail("sampled first"))
    with pytest.raises(ValueError, match=words):
        form(t2v_model, [[embedding, options]])


@pytest.mark.parametrize("form", [advanced, any_sampler])
def test_noise_that_is_none_is_refused(t2v_model, form):
    with pytest.raises(ValueError, match="the NOISE draws NaN or infinity; connect 'RandomNoise'"):
        form(t2v_model, noise=GivenNoise(torch.full((1, 16, 3, 8, 8), NAN)))
    if form is advanced:
        with pytest.raises(ValueError, match="the NOISE draws 1x16x3x8x7 for a latent of 1x16x3x8x8"):
            form(t2v_model, noise=GivenNoise(torch.ones(1, 16, 3, 8, 7)))


@pytest.mark.parametrize("form", [advanced, any_sampler])
@pytest.mark.parametrize("cfg", [NAN, math.inf])
def test_a_cfg_that_is_no_number_is_refused(t2v_model, form, cfg):
    with pytest.raises(ValueError, match=f"the cfg of the GUIDER is {cfg}; expected a number such as 6"):
        form(t2v_model, cfg=cfg)


@pytest.mark.parametrize("form", FORMS[1:])
def test_a_latent_that_is_no_video_is_refused(t2v_model, form):
    with pytest.raises(ValueError, match="the LATENT at (latent|the sampler) holds NaN or infinity"):
        form(t2v_model, latent={"samples": torch.full((1, 16, 3, 8, 8), NAN)})


def test_a_guider_without_prompts_is_refused(t2v_model):
    made, sampler = guider(t2v_model), KSamplerSelect.execute("euler").args[0]
    for conds in ({}, None, {"positive": []}, {"positive": None}):
        made.original_conds = conds
        with pytest.raises(ValueError, match="the GUIDER has no prompts; connect its conditioning"):
            PyramidalWanSamplerAdvanced.execute(SeedNoise(5), made, sampler, SIGMAS, empty(**SMALL), "", "auto", "auto", FREE)


def test_a_lift_that_gives_no_numbers_is_named(t2v_model):
    bad = FunctionLift(lambda clean, size: clean.new_full((*clean.shape[:2], *size), NAN))
    with pytest.raises(ValueError, match="the lift 'broken' gives NaN or infinity; make another one, or disconnect it"):
        one_node(t2v_model, lift=VideoLift("broken", 16, {"HW": bad}))


@pytest.mark.parametrize(
    ("weight", "method"), [("conv1.bias", "auto"), ("decoder.conv1.weight", "auto"), ("decoder.conv1.weight", "pixels")]
)
def test_a_vae_with_a_damaged_weight_is_named_before_a_lift_is_fitted(tmp_path, monkeypatch, weight, method):
    weights = vae_state_dict(dim=4)
    weights[weight].view(-1)[3] = NAN
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "pyramidal_lifts", ([str(tmp_path)], set()))
    with pytest.raises(ValueError, match=f"^the VAE holds NaN or infinity in '{weight}'; load another file, or the VAE in"):
        make_lift(comfy.sd.VAE(sd=weights), method, None, FREE)
    assert not list(tmp_path.iterdir())


def test_a_vae_that_encodes_to_no_numbers_is_refused_at_the_first_clip():
    weights = vae_state_dict(dim=4)
    weights["conv1.bias"][3] = NAN
    with pytest.raises(ValueError, match="the VAE encodes a clip to NaN or infinity"):
        fitting._encoded(comfy.sd.VAE(sd=weights), torch.rand(1, 5, 32, 32, 3), ["HW"])


@pytest.mark.parametrize("shift", [NAN, 0.0, -1.0, math.inf])
def test_a_flow_shift_of_the_model_that_is_none_is_refused(t2v_model, shift):
    changed = t2v_model.clone()
    sampling = type(t2v_model.get_model_object("model_sampling"))(t2v_model.model.model_config)
    sampling.shift = shift
    changed.add_object_patch("model_sampling", sampling)
    with pytest.raises(ValueError, match="the flow shift of this MODEL is .*; set a positive one at 'ModelSamplingSD3'"):
        flow_shift(0, changed)


@pytest.mark.parametrize("cfg", ["101", "1-1000", "9" * 400])
def test_a_cfg_beyond_that_of_comfyui_is_refused(t2v_model, cfg):
    with pytest.raises(ValueError, match="is above 100, the most that ComfyUI's samplers take"):
        one_node(t2v_model, cfg=cfg)
