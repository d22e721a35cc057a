"""The outputs of each node, and the message for each invalid value, without a server."""

import dataclasses
import inspect
import json

import folder_paths
import pytest
import torch
from comfyui_graph import empty, prompt
from safetensors.torch import save_file

from pyramidalwan.nodes import NODES
from pyramidalwan.nodes import pyramid as pyramid_nodes
from pyramidalwan.nodes.conditioning import PyramidalWanLoadConditioning, PyramidalWanSaveConditioning
from pyramidalwan.nodes.latent import PyramidalWanEmptyLatent
from pyramidalwan.nodes.pyramid import PyramidalWanCustom, PyramidalWanPreset
from pyramidalwan.nodes.sampler import PyramidalWanSampler
from pyramidalwan.nodes.schedule import PyramidalWanSchedule
from pyramidalwan.nodes.schema import MAX_LINE, as_shown
from pyramidalwan.pyramid.axes import AUTO_SCALE
from pyramidalwan.pyramid.stages import PRESETS, STOCK, PyramidSpec
from pyramidalwan.samplers.comfyui import atomic_file, prompt_files

CUSTOM = {"boundaries": "0.9, 0.5", "downsample_axes": "THW,hw", "resize": "db2", "field": "pyramidal",
          "timestep_source": "sigma", "first_frame": "shared", "rope": "scaled"}  # fmt: skip


def values(output):
    return output.args


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_the_one_of_that_name(name):
    spec = PRESETS[name].scaled("auto") if PRESETS[name].for_stock_weights else PRESETS[name]
    assert values(PyramidalWanPreset.execute(name)) == (spec,)
    if spec != PRESETS[name]:
        assert values(PyramidalWanPreset.execute(name, "half")) == (PRESETS[name],)


def test_every_preset_can_be_chosen():
    preset, scale = PyramidalWanPreset.define_schema().inputs
    assert set(preset.options) == set(PRESETS) and preset.default == "training-free" and scale.default == "auto"


@pytest.mark.parametrize("name", [name for name in PRESETS if name != "plain"])
def test_the_values_shown_on_a_preset_make_the_same_custom_pyramid(name, monkeypatch):
    shown = []
    monkeypatch.setattr(pyramid_nodes, "show_text", lambda node, text: shown.append((node, text)))
    (preset,) = values(PyramidalWanPreset.execute(name))
    ((node, text),) = shown
    first, *parts = text.replace(" (moved to steps)", "").replace("\n", " · ").split(" · ")
    (spec,) = values(PyramidalWanCustom.execute(**dict(part.split(": ") for part in parts)))
    assert node is PyramidalWanPreset and first == f"{len(spec.boundaries) + 1} stages"
    assert spec.boundaries == pytest.approx(preset.boundaries, rel=1e-5)
    assert dataclasses.replace(spec, boundaries=preset.boundaries) == preset
    assert ("moved to steps" in text) == preset.for_stock_weights
    widget = PyramidalWanPreset.define_schema().inputs[0]
    assert widget.extra_dict["pyramidalwan"]["texts"][f"{name}, {AUTO_SCALE}"] == as_shown(text)


def test_texts_on_nodes_are_short_lines_that_can_be_read_in_one():
    text = (
        "low 416x240 · 20 steps; high 832x480 · 10 steps; 41 % of the operations of a step-distilled run\nerrors:\nnone at all"
    )
    shown = as_shown(text)
    assert shown.replace("\n", " ") == text.replace("\nerrors:\n", "; errors: ")
    assert all(len(line) <= MAX_LINE for line in shown.splitlines()) and "steps;\nhigh" in shown
    assert as_shown("") == ""


def test_a_custom_pyramid_starts_as_the_one_of_stock_weights_with_the_scale_that_fits_the_video():
    """One who changes a boundary and nothing else keeps the size of the small stage."""
    defaults = {given.id: given.default for given in PyramidalWanCustom.define_schema().inputs}
    assert values(PyramidalWanCustom.execute(**defaults)) == (STOCK,) == values(PyramidalWanPreset.execute("training-free"))


