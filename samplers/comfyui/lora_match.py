"""Match the modules of a LoRA file with the layers of a MODEL, by name and by size."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from ...pyramid.key_names import flattened
from .lora_file import DOWN, UP, LoraFile

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher

NETWORK = "diffusion_model."
"""Prefix of the names of Wan's layers in a MODEL."""

WHOLE_WEIGHT = ("diff", "set_weight", "w_norm")
"""Tensors that have the size of the weight itself."""

WHOLE_BIAS = ("diff_b", "b_norm")

Size = tuple[int, ...]


@dataclass(frozen=True)
class Match:
    """The part of a LoRA that fits a MODEL.

    Attributes:
        layers: The fitting tensors per layer, under the layer's name in the MODEL.
        left_out: Why other layers, or their biases, are left out, by their name in the file.
    """

    layers: Mapping[str, Mapping[str, Tensor]]
    left_out: Mapping[str, str]


def match(lora: LoraFile, model: ModelPatcher) -> Match:
    """Compare a LoRA with the layers of a MODEL. Weights are not read: they may be quantised or offloaded."""
    names = {flattened(name): name for name, _ in _named(model.model.diffusion_model)}
    fitting: dict[str, dict[str, Tensor]] = {}
    left_out: dict[str, str] = {}
    for module, tensors in lora.layers.items():
        name = NETWORK + module
        if find_layer(model, name) is None:
            name = NETWORK + names.get(flattened(module), module)
        problems = dict(_problems(tensors, model, name))
        kept = {kind: tensor for kind, tensor in tensors.items() if _part(kind) not in problems}
        if any(kind != "alpha" for kind in kept):
            fitting[name] = kept
        for part, problem in problems.items():
            left_out[module if part == "weight" else f"{module}.bias"] = problem
    return Match(fitting, left_out)


def _part(kind: str) -> str:
    return "bias" if kind in WHOLE_BIAS else "weight"


def _named(module: nn.Module) -> Iterator[tuple[str, object]]:
    yield from module.named_modules()
    yield from module.named_parameters()


def _problems(tensors: Mapping[str, Tensor], model: ModelPatcher, name: str) -> Iterator[tuple[str, str]]:
    """Yield ("weight" or "bias", the reason why those tensors do not fit)."""
    layer = find_layer(model, name)
    parts = {_part(kind) for kind in tensors if kind != "alpha"} or {"weight"}
    if layer is None:
        where = "in a block that another node replaced" if replaced_at(model, name) else "not in this model"
        yield from ((part, where) for part in sorted(parts))
        return
    if isinstance(layer, Tensor) and not _is_patched(model, name):
        yield from ((part, "ComfyUI does not patch it") for part in sorted(parts))
        return
    if "bias" in parts:
        size, adapter = bias_size(layer), tensors[next(kind for kind in WHOLE_BIAS if kind in tensors)].shape
        if size != tuple(adapter):
            yield "bias", f"{_text(adapter)} in the file but {_text(size) if size else 'absent'} in the model"
    if "weight" in parts and (problem := _weight_problem(tensors, weight_size(layer))):
        yield "weight", problem


def _weight_problem(tensors: Mapping[str, Tensor], size: Size | None) -> str | None:
    if size is None:
        return "not a layer with a weight"
    for kind in WHOLE_WEIGHT:
        if kind in tensors and tuple(tensors[kind].shape) != size:
            return f"{_text(tensors[kind].shape)} in the file but {_text(size)} in the model"
    if any(kind in tensors for kind in WHOLE_WEIGHT):
        return None
    adapter = adapter_size(tensors)
    if adapter is None:
        return "not an adapter that ComfyUI knows"
    rows, columns = size[0], prod(size[1:])
    if adapter != (rows, columns if adapter[1] is not None else None):
        return f"{_text(side for side in adapter if side is not None)} in the file but {rows}x{columns} in the model"
    return None


def _text(size: Any) -> str:
    return "x".join(str(side) for side in size)


def adapter_size(tensors: Mapping[str, Tensor]) -> tuple[int, int | None] | None:
    """Return the (rows, columns) of the weights that an adapter can change.

    Columns are those of the flattened weight; ``columns`` is None if any width fits. Returns None if the tensors form no
    known adapter.
    """
    shapes = {kind: tuple(tensor.shape) for kind, tensor in tensors.items()}
    for size_of_kind in (_lora_size, _loha_size, _lokr_size, _oft_size, _glora_size):
        if (size := size_of_kind(shapes)) is not None:
            return size
    return None


def _lora_size(shapes: Mapping[str, Size]) -> tuple[int, int] | None:
    up, down, mid = shapes.get(UP, ()), shapes.get(DOWN, ()), shapes.get("lora_mid.weight")
    if len(up) < 2 or len(down) < 2 or "reshape_weight" in shapes:
        return None
    if mid is not None:  # Tucker decomposition; ComfyUI has it for images only
        return (up[0], prod(down[1:]) * prod(mid[2:])) if len(mid) == 4 and mid[:2] == (up[1], down[0]) else None
    return (up[0], prod(down[1:])) if prod(up[1:]) == down[0] else None


def _loha_size(shapes: Mapping[str, Size]) -> tuple[int, int] | None:
    made = []
    for number in "12":
        a, b, t = (shapes.get(f"hada_{part}") for part in (f"w{number}_a", f"w{number}_b", f"t{number}"))
        if a is None or b is None or len(a) != 2 or len(b) != 2:
            return None
        if t is None:
            made.append((a[0], b[1]) if a[1] == b[0] else None)
        else:
            made.append((a[1], b[1] * prod(t[2:])) if len(t) == 4 and t[:2] == (a[0], b[0]) else None)
    return made[0] if made[0] == made[1] else None


