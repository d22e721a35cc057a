"""The nodes: widgets in, one call, values out."""

from __future__ import annotations

from comfy_api.latest import ComfyExtension, io

from .analysis import PyramidalWanCalibrate, PyramidalWanCost
from .conditioning import PyramidalWanLoadConditioning, PyramidalWanSaveConditioning
from .files import PyramidalWanSpecFromFile, PyramidalWanStageLoRA
from .latent import PyramidalWanEmptyLatent
from .sampler import PyramidalWanSampler, PyramidalWanSamplerAdvanced
from .schedule import PyramidalWanSchedule
from .spec import PyramidalWanSpec
from .stages import (
    PyramidalWanFewStepSampler,
    PyramidalWanRenoise,
    PyramidalWanStageModel,
    PyramidalWanStageSigmas,
    PyramidalWanStageStart,
    PyramidalWanStageTransition,
)

NODES: list[type[io.ComfyNode]] = [
    PyramidalWanSampler,
    PyramidalWanSamplerAdvanced,
    PyramidalWanSpec,
    PyramidalWanSpecFromFile,
    PyramidalWanEmptyLatent,
    PyramidalWanSchedule,
    PyramidalWanFewStepSampler,
    PyramidalWanStageLoRA,
    PyramidalWanStageStart,
    PyramidalWanStageModel,
    PyramidalWanStageSigmas,
    PyramidalWanStageTransition,
    PyramidalWanRenoise,
    PyramidalWanCost,
    PyramidalWanCalibrate,
    PyramidalWanSaveConditioning,
    PyramidalWanLoadConditioning,
]


class PyramidalWanExtension(ComfyExtension):
    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return NODES
