"""Distillation: every recipe trains, resumes exactly, changes only what it should, and exports what the nodes read."""

import dataclasses
import json
import math
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from processes import run, run_pair
from safetensors import safe_open
from safetensors.torch import save_file

from pyramid.flops import WAN_DIMENSIONS, forward_tflops
from pyramid.schedules import LEVELS_KEY
from pyramid.stages import PRESETS, PyramidSpec
from pyramid.training import run as runs
from pyramid.training.config.distill import DistillConfig, trained_levels
from pyramid.training.config.settings import Adapter
from pyramid.training.config.toml_config import check_config, to_toml
from pyramid.training.data.batches import Plan, draw_batch
from pyramid.training.data.cache_files import Cache
from pyramid.training.engine import draws, parallel
from pyramid.training.engine.checkpoints import Checkpoints
from pyramid.training.estimate import costs
from pyramid.training.estimate.dry_run import estimate_iteration
from pyramid.training.export import trained_network
from pyramid.training.models.networks import transformer_dimensions
from pyramid.training.recipes.distill import DistributionMatching
from pyramid.training.recipes.student import picked_level
from pyramid.training.validation import sample_student
from tiny_wan.training_files import cache_folder, distillation_settings, with_changes

MATCHING = ("dmd", "dmd-ot", "dmd-pt", "dmd-pt-star")
BASELINES = ("dmd", "adv")
RECIPES = (*MATCHING, "adv", "adv-od", "adv-pd")


def config(folder, recipe="dmd-pt-star", **changes):
    folder.mkdir(exist_ok=True)
    values = distillation_settings(folder, recipe=recipe)
    values["discriminator"] = {"taps": [0, 1], "width": 8}
    if recipe in BASELINES:
        plain = cache_folder(folder / "plain", spec=PRESETS["plain"])
        values |= {"pyramid": {"preset": "plain"}, "schedule": "2", "data": {**values["data"], "cache": str(plain)}}
        values["validation"]["steps"] = "2"
    return check_config(DistillConfig, with_changes(values, **changes), "test")


def recipe_of(made):
    return DistributionMatching(made, parallel.start(made.system))


def batches_of(made, count=4):
    cache = Cache(made.data.cache)
    plan = Plan(0, count, 1, 0, 4, drop=0.0, draw_twice=True)
    return [draw_batch(cache, plan, stage, range(count)) for stage in range(made.pyramid.spec().number_of_stages)]


def copied(network):
    return {name: value.clone() for name, value in network.state_dict().items()}


def weights(made, step=4):
    network = trained_network(made, Checkpoints(Path(made.out), keep=9), step)
    return {name: value.detach() for name, value in network.named_parameters() if value.requires_grad}


@pytest.mark.parametrize("kind", ["full", "lora"])
@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_trains_and_exports(tmp_path, recipe, kind):
    made = config(tmp_path, recipe, adapter__kind=kind, validation__videos=1, validation__every=2)
    (file,) = runs.run_distillation(made)
    lines = [json.loads(line) for line in (Path(made.out) / "log.jsonl").read_text().splitlines()]
    steps = [line for line in lines if "loss" in line]
    assert len(steps) == 4 and all(torch.tensor(line["loss"]).isfinite() for line in steps)
    student_updates = ["gradient/student" in line for line in steps]
    other = "gradient/heads" if made.traits.adversarial else "gradient/critic"
    assert student_updates == [True, False, True, False] and all(other in line for line in steps)
    assert any("samples/detail" in line for line in lines)
    with safe_open(file, framework="pt") as opened:
        header = opened.metadata()
    assert PyramidSpec.from_metadata(header) == made.pyramid.spec()
    assert json.loads(header[LEVELS_KEY]) == [list(stage) for stage in made.student_levels]


