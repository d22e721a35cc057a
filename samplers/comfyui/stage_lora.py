"""LoRAs that act in some stages only.

Switching a merged LoRA moves the whole model to the CPU and back on hosts that merge weights. So there a stage's LoRA
runs beside the weights, as low-rank additions to the outputs of the layers; hosts that stream weights get ordinary
patches, which are cheap to switch there. Both give the same video within rounding.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import comfy.utils
from comfy.patcher_extension import PatcherInjection
from torch import Tensor, nn

from ...pyramid.stage_names import stage_set
from ...pyramid.stages import PyramidSpec, Stage
from .lora_file import LoraFile, match, unmatched

KEY = "pyramidal_wan_loras"


@dataclass(frozen=True)
class StageLora:
    """file, strength, and the stages it acts in, as the artist wrote them."""

    file: LoraFile
    strength: float
    stages: str

    def acts_in(self, index: int, number_of_stages: int) -> bool:
        return index in stage_set(self.stages, number_of_stages)


def add_stage_lora(model: Any, lora: StageLora) -> tuple[Any, str]:
    """A clone of a MODEL that carries the LoRA, and a sentence about what matched; strength 0 changes nothing."""
    if lora.strength == 0:
        return model, f"'{lora.file.name}' has strength 0 and changes nothing"
    stage_set(lora.stages, None)
    patches = match(lora.file, model)
    left = unmatched(lora.file, patches, model)
    report = f"'{lora.file.name}': {len(lora.file.modules()) - len(left)} of {len(lora.file.modules())} modules match"
    if left:
        report += f"; without effect: {', '.join(left[:3])}{' ...' if len(left) > 3 else ''}"
        logging.warning("PyramidalWan: %s", report)
    _check_agreement([*stage_loras(model), lora])
    clone = model.clone()
    clone.set_attachments(KEY, (*stage_loras(model), lora))
    return clone, report


def stage_loras(model: Any) -> tuple[StageLora, ...]:
    return model.get_attachment(KEY) or ()


def _check_agreement(loras: list[StageLora]) -> None:
    trained = [lora for lora in loras if lora.file.spec is not None]
    for other in trained[1:]:
        if other.file.spec != trained[0].file.spec:
            raise ValueError(
                f"the LoRAs '{trained[0].file.name}' and '{other.file.name}' were trained for different pyramids: "
                f"{differences(trained[0].file.spec, other.file.spec)}"
            )


def differences(one: PyramidSpec, other: PyramidSpec) -> str:
    """The fields in which two pyramids differ, for a message."""
    theirs = vars(other)
    return "; ".join(f"{name} {own} against {theirs[name]}" for name, own in vars(one).items() if own != theirs[name])


def apply_stage_loras(bound: Any, stage: Stage, number_of_stages: int) -> None:
    """Gives a stage's own clone of a MODEL the LoRAs that act in that stage."""
    layers: list[Layer] = []
    for lora in stage_loras(bound):
        if not lora.acts_in(stage.index, number_of_stages):
            continue
        patches = match(lora.file, bound)
        if not streams_weights(bound):
            beside, patches = _split(bound, patches, lora.strength)
            layers += beside
        if patches:
            bound.add_patches(patches, lora.strength)
    if layers:
        _inject(bound, layers)


def streams_weights(model: Any) -> bool:
    """Whether the host casts and patches weights as they are used (dynamic VRAM), so that patches switch cheaply."""
    return bool(getattr(model, "is_dynamic", bool)())


@dataclass(frozen=True)
class Layer:
    """One addition: ``forward`` of a module gets ``add(x)`` on top of its output."""

    module: nn.Module
    add: Callable[[Tensor], Tensor]


def _split(model: Any, patches: dict[str, Any], strength: float) -> tuple[list[Layer], dict[str, Any]]:
    """Plain low-rank patches of linear and convolution layers as additions; the rest stays a patch of the host's."""
    layers, rest = [], {}
    for key, patch in patches.items():
        module = comfy.utils.get_attr(model.model, key.rsplit(".", 1)[0])
        addition = _addition(module, key, patch, strength)
        if addition is None:
            rest[key] = patch
        else:
            layers.append(Layer(module, addition))
    return layers, rest


def _addition(module: nn.Module, key: str, patch: Any, strength: float) -> Callable[[Tensor], Tensor] | None:
    is_layer = isinstance(module, (nn.Linear, nn.Conv2d, nn.Conv3d))
    if not is_layer:
        return None
    if isinstance(patch, tuple) and patch[0] == "diff" and len(patch[1]) == 1 and key.endswith(".bias"):
        return _bias(module, _OnDevice(patch[1][0]), strength)
    if type(patch).__name__ != "LoRAAdapter" or not key.endswith(".weight"):
        return None
    up, down, alpha, mid, dora, reshape = patch.weights
    if mid is not None or dora is not None or reshape is not None:
        return None
    scale = strength * (alpha / down.shape[0] if alpha is not None else 1.0)
    return _low_rank(module, _OnDevice(up.flatten(1)), _OnDevice(down.flatten(1)), scale)


def _low_rank(module: nn.Module, up: _OnDevice, down: _OnDevice, scale: float) -> Callable[[Tensor], Tensor]:
    def add_linear(x: Tensor) -> Tensor:
        return nn.functional.linear(nn.functional.linear(x, down(x)), up(x)) * scale

    if isinstance(module, nn.Linear):
        return add_linear
    convolve = nn.functional.conv3d if isinstance(module, nn.Conv3d) else nn.functional.conv2d
    kernel, ones = module.kernel_size, (1,) * len(module.kernel_size)

    def add(x: Tensor) -> Tensor:
        first = down(x).reshape(-1, x.shape[1] // module.groups, *kernel)
        inner = convolve(x, first, None, module.stride, module.padding, module.dilation, module.groups)
        return convolve(inner, up(x).reshape(*up(x).shape, *ones)) * scale

    return add


def _bias(module: nn.Module, difference: _OnDevice, scale: float) -> Callable[[Tensor], Tensor]:
    spread = (1,) * len(getattr(module, "kernel_size", ()))

    def add(x: Tensor) -> Tensor:
        return (difference(x) * scale).reshape(-1, *spread)

    return add


class _OnDevice:
    """A small tensor that follows its input's device and type, and stays there."""

    def __init__(self, tensor: Tensor):
        self.tensor = tensor

    def __call__(self, like: Tensor) -> Tensor:
        if self.tensor.device != like.device or self.tensor.dtype != like.dtype:
            self.tensor = self.tensor.to(device=like.device, dtype=like.dtype)
        return self.tensor


def _inject(bound: Any, layers: list[Layer]) -> None:
    """Hangs the additions into the model whenever the host loads ``bound``; it takes them out when it unloads or drops it."""
    before: dict[nn.Module, Any] = {}

    def eject(_model: Any = None) -> None:
        for module, forward in before.items():
            if forward is None:
                module.__dict__.pop("forward", None)
            else:
                module.forward = forward
        before.clear()

    def inject(_model: Any) -> None:
        eject()
        for module in {layer.module: None for layer in layers}:
            before[module] = module.__dict__.get("forward")
            module.forward = _with_additions(module.forward, [layer.add for layer in layers if layer.module is module])

    bound.set_injections(KEY, [PatcherInjection(inject=inject, eject=eject)])


def _with_additions(forward: Callable[..., Tensor], additions: list[Callable[[Tensor], Tensor]]) -> Callable[..., Tensor]:
    def run(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        output = forward(x, *args, **kwargs)
        for add in additions:
            output = output + add(x)
        return output

    return run
