"""Both sampler nodes: video to video, a model and cfg per stage, and runs that end early and resume."""

import comfy.sd
import pytest
import torch
from comfy.patcher_extension import WrappersMP
from comfy_extras.nodes_custom_sampler import CFGGuider, KSamplerSelect, RandomNoise
from comfyui_gaussian import GaussianComfyUI
from comfyui_graph import empty, progress, prompt

from pyramidalwan.nodes.sampler import PyramidalWanSampler, PyramidalWanSamplerAdvanced
from pyramidalwan.nodes.schedule import PyramidalWanSchedule
from pyramidalwan.pyramid.latent_shape import LatentShape
from pyramidalwan.pyramid.stages import PRESETS, STOCK, PyramidSpec
from pyramidalwan.samplers.noise import SeedNoise
from pyramidalwan.samplers.options import StageOptions, find_spec
from pyramidalwan.samplers.progress import BAR
from tiny_wan.checkpoints import t2v_state_dict
from tiny_wan.variants import VARIANTS, state_dict

WAN, FREE = PRESETS["pyramidal-wan"], PRESETS["training-free"]
VIDEO = {"samples": torch.randn(1, 16, 5, 16, 16, generator=torch.Generator().manual_seed(9))}


def sampler(model, latent=None, **changes):
    values = dict(
        positive=prompt(1), negative=prompt(2), latent=latent or empty(), seed=5, steps="3-3-2", cfg="1", sampler_name="euler",
        denoise=1.0, grid="auto", shift=5.0, start_stage="auto", end_stage="auto", pyramid=WAN,
    )  # fmt: skip
    return PyramidalWanSampler.execute(model, **{**values, **changes}).args


def advanced(model, sigmas, latent=None, cfg="", **changes):
    guider = CFGGuider.execute(model, prompt(1), prompt(2), 1.0).args[0]
    values = dict(start_stage="auto", end_stage="auto", pyramid=WAN)
    return PyramidalWanSamplerAdvanced.execute(
        RandomNoise.execute(5).args[0], guider, KSamplerSelect.execute("euler").args[0], sigmas, latent or empty(), cfg,
        **{**values, **changes},
    ).args  # fmt: skip


def watched(model):
    """Return a clone that records the size and the natural level of each forward pass."""
    clone, seen = model.clone(), []

    def watch(executor, x, timestep, *args, **kwargs):
        seen.append((tuple(x.shape), round(float(timestep.flatten()[0]) / 1000, 4)))
        return executor(x, timestep, *args, **kwargs)

    clone.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "watch", watch)
    return clone, seen


SIGMAS = PyramidalWanSchedule.execute(WAN, "3-3-2", "auto", 5.0).args[0]


def test_video_to_video_starts_in_the_stage_that_holds_the_level(t2v_model):
    model, seen = watched(t2v_model)
    changed = sampler(model, VIDEO, denoise=0.5)[0]["samples"]
    assert [shape[2:] for shape, _ in seen] == [(3, 8, 8)] * 2 + [(5, 16, 16)] * 2
    assert seen[0][1] == pytest.approx(float(SIGMAS[4]), abs=1e-3)
    seen.clear()
    same = advanced(model, SIGMAS[4:], VIDEO)[0]["samples"]
    torch.testing.assert_close(same, changed, atol=2e-5, rtol=1e-5)
    assert (changed - sampler(t2v_model)[0]["samples"]).abs().max() > 0.1


@pytest.mark.parametrize(("denoise", "steps"), [(0.01, 1), (0.43, 3), (0.45, 4), (0.99, 8)])
def test_denoise_runs_a_share_of_the_steps(t2v_model, denoise, steps):
    model, seen = watched(t2v_model)
    sampler(model, VIDEO, denoise=denoise)
    assert len(seen) == steps


