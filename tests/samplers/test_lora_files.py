"""LoRA files of real trainers on real models: spellings, kinds of adapters, sizes, and layers that other nodes changed."""

import dataclasses
import gc
import json
from importlib.util import find_spec

import comfy.lora
import comfy.sd
import comfy.utils
import folder_paths
import pytest
import torch
from comfy.patcher_extension import PatcherInjection, WrappersMP
from comfyui_graph import empty, prompt
from safetensors.torch import save_file

from pyramidalwan.nodes.files import PyramidalWanStageLoRA
from pyramidalwan.nodes.sampler import PyramidalWanSampler
from pyramidalwan.pyramid.latent_shape import LatentShape
from pyramidalwan.pyramid.stages import PRESETS
from pyramidalwan.samplers.comfyui import stage_lora
from pyramidalwan.samplers.comfyui.checkpoint_metadata import expert_of
from pyramidalwan.samplers.comfyui.layer_additions import low_rank
from pyramidalwan.samplers.comfyui.lora_file import load_lora_file
from pyramidalwan.samplers.comfyui.stage_lora import StageLora, add_stage_lora
from pyramidalwan.samplers.comfyui.stage_model import bind_stage
from tiny_wan.checkpoints import t2v_state_dict

PLAIN = PRESETS["plain"]
STAGE = PLAIN.stages(LatentShape(2, 4, 4))[0]
Q = "diffusion_model.blocks.0.self_attn.q"


def random(*shape, seed=0, scale=0.2):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * scale


LOW_RANK = {f"{Q}.lora_up.weight": random(128, 4, seed=1), f"{Q}.lora_down.weight": random(4, 128, seed=2)}


@pytest.fixture
def own_model():
    """A MODEL that no other test shares."""
    return comfy.sd.load_diffusion_model_state_dict(t2v_state_dict())


@pytest.fixture
def write(tmp_path):
    def write(tensors, name="x.safetensors", metadata=None, strength=1.0, expert=None):
        save_file({key: value.contiguous() for key, value in tensors.items()}, tmp_path / name, metadata)
        return StageLora(load_lora_file(tmp_path / name, name, expert), strength, "all")

    return write


def sample(model, steps="2", pyramid=PLAIN, cfg="1"):
    return PyramidalWanSampler.execute(
        model, prompt(1), prompt(2), empty(frames=2, height=4, width=4), seed=5, steps=steps, cfg=cfg, sampler_name="euler",
        denoise=1.0, grid="auto", shift=5.0, start_stage="auto", end_stage="auto", pyramid=pyramid,
    ).args[0]["samples"]  # fmt: skip


def by_comfyui(model, tensors, strength=1.0):
    """The model with the LoRA in its weights, by ComfyUI's own loader."""
    return comfy.sd.load_lora_for_models(model, None, dict(tensors), strength, 0)[0]


def assert_same(one, other):
    torch.testing.assert_close(one, other, atol=2e-4, rtol=1e-4)


LAYERS = {  # Wan's name: diffusers' name, rows, columns
    "blocks.0.self_attn.q": ("blocks.0.attn1.to_q", 128, 128),
    "blocks.0.self_attn.o": ("blocks.0.attn1.to_out.0", 128, 128),
    "blocks.1.cross_attn.v": ("blocks.1.attn2.to_v", 128, 128),
    "blocks.1.ffn.0": ("blocks.1.ffn.net.0.proj", 256, 128),
    "time_projection.1": ("condition_embedder.time_proj", 768, 128),
}


def spelled(module, up, down):
    tensors = {}
    for seed, (name, (_, rows, columns)) in enumerate(LAYERS.items()):
        tensors[f"{module(name)}.{up}"] = random(rows, 4, seed=seed)
        tensors[f"{module(name)}.{down}"] = random(4, columns, seed=seed + 10)
    return tensors


def flat(name):
    return name.replace(".", "_")


