"""Every tiny Wan variant is loaded by the real ComfyUI as the class that it stands for."""

import inspect
import json

import comfy.sd
import pytest
import torch
from safetensors import safe_open

from tiny_wan.variants import VARIANTS, is_known, metadata, state_dict, write_variant


@pytest.mark.parametrize("name", VARIANTS)
def test_comfyui_detects_the_variant(name):
    variant = VARIANTS[name]
    if not is_known(variant):
        pytest.skip(f"this ComfyUI has no {variant.expected}")
    parameters = inspect.signature(comfy.sd.load_diffusion_model_state_dict).parameters
    options = {"metadata": metadata(variant) or None} if "metadata" in parameters else {}
    model = comfy.sd.load_diffusion_model_state_dict(state_dict(variant), **options)
    assert type(model.model.model_config).__name__ == variant.expected
    assert type(model.model.diffusion_model).__name__ == variant.network.split(":")[1]


def test_every_wan_class_of_this_comfyui_has_a_variant():
    import comfy.supported_models

    classes = {kind.__name__ for kind in comfy.supported_models.models if kind.__name__.startswith(("WAN21", "WAN22"))}
    assert classes and classes <= {variant.expected for variant in VARIANTS.values()}


def test_weights_follow_the_seed():
    first, again, other = (state_dict(VARIANTS["t2v"], seed=seed) for seed in (1, 1, 2))
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not any(torch.equal(first[key], other[key]) for key in first)


def test_what_a_file_needs_beside_its_weights_is_in_its_metadata(tmp_path):
    if not is_known(VARIANTS["causal_ar"]):
        write_variant("t2v", tmp_path / "network.safetensors")
        expected = None
    else:
        write_variant("causal_ar", tmp_path / "network.safetensors")
        expected = {"config": json.dumps({"transformer": {"causal_ar": True}})}
    with safe_open(tmp_path / "network.safetensors", "pt") as file:
        assert (file.metadata() or None) == expected


def test_an_unknown_variant_is_named(tmp_path):
    with pytest.raises(ValueError, match="unknown variant 'wan3'; expected t2v, i2v"):
        write_variant("wan3", tmp_path / "network.safetensors")
