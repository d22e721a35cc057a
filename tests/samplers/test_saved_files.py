"""What a node saves can be loaded; what could not be is refused before the file of that name is replaced."""

import math

import folder_paths
import pytest
import torch
from comfyui_graph import prompt

from pyramidalwan.pyramid.stages import PRESETS
from pyramidalwan.samplers.comfyui.draft_files import load_draft, save_draft
from pyramidalwan.samplers.comfyui.latent_tag import END, StageTag, tag_of, tagged
from pyramidalwan.samplers.comfyui.prompt_files import load_conditioning, save_conditioning
from pyramidalwan.samplers.kept_region import kept_region

FREE = PRESETS["training-free"]
SIZE = FREE.smallest_shape()
LOW = FREE.shapes(SIZE)[0]
SAVED = "x.safetensors [output]"
NAN = math.nan


@pytest.fixture(autouse=True)
def output(tmp_path, monkeypatch):
    """Let ComfyUI work in a folder of its own."""
    for kind in ("input", "output"):
        monkeypatch.setattr(folder_paths, f"{kind}_directory", str(tmp_path / kind))
    return tmp_path / "output"


def draft(mask=None, **fields):
    video = torch.ones(1, 16, *SIZE) if mask is not None else None
    tag = StageTag(FREE, 0, SIZE, END, given=video, **fields)
    return tagged({"samples": torch.ones(1, 16, *LOW), **({} if mask is None else {"noise_mask": mask})}, tag)


MASKS = [
    torch.ones(1, 1, *SIZE, dtype=torch.bool),
    torch.ones(1, 1, *SIZE[1:], dtype=torch.uint8),
    torch.zeros(1, *SIZE[1:], dtype=torch.int64),
    torch.zeros(SIZE[1:], dtype=torch.float16),
]


@pytest.mark.parametrize("mask", MASKS, ids=lambda mask: str(mask.dtype))
def test_a_mask_of_any_numbers_is_saved_and_keeps_the_same_region(mask):
    latent = draft(mask)
    save_draft(latent, "x")
    loaded, _ = load_draft(SAVED)
    video = tag_of(loaded).given
    before, after = (kept_region(video, each["noise_mask"], torch.zeros_like(video)).mask for each in (latent, loaded))
    assert torch.equal(before, after) and torch.equal(loaded["noise_mask"], mask.to(loaded["noise_mask"]))


@pytest.mark.parametrize(
    ("latent", "words"),
    [
        (draft(clean=torch.full((1, 16, *LOW), NAN)), "its tensor 'clean' is empty, or holds NaN"),
        (draft(clean=torch.ones(1, 16, *SIZE)), "its tensor 'clean' has shape 1x16x"),
        (draft(mask=torch.ones(())), "its noise mask has 0 dimensions"),
        (draft(mask=torch.ones(1, 1, 0, 4)), "its tensor 'noise_mask' is empty"),
        ({**draft(), "batch_index": [0, 1]}, "batch indices a list of 2; expected one for each of its 1 videos"),
    ],
)
def test_a_draft_that_could_not_be_loaded_leaves_the_file_of_before(output, latent, words):
    save_draft(draft(), "x")
    (path,) = output.rglob("*.safetensors")
    before = path.read_bytes()
    with pytest.raises(ValueError, match=f"^this draft cannot be saved: .*{words}.*; sample it again$") as caught:
        save_draft(latent, "x")
    assert "\n" not in str(caught.value) and path.read_bytes() == before and list(output.rglob("*.*")) == [path]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"pooled_output": [1, 2]}, "0.pooled_output is a list of 2; expected a tensor of numbers"),
        ({"attention_mask": 5}, "0.attention_mask is 5; expected a tensor"),
        (
            {"pooled_output": torch.ones(1, 4, dtype=torch.complex64)},
            "0.pooled_output is a tensor of complex numbers; expected",
        ),
        ({"pooled_output": torch.ones(4)}, r"0.pooled_output has shape \(4,\); expected 2 or 3 dimensions, the first of 1"),
        ({"attention_mask": torch.ones(2, 7)}, r"0.attention_mask has shape \(2, 7\)"),
        ({"pooled_output": torch.zeros(0, 4)}, r"0.pooled_output has shape \(0, 4\)"),
        ({"strength": -5.0}, "strength is -5.0; expected a number from 0 to 1000"),
        ({"strength": 10**400}, "strength is a number of more than 60 digits"),
        ({"strength": "a"}, "strength is 'a'"),
        ({"strength": True}, "strength is True"),
        ({"start_percent": 2.0}, "start_percent is 2.0; expected a number from 0 to 1"),
        ({"start_percent": torch.ones(2)}, "start_percent is of type Tensor"),
    ],
    ids=str,
)
def test_a_prompt_that_could_not_be_loaded_leaves_the_file_of_before(output, options, words):
    path = save_conditioning(prompt(), "x")
    before = path.read_bytes()
    with pytest.raises(ValueError, match=f"^this conditioning cannot be saved: .*{words}.*; encode the prompt again$") as error:
        save_conditioning(prompt(**options), "x")
    assert "\n" not in str(error.value) and path.read_bytes() == before and list(output.rglob("*.*")) == [path]


def test_numbers_of_other_types_and_options_without_a_value_are_saved():
    save_conditioning(prompt(strength=torch.tensor(0.5), start_percent=0, end_percent=None, pooled_output=None), "x")
    ((_, options),) = load_conditioning(SAVED)
    assert options == {"strength": 0.5, "start_percent": 0.0}


def test_what_a_prompt_also_carries_is_named_whatever_its_keys_are():
    with pytest.raises(ValueError, match="also carries 'a b', 5, control: save it before") as caught:
        save_conditioning([[prompt()[0][0], {"control": 1, 5: 6, "a b": 1}]], "x")
    assert len(str(caught.value)) < 200


def test_tensors_that_cannot_be_computed_with_are_not_saved(output):
    for sparse, key in (
        ([[prompt()[0][0].to_sparse(), {}]], "cross_attn"),
        (prompt(pooled_output=torch.ones(1, 4).to("meta")), "pooled_output"),
    ):
        with pytest.raises(ValueError, match=f"holds a tensor without plain numbers in '{key}'; encode the prompt again"):
            save_conditioning(sparse, "x")
    with pytest.raises(ValueError, match="its tensor 'clean' is empty, or holds NaN"):
        save_draft(draft(clean=torch.ones(1, 16, *LOW).to_sparse()), "x")
    assert not output.exists()
