"""Scales other than half in ComfyUI: all forms of a run make the same video, and everything follows the stages' sizes."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from comfyui_gaussian import GaussianComfyUI
from comfyui_graph import GivenNoise, empty, guider, prompt
from run_forms import FORMS, NODE, call, one_node, random_lift, schedule

import nodes
from pyramidalwan.pyramid.latent_shape import LatentShape
from pyramidalwan.pyramid.stages import PRESETS, STOCK
from pyramidalwan.samplers import run_report
from pyramidalwan.samplers.any_sampler import pyramidal_model
from pyramidalwan.samplers.comfyui.conditioning import stage_conds
from pyramidalwan.samplers.lift.video_lift import VideoLift
from pyramidalwan.samplers.noise import SeedNoise
from pyramidalwan.samplers.options import StageOptions, sample_with_conds, sample_with_guider
from pyramidalwan.samplers.supported_samplers import make_sampler

FREE = PRESETS["training-free"]
TWO_THIRDS, THREE_QUARTERS = FREE.scaled("two thirds"), FREE.scaled("three quarters")
THREE = dataclasses.replace(FREE, boundaries=(0.9, 0.7), downsample_axes=("HW 2/3", "THW 3/4"))
ROUNDED = {"height": 16, "width": 18}
"""At 2/3 the low stage has 10x12 latents, at 3/4 it has 12x14: both scales round."""


@pytest.mark.parametrize(
    ("spec", "steps", "lifted"),
    [(TWO_THIRDS, "3-2", False), (THREE_QUARTERS, "3-2", True), (THREE, "2-2-2", False)],
    ids=["two-thirds", "three-quarters-lift", "three-stages"],
)
@pytest.mark.parametrize("kind", ["t2v", "i2v"])
def test_all_forms_make_the_same_video(t2v_model, i2v_model, kind, spec, steps, lifted):
    model = t2v_model if kind == "t2v" else i2v_model
    conds = (prompt(1), prompt(2)) if kind == "t2v" else (image(4), image(5))
    lift = random_lift("HW 3/4") if lifted else VideoLift("none", 16)
    videos = [form(model, *conds, spec, steps, lift, empty(**ROUNDED))[0]["samples"] for form in FORMS]
    scale = videos[0].abs().max()
    assert videos[0].shape == (1, 16, 5, 16, 18) and scale > 0.1
    for video in videos[1:]:
        assert (video - videos[0]).abs().max() < 2e-5 * scale


def image(seed: int) -> list:
    """Return the CONDITIONING of a start image at the size of ``ROUNDED``."""
    generator = torch.Generator().manual_seed(seed)
    latent, mask = torch.randn(1, 16, 5, 16, 18, generator=generator), torch.ones(1, 4, 5, 16, 18)
    mask[:, :, 0] = 0
    return prompt(seed, concat_latent_image=latent, concat_mask=mask)


def test_members_of_a_batch_are_the_videos_of_their_own_runs(t2v_model):
    none = VideoLift("none", 16)
    both = one_node(t2v_model, prompt(1), prompt(2), THREE, "2-1-1", none, empty(batch=2, **ROUNDED))[0]["samples"]
    for index in (0, 1):
        alone = empty(batch_index=[index], **ROUNDED)
        single = one_node(t2v_model, prompt(1), prompt(2), THREE, "2-1-1", none, alone)[0]["samples"]
        torch.testing.assert_close(both[index : index + 1], single, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("spec", [TWO_THIRDS, THREE], ids=["two-thirds", "three-stages"])
def test_a_resumed_draft_equals_the_uninterrupted_run(t2v_model, spec):
    steps = "-".join("2" * spec.number_of_stages)
    run = (t2v_model, prompt(1), prompt(2), spec, steps, VideoLift("none", 16))
    whole = one_node(*run, empty(**ROUNDED))[0]["samples"]
    draft = one_node(*run, empty(**ROUNDED), end="low")[0]
    assert tuple(draft["samples"].shape[2:]) == spec.shapes(LatentShape(5, 16, 18))[0]
    torch.testing.assert_close(one_node(*run, draft)[0]["samples"], whole, atol=1e-5, rtol=1e-5)


def test_a_run_that_ends_in_the_low_stage_has_the_full_size(t2v_model):
    sigmas, moved = schedule(TWO_THIRDS, "3-2")
    parts = SeedNoise(5), guider(t2v_model, 3.0), make_sampler("euler")
    made = sample_with_guider(*parts, sigmas[:3], empty(**ROUNDED), moved, StageOptions())
    assert made.output["samples"].shape == (1, 16, 5, 16, 18) and torch.isfinite(made.output["samples"]).all()


def test_a_given_region_is_kept_exactly(t2v_model):
    generator = torch.Generator().manual_seed(0)
    video = torch.randn(1, 16, 5, 16, 18, generator=generator)
    mask = torch.zeros(1, 1, 5, 16, 18)
    mask[..., 4:9, 3:11] = 1
    made = one_node(
        t2v_model, prompt(1), prompt(2), TWO_THIRDS, "2-2", VideoLift("none", 16), {"samples": video, "noise_mask": mask}
    )[0]["samples"]
    kept = (mask == 0).expand_as(video)
    torch.testing.assert_close(made[kept], video[kept], atol=1e-5, rtol=1e-5)
    assert (made[~kept] - video[~kept]).abs().max() > 0.1


def test_conditioning_has_the_size_of_the_stage():
    full = LatentShape(5, 16, 18)
    low = TWO_THIRDS.stages(full)[0]
    conds = [
        {
            "concat_latent_image": torch.randn(1, 16, 5, 16, 18),
            "vace_frames": torch.randn(1, 32, 5, 16, 18),
            "vace_mask": torch.ones(1, 64, 5, 16, 18),
            "pixels": torch.randn(1, 3, 128, 144),
            "reference": torch.randn(1, 16, 1, 16, 18),
            "tokens": torch.randn(1, 7, 16),
        }
    ]
    made = stage_conds({"positive": conds}, full, low, TWO_THIRDS.downsample_axes)["positive"][0]
    shapes = {name: tuple(value.shape) for name, value in made.items()}
    assert shapes == {
        "concat_latent_image": (1, 16, 5, 10, 12), "vace_frames": (1, 32, 5, 10, 12), "vace_mask": (1, 64, 5, 10, 12),
        "pixels": (1, 3, 80, 96), "reference": (1, 16, 1, 10, 12), "tokens": (1, 7, 16),
    }  # fmt: skip
    assert torch.equal(made["vace_mask"], torch.ones_like(made["vace_mask"]))


@pytest.mark.parametrize("spec", [TWO_THIRDS, THREE_QUARTERS], ids=["two-thirds", "three-quarters"])
def test_a_run_on_gaussian_data_ends_with_the_deviation_of_the_data(t2v_model, spec):
    """Both bands of the DCT keep their own deviation, from noise whose bands have exactly unit deviation.

    The high band starts at 0.8 without its signal, which takes 0.4 % of its deviation; the steps take 0.3 %.
    """
    full = LatentShape(3, 24, 26)
    gaussian = GaussianComfyUI(spec, full)
    noise = gaussian.whitened(torch.randn(2, 16, *full, generator=torch.Generator().manual_seed(0)))
    sigmas = call(NODE["Schedule"], spec, "10-40", "auto", 1.0)[0]
    made = sample_with_guider(
        GivenNoise(noise), guider(gaussian.into(t2v_model)), make_sampler("heun"), sigmas, empty(3, 24, 26, batch=2), spec,
        StageOptions(lift=VideoLift("none", 16)),
    ).output["samples"]  # fmt: skip
    assert gaussian.worst_error(t2v_model.model.process_latent_in(made)) < 0.01


class TestAuto:
    """Without a pyramid the scale follows from the size of the video."""

    def test_720p_starts_at_480p(self):
        latent, text = call(NODE["EmptyLatent"], 1280, 720, 1, 1, "nearest")
        assert text.splitlines()[1:] == [
            "low: 848x480 with 1 frames (latent 1x60x106)", "high: 1280x720 with 1 frames (latent 1x90x160)",
        ]  # fmt: skip
        assert "848x480" in call(NODE["CostEstimate"], latent, "20-10", "6", "auto", 0.0)[0]

    def test_a_stage_that_is_small_for_stock_wan_is_told(self, t2v_model, monkeypatch):
        """Only for networks as wide as those of Wan."""
        latent, told = empty(frames=1, height=60, width=60), []
        widths = (set(), {t2v_model.model.diffusion_model.dim})
        for known in widths:
            monkeypatch.setattr(run_report, "WAN_WIDTHS", known)
            by_node, by_model = [], []
            options = dict(seed=5, steps="1-1", denoise=1.0, sampler_name="euler", grid="auto", shift=5.0)
            sample_with_conds(
                t2v_model, prompt(1), prompt(2), latent, None, StageOptions("1"), **options, report=by_node.append
            )
            model = pyramidal_model(t2v_model, None, by_model.append)
            nodes.common_ksampler(model, 5, 2, 1.0, "euler", "simple", prompt(1), prompt(2), latent)
            told += [by_node[0], by_model[0]]
        note = "stage 'low' has a short side of 368 pixels, and stock Wan gets worse below 480"
        assert [note in text for text in told] == [False, False, True, True] and told[3].startswith("low 368x368 · 1 step; ")
        advice = "; boundaries 0.9 in 'Custom Pyramid' leave less to it"
        assert note + advice in told[2] and advice not in told[3]  # its only small step ends at 0.89

    def test_every_node_chooses_the_same(self, t2v_model):
        none = VideoLift("none", 16)
        latent = empty(frames=1, height=60, width=60)  # 480 pixels: three quarters
        conds = (t2v_model, prompt(1), prompt(2))
        auto = [form(*conds, STOCK, "1-1", none, latent)[0]["samples"] for form in FORMS]
        chosen = one_node(*conds, THREE_QUARTERS, "1-1", none, latent)[0]["samples"]
        assert torch.equal(auto[0], chosen)
        assert torch.equal(one_node(*conds, None, "1-1", none, latent)[0]["samples"], chosen)
        for video in auto[1:]:
            assert (video - chosen).abs().max() < 2e-5 * chosen.abs().max()

    def test_a_draft_keeps_the_scale_that_was_chosen(self, t2v_model):
        latent, none = empty(frames=1, height=60, width=60), VideoLift("none", 16)
        draft = one_node(t2v_model, prompt(1), prompt(2), None, "1-1", none, latent, end="low")[0]
        assert draft["pyramid"].spec.downsample_axes == ("HW 3/4",) and draft["samples"].shape[-2:] == (46, 46)
        whole = one_node(t2v_model, prompt(1), prompt(2), None, "1-1", none, latent)[0]["samples"]
        torch.testing.assert_close(
            one_node(t2v_model, prompt(1), prompt(2), None, "1-1", none, draft)[0]["samples"], whole, atol=1e-5, rtol=1e-5
        )


class TestMistakes:
    def test_stages_by_hand_require_the_size(self, t2v_model):
        sigmas, moved = schedule(TWO_THIRDS, "2-2")
        with pytest.raises(ValueError, match="the sizes of this pyramid depend on the video; connect the run's latent"):
            call(NODE["StageModel"], t2v_model, moved, "low")
        with pytest.raises(ValueError, match="the sizes of this pyramid depend on the video; connect the run's latent"):
            call(NODE["StageSigmas"], sigmas, moved, "low")
        with pytest.raises(ValueError, match="the timesteps of the grid 'distilled' depend on the sizes"):
            call(NODE["Schedule"], TWO_THIRDS, "2-2", "distilled", 5.0)
        call(NODE["Schedule"], TWO_THIRDS, "2-2", "distilled", 5.0, None, empty(**ROUNDED))

    def test_a_stage_for_another_size(self, t2v_model):
        noise = SeedNoise(5)
        sigmas, moved = schedule(TWO_THIRDS, "2-2")
        bound = call(NODE["StageModel"], t2v_model, moved, "low", None, empty(height=18, width=18))[0]
        with pytest.raises(ValueError, match="got 5x10x12 latents, but 'Pyramidal Stage Model' was made for 5x12x12"):
            guider(bound).sample(
                noise.generate_noise(empty(height=10, width=12)),
                empty(height=10, width=12)["samples"],
                make_sampler("euler"),
                call(NODE["StageSigmas"], sigmas, moved, "low", empty(height=18, width=18))[0],
            )

    def test_a_lift_without_a_map_for_the_scale(self, t2v_model):
        with pytest.raises(ValueError, match="has no map for HW 2/3, which this pyramid downsamples; it has HW: connect"):
            one_node(t2v_model, prompt(1), prompt(2), TWO_THIRDS, "1-1", random_lift("HW"), empty(height=24, width=24))

    def test_presets_of_finetuned_weights_keep_their_scales(self):
        assert call(NODE["Preset"], "pyramidal-wan") == (PRESETS["pyramidal-wan"],)
        with pytest.raises(
            ValueError, match="the weights of 'tpdiff' were finetuned for its scales; set scale to auto, got 'half'"
        ):
            call(NODE["Preset"], "tpdiff", "half")
        with pytest.raises(ValueError, match="unknown scale 'x'; expected auto, half, two thirds, three quarters"):
            call(NODE["Preset"], "training-free", "x")
