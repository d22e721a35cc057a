"""Whole finetuning runs: they resume exactly, processes agree, checkpoints stay intact, and ComfyUI loads what they export."""

import json
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch
from processes import run, run_pair, start
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from pyramid.stages import PRESETS, PyramidSpec
from pyramid.training import run as runs
from pyramid.training.config.finetune import FinetuneConfig
from pyramid.training.config.toml_config import check_config
from pyramid.training.engine.checkpoints import Checkpoints
from pyramid.training.engine.errors import NotFiniteError, StoppedError
from pyramid.training.engine.locks import locked
from pyramid.training.engine.run_log import RunLog
from pyramid.training.export import export, trained_network
from pyramid.training.models import adapters
from pyramid.training.recipes.finetune import Finetuning
from pyramid.training.validation import FinetuneValidation
from pyramidalwan.samplers.comfyui.lora_file import load_lora_file
from pyramidalwan.samplers.comfyui.model_files import spec_from_file
from pyramidalwan.samplers.comfyui.stage_lora import StageLora, add_stage_lora
from tiny_wan.training_files import cache_folder, settings, toml, transformer_file

KINDS = {
    "full": {},
    "lora": {"adapter__kind": "lora"},
    "per-stage": {"adapter__kind": "lora", "adapter__scope": "per-stage", "model__gradient_checkpointing": True},
}

PLAIN = {
    "pyramid__field": "natural", "pyramid__timestep_source": "sigma", "pyramid__first_frame": "shared", "losses__teacher": 0.0,
}  # fmt: skip
ALL_SIZES = {**PLAIN, "train__levels": "all"}
"""A plain teacher for all sizes, as dmd-ot uses it."""


def config(folder, **changes):
    folder.mkdir(exist_ok=True)
    return check_config(FinetuneConfig, settings(folder, **changes), "test")


def weights(config, step=None):
    checkpoints = Checkpoints(folder_of(config), keep=9)
    network = trained_network(config, checkpoints, step or checkpoints.steps()[-1])
    return {name: value.detach() for name, value in network.named_parameters() if value.requires_grad}


def folder_of(config):
    return Path(config.out)


def assert_equal(one, other):
    assert one.keys() == other.keys()
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


def assert_close(one, other, *, atol, outliers=0.0):
    """Compare all weights; outliers: share of them that may differ by more than ``atol``."""
    assert one.keys() == other.keys()
    apart = torch.cat([(one[name] - other[name]).abs().flatten() for name in one]) > atol
    assert apart.float().mean() <= outliers


