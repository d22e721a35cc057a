"""'Pyramidal Model' in ComfyUI's own samplers."""

from __future__ import annotations

import comfy.hooks
import comfy.model_management
import comfy.samplers
import comfy.sd
import pytest
import torch
from comfy.patcher_extension import WrappersMP
from comfy_extras.nodes_custom_sampler import SamplerCustom
from comfy_extras.nodes_model_advanced import ModelSamplingDiscrete, ModelSamplingSD3
from comfyui_graph import empty, guider, progress, prompt
from safetensors.torch import load_file, save_file

import nodes
from pyramidalwan.pyramid.schedules import levels_to_metadata
from pyramidalwan.pyramid.stages import PRESETS, PyramidSpec
from pyramidalwan.samplers.any_sampler import pyramidal_model
from pyramidalwan.samplers.comfyui.lora_file import load_lora_file
from pyramidalwan.samplers.comfyui.stage_lora import StageLora, add_stage_lora
from pyramidalwan.samplers.noise import SeedNoise
from pyramidalwan.samplers.options import StageOptions, sample_with_conds, sample_with_guider
from pyramidalwan.samplers.progress import BAR
from pyramidalwan.samplers.supported_samplers import make_sampler

FREE, WAN = PRESETS["training-free"], PRESETS["pyramidal-wan"]
SHIFT = 5.0


def shifted(model):
    return ModelSamplingSD3().patch(model, SHIFT)[0]


def patched(model, spec=None, said=None):
    return pyramidal_model(shifted(model), spec, (said if said is not None else []).append)


def ksampler(model, *, steps=8, sampler="euler", scheduler="simple", cfg=3.0, seed=5, latent=None, **options):
    conds = prompt(1), prompt(2)
    latent = latent if latent is not None else empty()
    return nodes.common_ksampler(model, seed, steps, cfg, sampler, scheduler, *conds, latent, **options)[0]["samples"]


def pyramidal_sampler(model, steps, *, spec=FREE, sampler="euler", grid="auto", latent=None, **sockets):
    made = sample_with_conds(
        model, prompt(1), prompt(2), latent or empty(), spec, StageOptions("3", **sockets), seed=5, steps=steps, denoise=1.0,
        sampler_name=sampler, grid=grid, shift=SHIFT,
    )  # fmt: skip
    return made.output["samples"]


@pytest.mark.parametrize("sampler", ["euler", "uni_pc", "res_multistep", "euler_ancestral", "dpmpp_2m_sde"])
def test_ksampler_with_the_node_is_the_advanced_sampler_bit_for_bit(t2v_model, sampler):
    model = shifted(t2v_model)
    device = comfy.model_management.get_torch_device()
    sigmas = comfy.samplers.KSampler(model, 8, device, sampler, "simple", denoise=1.0).sigmas.cpu()
    parts = SeedNoise(5), guider(model, 3.0), make_sampler(sampler), sigmas, empty(), FREE
    wanted = sample_with_guider(*parts, StageOptions()).output["samples"]
    assert torch.equal(ksampler(patched(t2v_model), sampler=sampler), wanted)


