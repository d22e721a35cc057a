"""Files and their names from outside: damaged ones are refused in one sentence when they are opened, at once."""

import codecs
import errno
import json
import os
import resource
import time

import comfy.sd
import folder_paths
import pytest
import torch
from comfyui_graph import prompt
from safetensors.torch import load_file, safe_open, save_file

from pyramidalwan.pyramid.patches import PREFIX
from pyramidalwan.pyramid.stages import PRESETS
from pyramidalwan.samplers.comfyui.draft_files import DRAFT_FILES, load_draft, save_draft
from pyramidalwan.samplers.comfyui.latent_tag import END, StageTag, tagged
from pyramidalwan.samplers.comfyui.lora_file import load_lora_file
from pyramidalwan.samplers.comfyui.model_files import lora_problem, spec_from_file
from pyramidalwan.samplers.comfyui.patch_files import read_patches
from pyramidalwan.samplers.comfyui.prompt_files import PROMPT_FILES, load_conditioning, save_conditioning
from pyramidalwan.samplers.comfyui.safetensors_file import MAX_HEADER, write_safetensors
from pyramidalwan.samplers.lift import choice
from pyramidalwan.samplers.lift.files import read_lift
from tiny_wan.checkpoints import vae_state_dict

FREE = PRESETS["training-free"]
QUERY = "diffusion_model.blocks.0.self_attn.q"
LOW_RANK = {f"{QUERY}.lora_up.weight": torch.ones(8, 2), f"{QUERY}.lora_down.weight": torch.ones(2, 8)}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Let ComfyUI work in a folder of its own."""
    for kind in ("input", "output"):
        monkeypatch.setattr(folder_paths, f"{kind}_directory", str(tmp_path / kind))
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "loras", ([str(tmp_path)], {".safetensors"}))
    return tmp_path


def draft():
    size = FREE.shapes(shape := FREE.smallest_shape())[0]
    return tagged({"samples": torch.ones(1, 16, *size)}, StageTag(FREE, 0, shape, END))


READERS = {
    "draft": (DRAFT_FILES, lambda path: load_draft("x.safetensors [output]")),
    "conditioning": (PROMPT_FILES, lambda path: load_conditioning("x.safetensors [output]")),
    "LoRA": (None, lambda path: load_lora_file(path, "x.safetensors")),
    "pyramid": (None, lambda path: spec_from_file("loras/x.safetensors")),
    "lift": (None, read_lift),
}


def valid(kind, folder):
    """Write a valid file and return its path."""
    if kind == "draft":
        save_draft(draft(), "x")
    elif kind == "conditioning":
        save_conditioning(prompt(strength=1.0), "x")
    else:
        save_file(LOW_RANK, folder / "x.safetensors", FREE.to_metadata())
        return folder / "x.safetensors"
    return folder / "output" / READERS[kind][0].folder / "x.safetensors"


def bomb(path):
    path.write_bytes((MAX_HEADER + 1).to_bytes(8, "little"))
    os.truncate(path, MAX_HEADER + 100)


def not_a_file(make):
    def damage(path):
        path.unlink()
        make(path)

    return damage


DAMAGES = {
    "empty": lambda path: path.write_bytes(b""),
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-10]),
    "only a header": lambda path: path.write_bytes(path.read_bytes()[:12]),
    "huge header": lambda path: path.write_bytes((2**63).to_bytes(8, "little") + b"{}"),
    "header bomb": bomb,
    "deep header": lambda path: path.write_bytes((200_000).to_bytes(8, "little") + b"[" * 200_000),
    "zeros": lambda path: path.write_bytes(bytes(1000)),
    "text": lambda path: path.write_bytes(b"not a file of tensors\n" * 50),
    "folder": not_a_file(lambda path: path.mkdir()),
    "pipe": not_a_file(os.mkfifo),
    "loop": not_a_file(lambda path: path.symlink_to(path)),
    "device": not_a_file(lambda path: path.symlink_to("/dev/zero")),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
@pytest.mark.parametrize("kind", READERS)
def test_a_damaged_file_is_refused_at_once_in_one_sentence(folder, kind, damage):
    path = valid(kind, folder)
    damage(path)
    start = time.monotonic()
    with pytest.raises(ValueError) as caught:
        READERS[kind][1](path)
    text = str(caught.value)
    assert time.monotonic() - start < 2 and "\n" not in text and len(text) < 300 and "x.safetensors" in text
    assert "object has no attribute" not in text


def changed(path, change):
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    (key,) = metadata
    tensors, values = load_file(path), json.loads(metadata[key])
    change(tensors, values)
    save_file(tensors, path, {key: json.dumps(values)})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda tensors, values: tensors["samples"].fill_(float("nan")), "its tensor 'samples' is empty, or holds NaN"),
        (
            lambda tensors, values: tensors.update(samples=tensors["samples"].to(torch.float8_e4m3fn)),
            "'samples' is empty, or holds",
        ),
        (lambda tensors, values: tensors.update(clean=torch.ones(1, 16, 2, 9, 9)), "its tensor 'clean' has shape 1x16x2x9x9"),
        (lambda tensors, values: tensors.update(given=torch.ones(1)), "its tensor 'given' has shape 1;"),
        (lambda tensors, values: tensors.update(noise_mask=torch.tensor(1.0)), "its noise mask has 0 dimensions"),
        (lambda tensors, values: values.update(batch_index=[10**12]), "has the batch index 1000000000000"),
        (lambda tensors, values: values.update(batch_index=5), "has batch indices 5"),
        (lambda tensors, values: values.update(stage=1e300), "its stage is 1e[+]300"),
        (lambda tensors, values: values.update(stage=None), "its stage is None"),
        (lambda tensors, values: values.update(size=[10**12, 1, 1]), "its size is a list of 3"),
        (lambda tensors, values: values.update(spec="plain"), "must be a JSON object, got 'plain'"),
        (lambda tensors, values: values.update(state=["end"]), "unknown state a list of 1"),
    ],
)
def test_a_draft_that_cannot_be_one_is_named(folder, change, words):
    changed(valid("draft", folder), change)
    with pytest.raises(ValueError, match=f"'x.safetensors .output.' is damaged: .*{words}"):
        load_draft("x.safetensors [output]")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda tensors, values: values.update(conds={"a": 1}), "its prompts are a dict of 1"),
        (lambda tensors, values: values.update(conds=[5]), "its prompts are a list of 1"),
        (
            lambda tensors, values: values["conds"][0].update(strength=1e300),
            "is 1e[+]300; expected a number from 0 to 1000",
        ),
        (lambda tensors, values: values["conds"][0].update(start_percent=True), "start_percent is True"),
        (lambda tensors, values: values["conds"][0].update(control=1.0), "unknown value 'control'"),
        (lambda tensors, values: tensors.update({"0.pooled_output": torch.tensor(1.0)}), "0.pooled_output has shape"),
        (lambda tensors, values: tensors.update({"0.cross_attn": torch.zeros(1, 0, 8)}), "expected .1, tokens, width."),
    ],
)
def test_a_prompt_that_cannot_be_one_is_named(folder, change, words):
    changed(valid("conditioning", folder), change)
    with pytest.raises(ValueError, match=words):
        load_conditioning("x.safetensors [output]")


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"lora_alpha": "a"}, "its alpha is 'a'; expected a number"),
        ({"alpha_pattern": {"blocks.0.self_attn.q": [1]}}, "its alpha is a list of 1"),
        ({"alpha_pattern": [1]}, "its alpha_pattern is a list of 1; expected numbers by module"),
        ({"alpha_pattern": {"(.+)+!": 1}}, "is too complex; expected the name of a module"),
        ({"alpha_pattern": {".*" * 9 + "!": 1}}, "is too complex"),
        ({"alpha_pattern": {"x" * 10**5: 1}}, "is too complex"),
        ({"alpha_pattern": {"[": 1}}, "is not a regular expression"),
        ("[" * 200_000, "is nested too deeply"),
        ('{"lora_alpha": NaN}', "NaN is not a number"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_the_configuration_of_a_lora_is_read_within_limits(folder, config, words):
    text = config if isinstance(config, str) else json.dumps(config)
    save_file(LOW_RANK, folder / "x.safetensors", {"lora_adapter_metadata": text})
    start = time.monotonic()
    with pytest.raises(ValueError, match=f"the LoRA 'x.safetensors' is damaged: .*{words}"):
        load_lora_file(folder / "x.safetensors", "x.safetensors")
    assert time.monotonic() - start < 2


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32-be", "latin-1"])
def test_a_configuration_beside_a_lora_is_decoded_or_named(folder, encoding):
    mark = {"utf-16-le": codecs.BOM_UTF16_LE, "utf-32-be": codecs.BOM_UTF32_BE}.get(encoding, b"")
    (folder / "adapter_config.json").write_bytes(mark + '{"lora_alpha": 8, "café": 1}'.encode(encoding))
    save_file(LOW_RANK, folder / "adapter_model.safetensors")
    if encoding == "latin-1":
        words = "'adapter_config.json' beside it is not text in UTF-8: byte 22 cannot be decoded; save it as UTF-8$"
        with pytest.raises(ValueError, match=f"^the LoRA 'a' is damaged: the {words}"):
            load_lora_file(folder / "adapter_model.safetensors", "a")
    else:
        (layer,) = load_lora_file(folder / "adapter_model.safetensors", "a").layers.values()
        assert layer["alpha"] == 8


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        ({f"{QUERY}.lora_{part}.weight": torch.zeros(0, 8) for part in ("up", "down")}, "has size 0x8 and holds nothing"),
        ({f"{QUERY}.lora_down.weight": torch.tensor(1.0)}, "is a single number"),
    ],
)
def test_a_lora_without_a_rank_is_named(folder, tensors, words):
    save_file({**LOW_RANK, **tensors, f"{QUERY}.alpha": torch.tensor(1.0)}, folder / "x.safetensors")
    with pytest.raises(ValueError, match=words):
        load_lora_file(folder / "x.safetensors", "x.safetensors")


UNUSUAL = {
    "a sparse tensor": lambda tensor: tensor.to_sparse(),
    "a tensor without values": lambda tensor: tensor.to("meta"),
    "a quantized tensor": lambda tensor: torch.quantize_per_tensor(tensor, 0.1, 0, torch.qint8),
    "a tensor of complex numbers": lambda tensor: tensor.to(torch.complex64),
    "a tensor of 70368744177664 values that are not stored": lambda tensor: torch.zeros(1).expand(2**45, 2),
}


@pytest.mark.parametrize("words", UNUSUAL)
@pytest.mark.parametrize("tensor", ["lora_up.weight", "alpha", "dora_scale"])
def test_a_lora_of_tensors_that_cannot_be_computed_with_is_named(folder, tensor, words):
    changed = UNUSUAL[words](LOW_RANK.get(f"{QUERY}.{tensor}", torch.ones(1)))
    torch.save({**LOW_RANK, f"{QUERY}.{tensor}": changed}, folder / "x.pt")
    with pytest.raises(ValueError, match=f"^the LoRA 'x.pt' is damaged: its .*{tensor} is {words}.*; expected real numbers$"):
        load_lora_file(folder / "x.pt", "x.pt")


def test_patches_of_complex_numbers_are_named(folder):
    save_file({f"{PREFIX}2x2x1.head": torch.ones(2, 2, dtype=torch.complex64)}, folder / "x.safetensors")
    with pytest.raises(
        ValueError, match=f"'x' is damaged: its {PREFIX}2x2x1.head is a tensor of complex numbers; expected real"
    ):
        read_patches(folder / "x.safetensors", "x")


@pytest.mark.parametrize("metadata", [{"pyramid_spec": "{"}, {**FREE.to_metadata(), "pyramid_levels": "[[2.0], [0.5]]"}])
def test_a_lora_with_a_damaged_pyramid_is_named(folder, metadata):
    save_file(LOW_RANK, folder / "x.safetensors", metadata)
    with pytest.raises(ValueError, match="the LoRA 'x.safetensors' is damaged: the "):
        load_lora_file(folder / "x.safetensors", "x.safetensors")


@pytest.mark.parametrize("name", ["../x", "vae/x.safetensors", "loras/../../x", "", "loras/", "x" * 10**5, "loras/\x00"])
def test_no_pyramid_is_read_from_elsewhere(folder, name):
    with pytest.raises(ValueError, match="there is no file .* in models; expected one in diffusion_models, loras, checkpoints"):
        spec_from_file(name)


WRONG_NAMES = [
    *("con", "NUL", "a/aux", "Com1.txt", "lpt9", "x.", "x.safetensors.", "a./b", "a /b"),
    *("CONIN$", "conout$.x", "a/", "a/.safetensors", "/", "a/b/", "CLOCK$"),
    *("..", "a\x00", "a\x7f", "a\ud800", "", " ", "a:b", "a\\b"),
]


@pytest.mark.parametrize("name", WRONG_NAMES, ids=ascii)
def test_a_name_that_windows_does_not_take_is_refused(folder, name):
    assert (problem := DRAFT_FILES.problem(name)) and "\n" not in problem and problem.isprintable()
    assert not (folder / "output").exists()


@pytest.mark.parametrize("name", ["x", "a/b", "console", "nul2", "com10x", "鸟", "x.y", ".hidden", "a b"])
def test_a_name_that_every_system_takes_is_accepted(folder, name):
    assert DRAFT_FILES.problem(name) is None


@pytest.mark.parametrize("name", ["x" * 201, "ä" * 101, "a/" * 101 + "b"])
def test_a_name_that_is_too_long_is_refused(folder, name):
    assert "is too long; use at most 200 bytes" in DRAFT_FILES.problem(name)


@pytest.mark.parametrize("name", [5, None, ["a"], {"a": 1}, "x" * 10**5, "a\x00", "\ud800", "../x", "/etc/passwd"])
def test_a_name_of_no_file_is_refused_in_one_sentence(folder, name):
    for problem in (DRAFT_FILES.problem(name, existing=True) if name is not None else "x", lora_problem(name)):
        assert problem and "\n" not in problem and len(problem) < 300
    assert DRAFT_FILES.fingerprint(name) != DRAFT_FILES.fingerprint(name)


SAVERS = [lambda: save_draft(draft(), "x"), lambda: save_conditioning(prompt(), "x")]


@pytest.mark.parametrize("save", SAVERS)
def test_a_full_disk_leaves_the_file_of_before(folder, save):
    save()
    (path,) = (folder / "output").rglob("*.safetensors")
    before, limits = path.read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500, limits[1]))
    try:
        with pytest.raises(ValueError, match="cannot write 'x.safetensors' in .*; free space") as caught:
            save()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "\n" not in str(caught.value)
    assert path.read_bytes() == before and os.listdir(path.parent) == ["x.safetensors"]


@pytest.mark.parametrize("save", SAVERS)
@pytest.mark.parametrize("kind", ["drafts", "conditioning"])
def test_a_file_in_place_of_a_folder_is_named_before_the_run(folder, save, kind):
    (folder / "output").mkdir()
    (folder / "output" / kind).write_bytes(b"")
    files = {"drafts": DRAFT_FILES, "conditioning": PROMPT_FILES}[kind]
    assert files.problem("x").endswith(f"{kind} is a file")
    (folder / "output" / kind).unlink()
    (folder / "output" / kind / "x.safetensors").mkdir(parents=True)
    assert files.problem("x").endswith("a folder has that name")


def test_folders_that_cannot_be_listed_are_left_out(folder):
    valid("draft", folder)
    (folder / "output" / "drafts" / "loop").symlink_to("loop")
    (folder / "output" / "drafts" / "a.safetensors").mkdir()
    assert DRAFT_FILES.names() == ["x.safetensors [output]"]


def test_a_lift_that_cannot_be_kept_still_serves_the_run(tmp_path, monkeypatch):
    file = tmp_path / "folder"
    file.write_bytes(b"")
    monkeypatch.setattr(choice, "path_for", lambda digest: file / f"{digest}.safetensors")
    monkeypatch.setattr(choice, "fit_axes", lambda vae, axes, clips: {})  # takes half a minute

    made, outcome = choice._kept_or_fitted(comfy.sd.VAE(sd=vae_state_dict(dim=4)), None, ["HW"])
    assert made.channels == 16 and outcome.startswith("fitted, but not kept: cannot write '")


def test_a_file_its_folder_and_new_folders_are_flushed_in_order(tmp_path, monkeypatch):
    operations = []
    flush, rename = os.fsync, os.replace

    def fsync(descriptor):
        operations.append(os.path.relpath(os.readlink(f"/proc/self/fd/{descriptor}"), tmp_path))
        flush(descriptor)

    def replace(source, target):
        operations.append("rename")
        rename(source, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", replace)
    write_safetensors(tmp_path / "a" / "b" / "x.safetensors", {"a": torch.ones(1)}, {})
    *folders, partial, renamed, folder = operations
    assert folders == [".", "a"] and partial.startswith("a/b/x.") and (renamed, folder) == ("rename", "a/b")


def test_a_folder_that_cannot_be_flushed_still_gets_its_file(tmp_path, monkeypatch):
    flush = os.fsync

    def fsync(descriptor):
        if os.path.isdir(f"/proc/self/fd/{descriptor}"):
            raise OSError(errno.EINVAL, "Invalid argument")
        flush(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    write_safetensors(tmp_path / "a" / "x.safetensors", {"a": torch.ones(1)}, {})
    assert os.listdir(tmp_path / "a") == ["x.safetensors"]


def test_writing_replaces_a_file_as_a_whole(tmp_path):
    path = tmp_path / "a" / ("x" * 180 + ".safetensors")
    for value in (1.0, 2.0):
        write_safetensors(path, {"a": torch.tensor([value])}, {})
        assert load_file(path)["a"].item() == value and os.listdir(path.parent) == [path.name]
