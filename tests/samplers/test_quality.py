"""One choice sets steps, cfg, grid and shift together; a single number of steps is split; doubtful pairs are told."""

import pytest
import torch
from comfyui_graph import empty, prompt

from pyramidalwan.nodes.sampler import PyramidalWanSampler
from pyramidalwan.pyramid.schedules import parse_steps
from pyramidalwan.pyramid.stages import PRESETS
from pyramidalwan.samplers.options import StageOptions, parse_cfg, sample_with_conds
from pyramidalwan.samplers.quality import CUSTOM, QUALITIES, Settings, settings_for
from pyramidalwan.samplers.run_report import setting_warnings
from pyramidalwan.samplers.schedule import levels_for, steps_per_stage

FREE, WAN = PRESETS["training-free"], PRESETS["pyramidal-wan"]
FOUR = levels_for(FREE, "2-2", "auto", 5.0)[1]
OTHER = Settings("3-2", "2", "uniform", 3.0)


def sample(model, quality=CUSTOM, widgets=OTHER, pyramid=FREE, said=None):
    options = StageOptions(cfg=widgets.cfg)
    result = sample_with_conds(
        model, prompt(1), prompt(2), empty(), pyramid, options, seed=1, steps=widgets.steps, denoise=1.0, sampler_name="euler",
        grid=widgets.grid, shift=widgets.shift, quality=quality, report=(said if said is not None else []).append,
    )  # fmt: skip
    return result.output["samples"]


@pytest.mark.parametrize("quality", ["draft", "four-step LoRA"])
def test_a_quality_runs_its_settings_whatever_the_widgets_hold(t2v_model, quality):
    said = []
    made = sample(t2v_model, quality, said=said)
    assert torch.equal(made, sample(t2v_model, widgets=QUALITIES[quality]))
    assert f"quality '{quality}' replaces steps 3-2, cfg 2, grid uniform, shift 3.0; set it to 'custom'" in said[-1]
    assert not torch.equal(made, sample(t2v_model))


def test_what_is_told_is_what_runs(t2v_model):
    said = []
    sample(t2v_model, "balanced", QUALITIES["balanced"], said=said)
    assert "balanced: steps 20-10 · cfg 6 · grid auto · shift 8" in said[-1].splitlines() and "replaces" not in said[-1]
    sample(t2v_model, "four-step LoRA", QUALITIES["four-step LoRA"], said=said)
    assert "four-step LoRA: steps 2-2 · cfg 1 · grid auto · shift 5" in said[-1].splitlines()


def test_every_quality_fits_every_pyramid():
    for quality in QUALITIES:
        for spec in PRESETS.values():
            settings, _ = settings_for(quality, QUALITIES[quality], spec.number_of_stages)
            _, levels = levels_for(spec, settings.steps, settings.grid, settings.shift or 8.0)
            total = sum(int(part) for part in QUALITIES[quality].steps.split("-"))
            assert sum(len(level) - 1 for level in levels) == total, (quality, spec)
            parse_cfg(settings.cfg, spec.number_of_stages)


def test_an_unknown_quality_is_rejected(t2v_model):
    with pytest.raises(ValueError, match="unknown quality 'best'; expected draft, balanced, detail, four-step LoRA, custom"):
        sample(t2v_model, "best")


def test_a_new_node_shows_the_values_of_its_quality():
    """The front end writes them into the widgets only when the choice changes."""
    inputs = {given.id: given for given in PyramidalWanSampler.define_schema().inputs}
    chosen = QUALITIES[inputs["quality"].default]
    assert {name: inputs[name].default for name in vars(chosen)} == vars(chosen)


@pytest.mark.parametrize(
    ("text", "steps"),
    [("20, 20, 10", (20, 20, 10)), ("20 20 10", (20, 20, 10)), ("20 - 20 - 10", (20, 20, 10)), ("20–20–10", (20, 20, 10)),
     ("50", (20, 20, 10)), ("5", (2, 2, 1)), ("6", (3, 2, 1)), ("2", (0, 1, 1)), ("1", (0, 0, 1))],
)  # fmt: skip
def test_steps_take_commas_and_spaces_and_a_single_number_is_split(text, steps):
    assert parse_steps(text, 3) == steps


@pytest.mark.parametrize("total", range(1, 61))
@pytest.mark.parametrize("stages", [1, 2, 3, 4])
def test_a_split_keeps_the_number_of_steps(total, stages):
    steps = parse_steps(str(total), stages)
    assert sum(steps) == total and len(steps) == stages and steps[-1] >= 1
    running = [count for count in steps if count]
    assert 0 not in steps[steps.index(running[0]) :]
    if total >= 2 * stages:
        assert all(abs(count - 2 * steps[-1]) <= 2 for count in steps[:-1])


@pytest.mark.parametrize(("shift", "steps"), [(8.0, (20, 10)), (5.0, (17, 13))])
def test_stock_weights_change_stages_nearest_to_the_boundary(shift, steps):
    """As with 'Pyramidal Model', whose sampler has one number of steps."""
    assert steps_per_stage("30", FREE, shift) == steps
    _, levels = levels_for(FREE, "30", "auto", shift)
    assert abs(levels[0][-1] - 0.8) < 0.02


def test_cfg_takes_commas_and_spaces():
    assert parse_cfg("5, 6.5, 4", 3) == parse_cfg("5 6.5 4", 3) == [5, 6.5, 4]


@pytest.mark.parametrize(
    ("sampler", "cfg", "steps", "words"),
    [
        ("pyramid_few_step", 6.0, "2-2", "'pyramid_few_step' is for distilled models, few steps and cfg 1, got cfg 6"),
        ("pyramid_few_step", 1.0, "20-10", "few steps and cfg 1, got 30 steps; use euler"),
        ("euler", 6.0, "2-2", "4 steps with cfg 6: a step-distilled LoRA requires cfg 1"),
        ("euler", 1.0, "2-2", None),
        ("euler", 6.0, "20-10", None),
        ("pyramid_few_step", 1.0, "2-2", None),
    ],
)
def test_pairs_that_run_but_cannot_be_right_are_told(t2v_model, sampler, cfg, steps, words):
    found = setting_warnings(t2v_model, FREE, levels_for(FREE, steps, "auto", 5.0)[1], sampler, [cfg] * 2)
    assert (found == []) if words is None else (len(found) == 1 and words in found[0])


def test_a_part_of_a_run_may_have_few_steps(t2v_model):
    """One of two samplers in a row, or a low denoise."""
    for part in ([(1.0, 0.9), (0.9, 0.8)], [(), (0.3, 0.2, 0.0)]):
        assert setting_warnings(t2v_model, FREE, part, "euler", [6.0, 6.0]) == []


def test_swapped_experts_are_told(t2v_model):
    """Newer versions of ComfyUI keep the loading function and its arguments, for checkpoints with a number behind them."""
    low, high = t2v_model.clone(), t2v_model.clone()
    low.cached_patcher_init = (print, ("/models/wan2.2_t2v_low_noise_14B.gguf", {}))
    high.cached_patcher_init = (print, ("/models/Wan2.2-T2V-High-Noise.gguf", False), 0)
    assert setting_warnings(low, FREE, FOUR, "euler", [1.0], high) == []
    assert setting_warnings(high, FREE, FOUR, "euler", [1.0], low) == [
        "the two experts look swapped: the high-noise model belongs in first_stage_model"
    ]