def test_ksampler_with_the_node_is_the_pyramidal_sampler(t2v_model):
    """Eight steps of shift 5: the level nearest to 0.8 is that of the fourth step, 0.833."""
    wanted = pyramidal_sampler(shifted(t2v_model), "4-4")
    torch.testing.assert_close(ksampler(patched(t2v_model)), wanted, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("scheduler", ["normal", "beta", "ddim_uniform", "sgm_uniform", "karras"])
def test_every_scheduler_runs_from_noise_to_a_video(t2v_model, scheduler):
    said = []
    video = ksampler(patched(t2v_model, said=said), scheduler=scheduler)
    assert torch.isfinite(video).all() and video.shape == (1, 16, 5, 16, 16)
    assert "low 64x64" in said[0] and "high 128x128" in said[0]


def test_a_step_between_equal_levels_changes_nothing(t2v_model):
    """'ManualSigmas' and schedulers whose levels round to the same number make such steps."""
    model, euler = patched(t2v_model), make_sampler("euler")
    sigmas = [1.0, 0.9, 0.8, 0.5, 0.0]
    repeated = [1.0, 0.9, 0.9, 0.8, 0.8, 0.8, 0.5, 0.0]
    latent = empty()
    videos = [
        SamplerCustom().sample(model, True, 5, 3.0, prompt(1), prompt(2), euler, torch.tensor(levels), latent)[0]["samples"]
        for levels in (sigmas, repeated)
    ]
    assert torch.equal(*videos)


def test_a_video_is_turned_into_noise_at_full_size(t2v_model):
    """'FlipSigmas' makes levels that rise, for which there is no way from coarse to fine."""
    said, sigmas, latent = [], torch.tensor([0.01, 0.3, 0.6, 1.0]), {"samples": torch.randn(1, 16, 5, 16, 16)}
    videos = [
        SamplerCustom().sample(model, False, 5, 1.0, prompt(1), prompt(2), make_sampler("euler"), sigmas, latent)[0]["samples"]
        for model in (patched(t2v_model, said=said), shifted(t2v_model))
    ]
    assert torch.equal(*videos) and "the SIGMAS rise" in said[0]


@pytest.mark.parametrize("options", [{}, {"latent": "mask"}, {"denoise": 0.5, "latent": "video"}])
def test_the_preset_plain_is_the_graph_without_the_node_bit_for_bit(t2v_model, options):
    options = dict(options)
    if "latent" in options:
        generator = torch.Generator().manual_seed(0)
        video = torch.randn(1, 16, 5, 16, 16, generator=generator)
        mask = (torch.rand(1, 1, 5, 16, 16, generator=generator) > 0.5).float()
        options["latent"] = {"samples": video, **({"noise_mask": mask} if options["latent"] == "mask" else {})}
    with_node, without = ksampler(patched(t2v_model, PRESETS["plain"]), **options), ksampler(shifted(t2v_model), **options)
    assert torch.equal(with_node, without)


def test_two_experts_hand_over_where_the_first_run_ends(t2v_model, i2v_model):
    """Wan 2.2's template: the node on the high-noise expert alone equals one run with a model per stage."""
    high, low = shifted(t2v_model), shifted(t2v_model.clone())
    first = ksampler(pyramidal_model(high, None, print), steps=4, start_step=0, last_step=2, force_full_denoise=False)
    assert first.shape == (1, 16, 5, 16, 16)
    both = ksampler(low, steps=4, latent={"samples": first}, disable_noise=True, start_step=2, last_step=10000)
    wanted = pyramidal_sampler(low, "2-2", first_stage_model=high)
    torch.testing.assert_close(both, wanted, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("axes", ["HW", "THW"])
def test_a_run_that_ends_above_zero_can_be_resumed_at_full_size(t2v_model, axes):
    spec = PyramidSpec((0.9, 0.7), (axes, axes), field="natural", timestep_source="sigma", first_frame="shared")
    model = patched(t2v_model, spec)
    for last in (1, 2, 5):
        first = ksampler(model, start_step=0, last_step=last, force_full_denoise=False)
        whole = ksampler(shifted(t2v_model), latent={"samples": first}, disable_noise=True, start_step=last, last_step=10000)
        assert first.shape == whole.shape == (1, 16, 5, 16, 16) and torch.isfinite(whole).all()


@pytest.mark.parametrize("last", [1, 2, 5])
def test_both_latents_of_a_run_that_ends_above_zero_have_the_full_size(t2v_model, last):
    """The prediction equals that of a whole run after as many steps, upsampled: every latent repeated."""
    spec = PyramidSpec((0.9, 0.7), ("HW", "HW"), field="natural", timestep_source="sigma", first_frame="shared")
    model, shown = patched(t2v_model, spec), []
    sigmas = comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "simple", 8)
    sampler = comfy.samplers.sampler_object("euler")
    output, denoised = SamplerCustom().sample(model, True, 5, 3.0, prompt(1), prompt(2), sampler, sigmas[: last + 1], empty())
    assert output["samples"].shape == denoised["samples"].shape == (1, 16, 5, 16, 16)
    noise = torch.randn(1, 16, 5, 16, 16, generator=torch.manual_seed(5))
    guider(model, 3.0).sample(
        noise, empty()["samples"], sampler, sigmas, callback=lambda step, x0, *_: shown.append(x0), seed=5
    )
    expected = model.model.process_latent_out(shown[last - 1].cpu())
    for side in (-2, -1):
        expected = expected.repeat_interleave(16 // expected.shape[side], dim=side)
    torch.testing.assert_close(denoised["samples"], expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("sampling", ["eps", "v_prediction"])
def test_the_preset_plain_leaves_models_as_they_are_that_no_pyramid_can_sample(t2v_model, sampling):
    model = ModelSamplingDiscrete().patch(t2v_model, sampling, False)[0]
    with pytest.raises(ValueError, match=f"samples flow models; this MODEL .* uses {sampling.upper()} sampling"):
        pyramidal_model(model, FREE, print)
    plain = pyramidal_model(model, PRESETS["plain"], print)
    assert plain is not model and plain.wrappers == model.wrappers and plain.object_patches == model.object_patches


def test_leftover_noise_starts_in_the_stage_of_its_level(t2v_model):
    """The second of two samplers gets a noisy latent and no noise; it may still have steps above the boundary."""
    first = ksampler(shifted(t2v_model), start_step=0, last_step=1, force_full_denoise=False)
    said = []
    second = ksampler(
        patched(t2v_model, said=said), latent={"samples": first}, disable_noise=True, start_step=1, last_step=10000
    )
    assert torch.isfinite(second).all() and said[0].startswith("low 64x64")


def test_one_progress_bar_and_previews_of_every_stage(t2v_model, monkeypatch):
    seen = progress(monkeypatch)
    ksampler(patched(t2v_model))
    assert len(seen) == 8 and seen[-1] == (BAR, BAR) and {total for _, total in seen} == {BAR}


def test_a_batch_equals_its_members(t2v_model):
    model = patched(t2v_model)
    both = ksampler(model, latent=empty(batch=2))
    for index in range(2):
        alone = ksampler(model, latent=empty(batch_index=[index]))
        torch.testing.assert_close(both[index : index + 1], alone, atol=5e-5, rtol=1e-5)


def test_the_same_run_twice_is_the_same_video_and_the_model_stays_clean(t2v_model):
    before = ksampler(shifted(t2v_model))
    model = patched(t2v_model)
    keys = {kind: {key: len(found) for key, found in by_key.items()} for kind, by_key in model.wrappers.items()}
    assert torch.equal(ksampler(model), ksampler(model))
    assert keys == {kind: {key: len(found) for key, found in by_key.items()} for kind, by_key in model.wrappers.items()}
    assert torch.equal(ksampler(shifted(t2v_model)), before)


def test_a_cancelled_run_leaves_the_model_clean(t2v_model):
    before, model = ksampler(shifted(t2v_model)), patched(t2v_model)
    steps = []

    def cancel(apply, args):
        steps.append(1)
        if len(steps) == 6:
            raise comfy.model_management.InterruptProcessingException
        return apply(args["input"], args["timestep"], **args["c"])

    stopped = model.clone()
    stopped.set_model_unet_function_wrapper(cancel)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        ksampler(stopped)
    assert torch.equal(ksampler(shifted(t2v_model)), before)
    assert torch.equal(ksampler(model), ksampler(patched(t2v_model)))


def test_wrappers_of_other_nodes_act_once_in_each_stage(t2v_model):
    calls = []

    def count(executor, noise, *args, **kwargs):
        calls.append(tuple(noise.shape[-2:]))
        return executor(noise, *args, **kwargs)

    for before in (True, False):
        model = shifted(t2v_model)
        if before:
            model.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, "other", count)
        model = pyramidal_model(model, None, print)
        if not before:
            model.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, "other", count)
        calls.clear()
        ksampler(model)
        assert calls == [(8, 8), (16, 16)], before


def test_wrappers_of_hooks_in_the_conditioning_act_once_in_each_stage(t2v_model):
    calls = []

    def count(executor, *args, **kwargs):
        calls.append(1)
        return executor(*args, **kwargs)

    kinds = {WrappersMP.OUTER_SAMPLE: {"other": [count]}, WrappersMP.DIFFUSION_MODEL: {"other": [count]}}
    group = comfy.hooks.HookGroup()
    group.add(comfy.hooks.TransformerOptionsHook({"wrappers": kinds}))
    conds = [comfy.hooks.set_hooks_for_conditioning(prompt(seed), group) for seed in (1, 2)]
    for model, expected in ((shifted(t2v_model), 1 + 8), (patched(t2v_model), 2 + 8)):
        calls.clear()
        nodes.common_ksampler(model, 5, 8, 3.0, "euler", "simple", *conds, empty())
        assert len(calls) == expected


def test_a_lora_hook_is_that_of_the_advanced_sampler(t2v_model):
    module, generator = "diffusion_model.blocks.0.self_attn.q", torch.Generator().manual_seed(1)
    tensors = {f"{module}.lora_{name}.weight": torch.randn(*size, generator=generator) * 0.2 for name, size in
               {"up": (128, 4), "down": (4, 128)}.items()}  # fmt: skip
    hook = comfy.hooks.create_hook_lora(tensors, 1.0, 1.0)
    ends = comfy.hooks.HookKeyframeGroup()
    for strength, start in ((1.0, 0.0), (0.0, 0.5)):
        ends.add(comfy.hooks.HookKeyframe(strength=strength, start_percent=start))
    hook.set_keyframes_on_hooks(ends)
    positive = comfy.hooks.set_hooks_for_conditioning(prompt(1), hook)
    made = nodes.common_ksampler(patched(t2v_model), 5, 8, 3.0, "euler", "simple", positive, prompt(2), empty())[0]["samples"]
    sigmas = comfy.samplers.calculate_sigmas(shifted(t2v_model).get_model_object("model_sampling"), "simple", 8)
    parts = SeedNoise(5), guider(shifted(t2v_model), 3.0, positive), make_sampler("euler"), sigmas, empty(), FREE
    assert torch.equal(made, sample_with_guider(*parts, StageOptions()).output["samples"])
    assert (made - ksampler(patched(t2v_model))).abs().max() > 1e-2


def test_other_nodes_see_the_levels_of_the_whole_run(t2v_model):
    """A cfg function, and what reads its place in `sample_sigmas`, see what they see without the node."""
    seen = {"plain": [], "pyramid": []}

    def watch(name, model):
        def cfg(args):
            sigmas = args["model_options"]["transformer_options"]["sample_sigmas"]
            seen[name].append((float(args["sigma"][0]), [round(float(sigma), 5) for sigma in sigmas]))
            return args["uncond"] + (args["cond"] - args["uncond"]) * args["cond_scale"]

        model = model.clone()
        model.set_model_sampler_cfg_function(cfg)
        return model

    ksampler(watch("plain", shifted(t2v_model)))
    ksampler(watch("pyramid", patched(t2v_model)))
    assert [sigma for sigma, _ in seen["pyramid"]] == pytest.approx([sigma for sigma, _ in seen["plain"]], abs=1e-5)
    assert {tuple(curve) for _, curve in seen["pyramid"]} == {tuple(curve) for _, curve in seen["plain"]}


def test_of_two_nodes_in_a_row_the_last_applies(t2v_model):
    said, spec = [], PyramidSpec((0.9, 0.7), ("HW", "HW"), field="natural", timestep_source="sigma", first_frame="shared")
    twice = pyramidal_model(patched(t2v_model), spec, said.append)
    assert torch.equal(ksampler(twice), ksampler(patched(t2v_model, spec)))
    (stages,) = {text.splitlines()[-1] for text in said}
    assert said[0] == said[-1] and stages.count("steps") == 3
    assert torch.equal(ksampler(pyramidal_model(twice, PRESETS["plain"], said.append)), ksampler(shifted(t2v_model)))


def test_the_sampler_node_takes_the_model_before_this_node(t2v_model):
    with pytest.raises(ValueError, match="already runs the pyramid of 'Pyramidal Model'; connect the model before that node"):
        pyramidal_sampler(patched(t2v_model), "4-4")


def test_latents_that_cannot_be_halved_say_which_sizes_can(t2v_model):
    with pytest.raises(ValueError, match="nearest that fit are 128x128 with 17 frames and 128x160 with 17 frames"):
        ksampler(patched(t2v_model, FREE), latent=empty(height=17))
    assert ksampler(patched(t2v_model), latent=empty(height=17)).shape[-2:] == (17, 16)  # 'auto' takes another scale
    packed = torch.zeros(1, 1, 20480)
    with pytest.raises(ValueError, match="3 dimensions, a video latent has 5"):
        guider(patched(t2v_model)).sample(packed, packed, make_sampler("euler"), torch.tensor([1.0, 0.0]), seed=1)


@pytest.fixture
def student(t2v_model, tmp_path):
    """Return a MODEL with a LoRA that was distilled to 2-2-1 steps."""
    header = {**WAN.to_metadata(), **levels_to_metadata([[1.0, 0.97], [0.896, 0.7], [0.602]])}
    module = "diffusion_model.blocks.0.self_attn.q"
    generator = torch.Generator().manual_seed(1)
    up, down = torch.randn(128, 2, generator=generator) * 0.1, torch.randn(2, 128, generator=generator) * 0.1
    save_file({f"{module}.lora_up.weight": up, f"{module}.lora_down.weight": down}, tmp_path / "x.safetensors", header)
    return add_stage_lora(t2v_model, StageLora(load_lora_file(tmp_path / "x.safetensors", "x"), 1.0, "all"))[0]


def test_a_distilled_model_runs_its_own_levels(student):
    said = []
    model = pyramidal_model(shifted(student), None, said.append)
    made = ksampler(model, steps=5)
    wanted = pyramidal_sampler(shifted(student), "2-2-1", spec=None)
    torch.testing.assert_close(made, wanted, atol=1e-5, rtol=1e-5)
    *warnings, last = said[0].splitlines()
    assert last.startswith(
        "low 32x32 (5 frames) · 2 steps; mid 64x64 (9 frames) · 2 steps; high 128x128 (17 frames) · 1 step; "
    )
    assert warnings == [
        "warning: the LoRA 'x' was distilled to run with cfg 1, got 3",
        "warning: the LoRA 'x' was distilled for the sampler 'pyramid_few_step', got 'euler'",
    ]


def plain_lora(folder):
    """Return a LoRA of plain Wan."""
    generator = torch.Generator().manual_seed(2)
    down, up = torch.randn(2, 128, generator=generator) * 0.2, torch.randn(128, 2, generator=generator) * 0.2
    module = "diffusion_model.blocks.0.self_attn.q"
    save_file({f"{module}.lora_up.weight": up, f"{module}.lora_down.weight": down}, folder / "plain.safetensors")
    return StageLora(load_lora_file(folder / "plain.safetensors", "plain"), 1.0, "all")


def test_a_stage_lora_acts_in_a_run_of_one_stage(t2v_model, student, tmp_path):
    plain = pyramidal_model(add_stage_lora(t2v_model, plain_lora(tmp_path))[0], PRESETS["plain"], lambda text: None)
    by_comfyui = comfy.sd.load_lora_for_models(t2v_model, None, load_file(tmp_path / "plain.safetensors"), 1.0, 0)[0]
    torch.testing.assert_close(ksampler(plain, steps=2), ksampler(by_comfyui, steps=2), atol=1e-4, rtol=1e-4)


def test_a_stage_lora_without_a_pyramid_is_an_error(t2v_model, tmp_path):
    model, _ = add_stage_lora(t2v_model, plain_lora(tmp_path))
    with pytest.raises(ValueError, match="the LoRA 'plain' acts in the stages of a pyramid.*put 'Pyramidal Model'"):
        ksampler(model, steps=2)
    after, _ = add_stage_lora(patched(t2v_model, FREE), plain_lora(tmp_path))
    before = pyramidal_model(shifted(model), FREE, lambda text: None)
    assert torch.equal(ksampler(after), ksampler(before))
    assert not torch.equal(ksampler(after), ksampler(patched(t2v_model, FREE)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 6}, "distilled to 5 steps in all, got 6"),
        ({"steps": 5, "denoise": 0.5}, "distilled to run from noise to a video, but these SIGMAS run from 0.8"),
        ({"steps": 7, "start_step": 0, "last_step": 5, "force_full_denoise": False}, "these SIGMAS run from 1 to"),
        ({"steps": 5, "pyramid": WAN.starting_at(1)}, "distilled for 3 stages, but the pyramid has 2"),
    ],
)
def test_a_distilled_model_cannot_run_in_parts(student, options, message):
    spec = options.get("pyramid")
    model = pyramidal_model(shifted(student), spec, lambda text: None)
    with pytest.raises(ValueError, match=message):
        ksampler(model, cfg=1.0, **{key: value for key, value in options.items() if key != "pyramid"})


