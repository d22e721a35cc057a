"""Additions to the outputs of a MODEL's layers, which ComfyUI injects and ejects as it loads and unloads the MODEL."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch
from comfy.patcher_extension import PatcherInjection
from torch import Tensor, nn

from .device_copies import OnDevice
from .lora_match import find_layer

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher


class Addition(Protocol):
    """Function that returns an addition to the output of a layer."""

    def __call__(self, layer: nn.Module, x: Tensor) -> Tensor:
        """Return the addition for a layer and its input."""
        ...

    def copy_to(self, device: torch.device, dtype: torch.dtype) -> None:
        """Keep copies for inputs on a device in a dtype."""
        ...


@dataclass(frozen=True, eq=False)
class LowRank:
    """The addition ``scale * up (down x)`` for linear and convolution layers.

    Attributes:
        up: From the rank to the outputs, flattened.
        down: From the inputs to the rank, flattened.
        scale: Its factor.
    """

    up: OnDevice
    down: OnDevice
    scale: float

    def __call__(self, layer: nn.Module, x: Tensor) -> Tensor:
        """Return the addition for a layer and its input."""
        up, down = self.up(x), self.down(x)
        if not isinstance(layer, (nn.Conv1d, nn.Conv2d, nn.Conv3d)):
            return nn.functional.linear(nn.functional.linear(x, down), up) * self.scale
        convolve = (nn.functional.conv1d, nn.functional.conv2d, nn.functional.conv3d)[len(layer.kernel_size) - 1]
        first = down.reshape(-1, layer.in_channels // layer.groups, *layer.kernel_size)
        inner = convolve(x, first, None, layer.stride, layer.padding, layer.dilation, layer.groups)
        return convolve(inner, up.reshape(*up.shape, *[1] * len(layer.kernel_size))) * self.scale

    def copy_to(self, device: torch.device, dtype: torch.dtype) -> None:
        """Keep copies for inputs on a device in a dtype."""
        self.up.copy_to(device, dtype)
        self.down.copy_to(device, dtype)


@dataclass(frozen=True, eq=False)
class Bias:
    """The addition of a scaled difference of the bias.

    Attributes:
        difference: The difference.
        scale: Its factor.
    """

    difference: OnDevice
    scale: float

    def __call__(self, layer: nn.Module, x: Tensor) -> Tensor:
        """Return the addition for a layer and its input."""
        return (self.difference(x) * self.scale).reshape(-1, *[1] * len(getattr(layer, "kernel_size", ())))

    def copy_to(self, device: torch.device, dtype: torch.dtype) -> None:
        """Keep copies for inputs on a device in a dtype."""
        self.difference.copy_to(device, dtype)


def low_rank(up: Tensor, down: Tensor, scale: float) -> Addition:
    """Return the addition ``scale * up (down x)`` for linear and convolution layers."""
    return LowRank(OnDevice(up.flatten(1)), OnDevice(down.flatten(1)), scale)


def bias(difference: Tensor, scale: float) -> Addition:
    """Return the addition of a scaled difference of the bias."""
    return Bias(OnDevice(difference), scale)


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
        dtype = patcher.model.manual_cast_dtype or patcher.model.get_dtype()
        for added in additions.values():
            for addition in added:
                addition.copy_to(patcher.load_device, dtype)
        layers = {name: find_layer(patcher, name) for name in additions}
        injected[patcher.model] = [
            _Beside.put_in(layer, additions[name], patcher) for name, layer in layers.items() if isinstance(layer, nn.Module)
        ]

    model.set_injections(key, [PatcherInjection(inject=inject, eject=eject)])


@dataclass(eq=False)
class _Beside:
    """The ``forward`` of a layer with additions.

    Others replace ``forward`` as well, and ComfyUI does not eject in the reverse order. If another wrapper sits on top, a
    removed one becomes a no-op and unlinks itself once it is outermost. So does one whose patcher is gone: ComfyUI does not
    eject a patcher that an error has left in memory and that is collected later.
    """

    layer: nn.Module
    additions: list[Addition]
    patcher: weakref.ref[ModelPatcher]
    previous: Callable[..., Tensor] | None
    inner: Callable[..., Tensor]

    @classmethod
    def put_in(cls, layer: nn.Module, additions: Sequence[Addition], patcher: ModelPatcher) -> _Beside:
        """Replace the ``forward`` of a layer."""
        if (below := cls.outermost(layer)) is not None:
            below.remove_if_idle()
        beside = cls(layer, list(additions), weakref.ref(patcher), vars(layer).get("forward"), layer.forward)
        layer.forward = beside.forward
        return beside

    @classmethod
    def outermost(cls, layer: nn.Module) -> _Beside | None:
        """Return the object whose method replaces the ``forward`` of a layer; None if no wrapper of this class is outermost."""
        owner = getattr(vars(layer).get("forward"), "__self__", None)
        return owner if isinstance(owner, cls) else None

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Return the output of the layer with the additions."""
        if not torch.compiler.is_compiling():  # a compiled layer would be compiled again for each new object of this class
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
        if self.patcher() is None:
            self.additions.clear()
        if self.additions or self.outermost(self.layer) is not self:
            return
        if self.previous is None:
            del self.layer.forward
        else:
            self.layer.forward = self.previous
