"""Names of Wan's weights in diffusers and in Wan's own code, which ComfyUI shares."""

from __future__ import annotations

import re

NAMES = (
    ("condition_embedder.time_embedder.linear_1", "time_embedding.0"),
    ("condition_embedder.time_embedder.linear_2", "time_embedding.2"),
    ("condition_embedder.text_embedder.linear_1", "text_embedding.0"),
    ("condition_embedder.text_embedder.linear_2", "text_embedding.2"),
    ("condition_embedder.time_proj", "time_projection.1"),
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
    ("ffn.net.0.proj", "ffn.0"),
    ("ffn.net.2", "ffn.2"),
    ("norm2", "norm3"),
    ("patch_embedding", "patch_embedding"),
    ("proj_out", "head.head"),
)
"""Modules, without the ``blocks.<n>.`` in front of some and the ``.weight`` or ``.bias`` behind."""

TABLES = (("scale_shift_table", "modulation"), ("scale_shift_table", "head.modulation"))
"""Bare parameters: of a block, and of the head."""

BLOCK = re.compile(r"^(blocks\.\d+\.)(.*)$")
TAIL = re.compile(r"^(.*?)(\.(?:weight|bias))?$")


def wan_name(name: str) -> str:
    """A weight or module of diffusers' WanTransformer3DModel in Wan's own name; ValueError if there is none."""
    return _renamed(name, 0, 1)


def diffusers_name(name: str) -> str:
    """The inverse of ``wan_name``."""
    return _renamed(name, 1, 0)


def _renamed(name: str, here: int, there: int) -> str:
    block = BLOCK.match(name)
    head, rest = block.groups() if block else ("", name)
    table = TABLES[0] if block else TABLES[1]
    if rest == table[here]:
        return head + table[there]
    module, tail = TAIL.match(rest).groups()  # pyright: ignore[reportOptionalMemberAccess] - it matches anything
    for pair in NAMES:
        if module == pair[here]:
            return head + pair[there] + (tail or "")
    raise ValueError(f"'{name}' is no weight of a Wan text-to-video transformer")