AB = ("lora_B.weight", "lora_A.weight")
UP_DOWN = ("lora_up.weight", "lora_down.weight")
SPELLINGS = {
    "diffusers": (lambda n: f"transformer.{LAYERS[n][0]}", *AB),
    "kohya, Wan's names": (lambda n: f"lora_unet_{flat(n)}", *UP_DOWN),
    "kohya, diffusers' names": (lambda n: f"lora_unet_{flat(LAYERS[n][0])}", *UP_DOWN),
    "Wan-Fun": (lambda n: f"lora_unet__{flat(n)}", *UP_DOWN),
    "LyCORIS": (lambda n: f"lycoris_{flat(LAYERS[n][0])}", *UP_DOWN),
    "OneTrainer": (lambda n: f"lora_transformer_{flat(LAYERS[n][0])}", *UP_DOWN),
    "SimpleTuner": (lambda n: f"transformer.base_model.model.{LAYERS[n][0]}", *AB),
    "peft": (lambda n: f"base_model.model.{LAYERS[n][0]}", "lora_B.default.weight", "lora_A.default.weight"),
    "a named adapter": (lambda n: f"transformer.{LAYERS[n][0]}", "lora_B.style.weight", "lora_A.style.weight"),
    "DiffSynth-Studio": (lambda n: f"pipe.dit.{n}", "lora_B.default.weight", "lora_A.default.weight"),
    "bare": (lambda n: n, *AB),
    "Wan 2.2, high noise": (lambda n: f"diffusion_model.transformer_1.{LAYERS[n][0]}", *AB),
}


@pytest.mark.parametrize("style", SPELLINGS)
def test_every_spelling_is_the_same_lora(t2v_model, write, style):
    made, report = add_stage_lora(t2v_model, write(spelled(*SPELLINGS[style])))
    assert report == "'x.safetensors': 5 of 5 modules applied"
    reference = spelled(lambda name: f"diffusion_model.{name}", *UP_DOWN)
    wanted = sample(by_comfyui(t2v_model, reference))
    assert_same(sample(made), wanted)
    assert (wanted - sample(t2v_model)).abs().max() > 0.05


