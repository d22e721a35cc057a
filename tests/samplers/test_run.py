"""A pyramidal run: equality with ComfyUI's sampler, seeds, batches, cfg, previews, progress and interruption."""

import comfy.model_management
import comfy.samplers
import pytest
import torch
from comfyui_gaussian import GaussianComfyUI
from comfyui_graph import GivenNoise, empty, guider, progress, prompt

from pyramidalwan.pyramid.latent_shape import LatentShape
from pyramidalwan.pyramid.schedules import stage_levels
from pyramidalwan.pyramid.stages import PRESETS, PyramidSpec
from pyramidalwan.samplers.noise import SeedNoise
from pyramidalwan.samplers.progress import BAR
from pyramidalwan.samplers.run import PyramidRun
from pyramidalwan.samplers.supported_samplers import FEW_STEP, make_sampler

WAN = PRESETS["pyramidal-wan"]


def run(model, spec=WAN, steps=(3, 2, 2), name="euler", seed=5, latent=None, cfg=3.0, noise=None, **kwargs):
    levels = stage_levels(spec, steps)
    return PyramidRun(guider(model, cfg), noise or SeedNoise(seed), make_sampler(name), levels, spec, **kwargs).sample(
        latent or empty()
    )


@pytest.mark.parametrize(
    "name", ["euler", "heun", "dpmpp_2m", "uni_pc", "dpmpp_sde", "euler_ancestral", "lcm", "res_multistep"]
)
def test_one_stage_equals_comfyuis_sampler_bit_for_bit(t2v_model, name):
    spec, latent = PRESETS["plain"], empty()
    levels = stage_levels(spec, (6,), grid="shift", shift=8.0)
    ours = run(t2v_model, spec, (6,), name)
    ours = PyramidRun(guider(t2v_model, 3.0), SeedNoise(5), make_sampler(name), levels, spec).sample(latent)
    theirs = guider(t2v_model, 3.0).sample(
        SeedNoise(5).generate_noise(latent), latent["samples"], make_sampler(name), torch.tensor(levels[0]), seed=5
    )
    assert torch.equal(ours.output["samples"], theirs)


@pytest.mark.parametrize("name", ["euler", "uni_pc", FEW_STEP])
def test_the_video_depends_on_the_seed_alone(t2v_model, name):
    first, second, other = (run(t2v_model, name=name, seed=seed).output["samples"] for seed in (5, 5, 6))
    assert torch.equal(first, second)
    assert (first - other).abs().mean() > 0.1
    assert torch.isfinite(first).all()


def test_noise_of_few_step_sampling_depends_on_the_seed(t2v_model):
    """The start is the same; only the noise added between steps differs."""
    start = torch.randn(1, 16, 5, 16, 16, generator=torch.Generator().manual_seed(1))
    first, same, other = (run(t2v_model, name=FEW_STEP, noise=GivenNoise(start, seed)).output["samples"] for seed in (5, 5, 6))
    assert torch.equal(first, same) and (first - other).abs().max() > 0.1


@pytest.mark.parametrize("preset", ["pyramidal-wan", "training-free"])
@pytest.mark.parametrize("name", ["euler", FEW_STEP])
def test_a_mask_of_the_whole_video_changes_nothing(t2v_model, name, preset):
    spec = PRESETS[preset]
    masked, plain = (
        run(t2v_model, spec, (2,) * spec.number_of_stages, name, latent=latent).output["samples"]
        for latent in (empty(noise_mask=torch.ones(1, 5, 16, 16)), empty())
    )
    torch.testing.assert_close(masked, plain, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("spec", [WAN, PyramidSpec(first_frame="shared")], ids=["per-frame", "shared"])
@pytest.mark.parametrize("name", ["euler", FEW_STEP])
def test_a_batch_equals_its_members_sampled_alone(t2v_model, name, spec):
    batch = run(t2v_model, spec, name=name, latent=empty(batch=3)).output["samples"]
    for index in range(3):
        alone = run(t2v_model, spec, name=name, latent=empty(batch_index=[index])).output["samples"]
        torch.testing.assert_close(batch[index : index + 1], alone, atol=5e-5, rtol=1e-5)


def test_cfg_1_does_not_evaluate_the_negative_prompt(t2v_model):
    from comfy.patcher_extension import WrappersMP

    seen = []

    def watch(executor, x, *args, **kwargs):
        seen.append(x.shape[0])
        return executor(x, *args, **kwargs)

    watched = t2v_model.clone()
    watched.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "watch", watch)
    run(watched, cfg=1.0)
    assert seen == [1] * 7
    seen.clear()
    run(watched, cfg=3.0)
    assert sum(seen) == 14
    seen.clear()
    run(watched, cfg=3.0, cfgs={0: 1.0, 2: 1.0})
    assert seen[:3] == [1] * 3 and sum(seen[3:-2]) == 4 and seen[-2:] == [1, 1]