def _lokr_size(shapes: Mapping[str, Size]) -> tuple[int, int] | None:
    one, two = (_lokr_factor(shapes, number) for number in "12")
    return None if one is None or two is None else (one[0] * two[0], one[1] * two[1])


def _lokr_factor(shapes: Mapping[str, Size], number: str) -> tuple[int, int] | None:
    whole, a, b = (shapes.get(f"lokr_w{number}{part}") for part in ("", "_a", "_b"))
    t = shapes.get(f"lokr_t{number}")
    if whole is not None:
        return (whole[0], prod(whole[1:])) if len(whole) in (2, 4) else None
    if a is None or b is None or len(a) != 2 or len(b) != 2:
        return None
    if t is not None:
        return (a[1], b[1] * prod(t[2:])) if len(t) == 4 and t[:2] == (a[0], b[0]) else None
    return (a[0], b[1]) if a[1] == b[0] else None


def _oft_size(shapes: Mapping[str, Size]) -> tuple[int, None] | None:
    """Return the size for OFT, which rotates the rows in blocks (number, size, size), or BOFT, in several rounds."""
    blocks = shapes.get("oft_blocks", ())
    if len(blocks) not in (3, 4) or blocks[-1] != blocks[-2]:
        return None
    rows = blocks[-3] * blocks[-2]
    rounds = blocks[0] if len(blocks) == 4 else 1
    return None if rows % (2 ** (rounds - 1) * blocks[-1]) else (rows, None)


def _glora_size(shapes: Mapping[str, Size]) -> tuple[int, int] | None:
    """Return the size for GLoRA, which adds ``W a1 a2 + b1 b2``; older LyCORIS files have each pair in reverse order."""
    if not all(len(shapes.get(f"{part}.weight", ())) == 2 for part in ("a1", "a2", "b1", "b2")):
        return None
    a, b = ([shapes[f"{pair}{number}.weight"] for number in "12"] for pair in "ab")
    made = [
        (b1[0], b2[1])
        for (a1, a2), (b1, b2) in ((a, b), (a[::-1], b[::-1]))
        if a1[1] == a2[0] == b1[1] == b2[0] and a1[0] == a2[1] == b2[1]
    ]
    return max(made, default=None)  # both orders are valid products for a square weight; the rank is the smaller side


def weight_size(layer: nn.Module | Tensor) -> Size | None:
    """Return the size of a layer's weight from the layer's attributes; a quantised weight has a different shape."""
    if isinstance(layer, Tensor):
        return tuple(layer.shape)
    if hasattr(layer, "in_features") and hasattr(layer, "out_features"):
        return int(layer.out_features), int(layer.in_features)  # pyright: ignore[reportArgumentType]
    if isinstance(layer, (nn.Conv1d, nn.Conv2d, nn.Conv3d)):
        return layer.out_channels, layer.in_channels // layer.groups, *layer.kernel_size
    weight = getattr(layer, "weight", None)
    return None if weight is None else tuple(weight.shape)


def bias_size(layer: nn.Module | Tensor) -> Size | None:
    """Return the size of a layer's bias; None if it has none."""
    size = weight_size(layer)
    return None if size is None or getattr(layer, "bias", None) is None else size[:1]


def find_layer(model: ModelPatcher, name: str) -> nn.Module | Tensor | None:
    """Return the layer of a MODEL that runs under a name, or the parameter of that name.

    An object patch may wrap a block, such as a compiled one: then the layer is the one in the wrapper, whether the patch is
    in place now or not. None if the MODEL has no such layer, or if it does not run because its block was replaced.
    """
    at = replaced_at(model, name)
    if at is None:
        return _walk(model.model, name)
    new, rest = model.object_patches[at], name[len(at) + 1 :]
    if (layer := _walk(new, rest)) is not None:
        return layer
    old = model.object_patches_backup.get(at, _walk(model.model, at))
    wrapped = isinstance(new, nn.Module) and any(module is old for module in new.modules())
    return _walk(old, rest) if wrapped else None


def replaced_at(model: ModelPatcher, name: str) -> str | None:
    """Return the name under which an object patch replaces a layer or a module around it."""
    patched = [key for key in model.object_patches if name == key or name.startswith(f"{key}.")]
    return max(patched, key=len, default=None)


def takes_patches(model: ModelPatcher, name: str) -> bool:
    """Return whether ComfyUI's weight patches reach a layer: they match names of modules, which a wrapper changes."""
    at = replaced_at(model, name)
    if at is None:
        return True
    new = model.object_patches[at]
    return isinstance(new, nn.Module) and name[len(at) + 1 :] in dict(new.named_modules())


def _walk(start: Any, path: str) -> Any:
    try:
        end = operator.attrgetter(path)(start) if path else start
    except AttributeError:
        return None
    return end if isinstance(end, (nn.Module, Tensor)) else None


def _is_patched(model: ModelPatcher, name: str) -> bool:
    """Return whether ComfyUI patches a bare parameter: it leaves out those of modules with layers of their own."""
    owner = find_layer(model, name.rpartition(".")[0])
    return isinstance(owner, nn.Module) and len(list(owner.parameters())) == len(list(owner.parameters(recurse=False)))
