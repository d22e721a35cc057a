"""The flow shift of a run: that of the MODEL as in KSampler, or the widget's, also for shares of the run."""

import comfy.samplers
import pytest
import torch
from comfy.patcher_extension import WrappersMP
from comfy_extras.nodes_model_advanced import ModelSamplingSD3
from comfyui_graph import empty, prompt

import nodes
from pyramidalwan.nodes.analysis import PyramidalWanCostEstimate
from pyramidalwan.nodes.sampler import PyramidalWanSampler
from pyramidalwan.nodes.schedule import PyramidalWanSchedule
from pyramidalwan.pyramid.stages import PRESETS
from pyramidalwan.samplers.comfyui.flow_shift import WAN_SHIFT, flow_shift, with_flow_shift

FREE, PLAIN = PRESETS["training-free"], PRESETS["plain"]
EARLY, LATE = 7, 9
"""Tokens of the prompt for the first 45 % of the run, and of that for the rest."""
STEPS = 25
"""Steps whose levels are in the table of 1000 that KSampler takes them from."""
PROMPTS = [*prompt(1, EARLY, start_percent=0.0, end_percent=0.45), *prompt(2, LATE, start_percent=0.45, end_percent=1.0)]


def shifted(model, shift):
    made = ModelSamplingSD3().patch(model, shift)
    return getattr(made, "args", made)[0]


def watched(model):
    """Return a clone that records the timestep and the tokens of the prompt of each forward pass."""
    clone, seen = model.clone(), []

    def watch(executor, x, timestep, context, *args, **kwargs):
        seen.append((float(timestep.flatten()[0]), context.shape[1]))
        return executor(x, timestep, context, *args, **kwargs)

    clone.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "watch", watch)
    return clone, seen


def pyramidal(model, steps="15-10", shift=0.0, pyramid=FREE, **changes):
    values = (5, steps, "1", "euler", 1.0, "auto", shift, "auto", "auto", pyramid)
    return PyramidalWanSampler.execute(model, PROMPTS, prompt(3), empty(3, 8, 8), *values, **changes).args[0]["samples"]


def ksampler(model, steps=STEPS):
    return nodes.common_ksampler(model, 5, steps, 1.0, "euler", "simple", PROMPTS, prompt(3), empty(3, 8, 8))[0]["samples"]


@pytest.mark.parametrize("shift", [3.0, 5.0, 8.0])
def test_a_prompt_for_a_part_of_the_run_acts_in_the_steps_of_a_ksampler(t2v_model, shift):
    model, seen = watched(shifted(t2v_model, shift))
    ksampler(model)
    ordinary = list(seen)
    seen.clear()
    pyramidal(model)
    assert [tokens for _, tokens in seen] == [tokens for _, tokens in ordinary]
    assert sum(tokens == EARLY for _, tokens in seen) == 12 and len(seen) == STEPS
    at_full_size = [[timestep for timestep, _ in run[-10:]] for run in (seen, ordinary)]
    assert at_full_size[0] == pytest.approx(at_full_size[1], abs=0.01)


def test_one_stage_with_the_shift_of_the_model_is_a_ksampler(t2v_model):
    model = shifted(t2v_model, 3.0)
    torch.testing.assert_close(pyramidal(model, "8", pyramid=PLAIN), ksampler(model, 8), atol=1e-5, rtol=1e-5)
    assert (pyramidal(model, "8", 8.0, PLAIN) - ksampler(model, 8)).abs().max() > 1e-3


def test_a_shift_of_the_widget_replaces_that_of_the_model(t2v_model):
    model, seen = watched(shifted(t2v_model, 3.0))
    replaced = pyramidal(model, shift=5.0)
    assert torch.equal(replaced, pyramidal(shifted(t2v_model, 5.0)))
    assert sum(tokens == EARLY for _, tokens in seen) == 12
    assert model.get_model_object("model_sampling").shift == 3.0


def test_every_model_of_the_run_gets_its_shift(t2v_model):
    low, seen = watched(t2v_model)
    pyramidal(shifted(t2v_model, 3.0), first_stage_model=low)
    other, expected = watched(shifted(t2v_model, 3.0))
    pyramidal(shifted(t2v_model, 3.0), first_stage_model=other)
    assert seen == expected and {tokens for _, tokens in seen} == {EARLY, LATE}


def test_a_model_with_another_shift_keeps_the_rest_of_its_sampling(t2v_model):
    model = shifted(t2v_model, 3.0)
    sampling = model.get_model_object("model_sampling")
    sampling.noise_scale, table = 0.5, sampling.sigmas.clone()
    changed = with_flow_shift(model, 6.0).get_model_object("model_sampling")
    assert type(changed) is type(sampling) and changed.noise_scale == 0.5 and changed.multiplier == sampling.multiplier
    assert changed.percent_to_sigma(0.5) == pytest.approx(6 / 7) and sampling.percent_to_sigma(0.5) == pytest.approx(3 / 4)
    assert torch.equal(sampling.sigmas, table) and not torch.equal(changed.sigmas, table)
    assert with_flow_shift(model, 3.0) is model


def test_a_schedule_takes_the_shift_of_its_model_or_that_of_comfyuis_wan(t2v_model):
    def sigmas(shift, model=None):
        return PyramidalWanSchedule.execute(FREE, "4-4", "auto", shift, model).args[0]

    assert WAN_SHIFT == t2v_model.get_model_object("model_sampling").shift
    assert torch.equal(sigmas(0.0), sigmas(8.0)) and torch.equal(sigmas(0.0, t2v_model), sigmas(8.0))
    assert torch.equal(sigmas(0.0, shifted(t2v_model, 3.0)), sigmas(3.0))
    assert torch.equal(sigmas(5.0, shifted(t2v_model, 3.0)), sigmas(5.0)) and not torch.equal(sigmas(5.0), sigmas(3.0))
    table = comfy.samplers.calculate_sigmas(shifted(t2v_model, 3.0).get_model_object("model_sampling"), "simple", 8)
    torch.testing.assert_close(sigmas(3.0), table, atol=1e-3, rtol=0)


def test_the_chart_of_the_cost_follows_the_shift_of_its_model(t2v_model):
    def chart(shift, model=None):
        return PyramidalWanCostEstimate.execute(empty(3, 8, 8), "4-4", "1", "auto", shift, FREE, model).args[1]

    assert torch.equal(chart(0.0, shifted(t2v_model, 3.0)), chart(3.0, t2v_model))
    assert not torch.equal(chart(0.0, shifted(t2v_model, 3.0)), chart(0.0, t2v_model))


@pytest.mark.parametrize("shift", [-1.0, float("nan"), float("inf")])
def test_a_shift_that_is_no_positive_number_is_rejected(t2v_model, shift):
    with pytest.raises(ValueError, match=f"shift is {shift}; expected a number from 0 to 100"):
        pyramidal(t2v_model, shift=shift)
    with pytest.raises(ValueError, match=f"shift is {shift:g}"):
        PyramidalWanSchedule.execute(FREE, "2-2", "auto", shift)


def test_a_model_without_a_shift_needs_one(t2v_model):
    from comfy.model_sampling import CONST, ModelSamplingFlux

    class Sampling(ModelSamplingFlux, CONST):
        pass

    model, sampling = t2v_model.clone(), Sampling(t2v_model.model.model_config)
    del sampling.shift
    model.add_object_patch("model_sampling", sampling)
    with pytest.raises(ValueError, match="shift is 0, but this MODEL has no flow shift of its own"):
        flow_shift(0.0, model)
