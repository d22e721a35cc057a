"""LoRAs that act in some stages only.

Switching a merged LoRA moves the whole model to the CPU and back in versions of ComfyUI that merge weights. So there a
stage's LoRA runs beside the weights, as additions to the outputs of the layers; versions that stream weights get ordinary
patches, which are cheap to switch there. Both give the same video within rounding.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import comfy.lora
from comfy.patcher_extension import WrappersMP
from torch import Tensor, nn

from ...pyramid.stage_names import stage_set
from ...pyramid.stages import PyramidSpec, Stage
from .layer_additions import Addition, bias, low_rank, set_additions
from .lora_file import DOWN, UP, LoraFile, lora_scale
from .lora_match import NETWORK, find_layer, match, takes_patches
from .stage_patches import attach_patches

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher

KEY = "pyramidal_wan_loras"


@dataclass(frozen=True)
class StageLora:
    """A LoRA that acts in some stages.

    Attributes:
        file: The LoRA's file.
        strength: Factor of its effect.
        stages: The stages it acts in, as the artist wrote them: "all", "low,mid", "0".
    """

    file: LoraFile
    strength: float
    stages: str

    def __post_init__(self) -> None:
        """Raise ValueError for a strength that is not finite."""
        if not math.isfinite(self.strength):
            raise ValueError(f"strength is {self.strength}; expected a finite number, such as 1.0")

    def acts_in(self, index: int, number_of_stages: int) -> bool:
        """Return whether the LoRA acts in a stage."""
        return index in stage_set(self.stages, number_of_stages)


def add_stage_lora(model: ModelPatcher, lora: StageLora) -> tuple[ModelPatcher, str]:
    """Return a clone of a MODEL that carries the LoRA, and a sentence about what acts; strength 0 changes nothing.

    Raises:
        ValueError: Nothing of the LoRA can act on the MODEL, or the LoRAs were trained for different pyramids.
    """
    if lora.strength == 0:
        return model, f"'{lora.file.name}' has strength 0 and changes nothing"
    stage_set(lora.stages, None)
    _check_agreement([*stage_loras(model), lora])
    if lora.file.patches is None:
        return _with_adapters(model, lora)
    model, patches = attach_patches(model, lora.file.patches)
    if not lora.file.layers:
        return model, patches
    model, report = _with_adapters(model, lora)
    return model, f"{report}; {patches}"


def _with_adapters(model: ModelPatcher, lora: StageLora) -> tuple[ModelPatcher, str]:
    """Return a clone of a MODEL that carries the adapters of a LoRA, and a text about what acts."""
    planned = plan(model, lora)
    report = f"'{lora.file.name}': {planned.acting} of {len(lora.file.layers)} modules applied"
    if planned.left_out:
        report += f"; skipped: {_list(planned.left_out)}"
        logging.warning("PyramidalWan: %s", report)
    clone = model.clone()
    clone.set_attachments(KEY, (*stage_loras(model), lora))
    clone.remove_wrappers_with_key(WrappersMP.OUTER_SAMPLE, KEY)
    clone.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, KEY, _reject_run_without_pyramid)
    return clone, report


def _reject_run_without_pyramid(executor: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Tensor:
    """Raise ValueError in place of a run without stages, in which stage LoRAs would have no effect.

    They have one if the MODEL was exchanged for a clone from ``apply_stage_loras``.
    """
    model: ModelPatcher = executor.class_obj.model_patcher  # pyright: ignore[reportFunctionMemberAccess] - WrapperExecutor
    if not model.get_wrappers(WrappersMP.OUTER_SAMPLE, KEY):
        return executor(*args, **kwargs)
    names = ", ".join(f"'{lora.file.name}'" for lora in stage_loras(model))
    raise ValueError(
        f"the LoRA {names} acts in the stages of a pyramid, but this sampler runs without one; put 'Pyramidal Model' in front "
        "of the sampler, or load the LoRA with 'LoraLoaderModelOnly'"
    )


def stage_loras(model: ModelPatcher) -> tuple[StageLora, ...]:
    """Return the stage LoRAs that a MODEL carries."""
    return model.get_attachment(KEY) or ()


def check_stage_loras(model: ModelPatcher) -> None:
    """Raise ValueError if another node changed the MODEL so that a LoRA no longer acts on it."""
    for lora in stage_loras(model):
        plan(model, lora)


def check_lora_stages(model: ModelPatcher, number_of_stages: int) -> None:
    """Raise ValueError if a LoRA of the MODEL names a stage that the pyramid does not have."""
    for lora in stage_loras(model):
        try:
            stage_set(lora.stages, number_of_stages)
        except ValueError as error:
            raise ValueError(f"the LoRA '{lora.file.name}' is set to stages '{lora.stages}': {error}") from None


def _check_agreement(loras: list[StageLora]) -> None:
    trained = [(lora.file.name, lora.file.spec) for lora in loras if lora.file.spec is not None]
    for name, spec in trained[1:]:
        first_name, first_spec = trained[0]
        if spec != first_spec:
            raise ValueError(
                f"the LoRAs '{first_name}' and '{name}' were trained for different pyramids: {differences(first_spec, spec)}"
            )


def differences(one: PyramidSpec, other: PyramidSpec) -> str:
    """Return the fields in which two pyramids differ, for a message."""
    values = vars(other)
    return "; ".join(f"{name} {value} against {values[name]}" for name, value in vars(one).items() if value != values[name])


def apply_stage_loras(bound: ModelPatcher, stage: Stage, number_of_stages: int) -> None:
    """Give a stage's own clone of a MODEL the LoRAs that act in that stage."""
    bound.remove_wrappers_with_key(WrappersMP.OUTER_SAMPLE, KEY)
    additions: dict[str, list[Addition]] = {}
    for lora in stage_loras(bound):
        if not lora.acts_in(stage.index, number_of_stages):
            continue
        planned = plan(bound, lora)
        for name, added in planned.additions.items():
            additions.setdefault(name, []).extend(added)
        if planned.patches:
            bound.add_patches(dict(planned.patches), lora.strength)
    if additions:
        set_additions(bound, KEY, additions)


