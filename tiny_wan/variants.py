"""Tiny random checkpoints of every Wan model that the installed ComfyUI knows.

The names and shapes of the weights are read off ComfyUI's own network, built tiny on the meta device, so nothing about a
variant is repeated here but the few numbers that ComfyUI derives from a file. ComfyUI's detection loads each as the
class that `Variant.expected` names.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from pyramid.training.engine.atomic import atomic_file

from .checkpoints import StateDict, random_state_dict

DIM, FFN_DIM, LAYERS = 128, 256, 2
"""Width, hidden width of the MLP and number of blocks; ComfyUI takes heads of 128 channels."""

WAN = "comfy.ldm.wan.model"


@dataclass(frozen=True, kw_only=True)
class Variant:
    """A Wan network that ComfyUI can load.

    Attributes:
        network: Module and class of the network, as `module:Class`.
        expected: The class in `comfy.supported_models` that the detection finds.
        settings: Constructor arguments that differ from those of the text-to-video network.
        config: What the file's metadata adds to the detected configuration, under `transformer`.
        dim: Width of the network.
        layers: Number of blocks.
        dtype: Type the weights are stored in.
    """

    network: str = f"{WAN}:WanModel"
    expected: str = "WAN21_T2V"
    settings: Mapping[str, Any] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)
    dim: int = DIM
    layers: int = LAYERS
    dtype: torch.dtype = torch.float32


I2V = {"model_type": "i2v", "in_dim": 36}

VARIANTS: Mapping[str, Variant] = {
    "t2v": Variant(),
    "i2v": Variant(expected="WAN21_I2V", settings=I2V),
    "i2v_wide": Variant(expected="WAN21_I2V", settings=I2V, dim=640),
    "i2v_2.2": Variant(settings={"in_dim": 36}),
    "flf2v": Variant(expected="WAN21_I2V", settings={**I2V, "flf_pos_embed_token_number": 514}),
    "fun_control": Variant(expected="WAN21_FunControl2V", settings={"model_type": "i2v", "in_dim": 48}),
    "fun_control_2.2": Variant(settings={"in_dim": 52, "in_dim_ref_conv": 16}),
    "camera": Variant(
        network=f"{WAN}:CameraWanModel", expected="WAN21_Camera", settings={"model_type": "camera", "in_dim": 32}
    ),
    "camera_2.2": Variant(
        network=f"{WAN}:CameraWanModel", expected="WAN22_Camera", settings={"model_type": "camera_2.2", "in_dim": 36}
    ),
    "vace": Variant(
        network=f"{WAN}:VaceWanModel",
        expected="WAN21_Vace",
        settings={"model_type": "vace", "vace_in_dim": 96, "vace_layers": 1},
    ),
    "humo": Variant(
        network=f"{WAN}:HumoWanModel",
        expected="WAN21_HuMo",
        settings={"model_type": "humo", "in_dim": 36},
        dtype=torch.float16,  # its audio projection has fixed sizes
    ),
    "s2v": Variant(network=f"{WAN}:WanModel_S2V", expected="WAN22_S2V", settings={"model_type": "s2v"}),
    "animate": Variant(
        network="comfy.ldm.wan.model_animate:AnimateWanModel",
        expected="WAN22_Animate",
        settings={"model_type": "animate", "in_dim": 36},
        layers=5,  # one face adapter for every five blocks
        dtype=torch.float16,
    ),
    "animate2": Variant(
        network="comfy.ldm.wan.model_animate2:WanAnimate2Model",
        expected="WAN_Animate2",
        settings={"model_type": "animate2", "in_dim": 36},
        config={"model_type": "animate2"},
    ),
    "ti2v_5b": Variant(expected="WAN22_T2V", settings={"in_dim": 48, "out_dim": 48}),
    "fun_control_5b": Variant(expected="WAN22_T2V", settings={"in_dim": 148, "out_dim": 48, "in_dim_ref_conv": 48}),
    "fun_inpaint_5b": Variant(expected="WAN22_T2V", settings={"in_dim": 100, "out_dim": 48}),
    "causal_ar": Variant(
        network="comfy.ldm.wan.ar_model:CausalWanModel", expected="WAN21_CausalAR_T2V", config={"causal_ar": True}
    ),
    "flow_rvs": Variant(expected="WAN21_FlowRVS", config={"model_type": "flow_rvs"}),
    "scail": Variant(network=f"{WAN}:SCAILWanModel", expected="WAN21_SCAIL", settings={"model_type": "scail", "in_dim": 20}),
    "scail2": Variant(
        network=f"{WAN}:SCAIL2WanModel", expected="WAN21_SCAIL2", settings={"model_type": "scail2", "in_dim": 20}
    ),
    "dancer": Variant(
        network="comfy.ldm.wan.model_wandancer:WanDancerModel",
        expected="WAN22_WanDancer",
        settings={"model_type": "wandancer", "in_dim": 36},
    ),
}


def is_known(variant: Variant) -> bool:
    """Return whether the installed ComfyUI has the variant."""
    import comfy.supported_models

    return hasattr(comfy.supported_models, variant.expected)


def state_dict(variant: Variant, *, seed: int = 0) -> StateDict:
    """Return random weights for the variant, in the layout of the released files."""
    import comfy.ops

    module, name = variant.network.split(":")
    network = getattr(importlib.import_module(module), name)(
        **{"model_type": "t2v", "in_dim": 16, "out_dim": 16, **variant.settings},
        dim=variant.dim,
        ffn_dim=FFN_DIM,
        num_heads=variant.dim // 128,
        num_layers=variant.layers,
        device="meta",
        dtype=torch.float32,
        operations=comfy.ops.disable_weight_init,
    )
    return {name: weight.to(variant.dtype) for name, weight in random_state_dict(shapes(network), seed).items()}


def shapes(network: torch.nn.Module) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yield the name and shape of every weight of a network."""
    for name, weight in network.state_dict().items():
        yield name, tuple(weight.shape)


def metadata(variant: Variant) -> dict[str, str]:
    """Return the metadata of the variant's file."""
    return {"config": json.dumps({"transformer": dict(variant.config)})} if variant.config else {}


def write_variant(name: str, path: Path, *, seed: int = 0) -> None:
    """Write the checkpoint of a variant, written atomically.

    Raises:
        ValueError: There is no variant of that name.
    """
    if name not in VARIANTS:
        raise ValueError(f"unknown variant {name!r}; expected {', '.join(VARIANTS)}")
    with atomic_file(path) as partial:
        save_file(state_dict(VARIANTS[name], seed=seed), partial, metadata(VARIANTS[name]))
