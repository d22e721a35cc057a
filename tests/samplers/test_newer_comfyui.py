"""ComfyUI patched to behave like 0.38.1 where a custom node can notice; the differences were read from its sources.

These tests guard against known differences. They do not replace a run on the newer version (``COMFYUI_DIR=... make test``).
"""

import comfy.model_base
import comfy.model_patcher
import comfy.patcher_extension
import comfy.sample
import comfy.samplers
import comfy.sd
import comfy.utils
import comfy.weight_adapter
import pytest
import torch
from comfy_extras.nodes_hunyuan import EmptyHunyuanLatentVideo
from comfyui_graph import empty, guider, prompt
from safetensors.torch import save_file
from tqdm.auto import trange

import nodes
from pyramidalwan.nodes import NODES
from pyramidalwan.nodes import schema as probes
from pyramidalwan.nodes.latent import PyramidalWanEmptyLatent
from pyramidalwan.nodes.sampler import PyramidalWanSampler
from pyramidalwan.pyramid.latent_shape import LatentShape
from pyramidalwan.pyramid.stages import PRESETS, PyramidSpec
from pyramidalwan.samplers.comfyui.lora_file import load_lora_file
from pyramidalwan.samplers.comfyui.stage_lora import StageLora, add_stage_lora
from pyramidalwan.samplers.comfyui.stage_model import bind_stage, stage_of, stage_sampling
from pyramidalwan.samplers.hand_wired import stage_start
from pyramidalwan.samplers.noise import SeedNoise
from pyramidalwan.samplers.options import StageOptions, sample_with_conds
from pyramidalwan.samplers.run import PyramidRun
from pyramidalwan.samplers.schedule import levels_for
from tiny_wan.variants import VARIANTS, state_dict

WAN = PRESETS["pyramidal-wan"]


@pytest.fixture
def newer_comfyui(monkeypatch):
    """Patch signatures, argument handling and sharing of objects to those of 0.38.1."""
    change_patchers(monkeypatch)
    change_latents(monkeypatch)
    change_sampling(monkeypatch)
    return monkeypatch


def change_patchers(monkeypatch):
    clone = comfy.model_patcher.ModelPatcher.clone

    def newer_clone(self, disable_dynamic=False, model_override=None, force_deepcopy=False):
        assert not (disable_dynamic or force_deepcopy)
        made = clone(self)
        made.model_options = shallow(self.model_options)  # only dicts and lists are copied, other objects are shared
        return made

    def shallow(value):
        if isinstance(value, dict):
            return {key: shallow(item) for key, item in value.items()}
        return [shallow(item) for item in value] if isinstance(value, list) else value

    monkeypatch.setattr(comfy.model_patcher.ModelPatcher, "clone", newer_clone)
    monkeypatch.setattr(comfy.model_patcher.ModelPatcher, "is_dynamic", lambda self: False, raising=False)

    def newer_prepare_state(self, timestep, model_options=None):
        for callback in self.get_all_callbacks(comfy.patcher_extension.CallbacksMP.ON_PREPARE_STATE):
            callback(self, timestep, model_options or self.model_options)

    monkeypatch.setattr(comfy.model_patcher.ModelPatcher, "prepare_state", newer_prepare_state)

    cleanup = comfy.model_patcher.ModelPatcher.cleanup

    def newer_cleanup(self):
        for patches in self.patches.values():
            for _, value, *_ in patches:
                getattr(value, "cleanup", lambda: None)()
        cleanup(self)

    monkeypatch.setattr(comfy.model_patcher.ModelPatcher, "cleanup", newer_cleanup)
    monkeypatch.delattr(comfy.model_patcher.ModelPatcher, "get_ram_usage", raising=False)


def change_latents(monkeypatch):
    prepare = comfy.sample.prepare_noise

    def newer_noise(latent_image, seed, noise_inds=None):
        return prepare(latent_image.to(torch.float32), seed, noise_inds).to(latent_image.dtype)

    monkeypatch.setattr(comfy.sample, "prepare_noise", newer_noise)

    fix = comfy.sample.fix_empty_latent_channels

    def newer_fix(model, latent_image, downscale_ratio_spacial=None, downscale_ratio_temporal=None):
        return fix(model, latent_image)

    monkeypatch.setattr(comfy.sample, "fix_empty_latent_channels", newer_fix)