def test_a_low_noise_level_keeps_the_video(t2v_model):
    """With the closed-form field, a run from natural level 0.02 changes the clean latent little."""
    data = GaussianComfyUI(WAN, LatentShape(5, 16, 16))
    model = data.into(t2v_model)
    clean = t2v_model.model.process_latent_out(torch.randn(1, 16, 5, 16, 16, generator=torch.Generator().manual_seed(2)))
    near = advanced(model, torch.tensor([0.02, 0.01, 0.0]), {"samples": clean})[0]["samples"]
    far = advanced(model, torch.tensor([0.95, 0.9, 0.7, 0.602, 0.3, 0.0]), {"samples": clean})[0]["samples"]
    assert (near - clean).abs().max() < 0.3 < (far - clean).abs().max()


def test_video_to_video_noises_along_the_stages_path(t2v_model):
    """The first input of the network is the point of the path at that level, in the stage that holds it."""
    from pyramid.noise_pyramid import noise_pyramid
    from pyramid.paths import stage_path
    from pyramidalwan.samplers.noise import SeedNoise

    first = []
    model = t2v_model.clone()

    def watch(executor, x, *args, **kwargs):
        first.append(x.clone())
        return executor(x, *args, **kwargs)

    model.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "watch", watch)
    advanced(model, torch.tensor([0.8, 0.602, 0.3, 0.0]), VIDEO)
    stages = PyramidSpec().stages(LatentShape(5, 16, 16))
    clean = stages[2].from_coarser.down(t2v_model.model.process_latent_in(VIDEO["samples"]))
    blurred = stages[1].from_coarser.up(stages[1].from_coarser.down(clean))
    noise = noise_pyramid(SeedNoise(5).generate_noise(VIDEO), stages[1:])[0]
    expected = stage_path(clean, blurred, noise, stages[1], 0.8).x
    torch.testing.assert_close(first[0], expected, atol=2e-5, rtol=1e-5)


def test_an_empty_latent_below_full_noise_raises_a_clear_error(t2v_model):
    with pytest.raises(ValueError, match="below 1, from an empty LATENT"):
        sampler(t2v_model, denoise=0.5)


def test_each_stage_uses_its_model(t2v_model):
    other = comfy.sd.load_diffusion_model_state_dict(t2v_state_dict(seed=1, layers=1))
    third = comfy.sd.load_diffusion_model_state_dict(t2v_state_dict(seed=2, layers=1))
    (high, at_high), (mid, at_mid), (low, at_low) = watched(t2v_model), watched(other), watched(third)
    sampler(high, middle_stage_model=mid, first_stage_model=low)
    assert {s[0][2:] for s in at_low} == {(2, 4, 4)} and len(at_low) == 3
    assert {s[0][2:] for s in at_mid} == {(3, 8, 8)} and len(at_mid) == 3
    assert {s[0][2:] for s in at_high} == {(5, 16, 16)} and len(at_high) == 2
    one = sampler(t2v_model, first_stage_model=t2v_model)[0]["samples"]
    assert torch.equal(one, sampler(t2v_model)[0]["samples"])
    at_low.clear()
    advanced(t2v_model, SIGMAS, first_stage_model=low)
    assert len(at_low) == 3


def test_models_that_no_stage_uses_raise_a_clear_error(t2v_model):
    with pytest.raises(ValueError, match="middle_stage_model is connected, but a pyramid of 2 stages"):
        sampler(t2v_model, pyramid=FREE, steps="2-2", middle_stage_model=t2v_model)
    with pytest.raises(ValueError, match="first_stage_model is connected, but a pyramid of 1 stage"):
        sampler(t2v_model, pyramid=PRESETS["plain"], steps="2", first_stage_model=t2v_model)


