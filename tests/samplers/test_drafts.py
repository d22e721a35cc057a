"""Drafts that are finished later: from a file, after another node dropped their tag, with a mask, and with the wrong noise."""

import dataclasses
import json

import folder_paths
import pytest
import torch
from comfy_extras.nodes_custom_sampler import CFGGuider, DisableNoise, KSamplerSelect, RandomNoise
from comfy_extras.nodes_rebatch import LatentRebatch
from comfyui_graph import empty, prompt
from safetensors.torch import load_file, save_file

import nodes
from pyramidalwan.nodes.drafts import PyramidalWanLoadDraft, PyramidalWanSaveDraft
from pyramidalwan.nodes.sampler import PyramidalWanSampler, PyramidalWanSamplerAdvanced
from pyramidalwan.nodes.schedule import PyramidalWanSchedule
from pyramidalwan.nodes.stages import (
    PyramidalWanStageModel,
    PyramidalWanStageSigmas,
    PyramidalWanStageStart,
    PyramidalWanStageTransition,
)
from pyramidalwan.pyramid.latent_shape import LatentShape
from pyramidalwan.pyramid.stages import PRESETS
from pyramidalwan.samplers.any_sampler import pyramidal_model
from pyramidalwan.samplers.comfyui.latent_tag import CLEAN, END, StageTag, tag_of, tagged
from pyramidalwan.samplers.hand_wired import stage_start
from pyramidalwan.samplers.options import StageOptions, sample_with_conds

WAN, FREE = PRESETS["pyramidal-wan"], PRESETS["training-free"]
SIGMAS = PyramidalWanSchedule.execute(WAN, "3-3-2", "auto", 5.0).args[0]
VIDEO = torch.randn(1, 16, 5, 16, 16, generator=torch.Generator().manual_seed(9))
MASK = torch.zeros(1, 1, 5, 16, 16)
MASK[..., 8:] = 1
NAME = "draft.safetensors [output]"


@pytest.fixture
def folders(tmp_path, monkeypatch):
    for name in ("input", "output"):
        (tmp_path / name).mkdir()
        monkeypatch.setattr(folder_paths, f"get_{name}_directory", lambda name=name: str(tmp_path / name))
    return tmp_path


def sampler(model, latent=None, **changes):
    values = dict(
        positive=prompt(1), negative=prompt(2), latent=latent or empty(), seed=5, steps="3-3-2", cfg="1", sampler_name="euler",
        denoise=1.0, grid="auto", shift=5.0, start_stage="auto", end_stage="auto", pyramid=WAN,
    )  # fmt: skip
    return PyramidalWanSampler.execute(model, **{**values, **changes}).args


def finish(model, latent, noise=None, **changes):
    """Return the video of the advanced node."""
    guider = CFGGuider.execute(model, prompt(1), prompt(2), 1.0).args[0]
    parts = (noise or RandomNoise.execute(5).args[0], guider, KSamplerSelect.execute("euler").args[0])
    values = dict(sigmas=SIGMAS, latent=latent, cfg="", start_stage="auto", end_stage="auto", pyramid=WAN)
    return PyramidalWanSamplerAdvanced.execute(*parts, **{**values, **changes}).args[0]["samples"]


def through_a_file(latent):
    PyramidalWanSaveDraft.execute(latent, "draft")
    return PyramidalWanLoadDraft.execute(NAME).args[0]


