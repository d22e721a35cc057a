"""What of a network is trained: everything, or LoRA adapters beside frozen weights, one for all stages or one for each."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel
from peft import LoraConfig
from peft.tuners.tuners_utils import BaseTunerLayer

from ..config.settings import Adapter
from ..engine import draws

SHARED = "shared"


def adapter_name(adapter: Adapter, stage: int) -> str:
    """The adapter that acts in a stage (its place in running order)."""
    return SHARED if adapter.scope == "shared" else f"stage{stage}"


def prepare(transformer: WanTransformer3DModel, adapter: Adapter, stages: int, *, seed: int) -> None:
    """Marks what is trained; adds the adapters, which change nothing before the first step. ValueError for a wrong target."""
    transformer.requires_grad_(adapter.kind == "full")
    if adapter.kind == "full":
        return
    endings = {name for name, module in transformer.named_modules() if isinstance(module, torch.nn.Linear)}
    for target in adapter.targets:
        if not any(name == target or name.endswith("." + target) for name in endings):
            raise ValueError(
                f"adapter.targets: the network has no linear layer '{target}'; it has to_q, to_k, to_v, to_out.0, "
                "ffn.net.0.proj and ffn.net.2"
            )
    for name in dict.fromkeys(adapter_name(adapter, stage) for stage in range(stages)):
        alpha = adapter.alpha or adapter.rank
        options = LoraConfig(r=adapter.rank, lora_alpha=alpha, target_modules=list(adapter.targets))  # pyright: ignore
        transformer.add_adapter(options, adapter_name=name)
    for name, weight in transformer.named_parameters():
        if "lora_" in name:
            weight.requires_grad_(True)
            if "lora_A" in name:  # peft draws these from the global generator
                bound = weight.shape[1] ** -0.5
                torch.nn.init.uniform_(weight, -bound, bound, generator=draws.generator(seed, "adapter", name))


def choose(transformer: WanTransformer3DModel, adapter: Adapter, stage: int) -> None:
    """Lets a stage's adapter act, and only that. All of them stay trainable, unlike after peft's own ``set_adapter``."""
    if adapter.kind == "lora":
        for layer in _layers(transformer):
            layer._active_adapter = [adapter_name(adapter, stage)]


@contextmanager
def without_adapters(transformer: WanTransformer3DModel) -> Iterator[None]:
    """The frozen network underneath: the teacher costs no second copy."""
    layers = list(_layers(transformer))
    before = [layer._disable_adapters for layer in layers]
    try:
        for layer in layers:
            layer._disable_adapters = True
        yield
    finally:
        for layer, disabled in zip(layers, before, strict=True):
            layer._disable_adapters = disabled


def _layers(transformer: WanTransformer3DModel) -> Iterator[BaseTunerLayer]:
    return (module for module in transformer.modules() if isinstance(module, BaseTunerLayer))
