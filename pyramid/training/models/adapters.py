"""Select the trainable weights: all of them, or LoRA adapters on frozen weights, shared by the stages or one per stage."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel
from peft import LoraConfig
from peft.tuners.tuners_utils import BaseTunerLayer

from ...key_names import LINEAR_LAYERS
from ..config.settings import Adapter
from ..engine import draws

SHARED = "shared"


def adapter_name(adapter: Adapter, stage: int) -> str:
    """Return the name of the adapter that is active in a stage, given by its index in running order."""
    return SHARED if adapter.scope == "shared" else f"stage{stage}"


def prepare(transformer: WanTransformer3DModel, adapter: Adapter, stages: int, *, seed: int) -> None:
    """Set which weights are trainable, and add the LoRA adapters, whose output is zero before the first step.

    Args:
        transformer: The network; changed in place.
        adapter: The settings.
        stages: Number of stages.
        seed: Seed of the adapters' initial weights.

    Raises:
        ValueError: A target is not a linear layer of the network.
    """
    transformer.requires_grad_(adapter.kind == "full")
    if adapter.kind == "full":
        return
    linear_layers = {name for name, module in transformer.named_modules() if isinstance(module, torch.nn.Linear)}
    for target in adapter.targets:
        if not any(name == target or name.endswith("." + target) for name in linear_layers):
            raise ValueError(
                f"adapter.targets: there is no linear layer '{target}' in the network; expected {', '.join(LINEAR_LAYERS)}"
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
    """Activate a stage's adapter and deactivate the others.

    All adapters stay trainable; peft's ``set_adapter`` would freeze the others.
    """
    if adapter.kind == "lora":
        for layer in _layers(transformer):
            layer._active_adapter = [adapter_name(adapter, stage)]


@contextmanager
def without_adapters(transformer: WanTransformer3DModel) -> Iterator[None]:
    """Disable all adapters inside the ``with`` block, which leaves the frozen base: a teacher without a second copy."""
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