class TestFiles:
    @pytest.mark.parametrize(
        ("spec", "end_stage"),
        [(FREE, "low"), (WAN, "low"), (WAN, "mid")],
        ids=["training-free", "low of three", "mid of three"],
    )
    def test_a_run_finished_from_a_file_equals_an_uninterrupted_one(self, t2v_model, folders, spec, end_stage):
        steps = "-".join(["2"] * spec.number_of_stages)
        latent = empty(batch=2, batch_index=[3, 7])
        options = dict(pyramid=spec, steps=steps)
        whole = sampler(t2v_model, latent, **options)[0]["samples"]
        draft = through_a_file(sampler(t2v_model, latent, end_stage=end_stage, **options)[0])
        assert torch.equal(sampler(t2v_model, draft, **options)[0]["samples"], whole)

    def test_every_field_of_the_latent_and_its_tag_returns(self, folders):
        size = LatentShape(5, 16, 16)
        draw = torch.Generator().manual_seed(0)
        low = WAN.shapes(size)[0]
        samples, clean = (torch.randn(2, 16, *low, generator=draw, dtype=torch.float64).to(torch.bfloat16) for _ in range(2))
        tag = StageTag(WAN, 0, size, END, given=torch.randn(2, 16, *size, generator=draw), clean=clean)
        saved = {"spec", "stage", "size", "state", "given", "clean"}
        assert {field.name for field in dataclasses.fields(StageTag)} == saved | {"fingerprints"}
        latent = tagged({"samples": samples, "noise_mask": MASK, "batch_index": [0, 4]}, tag)
        read = through_a_file(latent)
        assert read.keys() == latent.keys() and read["batch_index"] == [0, 4]
        assert torch.equal(read["samples"], samples) and read["samples"].dtype == torch.bfloat16
        assert torch.equal(read["noise_mask"], MASK)
        assert tag_of(read) == tag and isinstance(tag_of(read).size, LatentShape)
        assert tag_of(read).fingerprints == tag_of(latent).fingerprints and len(tag_of(read).fingerprints) == 2
        assert torch.equal(tag_of(read).given, tag.given) and torch.equal(tag_of(read).clean, tag.clean)

    def test_a_mask_survives_the_file(self, t2v_model, folders):
        latent = {"samples": VIDEO, "noise_mask": MASK}
        whole = sampler(t2v_model, latent)[0]["samples"]
        draft = through_a_file(sampler(t2v_model, latent, end_stage="low")[0])
        assert torch.equal(sampler(t2v_model, draft)[0]["samples"], whole)

    def test_a_stage_of_a_graph_wired_by_hand_survives_the_file(self, t2v_model, folders):
        from comfy_extras.nodes_custom_sampler import SamplerCustomAdvanced

        noise, euler = RandomNoise.execute(5).args[0], KSamplerSelect.execute("euler").args[0]

        def stage(latent, drawn, name):
            model = PyramidalWanStageModel.execute(t2v_model, WAN, name).args[0]
            guider = CFGGuider.execute(model, prompt(1), prompt(2), 1.0).args[0]
            sigmas = PyramidalWanStageSigmas.execute(SIGMAS, WAN, name).args[0]
            return SamplerCustomAdvanced.execute(drawn, guider, euler, sigmas, latent).args[0]

        low = through_a_file(stage(*PyramidalWanStageStart.execute(noise, empty(), WAN).args, "low"))
        mid = stage(*PyramidalWanStageTransition.execute(low, noise, WAN, "low").args, "mid")
        high = stage(*PyramidalWanStageTransition.execute(mid, noise, WAN, "mid").args, "high")
        torch.testing.assert_close(high["samples"], finish(t2v_model, empty()), atol=1e-5, rtol=1e-5)

    def test_only_drafts_are_saved(self, t2v_model, folders):
        with pytest.raises(ValueError, match="not the output of an earlier stage; use 'SaveLatent'"):
            PyramidalWanSaveDraft.execute(sampler(t2v_model)[0], "x")
        assert not list(folders.rglob("*.safetensors"))

    def test_keys_of_other_nodes_are_named_as_not_saved(self, t2v_model, folders):
        from pyramidalwan.samplers.comfyui.draft_files import save_draft

        draft = sampler(t2v_model, end_stage="low")[0]
        assert save_draft(draft, "x").endswith("x.safetensors: stage 'low' of 3")
        assert save_draft({**draft, "note": "kept"}, "x").endswith("stage 'low' of 3; not saved: note")

    def test_names_and_changes_are_checked_as_for_prompts(self, t2v_model, folders):
        for name in ("../../evil", "a\x00b", ""):
            assert PyramidalWanSaveDraft.validate_inputs(name) is not True
        assert PyramidalWanSaveDraft.validate_inputs("shots/fox") is True and PyramidalWanSaveDraft.validate_inputs() is True
        draft = sampler(t2v_model, end_stage="low")[0]
        PyramidalWanSaveDraft.execute(draft, "shots/fox")
        name = "shots/fox.safetensors [output]"
        assert PyramidalWanLoadDraft.define_schema().inputs[0].options == [name]
        assert PyramidalWanLoadDraft.validate_inputs(name) is True
        assert "unknown file 'no' in the folder 'drafts'; expected shots/fox" in PyramidalWanLoadDraft.validate_inputs("no")
        before = PyramidalWanLoadDraft.fingerprint_inputs(name)
        PyramidalWanSaveDraft.execute(draft, "shots/fox")
        assert PyramidalWanLoadDraft.fingerprint_inputs(name) != before

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            ({"format": 2}, "unsupported draft format 2 in .*; this version reads format 1"),
            ({"stage": 7}, "is damaged: stage 7 is not one of 3"),
            ({"state": "half"}, "is damaged: unknown state 'half'"),
            ({"size": [5, 32, 32]}, r"is damaged: its stage has 2x8x8 latents, but the samples have shape 1x16x2x4x4"),
            ({"size": [5, 16]}, "is damaged"),
            ({"spec": {"format": 1}}, "is damaged: missing fields in the pyramid spec"),
            ({"spec": None}, "is damaged: a pyramid spec must be a JSON object"),
            (None, "is not a draft; expected a file from 'Pyramidal Save Draft'"),
        ],
    )
    def test_a_damaged_file_is_rejected_in_one_line(self, t2v_model, folders, change, words):
        import safetensors

        PyramidalWanSaveDraft.execute(sampler(t2v_model, end_stage="low")[0], "draft")
        path = folders / "output" / "drafts" / "draft.safetensors"
        with safetensors.safe_open(path, framework="pt") as file:
            values = json.loads(file.metadata()["pyramidal_wan_draft"])
        metadata = {"pyramidal_wan_draft": json.dumps({**values, **change})} if change else {"other": "x"}
        save_file(load_file(path), path, metadata)
        with pytest.raises(ValueError, match=words) as caught:
            PyramidalWanLoadDraft.execute(NAME)
        assert "\n" not in str(caught.value)

    def test_a_file_without_samples_is_rejected(self, t2v_model, folders):
        import safetensors

        PyramidalWanSaveDraft.execute(sampler(t2v_model, end_stage="low")[0], "draft")
        path = folders / "output" / "drafts" / "draft.safetensors"
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata()
        save_file({"clean": torch.ones(1)}, path, metadata)
        with pytest.raises(ValueError, match="is damaged: it has no 'samples'"):
            PyramidalWanLoadDraft.execute(NAME)