class TestMasks:
    """A model that predicts one constant video ends on it exactly wherever it may change something."""

    CONSTANT = 0.7

    def constant(self, model):
        clone = model.clone()

        def answer(executor, x, timestep, context, clip_fea=None, time_dim_concat=None, transformer_options=None, **kwargs):
            stage = clone_stage(transformer_options, x)
            return (x[:, :16] - self.CONSTANT) / stage

        def clone_stage(options, x):
            natural = options["sigmas"].flatten()[0]
            factor = 16 * 16 / (x.shape[-1] * x.shape[-2])
            return natural / (natural + (1 - natural) * factor**0.5)

        clone.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "constant", answer)
        return clone

    def test_inside_is_sampled_and_outside_is_given(self, t2v_model):
        video = torch.randn(1, 16, 5, 16, 16, generator=torch.Generator().manual_seed(3))
        mask = torch.zeros(1, 1, 5, 16, 16)
        mask[..., 2:9, 5:12] = 1  # odd edges: the low stage samples the blocks around them, too
        made = ksampler(
            pyramidal_model(self.constant(shifted(t2v_model)), None, print), latent={"samples": video, "noise_mask": mask}
        )
        given = t2v_model.model.process_latent_out(torch.full_like(video, self.CONSTANT))
        inside = mask.expand_as(video).bool()
        torch.testing.assert_close(made[~inside], video[~inside], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(made[inside], given[inside], atol=1e-3, rtol=1e-3)

    @pytest.mark.parametrize("spec", [FREE, PyramidSpec((0.9, 0.6), ("THW", "HW"))], ids=["natural", "pyramidal"])
    def test_a_mask_of_ones_changes_nothing_and_a_mask_of_zeros_keeps_everything(self, t2v_model, spec):
        video = torch.randn(1, 16, 5, 16, 16, generator=torch.Generator().manual_seed(3))
        model = patched(t2v_model, spec)
        all_given = ksampler(model, latent={"samples": video, "noise_mask": torch.zeros(1, 1, 5, 16, 16)})
        torch.testing.assert_close(all_given, video, atol=1e-5, rtol=1e-5)
        nothing_given = ksampler(model, latent={"samples": video, "noise_mask": torch.ones(1, 1, 5, 16, 16)})
        torch.testing.assert_close(nothing_given, ksampler(model, latent=empty()), atol=1e-4, rtol=1e-4)
