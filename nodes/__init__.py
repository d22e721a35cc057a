"""The nodes: widgets in, one call, values out."""

from __future__ import annotations

from comfy_api.latest import ComfyExtension, io

from .conditioning import PyramidalWanLoadConditioning, PyramidalWanSaveConditioning
from .latent import PyramidalWanEmptyLatent
from .sampler import PyramidalWanSampler
from .schedule import PyramidalWanSchedule
from .spec import PyramidalWanSpec

NODES: list[type[io.ComfyNode]] = [
    PyramidalWanSampler,
    PyramidalWanSpec,
    PyramidalWanEmptyLatent,
    PyramidalWanSchedule,
    PyramidalWanSaveConditioning,
    PyramidalWanLoadConditioning,
]


class PyramidalWanExtension(ComfyExtension):
    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return NODES
