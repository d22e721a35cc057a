"""Lifts in ComfyUI: all forms of a run agree, files round-trip, and the fit finds the map of a VAE."""

import dataclasses
import json
from pathlib import Path

import comfy.model_management
import comfy.sd
import comfy.utils
import folder_paths
import pytest
import torch
from comfy_extras.nodes_custom_sampler import CFGGuider, RandomNoise, SamplerCustomAdvanced
from comfyui_graph import empty, prompt
from comfyui_images import image_prompt
from run_forms import FORMS, NODE, call, euler, one_node, random_lift, schedule
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import nodes
from pyramidalwan.pyramid.lift import FunctionLift, LinearMap, ResizeDrop, ResizeLift
from pyramidalwan.pyramid.neighbourhoods import size_of
from pyramidalwan.pyramid.resize import make_resize
from pyramidalwan.pyramid.stages import PRESETS, PyramidSpec
from pyramidalwan.samplers.lift import choice, fitting
from pyramidalwan.samplers.lift.files import FOLDER, digest_of, kept_files, path_for, read_lift, write_lift
from pyramidalwan.samplers.lift.pixels import encode, encode_clips, resize_video
from pyramidalwan.samplers.lift.video_lift import VideoLift
from tiny_wan.checkpoints import vae_state_dict

ROOT = Path(__file__).resolve().parent.parent.parent
FREE = PRESETS["training-free"]
NAN = float("nan")
IN_TIME = PyramidSpec((0.9, 0.7), ("THW", "HW"), field="natural", timestep_source="sigma", first_frame="shared")


def resize_lift(*axes):
    resizes = {name: make_resize("haar", name) for name in axes}
    return VideoLift(
        "haar", 16, {name: ResizeLift(r) for name, r in resizes.items()}, {name: ResizeDrop(r) for name, r in resizes.items()}
    )


@pytest.mark.parametrize(("spec", "steps"), [(FREE, "3-2"), (IN_TIME, "2-2-2")], ids=["HW", "THW-HW"])
@pytest.mark.parametrize("kind", ["t2v", "i2v"])
def test_all_forms_make_the_same_video_with_a_lift(t2v_model, i2v_model, kind, spec, steps):
    model = t2v_model if kind == "t2v" else i2v_model
    conds = (prompt(1), prompt(2)) if kind == "t2v" else (image_prompt(channels=4), image_prompt(seed=4))
    lift = random_lift("HW", "THW")
    videos = [form(model, *conds, spec, steps, lift, empty())[0]["samples"] for form in FORMS]
    without = one_node(model, *conds, spec, steps, VideoLift("none", 16), empty())[0]["samples"]
    scale = videos[0].abs().max()
    assert (videos[0] - without).abs().max() > 0.1 * scale
    for video in videos[1:]:
        assert (video - videos[0]).abs().max() < 2e-5 * scale


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("lift", [resize_lift("HW", "THW"), VideoLift("none", 16)], ids=["haar", "none"])
def test_a_lift_that_resizes_changes_nothing_bit_for_bit(t2v_model, form, lift):
    plain, lifted = (
        form(t2v_model, prompt(1), prompt(2), IN_TIME, "2-2-2", given, empty())[0]["samples"] for given in (None, lift)
    )
    assert torch.equal(plain, lifted)


