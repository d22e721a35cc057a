"""The sampler node, the advanced node and a graph wired by hand make the same video for the same seed."""

import pytest
import torch
from comfy_extras.nodes_custom_sampler import CFGGuider, KSamplerSelect, RandomNoise, SamplerCustomAdvanced
from comfyui_graph import empty, prompt
from comfyui_images import image_prompt

from pyramidalwan.nodes import NODES
from pyramidalwan.pyramid.latent_shape import LatentShape
from pyramidalwan.pyramid.paths import stage_path
from pyramidalwan.pyramid.stages import PRESETS, PyramidSpec
from pyramidalwan.samplers.supported_samplers import FEW_STEP

NODE = {node.__name__.removeprefix("PyramidalWan"): node for node in NODES}
WAN = PRESETS["pyramidal-wan"]
STAGES = ("low", "mid", "high")


def call(node, *args, **kwargs):
    return node.execute(*args, **kwargs).args


def schedule(spec, steps):
    return call(NODE["Schedule"], spec, steps, "auto", 5.0)[0]


def pick_sampler(name):
    return call(NODE["FewStepSampler"])[0] if name == FEW_STEP else call(KSamplerSelect, name)[0]


def one_node(model, positive, negative, spec, steps, name, latent, cfg="3"):
    return call(NODE["Sampler"], model, positive, negative, latent, 5, steps, cfg, name, 1.0, "auto", 5.0, "auto", "auto", spec)


def advanced_node(model, positive, negative, spec, steps, name, latent, cfg=3.0):
    guider = call(CFGGuider, model, positive, negative, cfg)[0]
    noise = call(RandomNoise, 5)[0]
    return call(
        NODE["SamplerAdvanced"],
        noise,
        guider,
        pick_sampler(name),
        schedule(spec, steps),
        latent,
        "",
        "auto",
        "auto",
        spec,
    )


def stock_graph(model, positive, negative, spec, steps, name, latent, cfg=3.0):
    """Wire a run by hand: a start, then a bound model, sigmas and SamplerCustomAdvanced per stage, and transitions."""
    noise = call(RandomNoise, 5)[0]
    sigmas = schedule(spec, steps)
    stage_latent, stage_noise = call(NODE["StageStart"], noise, latent, spec)
    for stage in STAGES:
        bound = call(NODE["StageModel"], model, spec, stage)[0]
        guider = call(CFGGuider, bound, positive, negative, cfg)[0]
        stage_sigmas = call(NODE["StageSigmas"], sigmas, spec, stage)[0]
        output, denoised = call(SamplerCustomAdvanced, stage_noise, guider, pick_sampler(name), stage_sigmas, stage_latent)
        if stage != "high":
            stage_latent, stage_noise = call(NODE["StageTransition"], output, noise, spec, stage)
    return output, denoised


@pytest.mark.parametrize("kind", ["t2v", "i2v"])
@pytest.mark.parametrize(("name", "steps"), [("euler", "4-3-2"), ("uni_pc", "4-3-2"), (FEW_STEP, "2-2-1")])
@pytest.mark.parametrize(
    "spec", [WAN, PyramidSpec(first_frame="shared", resize="db2", rope="scaled")], ids=["wan", "shared-db2"]
)
def test_the_three_forms_make_the_same_video(t2v_model, i2v_model, kind, name, steps, spec):
    model = t2v_model if kind == "t2v" else i2v_model
    positive, negative = (prompt(1), prompt(2)) if kind == "t2v" else (image_prompt(channels=4), image_prompt(seed=4))
    videos = [form(model, positive, negative, spec, steps, name, empty()) for form in (one_node, advanced_node, stock_graph)]
    scale = videos[0][0]["samples"].abs().max()
    assert scale > 0.1
    for other in videos[1:]:
        for which in (0, 1):
            difference = (other[which]["samples"] - videos[0][which]["samples"]).abs().max()
            assert difference / scale < 1e-5, f"{'output' if which == 0 else 'denoised'} differs by {difference}"


@pytest.mark.parametrize(("name", "spec", "latent"), [
    (FEW_STEP, WAN, empty(batch=2)),
    ("euler", PyramidSpec(first_frame="shared"), empty(batch=2, batch_index=[3, 1])),
], ids=["few-step", "batch-index"])  # fmt: skip
def test_the_three_forms_make_the_same_batches(t2v_model, name, spec, latent):
    videos = [
        form(t2v_model, prompt(1), prompt(2), spec, "2-2-1", name, latent) for form in (one_node, advanced_node, stock_graph)
    ]
    assert (videos[0][0]["samples"][0] - videos[0][0]["samples"][1]).abs().max() > 0.1
    for other in videos[1:]:
        torch.testing.assert_close(other[0]["samples"], videos[0][0]["samples"], atol=2e-5, rtol=1e-5)