@pytest.mark.parametrize(
    "spec", [WAN, PRESETS["pyramidal-flow"], PyramidSpec(resize="haar", timestep_source="sigma")], ids=["wan", "flow", "sigma"]
)
@pytest.mark.parametrize("name", ["euler", "heun", "uni_pc"])
def test_previews_are_the_conditional_mean(t2v_model, monkeypatch, name, spec):
    """On Gaussian data the preview of each step is E[clean | x] of the evaluated x."""
    full = LatentShape(5, 16, 16)
    data = GaussianComfyUI(spec, full)
    evaluated, shown = [], []
    model = data.into(t2v_model)
    answer = t2v_model.model.diffusion_model

    import latent_preview

    def prepare(*args):
        def callback(step, x0, x, total):
            shown.append((x0.clone(), len(evaluated)))
            args[2]["x0"] = x0

        return callback

    monkeypatch.setattr(latent_preview, "prepare_callback", prepare)
    from comfy.patcher_extension import WrappersMP

    def record(executor, x, timestep, *args, **kwargs):
        """What other nodes see is the natural level."""
        stage = next(stage for stage in data.stages if stage.shape == tuple(x.shape[2:]))
        evaluated.append((x.clone(), stage.reference_sigma(timestep.flatten()[0])))
        return executor(x, timestep, *args, **kwargs)

    model.add_wrapper_with_key(WrappersMP.PREDICT_NOISE, "record", record)
    noise = torch.randn(1, 16, 5, 16, 16, generator=torch.Generator().manual_seed(1))
    run(model, spec, (5, 4, 4), name, cfg=1.0, noise=GivenNoise(noise))
    assert len(shown) == 13 and answer is not None
    for x0, count in shown:
        x, sigma = evaluated[count - 1]
        expected = data.conditional_mean(x, sigma).to(x0)
        torch.testing.assert_close(x0, expected, atol=2e-4, rtol=2e-4)


def test_denoised_and_drafts_have_the_sizes_of_their_stages(t2v_model):
    result = run(t2v_model)
    assert [tuple(d["samples"].shape[2:]) for d in result.drafts] == [(2, 4, 4), (3, 8, 8), (5, 16, 16)]
    assert result.denoised is result.drafts[-1]
    assert "pyramid" not in result.output and "pyramid" in result.drafts[0]
    torch.testing.assert_close(result.denoised["samples"], result.output["samples"], atol=1e-4, rtol=1e-4)


def test_one_progress_bar_counts_through_all_stages(t2v_model, monkeypatch):
    seen = progress(monkeypatch)
    run(t2v_model)
    values = [value for value, _ in seen]
    assert values == sorted(values) and len(seen) == 7 and seen[-1] == (BAR, BAR)


@pytest.mark.parametrize("when", [0, 2, 4, 6])
def test_an_interrupted_run_leaves_the_model_unchanged(t2v_model, monkeypatch, when):
    """Interrupt in the first stage, on both sides of a transition, and in the last stage."""
    import latent_preview

    undisturbed = run(t2v_model).output["samples"]
    count = [0]
    original = latent_preview.prepare_callback

    def prepare(*args):
        callback = original(*args)

        def interrupt(*step):
            if count[0] == when:
                comfy.model_management.interrupt_current_processing()
                comfy.model_management.throw_exception_if_processing_interrupted()
            count[0] += 1
            callback(*step)

        return interrupt

    before = {k: v.clone() for k, v in t2v_model.model.state_dict().items()}
    with monkeypatch.context() as patch:
        patch.setattr(latent_preview, "prepare_callback", prepare)
        with pytest.raises(comfy.model_management.InterruptProcessingException):
            run(t2v_model)
    assert torch.equal(run(t2v_model).output["samples"], undisturbed)
    plain = guider(t2v_model)
    again = plain.sample(
        torch.zeros(1, 16, 5, 16, 16), torch.zeros(1, 16, 5, 16, 16), make_sampler("euler"), torch.tensor([1.0, 0.0])
    )
    assert torch.isfinite(again).all()
    assert type(t2v_model.model.model_sampling).__name__ != "StageSampling"
    for key, value in t2v_model.model.state_dict().items():
        assert torch.equal(value, before[key])