@pytest.mark.parametrize("kind", ["full", "lora", "adversarial"])
def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(tmp_path, kind):
    recipe, kind = ("adv-pd", "full") if kind == "adversarial" else ("dmd-pt-star", kind)
    uninterrupted = config(tmp_path / "a", recipe, adapter__kind=kind)
    runs.run_distillation(uninterrupted)
    resumed = config(tmp_path / "b", recipe, adapter__kind=kind, train__steps=2)
    runs.run_distillation(resumed)
    runs.run_distillation(resumed.model_copy(update={"train": uninterrupted.train}))
    one, other = weights(uninterrupted), weights(resumed)
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(
    "recipe, kind, parallel",
    [("dmd-ot", "full", "fsdp2"), ("adv-pd", "full", "fsdp2"), ("dmd-pt-star", "lora", "fsdp2"), ("adv", "full", "ddp")],
)
def test_two_processes_equal_one_with_twice_the_batch(tmp_path, recipe, kind, parallel):
    """Compare after a step of student and critic.

    The learning rate is small, because AdamW's first step is the sign of the gradient, which is rounding error where it is 0.
    """
    rates = {"student__learning_rate": 1e-5, "critic__learning_rate": 1e-5, "adapter__kind": kind, "train__steps": 1}
    rates["networks__gradient_checkpointing"] = kind == "lora"
    one = config(tmp_path / "one", recipe, **rates, train__per_stage=4)
    runs.run_distillation(one)
    two = config(tmp_path / "two", recipe, **rates, train__per_stage=2, system__parallel=parallel, data__cache=one.data.cache)
    path = tmp_path / "two.toml"
    path.write_text(to_toml(two))
    run_pair("distill", path, output=tmp_path)
    mine, theirs = weights(one, 1), weights(two, 1)
    assert mine.keys() == theirs.keys()
    assert all(torch.allclose(mine[name], theirs[name], atol=3e-5) for name in mine)
    losses = [json.loads((Path(made.out) / "log.jsonl").read_text().splitlines()[0]) for made in (one, two)]
    assert losses[0].keys() == losses[1].keys()
    for name in losses[0].keys() - {"seconds"}:
        assert losses[0][name] == pytest.approx(losses[1][name], rel=1e-3, abs=1e-5), name


@pytest.mark.parametrize("recipe, shift", [("dmd-ot", 1.0), ("dmd-ot", 5.0), ("dmd-pt", 5.0)])
def test_plain_teachers_read_shifted_levels_and_pyramidal_ones_their_own(tmp_path, recipe, shift):
    """Half of a shift of 5 is above 5/6 of the range."""
    made = config(tmp_path, recipe, losses__lowest=0.1, losses__highest=0.7, losses__shift=shift)
    matching, batch = recipe_of(made), batches_of(made)[0]
    stage = matching.stages[0]
    half = dataclasses.replace(batch, second_rho=torch.full_like(batch.second_rho, 0.5))
    level = 0.1 + 0.6 * (5 / 6 if (recipe, shift) == ("dmd-ot", 5.0) else 0.5)
    expected = level if recipe == "dmd-ot" else stage.reference_sigma_at(torch.tensor(level)).item()
    assert torch.allclose(matching.noised(batch.clean, half, stage).sigma, torch.tensor(expected))


@pytest.mark.parametrize("recipe", MATCHING)
def test_a_critic_that_equals_the_teacher_gives_no_gradient(tmp_path, recipe):
    made = config(tmp_path, recipe, losses__cfg=1.0)
    matching = recipe_of(made)
    for batch in batches_of(made):
        gradient = matching.matching_gradient(matching.student.generate(batch).detach(), batch)
        assert gradient.abs().max() < 1e-6


def answering(velocity):
    return SimpleNamespace(velocity=lambda *_: velocity)


@pytest.mark.parametrize("recipe", MATCHING)
def test_the_student_is_drawn_to_what_the_teacher_predicts(tmp_path, recipe):
    """The teacher's velocity points to a target, and the critic's to the student's own prediction."""
    matching = recipe_of(config(tmp_path, recipe))
    for batch in batches_of(matching.config):
        clean = matching.student.generate(batch).detach()
        target = clean + torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
        stage = matching.score_stage(batch)
        matching.teacher, matching.critic = (answering(matching.noised(aim, batch, stage).velocity) for aim in (target, clean))
        step = -matching.matching_gradient(clean, batch)
        assert torch.nn.functional.cosine_similarity(step.flatten(), (target - clean).flatten(), dim=0) > 0.5


