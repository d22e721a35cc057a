"""Training pyramids of patches: initial checkpoints, runs that resume and agree, distillation, and what ComfyUI loads."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from processes import run_pair
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from pyramid.flops import WAN_DIMENSIONS, WanDimensions
from pyramid.latent_shape import LatentShape
from pyramid.patches import fold, unfold
from pyramid.stages import PRESETS, PyramidSpec
from pyramid.training import run as runs
from pyramid.training.__main__ import main
from pyramid.training.config.distill import DistillConfig
from pyramid.training.config.finetune import FinetuneConfig
from pyramid.training.config.toml_config import check_config, to_toml
from pyramid.training.data.batches import Plan, draw_batch
from pyramid.training.engine import draws
from pyramid.training.engine.checkpoints import Checkpoints
from pyramid.training.estimate import costs
from pyramid.training.estimate.dry_run import estimate_iteration, estimate_step
from pyramid.training.export import export, trained_network
from pyramid.training.init_patches import write_initial_checkpoint
from pyramid.training.models.networks import open_network, open_transformer
from pyramid.training.recipes.distill import DistributionMatching
from pyramid.training.recipes.finetune import Finetuning
from pyramid.training.validation import sample, sample_student
from pyramidalwan.samplers.comfyui.patch_files import read_patches
from pyramidalwan.samplers.comfyui.stage_lora import StageLora, add_stage_lora
from pyramidalwan.samplers.comfyui.stage_patches import attach_patches
from tiny_wan.checkpoints import i2v_state_dict, t2v_state_dict
from tiny_wan.training_files import cache_folder, distillation_settings, settings, toml, with_changes

PPF = PRESETS["ppf"]
KINDS = {
    "full": {},
    "lora": {"adapter__kind": "lora"},
    "per-stage": {"adapter__kind": "lora", "adapter__scope": "per-stage", "model__gradient_checkpointing": True},
}


def config(folder, **changes):
    folder.mkdir(exist_ok=True)
    return check_config(FinetuneConfig, _tables(folder, **changes), "test")


def _tables(folder, **changes):
    return settings(folder, **{"pyramid__preset": "ppf", "losses__teacher": 0.0, **changes})


def distillation(folder, recipe="dmd-ppf", **changes):
    folder.mkdir(exist_ok=True)
    values = distillation_settings(folder, recipe=recipe)
    values |= {"pyramid": {"preset": "ppf"}} if recipe == "dmd-ppf" else {"pyramid": {"preset": "plain"}, "schedule": "2"}
    return check_config(DistillConfig, with_changes(values, **changes), "test")


def weights(made, step=None):
    checkpoints = Checkpoints(Path(made.out), keep=9)
    network = trained_network(made, checkpoints, step or checkpoints.steps()[-1])
    return {name: value.detach() for name, value in network.named_parameters() if value.requires_grad}


def batches_of(made, count=4):
    cache = runs.open_cache(made)
    plan = Plan(0, count, 1, 0, 4, drop=0.0, draw_twice=made.draws_twice)
    return [draw_batch(cache, plan, stage, range(count)) for stage in range(made.pyramid.spec().number_of_stages)]


def recipe_of(made):
    kind = DistributionMatching if isinstance(made, DistillConfig) else Finetuning
    return kind(made, runs.parallel.start(made.system))


@torch.no_grad()
def test_the_initial_checkpoint_is_wan_with_layers_that_read_averages(tmp_path):
    """As a prediction: every coarse stage is Wan on the averages, spread over the cells; the last stage is Wan."""
    plain = tmp_path / "wan.safetensors"
    save_file(t2v_state_dict(), plain)
    assert main(["init-ppf", str(plain)]) == 0
    made = tmp_path / "wan_ppf.safetensors"
    with safe_open(made, framework="pt") as file:
        assert PyramidSpec.from_metadata(file.metadata()) == PPF
    assert all(torch.equal(value, load_file(made)[name]) for name, value in t2v_state_dict().items())
    generator = torch.Generator().manual_seed(0)
    x, context = torch.randn(1, 16, 5, 16, 16, generator=generator), torch.randn(1, 7, 4096, generator=generator)
    network, wan, told = open_network(made, PPF), open_network(plain), torch.tensor([0.9])
    for stage in PPF.stages(LatentShape(5, 16, 16)):
        small = fold(x, stage.cell).unflatten(1, (16, -1)).mean(2)
        cells = fold(x, stage.cell).shape[1] // 16
        expected = unfold(wan(small, told, context).repeat_interleave(cells, 1), stage.cell)
        assert torch.allclose(network(x, told, context, stage), expected, atol=1e-5)
    # the same weights at other offsets in their files are rounded otherwise by some CPUs
    torch.testing.assert_close(network(x, told, context), wan(x, told, context), atol=1e-5, rtol=0)


def test_image_to_video_models_and_folders_are_initialised_too(tmp_path):
    weights = {f"model.diffusion_model.{name}": value.half() for name, value in i2v_state_dict().items()}
    save_file(weights, tmp_path / "i2v.safetensors")
    made = write_initial_checkpoint(tmp_path / "i2v.safetensors", PPF, tmp_path / "to.safetensors")
    patches = read_patches(str(made), "i2v")
    assert [stage.sizes for stage in patches.stages.values()] == [(128, 36, 16)] * 2
    assert load_file(made)["patch_stages.0.head.weight"].dtype == torch.float16
    save_file(t2v_state_dict(), tmp_path / "t2v.safetensors")
    open_transformer(tmp_path / "t2v.safetensors").save_pretrained(tmp_path / "folder")
    one = write_initial_checkpoint(tmp_path / "folder", PPF)
    other = write_initial_checkpoint(tmp_path / "t2v.safetensors", PPF)
    assert one == tmp_path / "folder_ppf.safetensors"
    first, second = load_file(one), load_file(other)
    assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["missing.safetensors"], "there is no transformer at missing.safetensors; expected a diffusers folder"),
        (["{folder}/x.safetensors"], "x.safetensors is not a Wan transformer"),
        (["{folder}/x.safetensors", "--set", "coarse=latents"], "coarse must be 'patches'"),
        (["{folder}/x.safetensors", "--set", "boundary=1"], "unknown setting 'boundary' .did you mean 'boundaries'"),
    ],
)
def test_what_cannot_be_initialised_is_one_sentence(tmp_path, capsys, arguments, message):
    import re

    save_file({"x": torch.zeros(1)}, tmp_path / "x.safetensors")
    assert main(["init-ppf", *(argument.format(folder=tmp_path) for argument in arguments)]) == 2
    assert re.search(message, capsys.readouterr().err)


def test_a_checkpoint_with_patches_of_another_pyramid_is_one_sentence(tmp_path):
    save_file(t2v_state_dict(), tmp_path / "wan.safetensors")
    two = dataclasses.replace(PPF, boundaries=(0.9,), downsample_axes=("HW",))
    made = write_initial_checkpoint(tmp_path / "wan.safetensors", two)
    with pytest.raises(ValueError, match="has layers for patches of 1x4x4, but the pyramid reads patches of 4x8x8, 2x4x4"):
        open_network(made, PPF)
    assert len(open_network(made).patch_stages) == 0


def test_a_run_starts_from_the_layers_of_its_checkpoint(tmp_path):
    """A checkpoint that was initialised before, and trained since, keeps its layers and the notes in its header."""
    save_file(t2v_state_dict(), tmp_path / "wan.safetensors", {"author": "someone"})
    to = tmp_path / "two.safetensors"
    two = ["--set", "boundaries=[0.9]", "--set", "downsample_axes=['HW']"]
    assert main(["init-ppf", str(tmp_path / "wan.safetensors"), "--to", str(to), *two]) == 0
    assert list(read_patches(to, "two").stages) == [(1, 2, 2)]
    made = write_initial_checkpoint(to, PPF)
    tensors = load_file(made)
    assert list(read_patches(made, "ppf").stages) == [(4, 4, 4), (2, 2, 2)]
    fewer = dataclasses.replace(PPF, boundaries=(0.9,), downsample_axes=("HW",))
    assert list(read_patches(write_initial_checkpoint(made, fewer), "fewer").stages) == [(1, 2, 2)]
    with safe_open(made, framework="pt") as file:
        header = file.metadata()
    assert header["author"] == "someone" and json.loads(header["pyramid_provenance"])["base"] == "two.safetensors"
    trained = {name: value + 1 if name.startswith("patch_stages.") else value for name, value in tensors.items()}
    save_file({f"diffusion_model.{name}": value for name, value in trained.items()}, tmp_path / "trained.safetensors")
    for name, value in open_network(tmp_path / "trained.safetensors", PPF).patch_stages.state_dict().items():
        assert torch.equal(value, trained[f"patch_stages.{name}"])


@pytest.mark.parametrize("name", ["head.head.bias", "patch_stages.0.head.bias"])
def test_layers_that_hold_no_numbers_are_no_start(tmp_path, name):
    save_file(t2v_state_dict(), tmp_path / "wan.safetensors")
    tensors = load_file(write_initial_checkpoint(tmp_path / "wan.safetensors", PPF))
    save_file({**tensors, name: tensors[name] * torch.nan}, tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match="NaN"):
        if name == "head.head.bias":
            write_initial_checkpoint(tmp_path / "x.safetensors", PPF)
        else:
            open_network(tmp_path / "x.safetensors", PPF)


def test_a_quantised_model_is_no_start(tmp_path):
    quantised = {name: value.to(torch.float8_e4m3fn) for name, value in t2v_state_dict().items()}
    save_file(quantised, tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match="is quantised and cannot be trained; use the fp16, bf16 or fp32 file"):
        write_initial_checkpoint(tmp_path / "x.safetensors", PPF)


@pytest.mark.parametrize("kind", KINDS)
def test_every_stage_learns_with_its_own_layers(tmp_path, kind):
    """A step moves all layers of coarse stages, whole, also beside a LoRA, and the blocks' weights or adapters."""
    made = config(tmp_path, **KINDS[kind])
    recipe = recipe_of(made)
    network = recipe.model.network
    before = {name: value.clone() for name, value in network.state_dict().items()}
    recipe.step([batches_of(made)])
    changed = {name for name, value in network.state_dict().items() if not torch.equal(value, before[name])}
    assert {name for name in before if name.startswith("patch_stages.")} <= changed
    rest = {name for name in changed if not name.startswith("patch_stages.")}
    assert rest and all(("lora_" in name) == (kind != "full") for name in rest)