def change_sampling(monkeypatch):
    monkeypatch.setattr(comfy.utils, "model_trange", trange, raising=False)
    sample = comfy.samplers.KSAMPLER.sample

    def newer_sample(self, model_wrap, sigmas, extra_args, callback, *args, **kwargs):
        assert model_wrap.model_patcher.model is not None and model_wrap.cfg is not None

        def always(step, denoised, x, total):
            if callback is not None:
                callback(step, denoised, x, total)

        return sample(self, model_wrap, sigmas, extra_args, always, *args, **kwargs)

    monkeypatch.setattr(comfy.samplers.KSAMPLER, "sample", newer_sample)

    outer = comfy.samplers.CFGGuider.outer_sample

    def newer_outer(self, noise, latent_image, *args, **kwargs):
        return outer(self, noise.to(torch.float32), latent_image.to(torch.float32), *args, **kwargs)

    monkeypatch.setattr(comfy.samplers.CFGGuider, "outer_sample", newer_outer)

    apply = comfy.model_base.BaseModel._apply_model

    def newer_apply(self, x, t, c_concat=None, c_crossattn=None, control=None, transformer_options=None, **kwargs):
        copied = {**(transformer_options or {}), "prefetch_dynamic_vbars": False}
        before = dict(copied)
        output = apply(self, x, t, c_concat, c_crossattn, control, copied, **kwargs)
        assert {key: copied[key] for key in before} == before, "writes into the copy are lost"
        return output

    monkeypatch.setattr(comfy.model_base.BaseModel, "_apply_model", newer_apply)


def sample(model, **changes):
    values = dict(
        seed=5, steps="2-2-1", cfg="3", sampler_name="euler", denoise=1.0, grid="auto", shift=5.0,
        start_stage="auto", end_stage="auto", pyramid=WAN,
    )  # fmt: skip
    return PyramidalWanSampler.execute(model, prompt(1), prompt(2), empty(), **{**values, **changes}).args[0]["samples"]


@pytest.mark.parametrize("name", ["euler", "uni_pc", "pyramid_few_step"])
def test_newer_comfyui_makes_the_same_video(t2v_model, request, name):
    spec = PyramidSpec(rope="scaled", first_frame="shared")
    before = sample(t2v_model, sampler_name=name, pyramid=spec)
    request.getfixturevalue("newer_comfyui")
    torch.testing.assert_close(sample(t2v_model, sampler_name=name, pyramid=spec), before, atol=0, rtol=0)


def test_shared_model_options_stay_unchanged(t2v_model, newer_comfyui):
    model = t2v_model.clone()
    rope = {"scale_t": 1.0}
    model.model_options["transformer_options"]["rope_options"] = rope
    bind_stage(model, PyramidSpec(rope="scaled").stages(LatentShape(5, 16, 16))[0], 3)
    assert rope == {"scale_t": 1.0} and model.model_options["transformer_options"]["rope_options"] == rope
    assert not model.wrappers and "wrappers" not in model.model_options["transformer_options"]


def test_streamed_weights_get_patches_that_comfyui_can_rebuild(t2v_model, newer_comfyui, tmp_path):
    """A dynamic patcher rebuilds adapters from (loaded_keys, weights), and asserts on injections that it cannot stream."""
    newer_comfyui.setattr(comfy.model_patcher.ModelPatcher, "is_dynamic", lambda self: True, raising=False)
    module = "diffusion_model.blocks.0.self_attn.q"
    save_file(
        {f"{module}.lora_up.weight": torch.ones(128, 2) * 0.1, f"{module}.lora_down.weight": torch.ones(2, 128) * 0.1},
        tmp_path / "x.safetensors",
    )
    model, _ = add_stage_lora(t2v_model, StageLora(load_lora_file(tmp_path / "x.safetensors", "x"), 1.0, "low"))
    low, mid, _ = (bind_stage(model, stage, 3) for stage in WAN.stages(LatentShape(5, 16, 16)))
    assert not low.injections and not mid.patches
    ((strength, adapter, *_),) = low.patches[f"{module}.weight"]
    again = type(adapter)(adapter.loaded_keys, adapter.weights)
    weight = torch.zeros(128, 128)
    args = (weight.clone(), f"{module}.weight", strength, 1.0, None, lambda a: a)
    torch.testing.assert_close(again.calculate_weight(*args), adapter.calculate_weight(weight.clone(), *args[1:]))
    if hasattr(comfy.model_patcher, "ModelPatcherDynamic"):  # sampling requires a real dynamic patcher there
        newer_comfyui.setattr(comfy.model_patcher.ModelPatcher, "is_dynamic", lambda self: False)
    assert torch.isfinite(sample(model)).all()


def test_the_noise_scale_of_newer_comfyui_scales_all_noise(t2v_model):
    base = t2v_model.get_model_object("model_sampling")
    stage = WAN.stages(LatentShape(5, 16, 16))[1]
    bound = stage_sampling(base, stage)
    noise, latent, sigma = torch.randn(1, 16, 3, 8, 8), torch.randn(1, 16, 3, 8, 8), torch.tensor(stage.noisy.sigma[1])
    plain = bound.noise_scaling(sigma, noise, latent)
    bound.noise_scale = 1.5
    torch.testing.assert_close(bound.noise_scaling(sigma, noise / 1.5, latent), plain)


def run_of(model, **parts):
    spec, levels = levels_for(WAN, "2-2-1", "auto", 5.0)
    return PyramidRun(guider(model), SeedNoise(5), comfy.samplers.sampler_object("euler"), levels, spec, **parts)


