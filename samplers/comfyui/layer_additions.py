"""Additions to the outputs of a MODEL's layers, which ComfyUI injects and ejects as it loads and unloads the MODEL."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from comfy.patcher_extension import PatcherInjection
from torch import Tensor, nn

from .lora_match import find_layer

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher

Addition = Callable[[nn.Module, Tensor], Tensor]
"""From a layer and its input to what is added to its output."""


def low_rank(up: Tensor, down: Tensor, scale: float) -> Addition:
    """Return the addition ``scale * up (down x)`` for linear and convolution layers."""
    up_on, down_on = _OnDevice(up.flatten(1)), _OnDevice(down.flatten(1))

    def add(layer: nn.Module, x: Tensor) -> Tensor:
        up, down = up_on(x), down_on(x)
        if not isinstance(layer, (nn.Conv1d, nn.Conv2d, nn.Conv3d)):
            return nn.functional.linear(nn.functional.linear(x, down), up) * scale
        convolve = (nn.functional.conv1d, nn.functional.conv2d, nn.functional.conv3d)[len(layer.kernel_size) - 1]
        first = down.reshape(-1, layer.in_channels // layer.groups, *layer.kernel_size)
        inner = convolve(x, first, None, layer.stride, layer.padding, layer.dilation, layer.groups)
        return convolve(inner, up.reshape(*up.shape, *[1] * len(layer.kernel_size))) * scale

    return add


def bias(difference: Tensor, scale: float) -> Addition:
    """Return the addition of a scaled difference of the bias."""
    difference_on = _OnDevice(difference)

    def add(layer: nn.Module, x: Tensor) -> Tensor:
        return (difference_on(x) * scale).reshape(-1, *[1] * len(getattr(layer, "kernel_size", ())))

    return add


class _OnDevice:
    """A small tensor with a copy for every device and dtype that asks for one: several devices may run at once."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor
        self.copies: dict[tuple[torch.device, torch.dtype], Tensor] = {}

    def __call__(self, like: Tensor) -> Tensor:
        key = (like.device, like.dtype)
        if key not in self.copies:
            self.copies[key] = self.tensor.to(device=like.device, dtype=like.dtype)
        return self.copies[key]


def set_additions(model: ModelPatcher, key: str, additions: Mapping[str, Sequence[Addition]]) -> None:
    """Let ComfyUI put the additions into the layers of these names whenever it loads a MODEL.

    ComfyUI hands the injection the patcher that it loads, which may be a copy of the MODEL on another device: the layers
    are looked up there.
    """
    injected: weakref.WeakKeyDictionary[nn.Module, list[_Beside]] = weakref.WeakKeyDictionary()

    def eject(patcher: ModelPatcher) -> None:
        for beside in injected.pop(patcher.model, []):
            beside.take_out()

    def inject(patcher: ModelPatcher) -> None:
        eject(patcher)
        layers = {name: find_layer(patcher, name) for name in additions}
        injected[patcher.model] = [
            _Beside.put_in(layer, additions[name]) for name, layer in layers.items() if isinstance(layer, nn.Module)
        ]

    model.set_injections(key, [PatcherInjection(inject=inject, eject=eject)])


@dataclass(eq=False)
class _Beside:
    """The ``forward`` of a layer with additions.

    Others replace ``forward`` as well, and ComfyUI does not eject in the reverse order. If another wrapper sits on top, a
    removed one becomes a no-op and unlinks itself once it is outermost.
    """

    layer: nn.Module
    additions: list[Addition]
    previous: Callable[..., Tensor] | None
    inner: Callable[..., Tensor]

    @classmethod
    def put_in(cls, layer: nn.Module, additions: Sequence[Addition]) -> _Beside:
        """Replace the ``forward`` of a layer."""
        if isinstance(below := vars(layer).get("forward"), cls):
            below.remove_if_idle()
        beside = cls(layer, list(additions), vars(layer).get("forward"), layer.forward)
        layer.forward = beside
        return beside

    def __call__(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        self.remove_if_idle()
        output = self.inner(x, *args, **kwargs)
        for add in self.additions:
            output = output + add(self.layer, x)
        return output

    def take_out(self) -> None:
        """Stop adding, and restore the layer's ``forward`` unless another wrapper sits on top."""
        self.additions.clear()
        self.remove_if_idle()

    def remove_if_idle(self) -> None:
        """Restore the layer's ``forward`` if there is nothing to add and no other wrapper sits on top."""
        if self.additions or vars(self.layer).get("forward") is not self:
            return
        if self.previous is None:
            del self.layer.forward
        else:
            self.layer.forward = self.previous
