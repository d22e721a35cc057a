"""The few-step student of every distillation recipe: a clean prediction from each of a few trained levels of each stage."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from accelerate import Accelerator
from torch import Tensor

from ...noise_levels import NoiseLevel
from ...noise_pyramid import noise_pyramid
from ...paths import clean_prediction, stage_path
from ...sampling import sample_pyramid, solver_stage
from ...solvers import Velocity, few_step
from ...stages import Stage
from ..config.distill import DistillConfig
from ..data.batches import DistillBatch
from ..engine import draws
from .losses import blurred_signal
from .stage_network import open_trained


def picked_level(level_pick: Tensor, levels: Sequence[float]) -> Tensor:
    """Return the trained level that each pick selects, ``(B,)``.

    Args:
        level_pick: Uniform numbers in [0, 1), ``(B,)``.
        levels: The levels, each selected by an equal share of [0, 1).
    """
    return torch.tensor(levels, dtype=torch.float32, device=level_pick.device)[picked_index(level_pick, len(levels))]


def picked_index(level_pick: Tensor, count: int) -> Tensor:
    """Return the index below ``count`` that each pick in [0, 1) selects."""
    return (level_pick * count).long().clamp(max=count - 1)


class FewStepStudent:
    """The network that is distilled, with the pyramid and the levels that it is distilled for.

    Attributes:
        model: The network.
        stages: The stages of the pyramid, in running order.
        levels: Natural levels that each stage's steps start from.
    """

    def __init__(self, config: DistillConfig, accelerator: Accelerator) -> None:
        """Open the student's network."""
        self.config, self.accelerator = config, accelerator
        self.stages, self.levels = config.pyramid.spec().stages(config.video.latent), config.student_levels
        self.model = open_trained(config.networks.student, config, accelerator, seed=config.train.seed)

    def generate(self, batch: DistillBatch) -> Tensor:
        """Return the clean prediction, ``(B, C, T, H, W)``, from one of the stage's trained levels.

        The formula is the one of the few-step samplers. With ``train.inputs`` "data", predictions start from data noised along
        the stage's path (PyramidalWan); with "simulated", from the student's own run (DMD2, arXiv 2405.14867, section 4.5).
        """
        stage = self.stages[batch.stage]
        natural = picked_level(batch.level_pick, self.levels[batch.stage])
        if self.config.simulates_inputs:
            x = self.simulate(batch)
        else:
            x = stage_path(batch.clean, blurred_signal(batch, stage), batch.noise, stage, natural).x
        return clean_prediction(x, self.velocity(x, stage.at(natural).conditioning, batch.context, stage), stage, natural)

    @torch.no_grad()
    def simulate(self, batch: DistillBatch) -> Tensor:
        """Return latents ``(B, C, T, H, W)`` at each sample's trained level, as the student's own run from noise reaches them.

        Every sample passes through all levels, so that all processes make the same number of forward passes.
        """
        visited: list[Tensor] = []
        levels = self.levels[batch.stage]

        def velocity(x: Tensor, level: NoiseLevel, stage: Stage) -> Tensor:
            if stage.index == batch.stage:
                visited.append(x)
                if len(visited) == len(levels):
                    return torch.zeros_like(x)  # the prediction from the last level is the one that is trained
            return self.velocity(x, level.conditioning, batch.context, stage)

        self.run(velocity, batch.noise, batch.seeds, last=batch.stage)
        index = picked_index(batch.level_pick, len(levels))
        return torch.stack(visited)[index, torch.arange(len(index), device=index.device)]

    def sample(self, noise: Tensor, context: Tensor, seeds: Sequence[int]) -> Tensor:
        """Return clean latents for prompts.

        Args:
            noise: White noise at full size, ``(B, C, T, H, W)``.
            context: Text embeddings, ``(B, L, text width)``.
            seeds: One seed per sample, for the noise that is added between the steps.
        """
        return self.run(lambda x, level, stage: self.velocity(x, level.conditioning, context, stage), noise, seeds)

    def run(
        self,
        velocity: Velocity,
        noise: Tensor,
        seeds: Sequence[int],
        *,
        first: int = 0,
        last: int | None = None,
        signal: Tensor | None = None,
    ) -> Tensor:
        """Run the student's steps from noise to the clean end of a stage.

        Args:
            velocity: The network.
            noise: White noise of the size of the last stage that runs, ``(B, C, T, H, W)``.
            seeds: One seed per sample, for the noise that is added between the steps.
            first: Index of the first stage that runs.
            last: Index of the last stage that runs; None for the finest.
            signal: What the first stage starts from besides its noise; None for noise alone.
        """
        stages = self.stages[first : None if last is None else last + 1]
        ends = (*self.config.pyramid.spec().boundaries, 0.0)
        levels = [(*starts, end) for starts, end in zip(self.levels, ends, strict=True)]

        def draw(stage: Stage, *keys: int | str) -> Tensor:
            shape = (noise.shape[1], stage.shape.frames, stage.shape.height, stage.shape.width)
            return torch.stack([draws.white(shape, seed, stage.index, *keys) for seed in seeds]).to(noise)

        def run_stage(signal: Tensor, noise: Tensor, stage: Stage) -> Tensor:
            solver = few_step(lambda step: draw(stage, "step", step))
            return solver_stage(velocity, solver, levels)(signal, noise, stage)

        noises = noise_pyramid(noise, stages)
        return sample_pyramid(run_stage, noises, stages, signal=signal, top_up=lambda stage: draw(stage, "top-up"))

    def velocity(self, x: Tensor, conditioning: Tensor, context: Tensor, stage: Stage) -> Tensor:
        """Return the network's ``d x / d sigma``; see ``StageNetwork.velocity``."""
        return self.model.velocity(x, conditioning, context, stage)
