"""The node classes: widgets in, one call into ``samplers``, values out."""

from __future__ import annotations

from comfy_api.latest import ComfyExtension, io

from .analysis import PyramidalWanCalibrate, PyramidalWanCostEstimate
from .compile import PyramidalWanCompile
from .conditioning import PyramidalWanLoadConditioning, PyramidalWanSaveConditioning
from .drafts import PyramidalWanLoadDraft, PyramidalWanSaveDraft
from .files import PyramidalWanFromFile, PyramidalWanPatches, PyramidalWanStageLoRA
from .latent import PyramidalWanEmptyLatent
from .lift import PyramidalWanLiftFromVAE
from .model import PyramidalWanModel
from .pyramid import PyramidalWanCustom, PyramidalWanPreset
from .sampler import PyramidalWanSampler, PyramidalWanSamplerAdvanced
from .schedule import PyramidalWanSchedule
from .stages import (
    PyramidalWanFewStepSampler,
    PyramidalWanRenoise,
    PyramidalWanStageModel,
    PyramidalWanStageSigmas,
    PyramidalWanStageStart,
    PyramidalWanStageTransition,
)

NODES: list[type[io.ComfyNode]] = [
    PyramidalWanModel,
    PyramidalWanSampler,
    PyramidalWanSamplerAdvanced,
    PyramidalWanPreset,
    PyramidalWanCustom,
    PyramidalWanFromFile,
    PyramidalWanLiftFromVAE,
    PyramidalWanEmptyLatent,
    PyramidalWanSchedule,
    PyramidalWanFewStepSampler,
    PyramidalWanStageLoRA,
    PyramidalWanPatches,
    PyramidalWanCompile,
    PyramidalWanStageStart,
    PyramidalWanStageModel,
    PyramidalWanStageSigmas,
    PyramidalWanStageTransition,
    PyramidalWanRenoise,
    PyramidalWanCostEstimate,
    PyramidalWanCalibrate,
    PyramidalWanSaveConditioning,
    PyramidalWanLoadConditioning,
    PyramidalWanSaveDraft,
    PyramidalWanLoadDraft,
]


class PyramidalWanExtension(ComfyExtension):
    """The pack as ComfyUI loads it."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """Return the node classes in the order of the menu."""
        return NODES