def test_a_resumed_draft_equals_the_uninterrupted_run(t2v_model):
    lift, conds = random_lift("HW", "THW"), (prompt(1), prompt(2))
    whole = one_node(t2v_model, *conds, IN_TIME, "2-2-2", lift, empty())[0]["samples"]
    for end in ("low", "mid"):
        draft = one_node(t2v_model, *conds, IN_TIME, "2-2-2", lift, empty(), end=end)[0]
        finished = one_node(t2v_model, *conds, IN_TIME, "2-2-2", lift, draft)[0]["samples"]
        torch.testing.assert_close(finished, whole, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("masked", [False, True])
def test_a_given_video_comes_down_through_the_drop(t2v_model, masked):
    """Drops change runs that start from a video or keep a part of one, and no others."""
    generator = torch.Generator().manual_seed(0)
    latent = {"samples": torch.randn(1, 16, 5, 16, 16, generator=generator)}
    if masked:
        latent["noise_mask"] = (torch.rand(1, 1, 5, 16, 16, generator=generator) > 0.5).float()
    resizes = resize_lift("HW")
    with_drop = dataclasses.replace(resizes, drops=random_lift("HW").drops)

    def sample(lift, start, denoise):
        return one_node(t2v_model, prompt(1), prompt(2), FREE, "3-2", lift, start, denoise=denoise)[0]["samples"]

    given = [sample(lift, latent, 1.0 if masked else 0.8) for lift in (resizes, with_drop)]
    assert (given[0] - given[1]).abs().max() > 1e-3 * given[0].abs().max()
    assert torch.equal(*(sample(lift, empty(), 1.0) for lift in (resizes, with_drop)))


def test_the_correction_is_added_to_the_signal_of_the_finer_stage(t2v_model):
    """Against the formula ``up(signal) + lift(clean) - up(clean)``, from the outputs of the coarse stage."""
    noise, (sigmas, spec) = call(RandomNoise, 5)[0], schedule(FREE, "2-2")
    latent, drawn = call(NODE["StageStart"], noise, empty(), spec)
    guider = call(CFGGuider, call(NODE["StageModel"], t2v_model, spec, "low")[0], prompt(1), prompt(2), 1.0)[0]
    output, denoised = call(
        SamplerCustomAdvanced, drawn, guider, euler(), call(NODE["StageSigmas"], sigmas, spec, "low")[0], latent
    )
    lift, haar = random_lift("HW"), make_resize("haar", "HW")
    made = call(NODE["StageTransition"], output, noise, spec, "low", denoised, lift)[0]["samples"]
    clean = denoised["samples"]
    expected = haar.up(output["samples"]) + lift.lifts["HW"](clean, (5, 16, 16)) - haar.up(clean)
    torch.testing.assert_close(made, expected, atol=1e-5, rtol=1e-5)


class TestMistakes:
    def test_another_vae(self, t2v_model):
        with pytest.raises(ValueError, match="the lift 'random' expects 48 latent channels; this model has 16"):
            one_node(t2v_model, prompt(1), prompt(2), FREE, "1-1", random_lift("HW", channels=48), empty())
        with pytest.raises(ValueError, match="expects 48 latent channels"):
            call(NODE["StageModel"], t2v_model, FREE, "low", random_lift("HW", channels=48))

    @pytest.mark.parametrize("form", FORMS)
    def test_another_pyramid(self, t2v_model, form):
        with pytest.raises(ValueError, match="has no map for HW, which this pyramid downsamples; it has T: connect"):
            form(t2v_model, prompt(1), prompt(2), FREE, "1-1", random_lift("T"), empty())

    def test_axes_are_checked_before_a_model_is_loaded(self):
        widgets = dict(steps="1-1", cfg="1", sampler_name="euler", grid="auto", shift=5.0)
        with pytest.raises(ValueError, match="has no map for HW"):
            NODE["Sampler"].check_lazy_status(
                **widgets, latent=empty(), start_stage="auto", end_stage="auto", pyramid=FREE, lift=random_lift("T"), model=None
            )

    def test_a_transition_without_the_clean_prediction(self, t2v_model):
        noise = call(RandomNoise, 5)[0]
        latent = call(NODE["StageStart"], noise, empty(), FREE)[0]
        with pytest.raises(ValueError, match="requires the clean prediction; connect the sampler's 'denoised_output'"):
            call(NODE["StageTransition"], latent, noise, FREE, "low", None, random_lift("HW"))

    def test_methods_and_clips(self, vae, folder):
        with pytest.raises(ValueError, match="unknown method 'x'; expected auto, linear, pixels, none"):
            call(NODE["LiftFromVAE"], vae, "x")
        with pytest.raises(ValueError, match="connect clips, or set method to 'auto'"):
            call(NODE["LiftFromVAE"], vae, "linear")
        with pytest.raises(ValueError, match="clips of 64x64 pixels are too small to fit a lift on; use 128x128 or more"):
            call(NODE["LiftFromVAE"], vae, "linear", torch.rand(17, 64, 64, 3))
        with pytest.raises(ValueError, match="a pyramid of 1 stage has no transition"):
            call(NODE["LiftFromVAE"], vae, "auto", None, PRESETS["plain"])
        with pytest.raises(ValueError, match="a lift requires the VAE of a Wan model"):
            call(NODE["LiftFromVAE"], comfy.sd.VAE(sd=taesd()), "auto")


def taesd():
    """Return the weights of ComfyUI's smallest image VAE."""
    from comfy.taesd.taesd import TAESD

    model = TAESD(latent_channels=4)
    parts = {"taesd_encoder": model.taesd_encoder, "taesd_decoder": model.taesd_decoder}
    return {f"{name}.{key}": value for name, part in parts.items() for key, value in part.state_dict().items()}


def vae_of_5b():
    """Return a tiny VAE of Wan 2.2 5B. ComfyUI's loader has the widths of the released one as constants."""
    import comfy.ldm.wan.vae2_2 as module

    from tiny_wan.encoders import VAE22_CONFIG, vae22_state_dict

    released = module.WanVAE
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "WanVAE", lambda **settings: released(**{**settings, **VAE22_CONFIG}))
        return comfy.sd.VAE(sd=vae22_state_dict())