def test_a_layer_learns_from_its_own_stage_only(tmp_path):
    made = config(tmp_path)
    recipe = recipe_of(made)
    for batch in batches_of(made):
        recipe.model.network.zero_grad()
        recipe.stage_losses(batch)["flow"][1].backward()
        learning = {name for name, value in recipe.model.network.named_parameters() if value.grad is not None}
        own = {name.split(".")[1] for name in learning if name.startswith("patch_stages.")}
        assert own == ({str(batch.stage)} if batch.stage < 2 else set())
        assert ("transformer.patch_embedding.weight" in learning) == (batch.stage == 2)


def test_every_stage_reads_the_finest_latents_of_any_cache(tmp_path):
    made = config(tmp_path)
    cache = runs.open_cache(made)
    assert (cache.stages, len({cache.size(stage) for stage in range(3)})) == (3, 1)
    batches = batches_of(made)
    assert all(batch.clean.shape[1:] == (16, 5, 16, 16) and batch.coarse is None for batch in batches)
    plain = cache_folder(tmp_path / "plain", spec=PRESETS["plain"])
    other = made.model_copy(update={"data": made.data.model_copy(update={"cache": str(plain)})})
    runs.check_cache(other, runs.open_cache(other))
    assert runs.open_cache(other).stages == 3


