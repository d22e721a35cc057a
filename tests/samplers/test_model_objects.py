"""Wrappers and patches of other nodes that hold tensors of the video's size run in every stage at the stage's size."""

import comfy.model_management
import pytest
import torch
from comfy.patcher_extension import WrappersMP
from comfy_extras.nodes_apg import APG
from comfyui_graph import empty, guider, prompt

from pyramidalwan.pyramid.latent_shape import LatentShape
from pyramidalwan.pyramid.schedules import stage_levels
from pyramidalwan.pyramid.stages import PRESETS, PyramidSpec
from pyramidalwan.samplers.any_sampler import pyramidal_model
from pyramidalwan.samplers.comfyui.model_objects import stage_objects
from pyramidalwan.samplers.hand_wired import stage_model, stage_sigmas, stage_start
from pyramidalwan.samplers.noise import SeedNoise
from pyramidalwan.samplers.run import PyramidRun
from pyramidalwan.samplers.supported_samplers import make_sampler

FREE = PRESETS["training-free"]
WITH_TIME = PyramidSpec((0.9,), ("THW",), field="natural", timestep_source="sigma", first_frame="shared")
FULL = LatentShape(5, 16, 24)


class GivenFrames:
    """Put given frames in front of the model's input, as nodes that continue a video do."""

    def __init__(self, frames):
        self.frames, self.sizes = frames, []

    def __call__(self, executor, x, *args, **kwargs):
        self.sizes.append(tuple(x.shape[-2:]))
        x[:, :, : self.frames.shape[2]] = self.frames.to(x)
        return executor(x, *args, **kwargs)


class AroundTheRun:
    """Hold frames and watch the sampling runs."""

    def __init__(self, frames):
        self.frames, self.sizes = frames, []

    def __call__(self, executor, noise, *args, **kwargs):
        self.sizes.append((tuple(noise.shape[-2:]), tuple(self.frames.shape[-2:])))
        return executor(noise, *args, **kwargs)


def frames(count=2, height=16, width=16):
    return torch.randn(1, 16, count, height, width, generator=torch.Generator().manual_seed(3))


def with_objects(model):
    """Return a clone with both objects, and the objects."""
    clone, given, around = model.clone(), GivenFrames(frames()), AroundTheRun(frames())
    clone.add_wrapper_with_key(WrappersMP.APPLY_MODEL, "given", given)
    clone.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, "around", around)
    return clone, given, around


def run(model, spec, latent=None, *, cfg=1.0):
    levels = stage_levels(spec, (2,) * spec.number_of_stages)
    run = PyramidRun(guider(model, cfg, prompt(1), prompt(int(cfg))), SeedNoise(1), make_sampler("euler"), levels, spec)
    return run.sample(latent or empty()).output["samples"]


def test_objects_of_the_model_have_the_size_of_every_stage(t2v_model):
    model, given, around = with_objects(t2v_model)
    assert torch.isfinite(run(model, FREE)).all()
    assert around.sizes == [((8, 8), (8, 8)), ((16, 16), (16, 16))]
    assert set(given.sizes) == {(8, 8), (16, 16)}
    assert torch.equal(given.frames, frames()) and torch.equal(around.frames, frames())


def test_frames_are_averaged_over_blocks():
    small = stage_objects({"frames": frames()}, LatentShape(5, 16, 16), ("HW",))[0]["frames"]
    torch.testing.assert_close(small, frames().unflatten(-1, (8, 2)).unflatten(-3, (8, 2)).mean(dim=(-1, -3)))


def test_a_hand_wired_stage_has_objects_of_its_size(t2v_model):
    model, given, around = with_objects(t2v_model)
    latent, noise = stage_start(SeedNoise(1), empty(), FREE)
    sigmas = stage_sigmas(torch.tensor([1.0, 0.9, 0.8, 0.4, 0.0]), FREE, "low")
    bound = guider(stage_model(model, FREE, "low"), 1.0, prompt(1), prompt(1))
    made = bound.sample(noise.generate_noise(latent), latent["samples"], make_sampler("euler"), sigmas)
    assert torch.isfinite(made).all()
    assert around.sizes == [((8, 8), (8, 8))] and set(given.sizes) == {(8, 8)}


def test_frames_of_another_node_cannot_be_halved_in_time(t2v_model):
    model, _, _ = with_objects(t2v_model)
    with pytest.raises(ValueError, match="the MODEL carries 'frames' from another node, which a pyramid cannot resize in time"):
        run(model, WITH_TIME)
    assert torch.isfinite(run(t2v_model, WITH_TIME)).all()


def test_the_pyramid_inside_a_sampler_fits_objects_added_before_and_after_it(t2v_model):
    import nodes

    for before in (True, False):
        model, given, around = with_objects(t2v_model) if before else (t2v_model, None, None)
        model = pyramidal_model(model, FREE, print)
        if not before:
            model, given, around = with_objects(model)
        nodes.common_ksampler(model, 5, 8, 1.0, "euler", "simple", prompt(1), prompt(1), empty())
        assert around.sizes == [((8, 8), (8, 8)), ((16, 16), (16, 16))], before
        assert set(given.sizes) == {(8, 8), (16, 16)}, before


