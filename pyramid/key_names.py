"""Names of Wan's weights in diffusers and in Wan's own code, which ComfyUI shares, and in LoRA files of every trainer."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

ATTENTION_LAYERS = ("to_q", "to_k", "to_v", "to_out.0")
MLP_LAYERS = ("ffn.net.0.proj", "ffn.net.2")
LINEAR_LAYERS = ATTENTION_LAYERS + MLP_LAYERS
"""The linear layers of a Wan block, by diffusers' names; those of attention are in self- and in cross-attention."""

IN_A_BLOCK = (
    ("attn1.to_q", "self_attn.q"),
    ("attn1.to_k", "self_attn.k"),
    ("attn1.to_v", "self_attn.v"),
    ("attn1.to_out.0", "self_attn.o"),
    ("attn1.norm_q", "self_attn.norm_q"),
    ("attn1.norm_k", "self_attn.norm_k"),
    ("attn2.to_q", "cross_attn.q"),
    ("attn2.to_k", "cross_attn.k"),
    ("attn2.to_v", "cross_attn.v"),
    ("attn2.to_out.0", "cross_attn.o"),
    ("attn2.norm_q", "cross_attn.norm_q"),
    ("attn2.norm_k", "cross_attn.norm_k"),
    ("attn2.add_k_proj", "cross_attn.k_img"),
    ("attn2.add_v_proj", "cross_attn.v_img"),
    ("attn2.norm_added_k", "cross_attn.norm_k_img"),
    ("ffn.net.0.proj", "ffn.0"),
    ("ffn.net.2", "ffn.2"),
    ("norm2", "norm3"),
    ("scale_shift_table", "modulation"),
)
"""(diffusers, Wan) below ``blocks.<n>.`` and ``vace_blocks.<n>.``. Only one of a block's three norms has weights."""

IN_A_VACE_BLOCK = (("proj_in", "before_proj"), ("proj_out", "after_proj"))
"""(diffusers, Wan) below ``vace_blocks.<n>.`` only."""

OUTSIDE_BLOCKS = (
    ("condition_embedder.time_embedder.linear_1", "time_embedding.0"),
    ("condition_embedder.time_embedder.linear_2", "time_embedding.2"),
    ("condition_embedder.text_embedder.linear_1", "text_embedding.0"),
    ("condition_embedder.text_embedder.linear_2", "text_embedding.2"),
    ("condition_embedder.time_proj", "time_projection.1"),
    ("condition_embedder.image_embedder.norm1", "img_emb.proj.0"),
    ("condition_embedder.image_embedder.ff.net.0.proj", "img_emb.proj.1"),
    ("condition_embedder.image_embedder.ff.net.2", "img_emb.proj.3"),
    ("condition_embedder.image_embedder.norm2", "img_emb.proj.4"),
    ("condition_embedder.image_embedder.pos_embed", "img_emb.emb_pos"),
    ("patch_embedding", "patch_embedding"),
    ("vace_patch_embedding", "vace_patch_embedding"),
    ("proj_out", "head.head"),
    ("scale_shift_table", "head.modulation"),
)
"""(diffusers, Wan) outside the blocks."""

Pairs = tuple[tuple[str, str], ...]
TABLES: dict[str, Pairs] = {"": OUTSIDE_BLOCKS, "blocks": IN_A_BLOCK, "vace_blocks": IN_A_BLOCK + IN_A_VACE_BLOCK}
"""The table that applies below each kind of block; "" is outside."""


def wan_name(name: str) -> str:
    """Return Wan's own name of a module or weight of diffusers' Wan transformers.

    Raises:
        ValueError: diffusers' transformer has nothing of that name.
    """
    return _renamed(name, {kind: dict(pairs) for kind, pairs in TABLES.items()})


def diffusers_name(name: str) -> str:
    """Return diffusers' name of a module or weight of Wan; the inverse of ``wan_name``.

    Raises:
        ValueError: Wan's transformer has nothing of that name.
    """
    return _renamed(name, {kind: {wan: diffusers for diffusers, wan in pairs} for kind, pairs in TABLES.items()})


def _renamed(name: str, tables: dict[str, dict[str, str]]) -> str:
    block = re.match(r"(vace_blocks|blocks)\.\d+\.", name)
    head, kind = (block[0], block[1]) if block else ("", "")
    module, dot, parameter = name.removeprefix(head).rpartition(".")
    if parameter not in ("weight", "bias"):
        module, dot, parameter = name.removeprefix(head), "", ""
    if module not in tables[kind]:
        raise ValueError(f"'{name}' is not a weight of a Wan transformer, such as blocks.0.ffn.2.bias")
    return head + tables[kind][module] + dot + parameter


Expert = Literal["high", "low"]

EXPERTS: dict[str, Expert] = {
    "transformer_1": "high",
    "high_noise": "high",
    "high_noise_model": "high",
    "dit_high": "high",
    "dit_high_noise": "high",
    "transformer_2": "low",
    "dit2": "low",
    "low_noise": "low",
    "low_noise_model": "low",
    "dit_low": "low",
    "dit_low_noise": "low",
}
"""Prefixes that name one of Wan 2.2's two networks: ai-toolkit, diffusers, DiffSynth-Studio, and Wan's own folders."""

WRAPPERS = ("base_model", "model", "diffusion_model", "transformer", "unet", "pipe", "dit", "module", "lora_unet")
"""Names of modules around the network, in any order and number: ComfyUI, diffusers, peft, DiffSynth-Studio, DDP."""

