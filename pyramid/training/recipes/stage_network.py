"""Networks as the recipes use them: evaluated at a stage, with the stage's adapter, positions and precision."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from accelerate import Accelerator
from torch import Tensor

from ...stages import PyramidSpec, Stage
from ..config.run_config import RunConfig
from ..config.settings import Adapter
from ..engine import parallel
from ..models import adapters
from ..models.networks import WanVelocity, open_network


@dataclass(frozen=True)
class StageNetwork:
    """A trained network.

    Attributes:
        network: The transformer, with its LoRA if it has any.
        adapter: Settings of the LoRA.
        accelerator: Chooses device and precision.
    """

    network: WanVelocity
    adapter: Adapter
    accelerator: Accelerator

    def velocity(self, x: Tensor, conditioning: Tensor, context: Tensor, stage: Stage) -> Tensor:
        """Return ``d x / d sigma`` with the stage's adapter, positions and patches.

        Args:
            x: Noisy latents, ``(B, C, T, H, W)``.
            conditioning: Noise level that the network is conditioned on, ``(B,)`` or ``()``.
            context: Text embeddings, ``(B, L, text width)``.
            stage: The stage that ``x`` belongs to.
        """
        adapters.choose(self.network.transformer, self.adapter, stage.index)
        with self.accelerator.autocast():
            return self.network(x, conditioning.expand(len(x)), context, stage)


@dataclass(frozen=True)
class Teacher:
    """A frozen network: a copy of its own, or the base of a trained network whose LoRA is switched off.

    Attributes:
        network: The frozen copy, or the trained network.
        shared: Whether ``network`` is the trained one.
        accelerator: Chooses device and precision.
    """

    network: WanVelocity
    shared: bool
    accelerator: Accelerator

    def velocity(self, x: Tensor, conditioning: Tensor, context: Tensor, stage: Stage | None = None) -> Tensor:
        """Return ``d x / d sigma``; the arguments are those of ``WanVelocity.forward``."""
        with self._base(), self.accelerator.autocast():
            return self.network(x, conditioning.expand(len(x)), context, stage)

    @contextmanager
    def _base(self) -> Iterator[None]:
        if not self.shared:
            yield
            return
        with adapters.without_adapters(self.network.transformer):
            yield


def open_trained(
    path: str, config: RunConfig, accelerator: Accelerator, *, seed: int, spec: PyramidSpec | None = None
) -> StageNetwork:
    """Open a network to train, all of its weights or a LoRA, and move it to the device.

    Args:
        path: The transformer.
        config: The run.
        accelerator: The group of processes.
        seed: Seed of the LoRA's initial weights.
        spec: The pyramid that the network runs; None for the run's.
    """
    spec = spec or config.pyramid.spec()
    network = open_network(path, spec)
    adapters.prepare(network.transformer, config.adapter, spec.number_of_stages, seed=seed)
    if config.gradient_checkpointing:
        network.transformer.enable_gradient_checkpointing()
    parallel.distribute(network, accelerator, config.system)
    return StageNetwork(network, config.adapter, accelerator)


def open_frozen(path: str, config: RunConfig, accelerator: Accelerator, *, checkpointing: bool = False) -> WanVelocity:
    """Open a network that is not trained, and move it to the device.

    Args:
        path: The transformer.
        config: The run.
        accelerator: The group of processes.
        checkpointing: Recompute activations, for gradients with respect to the network's input.
    """
    network = open_network(path).requires_grad_(False)
    if checkpointing:
        network.transformer.enable_gradient_checkpointing()
    parallel.distribute(network, accelerator, config.system)
    return network


def open_teacher(path: str, trained: StageNetwork, config: RunConfig, accelerator: Accelerator) -> Teacher:
    """Open a frozen teacher; with a LoRA it is the base of ``trained``, which must have been opened from the same ``path``."""
    if config.adapter.kind == "lora":
        return Teacher(trained.network, shared=True, accelerator=accelerator)
    return Teacher(open_frozen(path, config, accelerator), shared=False, accelerator=accelerator)