def test_the_target_is_the_ordinary_flow(tmp_path):
    """The last stage, which reads latents as Wan does, has the loss of plain finetuning at its levels."""
    made = config(tmp_path)
    recipe, batch = recipe_of(made), batches_of(made)[2]
    level = 0.8 * batch.rho
    x = (1 - level[:, None, None, None, None]) * batch.clean + level[:, None, None, None, None] * batch.noise
    with torch.no_grad():
        velocity = recipe.model.network(x, level, batch.context)
        expected = (velocity - (batch.noise - batch.clean)).square().mean()
        assert recipe.stage_losses(batch)["flow"][1].item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(tmp_path, kind):
    whole = config(tmp_path / "a", **KINDS[kind])
    runs.run_finetuning(whole)
    resumed = config(tmp_path / "b", **KINDS[kind], train__steps=2)
    runs.run_finetuning(resumed)
    runs.run_finetuning(resumed.model_copy(update={"train": whole.train}))
    one, other = weights(whole), weights(resumed)
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("kind", ["full", "lora"])
def test_two_processes_with_shards_equal_one_with_twice_the_batch(tmp_path, kind):
    """Allow a few outliers: AdamW's first step is the sign of the gradient, which is rounding error where the gradient is 0."""
    changes = {**KINDS[kind], "optimizer__learning_rate": 1e-4}
    one = config(tmp_path / "one", **changes, train__steps=2, train__per_stage=4)
    runs.run_finetuning(one)
    tables = {**_tables(tmp_path / "one", **changes, train__steps=2, system__parallel="fsdp2"), "out": str(tmp_path / "two")}
    two = check_config(FinetuneConfig, tables, "test")
    run_pair("finetune", toml(tables, tmp_path / "two.toml"), output=tmp_path)
    mine, theirs = weights(one), weights(two)
    assert mine.keys() == theirs.keys()
    apart = torch.cat([(mine[name] - theirs[name]).abs().flatten() for name in mine]) > 8e-6
    assert apart.float().mean() <= 1e-4
    losses = [json.loads((Path(made.out) / "log.jsonl").read_text().splitlines()[0])["loss"] for made in (one, two)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_two_processes_with_shards_distil_like_one_with_twice_the_batch(tmp_path):
    rates = {"student__learning_rate": 1e-5, "critic__learning_rate": 1e-5, "train__steps": 1}
    one = distillation(tmp_path / "one", **rates, train__per_stage=4)
    runs.run_distillation(one)
    two = distillation(tmp_path / "two", **rates, train__per_stage=2, system__parallel="fsdp2", data__cache=one.data.cache)
    path = tmp_path / "two.toml"
    path.write_text(to_toml(two))
    run_pair("distill", path, output=tmp_path)
    mine, theirs = weights(one, 1), weights(two, 1)
    assert mine.keys() == theirs.keys() and all(torch.allclose(mine[name], theirs[name], atol=3e-5) for name in mine)


def test_a_distillation_trains_resumes_and_exports(tmp_path):
    whole = distillation(tmp_path / "a", validation__videos=1, validation__every=2)
    (file,) = runs.run_distillation(whole)
    resumed = distillation(tmp_path / "b", train__steps=2)
    runs.run_distillation(resumed)
    runs.run_distillation(resumed.model_copy(update={"train": whole.train}))
    one, other = weights(whole), weights(resumed)
    assert all(torch.equal(one[name], other[name]) for name in one)
    patches = read_patches(str(file), "x")
    assert patches.spec.to_json() == PPF.to_json() and list(patches.stages) == [(4, 4, 4), (2, 2, 2)]
    assert [stage[:-1] for stage in patches.levels] == whole.student_levels
    log = [json.loads(line) for line in (Path(whole.out) / "log.jsonl").read_text().splitlines()]
    assert any("samples/detail" in line for line in log)


def test_the_gradient_is_that_of_plain_dmd_at_full_size(tmp_path):
    """Teacher and critic read every prediction as plain Wan does, so that the oracle of plain DMD holds for every stage."""
    ours, plain = (recipe_of(distillation(tmp_path / name, name, losses__cfg=3.0)) for name in ("dmd-ppf", "dmd"))
    for matching in (ours, plain):
        with torch.no_grad():
            for name, value in matching.critic.network.named_parameters():
                value.add_(0.02 * torch.randn(value.shape, generator=draws.generator(0, name)))
    for batch in batches_of(ours.config):
        clean = torch.randn(batch.clean.shape, generator=torch.Generator().manual_seed(batch.stage))
        expected = plain.matching_gradient(clean, dataclasses.replace(batch, stage=0))
        assert torch.equal(ours.matching_gradient(clean, batch), expected) and expected.abs().max() > 1e-4
    assert len(ours.critic.network.patch_stages) == len(ours.teacher.network.patch_stages) == 0


def test_simulated_inputs_are_the_latents_that_the_students_own_run_visits(tmp_path, monkeypatch):
    made = distillation(tmp_path, train__inputs="simulated", losses__teach=0.0)
    student, stages = recipe_of(made).student, []
    network_velocity = student.model.velocity
    for batch in batches_of(made):
        with monkeypatch.context() as patched:
            record = lambda *a: stages.append(a[-1].index) or network_velocity(*a)  # noqa: E731
            patched.setattr(type(student.model), "velocity", lambda _, *a, record=record: record(*a))
            simulated, levels = student.simulate(batch), student.levels[batch.stage]
        assert max(stages) <= batch.stage  # no later stage runs
        visited = []

        def velocity(x, level, stage, visited=visited, batch=batch):
            if stage.index == batch.stage:
                visited.append(x)
            return student.velocity(x, level.conditioning, batch.context, stage)

        with torch.no_grad():
            student.run(velocity, batch.noise, batch.seeds, last=batch.stage)
        for row, pick in enumerate(batch.level_pick):
            assert torch.allclose(simulated[row], visited[int(pick * len(levels))][row], atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_the_exported_file_samples_in_comfyui_as_in_training(tmp_path, t2v_model, kind):
    """Node, few Euler steps and the same noise: the video of the training's own sampler."""
    import comfy.sd
    from comfyui_graph import GivenNoise, guider

    from pyramidalwan.pyramid.schedules import stage_levels
    from pyramidalwan.pyramid.stages import PyramidSpec as NodesSpec
    from pyramidalwan.samplers.comfyui.lora_file import load_lora_file
    from pyramidalwan.samplers.run import PyramidRun
    from pyramidalwan.samplers.supported_samplers import make_sampler

    made = config(tmp_path, **KINDS[kind], optimizer__learning_rate=1e-2)
    runs.run_finetuning(made)
    files = export(made, tmp_path / "out.safetensors", precision="fp32")
    model = comfy.sd.load_diffusion_model(made.model.transformer)
    if kind == "full":
        model = comfy.sd.load_diffusion_model_state_dict(
            {name: value for name, value in load_file(files[0]).items() if not name.startswith("patch_stages.")}
        )
        model, _ = attach_patches(model, read_patches(str(files[0]), "out"))
    names = ["low", "mid", "high"] if kind == "per-stage" else ["all"]
    for file, stages in zip(files, names, strict=True) if kind != "full" else ():
        model, report = add_stage_lora(model, StageLora(load_lora_file(file, file.name), 1.0, stages))
    recipe, cache = recipe_of(made), runs.open_cache(made)
    network = trained_network(made, Checkpoints(Path(made.out), keep=9), 4)
    recipe.model.network.load_state_dict(network.state_dict())
    with torch.no_grad():
        ours = sample(recipe, cache, 5, steps="2-1-1", cfg=1.0)
        noise = draws.white((1, *cache.size(2)), 20260104, "sample", 5)
        own = guider(model, positive=[[cache.text(5)[None], {}]])
        spec = NodesSpec.from_json(made.pyramid.spec().to_json())
        levels = stage_levels(spec, (2, 1, 1))
        theirs = PyramidRun(own, GivenNoise(noise), make_sampler("euler"), levels, spec).sample(
            {"samples": torch.zeros(1, 16, 5, 16, 16)}
        )
    theirs = model.model.process_latent_in(theirs.output["samples"])
    assert (ours - theirs).abs().max() < 2e-3


def test_parameters_of_patches_are_counted_exactly(tmp_path):
    save_file(t2v_state_dict(), tmp_path / "wan.safetensors")
    network = open_network(tmp_path / "wan.safetensors", PPF)
    counted = costs.patch_parameters(WanDimensions(dim=128, ffn_dim=256, layers=2), [(4, 4, 4), (2, 2, 2)])
    assert counted == sum(weight.numel() for weight in network.patch_stages.parameters())


def test_a_dry_run_counts_token_grids_and_tells_the_bound_of_the_width(tmp_path):
    changes = {"video__width": 832, "video__height": 448, "video__frames": 81, "model__transformer": "missing"}
    made = config(tmp_path, **changes)
    step = estimate_step(made)
    assert [stage.tokens for stage in step.stages] == [546, 4004, 30576]
    patches = costs.patch_parameters(WAN_DIMENSIONS["1.3B"], [(4, 4, 4), (2, 2, 2)])
    assert step.trained == costs.parameters(WAN_DIMENSIONS["1.3B"]) + patches
    text = step.text(10)
    assert "stage low: its head makes 4096 outputs from 1536 numbers per token, so whatever is trained, 62%" in text
    assert "stage mid" not in text and text.count("21 x 56 x 104") == 3


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("make", [config, distillation])
def test_a_dry_run_counts_the_parameters_that_are_trained(tmp_path, make, kind):
    changes = {name: value for name, value in KINDS[kind].items() if name.startswith("adapter")}
    made = make(tmp_path, **changes)
    trained = [weight for trainable in recipe_of(made).trainables.values() for weight in trainable.weights.values()]
    estimate = estimate_step if make is config else estimate_iteration
    assert estimate(made).trained == sum(weight.numel() for weight in trained)


def test_teacher_and_critic_are_counted_at_full_size(tmp_path):
    made = distillation(tmp_path)
    low, mid, high = estimate_iteration(made).stages
    other = estimate_iteration(distillation(tmp_path, "dmd"))
    assert low.tflops > 0.5 * high.tflops and mid.tflops < high.tflops
    assert high.tflops == pytest.approx(other.stages[0].tflops, rel=1e-6)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"pyramid__preset": "plain", "schedule": "2"}, "'plain' requires recipe 'dmd' or 'adv'; got 'dmd-ppf'"),
        ({"pyramid__preset": "pyramidal-wan"}, "require each other; got pyramid.preset 'pyramidal-wan' and recipe 'dmd-ppf'"),
    ],
)
def test_the_recipe_needs_a_pyramid_of_patches(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        distillation(tmp_path, **changes)
    with pytest.raises(ValueError, match="require each other; got pyramid.preset 'ppf' and recipe 'dmd-ot'"):
        values = json.loads(distillation(tmp_path).model_dump_json())
        check_config(DistillConfig, {**values, "recipe": "dmd-ot"}, "test")


def test_a_student_samples_full_size_videos(tmp_path):
    made = distillation(tmp_path)
    with torch.no_grad():
        latents = sample_student(recipe_of(made).student, runs.open_cache(made), 5)
    assert latents.shape == (1, 16, 5, 16, 16) and latents.isfinite().all()