@pytest.fixture(scope="module")
def vae():
    return comfy.sd.VAE(sd=vae_state_dict(dim=4))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setitem(folder_paths.folder_names_and_paths, FOLDER, ([str(tmp_path / "lifts")], set()))
    return tmp_path / "lifts"


def fit(vae, *, clips, frames=9):
    """Fit on a few small clips."""
    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        for name, value in {"CLIPS": clips, "STILLS": clips, "SIDE": 8, "LENGTH": frames}.items():
            patch.setattr(fitting, name, value)
        return choice.LiftFile(digest_of(vae), 16, fitting.fit_axes(vae, ["THW", "HW"], None))


@pytest.fixture(scope="module")
def fitted(vae):
    return fit(vae, clips=5)


@pytest.mark.one_version
def test_a_fitted_map_beats_the_resize_on_clips_that_it_has_not_seen():
    """Both directions, against an encode of a new clip at both sizes."""
    vae = comfy.sd.VAE(sd=comfy.utils.load_torch_file(str(ROOT / "tiny_wan" / "weights" / "tiny_wan_vae.safetensors")))
    fitted = fit(vae, clips=10, frames=17)
    clip = fitting.dead_leaves(seed=1000, frames=17, height=64, width=64)
    small = fitting.area_resize(clip, height=32, width=32)
    large_latent, small_latent = encode(vae, clip), encode(vae, small)
    haar, lift = make_resize("haar", "HW"), fitted.as_lift()
    lifted = (lift.lifts["HW"](small_latent, size_of(large_latent)) - large_latent).square().mean()
    dropped = (lift.down(large_latent, "HW") - small_latent).square().mean()
    assert lifted < 0.9 * (haar.up(small_latent) - large_latent).square().mean()
    assert dropped < 0.9 * (haar.down(large_latent) - small_latent).square().mean()
    for axes in ("THW", "HW"):
        for fitted_map in (fitted.axes[axes].lift, fitted.axes[axes].drop):
            assert fitted_map.rest.fitted < fitted_map.rest.resize