class TestWithoutItsTag:
    """Other nodes keep the tensor and drop everything else."""

    @staticmethod
    def saved_and_loaded(draft, folder):
        """Return what ComfyUI's 'SaveLatent' and 'Load Latent' keep."""
        import nodes

        folder_paths.set_output_directory(str(folder))
        nodes.SaveLatent().save(draft, "latents/x")
        (path,) = folder.rglob("*.latent")
        loaded = load_file(path)
        return {"samples": loaded["latent_tensor"].float()}

    @pytest.mark.parametrize("spec", [FREE, WAN], ids=["training-free", "pyramidal-wan"])
    def test_a_draft_is_not_taken_for_a_small_video(self, t2v_model, tmp_path, monkeypatch, spec):
        monkeypatch.setattr(folder_paths, "output_directory", str(tmp_path))
        options = dict(pyramid=spec, steps="-".join(["2"] * spec.number_of_stages))
        latent = empty(frames=17, height=64, width=64)
        draft = sampler(t2v_model, latent, end_stage="low", **options)[0]
        words = "holds noise .* no record of its stage.*'Pyramidal Save Draft' and load them with 'Pyramidal Load Draft'"
        rebatched = LatentRebatch.execute([draft], [1]).args[0][0]
        assert tag_of(rebatched) is None
        for lost in (self.saved_and_loaded(draft, tmp_path), rebatched):
            with pytest.raises(ValueError, match=words):
                sampler(t2v_model, lost, **options)
            with pytest.raises(ValueError, match=words):
                sampler(t2v_model, lost, denoise=0.5, **options)
            with pytest.raises(ValueError, match=words):
                finish(t2v_model, lost, pyramid=spec, sigmas=torch.tensor([1.0, 0.896, 0.8, 0.602, 0.3, 0.0]))

    def test_a_draft_of_a_size_that_does_not_fit_is_reported_as_a_draft(self, t2v_model):
        """832x480 at half size does not fit the pyramid, which is not what is wrong."""
        noisy = t2v_model.model.process_latent_out(
            2.2 * torch.randn(1, 16, 21, 30, 52, generator=torch.Generator().manual_seed(0))
        )
        with pytest.raises(ValueError, match="holds noise"):
            sampler(t2v_model, {"samples": noisy}, pyramid=FREE, steps="2-2")

    @pytest.mark.parametrize("spec", [FREE, WAN], ids=["training-free", "pyramidal-wan"])
    def test_other_samplers_with_the_node_do_not_replace_a_draft(self, t2v_model, spec):
        steps = "-".join(["2"] * spec.number_of_stages)
        draft = sampler(t2v_model, empty(frames=17, height=64, width=64), end_stage="low", pyramid=spec, steps=steps)[0]
        model = pyramidal_model(t2v_model, None, print)
        for latent in (draft, {"samples": draft["samples"]}):
            with pytest.raises(
                ValueError, match="no record of its stage.*would replace it with a new video.*'Pyramidal Sampler'"
            ):
                nodes.common_ksampler(model, 5, 4, 1.0, "euler", "simple", prompt(1), prompt(2), latent)

    def test_a_draft_that_another_sampler_finished_is_a_video(self, t2v_model):
        """ComfyUI's samplers copy whatever the LATENT carries to their output."""
        draft = sampler(t2v_model, empty(frames=17, height=64, width=64), end_stage="low", pyramid=FREE, steps="2-2")[0]
        finished = nodes.common_ksampler(t2v_model, 5, 2, 1.0, "euler", "simple", prompt(1), prompt(2), draft)[0]
        assert tag_of(draft) is not None and "pyramid" in finished and tag_of(finished) is None
        options = dict(denoise=0.5, pyramid=FREE, steps="2-2")
        again, known = (sampler(t2v_model, latent, **options)[0] for latent in (finished, {"samples": finished["samples"]}))
        assert torch.equal(again["samples"], known["samples"])

    def test_nodes_that_pick_or_turn_videos_keep_a_draft(self, t2v_model):
        draft = sampler(t2v_model, empty(batch=3), end_stage="low")[0]
        picked = nodes.LatentFromBatch().frombatch(draft, 1, 2)[0]
        turned = {**draft, "samples": draft["samples"].flip(-1).half()}
        assert tag_of(picked) == tag_of(turned) == tag_of(draft) is not None
        assert tag_of({**draft, "samples": draft["samples"] + 1}) is None

    def test_a_video_that_a_run_from_noise_does_not_use_is_said(self, t2v_model):
        denoised = sampler(t2v_model, end_stage="low")[1]
        ignored = "the LATENT holds a video, but a run from pure noise (denoise 1) does not use it"
        for latent, denoise, expected in ((denoised, 1.0, True), (denoised, 0.5, False), (empty(), 1.0, False)):
            said = []
            sample_with_conds(
                t2v_model, prompt(1), prompt(2), {"samples": latent["samples"]}, FREE, StageOptions("1"), seed=5, steps="1-1",
                denoise=denoise, sampler_name="euler", grid="auto", shift=5.0, report=said.append,
            )  # fmt: skip
            assert (ignored in said[-1]) == expected

    @pytest.mark.parametrize("offset", [0.0, 3.0])
    def test_encoded_videos_start_runs(self, t2v_model, offset):
        """A video of one colour has channels far from 0, but little deviation within them."""
        draw = torch.Generator().manual_seed(0)
        colour = offset * torch.randn(1, 16, 1, 1, 1, generator=draw)
        video = t2v_model.model.process_latent_out(colour + torch.randn(1, 16, 5, 16, 16, generator=draw))
        for denoise in (1.0, 0.5):
            assert torch.isfinite(sampler(t2v_model, {"samples": video}, denoise=denoise)[0]["samples"]).all()

    def test_a_video_with_leftover_noise_still_resumes_without_new_noise(self, t2v_model):
        leftover = t2v_model.model.process_latent_out(
            4 * torch.randn(1, 16, 5, 16, 16, generator=torch.Generator().manual_seed(0))
        )
        sigmas = torch.tensor([0.75, 0.5, 0.25, 0.0])
        video = finish(
            t2v_model, {"samples": leftover}, DisableNoise.execute().args[0], pyramid=PRESETS["plain"], sigmas=sigmas
        )
        assert torch.isfinite(video).all()