def adapters(rows, columns, seed=3):
    """One adapter of each kind for a weight of that size, in the names of its files."""

    def r(*shape, number=0):
        return random(*shape, seed=seed + number)

    loha = {f"hada_w{n}_{s}": r(*size, number=n) for n in (1, 2) for s, size in (("a", (rows, 4)), ("b", (4, columns)))}
    return {
        "LoRA": {"lora_up.weight": r(rows, 4), "lora_down.weight": r(4, columns, number=1), "alpha": torch.tensor(2.0)},
        "DoRA": {
            **{"lora_up.weight": r(rows, 4), "lora_down.weight": r(4, columns, number=1), "alpha": torch.tensor(4.0)},
            "dora_scale": 1 + r(rows, 1).abs(),
        },
        "LoHa": loha | {"alpha": torch.tensor(4.0)},
        "LoKr": {"lokr_w1": r(8, 8), "lokr_w2": r(rows // 8, columns // 8, number=1), "alpha": torch.tensor(1.0)},
        "LoKr, factored": {
            **{"lokr_w1_a": r(8, 2), "lokr_w1_b": r(2, 8, number=1), "alpha": torch.tensor(2.0)},
            **{"lokr_w2_a": r(rows // 8, 2, number=2), "lokr_w2_b": r(2, columns // 8, number=3)},
        },
        "OFT": {"oft_blocks": r(rows // 32, 32, 32), "alpha": torch.tensor(1.0)},
        "BOFT": {"oft_blocks": r(2, rows // 16, 16, 16), "alpha": torch.tensor(1.0)},
        "GLoRA": {
            **{"a1.weight": r(columns, 4), "a2.weight": r(4, columns, number=1)},
            **{"b1.weight": r(rows, 4, number=2), "b2.weight": r(4, columns, number=3)},
        },
        "GLoRA, older": {
            **{"a1.weight": r(4, columns), "a2.weight": r(columns, 4, number=1)},
            **{"b1.weight": r(4, columns, number=2), "b2.weight": r(rows, 4, number=3)},
        },
        "diff": {"diff": r(rows, columns), "diff_b": r(rows)},
    }


KINDS = list(adapters(128, 128))
FFN = "diffusion_model.blocks.1.ffn.0"


def in_file(module, tensors):
    return {f"{module}.{kind}": tensor for kind, tensor in tensors.items()}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("module", "rows"), [(Q, 128), (FFN, 256)], ids=["square", "oblong"])
def test_every_kind_of_adapter_acts_as_in_comfyui(t2v_model, write, kind, module, rows):
    tensors = in_file(module, adapters(rows, 128)[kind])
    made, report = add_stage_lora(t2v_model, write(tensors, strength=0.7))
    assert report == "'x.safetensors': 1 of 1 modules applied"
    wanted = sample(by_comfyui(t2v_model, tensors, 0.7))
    assert_same(sample(made), wanted)
    assert (wanted - sample(t2v_model)).abs().max() > 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_an_adapter_for_a_model_of_another_size(t2v_model, write, kind):
    with pytest.raises(ValueError, match=r"'x.safetensors' is for a model of another size: its blocks.0.self_attn.q.* 128"):
        add_stage_lora(t2v_model, write(in_file(Q, adapters(256, 256)[kind])))


@pytest.mark.parametrize("kind", KINDS)
def test_a_layer_of_another_size_is_left_out_and_the_others_act(t2v_model, write, kind):
    """Such as the 36-channel patch embedding of an image-to-video LoRA."""
    other = in_file("diffusion_model.blocks.1.self_attn.k", adapters(256, 256)[kind])
    made, report = add_stage_lora(t2v_model, write(LOW_RANK | other))
    assert report.startswith("'x.safetensors': 1 of 2 modules applied; skipped: blocks.1.self_attn.k")
    assert " in the file but 128" in report
    assert_same(sample(made), sample(by_comfyui(t2v_model, LOW_RANK)))


def test_a_patch_embedding_of_more_channels(t2v_model, i2v_model, write):
    up = random(128, 4, 1, 1, 1)
    for model, other, says in ((t2v_model, 36, "128x144 in the file but 128x64"), (i2v_model, 16, "128x64 in the file but")):
        down = {"diffusion_model.patch_embedding.lora_down.weight": random(4, other, 1, 2, 2)}
        lora = write(LOW_RANK | down | {"diffusion_model.patch_embedding.lora_up.weight": up}, f"{other}.safetensors")
        _, report = add_stage_lora(model, lora)
        assert "1 of 2 modules applied; skipped: patch_embedding (" + says in report


@pytest.mark.parametrize(
    ("tensors", "reason"),
    [
        ({f"{Q}.lora_up.weight": torch.ones(128, 4)}, "blocks.0.self_attn.q \\(not an adapter that ComfyUI knows"),
        ({f"{Q}.lora_up.weight": torch.ones(128, 4), f"{Q}.lora_down.weight": torch.ones(2, 128)}, "not an adapter"),
        ({f"{Q}.oft_R.default.weight": torch.ones(4, 28)}, "blocks.0.self_attn.q \\(not an adapter that ComfyUI knows"),
        ({f"{Q}.weight": torch.ones(128, 128)}, "blocks.0.self_attn.q.weight \\(not an adapter that ComfyUI knows"),
        ({"diffusion_model.blocks.0.modulation.diff": torch.ones(1, 6, 128)}, "modulation \\(ComfyUI does not patch it\\)"),
    ],
)
def test_what_can_never_act_is_one_sentence(t2v_model, write, tensors, reason):
    with pytest.raises(ValueError, match=f"nothing in the LoRA 'x.safetensors' can act on this model: .*{reason}"):
        add_stage_lora(t2v_model, write(tensors))


def test_the_first_layers_without_effect_are_named_and_the_rest_counted(t2v_model, write):
    others = {f"diffusion_model.blocks.{n}.ffn.0.diff_b": torch.ones(256) for n in range(5, 10)}
    _, report = add_stage_lora(t2v_model, write(LOW_RANK | others))
    assert report == (
        "'x.safetensors': 1 of 6 modules applied; skipped: blocks.5.ffn.0.bias (not in this model), "
        "blocks.6.ffn.0.bias (not in this model), blocks.7.ffn.0.bias (not in this model), and 2 more"
    )


def test_modulation_has_no_effect_in_comfyui_either(t2v_model):
    """If it ever has one, the sentence above is wrong."""
    tensors = {"diffusion_model.blocks.0.modulation.diff": torch.ones(1, 6, 128)}
    assert torch.equal(sample(by_comfyui(t2v_model, tensors)), sample(t2v_model))


AB_FILE = {
    "transformer.blocks.0.attn1.to_q.lora_B.weight": random(128, 4),
    "transformer.blocks.0.attn1.to_q.lora_A.weight": random(4, 128),
}


@pytest.mark.parametrize(
    ("config", "scale"),
    [
        ({"transformer.lora_alpha": 2}, 2 / 4),
        ({"transformer.lora_alpha": 2, "transformer.use_rslora": True}, 2 / 4**0.5),
        ({"lora_alpha": 2, "use_rslora": True}, 2 / 4**0.5),
        ({"transformer.lora_alpha": 2, "transformer.alpha_pattern": {"blocks.0.attn1.to_q": 8}}, 8 / 4),
        ({"transformer.lora_alpha": 2, "transformer.alpha_pattern": {"to_q": 8}}, 8 / 4),
        ({"transformer.lora_alpha": 2, "transformer.alpha_pattern": {"to_k": 8}}, 2 / 4),
        ({"text_encoder.lora_alpha": 2}, 1.0),
        ([], 1.0),
    ],
)
@pytest.mark.parametrize("where", ["header", "file"])
def test_alphas_of_a_peft_configuration(t2v_model, tmp_path, config, scale, where):
    """diffusers packs it into the header, peft saves it next to the weights."""
    path = tmp_path / ("adapter_model.safetensors" if where == "file" else "x.safetensors")
    save_file(AB_FILE, path, {"lora_adapter_metadata": json.dumps(config)} if where == "header" else None)
    if where == "file":
        (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    made, _ = add_stage_lora(t2v_model, StageLora(load_lora_file(path, "x"), 1.0, "all"))
    up, down = AB_FILE.values()
    wanted = t2v_model.clone()
    wanted.add_patches({f"{Q}.weight": ("diff", (up @ down * scale,))})
    assert_same(sample(made), sample(wanted))


def test_a_bias_of_peft(t2v_model, write):
    bias = {"transformer.blocks.0.attn1.to_q.lora_B.bias": random(128, seed=5)}
    made, _ = add_stage_lora(t2v_model, write(AB_FILE | bias, metadata={"lora_adapter_metadata": '{"lora_alpha": 2}'}))
    up, down = AB_FILE.values()
    wanted = t2v_model.clone()
    patches = {f"{Q}.weight": ("diff", (up @ down / 2,)), f"{Q}.bias": ("diff", (random(128, seed=5) / 2,))}
    assert len(wanted.add_patches(patches)) == 2
    assert_same(sample(made), sample(wanted))


def test_the_magnitudes_of_peft_are_a_dora_scale(t2v_model, write):
    magnitudes = 1 + random(128, seed=5).abs()
    made, _ = add_stage_lora(t2v_model, write(AB_FILE | {"transformer.blocks.0.attn1.to_q.lora_magnitude_vector": magnitudes}))
    up, down = AB_FILE.values()
    reference = {f"{Q}.lora_up.weight": up, f"{Q}.lora_down.weight": down, f"{Q}.dora_scale": magnitudes[:, None]}
    assert_same(sample(made), sample(by_comfyui(t2v_model, reference)))


def test_boft_without_an_alpha_acts(t2v_model, write):
    """ComfyUI's own loader compares the missing alpha with 0, and leaves the layer as it is."""
    blocks = {f"{Q}.oft_blocks": random(2, 8, 16, 16)}
    made, _ = add_stage_lora(t2v_model, write(blocks))
    assert_same(sample(made), sample(by_comfyui(t2v_model, blocks | {f"{Q}.alpha": torch.tensor(0.0)})))
    assert (sample(made) - sample(t2v_model)).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("tensors", "metadata", "named"),
    [
        (LOW_RANK | {f"{Q}.lora_up.weight": torch.full((128, 4), float("nan"))}, {}, "blocks.0.self_attn.q.lora_up.weight"),
        (LOW_RANK | {f"{Q}.alpha": torch.tensor(float("inf"))}, {}, "blocks.0.self_attn.q.alpha"),
        ({f"{Q}.diff_b": torch.full((128,), float("-inf"), dtype=torch.bfloat16)}, {}, "blocks.0.self_attn.q.diff_b"),
    ],
)
def test_nan_and_infinity_are_rejected_by_name(write, tensors, metadata, named):
    with pytest.raises(ValueError, match=f"the LoRA 'x.safetensors' holds NaN or infinity: its {named}"):
        write(tensors, metadata=metadata)


def test_several_alphas_for_one_layer_are_rejected(write):
    with pytest.raises(ValueError, match="'x.safetensors' has 4 alphas for blocks.0.self_attn.q; expected one number"):
        write(LOW_RANK | {f"{Q}.alpha": torch.ones(4)})


@pytest.mark.parametrize("strength", [float("nan"), float("inf")])
def test_a_strength_that_is_no_number_is_rejected(write, strength):
    with pytest.raises(ValueError, match=f"strength is {strength}; expected a finite number"):
        write(LOW_RANK, strength=strength)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("diffusion_model.transformer_1.", "diffusion_model.transformer_2."),
        ("transformer.", "transformer_2."),
        ("pipe.dit.", "pipe.dit2."),
        ("high_noise.", "low_noise."),
    ],
)
def test_each_of_two_experts_gets_its_part_of_a_file(write, one, other):
    values = {one: torch.ones(128), other: torch.full((128,), 2.0)}
    tensors = {f"{prefix}blocks.0.self_attn.q.diff_b": value for prefix, value in values.items()}
    with pytest.raises(ValueError, match="'x.safetensors' holds two LoRAs.*; set expert to the one of this model"):
        write(tensors)
    for expert, prefix in (("high", one), ("low", other)):
        (layer,) = write(tensors, expert=expert).file.layers.values()
        assert torch.equal(layer["diff_b"], values[prefix])


def test_experts_that_share_no_layer_are_told_apart_too(write):
    tensors = {f"diffusion_model.transformer_{n}.blocks.{n}.self_attn.q.diff_b": torch.ones(128) for n in (1, 2)}
    with pytest.raises(ValueError, match="'x.safetensors' holds two LoRAs"):
        write(tensors)
    assert list(write(tensors, expert="low").file.layers) == ["blocks.2.self_attn.q"]


def test_a_file_for_one_expert_is_read_for_both(write):
    tensors = {"transformer_2.blocks.0.self_attn.q.diff_b": torch.ones(128)}
    for expert in (None, "high", "low"):
        assert list(write(tensors, expert=expert).file.layers) == ["blocks.0.self_attn.q"]


@pytest.mark.parametrize(
    ("file", "expert"),
    [
        ("wan2.2_t2v_high_noise_14B_fp8_scaled.safetensors", "high"),
        ("Wan2.2-I2V-A14B-LowNoise-Q4_K_M.gguf", "low"),
        ("sub/LOW-NOISE/wan2.2.safetensors", None),
        ("wan2.1_t2v_14B.safetensors", None),
    ],
)
def test_the_expert_is_read_from_the_name_of_the_models_file(t2v_model, file, expert):
    model = t2v_model.clone()
    model.cached_patcher_init = (None, (f"/models/diffusion_models/{file}", {}))
    assert expert_of(model) == expert


def test_several_adapters_in_one_file_are_rejected(write):
    tensors = {f"transformer.blocks.0.attn1.to_q.lora_{s}.{a}.weight": torch.ones(1, 1) for s in "AB" for a in ("b", "a")}
    with pytest.raises(ValueError, match=r"'x.safetensors' holds several adapters \(a, b\); expected a file with one"):
        write(tensors)


class _Packed:
    """As ComfyUI-GGUF's layers and those for packed formats: the state dict tells the size of the packed bytes."""

    def _save_to_state_dict(self, destination, prefix, keep_vars):
        rows, columns = self.weight.shape
        destination[prefix + "weight"] = torch.zeros(rows, columns // 32 * 34, dtype=torch.uint8, device="meta")
        destination[prefix + "bias"] = self.bias


def test_packed_weights(own_model, t2v_model, write):
    for block in own_model.model.diffusion_model.blocks:
        for layer in block.modules():
            if isinstance(layer, torch.nn.Linear):
                layer.__class__ = type("PackedLinear", (_Packed, type(layer)), {})
    made, report = add_stage_lora(own_model, write(LOW_RANK))
    assert report == "'x.safetensors': 1 of 1 modules applied"
    assert_same(sample(made), sample(by_comfyui(t2v_model, LOW_RANK)))
    with pytest.raises(ValueError, match="its blocks.0.self_attn.q is 256x256 in the file but 128x128 in the model"):
        add_stage_lora(own_model, write(in_file(Q, adapters(256, 256)["LoRA"]), "other.safetensors"))


class _Wrapper(torch.nn.Module):
    def __init__(self, block):
        super().__init__()
        self._orig_mod = block

    def forward(self, *args, **kwargs):
        return self._orig_mod(*args, **kwargs)


def replaced(model, replacement):
    patched = model.clone()
    for index, block in enumerate(model.model.diffusion_model.blocks):
        patched.add_object_patch(f"diffusion_model.blocks.{index}", replacement(block))
    return patched


def compiled(block):
    return torch.compile(block, backend="eager")


@pytest.mark.one_version
@pytest.mark.parametrize("wrap", [_Wrapper, compiled])
def test_blocks_that_another_node_wraps(own_model, write, wrap):
    """Older compile nodes do. The second LoRA is added while the wrappers are in place."""
    wanted, without = sample(by_comfyui(own_model, LOW_RANK)), sample(own_model)
    patched = replaced(own_model, wrap)
    made, report = add_stage_lora(patched, write(LOW_RANK))
    assert report == "'x.safetensors': 1 of 1 modules applied"
    assert_same(sample(made), wanted)
    again, report = add_stage_lora(patched, write(LOW_RANK, "again.safetensors"))
    assert report == "'again.safetensors': 1 of 1 modules applied"
    assert_same(sample(again), wanted)
    assert_same(sample(patched), without)


def test_what_does_not_act_in_blocks_that_another_node_replaced(own_model, write):
    """A patch of ComfyUI's goes by names, which a wrapper changes; a block that is not there any more does not run."""
    says = r"nothing in the LoRA .* can act on this model: blocks.0.self_attn.q \(in a block that another node replaced\)"
    lokr = write(in_file(Q, adapters(128, 128)["LoKr"]))
    low_rank = write(LOW_RANK, "y.safetensors")
    fitted, _ = add_stage_lora(own_model, low_rank)
    with pytest.raises(ValueError, match=says):
        add_stage_lora(replaced(own_model, _Wrapper), lokr)
    with pytest.raises(ValueError, match=says):
        add_stage_lora(replaced(own_model, lambda _: torch.nn.Identity()), low_rank)
    with pytest.raises(ValueError, match=says):
        sample(replaced(fitted, lambda _: torch.nn.Identity()))


def test_a_block_replaced_after_the_lora_is_noticed_before_the_first_step(own_model, write):
    """Also where the LoRA acts in the last stage only."""
    lora = dataclasses.replace(write(LOW_RANK), stages="high")
    model = replaced(add_stage_lora(own_model, lora)[0], lambda _: torch.nn.Identity())
    calls = []
    model.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "watch", lambda *_, **__: calls.append(1))
    with pytest.raises(ValueError, match="in a block that another node replaced"):
        sample(model, "1-1", PRESETS["training-free"])
    assert not calls


STYLE = (random(128, 4, seed=8), random(4, 128, seed=9))


def bypass(model):
    """As ComfyUI's bypass LoRAs: replaces ``forward``, and puts back what it had found."""
    layer, found = model.model.diffusion_model.blocks[0].self_attn.q, []

    def inject(_):
        if not found:
            found.append(layer.forward)
            layer.forward = lambda x, inner=layer.forward: inner(x) + x @ STYLE[1].T @ STYLE[0].T

    def eject(_):
        if found:
            layer.forward = found.pop()

    clone = model.clone()
    clone.set_injections("bypass_lora", [PatcherInjection(inject=inject, eject=eject)])
    return clone


@pytest.mark.parametrize("order", ["theirs first", "ours first"])
def test_two_injections_on_one_layer_come_off_in_any_order(own_model, write, order):
    before = sample(own_model)
    style = own_model.clone()
    style.add_patches({f"{Q}.weight": ("diff", (STYLE[0] @ STYLE[1],))})
    wanted = sample(by_comfyui(style, LOW_RANK))
    if order == "theirs first":
        both = bind_stage(add_stage_lora(bypass(own_model), write(LOW_RANK))[0], STAGE, 1)
        assert list(both.injections) == ["bypass_lora", stage_lora.KEY]
    else:
        both = bypass(bind_stage(add_stage_lora(own_model, write(LOW_RANK))[0], STAGE, 1))
        assert list(both.injections) == [stage_lora.KEY, "bypass_lora"]
    layer = own_model.model.diffusion_model.blocks[0].self_attn.q
    x = random(3, 128)
    plain = layer(x)
    for _ in range(2000):  # ComfyUI does it several times for every load, without a step in between
        both.inject_model(), both.eject_model()
    for _ in range(3):
        both.inject_model()
        up, down = LOW_RANK.values()
        torch.testing.assert_close(layer(x), plain + x @ (STYLE[0] @ STYLE[1] + up @ down).T)
        both.eject_model()
        assert torch.equal(layer(x), plain)
    assert layer.forward.__func__ is type(layer).forward
    layer.__dict__.pop("forward", None)
    both, _ = add_stage_lora(bypass(own_model), write(LOW_RANK))
    assert_same(sample(both), wanted)
    del both
    gc.collect()
    assert torch.equal(sample(own_model), before)


def test_a_copy_of_the_model_on_another_device_gets_the_additions_too(own_model, t2v_model, write):
    """Newer versions split the prompts over several GPUs: a patcher for each, with a model of its own and shared injections."""
    other = comfy.sd.load_diffusion_model_state_dict(t2v_state_dict())
    bound = bind_stage(add_stage_lora(own_model, write(LOW_RANK))[0], STAGE, 1)
    copy = bound.clone()
    copy.model = other.model
    x = random(3, 128)
    up, down = LOW_RANK.values()
    layers = [patcher.model.diffusion_model.blocks[0].self_attn.q for patcher in (bound, copy)]
    plain = [layer(x) for layer in layers]
    bound.inject_model(), copy.inject_model()
    for layer, output in zip(layers, plain, strict=True):
        torch.testing.assert_close(layer(x), output + x @ (up @ down).T)
    bound.eject_model()
    assert torch.equal(layers[0](x), plain[0]) and not torch.equal(layers[1](x), plain[1])
    copy.eject_model()
    assert torch.equal(layers[1](x), plain[1]) and not any("forward" in vars(layer) for layer in layers)


@pytest.mark.skipif(find_spec("comfy.multigpu") is None, reason="this ComfyUI does not split a run over several GPUs")
def test_a_run_split_over_two_devices_has_the_lora_on_both_prompts(tmp_path, write):
    """ComfyUI's own work units, with a second CPU in place of a card."""
    save_file(t2v_state_dict(), tmp_path / "model.safetensors")
    base = comfy.sd.load_diffusion_model(str(tmp_path / "model.safetensors"))
    lora = write(LOW_RANK)
    whole, without = (sample(model, cfg="5") for model in (add_stage_lora(base, lora)[0], base))
    model, calls = base.clone(), []
    other = model.deepclone_multigpu(new_load_device=torch.device("cpu", 0))
    other.is_multigpu_base_clone = True
    other.model.diffusion_model.register_forward_hook(lambda *_: calls.append(1))
    model.set_additional_models("multigpu", [other])
    split = sample(add_stage_lora(model, lora)[0], cfg="5")
    assert calls, "nothing ran on the second device"
    assert (whole - without).abs().max() > 100 * (split - whole).abs().max()
    assert_same(split, whole)


def test_every_device_and_dtype_keeps_a_tensor_of_its_own():
    """Threads of two devices take turns: neither may be handed the other's tensor, nor move it each time."""
    layer, x = torch.nn.Linear(128, 128), random(3, 128)
    add = low_rank(*LOW_RANK.values(), 0.5)
    wanted = add(layer, x)
    assert add(layer, x.double()).dtype == torch.float64
    assert add(layer, x.to("meta")).device.type == "meta"
    assert torch.equal(add(layer, x), wanted)


@pytest.fixture
def loras(tmp_path, monkeypatch):
    """A folder of LoRAs that ComfyUI knows."""
    (tmp_path / "wan 2.1").mkdir()
    save_file(LOW_RANK, tmp_path / "wan 2.1" / "style.safetensors")
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "loras", ([str(tmp_path)], {".safetensors"}))
    folder_paths.filename_list_cache.pop("loras", None)
    yield
    folder_paths.filename_list_cache.pop("loras", None)


@pytest.mark.parametrize("name", ["wan 2.1/style.safetensors", "wan 2.1\\style.safetensors"])
def test_a_graph_of_another_machine_finds_its_lora(t2v_model, loras, name):
    assert PyramidalWanStageLoRA.validate_inputs(lora_name=name, stages="all") is True
    (made,) = PyramidalWanStageLoRA.execute(t2v_model, name, 1.0, "all").args
    assert_same(sample(made), sample(by_comfyui(t2v_model, LOW_RANK)))


def test_a_lora_that_is_not_here_is_refused_before_anything_runs(t2v_model, loras):
    says = "models/loras has no file 'wan2.1\\style.safetensors'; the nearest name is 'wan 2.1/style.safetensors'"
    assert PyramidalWanStageLoRA.validate_inputs(lora_name="wan2.1\\style.safetensors", stages="all") == says
    with pytest.raises(ValueError, match="models/loras has no file"):
        PyramidalWanStageLoRA.execute(t2v_model, "wan2.1\\style.safetensors", 1.0, "all")
    assert PyramidalWanStageLoRA.validate_inputs(lora_name=None, stages=None) is True  # linked