def test_a_file_round_trips(fitted, folder):
    path = folder / "x.safetensors"
    write_lift(path, fitted)
    read = read_lift(path)
    assert read.vae == fitted.vae and read.channels == 16 and read.name == fitted.name
    for axes, maps in fitted.axes.items():
        for direction in ("lift", "drop"):
            before, after = getattr(maps, direction), getattr(read.axes[axes], direction)
            assert torch.equal(before.linear.first, after.linear.first) and torch.equal(before.linear.rest, after.linear.rest)
            assert before.linear.ratios == after.linear.ratios and before.first == after.first and before.rest == after.rest
    assert [path.name for path in folder.iterdir()] == ["x.safetensors"]


@pytest.mark.one_version
def test_the_node_fits_once_and_keeps_the_lift(vae, folder, monkeypatch):
    for name, value in {"CLIPS": 5, "STILLS": 5, "SIDE": 8}.items():
        monkeypatch.setattr(fitting, name, value)
    first, text = call(NODE["LiftFromVAE"], vae, "auto", None, FREE)
    assert text.startswith("fitted, and kept as models/pyramidal_lifts/") and "5 rendered clips, 5 rendered frames" in text
    assert "frame 0" in text and "other frames" in text and set(first.lifts) == {"HW"}
    again, text = call(NODE["LiftFromVAE"], vae, "auto", None, FREE)
    assert text.startswith("loaded from models/pyramidal_lifts/")
    assert torch.equal(again.lifts["HW"].rest, first.lifts["HW"].rest)
    wider, _ = call(NODE["LiftFromVAE"], vae, "auto", None, IN_TIME)
    assert set(wider.lifts) == {"HW", "THW"} and torch.equal(wider.lifts["HW"].rest, first.lifts["HW"].rest)
    video = torch.rand(34, 64, 128, 3, generator=torch.Generator().manual_seed(0))
    given, text = call(NODE["LiftFromVAE"], vae, "linear", video, FREE)
    assert "4 given clips, 1 rendered clips" in text and not torch.equal(given.lifts["HW"].rest, first.lifts["HW"].rest)
    assert call(NODE["LiftFromVAE"], vae, "linear", video, FREE)[1].startswith("loaded from")
    assert len(list(folder.iterdir())) == 1


@pytest.mark.one_version
def test_auto_fits_a_map_for_every_scale_that_it_chooses_from(vae, folder, monkeypatch):
    for name, value in {"CLIPS": 5, "STILLS": 5, "SIDE": 8, "LENGTH": 5}.items():
        monkeypatch.setattr(fitting, name, value)
    lift, text = call(NODE["LiftFromVAE"], vae, "auto")
    assert set(lift.lifts) == set(lift.drops) == {"HW", "HW 2/3", "HW 3/4"} and "HW 2/3, fitted on 5 rendered clips" in text
    clean = encode(vae, fitting.dead_leaves(seed=3, frames=5, height=96, width=96))
    for axes, side in (("HW", 6), ("HW 2/3", 8), ("HW 3/4", 10)):  # nine at three quarters, in whole patches
        assert lift.down(clean, axes).shape == (1, 16, 2, side, side)
    assert lift.lifts["HW 2/3"](lift.down(clean, "HW 2/3"), (2, 12, 12)).shape == clean.shape
    kept = read_lift(next(folder.iterdir())).as_lift()
    assert torch.equal(kept.lifts["HW 3/4"].rest, lift.lifts["HW 3/4"].rest)


@pytest.mark.one_version
@pytest.mark.parametrize(
    ("flat", "expected"), [(1.0, "10 rendered clips, 10 rendered frames"), (-1.0, "15 rendered clips, 15")]
)
def test_the_fit_ends_when_more_clips_are_of_no_use(vae, monkeypatch, flat, expected):
    for name, value in {"CLIPS": 15, "STILLS": 15, "SIDE": 4, "LENGTH": 5, "FLAT": flat}.items():
        monkeypatch.setattr(fitting, name, value)
    fitted = fitting.fit_axes(vae, ["HW"], None)["HW"]
    assert fitted.fitted_on.startswith(expected)