def test_an_interruption_between_stages_stops_the_run(t2v_model):
    comfy.model_management.interrupt_current_processing()
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        run(t2v_model)
    assert torch.isfinite(run(t2v_model).output["samples"]).all()


def test_the_callers_guider_and_latent_stay_unchanged(t2v_model):
    base, latent = guider(t2v_model, 3.0), empty(note="kept", downscale_ratio_spacial=8)
    keys, model, conds = set(vars(base)), base.model_patcher, [dict(c) for c in base.original_conds["positive"]]
    result = PyramidRun(base, SeedNoise(1), make_sampler("uni_pc"), stage_levels(WAN, (2, 2, 2)), WAN).sample(latent)
    assert set(vars(base)) == keys and base.model_patcher is model and base.cfg == 3.0
    assert [set(c) for c in base.original_conds["positive"]] == [set(c) for c in conds]
    assert result.output["note"] == "kept" and "downscale_ratio_spacial" not in result.output
    assert torch.count_nonzero(latent["samples"]) == 0


def test_percentages_of_conditioning_refer_to_the_whole_run(t2v_model):
    """A prompt for the first 40 % of the run is not used again in every stage."""
    from comfy.patcher_extension import WrappersMP
    from comfy_extras.nodes_model_advanced import ModelSamplingSD3

    model = ModelSamplingSD3().patch(t2v_model, 1.0)[0]  # with shift 1 a percentage is a natural level
    model = getattr(model, "clone", lambda: model)()
    used = []

    def watch(executor, x, timestep, context, *args, **kwargs):
        used.append((float(timestep.flatten()[0]) / 1000, context.shape[1]))
        return executor(x, timestep, context, *args, **kwargs)

    model.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "watch", watch)
    early = prompt(1, tokens=3, start_percent=0.0, end_percent=0.4)
    late = prompt(2, tokens=9, start_percent=0.4, end_percent=1.0)
    levels = stage_levels(WAN, (5, 5, 5))
    PyramidRun(guider(model, 1.0, early + late), SeedNoise(1), make_sampler("euler"), levels, WAN).sample(empty())
    tokens = {natural: count for natural, count in used}
    assert {count for natural, count in tokens.items() if natural > 0.6} == {3}
    assert {count for natural, count in tokens.items() if natural < 0.6} == {9}
    assert len(used) == 15


def test_rope_scales_multiply_those_of_the_model(t2v_model):
    from pyramidalwan.samplers.comfyui.stage_model import bind_stage

    model = t2v_model.clone()
    model.model_options["transformer_options"]["rope_options"] = {"scale_t": 0.5, "shift_t": 3.0}
    stage = PyramidSpec(rope="scaled").stages(LatentShape(5, 16, 16))[0]
    rope = bind_stage(model, stage, 3).model_options["transformer_options"]["rope_options"]
    assert rope == {"scale_t": 2.0, "shift_t": 3.0, "scale_x": 4.0, "scale_y": 4.0}
    assert model.model_options["transformer_options"]["rope_options"] == {"scale_t": 0.5, "shift_t": 3.0}
    native, scaled = (run(t2v_model, PyramidSpec(rope=rope)).output["samples"] for rope in ("native", "scaled"))
    assert (native - scaled).abs().max() > 1e-3


def test_the_network_is_conditioned_on_the_timestep_source_of_the_spec(t2v_model):
    from comfy.patcher_extension import WrappersMP

    for timestep_source in ("natural", "sigma", "pyramid-flow"):
        spec, seen = PyramidSpec(timestep_source=timestep_source), []
        model = t2v_model.clone()

        def watch(executor, x, timestep, *args, seen=seen, **kwargs):
            seen.append(float(timestep.flatten()[0]))
            return executor(x, timestep, *args, **kwargs)

        model.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "watch", watch)
        run(model, spec, (2, 2, 2), cfg=1.0)
        stages = spec.stages(LatentShape(5, 16, 16))
        expected = [
            1000 * float(s.at(n).conditioning)
            for s, ns in zip(stages, stage_levels(spec, (2, 2, 2)), strict=True)
            for n in ns[:-1]
        ]
        assert seen == pytest.approx(expected, abs=1e-2)