def test_renoise_goes_back_to_a_level_of_the_stage(t2v_model):
    """Renoise the denoised latent of the mid stage, then sample the rest of its sigmas."""
    noise = call(RandomNoise, 5)[0]
    sigmas = schedule(WAN, "2-4-1")
    drafts = call(
        NODE["Sampler"], t2v_model, prompt(1), prompt(2), empty(), 5, "2-4-1", "1", "euler", 1.0, "auto", 5.0, "auto", "auto",
        WAN,
    )[2]  # fmt: skip
    level = float(sigmas[4])
    latent, renoise = call(NODE["Renoise"], drafts[1], noise, WAN, "mid", level)
    bound = call(NODE["StageModel"], t2v_model, WAN, "mid")[0]
    guider = call(CFGGuider, bound, prompt(1), prompt(2), 1.0)[0]
    rest = call(NODE["StageSigmas"], sigmas, WAN, "mid")[0][2:]
    output, _ = call(SamplerCustomAdvanced, renoise, guider, pick_sampler("euler"), rest, latent)
    assert output["samples"].shape == (1, 16, 3, 8, 8) and torch.isfinite(output["samples"]).all()
    clean, stage = drafts[1]["samples"], WAN.stages(LatentShape(5, 16, 16))[1]
    noise_level = stage.at(level).sigma
    blurred = stage.from_coarser.up(stage.from_coarser.down(clean))
    expected = stage_path(clean, blurred, torch.zeros_like(clean), stage, level).x
    torch.testing.assert_close((1 - noise_level) * latent["samples"], expected, atol=1e-5, rtol=1e-5)
    drawn = renoise.generate_noise(latent)
    lower = call(NODE["Renoise"], drafts[1], noise, WAN, "mid", 0.7)[1].generate_noise(latent)
    assert (drawn - lower).abs().max() > 0.1  # another level, another draw
    with pytest.raises(ValueError, match="comes from a different pyramid"):
        call(NODE["Renoise"], drafts[1], noise, PyramidSpec((0.9, 0.5)), "mid", 0.7)
    assert torch.equal(drawn, renoise.generate_noise(latent)) and abs(float(drawn.std()) - 1) < 0.05
    with pytest.raises(ValueError, match="level 0.3 is not in stage 'mid', which runs from 0.896 to 0.602"):
        call(NODE["Renoise"], drafts[1], noise, WAN, "mid", 0.3)
    with pytest.raises(ValueError, match="is of stage 'mid', but the node is set to 'low'"):
        call(NODE["Renoise"], drafts[1], noise, WAN, "low", 0.95)


