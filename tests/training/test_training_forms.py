"""Finetuning in flow, epsilon and v form: what the network sees and learns, samples, resuming, and the exported header."""

from dataclasses import replace

import pytest
import torch
from comfyui_graph import empty, prompt
from safetensors import safe_open
from safetensors.torch import save_file
from test_finetune_run import assert_equal, log, weights

from pyramid.forms import TABLES, form_from_metadata, form_to_metadata, make_form, named_form
from pyramid.noise_pyramid import noise_pyramid
from pyramid.patches import coarse_cells, lifted, to_tensors, wan_layers
from pyramid.stages import PRESETS, TRAINING_PRESETS
from pyramid.training import run as runs
from pyramid.training.config.distill import DistillConfig
from pyramid.training.config.finetune import FinetuneConfig
from pyramid.training.config.toml_config import check_config
from pyramid.training.engine import draws
from pyramid.training.recipes.finetune import Finetuning, teacher_clean
from pyramid.training.validation import SEED, sample
from pyramidalwan.nodes.files import PyramidalWanFromFile, PyramidalWanPatches, PyramidalWanStageLoRA
from pyramidalwan.nodes.sampler import PyramidalWanSampler
from pyramidalwan.pyramid.stages import PRESETS as PYRAMIDS
from tiny_wan.checkpoints import t2v_state_dict
from tiny_wan.training_files import cache_folder, settings

FORMS = {
    "epsilon": {"train__form": "epsilon", "train__noise_table": "stable-diffusion"},
    "v": {"train__form": "v", "train__noise_table": "zero-snr"},
}
EVERY_FORM = pytest.mark.parametrize("form", FORMS)


def config(folder, form, *, preset="tpdiff", **changes):
    folder.mkdir(exist_ok=True)
    cache = cache_folder(folder / "in time", spec=TRAINING_PRESETS[preset], video=(64, 64, 17))
    video = {"video__width": 64, "video__height": 64, "pyramid__preset": preset, "data__cache": str(cache)}
    return check_config(FinetuneConfig, settings(folder, **{**video, **FORMS.get(form, {}), **changes}), "test")


def recorded(recipe):
    """Return a list that every forward pass of the network is appended to, as input, timesteps and output."""
    calls = []

    def record(module, args, kwargs, output):
        calls.append((kwargs["hidden_states"], kwargs["timestep"], output[0]))

    recipe.model.network.transformer.register_forward_hook(record, with_kwargs=True)
    return calls


@EVERY_FORM
def test_the_network_sees_and_learns_what_a_model_of_the_form_does(tmp_path, form):
    """The literal formulas in terms of ``z = x / gamma`` and ``u = sigma / gamma``, per frame."""
    recipe = Finetuning(made := config(tmp_path, form, losses__teacher=0.0), runs.parallel.start(made.system))
    (parts, *_) = runs.step_batches(made, runs.Cache(made.data.cache), recipe.accelerator)(0)
    table = torch.tensor(TABLES[made.train.noise_table].sigmas())
    for batch in parts[0]:
        calls, stage = recorded(recipe), recipe.stages[batch.stage]
        with torch.no_grad():
            loss = recipe.stage_losses(batch)["flow"][1]
        seen, timesteps, output = calls[-1]
        rho = batch.rho * (stage.rho(table[-1]) if stage.index == 0 else 1)
        natural, sigma = stage.natural_at(rho), stage.sigma_at(rho)
        below, above = table[timesteps.floor().long()], table[timesteps.ceil().long()]
        assert ((below - 1e-5 < natural) & (natural < above + 1e-5)).all()
        gamma, deviation = (1 - sigma) / (norm := ((1 - sigma) ** 2 + sigma**2).sqrt()), sigma / norm
        target, signal = batch.noise, batch.clean
        if stage.from_coarser is not None:
            (clean_end, noisy_end), blurred = stage.end_sigmas(sigma), stage.from_coarser.up(batch.coarse)
            odds = clean_end / (1 - clean_end), noisy_end / (1 - noisy_end)
            start, end = blurred + odds[1] * batch.noise, batch.clean + odds[0] * batch.noise
            target = (end - start) / (odds[0] - odds[1])
            signal = start + (sigma / (1 - sigma) - odds[1]) * target - sigma / (1 - sigma) * target
        torch.testing.assert_close(seen, gamma * signal + deviation * target, atol=1e-4, rtol=0)
        if form == "v":
            target = gamma * target - deviation * signal
        assert (output - target).square().mean().item() == pytest.approx(loss.item(), rel=1e-3)


