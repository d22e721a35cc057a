"""What a network reads frame by frame follows a pyramid that halves the frame rate, or is rejected."""

import comfy.sd
import pytest
import torch
from comfy.ldm.wan.model_animate import FaceEncoder
from comfy.patcher_extension import WrappersMP
from comfy_extras import nodes_camera_trajectory, nodes_wan
from comfyui_graph import empty, guider, prompt
from comfyui_images import animate_model

from pyramidalwan.pyramid.latent_shape import LatentShape
from pyramidalwan.pyramid.schedules import stage_levels
from pyramidalwan.pyramid.stages import PRESETS, PyramidSpec
from pyramidalwan.samplers.comfyui.conditioning import check_conds, coarser_entry, halve_latent
from pyramidalwan.samplers.comfyui.model_objects import check_objects, stage_objects
from pyramidalwan.samplers.noise import SeedNoise
from pyramidalwan.samplers.run import PyramidRun
from pyramidalwan.samplers.supported_samplers import make_sampler
from tiny_wan.checkpoints import random_state_dict
from tiny_wan.variants import VARIANTS, is_known, shapes, state_dict

TIME = PyramidSpec((0.9,), ("THW",), field="natural", timestep_source="sigma", first_frame="shared")
FREE = PRESETS["training-free"]


def halved(key, value, frames, *, axes=("T",)):
    return coarser_entry(key, value, LatentShape(frames, 16, 16), axes)


def ramp(*shape, axis):
    """A tensor of a shape that counts along one axis."""
    counted = torch.arange(float(shape[axis])).reshape([-1 if index == axis else 1 for index in range(len(shape))])
    return counted.expand(shape)


def run(model, positive, *, frames=3, spec=TIME, side=16):
    levels = stage_levels(spec, (1,) * spec.number_of_stages)
    made = PyramidRun(guider(model, 1.0, positive, positive), SeedNoise(1), make_sampler("euler"), levels, spec)
    return made.sample(empty(frames, side, side)).output["samples"]


def tiny(variant):
    return comfy.sd.load_diffusion_model_state_dict(state_dict(VARIANTS[variant]))


def shapes_seen(model, names, positive, *, frames=3):
    """Run a model; return what its network got in each stage: the frames of the latent, and the sizes of the named inputs."""
    seen = []

    def record(executor, x, *args, **kwargs):
        seen.append((x.shape[2], *(tuple(kwargs[name].shape) for name in names)))
        return executor(x, *args, **kwargs)

    model.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "record", record)
    assert torch.isfinite(run(model, positive, frames=frames)).all()
    return seen


def of(node, *args, **kwargs):
    """The first output of a node of either kind."""
    made = node.execute(*args, **kwargs).args if hasattr(node, "execute") else getattr(node(), node.FUNCTION)(*args, **kwargs)
    return made[0]


