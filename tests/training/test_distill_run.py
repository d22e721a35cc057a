"""Distillation: every recipe takes real steps, resumes exactly, moves what it should, and exports what the pack reads."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from tiny_run import cache_folder, settings

from pyramid.schedules import LEVELS_KEY
from pyramid.stages import PRESETS, PyramidSpec
from pyramid.training import draws, parallel, runs
from pyramid.training.batches import Plan, draw_batch
from pyramid.training.cache_files import Cache
from pyramid.training.checkpoints import Checkpoints
from pyramid.training.distill import DistillConfig, DistributionMatching
from pyramid.training.export import trained_network
from pyramid.training.student import picked_level, trained_levels
from pyramid.training.toml_config import check_config
from pyramid.training.validation import sample_student

MATCHING = ("dmd", "dmd-ot", "dmd-pt", "dmd-pt-star")
RECIPES = (*MATCHING, "adv", "adv-od", "adv-pd")


def config(folder, recipe="dmd-pt-star", **changes):
    folder.mkdir(exist_ok=True)
    values = settings(folder)
    tiny = values.pop("model")["transformer"]
    rates = {"learning_rate": 1e-3, "warm_up": 0, "betas": [0.0, 0.99]}
    values |= {
        "recipe": recipe,
        "schedule": "2-2-1",
        "networks": {"student": tiny, "teacher": tiny, "gradient_checkpointing": False},
    }
    values |= {"student": {**rates, "ema": 0.5}, "critic": {**rates, "ema": 0.0}, "train": {"steps": 4, "critic_updates": 2}}
    del values["optimizer"]
    values["discriminator"] = {"taps": [0, 1], "width": 8}
    if recipe in ("dmd", "adv"):
        plain = cache_folder(folder / "plain", spec=PRESETS["plain"])
        values |= {"pyramid": {"preset": "plain"}, "schedule": "2", "data": {**values["data"], "cache": str(plain)}}
        values["validation"]["steps"] = "2"
    for name, value in changes.items():
        table, _, key = name.partition("__")
        if key:
            values.setdefault(table, {})[key] = value
        else:
            values[table] = value
    return check_config(DistillConfig, values, "test")


def recipe_of(made):
    return DistributionMatching(made, parallel.start(made.system))


def batches_of(made, count=4):
    cache = Cache(made.data.cache)
    plan = Plan(0, count, 1, 0, 4, drop=0.0, twice=True)
    return [draw_batch(cache, plan, stage, range(count)) for stage in range(made.pyramid.spec().number_of_stages)]


def weights(made, step=4):
    network = trained_network(made, Checkpoints(Path(made.out), keep=9), step)
    return {name: value.detach() for name, value in network.named_parameters() if value.requires_grad}


@pytest.mark.parametrize("kind", ["full", "lora"])
@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_takes_real_steps_and_exports(tmp_path, recipe, kind):
    made = config(tmp_path, recipe, adapter__kind=kind, validation__videos=1, validation__every=2)
    (file,) = runs.run_distillation(made)
    lines = [json.loads(line) for line in (Path(made.out) / "log.jsonl").read_text().splitlines()]
    steps = [line for line in lines if "loss" in line]
    assert len(steps) == 4 and all(torch.tensor(line["loss"]).isfinite() for line in steps)
    moved = ["gradient/student" in line for line in steps]
    other = "gradient/heads" if recipe.startswith("adv") else "gradient/critic"
    assert moved == [True, False, True, False] and all(other in line for line in steps)
    assert any("samples/detail" in line for line in lines)
    with safe_open(file, framework="pt") as opened:
        header = opened.metadata()
    spec = PyramidSpec.from_metadata(header)
    assert json.loads(header[LEVELS_KEY]) == [list(stage) for stage in trained_levels(spec, made.schedule)]


@pytest.mark.parametrize("kind", ["full", "lora", "adversarial"])
def test_resuming_equals_no_interruption_bit_for_bit(tmp_path, kind):
    recipe, kind = ("adv-pd", "full") if kind == "adversarial" else ("dmd-pt-star", kind)
    straight = config(tmp_path / "a", recipe, adapter__kind=kind)
    runs.run_distillation(straight)
    broken = config(tmp_path / "b", recipe, adapter__kind=kind, train__steps=2)
    runs.run_distillation(broken)
    runs.run_distillation(broken.model_copy(update={"train": straight.train}))
    one, other = weights(straight), weights(broken)
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("recipe", MATCHING)
def test_a_critic_that_is_the_teacher_gives_no_gradient(tmp_path, recipe):
    made = config(tmp_path, recipe, losses__cfg=1.0)
    matching = recipe_of(made)
    for batch in batches_of(made):
        gradient = matching.matching_gradient(matching.student.generate(batch).detach(), batch)
        assert gradient.abs().max() < 1e-6


@pytest.mark.parametrize("kind", ["full", "lora"])
def test_only_what_should_move_moves(tmp_path, kind):
    made = config(tmp_path, adapter__kind=kind)
    matching = recipe_of(made)
    parts = [batches_of(made)]
    before = {name: value.clone() for name, value in matching.student.network.state_dict().items()}
    critic = {name: value.clone() for name, value in matching.critic.state_dict().items()}
    teacher = None if matching._teacher is None else {n: v.clone() for n, v in matching._teacher.state_dict().items()}
    matching.step(parts)
    for network, old in ((matching.student.network, before), (matching.critic, critic)):
        moved = {name for name, value in network.state_dict().items() if not torch.equal(value, old[name])}
        assert moved and all(("lora_" in name) == (kind == "lora") for name in moved)
    if teacher is not None:
        assert all(torch.equal(value, teacher[name]) for name, value in matching._teacher.state_dict().items())
    after = {name: value.clone() for name, value in matching.student.network.state_dict().items()}
    matching.step(parts)
    assert all(torch.equal(value, after[name]) for name, value in matching.student.network.state_dict().items())


def test_the_recipes_differ_below_the_top_and_agree_where_the_pyramid_starts(tmp_path):
    gradients = {}
    for recipe in ("dmd-pt", "dmd-pt-star"):
        matching = recipe_of(config(tmp_path / recipe, recipe))
        with torch.no_grad():
            for name, value in matching.critic.named_parameters():
                value.add_(0.02 * torch.randn(value.shape, generator=draws.generator(0, name)))
        gradients[recipe] = [
            matching.matching_gradient(matching.student.generate(batch).detach(), batch)
            for batch in batches_of(matching.config)
        ]
    low, *others = zip(*gradients.values(), strict=True)
    assert torch.equal(*low)
    for exact, star in others:
        cosine = torch.nn.functional.cosine_similarity(exact.flatten(), star.flatten(), dim=0)
        assert 0.05 < cosine < 0.999


def test_a_strong_teach_loss_pulls_the_student_to_the_data(tmp_path):
    made = config(tmp_path, losses__teach=1000.0, losses__teach_kind="mse", train__critic_updates=1, losses__cfg=1.0)
    matching = recipe_of(made)
    parts = [batches_of(made)]

    def distance():
        with torch.no_grad():
            return sum((matching.student.generate(batch) - batch.clean).square().mean().item() for batch in parts[0])

    before = distance()
    for _ in range(15):
        matching.step(parts)
    assert distance() < 0.8 * before


def test_students_are_trained_on_the_levels_that_they_run_at():
    spec = PRESETS["pyramidal-wan"]
    levels = trained_levels(spec, "2-2-1")
    assert [len(stage) for stage in levels] == [2, 2, 1]
    assert [stage[0] for stage in levels] == [1.0, *spec.boundaries]
    stages = spec.stages(spec.smallest_shape())
    assert [round(stages[0].rho(level), 6) for level in levels[0]] == [1.0, 0.5]
    picked = picked_level(torch.tensor([0.0, 0.49, 0.5, 0.999999]), levels[1])
    assert torch.equal(picked, torch.tensor([levels[1][0]] * 2 + [levels[1][1]] * 2))


def test_a_student_samples_with_its_own_steps(tmp_path):
    made = config(tmp_path)
    matching = recipe_of(made)
    told = []
    student = matching.student
    ask = student.velocity
    student.velocity = lambda x, level, context, stage: told.append(float(level)) or ask(x, level, context, stage)
    with torch.no_grad():
        latents = sample_student(student, Cache(made.data.cache), 5)
    assert latents.shape == (1, 16, 5, 16, 16) and latents.isfinite().all()
    assert told == pytest.approx([level for stage in student.levels for level in stage], abs=1e-6)


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"schedule": "2-1"}, "steps '2-1' has 2 numbers, but the pyramid has 3 stages"),
        ({"recipe": "dmd-x"}, "'recipe' is \"dmd-x\""),
        ({"losses__lowest": 0.99}, "must be smaller than"),
        ({"pyramid__preset": "plain", "schedule": "2"}, "recipes 'dmd' and 'adv' are the baselines"),
    ],
)
def test_what_does_not_fit_is_said(tmp_path, changes, said):
    with pytest.raises(ValueError, match=said):
        config(tmp_path, **changes)


@pytest.mark.parametrize("recipe", ["adv", "adv-od", "adv-pd"])
def test_heads_learn_and_only_heads_and_student_move(tmp_path, recipe):
    made = config(tmp_path, recipe, train__critic_updates=1000)
    adversarial = runs.distillation_of(made, parallel.start(made.system))
    parts = [batches_of(made)]
    frozen = {name: value.clone() for name, value in adversarial.features.network.state_dict().items()}
    losses = [adversarial.step(parts)["loss"] for _ in range(25)]
    assert losses[-1] < 0.7 * losses[0]
    after = adversarial.features.network.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in frozen.items())
    assert adversarial.trainables["student"].done == 1


def test_the_student_follows_what_the_heads_say(tmp_path):
    """With the heads as they are, a few steps of the student alone raise the logits of its predictions."""
    made = config(tmp_path, "adv-pd", discriminator__reconstruction=0.0)
    adversarial = runs.distillation_of(made, parallel.start(made.system))
    batch = batches_of(made)[1]

    def logit():
        with torch.no_grad():
            return adversarial.logits(adversarial.student.generate(batch), batch).mean().item()

    before = logit()
    for _ in range(5):
        adversarial.trainables["student"].update([lambda: adversarial.student_loss(batch)["adversarial"][1]])
    assert logit() > before


def test_a_tap_that_is_not_there_is_named(tmp_path):
    made = config(tmp_path, "adv-od", discriminator__taps=[0, 9])
    with pytest.raises(ValueError, match="there is no block 9; the teacher has 2"):
        runs.distillation_of(made, parallel.start(made.system))