def test_an_extended_infinitetalk_run_ends_with_its_motion_frames_and_no_other_change(t2v_model):
    """Its wrapper puts motion frames into the end of every stage; the other frames are those of a run without that."""
    multitalk = pytest.importorskip("comfy.ldm.wan.model_multitalk", reason="this ComfyUI has no InfiniteTalk")
    import nodes

    videos = {}
    for extends in (True, False):
        model = t2v_model.clone()
        wrapper = multitalk.InfiniteTalkOuterSampleWrapper(frames(), None, is_extend=extends)
        model.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, "infinite_talk_outer_sample", wrapper)
        model = pyramidal_model(model, FREE, print)
        latent = nodes.common_ksampler(model, 5, 8, 1.0, "euler", "simple", prompt(1), prompt(1), empty())[0]
        videos[extends] = latent["samples"]
    assert torch.equal(videos[True][:, :, :2], frames()) and not torch.equal(videos[False][:, :, :2], frames())
    assert torch.equal(videos[True][:, :, 2:], videos[False][:, :, 2:])


class Holder:
    """Hold anything."""

    def __init__(self, **attributes):
        vars(self).update(attributes)


def at_half_size(value):
    return stage_objects({"value": value}, FULL, ("HW",))[0]["value"]


def test_a_mask_of_tokens_keeps_every_region():
    """One token of the upper left corner and the right half, of 8 x 12 tokens, become those of 4 x 6."""
    mask = torch.zeros(2, 8, 12, dtype=torch.bool)
    mask[0, 0, 0], mask[1, :, 6:] = True, True
    made = at_half_size(Holder(mask=mask.flatten(1))).mask.reshape(2, 4, 6)
    expected = torch.zeros(2, 4, 6, dtype=torch.bool)
    expected[0, 0, 0], expected[1, :, 3:] = True, True
    assert made.dtype == torch.bool and torch.equal(made, expected)


def test_an_object_that_occurs_twice_is_copied_once():
    holder = Holder(frames=torch.zeros(1, 16, 2, 16, 24))
    made = at_half_size({"patches": {"a": [holder]}, "patches_replace": {"dit": {("double_block", 0): holder}}})
    first, second = made["patches"]["a"][0], made["patches_replace"]["dit"]["double_block", 0]
    assert first is second and first is not holder and first.frames.shape[-2:] == (8, 12)


@pytest.mark.parametrize(
    "attributes",
    [
        {"prepared_render": torch.zeros(1, 16, 2, 16, 24)},  # a cache that Uni3C makes again for every size
        {"audio": torch.zeros(1, 5, 32, 768), "scale": 1.0},
        {"network": torch.nn.Conv2d(1, 1, 16)},
        {"mask": torch.zeros(1, 96)},  # as long as the tokens, but no mask
    ],
)
def test_objects_without_tensors_of_the_videos_size_stay(attributes):
    holder = Holder(**attributes)
    made = at_half_size([holder, len, at_half_size])
    assert made[0] is holder


def remembering(mask):
    """Return two functions that share what one of them remembers, and a third that calls it."""
    last, untouched = None, [1]

    def remember(x):
        nonlocal last
        last, before = x, last
        return before

    def recall():
        return last

    def calling(x):
        return remember(x), mask, untouched

    return remember, recall, calling


def test_functions_are_copied_with_what_they_remember_and_with_captured_frames():
    given = frames(height=16, width=24)
    remember, recall, calling = remembering(given)
    remember("of an earlier run")
    made = at_half_size({"functions": [remember, recall], "wrapper": calling, "plain": [len, frames]})
    (fitted, looked_up), outer = made["functions"], made["wrapper"]
    assert fitted("low") == "of an earlier run" and looked_up() == "low"
    before, mask, untouched = outer("later")
    assert before == "low" and mask.shape[-2:] == (8, 12) and untouched is calling("in the original")[2]
    assert recall() == "in the original" and looked_up() == "later"
    assert made["plain"] == [len, frames]


def test_functions_that_remember_nothing_stay():
    scale, holder = 2.0, Holder(frames=torch.zeros(1, 16, 2, 16, 24))

    def scaled(x):
        return scale * x, holder

    def itself(x):
        return itself if x else scaled

    assert at_half_size([scaled, itself]) == [scaled, itself]


@pytest.mark.parametrize("spec", [FREE, PRESETS["pyramidal-wan"]], ids=["two", "three"])
def test_the_running_average_of_apg_starts_anew_in_every_stage(t2v_model, spec):
    """Without momentum nothing is remembered; with it, a repeated run is the same, whatever ran before."""
    model = APG.execute(t2v_model, 1.0, 5.0, -0.5)[0]
    without = run(APG.execute(t2v_model, 1.0, 5.0, 0.0)[0], spec, cfg=3.0)
    first = run(model, spec, cfg=3.0)
    assert torch.isfinite(first).all() and not torch.equal(first, without)
    run(model, PRESETS["plain"], cfg=3.0)
    assert torch.equal(run(model, spec, cfg=3.0), first)