def streams_weights(model: ModelPatcher) -> bool:
    """Return whether ComfyUI casts and patches weights as they are used (dynamic VRAM), so that patches switch cheaply."""
    return bool(getattr(model, "is_dynamic", bool)())


@dataclass(frozen=True)
class Plan:
    """The action of a LoRA on a MODEL.

    Attributes:
        additions: What runs beside the weights, by the name of the layer.
        patches: ComfyUI's patches, by the name of the weight.
        left_out: Why a layer, or its bias, is left out.
        acting: The number of layers that change.
    """

    additions: Mapping[str, list[Addition]]
    patches: Mapping[str, Any]
    left_out: Mapping[str, str]
    acting: int


def plan(model: ModelPatcher, lora: StageLora) -> Plan:
    """Decide how each layer of a LoRA acts on a MODEL.

    Raises:
        ValueError: No layer can act.
    """
    matched = match(lora.file, model)
    additions: dict[str, list[Addition]] = {}
    patches: dict[str, Any] = {}
    left_out = dict(matched.left_out)
    acting = 0
    for name, tensors in matched.layers.items():
        layer, rest = find_layer(model, name), dict(tensors)
        beside = [] if streams_weights(model) else _take_additions(layer, rest, lora.strength)
        made = _patches(name, layer, rest) if any(kind != "alpha" for kind in rest) else {}
        bare = name.removeprefix(NETWORK)
        if made and not takes_patches(model, name):
            left_out[bare], made = "in a block that another node replaced", {}
        elif any(kind != "alpha" for kind in rest) and not made:
            left_out[bare] = "not an adapter that ComfyUI knows"
        if beside:
            additions[name] = beside
        patches.update(made)
        acting += bool(beside or made)
    if not acting:
        raise ValueError(_nothing_acts(lora.file, left_out, model))
    return Plan(additions, patches, left_out, acting)


def _take_additions(layer: Any, tensors: dict[str, Tensor], strength: float) -> list[Addition]:
    """Take the tensors that can run beside a linear or convolution layer out of ``tensors``."""
    taken: list[Addition] = []
    if not (hasattr(layer, "in_features") or isinstance(layer, (nn.Conv1d, nn.Conv2d, nn.Conv3d))):
        return taken
    if UP in tensors and not {"lora_mid.weight", "dora_scale"} & tensors.keys():
        scale = strength * lora_scale(tensors)
        taken.append(low_rank(tensors.pop(UP), tensors.pop(DOWN), scale))
        tensors.pop("alpha", None)
    if "diff_b" in tensors:
        taken.append(bias(tensors.pop("diff_b"), strength))
    return taken


def _patches(name: str, layer: Any, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return ComfyUI's patches for one layer."""
    key = name if isinstance(layer, Tensor) else f"{name}.weight"
    return comfy.lora.load_lora({f"{name}.{kind}": tensor for kind, tensor in tensors.items()}, {name: key}, log_missing=False)


def _nothing_acts(lora: LoraFile, left_out: Mapping[str, str], model: ModelPatcher) -> str:
    reasons = set(left_out.values())
    if reasons <= {"not in this model"}:
        ours = sorted(name for name, _ in model.model.diffusion_model.named_modules() if name.endswith("attn.q"))
        return (
            f"nothing in the LoRA '{lora.name}' fits this model: it has modules such as "
            f"{', '.join(sorted(left_out)[:3]) or 'none'}; the model has {', '.join(ours[:3])}"
        )
    if all("in the file but" in reason for reason in reasons):
        first = min(left_out)
        return f"the LoRA '{lora.name}' is for a model of another size: its {first} is {left_out[first]}"
    return f"nothing in the LoRA '{lora.name}' can act on this model: {_list(left_out)}"


def _list(left_out: Mapping[str, str]) -> str:
    """Name the first few of the layers that are left out, with the reasons."""
    names = sorted(left_out)
    more = f", and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(f"{name} ({left_out[name]})" for name in names[:3]) + more
