"""Conditioning is fitted to every stage, or rejected with a clear error."""

import pytest
import torch
from comfy.patcher_extension import WrappersMP
from comfyui_graph import empty, guider, prompt
from comfyui_images import animate_model, image_prompt

from pyramidalwan.pyramid.latent_shape import LatentShape
from pyramidalwan.pyramid.schedules import stage_levels
from pyramidalwan.pyramid.stages import PRESETS, PyramidSpec
from pyramidalwan.samplers.comfyui.conditioning import halve_latent, stage_conds
from pyramidalwan.samplers.comfyui.half_rate import halve_mask
from pyramidalwan.samplers.noise import SeedNoise
from pyramidalwan.samplers.run import PyramidRun
from pyramidalwan.samplers.supported_samplers import make_sampler

WAN = PRESETS["pyramidal-wan"]


def sample(model, spec, positive, latent=None, steps=None):
    levels = stage_levels(spec, steps or (2,) * spec.number_of_stages)
    run = PyramidRun(guider(model, 1.0, positive, positive), SeedNoise(1), make_sampler("euler"), levels, spec)
    return run.sample(latent or empty())


def seen_images(model, spec, positive):
    """Return the mask and image that the network receives in each stage, by frames and height."""
    watched, seen = model.clone(), {}

    def watch(executor, x, *args, **kwargs):
        seen[x.shape[2], x.shape[3]] = x[:, 16:20].clone(), x[:, 20:].clone()
        return executor(x, *args, **kwargs)

    watched.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "watch", watch)
    result = sample(watched, spec, positive)
    assert torch.isfinite(result.output["samples"]).all()
    return seen


@pytest.mark.parametrize("channels", [1, 4])
def test_image_and_mask_have_the_size_of_every_stage(i2v_model, channels):
    positive = image_prompt(channels=channels)
    seen = seen_images(i2v_model, WAN, positive)
    assert set(seen) == {(2, 4), (3, 8), (5, 16)}
    full = i2v_model.model.process_latent_in(positive[0][1]["concat_latent_image"].clone())
    torch.testing.assert_close(seen[5, 16][1], full)
    blocks = full.reshape(1, 16, 5, 8, 2, 8, 2).mean((4, 6))
    torch.testing.assert_close(seen[3, 8][1], blocks[:, :, [0, 2, 4]])  # the first frame, and the later one of each pair
    torch.testing.assert_close(seen[2, 4][1], blocks[:, :, [0, 4]].reshape(1, 16, 2, 4, 2, 4, 2).mean((4, 6)))
    for (frames, _), (mask, _image) in seen.items():
        assert mask[:, :, 0].min() == 1 and mask[:, :, 1:].max() == 0 and mask.shape[2] == frames


def test_a_given_last_frame_stays_given_in_every_stage(i2v_model):
    positive = image_prompt(channels=4)
    positive[0][1]["concat_mask"][:, 3, -1] = 0  # the last of the four video frames of the last latent frame
    seen = seen_images(i2v_model, WAN, positive)
    for mask, _ in seen.values():
        assert mask[0, :, -1, 0, 0].tolist() == [0, 0, 0, 1]
        assert mask[0, :, 0].min() == 1


def test_a_halved_mask_keeps_every_second_video_frame():
    pixels = torch.arange(16.0).reshape(1, 4, 4, 1, 1).permute(0, 2, 1, 3, 4)  # latent frames 1..4 with video frames 0..15
    mask = torch.cat([torch.full((1, 4, 1, 1, 1), -1.0), pixels], dim=2)
    halved = halve_mask(mask)
    assert halved.shape == (1, 4, 3, 1, 1)
    assert halved[0, :, 1, 0, 0].tolist() == [1, 3, 5, 7] and halved[0, :, 2, 0, 0].tolist() == [9, 11, 13, 15]
    latent = torch.arange(5.0).reshape(1, 1, 5, 1, 1).expand(1, 1, 5, 3, 3)
    assert halve_latent(latent, "THW")[0, 0, :, 0, 0].tolist() == [0, 2, 4]
    assert halve_latent(latent, "THW").shape[-2:] == (3, 3)  # odd sides are left to ComfyUI


