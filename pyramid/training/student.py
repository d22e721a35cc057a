"""The student of every distillation: one clean prediction from each of a few trained levels of each stage."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from accelerate import Accelerator
from torch import Tensor

from ..paths import clean_prediction, stage_path
from ..schedules import parse_steps, stage_levels
from ..stages import LatentShape, PyramidSpec, Stage, stage_name
from . import adapters, parallel
from .batches import StageBatch
from .finetune import blurred_signal
from .networks import WanVelocity, open_transformer
from .settings import Adapter, System


def trained_levels(spec: PyramidSpec, schedule: str) -> list[tuple[float, ...]]:
    """Natural levels that each stage's steps start from: rho = 1, 1 - 1/K, ... for K steps (method: a guess)."""
    return [stage[:-1] for stage in stage_levels(spec, parse_steps(schedule, spec.number_of_stages))]


def picked_level(pick: Tensor, levels: Sequence[float]) -> Tensor:
    """A trained level for each sample: pick ``(B,)`` in [0, 1) goes through the list evenly."""
    places = (pick * len(levels)).long().clamp(max=len(levels) - 1)
    return torch.tensor(levels, dtype=torch.float32, device=pick.device)[places]


class FewStepStudent:
    """The network that is distilled, with the pyramid and the steps that it is distilled for."""

    def __init__(
        self, path: str, spec: PyramidSpec, shape: LatentShape, schedule: str, adapter: Adapter, accelerator: Accelerator,
        *, system: System, seed: int, checkpointing: bool,
    ) -> None:  # fmt: skip
        self.spec, self.shape, self.adapter, self.accelerator = spec, shape, adapter, accelerator
        self.stages, self.levels = spec.stages(shape), trained_levels(spec, schedule)
        self.network = open_trained(
            path, adapter, len(self.stages), accelerator, system=system, seed=seed, checkpointing=checkpointing
        )

    def generate(self, batch: StageBatch) -> Tensor:
        """The clean prediction ``(B, C, T, H, W)``, from data noised along the stage's path to one of its trained levels, as
        PyramidalWan feeds its students; by the same formula as the few-step samplers use."""
        stage = self.stages[batch.stage]
        assert batch.pick is not None, "distillation wants a plan with a second draw"
        natural = picked_level(batch.pick, self.levels[batch.stage])
        path = stage_path(batch.clean, blurred_signal(batch, stage), batch.noise, stage, natural)
        return clean_prediction(path.x, self.velocity(path.x, path.level.told, batch.context, stage), stage, natural)

    def velocity(self, x: Tensor, told: Tensor, context: Tensor, stage: Stage) -> Tensor:
        return ask(self.network, x, told, context, stage, self.adapter, self.accelerator)


def ask(
    network: WanVelocity, x: Tensor, told: Tensor, context: Tensor, stage: Stage, adapter: Adapter, accelerator: Accelerator
) -> Tensor:
    """A network's velocity, with the stage's adapter and positions."""
    adapters.choose(network.transformer, adapter, stage.index)
    with accelerator.autocast():
        return network(x, told.expand(len(x)), context, stage.rope_scale)


def open_trained(
    path: str, adapter: Adapter, stages: int, accelerator: Accelerator, *, system: System, seed: int, checkpointing: bool
) -> WanVelocity:
    """A network of which all weights, or a LoRA, will be trained, in its place."""
    network = WanVelocity(open_transformer(path))
    adapters.prepare(network.transformer, adapter, stages, seed=seed)
    if checkpointing:
        network.transformer.enable_gradient_checkpointing()
    parallel.place(network, accelerator, system)
    return network


def open_frozen(path: str, accelerator: Accelerator, system: System) -> WanVelocity:
    network = WanVelocity(open_transformer(path)).requires_grad_(False)
    parallel.place(network, accelerator, system)
    return network


def each_batch(
    batches: Sequence[StageBatch], loss: Callable[[StageBatch], Mapping[str, tuple[float, Tensor]]], found: dict, stages: int
) -> Iterator[Callable[[], Tensor]]:
    """For ``Trainable.update``: the weighted sum of each batch's losses; their values go into ``found`` by stage."""

    def one(batch: StageBatch) -> Tensor:
        total = torch.zeros((), device=batch.clean.device)
        for kind, (weight, value) in loss(batch).items():
            found.setdefault(f"{kind}/{stage_name(batch.stage, stages)}", []).append(value.detach())
            total = total + weight * value
        return total / len(batches)

    for batch in batches:
        yield lambda batch=batch: one(batch)


def logged(found: Mapping[str, Sequence[Tensor]], watched: str) -> dict[str, float]:
    """Means of everything that was found; "loss" is that of all stages' ``watched``."""
    means = {name: float(torch.stack(list(values)).mean()) for name, values in found.items()}
    values = [value for name, value in means.items() if name.startswith(f"{watched}/")]
    return {"loss": sum(values) / len(values), **means}