FLAT_PREFIX = r"(lora_unet|lora_transformer|lycoris)_+"
"""kohya and musubi-tuner, OneTrainer, LyCORIS: the module's own dots become underscores."""

DOTTED_WRAPPER = rf"({'|'.join(sorted((*EXPERTS, *WRAPPERS), key=len, reverse=True))})\."
FLAT_WRAPPER = rf"(base_model_model|model_diffusion_model|diffusion_model|{'|'.join(EXPERTS)})[._]+"
"""After a flat prefix; without "transformer", because other networks have "transformer_blocks"."""


def _one_of(*names: str) -> str:
    """Return the pattern of a suffix that is one of these names, each a pattern."""
    return rf"\.(?P<name>{'|'.join(names)})"


_PARAMETER = "weight$|bias$"
_ADAPTER = rf"(?:\.(?!{_PARAMETER})(?P<adapter>[^.]+))?"
_WHOLE = ("alpha", "diff", "diff_b", "set_weight", "reshape_weight", "rescale", "w_norm", "b_norm")
_FACTORS = ("lokr_w[12]", "lokr_w[12]_[ab]", "lokr_t2", "hada_w[12]_[ab]", "hada_t[12]", "oft_blocks")
_OTHER = ("oft_R", "oft_diag", "boft_[RS]", "on_input", "scalar")
SUFFIXES = tuple(
    (pattern + "$", name)
    for pattern, name in (
        (rf"\.lora_(?:B|up){_ADAPTER}\.bias", "lora_up.bias"),
        (rf"\.lora_(?:B|up){_ADAPTER}(?:\.weight)?", "lora_up.weight"),
        (rf"\.lora_(?:A|down){_ADAPTER}(?:\.weight)?", "lora_down.weight"),
        (rf"\.lora_mid{_ADAPTER}(?:\.weight)?", "lora_mid.weight"),
        (r"[._]lora(?:_linear_layer)?\.up\.weight", "lora_up.weight"),
        (r"[._]lora(?:_linear_layer)?\.down\.weight", "lora_down.weight"),
        (rf"\.(?:lora_magnitude_vector|dora_scale){_ADAPTER}(?:\.weight)?", "dora_scale"),
        (_one_of(*_WHOLE), ""),
        (rf"{_one_of(*_FACTORS)}{_ADAPTER}(?:\.weight)?", ""),
        (r"\.(?P<name>[ab][12]\.weight)", ""),
        (rf"{_one_of(*_OTHER)}{_ADAPTER}(?:\.weight)?", ""),
    )
)
"""Key suffixes and their canonical names; empty keeps the matched name."""


@dataclass(frozen=True)
class LoraKey:
    """A key of a LoRA file in one spelling.

    Attributes:
        module: Wan's own name of the layer, such as ``blocks.0.self_attn.q``; for a layer that Wan does not have, the file's
            name without prefixes.
        tensor: What the tensor is to the layer: ``lora_up.weight``, ``lora_down.weight``, ``alpha``, ``diff_b``,
            ``lokr_w1``, and so on; empty if no adapter has such a tensor.
        adapter: The name that peft gave the adapter, if the key carries one.
        expert: The network of Wan 2.2 that the prefix names, if it names one.
    """

    module: str
    tensor: str
    adapter: str | None = None
    expert: Expert | None = None


def lora_key(key: str) -> LoraKey:
    """Read a key of a LoRA file, whichever trainer wrote it."""
    name, tensor, adapter = key, "", None
    for pattern, kind in SUFFIXES:
        if suffix := re.search(pattern, key):
            name, groups = key[: suffix.start()], suffix.groupdict()
            tensor, adapter = kind or groups["name"], groups.get("adapter")
            break
    bare, expert = _without_prefixes(name.replace("_orig_mod.", ""))
    return LoraKey(wan_module(bare), tensor, adapter, expert)


def wan_module(name: str) -> str:
    """Return Wan's own name of a layer given in Wan's or diffusers' naming, with dots or underscores.

    A name that is neither comes back unchanged.
    """
    flat = flattened(name)
    block = re.match(r"(vace_blocks|blocks)_(\d+)_", flat)
    if block is None:
        return _BY_FLAT_NAME[""].get(flat, name)
    layer = _BY_FLAT_NAME[block[1]].get(flat[block.end() :])
    return name if layer is None else f"{block[1]}.{block[2]}.{layer}"


def flattened(name: str) -> str:
    """Return a module's name with underscores for dots, in which two spellings of one layer are equal."""
    return re.sub(r"[._]+", "_", name)


_BY_FLAT_NAME = {
    kind: {flattened(name): wan for diffusers, wan in pairs for name in (diffusers, wan)} for kind, pairs in TABLES.items()
}


def _without_prefixes(name: str) -> tuple[str, Expert | None]:
    """Strip every prefix; return the rest, and the expert that a prefix named."""
    expert: Expert | None = None
    wrapper = DOTTED_WRAPPER
    while True:
        if flat := re.match(FLAT_PREFIX, name):
            name, wrapper = name[flat.end() :], FLAT_WRAPPER
        elif prefix := re.match(DOTTED_WRAPPER, name) or re.match(wrapper, name):
            name, expert = name[prefix.end() :], EXPERTS.get(prefix[1]) or expert
        else:
            return name, expert