def test_each_stage_uses_its_cfg(t2v_model):
    model, seen = watched(t2v_model)
    sampler(model, cfg="3-1-2")
    batches = {size: sum(s[0] for s, _ in seen if s[2] == size) for size in (2, 3, 5)}
    assert batches == {2: 6, 3: 3, 5: 4}
    seen.clear()
    advanced(model, SIGMAS, cfg="3-1-2")
    assert sum(s[0] for s, _ in seen) == 13
    seen.clear()
    sampler(model, steps="0-3-2", cfg="9-3-1")
    assert {size: sum(s[0] for s, _ in seen if s[2] == size) for size in (2, 3, 5)} == {2: 0, 3: 6, 5: 2}
    one = sampler(t2v_model, cfg="3")[0]["samples"]
    torch.testing.assert_close(one, sampler(t2v_model, cfg="3-3-3")[0]["samples"])
    with pytest.raises(ValueError, match="cfg '3-1' has 2 numbers, but the pyramid has 3 stages"):
        sampler(t2v_model, cfg="3-1")
    assert "cfg must be one number" in PyramidalWanSamplerAdvanced.validate_inputs("much")
    assert PyramidalWanSamplerAdvanced.validate_inputs("") is True


@pytest.mark.parametrize("name", ["euler", "uni_pc", "pyramid_few_step"])
@pytest.mark.parametrize("spec", [WAN, PyramidSpec(first_frame="shared")], ids=["per-frame", "shared"])
def test_a_resumed_run_equals_an_uninterrupted_one(t2v_model, name, spec):
    whole = sampler(t2v_model, sampler_name=name, pyramid=spec)
    draft = sampler(t2v_model, sampler_name=name, pyramid=spec, end_stage="low")
    assert draft[0]["samples"].shape == (1, 16, 2, 4, 4) and len(draft[2]) == 1
    torch.testing.assert_close(draft[1]["samples"], whole[2][0]["samples"], atol=0, rtol=0)
    finished = sampler(t2v_model, draft[0], sampler_name=name, pyramid=spec)
    torch.testing.assert_close(finished[0]["samples"], whole[0]["samples"], atol=0, rtol=0)
    assert len(finished[2]) == 2
    middle = sampler(t2v_model, draft[0], sampler_name=name, pyramid=spec, start_stage="mid", end_stage="mid")
    last = sampler(t2v_model, middle[0], sampler_name=name, pyramid=spec)
    torch.testing.assert_close(last[0]["samples"], whole[0]["samples"], atol=0, rtol=0)


def test_a_resumed_run_of_the_advanced_node_equals_an_uninterrupted_one(t2v_model):
    whole = advanced(t2v_model, SIGMAS)
    draft = advanced(t2v_model, SIGMAS, end_stage="mid")
    finished = advanced(t2v_model, SIGMAS, draft[0], start_stage="high")
    torch.testing.assert_close(finished[0]["samples"], whole[0]["samples"], atol=0, rtol=0)


def test_progress_counts_the_steps_of_a_partial_run(t2v_model, monkeypatch):
    seen = progress(monkeypatch)
    draft = sampler(t2v_model, end_stage="low")
    assert [round(value / 333.4) for value, _ in seen] == [1, 2, 3] and seen[-1] == (BAR, BAR)
    seen.clear()
    sampler(t2v_model, draft[0])
    assert len(seen) == 5 and seen[-1] == (BAR, BAR)


def test_latents_that_cannot_be_resumed_raise_a_clear_error(t2v_model):
    draft = sampler(t2v_model, end_stage="low")
    with pytest.raises(ValueError, match="is the clean prediction of stage 'low'.*'latent' output"):
        sampler(t2v_model, draft[1])
    with pytest.raises(ValueError, match="is the output of stage 'low', so the run resumes with 'mid', not with 'high'"):
        sampler(t2v_model, draft[0], start_stage="high")
    with pytest.raises(ValueError, match="should start at stage 'mid', but the LATENT is not the output"):
        sampler(t2v_model, start_stage="mid")
    with pytest.raises(ValueError, match="comes from a different pyramid"):
        sampler(t2v_model, draft[0], pyramid=PyramidSpec((0.9, 0.5)))
    with pytest.raises(ValueError, match="requires the whole schedule; set denoise to 1"):
        sampler(t2v_model, draft[0], denoise=0.5)
    with pytest.raises(ValueError, match="it was resized"):
        sampler(t2v_model, {**draft[0], "samples": torch.zeros(1, 16, 2, 8, 8)})
    with pytest.raises(ValueError, match="would end with stage"):
        sampler(t2v_model, draft[0], end_stage="low")