def test_a_pose_video_has_no_frame_for_the_reference_image():
    """Frame 0 of Animate's latent is the reference image; frame 1 of the pose video goes with frame 2 of the latent."""
    pose = torch.arange(1.0, 5.0).reshape(1, 1, 4, 1, 1).expand(1, 16, 4, 8, 8)
    low = PyramidSpec((0.9,), ("THW",)).stages(LatentShape(5, 8, 8))[0]
    (made,) = stage_conds({"positive": [{"pose_video_latent": pose}]}, LatentShape(5, 8, 8), low, ("THW",))["positive"]
    assert made["pose_video_latent"].shape == (1, 16, 2, 4, 4)
    assert (made["pose_video_latent"][0, 0, :, 0, 0] / made["pose_video_latent"][0, 0, 0, 0, 0]).tolist() == [1.0, 2.0]


@pytest.mark.parametrize("frames", [5, 3], ids=["whole", "ends early"])
def test_the_masks_of_scail_have_the_frames_of_its_poses_and_references(frames):
    """Their channels are four video frames of seven colours; every second video frame stays, as in other masks."""
    low, full = PyramidSpec((0.9,), ("THW",)).stages(LatentShape(5, 8, 8))[0], LatentShape(5, 8, 8)
    times = torch.cat([torch.zeros(4), torch.arange(4.0 * (frames - 1))]).reshape(1, frames, 4, 1, 1, 1)
    driving = (times + 100 * torch.arange(7.0).reshape(7, 1, 1)).reshape(1, frames, 28, 1, 1).expand(-1, -1, -1, 4, 4)
    references = torch.cat([torch.full((1, 2, 28, 8, 8), 7.0), torch.zeros(1, 5, 28, 8, 8)], dim=1)
    cond = {
        "pose_video_latent": torch.randn(1, 16, frames, 4, 4), "driving_mask_28ch": driving, "ref_mask_28ch": references,
    }  # fmt: skip
    (made,) = stage_conds({"positive": [cond]}, full, low, ("THW",))["positive"]
    kept = (frames + 1) // 2
    assert made["pose_video_latent"].shape == (1, 16, kept, 2, 2) and made["driving_mask_28ch"].shape == (1, kept, 28, 2, 2)
    assert made["driving_mask_28ch"][0, 1, ::7, 0, 0].tolist() == [1, 3, 5, 7]
    assert made["driving_mask_28ch"][0, 1, :7, 0, 0].tolist() == [1 + 100 * colour for colour in range(7)]
    assert made["ref_mask_28ch"].shape == (1, 2 + 3, 28, 4, 4)
    assert made["ref_mask_28ch"][0, :, 0, 0, 0].tolist() == [7, 7, 0, 0, 0]


def test_scail_2_runs_with_half_the_frames():
    import comfy.sd

    from tiny_wan.variants import VARIANTS, is_known, state_dict

    if not is_known(VARIANTS["scail2"]):
        pytest.skip("this ComfyUI has no SCAIL 2")
    model = comfy.sd.load_diffusion_model_state_dict(state_dict(VARIANTS["scail2"]))
    scail = {
        "pose_video_latent": torch.randn(1, 16, 3, 8, 8), "driving_mask_28ch": torch.ones(1, 3, 28, 8, 8),
        "reference_latents": [torch.randn(1, 16, 1, 16, 16)], "ref_mask_28ch": torch.ones(1, 1 + 5, 28, 16, 16),
        "ref_mask_flag": True,
    }  # fmt: skip
    made = sample(model, PyramidSpec((0.9,), ("THW",)), prompt(1, **scail), steps=(1, 1))
    assert torch.isfinite(made.output["samples"]).all()