@EVERY_FORM
def test_a_run_in_a_form_resumes_exactly_lowers_its_loss_and_names_the_form(tmp_path, form):
    changes = {"train__steps": 12, "optimizer__learning_rate": 3e-3, "optimizer__ema": 0.5, "validation__every": 4}
    made = config(tmp_path / "whole", form, **changes)
    (file,) = runs.run_finetuning(made)
    held_out = [line["validation"] for line in log(made) if "validation" in line]
    assert held_out[-1] < 0.95 * held_out[0]
    half = config(tmp_path / "resumed", form, **{**changes, "train__steps": 6})
    runs.run_finetuning(half)
    runs.run_finetuning(half.model_copy(update={"train": made.train}))
    assert_equal(weights(made), weights(half))
    with safe_open(file, framework="pt") as opened:
        assert form_from_metadata(opened.metadata()) == made.form == make_form(form, TABLES[made.train.noise_table])


@EVERY_FORM
def test_samples_of_validation_start_from_noise_at_the_last_timestep_and_end_at_the_first(tmp_path, form):
    recipe = Finetuning(made := config(tmp_path, form), runs.parallel.start(made.system))
    cache = runs.Cache(made.data.cache)
    calls = recorded(recipe)
    with torch.no_grad():
        made_latents = sample(recipe, cache, 4, steps="2-1-1", cfg=1.0)
    noise = noise_pyramid(draws.white((1, *cache.size(2)), SEED, "sample", 4), recipe.stages)[0]
    torch.testing.assert_close(calls[0][0], noise, atol=1e-5, rtol=0)
    timesteps = [call[1].item() for call in calls]
    assert timesteps[0] == pytest.approx(999, abs=1e-2)
    assert timesteps == sorted(timesteps, reverse=True) and len(calls) == 4
    assert made_latents.shape == (1, *cache.size(2)) and made_latents.isfinite().all()