@pytest.mark.parametrize("kind", ["full", "lora"])
def test_a_step_changes_only_trained_weights_and_the_student_only_when_it_is_due(tmp_path, kind):
    made = config(tmp_path, adapter__kind=kind)
    matching = recipe_of(made)
    parts = [batches_of(made)]
    student, critic, teacher = matching.student.model.network, matching.critic.network, matching.teacher.network
    before = {network: copied(network) for network in (student, critic, teacher)}
    matching.step(parts)
    for network in (student, critic):
        changed = {name for name, value in network.state_dict().items() if not torch.equal(value, before[network][name])}
        assert changed and all(("lora_" in name) == (kind == "lora") for name in changed)
    assert (teacher is critic) == (kind == "lora")
    if teacher is not critic:
        assert all(torch.equal(value, before[teacher][name]) for name, value in teacher.state_dict().items())
    after = copied(student)
    matching.step(parts)
    assert all(torch.equal(value, after[name]) for name, value in student.state_dict().items())


def test_dmd_pt_and_its_simplification_agree_in_the_first_stage_only(tmp_path):
    gradients = {}
    for recipe in ("dmd-pt", "dmd-pt-star"):
        matching = recipe_of(config(tmp_path / recipe, recipe))
        with torch.no_grad():
            for name, value in matching.critic.network.named_parameters():
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


def test_a_student_is_trained_on_the_levels_of_its_steps():
    spec = PRESETS["pyramidal-wan"]
    levels = trained_levels(spec, "2-2-1")
    assert [len(stage) for stage in levels] == [2, 2, 1]
    assert [stage[0] for stage in levels] == [1.0, *spec.boundaries]
    stages = spec.stages(spec.smallest_shape())
    assert [round(stages[0].rho(level), 6) for level in levels[0]] == [1.0, 0.5]
    for schedule in ("1-1-1", "2-2-2", "4-4-4"):
        counts = [int(count) for count in schedule.split("-")]
        assert [len(stage) for stage in trained_levels(spec, schedule)] == counts
    assert trained_levels(PRESETS["plain"], "4", grid="shift", shift=5.0)[0] == pytest.approx((1.0, 0.9375, 0.833333, 0.625))
    picked = picked_level(torch.tensor([0.0, 0.49, 0.5, 0.999999]), levels[1])
    assert torch.equal(picked, torch.tensor([levels[1][0]] * 2 + [levels[1][1]] * 2))