def test_the_last_stage_runs_with_the_objects_themselves_and_remembers_for_itself():
    objects = {"value": Holder(frames=torch.zeros(1, 16, 2, 16, 24))}
    assert stage_objects(objects, FULL, ()) == (objects, [])
    remember, recall, _ = remembering(None)
    stage_objects({"value": remember}, FULL, ())[0]["value"]("in the last stage")
    assert recall() is None


def counting(seen):
    """Return a cfg function that counts its calls."""
    count = 0

    def cfg(args):
        nonlocal count
        seen.append(count)
        count += 1
        return args["uncond"] + (args["cond"] - args["uncond"]) * args["cond_scale"]

    return cfg


def averaging(memory, get, put):
    """Return a cfg function with a running average, which it keeps in ``memory``, with the sigma of the last step."""

    def pre_cfg(args):
        cond, uncond = args["conds_out"][:2]
        sigma, before, average = float(args["sigma"][0]), get(memory, "last"), get(memory, "average")
        if before is None or sigma > before:
            average = None
        average = cond - uncond if average is None else cond - uncond - 0.5 * average
        put(memory, "last", sigma)
        put(memory, "average", average)
        return [uncond + average, uncond]

    return pre_cfg


MEMORIES = {
    "object": (lambda: Holder(last=None, average=None), lambda memory, name: vars(memory)[name], setattr),
    "dict": (dict, dict.get, dict.__setitem__),
    "list": (
        lambda: [None, None],
        lambda memory, name: memory[name == "last"],
        lambda memory, name, value: memory.__setitem__(name == "last", value),
    ),
}


@pytest.mark.parametrize("spec", [FREE, PRESETS["pyramidal-wan"]], ids=["two", "three"])
def test_a_counter_of_steps_counts_on_from_stage_to_stage(t2v_model, spec):
    model, seen = t2v_model.clone(), []
    model.set_model_sampler_cfg_function(counting(seen))
    for _ in range(2):
        run(model, spec, cfg=3.0)
    assert seen == list(range(2 * 2 * spec.number_of_stages))  # it counts on in the next run, too, as in a KSampler


@pytest.mark.parametrize("kind", MEMORIES)
def test_an_average_that_does_not_fit_the_next_stage_is_reset_and_the_rest_is_kept(t2v_model, kind):
    make, get, put = MEMORIES[kind]
    model, memory = t2v_model.clone(), make()
    model.set_model_sampler_pre_cfg_function(averaging(memory, get, put))
    first = run(model, FREE, cfg=3.0)
    assert torch.isfinite(first).all() and 0 < get(memory, "last") < 0.8
    assert get(memory, "average") is None, "the next run would start with it"
    assert torch.equal(run(model, FREE, cfg=3.0), first)
    assert not torch.equal(run(t2v_model, FREE, cfg=3.0), first)


def test_what_the_network_remembers_is_reset_where_it_does_not_fit(t2v_model):
    """Some step caches keep the tokens of the last step on the network, and compare the next step with them."""
    model, network = t2v_model.clone(), t2v_model.model.diffusion_model
    attributes = set(vars(network))

    def cache(executor, x, *args, **kwargs):
        tokens = x[0, :16, :, ::2, ::2].flatten(1).T[None]
        state = vars(network).setdefault("cache_state", {"calls": 0})
        state["calls"] += 1
        network.previous_tokens = tokens + 0 * vars(network).get("previous_tokens", tokens)
        return executor(x, *args, **kwargs)

    model.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "cache", cache)
    assert torch.isfinite(run(model, FREE)).all()
    assert network.cache_state["calls"] == 5, "two calls of each stage, and the one that failed"
    assert set(vars(network)) == attributes | {"cache_state"}
    del network.cache_state


def test_recordings_of_every_stage_stay(t2v_model):
    model, latents, by_size = t2v_model.clone(), [], {}

    def record(executor, x, *args, **kwargs):
        latents.append(x)
        by_size[x.shape[-1]] = x
        return executor(x, *args, **kwargs)

    model.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "record", record)
    run(model, FREE)
    assert [x.shape[-1] for x in latents] == [8, 8, 16, 16] and set(by_size) == {8, 16}


def test_a_cancelled_stage_leaves_nothing_of_its_size(t2v_model):
    model, memory = t2v_model.clone(), {}

    def stop(args):
        memory["latent"], memory["steps"] = args["input"], memory.get("steps", 0) + 1
        raise comfy.model_management.InterruptProcessingException

    model.set_model_sampler_cfg_function(stop)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        run(model, FREE, cfg=3.0)
    assert memory == {"steps": 1}


def test_an_error_of_another_node_is_raised_once(t2v_model):
    model, calls = t2v_model.clone(), []

    def fail(executor, x, *args, **kwargs):
        calls.append(x.shape[-1])
        if x.shape[-1] == 16:
            raise RuntimeError("of another node")
        return executor(x, *args, **kwargs)

    model.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "fail", fail)
    with pytest.raises(RuntimeError, match="of another node"):
        run(model, FREE)
    assert calls == [8, 8, 16]