def test_the_teacher_predicts_in_the_form_of_the_run(tmp_path):
    """A network that predicts the true noise knows the clean data, so that its loss is ``rho ** 2`` times that of the path."""
    recipe = Finetuning(made := config(tmp_path, "epsilon"), runs.parallel.start(made.system))
    (parts, *_) = runs.step_batches(made, runs.Cache(made.data.cache), recipe.accelerator)(0)
    batch = replace(parts[0][2], rho=torch.full_like(parts[0][2].rho, 0.5))
    seen = []

    def predict(module, args, kwargs, output):
        seen.append((kwargs["hidden_states"], kwargs["timestep"]))
        return (batch.noise,)

    recipe.teacher.network.transformer.register_forward_hook(predict, with_kwargs=True)
    losses = recipe.stage_losses(batch)
    assert len(seen) == 1
    torch.testing.assert_close(losses["teacher"][1], 0.5**2 * losses["flow"][1], rtol=1e-4, atol=0)
    natural = torch.full((len(batch.clean),), 0.3)
    clean = teacher_clean(recipe.teacher, batch, recipe.stages[2], natural, recipe.form)
    torch.testing.assert_close(clean, batch.clean, atol=1e-4, rtol=0)
    latents, timesteps = seen[-1]
    torch.testing.assert_close(latents, (0.7 * batch.clean + 0.3 * batch.noise) / 0.58**0.5, atol=1e-5, rtol=0)
    table = torch.tensor(TABLES[made.train.noise_table].sigmas())
    assert ((table[timesteps.floor().long()] < 0.3) & (table[timesteps.ceil().long()] > 0.3)).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"train__form": "epsilon"},
            "train.form and train.noise_table: form 'epsilon' requires a noise table; expected ",
        ),
        ({"train__noise_table": "ddpm"}, "form 'flow' has no noise table"),
        ({**FORMS["v"], "train__noise_table": "sd"}, "unknown noise table 'sd'; expected stable-diffusion, animatediff"),
        ({"train__form": "epsilon", "train__noise_table": "zero-snr"}, "ends below pure noise"),
        ({**FORMS["epsilon"], "pyramid__boundaries": [0.95, 0.5]}, "first stage ends at noise level 0.95"),
        (
            {**FORMS["epsilon"], "pyramid__field": "natural", "pyramid__first_frame": "shared", "train__levels": "all"},
            "train.levels 'all' serves distillation, which requires train.form 'flow'; got 'epsilon'",
        ),
    ],
)
def test_forms_that_do_not_fit_are_errors(changes, message):
    values = {"out": "o", "model": {"transformer": "m"}, "data": {"cache": "c"}, "pyramid": {"preset": "tpdiff"}}
    for name, value in changes.items():
        table, _, key = name.partition("__")
        values.setdefault(table, {})[key] = value
    with pytest.raises(ValueError, match=message):
        check_config(FinetuneConfig, values, "test")


def test_a_network_of_another_form_is_refused(tmp_path):
    made = config(tmp_path, "epsilon", train__steps=1)
    (file,) = runs.run_finetuning(made)
    expected = "was trained in form 'epsilon' with noise table 'stable-diffusion', but this run is in form"
    others = (("v", "v", "zero-snr"), ("another table", "epsilon", "ddpm"))
    for folder, form, table in others:
        again = config(tmp_path / folder, form, model__transformer=str(file), train__noise_table=table)
        message = f"model.transformer .* {expected} '{form}' with noise table '{table}'; set train.form and train.noise_table$"
        with pytest.raises(ValueError, match=message):
            runs.run_finetuning(again)
    tables = {
        "out": str(tmp_path / "student"), "data": {"cache": made.data.cache, "held_out": 2},
        "pyramid": {"preset": "tpdiff"}, "video": made.video.model_dump(), "system": {"device": "cpu", "precision": "fp32"},
        "networks": {"student": str(file), "teacher": str(file)}, "losses": {"teach": 0.0},
    }  # fmt: skip
    with pytest.raises(ValueError, match=f"networks.student .* {expected} 'flow'; distillation requires 'flow'"):
        runs.run_distillation(check_config(DistillConfig, tables, "test"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", "must be a JSON object"),
        ('{"form": "eps"}', "unknown form 'eps'"),
        ('{"form": "v", "table": {"beta": 1}}', "the noise table of the network is a dict of 1; expected a schedule and two"),
        ('{"form": "v", "table": {"schedule": "linear", "first": 2.0, "last": 0.1}}', "betas that rise between 0 and 1"),
    ],
)
def test_a_damaged_form_in_a_header_is_an_error(text, message):
    with pytest.raises(ValueError, match=message):
        form_from_metadata({"pyramid_form": text})


MESSAGE = (
    "its network predicts '{}', and ComfyUI has no video model of that kind with 5-D latents; only those that predict 'flow' "
    "can be sampled"
)


@pytest.fixture
def models(tmp_path, monkeypatch):
    """Return the models folder in which the nodes look for files."""
    import folder_paths

    for folder in ("diffusion_models", "loras"):
        (tmp_path / folder).mkdir()
        monkeypatch.setitem(folder_paths.folder_names_and_paths, folder, ([str(tmp_path / folder)], {".safetensors"}))
    return tmp_path