def test_a_model_that_was_exchanged_in_the_guider_is_used(t2v_model, newer_comfyui):
    """Newer ComfyUI exchanges a streaming model for another one after the guider is created, if prompts carry hooks."""
    seen = []
    clone = t2v_model.clone()
    clone.add_wrapper_with_key(
        comfy.patcher_extension.WrappersMP.DIFFUSION_MODEL,
        "watch",
        lambda executor, *args, **kwargs: [seen.append(1), executor(*args, **kwargs)][1],
    )
    run = run_of(t2v_model)
    run.guider.model_patcher, run.guider.model_options = clone, clone.model_options
    run.sample(empty())
    assert len(seen) == 5


def test_the_second_model_of_a_guider_is_bound_to_the_stage(t2v_model, monkeypatch):
    bound, sample = [], comfy.samplers.CFGGuider.sample

    def watch(self, *args, **kwargs):
        bound.append(stage_of(self.uncond_model_patcher))
        return sample(self, *args, **kwargs)

    monkeypatch.setattr(comfy.samplers.CFGGuider, "sample", watch)
    run = run_of(t2v_model)
    run.guider.uncond_model_patcher = t2v_model
    run.sample(empty())
    stages = WAN.stages(LatentShape(5, 16, 16))
    assert bound == list(stages) and stage_of(run.guider.uncond_model_patcher) is None
    run.guider.uncond_model_patcher = bind_stage(t2v_model, stages[0], 3)
    with pytest.raises(ValueError, match="already bound to a stage"):
        run.sample(empty())


def test_size_notes_of_an_empty_latent_are_dropped(t2v_model, newer_comfyui):
    noted = empty(downscale_ratio_spacial=8, downscale_ratio_temporal=4, batch_index=[0])
    result = run_of(t2v_model).sample(noted)
    for latent in (result.output, result.denoised, *result.drafts):
        assert not any(key.startswith("downscale_ratio") for key in latent) and latent["batch_index"] == [0]


@pytest.mark.parametrize("node", ["ComfyUI's", "ours"])
def test_an_empty_latent_of_another_vae_becomes_the_size_that_ksampler_gives_it(node):
    """An empty latent of 128x128 for VAEs of eight pixels is one of 128x128 for the 5B model, where ComfyUI knows sizes."""
    model = comfy.sd.load_diffusion_model_state_dict(state_dict(VARIANTS["ti2v_5b"]))
    theirs = EmptyHunyuanLatentVideo.execute(128, 128, 1, 1).args[0]
    made = theirs if node == "ComfyUI's" else PyramidalWanEmptyLatent.execute(128, 128, 1, 1, "nearest").args[0]
    (theirs,) = nodes.common_ksampler(model, 1, 1, 1.0, "euler", "simple", prompt(1), prompt(2), theirs)
    (alone,) = nodes.common_ksampler(model, 1, 1, 1.0, "euler", "simple", prompt(1), prompt(2), made)
    assert alone["samples"].shape == theirs["samples"].shape
    ours = sample_with_conds(
        model, prompt(1), prompt(2), made, PRESETS["plain"], StageOptions("1"), seed=1, steps="1", denoise=1.0,
        sampler_name="euler", grid="auto", shift=0.0, report=lambda text: None,
    )  # fmt: skip
    assert ours.output["samples"].shape == theirs["samples"].shape


def test_the_first_stage_wired_by_hand_keeps_its_size():
    made = PyramidalWanEmptyLatent.execute(128, 128, 17, 1, "nearest").args[0]
    start, _ = stage_start(SeedNoise(1), made, WAN)
    assert not any(key.startswith("downscale_ratio") for key in start)


def test_latents_of_half_precision_draw_the_same_noise(t2v_model, request):
    """Newer ComfyUI draws in float32 and rounds; older versions draw in the dtype of the latent."""
    half = {"samples": empty()["samples"].half()}
    before = run_of(t2v_model).sample(half).output["samples"]
    torch.testing.assert_close(before, run_of(t2v_model).sample(empty()).output["samples"], atol=0, rtol=0)
    request.getfixturevalue("newer_comfyui")
    torch.testing.assert_close(run_of(t2v_model).sample(half).output["samples"], before, atol=0, rtol=0)


@pytest.mark.parametrize("node", NODES, ids=lambda node: node.__name__)
def test_nodes_are_defined_with_the_newer_comfyui_fields(node, monkeypatch):
    """Fields that the schema of older versions lacks are passed to newer ones."""
    newer = {"search_aliases", "is_dev_only", "accept_all_inputs", "essentials_category", "has_intermediate_output"}
    made = {}

    def schema(**fields):
        assert fields.keys() <= probes._SUPPORTED
        made.update(fields)
        return fields

    monkeypatch.setattr(probes, "_SUPPORTED", probes._SUPPORTED | newer)
    monkeypatch.setattr(probes.io, "Schema", schema)
    node.define_schema()
    assert made["search_aliases"] and made["node_id"] == node.__name__
    assert all(output.display_name for output in made["outputs"])
    assert not {given.id for given in made["inputs"]} & {output.id for output in made["outputs"]}