class TestWrongWiring:
    """Wrong connections raise a clear error."""

    def start(self):
        return call(NODE["StageStart"], call(RandomNoise, 5)[0], empty(), WAN)[0]

    def sample(self, model, stage, sigmas_stage, latent, spec=WAN, sigmas_spec=WAN):
        noise = call(RandomNoise, 5)[0]
        bound = call(NODE["StageModel"], model, spec, stage)[0]
        guider = call(CFGGuider, bound, prompt(1), prompt(2), 1.0)[0]
        sigmas = call(NODE["StageSigmas"], schedule(sigmas_spec, "2-2-2"), sigmas_spec, sigmas_stage)[0]
        return call(SamplerCustomAdvanced, noise, guider, pick_sampler("euler"), sigmas, latent)

    def test_output_of_the_wrong_stage(self):
        with pytest.raises(ValueError, match="is of stage 'low', but the node is set to 'mid'"):
            call(NODE["StageTransition"], self.start(), call(RandomNoise, 5)[0], WAN, "mid")

    def test_an_ordinary_latent_in_a_transition(self):
        with pytest.raises(ValueError, match="is not the output of a stage"):
            call(NODE["StageTransition"], empty(), call(RandomNoise, 5)[0], WAN, "low")

    def test_a_transition_after_the_last_stage(self):
        tag = self.start()["pyramid"]
        latent = {"samples": torch.zeros(1, 16, 5, 16, 16), "pyramid": type(tag)(WAN, 2, tag.size, "start")}
        with pytest.raises(ValueError, match="'high' is the last one"):
            call(NODE["StageTransition"], latent, call(RandomNoise, 5)[0], WAN, "high")

    def test_a_run_that_resumes_after_the_last_stage(self, t2v_model):
        tag = self.start()["pyramid"]
        latent = {"samples": torch.zeros(1, 16, 5, 16, 16), "pyramid": type(tag)(WAN, 2, tag.size, "start")}
        with pytest.raises(ValueError, match="is of the last stage, 'high', after which no run can resume; decode it"):
            one_node(t2v_model, prompt(1), prompt(2), WAN, "1-1-1", "euler", latent)

    def test_another_pyramid(self):
        other = PyramidSpec((0.9, 0.5))
        with pytest.raises(ValueError, match="comes from a different pyramid"):
            call(NODE["StageTransition"], self.start(), call(RandomNoise, 5)[0], other, "low")

    def test_a_resized_latent(self):
        latent = {**self.start(), "samples": torch.zeros(1, 16, 2, 8, 8)}
        with pytest.raises(ValueError, match="has 2x8x8 latents, but stage 'low' has 2x4x4"):
            call(NODE["StageTransition"], latent, call(RandomNoise, 5)[0], WAN, "low")

    def test_a_clean_prediction_in_a_transition(self, t2v_model):
        draft = one_node(t2v_model, prompt(1), prompt(2), WAN, "1-1-1", "euler", empty())[2][0]
        with pytest.raises(ValueError, match="is a clean prediction"):
            call(NODE["StageTransition"], draft, call(RandomNoise, 5)[0], WAN, "low")

    def test_sigmas_of_another_stage(self, t2v_model):
        with pytest.raises(
            ValueError, match="SIGMAS run from 1 to 0.5185, but stage 'mid' of this pyramid from 0.7528 to 0.3484"
        ):
            self.sample(t2v_model, "mid", "low", empty(3, 8, 8))

    def test_sigmas_of_another_pyramid(self, t2v_model):
        with pytest.raises(ValueError, match="take them from 'Pyramidal Stage Sigmas' with the same pyramid"):
            self.sample(t2v_model, "low", "low", self.start(), sigmas_spec=PyramidSpec((0.8, 0.5)))

    def test_an_untagged_latent_in_a_transition_names_the_node(self):
        with pytest.raises(ValueError, match="not the output of a stage; connect 'Pyramidal Stage Transition' to the sampler"):
            call(NODE["StageTransition"], empty(), call(RandomNoise, 5)[0], WAN, "low")

    def test_a_start_from_the_latent_of_a_stage(self):
        with pytest.raises(ValueError, match="is already a stage output"):
            call(NODE["StageStart"], call(RandomNoise, 5)[0], self.start(), WAN)

    def test_a_start_of_the_wrong_size(self):
        with pytest.raises(ValueError, match="does not fit a pyramid of 3 stages"):
            call(NODE["StageStart"], call(RandomNoise, 5)[0], empty(5, 12, 16), WAN)

    def test_a_stage_that_the_pyramid_does_not_have(self, t2v_model):
        with pytest.raises(ValueError, match="unknown stage 'mid' in a pyramid of 2 stages; expected all, low, high"):
            call(NODE["StageModel"], t2v_model, PRESETS["training-free"], "mid")
        with pytest.raises(ValueError, match="unknown stage '3' in a pyramid of 3 stages"):
            call(NODE["StageSigmas"], schedule(WAN, "2-2-2"), WAN, "3")

    def test_sigmas_that_start_below_the_stage(self):
        with pytest.raises(ValueError, match="starts below stage 'low' and has no step in it"):
            call(NODE["StageSigmas"], torch.tensor([0.7, 0.602, 0.3, 0.0]), WAN, "low")

    def test_a_stochastic_sampler_in_a_stage(self, t2v_model):
        bound = call(NODE["StageModel"], t2v_model, WAN, "low")[0]
        guider = call(CFGGuider, bound, prompt(1), prompt(2), 1.0)[0]
        sigmas = call(NODE["StageSigmas"], schedule(WAN, "2-2-2"), WAN, "low")[0]
        with pytest.raises(ValueError, match="adds noise that does not fit"):
            call(
                SamplerCustomAdvanced,
                call(RandomNoise, 5)[0],
                guider,
                pick_sampler("euler_ancestral"),
                sigmas,
                self.start(),
            )

    def test_conditioning_that_cannot_be_resized(self, t2v_model):
        bound = call(NODE["StageModel"], t2v_model, WAN, "low")[0]
        region = prompt(1, area=(5, 8, 8, 0, 0, 0))
        guider = call(CFGGuider, bound, region, prompt(2), 1.0)[0]
        sigmas = call(NODE["StageSigmas"], schedule(WAN, "2-2-2"), WAN, "low")[0]
        with pytest.raises(ValueError, match="an area in pixels"):
            call(SamplerCustomAdvanced, call(RandomNoise, 5)[0], guider, pick_sampler("euler"), sigmas, self.start())

    def test_context_windows(self, t2v_model):
        model = t2v_model.clone()
        model.model_options["context_handler"] = object()
        with pytest.raises(ValueError, match="context windows"):
            call(NODE["StageModel"], model, WAN, "low")

    def test_a_bound_model_in_the_sampler_node(self, t2v_model):
        bound = call(NODE["StageModel"], t2v_model, WAN, "low")[0]
        with pytest.raises(ValueError, match="already bound to a stage"):
            one_node(bound, prompt(1), prompt(2), WAN, "1-1-1", "euler", empty())
        with pytest.raises(ValueError, match="already bound to a stage"):
            call(NODE["StageModel"], bound, WAN, "low")