def log(config):
    return [json.loads(line) for line in (folder_of(config) / "log.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_trains_and_exports(tmp_path, kind):
    made = config(tmp_path, **KINDS[kind], validation__videos=1, validation__every=2)
    files = runs.run_finetuning(made)
    losses = [line["loss"] for line in log(made) if "loss" in line]
    assert len(losses) == 4 and all(map(torch.isfinite, map(torch.tensor, losses)))
    names = {"full": ["run-step4.safetensors"], "lora": ["run-step4.safetensors"]}
    per_stage = [f"run-step4-{stage}.safetensors" for stage in ("low", "mid", "high")]
    assert [file.name for file in files] == names.get(kind, per_stage)
    validation = [line for line in log(made) if "validation" in line]
    assert {"validation/low", "validation/high", "samples/detail", "samples/motion"} <= set(validation[-1])
    assert len(list((folder_of(made) / "samples").glob("*.safetensors"))) == 2
    assert list((folder_of(made) / "tensorboard").iterdir())


@pytest.mark.parametrize("kind", KINDS)
def test_training_lowers_the_held_out_loss(tmp_path, kind):
    rate = 3e-3 if kind == "full" else 1e-2
    changes = {"train__steps": 25, "optimizer__learning_rate": rate, "optimizer__ema": 0.5, "validation__every": 5}
    made = config(tmp_path, **KINDS[kind], **changes)
    runs.run_finetuning(made)
    held_out = [line["validation"] for line in log(made) if "validation" in line]
    assert held_out[-1] < 0.9 * held_out[0]


@pytest.mark.parametrize("kind", KINDS)
def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(tmp_path, kind):
    uninterrupted = config(tmp_path / "uninterrupted", **KINDS[kind])
    runs.run_finetuning(uninterrupted)
    resumed = config(tmp_path / "resumed", **KINDS[kind], train__steps=2)
    runs.run_finetuning(resumed)
    runs.run_finetuning(resumed.model_copy(update={"train": uninterrupted.train}))
    assert_equal(weights(uninterrupted), weights(resumed))
    logs = [[{**line, "seconds": 0} for line in log(made) if "loss" in line] for made in (uninterrupted, resumed)]
    assert logs[0] == logs[1]


@pytest.mark.parametrize("kind", KINDS)
def test_only_trained_weights_change(tmp_path, kind):
    made = config(tmp_path, **KINDS[kind])
    before = Finetuning(made, runs.parallel.start(made.system)).model.network.state_dict()
    runs.run_finetuning(made)
    checkpoints = Checkpoints(folder_of(made), keep=9)
    after = trained_network(made, checkpoints, 4).state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed and all(("lora_" in name) == (kind != "full") for name in changed)
    if kind == "per-stage":
        assert {name.split(".")[-2] for name in changed} == {"stage0", "stage1", "stage2"}


@pytest.mark.parametrize("kind, parallel", [*((kind, "fsdp2") for kind in (*KINDS, "all sizes")), ("lora", "ddp")])
def test_two_processes_equal_one_with_twice_the_batch(tmp_path, kind, parallel):
    """Allow a few outliers: AdamW's first step is the sign of the gradient, which is rounding error where the gradient is 0."""
    changes = {**KINDS, "all sizes": ALL_SIZES}[kind] | {"optimizer__learning_rate": 1e-4}
    one = config(tmp_path / "one", **changes, train__steps=2, train__per_stage=4)
    runs.run_finetuning(one)
    tables = settings(tmp_path / "one", **changes, train__steps=2, system__parallel=parallel)
    two = check_config(FinetuneConfig, {**tables, "out": str(tmp_path / "two")}, "test")
    run_pair("finetune", toml({**tables, "out": two.out}, tmp_path / "two.toml"), output=tmp_path)
    assert_close(weights(one), weights(two), atol=8e-6, outliers=1e-5)
    assert log(one)[0]["loss"] == pytest.approx(log(two)[0]["loss"], rel=1e-5)
    assert log(one)[-1]["validation"] == pytest.approx(log(two)[-1]["validation"], rel=1e-4)


def test_a_sharded_checkpoint_resumes_in_one_process(tmp_path):
    tables = settings(tmp_path, train__steps=2, system__parallel="fsdp2")
    run("finetune", toml(tables, tmp_path / "run.toml"), processes=2)
    tables["system"]["parallel"], tables["train"]["steps"] = "ddp", 3
    made = check_config(FinetuneConfig, tables, "test")
    runs.run_finetuning(made)
    assert [line["step"] for line in log(made) if "loss" in line] == [1, 2, 3]


def test_sigterm_saves_and_the_same_command_resumes(tmp_path):
    tables = settings(tmp_path, train__steps=100000, keep__save_every=50000)
    made = check_config(FinetuneConfig, tables, "test")
    process = start("finetune", toml(tables, tmp_path / "run.toml"))
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not ((folder_of(made) / "log.jsonl").exists() and len(log(made)) > 3):
        time.sleep(0.2)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 2 and "stopped by a signal" in output
    (saved,) = Checkpoints(folder_of(made), keep=3).steps()
    assert log(made)[-1]["step"] == saved
    runs.run_finetuning(made.model_copy(update={"train": made.train.model_copy(update={"steps": saved + 1})}))
    assert [line["step"] for line in log(made) if "loss" in line] == list(range(1, saved + 2))


def test_a_loss_that_is_not_finite_stops_the_run_and_leaves_the_checkpoint_intact(tmp_path, monkeypatch):
    made = config(tmp_path)
    healthy = Finetuning.stage_losses

    def broken(self, batch):
        losses = healthy(self, batch)
        if self.trainables["network"].done == 3:
            losses["flow"] = (1.0, losses["flow"][1] * float("nan"))
        return losses

    monkeypatch.setattr(Finetuning, "stage_losses", broken)
    with pytest.raises(StoppedError, match="not finite in step 4; the checkpoint of step 2 is intact"):
        runs.run_finetuning(made)
    assert all(value.isfinite().all() for value in weights(made).values())
    monkeypatch.undo()
    runs.run_finetuning(made)
    assert Checkpoints(folder_of(made), keep=9).steps()[-1] == 4


def test_an_exploding_loss_stops_the_run(tmp_path):
    made = config(tmp_path, train__steps=80, optimizer__learning_rate=1e-4)
    recipe = Finetuning(made, runs.parallel.start(made.system))
    losses = iter([1.0] * 59 + [100.0])
    recipe.step = lambda parts: {"loss": next(losses)}
    cache = runs.Cache(made.data.cache)
    loop = runs.TrainingLoop(
        recipe, runs.step_batches(made, cache, recipe.accelerator), recipe.accelerator,
        folder_of(made), made.keep, steps=80, validate=lambda step: {}, validate_every=1000,
    )  # fmt: skip
    with pytest.raises(StoppedError, match="the loss exploded in step 60.*the checkpoint of step 58 is intact"):
        loop.run()


def test_a_gradient_that_is_not_finite_changes_nothing(tmp_path):
    made = config(tmp_path)
    trainable = Finetuning(made, runs.parallel.start(made.system)).trainables["network"]
    before = {name: value.detach().clone() for name, value in trainable.weights.items()}
    with pytest.raises(NotFiniteError):
        trainable.update([lambda: sum(value.sum() for value in trainable.weights.values()) * float("inf")])
    assert_equal(before, {name: value.detach() for name, value in trainable.weights.items()})
    assert trainable.done == 0 and not trainable.optimizer.state


@pytest.mark.parametrize(
    "rest", [b'{"step": 4, "lo', bytes(range(256)), b'{"step": "x"}\n[1]\n3'], ids=["cut", "binary", "other"]
)
def test_a_resumed_log_has_every_step_exactly_once(tmp_path, rest):
    first = RunLog(tmp_path, start=0, is_main=True)
    for step in (1, 2, 3):
        first.report(step, {"loss": step})
    first.close()
    with (tmp_path / "log.jsonl").open("ab") as file:
        file.write(rest)
    second = RunLog(tmp_path, start=2, is_main=True)
    second.report(3, {"loss": 30.0})
    second.close()
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert lines == [{"step": 1, "loss": 1.0}, {"step": 2, "loss": 2.0}, {"step": 3, "loss": 30.0}]


@pytest.mark.parametrize("name", ["model.transformer", "data.cache"])
def test_resuming_with_other_contents_behind_the_same_name_is_an_error(tmp_path, name):
    made = config(tmp_path, train__steps=1)
    runs.run_finetuning(made)
    if name == "data.cache":
        shutil.rmtree(tmp_path / "cache")
        cache_folder(tmp_path / "cache", items=5)
    else:
        save_file({key: value + 1 for key, value in load_file(made.model.transformer).items()}, made.model.transformer)
    with pytest.raises(ValueError, match=f"started with other contents of {name} .was [0-9a-f]+, is [0-9a-f]+.; restore"):
        runs.run_finetuning(made.model_copy(update={"train": made.train.model_copy(update={"steps": 2})}))


def test_weights_that_are_not_finite_are_not_saved(tmp_path, monkeypatch):
    made = config(tmp_path, keep__save_every=1)
    healthy = Finetuning.step

    def overflowing(self, parts):
        numbers = healthy(self, parts)
        if self.trainables["network"].done == 2:
            with torch.no_grad():
                next(iter(self.trainables["network"].weights.values())).fill_(float("inf"))
        return numbers

    monkeypatch.setattr(Finetuning, "step", overflowing)
    expected = "the weights of network of step 2 are not finite and were not saved; the checkpoint of step 1 is intact"
    with pytest.raises(StoppedError, match=expected):
        runs.run_finetuning(made)
    assert Checkpoints(folder_of(made), keep=9).steps() == [1]


def test_a_validation_that_is_not_finite_is_not_the_best(tmp_path, monkeypatch):
    made = config(tmp_path, train__steps=2, validation__every=1, keep__checkpoints=9)
    monkeypatch.setattr(FinetuneValidation, "__call__", lambda self, step: {"validation": [float("nan"), 1.0][step - 1]})
    runs.run_finetuning(made)
    assert Checkpoints(folder_of(made), keep=9).best() == 2


def test_a_damaged_checkpoint_is_set_aside_and_the_run_ends_as_if_undisturbed(tmp_path, capsys):
    undisturbed, damaged = (config(tmp_path / name, keep__checkpoints=9) for name in ("undisturbed", "damaged"))
    for made in (undisturbed, damaged):
        runs.run_finetuning(made)
    (body,) = (folder_of(damaged) / "checkpoints" / "step-00000004").glob("*.distcp")
    body.write_bytes(body.read_bytes()[:-1000] + bytes(1000))
    runs.run_finetuning(damaged)
    assert "the checkpoint of step 4 is damaged (__0_0.distcp has changed" in capsys.readouterr().err
    assert_equal(weights(undisturbed), weights(damaged))


def test_a_run_removes_the_checkpoint_that_a_kill_right_after_saving_left(tmp_path, monkeypatch):
    made = config(tmp_path, keep__checkpoints=1)
    with monkeypatch.context() as patched:
        patched.setattr(Checkpoints, "remove_old", lambda self: None)
        runs.run_finetuning(made)
    checkpoints = Checkpoints(folder_of(made), keep=1)
    assert checkpoints.steps() == [2, 4]
    runs.run_finetuning(made)
    assert checkpoints.steps() == [4]


def test_a_run_that_is_in_use_is_refused(tmp_path):
    made = config(tmp_path)
    with locked(folder_of(made)), pytest.raises(ValueError, match="run is in use by this process"):
        runs.run_finetuning(made)
    runs.run_finetuning(made)


def test_exporting_a_damaged_checkpoint_is_an_error_that_names_the_others(tmp_path):
    made = config(tmp_path)
    runs.run_finetuning(made)
    (folder_of(made) / "checkpoints" / "step-00000004" / "notes.json").write_text("{}")
    with pytest.raises(ValueError, match="step 4 in .* is damaged .notes.json has changed.*expected an intact one, --step 2"):
        export(made, step=4)


@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_text("{}")])
@pytest.mark.parametrize("name", ["checksums.json", "notes.json"])
def test_another_checkpoint_is_not_exported_silently_when_the_best_one_is_not_known(tmp_path, name, damage):
    """The damaged one may have been the best, so it also stays."""
    made = config(tmp_path)
    checkpoints = Checkpoints(folder_of(made), keep=1)
    for step, loss in ((1, 0.5), (2, 0.7)):
        checkpoints.save(step, {"weight": torch.zeros(1)}, {"validation": loss})
    damage(checkpoints.path(1) / name)
    checkpoints.save(3, {"weight": torch.zeros(1)}, {"validation": 0.9})
    assert checkpoints.steps() == [1, 2, 3]
    with pytest.raises(ValueError, match="step 1 in .* is damaged .*expected an intact one, --step 2 or 3"):
        export(made)