def test_a_student_samples_at_its_trained_levels(tmp_path):
    made = config(tmp_path)
    matching = recipe_of(made)
    visited = []
    student = matching.student
    velocity = student.velocity

    def recording(x, conditioning, context, stage):
        visited.append(float(conditioning))
        return velocity(x, conditioning, context, stage)

    student.velocity = recording
    with torch.no_grad():
        latents = sample_student(student, Cache(made.data.cache), 5)
    assert latents.shape == (1, 16, 5, 16, 16) and latents.isfinite().all()
    assert visited == pytest.approx([level for stage in student.levels for level in stage], abs=1e-6)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"schedule": "2-1"}, "steps '2-1' has 2 numbers, but the pyramid has 3 stages"),
        ({"recipe": "dmd-x"}, "'recipe' is \"dmd-x\""),
        ({"losses__lowest": 0.99}, "must be smaller than"),
        ({"train__inputs": "simulated"}, "'simulated' predicts from no data, so losses.teach must be 0; got 0.01"),
        (
            {"train__inputs": "simulated", "recipe": "adv-od"},
            "'simulated' predicts from no data, so discriminator.reconstruction must be 0; got 2",
        ),
        ({"pyramid__preset": "plain", "schedule": "2"}, "'plain' requires recipe 'dmd' or 'adv'; got 'dmd-pt-star'"),
        (
            {"recipe": "dmd", "pyramid__preset": "pyramidal-wan", "schedule": "2-2-1"},
            "recipe 'dmd' requires pyramid.preset 'plain'; got 'pyramidal-wan'",
        ),
    ],
)
def test_settings_that_do_not_fit_are_errors(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        config(tmp_path, **changes)


def test_simulated_inputs_are_the_latents_that_the_students_own_run_visits(tmp_path):
    """Run each sample alone and compare its latents; the prediction from the last level must be the result of the run."""
    made = config(tmp_path, train__inputs="simulated", losses__teach=0.0, pyramid__first_frame="shared")
    student = recipe_of(made).student
    for batch in batches_of(made):
        simulated = student.simulate(batch)
        levels = student.levels[batch.stage]
        for row in range(len(simulated)):
            visited, one = [], slice(row, row + 1)

            def velocity(x, level, stage, visited=visited, batch=batch, one=one):
                if stage.index == batch.stage:
                    visited.append(x)
                return student.velocity(x, level.conditioning, batch.context[one], stage)

            with torch.no_grad():
                student.run(velocity, batch.noise[one], batch.seeds[one], last=batch.stage)
            expected = visited[int(batch.level_pick[row] * len(levels))]
            assert torch.allclose(simulated[row], expected[0], atol=1e-5)
    last = dataclasses.replace(batch, level_pick=torch.full_like(batch.level_pick, 0.999))
    with torch.no_grad():
        assert torch.allclose(student.generate(last), student.sample(last.noise, last.context, last.seeds), atol=1e-5)


@pytest.mark.parametrize("recipe", ["dmd", "dmd-pt"])
def test_simulated_inputs_need_only_prompts(tmp_path, recipe):
    made = config(tmp_path, recipe, train__inputs="simulated", losses__teach=0.0, validation__videos=1)
    folder = Path(made.data.cache)
    info = json.loads((folder / "cache.json").read_text())
    (folder / "cache.json").write_text(json.dumps(info | {"definition": "prompts"}))
    for shard in folder.glob("shard-*.safetensors"):
        with safe_open(shard, framework="pt") as file:
            header, texts = file.metadata(), {n: file.get_tensor(n) for n in file.keys() if n.endswith("text")}  # noqa: SIM118
        save_file(texts, shard, metadata=header)
    runs.run_distillation(made)
    assert (Path(made.out) / "samples").is_dir()
    with pytest.raises(ValueError, match="holds only prompts"):
        runs.run_distillation(config(tmp_path / "other", recipe, data__cache=str(folder)))


@pytest.mark.parametrize(
    "recipe, inputs",
    [
        ("dmd-pt", "data"),
        ("dmd-pt", "simulated"),
        ("adv-od", "data"),
        ("adv-od", "simulated"),
    ],
)
def test_the_estimate_equals_the_forward_passes_that_are_made(tmp_path, recipe, inputs):
    """Count the tokens that pass through each network in a whole cycle of critic updates."""
    pulls = {"losses__teach": 0.0, "discriminator__reconstruction": 0.0} if inputs == "simulated" else {}
    made = config(tmp_path, recipe, train__inputs=inputs, train__critic_updates=3, train__per_stage=2, **pulls)
    distillation = runs.make_distillation(made, parallel.start(made.system))
    frozen, trained, batch_size = Counter(), Counter(), 2

    def count(network, inputs, output):
        x = inputs[0]
        counter = trained if torch.is_grad_enabled() and any(p.requires_grad for p in network.parameters()) else frozen
        counter[math.prod(x.shape[-3:]) // 4] += len(x)
        if counter is frozen and torch.is_grad_enabled() and x.requires_grad:
            frozen[math.prod(x.shape[-3:]) // 4] += len(x)  # the gradient returns through it

    networks = [distillation.student.model.network]
    if recipe == "adv-od":
        networks += [distillation.features.network]
    else:
        networks += [distillation.critic.network, distillation.teacher.network]
    for network in networks:
        network.register_forward_hook(count)
    for _ in range(3):
        distillation.step([batches_of(made, batch_size)])
    estimate = estimate_iteration(made)
    dimensions = transformer_dimensions(made.networks.student, text=6)
    counted = sum(forward_tflops(n, dimensions) * (3 * trained[n] + frozen[n]) for n in {*frozen, *trained}) / 3
    assert estimate.tflops == pytest.approx(counted, rel=1e-6)


@pytest.mark.parametrize("kind", ["full", "lora"])
@pytest.mark.parametrize("recipe", ["dmd-pt", "adv-pd"])
def test_a_dry_run_counts_the_parameters_that_are_trained(tmp_path, recipe, kind):
    made = config(tmp_path, recipe, adapter__kind=kind)
    trainables = runs.make_distillation(made, parallel.start(made.system)).trainables.values()
    trained = sum(weight.numel() for trainable in trainables for weight in trainable.weights.values())
    assert estimate_iteration(made).trained == trained


def test_a_dry_run_of_distillation_prints_operations_and_memory(tmp_path):
    output = run("distill", "runs/wan/1.3b_2-2-1_dmd-pt-star.toml", "--dry-run")
    trained = 2 * costs.lora_parameters(WAN_DIMENSIONS["1.3B"], 128, Adapter().targets)
    assert "30576" in output and f"({trained / 1e6:.4g} million trained" in output
    # the critic is trained in every iteration, the student in every fifth, and there are 1.6 frozen passes
    assert f"one optimiser step: {(1.2 * 3 + 1.6) * (251.84 + 13.50 + 1.63):.4g}"[:-1] in output


@pytest.mark.parametrize("recipe", ["adv", "adv-od", "adv-pd"])
def test_the_heads_learn_and_the_frozen_transformer_does_not_change(tmp_path, recipe):
    made = config(tmp_path, recipe, train__critic_updates=1000)
    adversarial = runs.make_distillation(made, parallel.start(made.system))
    parts = [batches_of(made)]
    frozen = {name: value.clone() for name, value in adversarial.features.network.state_dict().items()}
    losses = [adversarial.step(parts)["loss"] for _ in range(25)]
    assert losses[-1] < 0.7 * losses[0]
    after = adversarial.features.network.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in frozen.items())
    assert adversarial.trainables["student"].done == 1


def test_the_student_learns_to_raise_its_logits(tmp_path):
    """Update the student alone, with fixed heads."""
    made = config(tmp_path, "adv-pd", discriminator__reconstruction=0.0)
    adversarial = runs.make_distillation(made, parallel.start(made.system))
    batch = batches_of(made)[1]

    def logit():
        with torch.no_grad():
            return adversarial.logits(adversarial.student.generate(batch), batch).mean().item()

    before = logit()
    for _ in range(5):
        adversarial.trainables["student"].update([lambda: adversarial.student_losses(batch)["adversarial"][1]])
    assert logit() > before


def test_gradient_checkpointing_does_not_change_the_gradients(tmp_path):
    gradients = []
    for checkpointing in (False, True):
        made = config(tmp_path, "adv-pd")
        made = made.model_copy(update={"networks": made.networks.model_copy(update={"gradient_checkpointing": checkpointing})})
        adversarial = runs.make_distillation(made, parallel.start(made.system))
        assert adversarial.features.network.transformer.is_gradient_checkpointing == checkpointing
        adversarial.student_losses(batches_of(made)[2])["adversarial"][1].backward()
        gradients.append([weight.grad for weight in adversarial.student.model.network.parameters()])
    assert all(torch.allclose(one, other, atol=1e-7) for one, other in zip(*gradients, strict=True))
    assert any(gradient.abs().max() > 1e-6 for gradient in gradients[0])


def test_a_tap_that_does_not_exist_is_an_error_before_networks_are_loaded(tmp_path, monkeypatch):
    made = config(tmp_path, "adv-od", discriminator__taps=[0, 9])
    opened = []
    monkeypatch.setattr(runs, "make_distillation", opened.append)
    for start in (runs.run_distillation, estimate_iteration):
        with pytest.raises(ValueError, match="there is no block 9 in the teacher; expected 0 to 1"):
            start(made)
    assert not opened, "networks were loaded"