@pytest.mark.parametrize("axes", ["HW", "HW 3/4", "THW 2/3"])
def test_a_mask_of_given_frames_covers_the_same_part_of_the_picture_in_every_stage(axes):
    """The left half is given; ComfyUI would scale the mask to the stage's height and crop it in the middle."""
    full = LatentShape(5, 24, 46) if axes == "HW 3/4" else LatentShape(5, 24, 48)
    mask = torch.ones(1, 4, *full)
    mask[..., : full.width // 2] = 0
    spec = PyramidSpec((0.9,), (axes,), resize="dct", field="natural", timestep_source="sigma", first_frame="shared")
    low = spec.stages(full)[0]
    made = stage_conds({"positive": [{"concat_mask": mask}]}, full, low, (axes,))["positive"][0]["concat_mask"]
    assert made.shape == (1, 4, *low.shape) and made.mean().item() == pytest.approx(0.5, abs=1e-6)
    columns = made.mean((0, 1, 2, 3)).tolist()
    assert columns == sorted(columns) and columns[0] == 0 and columns[-1] == 1


def test_conds_of_the_guider_stay_unchanged():
    conds = {
        "positive": [{"concat_latent_image": torch.randn(1, 16, 5, 8, 8), "concat_mask": torch.ones(1, 1, 5, 8, 8), "x": 1}]
    }
    image = conds["positive"][0]["concat_latent_image"].clone()
    low = PyramidSpec((0.9,), ("THW",)).stages(LatentShape(5, 8, 8))[0]
    made = stage_conds(conds, LatentShape(5, 8, 8), low, ("THW",))
    assert made["positive"][0]["concat_latent_image"].shape == (1, 16, 3, 4, 4)
    assert torch.equal(conds["positive"][0]["concat_latent_image"], image) and made["positive"][0]["x"] == 1


def test_an_image_of_another_length_raises_a_clear_error(i2v_model):
    with pytest.raises(ValueError, match="made for a different length"):
        sample(i2v_model, WAN, image_prompt(frames=9))


def test_an_image_model_runs_without_an_image(i2v_model):
    assert torch.isfinite(sample(i2v_model, WAN, prompt(1)).output["samples"]).all()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"control": object()}, "a ControlNet"),
        ({"area": (1, 16, 16, 0, 0, 0)}, "area in pixels"),
        ({"another_pack": torch.zeros(1, 3, 5, 4, 4)}, "'another_pack' with 5 frames"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_conditioning_that_cannot_be_resized_raises_a_clear_error(t2v_model, options, words):
    with pytest.raises(ValueError, match=words):
        sample(t2v_model, WAN, prompt(1, **options))


@pytest.mark.parametrize(
    "options",
    [
        {"area": ("percentage", 1.0, 0.5, 0.5, 0.0, 0.0, 0.5)},
        {"mask": torch.ones(1, 16, 16), "mask_strength": 0.7},
        {"reference_latents": [torch.randn(1, 16, 1, 16, 16)], "pooled_output": None},
    ],
    ids=["area", "mask", "reference"],
)
def test_conditioning_of_any_size_is_accepted(t2v_model, options):
    result = sample(t2v_model, WAN, prompt(1, **options))
    assert torch.isfinite(result.output["samples"]).all()


def test_one_stage_accepts_all_conditioning(t2v_model):
    result = sample(t2v_model, PRESETS["plain"], prompt(1, another_pack=torch.zeros(1, 3, 5, 4, 4)))
    assert torch.isfinite(result.output["samples"]).all()


def test_frames_are_only_checked_if_time_is_halved(t2v_model):
    sample(t2v_model, PRESETS["training-free"], prompt(1, another_pack=torch.zeros(1, 3, 5, 4, 4)))
    assert PyramidSpec().shapes(LatentShape(5, 16, 16))[0].frames == 2


HALF = PyramidSpec((0.8,), ("HW",), field="natural", timestep_source="sigma", first_frame="shared")
FULL = LatentShape(5, 16, 24)


def at_half_size(**options):
    """One cond as the low stage of an H x W pyramid gets it."""
    low = HALF.stages(FULL)[0]
    return stage_conds({"positive": [options]}, FULL, low, ("HW",))["positive"][0]


@pytest.mark.parametrize(
    ("key", "shape"),
    [
        ("control_video", (1, 16, 5, 16, 24)),
        ("pose_video_latent", (1, 16, 5, 8, 12)),  # SCAIL's poses have half the latent's size
        ("camera_conditions", (1, 24, 5, 128, 192)),  # in pixels
        ("time_dim_concat", (1, 16, 2, 16, 24)),
        ("a_model_of_next_year", (1, 7, 3, 16, 24)),
    ],
)
def test_whatever_covers_the_grid_is_averaged_with_it(key, shape):
    value = torch.randn(*shape, generator=torch.Generator().manual_seed(0))
    made = at_half_size(**{key: value})[key]
    assert made.shape == (*shape[:3], shape[3] // 2, shape[4] // 2)
    torch.testing.assert_close(made[..., 0, 0], value[..., :2, :2].mean(dim=(-2, -1)))


def test_reference_latents_of_the_same_size_follow_and_others_stay():
    same, other = torch.randn(1, 16, 1, 16, 24), torch.randn(1, 16, 1, 10, 24)
    made = at_half_size(reference_latents=[same, other])["reference_latents"]
    assert made[0].shape == (1, 16, 1, 8, 12) and made[1] is other


@pytest.mark.parametrize("key", ["face_video_pixels", "mask", "cross_attn"])
def test_what_has_no_grid_stays(key):
    value = torch.randn(1, 3, 5, 128, 192)
    assert at_half_size(**{key: value})[key] is value


def test_a_vace_mask_is_averaged_in_pixels():
    """A rectangle in pixels, folded into 8x8 blocks, equals the rectangle of half the size, folded."""

    def folded(height, width, box):
        pixels = torch.zeros(1, 5, height, width)
        pixels[:, :, box[0] : box[1], box[2] : box[3]] = 1
        blocks = pixels.reshape(1, 5, height // 8, 8, width // 8, 8).permute(0, 3, 5, 1, 2, 4)
        return blocks.reshape(1, 64, 5, height // 8, width // 8)

    made = at_half_size(vace_mask=[folded(128, 192, (20, 62, 34, 150))])["vace_mask"][0]
    assert torch.equal(made, folded(64, 96, (10, 31, 17, 75)))


def test_vace_frames_and_masks_reach_the_network_at_the_size_of_each_stage():
    """The frames, the mask and the latent that the VACE network sees agree in every stage."""
    import comfy.sd

    from tiny_wan.variants import VARIANTS, state_dict

    model = comfy.sd.load_diffusion_model_state_dict(state_dict(VARIANTS["vace"]))
    seen = []

    def record(executor, x, *args, vace_context, **kwargs):
        seen.append((tuple(x.shape[-2:]), tuple(vace_context.shape[-2:])))
        return executor(x, *args, vace_context=vace_context, **kwargs)

    model.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "record", record)
    vace = {"vace_frames": [torch.randn(1, 32, 5, 16, 16)] * 2, "vace_mask": [torch.ones(1, 64, 5, 16, 16)] * 2}
    made = sample(model, HALF, prompt(1, **vace, vace_strength=[1.0, 0.5]))
    assert torch.isfinite(made.output["samples"]).all()
    assert [shape for shape, _ in seen] == [shape for _, shape in seen] and {shape for shape, _ in seen} == {(8, 8), (16, 16)}


def test_pose_reference_and_background_of_animate_follow_and_faces_keep_their_size():
    """The latent, the pose and the image that the Animate network sees agree in every stage."""
    model, seen = animate_model(), []

    def record(executor, x, *args, **kwargs):
        seen.append((*x.shape[-2:], *kwargs["pose_latents"].shape[-2:], *kwargs["face_pixel_values"].shape[-2:]))
        return executor(x, *args, **kwargs)

    model.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "record", record)
    animate = {
        "concat_latent_image": torch.randn(1, 16, 3, 16, 16),
        "concat_mask": torch.ones(1, 4, 3, 16, 16),
        "pose_video_latent": torch.randn(1, 16, 2, 16, 16),
        "face_video_pixels": torch.rand(1, 3, 5, 512, 512) * 2 - 1,
    }
    made = sample(model, HALF, prompt(1, **animate), latent=empty(frames=3), steps=(1, 1))
    assert torch.isfinite(made.output["samples"]).all()
    assert set(seen) == {(8, 8, 8, 8, 512, 512), (16, 16, 16, 16, 512, 512)}