def test_the_way_through_the_pixels_is_judged_as_on_all_pairs(monkeypatch):
    """A function that errs like the map must get the map's error, though only the first pairs, the easiest ones, try it."""
    monkeypatch.setattr(fitting, "REFERENCES", 2)
    generator, resize = torch.Generator().manual_seed(0), make_resize("haar", "HW")
    fit = fitting.RunningFit(ridge=1e-3)
    pairs = []
    for index in range(8):
        small = torch.randn(1, 4, 3, 4, 4, generator=generator)
        large = resize.up(small) + (index + 1) * torch.randn(1, 4, 3, 8, 8, generator=generator)
        pairs.append((small, large))
        fit.add(small, large, held_out=False)
        fit.add(small, large, held_out=True)
    solved = fit.solve()
    made = fitting._with_references(solved, pairs, ResizeLift(resize), solved[0])
    for errors in (made.first, made.rest):
        assert errors.pixels == pytest.approx(errors.fitted, rel=1e-4)
        assert errors.resize == pytest.approx(sum(i * i for i in range(1, 9)) / 8, rel=0.2)
    broken = FunctionLift(lambda clean, size: clean.new_full((*clean.shape[:2], *size), NAN))
    with pytest.raises(ValueError, match="the VAE decodes a clip to NaN or infinity; load another file"):
        fitting._with_references(solved, pairs, ResizeLift(resize), broken)


@pytest.mark.one_version
def test_the_pixel_lift_decodes_resizes_and_encodes(vae):
    lift, text = call(NODE["LiftFromVAE"], vae, "pixels")
    clean = encode(vae, fitting.dead_leaves(seed=3, frames=9, height=64, width=64))
    video = vae.decode(clean)[0]
    video = torch.nn.functional.interpolate(video.movedim(-1, 1), (128, 128), mode="bicubic").clamp(0, 1).movedim(1, -1)
    torch.testing.assert_close(lift.everywhere(clean, (3, 16, 16)), vae.encode(video), atol=1e-4, rtol=1e-4)
    both = torch.cat([clean, clean.flip(-1)])
    torch.testing.assert_close(lift.everywhere(both, (5, 16, 16))[:1], lift.everywhere(clean, (5, 16, 16)))
    assert lift.down(both, "THW").shape == (2, 16, 2, 4, 4) and "nothing is fitted" in text
    assert lift.down(both, "HW 3/4").shape == (2, 16, 3, 6, 6)


@pytest.mark.parametrize("frames", [1, 5, 17])
@pytest.mark.parametrize("kind", ["Wan 2.1", "Wan 2.2 5B"])
def test_clips_have_the_same_latents_together_as_alone(vae, kind, frames):
    vae = vae if kind == "Wan 2.1" else vae_of_5b()
    clips = torch.rand(3, frames, 32, 64, 3, generator=torch.Generator().manual_seed(0))
    together = encode_clips(vae, clips)
    assert together.shape[2] == (frames - 1) // 4 + 1
    torch.testing.assert_close(together, torch.cat([encode(vae, clip) for clip in clips]), atol=1e-4, rtol=1e-4)


def test_a_video_larger_than_the_memory_is_tiled(vae, monkeypatch):
    """ComfyUI's estimates decide; its tiles blend to nearly the same latent."""
    clip = fitting.dead_leaves(seed=3, frames=5, height=640, width=64)
    whole = encode(vae, clip)
    monkeypatch.setattr(vae, "memory_used_encode", lambda shape, dtype: 1e18)
    monkeypatch.setattr(type(vae), "encode", None)
    tiled = encode(vae, clip)
    assert tiled.shape == whole.shape and not torch.equal(tiled, whole)
    torch.testing.assert_close(tiled[..., :40, :], whole[..., :40, :], atol=0.2, rtol=0.2)


