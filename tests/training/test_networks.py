"""diffusers' network agrees with ComfyUI's: velocities at every stage size, positions; other files are rejected."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

from pyramid.latent_shape import LatentShape
from pyramid.stages import PRESETS
from pyramid.training.models.networks import WanVelocity, open_transformer, transformer_dimensions
from tiny_wan.checkpoints import i2v_state_dict, t2v_state_dict

SHAPES = PRESETS["pyramidal-wan"].shapes(LatentShape(5, 16, 24))


@pytest.fixture(scope="module")
def weights():
    return t2v_state_dict()


@pytest.fixture(scope="module")
def file(tmp_path_factory, weights):
    path = tmp_path_factory.mktemp("wan") / "tiny.safetensors"
    save_file(weights, path)
    return path


def comfyui_velocity(model, x, conditioning, context, rope=None):
    options = {"rope_options": dict(zip(("scale_t", "scale_y", "scale_x"), rope, strict=True))} if rope else {}
    return model.model.diffusion_model(x, 1000 * conditioning, context, transformer_options=options)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@torch.no_grad()
def test_the_velocity_agrees_with_comfyui_at_every_stage(file, t2v_model, shape):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 16, shape.frames, shape.height, shape.width, generator=generator)
    context, conditioning = torch.randn(2, 7, 4096, generator=generator), torch.tensor([0.31, 0.97])
    ours = WanVelocity(open_transformer(file))(x, conditioning, context)
    assert (ours - comfyui_velocity(t2v_model, x, conditioning, context)).abs().max() < 1e-4


@pytest.mark.parametrize("scale", [(2.0, 1.0, 1.0), (4.0, 4.0, 4.0)])
@torch.no_grad()
def test_scaled_positions_agree_with_comfyui(file, t2v_model, scale):
    generator = torch.Generator().manual_seed(1)
    x, context = torch.randn(1, 16, 3, 8, 12, generator=generator), torch.randn(1, 7, 4096, generator=generator)
    network, conditioning = WanVelocity(open_transformer(file)), torch.tensor([0.5])
    stage = replace(PRESETS["plain"].stages(LatentShape(3, 8, 12))[0], rope_scale=scale)
    ours = network(x, conditioning, context, stage)
    assert (ours - comfyui_velocity(t2v_model, x, conditioning, context, scale)).abs().max() < 1e-4
    assert (ours - network(x, conditioning, context)).abs().max() > 1e-3


@torch.no_grad()
def test_unscaled_positions_are_bit_identical_to_those_of_diffusers(file):
    network = open_transformer(file)
    x = torch.randn(1, 16, 5, 8, 12)
    expected = network.rope(x)
    ours = WanVelocity(network).transformer.rope(x)
    assert all(torch.equal(one, other) for one, other in zip(expected, ours, strict=True))


@pytest.mark.parametrize("layout", ["prefixed", "half", "diffusers", "pipeline"])
@torch.no_grad()
def test_every_layout_opens_as_the_same_network(tmp_path, file, weights, layout):
    reference = open_transformer(file)
    if layout == "prefixed":
        path = tmp_path / "one.safetensors"
        save_file({f"model.diffusion_model.{name}": value for name, value in weights.items()}, path)
    elif layout == "half":
        path = tmp_path / "one.safetensors"
        save_file({name: value.half() for name, value in weights.items()}, path)
    else:
        path = tmp_path
        reference.save_pretrained(tmp_path / ("transformer" if layout == "pipeline" else ""))
    opened = open_transformer(path)
    for name, value in reference.state_dict().items():
        assert opened.state_dict()[name].dtype == torch.float32
        assert torch.allclose(opened.state_dict()[name], value, atol=2e-3 if layout == "half" else 0)
    dimensions = transformer_dimensions(path)
    assert (dimensions.dim, dimensions.ffn_dim, dimensions.layers, dimensions.text_dim) == (128, 256, 2, 4096)


def test_an_image_to_video_transformer_is_rejected(tmp_path):
    save_file(i2v_state_dict(), tmp_path / "i2v.safetensors")
    with pytest.raises(ValueError, match="image-to-video, control and Wan 2.2 5B models cannot be trained yet"):
        open_transformer(tmp_path / "i2v.safetensors")


@pytest.mark.parametrize("kind", ["scaled", "fp8"])
def test_quantised_weights_are_rejected(tmp_path, weights, kind):
    changed = dict(weights)
    if kind == "scaled":
        changed["scaled_fp8"] = torch.zeros(2).to(torch.float8_e4m3fn)
    else:
        changed["blocks.0.self_attn.q.weight"] = changed["blocks.0.self_attn.q.weight"].to(torch.float8_e4m3fn)
    save_file(changed, tmp_path / "q.safetensors")
    with pytest.raises(ValueError, match="is quantised and cannot be trained"):
        open_transformer(tmp_path / "q.safetensors")


def test_other_files_are_rejected_with_the_supported_layouts(tmp_path):
    save_file({"x": torch.zeros(1)}, tmp_path / "x.safetensors")
    (tmp_path / "x.gguf").write_bytes(b"GGUF")
    for path in (tmp_path / "x.safetensors", tmp_path / "x.gguf", tmp_path, tmp_path / "missing"):
        with pytest.raises(ValueError, match="expected a diffusers folder"):
            open_transformer(path)
