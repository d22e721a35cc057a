"""ComfyUI's loaders recognise the tiny checkpoints as Wan2.1."""

import comfy.sd
import pytest
import torch
from safetensors.torch import load_file

from tiny_wan.checkpoints import CHECKPOINTS, i2v_state_dict, t2v_state_dict, vae_state_dict, write_checkpoints


@pytest.mark.parametrize(
    ("state_dict", "kind", "in_dim", "sizes"),
    [
        (t2v_state_dict, "t2v", 16, {}),
        (t2v_state_dict, "t2v", 16, {"dim": 256, "ffn_dim": 384, "layers": 1}),
        (i2v_state_dict, "i2v", 36, {}),
    ],
)
def test_comfyui_recognises_the_transformers(state_dict, kind, in_dim, sizes):
    weights = state_dict(**sizes)
    model = comfy.sd.load_diffusion_model_state_dict(dict(weights)).model
    network = model.diffusion_model
    expected = {"dim": 128, "ffn_dim": 256, "layers": 2} | sizes
    assert type(model).__name__ == "WAN21"
    assert (network.model_type, network.in_dim) == (kind, in_dim)
    assert (network.dim, network.ffn_dim, network.num_layers) == tuple(expected.values())
    assert network.state_dict().keys() == weights.keys()


@pytest.mark.parametrize("kind", ["t2v", "i2v"])
def test_the_output_depends_on_every_input_and_keeps_its_scale(kind, request):
    network = request.getfixturevalue(f"{kind}_model").model.diffusion_model
    draw = torch.Generator().manual_seed(1)
    inputs = {
        "x": torch.randn(1, network.in_dim, 3, 8, 8, generator=draw),
        "timestep": torch.tensor([500.0]),
        "context": torch.randn(1, 5, 4096, generator=draw),
    }
    if kind == "i2v":
        inputs["clip_fea"] = torch.randn(1, 257, 1280, generator=draw)
    output = network(**inputs)
    assert output.shape == (1, 16, 3, 8, 8)
    assert 0.3 < output.std() < 3
    for name, value in inputs.items():
        other = network(**{**inputs, name: 0.5 * value.roll(1)})
        assert (output - other).std() > 0.01, name


def test_comfyui_recognises_the_vae():
    weights = vae_state_dict(dim=8)
    vae = comfy.sd.VAE(sd=dict(weights))
    assert vae.first_stage_model.state_dict().keys() == weights.keys()
    latent = vae.encode(torch.rand(5, 16, 32, 3, generator=torch.Generator().manual_seed(0)))
    assert latent.shape == (1, 16, 2, 2, 4)
    video = vae.decode(latent)
    assert video.shape == (1, 5, 16, 32, 3)
    assert video.isfinite().all() and video.std() > 0.05


def test_weights_are_a_function_of_the_seed():
    first, again, other = t2v_state_dict(seed=3), t2v_state_dict(seed=3), t2v_state_dict(seed=4)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not any(torch.equal(first[name], other[name]) for name in first)


def test_a_width_that_is_not_a_multiple_of_the_head_size_is_rejected():
    with pytest.raises(ValueError, match="dim 96 is not a multiple of 128"):
        t2v_state_dict(dim=96)


def test_written_files_replace_old_ones_and_leave_no_temporary_files(tmp_path):
    (tmp_path / "vae").mkdir()
    (tmp_path / "vae" / "tiny_random_wan_vae.safetensors").write_bytes(b"cut off")
    paths = write_checkpoints(tmp_path)
    assert sorted(path for path in tmp_path.rglob("*") if path.is_file()) == sorted(paths)
    for path, state_dict in zip(paths, CHECKPOINTS.values(), strict=True):
        assert load_file(path).keys() == state_dict().keys()