def refused(node, *arguments, subject, form, **more):
    """Check that a node says in one sentence that ComfyUI has no model of a form."""
    with torch.no_grad(), pytest.raises(ValueError) as caught:
        node.execute(*arguments, **more)
    assert str(caught.value) == f"{subject}: {MESSAGE.format(form)}"


def sampled(model, **changes):
    """Return the arguments of 'Pyramidal Sampler'."""
    inputs = {"model": model, "positive": prompt(1), "negative": prompt(2), "latent": empty(5, 8, 8), "pyramid": None}
    widgets = {"seed": 1, "steps": "1-1-1", "cfg": "1", "sampler_name": "euler", "denoise": 1.0, "grid": "auto", "shift": 5.0}
    return {**inputs, **widgets, "start_stage": "auto", "end_stage": "auto", **changes}


def exported(models, form, **changes):
    """Train two steps, and return the MODEL that ComfyUI loads from the export, and whether it remembers the file."""
    import nodes

    (made,) = runs.run_finetuning(config(models / form, form, train__steps=2, **changes))
    made.rename(models / "diffusion_models" / "mine.safetensors")
    (model,) = nodes.UNETLoader().load_unet("mine.safetensors", "default")
    return model, getattr(model, "cached_patcher_init", None) is not None


@pytest.mark.parametrize(("preset", "steps"), [("tpdiff-2", "1-1"), ("tpdiff", "1-1-1")])
def test_an_exported_flow_model_runs_with_the_pyramid_of_its_header(models, preset, steps):
    model, remembers = exported(models, "flow", preset=preset, validation__steps=steps)
    (spec,) = PyramidalWanFromFile.execute("diffusion_models/mine.safetensors").args
    assert spec.to_json() == TRAINING_PRESETS[preset].to_json()
    with torch.no_grad():
        latent = PyramidalWanSampler.execute(**sampled(model, pyramid=spec, steps=steps)).args[0]["samples"]
        by_itself = PyramidalWanSampler.execute(**sampled(model, steps=steps)).args[0]["samples"] if remembers else latent
    assert latent.shape == (1, 16, 5, 8, 8) and latent.isfinite().all() and torch.equal(latent, by_itself)


@EVERY_FORM
def test_an_exported_model_of_another_form_is_refused_in_one_sentence(models, form):
    model, remembers = exported(models, form)
    refused(PyramidalWanFromFile, "diffusion_models/mine.safetensors", subject="'diffusion_models/mine.safetensors'", form=form)
    for pyramid in (None, PYRAMIDS["tpdiff"]) if remembers else ():
        subject = "the checkpoint 'mine.safetensors'"
        refused(PyramidalWanSampler, **sampled(model, pyramid=pyramid), subject=subject, form=form)


@EVERY_FORM
def test_loras_and_layers_for_patches_of_other_forms_are_refused_in_one_sentence(models, t2v_model, form):
    (made,) = runs.run_finetuning(config(models / form, form, train__steps=1, adapter__kind="lora"))
    made.rename(models / "loras" / "mine.safetensors")
    lora = {"model": t2v_model, "lora_name": "mine.safetensors", "strength": 1.0, "stages": "all"}
    refused(PyramidalWanStageLoRA, **lora, subject="the LoRA 'mine.safetensors'", form=form)
    spec, layers = PRESETS["ppf"], wan_layers(t2v_state_dict())
    header = {**spec.to_metadata(), **form_to_metadata(named_form(form, FORMS[form]["train__noise_table"]))}
    file = "diffusion_models/patches.safetensors"
    save_file(to_tensors([lifted(layers, cell) for cell in coarse_cells(spec)]), models / file, header)
    refused(PyramidalWanPatches, t2v_model, file, subject=f"'{file}'", form=form)


def test_files_without_a_form_are_flow_models():
    assert form_from_metadata(None) == form_from_metadata({"other": "1"}) == make_form("flow")