@pytest.mark.one_version
def test_a_vae_of_16_pixels_and_48_channels_gets_larger_clips(folder, monkeypatch):
    vae = vae_of_5b()
    for name, value in {"CLIPS": 5, "STILLS": 5, "SIDE": 4}.items():
        monkeypatch.setattr(fitting, name, value)
    lift, _ = call(NODE["LiftFromVAE"], vae, "auto", None, FREE)
    assert lift.channels == 48 and lift.lifts["HW"](torch.randn(1, 48, 3, 4, 4), (3, 8, 8)).shape == (1, 48, 3, 8, 8)
    assert [path.stem for path in kept_files(48, {"HW"})] == [digest_of(vae)] and not kept_files(16, {"HW"})
    with pytest.raises(ValueError, match="clips of 48x48 pixels are too small to fit a lift on; use 64x64 or more"):
        call(NODE["LiftFromVAE"], vae, "linear", torch.rand(17, 48, 48, 3))


def test_resizing_in_time_interpolates_and_takes_every_second_frame():
    video = torch.rand(5, 4, 4, 3, generator=torch.Generator().manual_seed(0))
    longer = resize_video(video, frames=9, height=4, width=4)
    torch.testing.assert_close(longer[::2], video)
    torch.testing.assert_close(longer[1::2], (video[1:] + video[:-1]) / 2)
    torch.testing.assert_close(resize_video(longer, frames=5, height=4, width=4), video)