class TestMasks:
    @pytest.mark.parametrize("spec", [FREE, WAN], ids=["training-free", "pyramidal-wan"])
    def test_a_masked_draft_is_finished_like_an_uninterrupted_run(self, t2v_model, spec):
        options = dict(pyramid=spec, steps="-".join(["2"] * spec.number_of_stages))
        latent = {"samples": VIDEO, "noise_mask": MASK}
        whole = sampler(t2v_model, latent, **options)[0]["samples"]
        draft = sampler(t2v_model, latent, end_stage="low", **options)[0]
        assert torch.equal(sampler(t2v_model, draft, **options)[0]["samples"], whole)
        torch.testing.assert_close(whole[..., :8], VIDEO[..., :8], atol=1e-5, rtol=1e-5)
        unmasked = sampler(t2v_model, {"samples": VIDEO}, **options)[0]["samples"]
        assert (whole - unmasked)[..., 8:].abs().max() > 1e-3

    def test_a_mask_set_on_a_draft_is_rejected(self, t2v_model):
        draft = sampler(t2v_model, end_stage="low")[0]
        with pytest.raises(ValueError, match="noise mask was set on the output of a stage.*the first sampler gets"):
            sampler(t2v_model, {**draft, "noise_mask": MASK})


class TestNoise:
    def test_a_draft_is_not_finished_without_noise(self, t2v_model):
        draft = sampler(t2v_model, end_stage="low")[0]
        with pytest.raises(
            ValueError,
            match="resumes after stage 'low' and requires new noise, but its NOISE is empty .'DisableNoise'.; connect",
        ):
            finish(t2v_model, draft, DisableNoise.execute().args[0])

    def test_a_new_video_is_not_started_without_noise(self, t2v_model):
        with pytest.raises(ValueError, match="starts from pure noise, but its NOISE is empty .'DisableNoise'."):
            finish(t2v_model, empty(), DisableNoise.execute().args[0])

    def test_stages_wired_by_hand_are_not_sampled_without_noise(self, t2v_model):
        spec = PRESETS["training-free"]
        latent, noise = stage_start(DisableNoise.execute().args[0], empty(), spec)
        with pytest.raises(ValueError, match="every stage of a pyramid starts with new noise, but the NOISE is empty"):
            noise.generate_noise(latent)

    def test_the_clean_prediction_does_not_finish_a_run_from_a_file(self, t2v_model, folders):
        clean = through_a_file(sampler(t2v_model, end_stage="low")[1])
        assert tag_of(clean).state == CLEAN
        with pytest.raises(ValueError, match="clean prediction of stage 'low'"):
            sampler(t2v_model, clean)
