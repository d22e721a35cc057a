"""Names of Wan's weights: against the real networks of diffusers and ComfyUI, and in the spellings of LoRA trainers."""

import comfy.ldm.wan.model
import comfy.ops
import pytest
import torch

from pyramid.key_names import LoraKey, diffusers_name, flattened, lora_key, wan_module, wan_name

SIZE = {"num_layers": 4, "ffn_dim": 256}


def comfyui_names(kind):
    """The parameters of ComfyUI's own network."""
    common = SIZE | {"dim": 128, "num_heads": 1, "device": "meta", "operations": comfy.ops.disable_weight_init}
    networks = {
        "t2v": lambda: comfy.ldm.wan.model.WanModel(**common),
        "i2v": lambda: comfy.ldm.wan.model.WanModel("i2v", in_dim=36, **common),
        "flf2v": lambda: comfy.ldm.wan.model.WanModel("i2v", in_dim=36, flf_pos_embed_token_number=514, **common),
        "vace": lambda: comfy.ldm.wan.model.VaceWanModel(vace_layers=2, vace_in_dim=96, **common),
    }
    return set(networks[kind]().state_dict())


def diffusers_names(kind):
    """The parameters of diffusers' own network."""
    diffusers = pytest.importorskip("diffusers")
    image = {"in_channels": 36, "image_dim": 1280, "added_kv_proj_dim": 128}
    common = SIZE | {"num_attention_heads": 1}
    with torch.device("meta"):
        network = {
            "t2v": lambda: diffusers.WanTransformer3DModel(**common),
            "i2v": lambda: diffusers.WanTransformer3DModel(**common, **image),
            "flf2v": lambda: diffusers.WanTransformer3DModel(**common, **image, pos_embed_seq_len=514),
            "vace": lambda: diffusers.WanVACETransformer3DModel(**common, vace_layers=[0, 2], vace_in_channels=96),
        }[kind]()
    return set(network.state_dict())


@pytest.mark.parametrize("kind", ["t2v", "i2v", "flf2v", "vace"])
def test_every_weight_has_one_name_in_each_network(kind):
    wan, diffusers = comfyui_names(kind), diffusers_names(kind)
    assert {wan_name(name) for name in diffusers} == wan
    assert {diffusers_name(name) for name in wan} == diffusers
    assert all(diffusers_name(wan_name(name)) == name for name in diffusers)


@pytest.mark.parametrize("kind", ["t2v", "i2v", "flf2v", "vace"])
def test_every_module_is_found_in_four_spellings(kind):
    for wan in comfyui_names(kind):
        module = wan.removesuffix(".weight").removesuffix(".bias")
        for own in (module, diffusers_name(module)):
            assert wan_module(own) == wan_module(flattened(own)) == module


@pytest.mark.parametrize(
    "name",
    ["blocks.0.attn3.to_q.weight", "img_emb.proj.0.weight", "blocks.0.norm1.weight", "blocks.0.proj_out.weight", ""],
)
def test_a_name_that_the_network_does_not_have(name):
    with pytest.raises(ValueError, match=f"'{name}' is not a weight of a Wan transformer"):
        wan_name(name)


WAN, DIFFUSERS = "blocks.12.cross_attn.o", "blocks.12.attn2.to_out.0"
DOTTED_PREFIXES = {
    "ComfyUI": "diffusion_model.",
    "ComfyUI checkpoints": "model.diffusion_model.",
    "diffusers": "transformer.",
    "peft": "base_model.model.",
    "SimpleTuner": "transformer.base_model.model.",
    "peft of ComfyUI's network": "base_model.model.diffusion_model.",
    "old peft scripts": "unet.base_model.model.",
    "DiffSynth-Studio": "pipe.dit.",
    "data parallel and compiled": "module._orig_mod.",
    "bare": "",
}
FLAT_PREFIXES = {
    "kohya, musubi-tuner": "lora_unet_",
    "Wan-Fun": "lora_unet__",
    "OneTrainer": "lora_transformer_",
    "LyCORIS": "lycoris_",
    "LyCORIS of ComfyUI's network": "lycoris_diffusion_model_",
}


@pytest.mark.parametrize("prefix", DOTTED_PREFIXES.values(), ids=DOTTED_PREFIXES)
@pytest.mark.parametrize("name", [WAN, DIFFUSERS])
def test_dotted_prefixes(prefix, name):
    assert lora_key(f"{prefix}{name}.lora_A.weight") == LoraKey(WAN, "lora_down.weight")


@pytest.mark.parametrize("prefix", FLAT_PREFIXES.values(), ids=FLAT_PREFIXES)
@pytest.mark.parametrize("name", [WAN, DIFFUSERS])
def test_flat_prefixes(prefix, name):
    assert lora_key(f"{prefix}{flattened(name)}.lora_up.weight") == LoraKey(WAN, "lora_up.weight")