class TestCamera:
    @pytest.mark.parametrize("pose", ["Pan Up", "Zoom In", "ClockWise (CW)"])
    @pytest.mark.parametrize("frames", [9, 3])
    def test_its_rays_are_those_of_half_the_frame_rate(self, pose, frames):
        """ComfyUI counts the path of n frames from 0 to (n - 1) / n, so the same path in fewer frames is a bit faster."""
        many, few = 4 * (frames - 1) + 1, 4 * ((frames + 1) // 2 - 1) + 1

        def rays(count, speed):
            return of(nodes_camera_trajectory.WanCameraEmbedding, pose, 64, 64, count, speed, 0.5, 0.5, 0.5, 0.5)

        made = halved("camera_conditions", rays(many, 1.0), frames)
        torch.testing.assert_close(made, rays(few, 2 * few / many), atol=1e-5, rtol=1e-5)
        assert not torch.equal(made[:, :, 1:], rays(many, 1.0)[:, :, 2::2])

    def test_each_stage_of_a_camera_model_gets_them(self):
        camera = torch.randn(1, 24, 3, 128, 128)
        seen = shapes_seen(tiny("camera"), ["camera_conditions"], prompt(1, camera_conditions=camera))
        assert seen == [(2, (1, 24, 2, 64, 64)), (3, (1, 24, 3, 128, 128))]


class TestAudio:
    @pytest.mark.parametrize("length", [17, 81])
    def test_the_windows_of_humo_are_those_of_every_second_audio_frame(self, length):
        frames = (length - 1) // 4 + 1
        audio = torch.randn(length, 5, 8)
        full = nodes_wan.get_audio_emb_window(audio, length, frame0_idx=0)[0][None]
        made = halved("audio_embed", full, frames)
        assert torch.equal(made, nodes_wan.get_audio_emb_window(audio[::2], (length + 1) // 2, frame0_idx=0)[0][None])
        twice = halved("audio_embed", full, frames, axes=("T", "T"))
        assert torch.equal(twice, nodes_wan.get_audio_emb_window(audio[::4], (length + 3) // 4, frame0_idx=0)[0][None])

    def test_only_the_two_frames_of_audio_after_the_video_are_unknown(self):
        audio = torch.randn(40, 5, 8)
        full = nodes_wan.get_audio_emb_window(audio, 17, frame0_idx=0)[0][None]
        right = nodes_wan.get_audio_emb_window(audio[::2], 9, frame0_idx=0)[0][None]
        made = halved("audio_embed", full, 5)
        assert torch.equal(made[:, :-1], right[:, :-1]) and torch.equal(made[:, -1, :-1], right[:, -1, :-1])
        assert torch.equal(made[0, -1, -1], audio[18])

    def test_windows_after_the_video_stay(self):
        """ComfyUI's node gives one more where no audio is connected."""
        windows = torch.cat([torch.zeros(1, 5, 8, 5, 4), torch.ones(1, 1, 8, 5, 4)], dim=1)
        assert halved("audio_embed", windows, 5).mean(dim=(0, 2, 3, 4)).tolist() == [0, 0, 0, 1]

    def test_audio_of_s2v_has_every_second_of_the_eight_frames_of_a_pair(self):
        made = halved("audio_embed", ramp(1, 25, 6, 20, axis=3), 5)
        assert made.shape == (1, 25, 6, 12) and made[0, 0, 0].tolist() == [0, 1, 2, 3, 5, 7, 9, 11, 13, 15, 17, 19]
        assert torch.equal(halved("audio_embed", ramp(1, 25, 6, 23, axis=3), 5), made)

    def test_audio_is_never_resized_in_space(self):
        """Its two last axes may have the ratio of the video's sides."""
        audio = torch.randn(1, 25, 128, 128)
        assert coarser_entry("audio_embed", audio, LatentShape(32, 16, 16), ["HW"]) is audio

    def test_music_of_wandancer_stays_because_its_network_stretches_it(self):
        music = torch.randn(1, 17, 35)
        check_conds({"positive": [{"audio_embed": music}]}, LatentShape(5, 16, 16), TIME.stages(LatentShape(5, 16, 16)))
        assert halved("audio_embed", music, 5) is music

    def test_wandancer_runs(self):
        if not is_known(VARIANTS["dancer"]):
            pytest.skip("this ComfyUI has no WanDancer")
        seen = shapes_seen(tiny("dancer"), ["audio_embed"], prompt(1, audio_embed=torch.randn(1, 9, 35), fps=30.0))
        assert seen == [(2, (1, 9, 35)), (3, (1, 9, 35))]

    def test_s2v_runs_with_half_the_frames_of_everything(self):
        positive = prompt(
            1,
            audio_embed=torch.randn(1, 25, 1024, 12),
            reference_latents=[torch.randn(1, 16, 1, 16, 16)],
            reference_motion=torch.randn(1, 16, 19, 16, 16),
            control_video=torch.randn(1, 16, 3, 16, 16),
        )
        names = ["audio_embed", "reference_motion", "control_video"]
        assert shapes_seen(tiny("s2v"), names, positive) == [
            (2, (1, 25, 1024, 8), (1, 16, 10, 8, 8), (1, 16, 2, 8, 8)),
            (3, (1, 25, 1024, 12), (1, 16, 19, 16, 16), (1, 16, 3, 16, 16)),
        ]

    def test_humo_runs_with_half_the_windows(self):
        windows = torch.randn(1, 3, 8, 5, 1280)
        positive = prompt(1, audio_embed=windows, reference_latents=[torch.randn(1, 16, 1, 16, 16)])
        assert shapes_seen(tiny("humo"), ["audio_embed"], positive) == [(2, (1, 2, 8, 5, 1280)), (3, (1, 3, 8, 5, 1280))]


@pytest.mark.parametrize(("count", "kept"), [(19, range(0, 19, 2)), (4, [1, 3]), (1, [0])])
def test_motion_before_the_video_is_counted_back_from_its_end(count, kept):
    """S2V places frame -1 just before the video."""
    made = halved("reference_motion", ramp(1, 16, count, 16, 16, axis=2), 5)
    assert made[0, 0, :, 0, 0].tolist() == list(kept)


class TestFaces:
    @pytest.mark.parametrize("pairs", [1, 2, 5])
    def test_those_of_a_pair_end_with_its_last_video_frame(self, pairs):
        """The latest face that Animate's encoder reads for a coarse latent frame is that for the later frame of its pair."""
        frames = 2 * pairs + 1  # the reference image and pairs
        faces = torch.randn(1, 4 * (frames - 2) + 1, 8, dtype=torch.double, requires_grad=True)
        encoder = FaceEncoder(in_dim=8, hidden_dim=8, num_heads=1, dtype=torch.double, operations=torch.nn)
        torch.nn.init.ones_(encoder.padding_tokens)

        def latest(tokens):
            """The latest face that each token depends on; reference images have no token."""
            gradients = [torch.autograd.grad(token[0].square().sum(), faces, retain_graph=True)[0] for token in tokens[0]]
            return [gradient[0].any(dim=-1).nonzero().max().item() for gradient in gradients]

        with torch.enable_grad():
            coarse = halved("face_video_pixels", faces.movedim(1, 2)[..., None, None], frames)[..., 0, 0].movedim(2, 1)
            assert len(latest(encoder(coarse))) == pairs
            assert latest(encoder(coarse)) == latest(encoder(faces))[1::2]
        assert torch.equal(coarse[:, -1], faces[:, -1]) and torch.equal(coarse[:, 1:2], faces[:, 6:7])

    def test_one_face_stays(self):
        face = torch.randn(1, 3, 1, 8, 8)
        assert torch.equal(halved("face_video_pixels", face, 5), face)

    def test_animate_runs_with_half_the_faces_and_poses(self):
        positive = prompt(
            1,
            concat_latent_image=torch.randn(1, 16, 5, 16, 16),
            concat_mask=torch.ones(1, 4, 5, 16, 16),
            pose_video_latent=torch.randn(1, 16, 4, 16, 16),
            face_video_pixels=torch.rand(1, 3, 13, 512, 512) * 2 - 1,
        )
        seen = shapes_seen(animate_model(), ["pose_latents", "face_pixel_values"], positive, frames=5)
        assert seen == [(3, (1, 16, 2, 8, 8), (1, 3, 5, 512, 512)), (5, (1, 16, 4, 16, 16), (1, 3, 13, 512, 512))]


class TestModelObjects:
    def objects(self, value, key):
        full = LatentShape(5, 16, 16)
        check_objects({key: value}, full, TIME.stages(full))
        return stage_objects({key: value}, full, ("THW",))[0][key]

    @pytest.mark.parametrize(("count", "kept"), [(1, [0]), (2, [0]), (3, [0, 2]), (5, [0, 2, 4])])
    def test_motion_frames_of_infinitetalk_are_the_first_of_the_video(self, count, kept):
        made = self.objects(ramp(1, 16, count, 16, 16, axis=2), "motion_frames_latent")
        assert made.shape == (1, 16, len(kept), 8, 8)
        assert (made[0, 0, :, 0, 0] / max(1, made[0, 0, -1, 0, 0])).tolist() == [index / max(1, kept[-1]) for index in kept]

    def test_a_lift_gets_whole_pairs(self):
        """A map fitted on latents with frame 0 and pairs cannot take a frame without its pair."""
        seen = []

        def down(latent, axes):
            seen.append((LatentShape(*latent.shape[2:]).coarser(axes), axes))
            return halve_latent(latent, axes)

        coarser_entry("motion_frames_latent", torch.randn(1, 16, 4, 16, 16), FULL, ["THW"], down)
        assert seen == [(LatentShape(2, 8, 8), "THW")]

    def test_its_audio_has_the_later_frame_of_each_pair(self):
        assert self.objects(ramp(1, 5, 32, 768, axis=1), "audio_embeds")[0, :, 0, 0].tolist() == [0, 2, 4]

    def test_the_camera_video_of_uni3c_has_every_second_frame(self):
        assert self.objects(ramp(17, 64, 64, 3, axis=0), "render_video")[:, 0, 0, 0].tolist() == list(range(0, 17, 2))

    @pytest.mark.parametrize("shape", [(1, 5, 32, 768), (1, 17, 768), (17, 128, 128, 3), (1, 16, 2, 16, 16)])
    def test_others_are_rejected(self, shape):
        with pytest.raises(ValueError, match="the MODEL carries 'other' from another node, which .* cannot resize in time"):
            self.objects(torch.zeros(shape, device="meta"), "other")

    def test_each_stage_of_infinitetalk_gets_them(self):
        multitalk = pytest.importorskip("comfy.ldm.wan.model_multitalk", reason="this ComfyUI has no InfiniteTalk")
        model, patch = tiny("i2v_wide"), infinitetalk_patch()
        audio = multitalk.project_audio_features(patch.model.audio_proj, [torch.randn(9, 12, 768)], 0, 9)
        model.model_options["transformer_options"]["audio_embeds"] = audio
        motion, seen = torch.randn(1, 16, 3, 8, 8), []
        wrapper = multitalk.InfiniteTalkOuterSampleWrapper(motion, patch, is_extend=True)
        model.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, "infinite_talk_outer_sample", wrapper)
        model.set_model_patch(multitalk.MultiTalkCrossAttnPatch(patch), "attn2_patch")

        def record(executor, x, *args, **kwargs):
            seen.append((x.shape[2], args[-1]["audio_embeds"].shape[1], x[0, 3, :, 0, 0].tolist()))
            return executor(x, *args, **kwargs)

        model.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "record", record)
        assert torch.equal(run(model, prompt(1), side=8), motion)  # all frames of the video are given
        assert [counts for *counts, _ in seen] == [[2, 2], [3, 3]]
        given = model.model.process_latent_in(motion.clone())
        torch.testing.assert_close(torch.tensor(seen[0][2]), given[0, 3, ::2, :2, :2].mean((1, 2)))
        assert seen[1][2] == given[0, 3, :, 0, 0].tolist()


def infinitetalk_patch():
    """InfiniteTalk's patch with random weights, for the tiny network whose width its 40 heads divide."""
    import comfy.model_patcher
    import comfy.ops
    from comfy_extras.nodes_model_patch import MultiTalkModelPatch

    network = MultiTalkModelPatch(
        audio_window=5, intermediate_dim=8, in_dim=640, out_dim=8, context_tokens=32, vae_scale=4, num_layers=2,
        device="cpu", dtype=torch.float32, operations=comfy.ops.disable_weight_init,
    )  # fmt: skip
    network.load_state_dict(random_state_dict(shapes(network), 0))
    return comfy.model_patcher.ModelPatcher(network, torch.device("cpu"), torch.device("cpu"))


FULL, LONG, SHORT = LatentShape(5, 16, 16), LatentShape(21, 60, 104), LatentShape(3, 16, 16)
WITH_FRAMES = {
    FULL: [
        (1, 3, 17, 128, 128), (1, 5, 16, 16, 16), (1, 5, 16, 16), (1, 5, 768), (1, 17, 5, 768), (1, 25, 1024, 17), (1, 5), (5,),
    ],
    LONG: [
        (1, 16, 21, 60, 104), (1, 3, 81, 480, 832), (1, 21, 16, 60, 104), (1, 21, 60, 104), (1, 21, 768), (1, 81, 768),
        (81, 480, 832, 3), (81, 480, 832), (1, 81, 480, 832, 3), (1, 25, 1024, 81), (1, 81), (81,), (2, 768, 81),
        (81, 3, 480, 832), (1, 3, 81, 512, 512),
    ],
    SHORT: [(1, 16, 3, 16, 16), (1, 3, 16, 16, 16), (1, 3, 768), (1, 3, 9, 128, 128), (1, 9)],
}  # fmt: skip
WITHOUT_FRAMES = {
    FULL: [
        (1, 512, 4096), (5, 768), (5, 7, 768), (5, 16, 1, 16, 16), (1, 257, 1280), (1, 16, 1, 16, 16), (1, 1, 1280), (1, 16),
    ],
    LONG: [
        (1, 512, 4096), (1, 257, 1280), (1, 16, 1, 60, 104), (1, 3, 1, 480, 832), (1, 480, 832, 3), (1, 20, 25, 1024), (1, 768),
    ],
    SHORT: [(1, 3, 1, 128, 128), (1, 3, 128, 128), (1, 128, 128, 3), (1, 3, 1, 224, 224), (3, 512, 4096), (1, 1, 768)],
}  # fmt: skip


def cases(by_size):
    return [(size, shape) for size, shapes in by_size.items() for shape in shapes]


def check_value(size, value, key="my_pack", spec=TIME):
    check_conds({"positive": [{key: value}]}, size, spec.stages(size))


class TestUnknownConditioning:
    @pytest.mark.parametrize(("size", "shape"), cases(WITH_FRAMES), ids=str)
    def test_with_a_time_axis_is_an_error_for_pyramids_that_halve_time(self, size, shape):
        with pytest.raises(ValueError, match=r"carries 'my_pack' with \d+ frames, which a pyramid cannot resize in time"):
            check_value(size, torch.zeros(shape, device="meta"))
        with pytest.raises(ValueError, match="carries 'my_pack'"):
            check_value(size, [{"inside": torch.zeros(shape, device="meta")}])
        check_value(size, torch.zeros(shape, device="meta"), spec=FREE)

    @pytest.mark.parametrize(("size", "shape"), cases(WITHOUT_FRAMES), ids=str)
    def test_without_one_runs(self, size, shape):
        check_value(size, torch.zeros(shape, device="meta"))

    @pytest.mark.parametrize("key", ["cross_attn", "cross_attn_pose", "pooled_output", "attention_mask", "mask"])
    def test_prompts_and_masks_of_any_length_run(self, key):
        for shape in ((1, 81), (1, 81, 4096), (81, 480, 832)):
            check_value(LONG, torch.zeros(shape, device="meta"), key)

    @pytest.mark.parametrize("key", ["reference_latents", "time_dim_concat"])
    def test_as_many_references_as_frames_are_no_video(self, key):
        references = torch.randn(1, 16, 5, 16, 16)
        check_value(FULL, [references], key)
        assert halved(key, references, 5) is references

    def test_a_source_video_in_the_context_has_the_frames_of_the_stage(self):
        context = [ramp(1, 16, 5, 16, 16, axis=2), ramp(1, 16, 4, 12, 20, axis=2), torch.ones(1, 16, 1, 12, 20)]
        check_value(FULL, context, "context_latents")
        made = halved("context_latents", context, 5)
        assert [value[0, 0, :, 0, 0].tolist() for value in made] == [[0, 2, 4], [0, 2], [1]]
