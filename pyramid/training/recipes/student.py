"""The student of every distillation: one clean prediction from each of a few trained levels of each stage."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from accelerate import Accelerator
from torch import Tensor

from ...latent_shape import LatentShape
from ...noise_levels import NoiseLevel
from ...noise_pyramid import noise_pyramid
from ...paths import clean_prediction, stage_path
from ...sampling import sample_pyramid, solver_stage
from ...schedules import parse_steps, stage_levels
from ...solvers import Velocity, few_step
from ...stage_names import stage_name
from ...stages import PyramidSpec, Stage
from ..config.settings import Adapter, System
from ..data.batches import StageBatch
from ..engine import draws, parallel
from ..models import adapters
from ..models.networks import WanVelocity, open_transformer
from .finetune import blurred_signal


def trained_levels(spec: PyramidSpec, schedule: str, *, grid: str = "uniform", shift: float = 1.0) -> list[tuple[float, ...]]:
    """Natural levels that each stage's steps start from; by default rho = 1, 1 - 1/K, ... for K steps (method: a guess)."""
    steps = parse_steps(schedule, spec.number_of_stages)
    return [stage[:-1] for stage in stage_levels(spec, steps, grid=grid, shift=shift)]


def picked_level(level_pick: Tensor, levels: Sequence[float]) -> Tensor:
    """A trained level for each sample: pick ``(B,)`` in [0, 1) goes through the list evenly."""
    return torch.tensor(levels, dtype=torch.float32, device=level_pick.device)[picked_index(level_pick, len(levels))]


def picked_index(level_pick: Tensor, count: int) -> Tensor:
    """The place of ``count`` that each pick falls on."""
    return (level_pick * count).long().clamp(max=count - 1)


class FewStepStudent:
    """The network that is distilled, with the pyramid and the steps that it is distilled for.

    simulated: predictions start where the student itself gets to from noise (backward simulation), instead of from data.
    """

    def __init__(
        self, path: str, spec: PyramidSpec, shape: LatentShape, levels: Sequence[tuple[float, ...]], adapter: Adapter,
        accelerator: Accelerator, *, system: System, seed: int, checkpointing: bool, simulated: bool = False,
    ) -> None:  # fmt: skip
        self.spec, self.shape, self.adapter, self.accelerator = spec, shape, adapter, accelerator
        self.simulated = simulated
        self.stages, self.levels = spec.stages(shape), levels
        self.network = open_trained(
            path, adapter, len(self.stages), accelerator, system=system, seed=seed, checkpointing=checkpointing
        )

    def generate(self, batch: StageBatch) -> Tensor:
        """The clean prediction ``(B, C, T, H, W)`` from one of the stage's trained levels; by the same formula as the few-step
        samplers use. It starts from data noised along the stage's path, as PyramidalWan feeds its students, or from the
        student's own run (DMD2, arXiv 2405.14867, section 4.5)."""
        stage = self.stages[batch.stage]
        assert batch.level_pick is not None, "distillation wants a plan with a second draw"
        natural = picked_level(batch.level_pick, self.levels[batch.stage])
        if self.simulated:
            x = self.simulate(batch)
        else:
            x = stage_path(batch.clean, blurred_signal(batch, stage), batch.noise, stage, natural).x
        return clean_prediction(x, self.velocity(x, stage.at(natural).conditioning, batch.context, stage), stage, natural)

    @torch.no_grad()
    def simulate(self, batch: StageBatch) -> Tensor:
        """Latents ``(B, C, T, H, W)`` at each sample's trained level, as the student gets there from noise. Every sample goes
        through all levels, so that all processes make the same number of forward passes."""
        assert batch.level_pick is not None, "distillation wants a plan with a second draw"
        visited: list[Tensor] = []
        levels = self.levels[batch.stage]

        def velocity(x: Tensor, level: NoiseLevel, stage: Stage) -> Tensor:
            if stage.index == batch.stage:
                visited.append(x)
                if len(visited) == len(levels):
                    return torch.zeros_like(x)  # the prediction from here is the one that is trained
            return self.velocity(x, level.conditioning, batch.context, stage)

        self.run(velocity, batch.noise, batch.seeds)
        place = picked_index(batch.level_pick, len(levels))
        return torch.stack(visited)[place, torch.arange(len(place), device=place.device)]

    def sample(self, noise: Tensor, context: Tensor, seeds: Sequence[int]) -> Tensor:
        """A whole run: clean latents for prompts ``(B, L, width)`` out of white noise ``(B, C, T, H, W)`` at full size."""
        return self.run(lambda x, level, stage: self.velocity(x, level.conditioning, context, stage), noise, seeds)

    def run(self, velocity: Velocity, noise: Tensor, seeds: Sequence[int]) -> Tensor:
        """From noise to the clean end of the stage that has the noise's size: predict, noise again, predict.

        seeds: of each sample, for everything else that is drawn on the way.
        """
        size = LatentShape(*noise.shape[-3:])
        stages = self.stages[: 1 + next(stage.index for stage in self.stages if stage.shape == size)]
        ends = (*self.spec.boundaries, 0.0)
        levels = [(*starts, end) for starts, end in zip(self.levels, ends, strict=True)]

        def draw(stage: Stage, *keys: int | str) -> Tensor:
            one = (noise.shape[1], stage.shape.frames, stage.shape.height, stage.shape.width)
            return torch.stack([draws.white(one, seed, stage.index, *keys) for seed in seeds]).to(noise)

        def run_stage(signal: Tensor, noise: Tensor, stage: Stage) -> Tensor:
            solver = few_step(lambda step: draw(stage, "step", step))
            return solver_stage(velocity, solver, levels)(signal, noise, stage)

        return sample_pyramid(run_stage, noise_pyramid(noise, stages), stages, top_up=lambda stage: draw(stage, "top-up"))

    def velocity(self, x: Tensor, conditioning: Tensor, context: Tensor, stage: Stage) -> Tensor:
        return ask(self.network, x, conditioning, context, stage, self.adapter, self.accelerator)


def ask(
    network: WanVelocity,
    x: Tensor,
    conditioning: Tensor,
    context: Tensor,
    stage: Stage,
    adapter: Adapter,
    accelerator: Accelerator,
) -> Tensor:
    """A network's velocity, with the stage's adapter and positions."""
    adapters.choose(network.transformer, adapter, stage.index)
    with accelerator.autocast():
        return network(x, conditioning.expand(len(x)), context, stage.rope_scale)


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


def open_frozen(path: str, accelerator: Accelerator, system: System, *, checkpointing: bool = False) -> WanVelocity:
    """A network that stays as it is; checkpointing: for gradients that come back through it."""
    network = WanVelocity(open_transformer(path)).requires_grad_(False)
    if checkpointing:
        network.transformer.enable_gradient_checkpointing()
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