def test_underscores_in_front_and_dots_behind():
    """Some merging tools write them so."""
    assert lora_key("lora_unet_blocks_12.cross_attn.o.alpha") == LoraKey(WAN, "alpha")
    assert lora_key("blocks.0._orig_mod.self_attn.q.alpha") == LoraKey("blocks.0.self_attn.q", "alpha")


@pytest.mark.parametrize(
    ("suffix", "tensor", "adapter"),
    [
        ("lora_up.weight", "lora_up.weight", None),
        ("lora_down.weight", "lora_down.weight", None),
        ("lora_mid.weight", "lora_mid.weight", None),
        ("lora_A.weight", "lora_down.weight", None),
        ("lora_B.weight", "lora_up.weight", None),
        ("lora_A", "lora_down.weight", None),
        ("lora_A.default", "lora_down.weight", "default"),
        ("lora_A.default.weight", "lora_down.weight", "default"),
        ("lora_B.style.weight", "lora_up.weight", "style"),
        ("lora_B.style.bias", "lora_up.bias", "style"),
        ("lora_B.bias", "lora_up.bias", None),
        ("lora.up.weight", "lora_up.weight", None),
        ("lora.down.weight", "lora_down.weight", None),
        ("lora_linear_layer.up.weight", "lora_up.weight", None),
        ("alpha", "alpha", None),
        ("diff", "diff", None),
        ("diff_b", "diff_b", None),
        ("set_weight", "set_weight", None),
        ("reshape_weight", "reshape_weight", None),
        ("dora_scale", "dora_scale", None),
        ("lora_magnitude_vector", "dora_scale", None),
        ("lora_magnitude_vector.style.weight", "dora_scale", "style"),
        ("lokr_w1", "lokr_w1", None),
        ("lokr_w2_a", "lokr_w2_a", None),
        ("lokr_t2.style", "lokr_t2", "style"),
        ("hada_w1_b", "hada_w1_b", None),
        ("hada_t2", "hada_t2", None),
        ("oft_blocks", "oft_blocks", None),
        ("rescale", "rescale", None),
        ("a1.weight", "a1.weight", None),
        ("b2.weight", "b2.weight", None),
        ("oft_R.default.weight", "oft_R", "default"),
    ],
)
def test_tensors_of_every_kind_of_adapter(suffix, tensor, adapter):
    assert lora_key(f"transformer.{DIFFUSERS}.{suffix}") == LoraKey(WAN, tensor, adapter)
    assert lora_key(f"lora_unet_{flattened(WAN)}.{suffix}") == LoraKey(WAN, tensor, adapter)


def test_the_oldest_spelling_of_diffusers():
    assert lora_key("transformer.blocks.3.attn1.to_q_lora.up.weight") == LoraKey("blocks.3.self_attn.q", "lora_up.weight")


@pytest.mark.parametrize(
    ("prefix", "expert"),
    [
        ("diffusion_model.transformer_1.", "high"),
        ("diffusion_model.transformer_2.", "low"),
        ("transformer_2.", "low"),
        ("transformer_2.base_model.model.", "low"),
        ("pipe.dit2.", "low"),
        ("high_noise.", "high"),
        ("low_noise.diffusion_model.", "low"),
        ("high_noise_model.", "high"),
        ("dit_high.", "high"),
        ("dit_low_noise.", "low"),
    ],
)
def test_the_expert_in_the_prefix(prefix, expert):
    assert lora_key(f"{prefix}{WAN}.alpha") == LoraKey(WAN, "alpha", None, expert)


def test_flat_experts():
    for prefix, expert in (("lora_unet_high_noise_", "high"), ("lycoris_transformer_2_", "low")):
        assert lora_key(f"{prefix}{flattened(DIFFUSERS)}.alpha") == LoraKey(WAN, "alpha", None, expert)


@pytest.mark.parametrize(
    ("key", "module"),
    [
        ("lora_unet_transformer_blocks_0_attn1_to_q.alpha", "transformer_blocks_0_attn1_to_q"),
        ("transformer.transformer_blocks.0.attn1.to_q.alpha", "transformer_blocks.0.attn1.to_q"),
        ("transformer.single_transformer_blocks.0.attn.to_q.alpha", "single_transformer_blocks.0.attn.to_q"),
        ("lora_te_text_model_encoder_layers_0.alpha", "lora_te_text_model_encoder_layers_0"),
        ("diffusion_model.double_blocks.0.img_attn.qkv.alpha", "double_blocks.0.img_attn.qkv"),
    ],
)
def test_layers_of_other_networks_do_not_become_layers_of_wan(key, module):
    assert lora_key(key) == LoraKey(module, "alpha")


def test_a_tensor_that_no_adapter_has():
    assert lora_key("diffusion_model.blocks.0.self_attn.q.weight") == LoraKey("blocks.0.self_attn.q.weight", "")
