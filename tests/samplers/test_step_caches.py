"""ComfyUI's step caches in a pyramid: they restart in every stage and leave the model unchanged."""

import pytest
import torch
from comfy.patcher_extension import WrappersMP
from comfy_extras.nodes_easycache import EasyCacheNode, LazyCacheNode
from comfyui_graph import empty, prompt

from pyramidalwan.nodes.sampler import PyramidalWanSampler
from pyramidalwan.pyramid.stages import PRESETS


def sample(model, preset, steps):
    values = (5, steps, "3", "euler", 1.0, "auto", 5.0, "auto", "auto", PRESETS[preset])
    return PyramidalWanSampler.execute(model, prompt(1), prompt(2), empty(), *values).args[0]["samples"]


@pytest.mark.parametrize("cache", [EasyCacheNode, LazyCacheNode])
@pytest.mark.parametrize(("preset", "steps"), [("training-free", "12-6"), ("pyramidal-wan", "8-8-4")])
def test_a_cache_skips_calls_in_a_pyramid(t2v_model, cache, preset, steps):
    """Calls are counted in the transformer, which skipped calls do not reach."""
    calls = []
    watched = t2v_model.clone()
    watched.set_model_patch_replace(
        lambda args, extra: calls.append(1) or extra["original_block"](args), "dit", "double_block", 0
    )
    plain = sample(watched, preset, steps)
    all_calls = len(calls)
    calls.clear()
    cached = sample(cache.execute(watched, 0.5, 0.0, 1.0, False).args[0], preset, steps)
    assert 0 < len(calls) < all_calls and torch.isfinite(cached).all() and cached.shape == plain.shape
    torch.testing.assert_close(sample(watched, preset, steps), plain, atol=0, rtol=0)


def test_a_cache_with_threshold_0_changes_nothing(t2v_model):
    plain = sample(t2v_model, "training-free", "4-3")
    cached = sample(EasyCacheNode.execute(t2v_model, 0.0, 0.0, 1.0, False).args[0], "training-free", "4-3")
    torch.testing.assert_close(cached, plain, atol=0, rtol=0)


def test_wrappers_of_a_cache_do_not_stay_on_the_model(t2v_model):
    made = EasyCacheNode.execute(t2v_model, 0.2, 0.15, 0.95, False).args[0]
    sample(made, "training-free", "2-2")
    assert made.model_options["transformer_options"]["easycache"].total_steps_skipped == 0
    assert not t2v_model.get_wrappers(WrappersMP.OUTER_SAMPLE, "easycache")
