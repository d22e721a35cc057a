"""Networks whose files contradict themselves: nothing is dropped or guessed, and no file makes the memory full."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from safetensors.torch import load_file, save_file

from pyramid.training.models.encoders import Umt5, open_vae
from pyramid.training.models.networks import open_transformer
from tiny_wan.checkpoints import t2v_state_dict
from tiny_wan.training_files import text_folder, vae_file

NAN = float("nan")


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
    """Write a transformer, a VAE and a text encoder in the layouts of diffusers and transformers; return their folder."""
    folder = tmp_path_factory.mktemp("networks")
    save_file(t2v_state_dict(), folder / "tiny.safetensors")
    open_transformer(folder / "tiny.safetensors").save_pretrained(folder / "transformer")
    open_vae(vae_file(folder)).network.save_pretrained(folder / "vae")
    text_folder(folder)
    return folder


def changed_copy(networks, tmp_path, kind, **settings):
    """Copy a network with other settings in its configuration."""
    folder = Path(shutil.copytree(networks / kind, tmp_path / kind))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **settings}))
    return folder


OPEN = {"transformer": open_transformer, "vae": open_vae, "text": Umt5}


@pytest.mark.parametrize(
    "kind, settings, message",
    [
        ("transformer", {"num_layers": 1}, "holds weights that its config.json leaves out: blocks.1.attn1.norm_k.weight and"),
        ("transformer", {"qk_norm": None}, "qk_norm is None; expected 'rms_norm_across_heads'"),
        ("transformer", {"attention_head_dim": 64, "num_attention_heads": 2}, "attention_head_dim is 64; expected 128"),
        ("transformer", {"eps": 0.1}, "eps is 0.1; expected 1e-06"),
        ("transformer", {"patch_size": [1, 4, 1]}, "patch_size is .1, 4, 1.; expected .1, 2, 2."),
        ("transformer", {"out_channels": 8}, "out_channels is 8; expected 16"),
        ("text", {"num_layers": 0}, "num_layers is 0; expected a whole number from 1 to 256"),
        ("text", {"feed_forward_proj": "gated-silu"}, "feed_forward_proj is 'gated-silu'; expected 'gated-gelu'"),
        ("text", {"num_layers": 10**9}, "num_layers is 1000000000; expected a whole number from 1 to 256"),
        ("text", {"d_model": 10**9}, "d_model is 1000000000; expected a whole number from 1 to 16384"),
        ("text", {"d_ff": "8"}, "d_ff is '8'; expected a whole number from 1 to 131072"),
        ("text", {"vocab_size": 5}, "shapes contradict|cannot be read as a UMT5"),
        ("vae", {"temperal_downsample": [False] * 3}, "temperal_downsample is .*; expected .False, True, True."),
        ("vae", {"temperal_downsample": [True, True, False]}, "temperal_downsample is"),
        ("vae", {"z_dim": 8}, "z_dim is 8; expected 16"),
        ("vae", {"latents_mean": [0.0] * 8}, "latents_mean is .*; expected 16 numbers, one for each channel"),
        ("vae", {"latents_mean": "x"}, "latents_mean is 'x'; expected 16 numbers"),
        ("vae", {"latents_mean": [NAN] * 16}, "latents_mean is .*; expected 16 numbers"),
        ("vae", {"latents_std": [0.0] * 16}, "latents_std is .*; expected 16 positive numbers"),
        ("vae", {"latents_std": [NAN] * 16}, "latents_std is .*; expected 16 positive numbers"),
        ("vae", {"base_dim": 10**6}, "base_dim is 1000000; expected a whole number from 1 to 256"),
    ],
)
def test_a_configuration_that_contradicts_the_network_is_refused(networks, tmp_path, kind, settings, message):
    with pytest.raises(ValueError, match=message):
        OPEN[kind](changed_copy(networks, tmp_path, kind, **settings))


def test_weights_of_the_whole_text_model_are_not_missed(networks, tmp_path):
    folder = changed_copy(networks, tmp_path, "text")
    weights = load_file(folder / "model.safetensors")
    more = {"lm_head.weight": torch.ones(9, 4), "decoder.block.0.layer.0.layer_norm.weight": torch.ones(4)}
    save_file({**weights, **more}, folder / "model.safetensors", metadata={"format": "pt"})
    assert torch.equal(Umt5(folder)(["a red ring"])[0], Umt5(networks / "text")(["a red ring"])[0])


def test_a_tokenizer_of_another_model_is_refused(networks, tmp_path):
    folder = changed_copy(networks, tmp_path, "text")
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer["model"]["vocab"]["ring"] = 5000
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(
        ValueError, match="has tokens up to number 5000, but the text encoder knows 9; use the tokenizer of this"
    ):
        Umt5(folder)


@pytest.mark.filterwarnings("ignore:Sparse invariant checks")
@pytest.mark.parametrize(
    "contents",
    [
        {"encoder.conv1.weight": 3, "conv2.weight": 3},
        {3: torch.zeros(1)},
        [1],
        {"encoder.conv1.weight": torch.zeros(8, 3, 3, 3, 3).to_sparse(), "conv2.weight": torch.zeros(16, 16, 1, 1, 1)},
    ],
)
def test_a_pickle_without_weights_is_not_a_vae(tmp_path, contents):
    torch.save(contents, tmp_path / "vae.pth")
    with pytest.raises(ValueError, match="vae.pth is not a Wan 2.1 VAE; expected a diffusers folder"):
        open_vae(tmp_path / "vae.pth")


def test_a_vae_with_a_weight_of_another_shape_is_named(tmp_path):
    weights = load_file(vae_file(tmp_path))
    weights["encoder.head.2.bias"] = torch.zeros(3)
    save_file(weights, tmp_path / "vae.safetensors")
    with pytest.raises(ValueError, match="is not a Wan 2.1 VAE: 'encoder.conv_out.bias' is 3, expected 32"):
        open_vae(tmp_path / "vae.safetensors")


@pytest.mark.parametrize("rows", [32, 0, 3])
def test_a_transformer_with_outputs_of_another_size_is_refused(tmp_path, rows):
    weights = t2v_state_dict()
    for name in ("head.head.weight", "head.head.bias"):
        weights[name] = weights[name][:rows].clone()
    save_file(weights, tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match="is not a Wan transformer: "):
        open_transformer(tmp_path / "x.safetensors")


def test_a_small_file_that_claims_a_wide_vae_takes_no_memory(tmp_path, monkeypatch):
    """The network is built without memory until the shapes agree."""
    save_file(
        {"encoder.conv1.weight": torch.zeros(256, 3, 1, 1, 1), "conv2.weight": torch.zeros(16, 16, 1, 1, 1)},
        tmp_path / "vae.safetensors",
    )
    devices = []
    built = AutoencoderKLWan.__init__
    monkeypatch.setattr(
        AutoencoderKLWan,
        "__init__",
        lambda *args, **options: devices.append(torch.empty(1).device.type) or built(*args, **options),
    )
    with pytest.raises(ValueError, match="is not a Wan 2.1 VAE: '.*' is "):
        open_vae(tmp_path / "vae.safetensors")
    assert devices == ["meta"]