def test_step_distilled_models_get_the_timesteps_they_were_trained_on(t2v_model):
    model, seen = watched(t2v_model)
    sampler(model, pyramid=FREE, steps="2-2", grid="distilled", shift=5.0)
    assert [round(1000 * level, 1) for _, level in seen] == [1000.0, 937.5, 833.3, 625.0]
    assert [shape[3:] for shape, _ in seen] == [(8, 8)] * 2 + [(16, 16)] * 2
    with pytest.raises(ValueError, match="require a pyramid of field 'natural'"):
        sampler(t2v_model, grid="distilled")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"steps": "2-2"}, "2 numbers, but the pyramid has 3 stages"),
        ({"cfg": "1-2"}, "cfg '1-2' has 2 numbers"),
        ({"sampler_name": "lcm"}, "sampler 'lcm' adds noise"),
        ({"sampler_name": "eular"}, "unknown sampler 'eular' in this ComfyUI; expected one of its [0-9]+, such as euler"),
        ({"grid": "even"}, "unknown grid 'even'"),
        ({"grid": "distilled"}, "field 'natural'"),
        ({"end_stage": "3"}, "unknown stage '3' in a pyramid of 3 stages"),
    ],
)
def test_wrong_widgets_raise_before_a_model_is_loaded(changes, words):
    widgets = dict(steps="2-2-1", cfg="1", sampler_name="euler", grid="auto", shift=5.0, start_stage="auto", end_stage="auto")
    links = dict(model=None, positive=None, negative=None, latent=empty(), pyramid=WAN, seed=1, denoise=1.0)
    assert PyramidalWanSampler.check_lazy_status(**widgets, **links) == ["positive", "negative"]
    with pytest.raises(ValueError, match=words):
        PyramidalWanSampler.check_lazy_status(**{**widgets, **changes}, **links)
    without = {**links, "pyramid": None}
    for change, message in (
        ({"cfg": "much"}, "cfg must be one number"),
        ({"sampler_name": "dpm_adaptive"}, "its own number of steps"),
    ):
        with pytest.raises(ValueError, match=message):
            PyramidalWanSampler.check_lazy_status(**{**widgets, **change}, **without)


def test_wrong_inputs_of_the_advanced_node_raise_before_a_model_is_loaded():
    parts = dict(
        cfg="", start_stage="auto", end_stage="auto", pyramid=WAN, noise=SeedNoise(1), guider=None, latent=empty(),
        first_stage_model=None,
    )  # fmt: skip
    euler, lcm = (KSamplerSelect.execute(name).args[0] for name in ("euler", "lcm"))
    check = PyramidalWanSamplerAdvanced.check_lazy_status
    assert check(**parts, sampler=euler, sigmas=SIGMAS) == ["guider", "first_stage_model"]
    with pytest.raises(ValueError, match="sampler 'lcm' adds noise"):
        check(**parts, sampler=lcm, sigmas=SIGMAS)
    with pytest.raises(ValueError, match="leaves one of 3 stages without a step"):
        check(**parts, sampler=euler, sigmas=torch.tensor([1.0, 0.0]))


def test_two_experts_change_the_size_where_wan_changes_the_expert(t2v_model, i2v_model):
    i2v_22 = comfy.sd.load_diffusion_model_state_dict(state_dict(VARIANTS["i2v_2.2"]))
    for model, boundary in ((t2v_model, 0.875), (i2v_model, 0.9), (i2v_22, 0.9)):
        spec = find_spec(None, model, StageOptions(first_stage_model=model.clone()))
        assert spec.boundaries == (boundary,) and spec.field == "natural"
        assert spec.at_size(LatentShape(21, 90, 160)).downsample_axes == ("HW 2/3",)
    assert find_spec(None, t2v_model, StageOptions()) == STOCK