def test_a_custom_pyramid_has_the_values_of_its_widgets():
    (spec,) = values(PyramidalWanCustom.execute(**CUSTOM))
    assert spec == PyramidSpec((0.9, 0.5), ("THW", "HW"), "db2", "pyramidal", "sigma", "shared", "scaled")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"boundaries": "0.5, 0.9"}, "must fall"),
        ({"boundaries": "a"}, "must be numbers separated by commas"),
        ({"downsample_axes": "THW"}, "2 boundaries and 1 downsample_axes"),
        ({"downsample_axes": "THW, W"}, "expected THW, HW, T"),
        ({"field": "natural", "first_frame": "per-frame"}, "must be 'shared'"),
        ({"resize": "dmey"}, "unknown resize 'dmey'"),
    ],
)
def test_an_invalid_custom_pyramid_is_rejected(change, words):
    with pytest.raises(ValueError, match=words):
        PyramidalWanCustom.execute(**{**CUSTOM, **change})


def test_an_unknown_preset_is_rejected_with_the_known_ones():
    with pytest.raises(ValueError, match="unknown preset 'pyramid'; expected training-free, wan2.2-t2v"):
        PyramidalWanPreset.execute("pyramid")


@pytest.mark.parametrize(("snap", "size"), [("nearest", (832, 448)), ("smaller", (832, 448)), ("larger", (832, 512))])
def test_empty_latent_snaps_and_lists_the_stages(snap, size):
    latent, text = values(PyramidalWanEmptyLatent.execute(832, 480, 81, 2, snap, PRESETS["pyramidal-wan"]))
    assert latent["samples"].shape == (2, 16, 21, size[1] // 8, 104)
    first, *stages = text.splitlines()
    assert first == f"832x{size[1]} with 81 frames instead of 832x480 with 81 frames"
    assert stages[0] == f"low: 208x{size[1] // 4} with 21 frames (latent 6x{size[1] // 32}x26)"
    assert len(stages) == 3 and stages[2].startswith(f"high: 832x{size[1]} with 81 frames")


@pytest.mark.parametrize("size", [(832, 480, 81), (480, 832, 121), (640, 640, 5)], ids=str)
def test_empty_latent_fits_what_the_samplers_run_by_default(size):
    latent, text = values(PyramidalWanEmptyLatent.execute(*size, 1, "nearest"))
    width, height, frames = size
    assert latent["samples"].shape == (1, 16, (frames - 1) // 4 + 1, height // 8, width // 8)
    assert text == values(PyramidalWanEmptyLatent.execute(*size, 1, "nearest", STOCK))[1]
    assert text.splitlines()[0] == f"{width}x{height} with {frames} frames"


def test_empty_latent_fits_the_connected_pyramid():
    latent, text = values(PyramidalWanEmptyLatent.execute(832, 480, 77, 1, "nearest", PRESETS["pyramidal-wan"]))
    assert latent["samples"].shape == (1, 16, 21, 56, 104)
    assert text.splitlines()[0] == "832x448 with 81 frames instead of 832x480 with 77 frames"
    small = values(PyramidalWanEmptyLatent.execute(20, 16, 2, 1, "smaller", PRESETS["pyramidal-wan"]))[0]
    assert small["samples"].shape == (1, 16, 1, 8, 8)


def test_a_schedule_includes_the_boundaries_and_all_steps():
    sigmas, spec = values(PyramidalWanSchedule.execute(PRESETS["pyramidal-wan"], "20-20-10", "auto", 5.0))
    assert len(sigmas) == 51 and sigmas[0] == 1 and sigmas[-1] == 0 and bool((sigmas.diff() < 0).all())
    assert sigmas[20] == pytest.approx(0.896) and sigmas[40] == pytest.approx(0.602) and spec == PRESETS["pyramidal-wan"]
    sigmas, spec = values(PyramidalWanSchedule.execute(PRESETS["pyramidal-wan"], "0-2-1", "auto", 5.0))
    assert len(sigmas) == 4 and spec.number_of_stages == 2
    assert "only leading stages" in PyramidalWanSchedule.validate_inputs("2-0-1")
    stock = PRESETS["training-free"]
    sigmas, spec = values(PyramidalWanSchedule.execute(stock, "2-2", "auto", 5.0))
    assert sigmas.tolist() == pytest.approx([1, 15 / 16, 5 / 6, 5 / 8, 0]) and spec.boundaries == pytest.approx((5 / 6,))
    uniform, shifted = (values(PyramidalWanSchedule.execute(stock, "2-2", grid, 5.0))[0] for grid in ("uniform", "shift"))
    assert not torch.allclose(uniform, shifted) and uniform[2] == shifted[2] == pytest.approx(0.8)
    wan = PRESETS["pyramidal-wan"]
    auto, even = (values(PyramidalWanSchedule.execute(wan, "2-2-2", grid, 5.0))[0] for grid in ("auto", "uniform"))
    assert torch.equal(auto, even)
    with pytest.raises(ValueError, match="2 numbers, but the pyramid has 3 stages"):
        PyramidalWanSchedule.execute(PRESETS["pyramidal-wan"], "20-20", "auto", 5.0)


def test_sampler_without_a_pyramid_is_training_free(t2v_model):
    arguments = dict(seed=1, steps="2-1", cfg="2", sampler_name="euler", denoise=1.0, grid="auto", shift=5.0)
    arguments |= dict(start_stage="auto", end_stage="auto")
    default = values(PyramidalWanSampler.execute(t2v_model, prompt(1), prompt(2), empty(), **arguments))
    given = values(
        PyramidalWanSampler.execute(t2v_model, prompt(1), prompt(2), empty(), **arguments, pyramid=PRESETS["training-free"])
    )
    assert torch.equal(default[0]["samples"], given[0]["samples"]) and default[0]["samples"].shape == (1, 16, 5, 16, 16)
    with pytest.raises(ValueError, match="3 numbers, but the pyramid has 2 stages"):
        PyramidalWanSampler.execute(t2v_model, prompt(1), prompt(2), empty(), **{**arguments, "steps": "2-2-1"})
    assert "numbers joined by '-'" in PyramidalWanSampler.validate_inputs("many")
    assert PyramidalWanSampler.validate_inputs("2-2-1") is True
    names = next(i for i in PyramidalWanSampler.define_schema().inputs if i.id == "sampler_name").options
    assert "dpm_adaptive" not in names and "pyramid_few_step" in names and "euler" in names


@pytest.fixture
def folders(tmp_path, monkeypatch):
    for name in ("input", "output"):
        (tmp_path / name).mkdir()
        monkeypatch.setattr(folder_paths, f"get_{name}_directory", lambda name=name: str(tmp_path / name))
    return tmp_path


def test_conditioning_round_trip(folders):
    written = [*prompt(1, start_percent=0.0, end_percent=0.4), *prompt(2, tokens=3, pooled_output=torch.ones(1, 5))]
    PyramidalWanSaveConditioning.execute(written, "shots/a red fox")
    assert PyramidalWanLoadConditioning.define_schema().inputs[0].options == ["shots/a red fox.safetensors [output]"]
    (read,) = values(PyramidalWanLoadConditioning.execute("shots/a red fox.safetensors [output]"))
    assert [set(options) for _, options in read] == [{"start_percent", "end_percent"}, {"pooled_output"}]
    for (tensor, options), (other, others) in zip(written, read, strict=True):
        assert torch.equal(tensor, other) and options.get("end_percent") == others.get("end_percent")
    assert not list(folders.rglob("*.partial"))


def test_the_fingerprint_changes_with_the_file(folders):
    PyramidalWanSaveConditioning.execute(prompt(1), "x")
    before = PyramidalWanLoadConditioning.fingerprint_inputs("x.safetensors [output]")
    assert PyramidalWanLoadConditioning.fingerprint_inputs("x.safetensors [output]") == before
    PyramidalWanSaveConditioning.execute(prompt(2, tokens=9), "x")
    assert PyramidalWanLoadConditioning.fingerprint_inputs("x.safetensors [output]") != before


def test_options_of_a_text_encoder_survive_the_round_trip(folders):
    mask = torch.ones(1, 7, dtype=torch.int64)
    PyramidalWanSaveConditioning.execute(prompt(1, attention_mask=mask, pooled_output=None, strength=0.5), "x")
    (read,) = values(PyramidalWanLoadConditioning.execute("x.safetensors [output]"))
    assert torch.equal(read[0][1]["attention_mask"], mask) and read[0][1]["strength"] == 0.5


def test_a_failed_write_leaves_the_old_file(folders, monkeypatch):
    path = prompt_files.save_conditioning(prompt(1), "x")
    before = path.read_bytes()

    def fail(*_, **__):
        raise OSError("disk full")

    monkeypatch.setattr(atomic_file.os, "replace", fail)
    with pytest.raises(ValueError, match="cannot write 'x.safetensors' in .*disk full"):
        prompt_files.save_conditioning(prompt(2), "x")
    assert path.read_bytes() == before and not list(folders.rglob("*.partial"))


def test_a_plain_embedding_file_is_read(folders):
    (folders / "input" / "conditioning").mkdir()
    save_file({"cross_attn": torch.ones(1, 4, 8)}, folders / "input" / "conditioning" / "x.safetensors")
    (read,) = values(PyramidalWanLoadConditioning.execute("x.safetensors"))
    assert read[0][0].shape == (1, 4, 8) and read[0][1] == {}


@pytest.mark.parametrize("name", ["../../evil", "a/../../../evil", "/etc/evil", "", "a\x00b", "b|c"])
def test_a_file_name_cannot_leave_the_output_folder(folders, name):
    with pytest.raises(ValueError, match="not a valid file name|outside the folder"):
        prompt_files.save_conditioning(prompt(1), name)
    assert PyramidalWanSaveConditioning.validate_inputs(name) is not True
    assert not [p for p in folders.parent.rglob("evil*")]


def test_reading_cannot_leave_comfyuis_folders(folders):
    save_file({"cross_attn": torch.ones(1, 4, 8)}, folders / "secret.safetensors")
    assert "outside the folder" in PyramidalWanLoadConditioning.validate_inputs("../../secret.safetensors [output]")
    assert "unknown file 'y.safetensors' in the folder 'conditioning'" in PyramidalWanLoadConditioning.validate_inputs(
        "y.safetensors"
    )


ONE_COND = {"format": "1", "conds": [{}]}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"not a file", "not a readable safetensors file"),
        (b"", "not a readable safetensors file"),
        ({"weight": torch.ones(2)}, "has no conditioning"),
        ({"cross_attn": torch.ones(2)}, r"embedding of shape \(2,\)"),
        ({"cross_attn": torch.ones(1, 2, 3, dtype=torch.int32)}, "floating point"),
        (({"0.pooled_output": torch.ones(2)}, {"format": "1", "conds": [{}]}), "damaged: prompt 1 of 1"),
        (({"0.cross_attn": torch.ones(1, 1, 1)}, ["format"]), "is damaged: .* must be a JSON object, got a list of 1"),
        (({"0.cross_attn": torch.ones(1, 1, 1)}, {"format": "9", "conds": [{}]}), "unsupported conditioning format '9'"),
        ({"cross_attn": torch.full((1, 2, 3), float("nan"))}, "holds NaN or infinity in 'cross_attn'; encode the prompt again"),
        (
            ({"0.cross_attn": torch.ones(1, 1, 1), "0.pooled_output": torch.tensor([float("inf")])}, ONE_COND),
            "holds NaN or infinity in '0.pooled_output'",
        ),
        (
            ({"0.cross_attn": torch.ones(1, 1, 1)}, {"format": "1", "conds": [{"strength": float("nan")}]}),
            "is damaged: .*NaN is not a number",
        ),
        (
            ({"0.cross_attn": torch.ones(1, 1, 1)}, {"format": "1", "conds": [{"start_percent": "early"}]}),
            "is damaged: start_percent is 'early'; expected a number",
        ),
    ],
)
def test_a_broken_file_is_rejected_in_one_line(folders, content, words):
    path = folders / "input" / "conditioning" / "x.safetensors"
    path.parent.mkdir()
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        tensors, metadata = content if isinstance(content, tuple) else (content, None)
        save_file(tensors, path, metadata and {"conditioning": json.dumps(metadata)})
    with pytest.raises(ValueError, match=words) as caught:
        PyramidalWanLoadConditioning.execute("x.safetensors")
    assert "\n" not in str(caught.value)


def test_conditioning_with_images_is_not_saved(folders):
    with pytest.raises(ValueError, match="also carries concat_latent_image"):
        prompt_files.save_conditioning(prompt(1, concat_latent_image=torch.ones(1)), "x")


@pytest.mark.parametrize("node", [node for node in NODES if "validate_inputs" in vars(node)], ids=lambda node: node.__name__)
def test_widgets_that_are_linked_are_not_checked_before_they_have_a_value(node):
    """ComfyUI passes None for them."""
    names = list(inspect.signature(node.validate_inputs).parameters)
    assert node.validate_inputs(**dict.fromkeys(names)) is True