def test_resuming_with_different_settings_is_an_error(tmp_path):
    runs.run_finetuning(config(tmp_path))
    with pytest.raises(ValueError, match="different settings: losses.teacher, optimizer.learning_rate changed"):
        runs.run_finetuning(config(tmp_path, optimizer__learning_rate=1e-5, losses__teacher=0.5))


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"video__width": 64}, "video. is 64x128, 17 frames, but the cache has 128x128, 17 frames"),
        ({"pyramid__preset": "pyramidal-flow"}, "is .'HW', 'HW'., but the cache has .'THW', 'THW'."),
        ({"pyramid__resize": "dct"}, "pyramid.resize is 'dct', but the cache averages latents with 'haar'"),
        ({"data__held_out": 6}, "data.held_out is 6, but the cache has only 6 items"),
        ({"adapter__kind": "lora", "adapter__targets": ["to_x"]}, "no linear layer 'to_x'"),
        ({"system__parallel": "fsdp2"}, "'fsdp2' requires several processes"),
    ],
)
def test_settings_that_do_not_fit_are_errors(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        runs.run_finetuning(config(tmp_path, **changes))


def test_a_wrong_setting_on_the_command_line_prints_one_line_and_no_traceback(tmp_path):
    path = toml(settings(tmp_path), tmp_path / "run.toml")
    output = run("finetune", path, "--set", "train.stepps=3", expect=2)
    assert output.strip().splitlines()[-1].startswith(f"pyramid.training: {path}: unknown setting 'train.stepps'")
    assert "Traceback" not in output


def test_a_dry_run_prints_configuration_and_costs_and_writes_nothing(tmp_path):
    tables = settings(tmp_path)
    tables["model"] = {"transformer": str(tmp_path / "not-there.safetensors")}
    tables["data"]["cache"] = str(tmp_path / "not-there")
    tables["video"] = {"width": 832, "height": 448, "frames": 81}
    output = run("finetune", toml(tables, tmp_path / "run.toml"), "--dry-run")
    assert "30576" in output and "4004" in output and "546" in output
    assert "one process, one optimiser step: 2666 TFLOPs" in output
    assert "learning_rate = 0.001" in output and "GiB of weights and optimiser (1419 million trained" in output
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("kind", KINDS)
def test_the_exported_file_is_the_trained_network_in_comfyui(tmp_path, kind):
    """Compare the velocities at the size of every stage, within 1e-4."""
    made = config(tmp_path, **KINDS[kind], optimizer__learning_rate=3e-2)
    runs.run_finetuning(made)
    files = export(made, tmp_path / "out.safetensors", precision="fp32")
    network = trained_network(made, Checkpoints(folder_of(made), keep=9), 4)
    generator = torch.Generator().manual_seed(0)
    for stage in PRESETS["pyramidal-wan"].stages(made.video.latent):
        x = torch.randn(1, 16, stage.shape.frames, stage.shape.height, stage.shape.width, generator=generator)
        context, conditioning = torch.randn(1, 6, 4096, generator=generator), torch.tensor([0.7])
        adapters.choose(network.transformer, made.adapter, stage.index)
        ours = network(x, conditioning, context).detach()
        file = files[stage.index] if len(files) > 1 else files[0]
        assert (ours - comfyui_velocity(tmp_path, kind, file, x, conditioning, context)).abs().max() < 1e-4
        assert (ours - comfyui_velocity(tmp_path, "plain", file, x, conditioning, context)).abs().max() > 1e-2


@torch.no_grad()
def comfyui_velocity(folder, kind, file, x, conditioning, context):
    """Return the velocity of ComfyUI's network with the file loaded by ComfyUI."""
    import comfy.model_management
    import comfy.sd
    import comfy.utils

    model = comfy.sd.load_diffusion_model(str(file if kind == "full" else transformer_file(folder)))
    if kind in ("lora", "per-stage"):
        model, _ = comfy.sd.load_lora_for_models(model, None, comfy.utils.load_torch_file(str(file)), 1.0, 0.0)
    comfy.model_management.load_models_gpu([model])
    velocity = model.model.diffusion_model(x, 1000 * conditioning, context)
    comfy.model_management.unload_all_models()
    return velocity


@pytest.mark.parametrize("kind", ["lora", "per-stage"])
def test_the_lora_node_matches_every_module_of_an_exported_lora(tmp_path, t2v_model, kind):
    made = config(tmp_path, **KINDS[kind])
    for file in runs.run_finetuning(made):
        lora = load_lora_file(file, file.name)
        _, report = add_stage_lora(t2v_model, StageLora(lora, 1.0, "all"))
        assert "'" + file.name + "': 20 of 20 modules applied" in report
        assert lora.spec.to_json() == made.pyramid.spec().to_json()


def test_a_plain_teacher_for_all_sizes_is_trained_on_every_level_at_every_stage(tmp_path):
    made = config(tmp_path, **ALL_SIZES, train__per_stage=8)
    recipe = Finetuning(made, runs.parallel.start(made.system))
    seen = {}
    velocity = recipe.velocity

    def recording(x, level, stage, context):
        seen[stage.index] = level.conditioning
        return velocity(x, level, stage, context)

    recipe.velocity = recording
    (parts, *_) = runs.step_batches(made, runs.Cache(made.data.cache), recipe.accelerator)(0)
    for batch in parts[0]:
        recipe.stage_losses(batch)
    assert all(conditioning.min() < 0.15 and conditioning.max() > 0.85 for conditioning in seen.values()) and len(seen) == 3
    with pytest.raises(ValueError, match="train.levels 'all' requires pyramid.field 'natural'; got 'pyramidal'"):
        config(tmp_path, train__levels="all")


def test_the_header_holds_the_pyramid_the_recipe_and_the_provenance(tmp_path):
    made = config(tmp_path, pyramid__boundaries=[0.9, 0.5])
    (file,) = runs.run_finetuning(made)
    with safe_open(file, framework="pt") as opened:
        header = opened.metadata()
    assert PyramidSpec.from_metadata(header).boundaries == (0.9, 0.5)
    assert FinetuneConfig.model_validate_json(header["pyramid_recipe"]) == made
    assert json.loads(header["pyramid_provenance"]) == {"base": "tiny.safetensors", "cache": "cache", "step": 4}
    assert next(iter(load_file(file).values())).dtype == torch.bfloat16


def test_exporting_a_missing_checkpoint_or_an_unknown_precision_is_an_error(tmp_path):
    made = config(tmp_path)
    with pytest.raises(ValueError, match="there is no checkpoint in"):
        export(made)
    runs.run_finetuning(made)
    with pytest.raises(ValueError, match="no checkpoint of step 3 in .*; expected 2, 4"):
        export(made, step=3)
    with pytest.raises(ValueError, match="unknown precision 'fp8'; expected bf16, fp16, fp32"):
        export(made, precision="fp8")


def test_the_nodes_read_the_pyramid_of_an_exported_file(tmp_path, monkeypatch):
    import folder_paths

    made = config(tmp_path)
    export_to = tmp_path / "models" / "mine.safetensors"
    runs.run_finetuning(made)
    export(made, export_to)
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "diffusion_models", ([str(export_to.parent)], {".safetensors"}))
    assert spec_from_file("diffusion_models/mine.safetensors").to_json() == made.pyramid.spec().to_json()


def test_a_run_with_fewer_stages_uses_the_finest_ones_of_the_cache(tmp_path):
    whole = runs.Cache(settings(tmp_path)["data"]["cache"])
    plain = runs.Cache(whole.folder, stages=1)
    assert torch.equal(plain.latent(1, 0), whole.latent(1, 2))
    made = config(tmp_path, pyramid__preset="plain", validation__steps="2", validation__videos=1, losses__teacher=0.0)
    runs.run_finetuning(made)
    assert {"validation/high", "samples/detail"} <= set(log(made)[-1])


def test_a_cache_of_pixels_can_be_used_with_any_filter(tmp_path):
    folder = cache_folder(tmp_path / "other")
    text = (folder / "cache.json").read_text()
    (folder / "cache.json").write_text(text.replace('"latents"', '"pixels"'))
    tables = settings(tmp_path, pyramid__resize="dct", train__steps=1)
    tables["data"]["cache"] = str(folder)
    runs.run_finetuning(check_config(FinetuneConfig, tables, "test"))