class TestKeptLifts:
    """A sampler without a lift uses the only one that is kept for its latents."""

    def sample(self, model, lift, spec=FREE):
        return one_node(model, prompt(1), prompt(2), spec, "1-" * (spec.number_of_stages - 1) + "1", lift, empty())[0][
            "samples"
        ]

    def test_the_only_one_is_used_by_stock_weights(self, t2v_model, fitted, folder):
        none = VideoLift("none", 16)
        before = self.sample(t2v_model, None)
        write_lift(path_for(fitted.vae), fitted)
        with_kept = self.sample(t2v_model, None)
        assert torch.equal(with_kept, self.sample(t2v_model, fitted.as_lift()))
        assert torch.equal(before, self.sample(t2v_model, none)) and not torch.equal(before, with_kept)
        assert choice.choose_lift(None, t2v_model, FREE)[1] == f"lift: {fitted.name}"

    def test_finetuned_weights_never_use_one(self, t2v_model, fitted, folder):
        spec = PRESETS["pyramidal-wan"]
        before = self.sample(t2v_model, None, spec)
        write_lift(path_for(fitted.vae), fitted)
        assert torch.equal(self.sample(t2v_model, None, spec), before)
        assert not torch.equal(self.sample(t2v_model, fitted.as_lift(), spec), before)

    def test_two_are_not_chosen_between(self, t2v_model, fitted, folder):
        for name in ("a", "b"):
            write_lift(folder / f"{name}.safetensors", fitted)
        lift, text = choice.choose_lift(None, t2v_model, FREE)
        assert lift is None and text == (
            "no lift: models/pyramidal_lifts has 2 for latents of 16 channels; connect 'Pyramidal Lift from VAE' to choose"
        )

    def test_files_for_other_latents_or_pyramids_and_damaged_ones_are_not_used(self, fitted, folder):
        write_lift(folder / "a.safetensors", fitted)
        (folder / "b.safetensors").write_bytes(b"not a file")
        save_file({"x": torch.ones(1)}, folder / "c.safetensors")
        assert kept_files(48, {"HW"}) == [] and kept_files(16, {"HW", "other"}) == []
        assert [path.name for path in kept_files(16, {"HW", "THW"})] == ["a.safetensors"]

    def test_pyramidal_model_says_which_lift_runs(self, t2v_model, fitted, folder):
        from pyramidalwan.samplers.any_sampler import pyramidal_model

        write_lift(path_for(fitted.vae), fitted)
        said = []
        model = pyramidal_model(t2v_model, None, said.append)
        nodes.common_ksampler(model, 5, 2, 1.0, "euler", "simple", prompt(1), prompt(2), empty())
        assert said[0].endswith(f"\nlift: {fitted.name}")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"not a file", "the lift 'x.safetensors' cannot be read"),
        ({}, "the file 'x.safetensors' is not a fitted lift: it has no 'pyramidal_lift'"),
        ({"format": 9}, "is damaged .file format 9; this version reads format 1."),
        ({"channels": 48}, "is damaged .file format: maps of other than 48 channels."),
        ({"axes": {"HW": {}}}, "is not a fitted lift: it has no 'lift'"),
        ({"axes": 3}, "is damaged"),
    ],
)
def test_a_broken_file_is_one_sentence(fitted, folder, content, message):
    path = folder / "x.safetensors"
    write_lift(path, fitted)
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        with safe_open(path, framework="pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dict
            values = json.loads(file.metadata()["pyramidal_lift"])
        save_file(tensors, path, {"pyramidal_lift": json.dumps({**values, **content})} if content else None)
    with pytest.raises(ValueError, match=message) as caught:
        read_lift(path)
    assert "\n" not in str(caught.value) and "fits it again" in str(caught.value)


def test_weights_that_are_not_finite_are_rejected(fitted, folder):
    maps = fitted.axes["HW"]
    linear = dataclasses.replace(maps.lift.linear, rest=torch.full_like(maps.lift.linear.rest, float("nan")))
    axes = {"HW": dataclasses.replace(maps, lift=dataclasses.replace(maps.lift, linear=linear))}
    path = folder / "x.safetensors"
    write_lift(path, fitted)
    before = path.read_bytes()
    with pytest.raises(ValueError, match="^this lift cannot be kept: HW.lift holds NaN or infinity$"):
        write_lift(path, dataclasses.replace(fitted, axes=axes))
    assert path.read_bytes() == before
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    save_file({**load_file(path), "HW.lift.rest": linear.rest.contiguous()}, path, metadata)
    with pytest.raises(ValueError, match="HW.lift holds NaN or infinity"):
        read_lift(path)


def test_a_lift_whose_errors_are_no_numbers_is_not_kept(fitted, folder):
    maps = fitted.axes["HW"]
    errors = dataclasses.replace(maps.lift.rest, pixels=NAN)
    axes = {"HW": dataclasses.replace(maps, lift=dataclasses.replace(maps.lift, rest=errors))}
    with pytest.raises(ValueError, match="^this lift cannot be kept: its description is not valid JSON: NaN is not a number$"):
        write_lift(folder / "x.safetensors", dataclasses.replace(fitted, axes=axes))
    assert not folder.exists() or not list(folder.iterdir())


def test_the_digest_depends_on_the_encoder_alone_and_not_on_the_precision(vae):
    state = vae_state_dict(dim=4)
    decoder = next(key for key in state if key.startswith("decoder.") and state[key].ndim > 1)
    encoder = next(key for key in state if key.startswith("encoder.") and state[key].ndim > 1)
    others = {
        "decoder": {**state, decoder: state[decoder] + 1},
        "precision": {key: value.bfloat16() for key, value in state.items()},
        "encoder": {**state, encoder: state[encoder] + 1},
    }
    digests = {name: digest_of(comfy.sd.VAE(sd=other)) for name, other in others.items()}
    assert digests["decoder"] == digests["precision"] == digest_of(vae) != digests["encoder"]


def test_a_cancelled_fit_keeps_nothing(vae, folder):
    comfy.model_management.interrupt_current_processing()
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        call(NODE["LiftFromVAE"], vae, "auto")
    assert not folder.exists()


def test_a_map_of_the_file_is_a_linear_map(fitted):
    assert all(isinstance(lift, LinearMap) for lift in fitted.as_lift().lifts.values())
