"""TFLOPs and memory of a training step, counted like those of sampling.

Conventions: a backward pass costs twice its forward pass for full finetuning, and once for a LoRA, whose weights are few;
gradient checkpointing adds one forward pass; a teacher costs one forward pass where it is evaluated. Optimiser and text
encoder are not counted.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ...flops import PATCH_SHAPE, WanDimensions, forward_tflops, schedule_cost
from ...key_names import ATTENTION_LAYERS, MLP_LAYERS
from ...latent_shape import LatentShape
from ...stage_names import stage_name
from ...stages import PyramidSpec

GIB = 2**30


@dataclass(frozen=True)
class StageStep:
    """One stage's share of an optimiser step.

    Attributes:
        name: Name of the stage.
        shape: Size of its latents.
        tokens: Tokens of one sample.
        samples: Samples in an optimiser step.
        tflops: TFLOPs of all these samples.
    """

    name: str
    shape: LatentShape
    tokens: int
    samples: int
    tflops: float


@dataclass(frozen=True)
class Work:
    """Forward passes that a recipe computes per sample.

    Attributes:
        trained: Forward passes of networks that are trained, by stage in running order; each implies a backward pass.
        frozen: Forward passes without gradients of the weights, by stage in running order.
        lora: Whether LoRA adapters are trained instead of all weights.
        checkpointing: Whether activations are recomputed in the backward pass.
    """

    trained: Sequence[float]
    frozen: Sequence[float]
    lora: bool
    checkpointing: bool

    def trained_passes(self, stage: int) -> float:
        """Return the cost of the trained networks for a sample of a stage, in forward passes."""
        backward = (1.0 if self.lora else 2.0) + (1.0 if self.checkpointing else 0.0)
        return self.trained[stage] * (1.0 + backward)

    def passes(self, stage: int) -> float:
        """Return the cost of a sample of a stage, in forward passes."""
        return self.trained_passes(stage) + self.frozen[stage]


def step_costs(spec: PyramidSpec, full: LatentShape, dimensions: WanDimensions, work: Work, *, samples: int) -> list[StageStep]:
    """Return the cost of an optimiser step by stage, in running order.

    Args:
        spec: The pyramid.
        full: Size of the latents at full size.
        dimensions: Sizes of the transformer.
        work: Forward passes per sample.
        samples: Samples of each stage in an optimiser step.
    """
    steps = []
    for stage in schedule_cost(spec, full, [0] * spec.number_of_stages, dimensions):
        cost = samples * work.passes(stage.index) * stage.forward_tflops
        steps.append(StageStep(stage_name(stage.index, spec.number_of_stages), stage.shape, stage.tokens, samples, cost))
    return steps


def plain_tflops(steps: Sequence[StageStep], dimensions: WanDimensions, passes: float) -> float:
    """Return the TFLOPs of a step that trains a plain model: as many samples, all at full size, ``passes`` for each."""
    return sum(step.samples for step in steps) * passes * forward_tflops(steps[-1].tokens, dimensions)


def matching_work(
    forward: Sequence[float], scores: Sequence[float], steps: Sequence[int], *, updates: int, simulated: bool, lora: bool,
    checkpointing: bool,
) -> Work:  # fmt: skip
    """Return the average work of one DMD iteration.

    Every iteration trains the critic on a prediction of the student (one frozen pass, one trained pass). Every ``updates``-th
    also trains the student (one trained pass), which takes three frozen passes: the teacher with and without the prompt,
    and the critic. With simulated inputs each prediction also costs the student's steps before it.

    Args:
        forward: TFLOPs of a forward pass of the student, by stage in running order.
        scores: TFLOPs of a forward pass of teacher or critic on a prediction of each stage.
        steps: Steps of the student, by stage.
        updates: Iterations per update of the student.
        simulated: Whether the student predicts from its own run instead of from noised data.
        lora: Whether LoRA adapters are trained instead of all weights.
        checkpointing: Whether activations are recomputed in the backward pass.
    """
    trained, frozen = [], []
    for stage in range(len(steps)):
        score = scores[stage] / forward[stage]
        trained.append(score + 1 / updates)
        frozen.append(1 + 3 * score / updates + ((1 + 1 / updates) * _earlier(forward, steps, stage) if simulated else 0.0))
    return Work(trained, frozen, lora, checkpointing)


def _earlier(forward: Sequence[float], steps: Sequence[int], stage: int) -> float:
    """Return the student's forward passes before the last step in a stage, in units of a pass there."""
    return steps[stage] - 1 + sum(steps[k] * forward[k] for k in range(stage)) / forward[stage]


def adversarial_work(
    forward: Sequence[float], steps: Sequence[int], *, updates: int, simulated: bool, lora: bool, checkpointing: bool
) -> Work:
    """Return the average work of one iteration of adversarial distillation, without the small heads.

    Every iteration takes a prediction of the student and the frozen features of data and prediction. Every ``updates``-th also
    trains the student, whose gradient passes through the frozen features: a forward and a backward pass, and one more forward
    pass with checkpointing. With simulated inputs each prediction also costs the student's steps before it.

    Args:
        forward: TFLOPs of a forward pass, by stage in running order.
        steps: Steps of the student, by stage.
        updates: Iterations per update of the student.
        simulated: Whether the student predicts from its own run instead of from noised data.
        lora: Whether LoRA adapters are trained instead of all weights.
        checkpointing: Whether activations are recomputed in the backward pass.
    """
    through_features = 3 if checkpointing else 2
    frozen = [3 + through_features / updates] * len(steps)
    if simulated:
        frozen = [passes + (1 + 1 / updates) * _earlier(forward, steps, stage) for stage, passes in enumerate(frozen)]
    return Work([1 / updates] * len(steps), frozen, lora, checkpointing)


def parameters(dimensions: WanDimensions) -> int:
    """Return the number of parameters of a Wan text-to-video transformer."""
    d, patch = dimensions.dim, math.prod(PATCH_SHAPE)
    attention = 2 * (4 * d * d + 4 * d + 2 * d)
    feed_forward = 2 * d * dimensions.ffn_dim + dimensions.ffn_dim + d
    block = attention + feed_forward + 6 * d + 2 * d
    text = dimensions.text_dim * d + d + d * d + d
    time = 256 * d + d + d * d + d + 6 * (d * d + d)
    ends = dimensions.in_channels * patch * d + d + dimensions.out_channels * patch * (d + 1) + 2 * d
    return dimensions.layers * block + text + time + ends


def patch_parameters(dimensions: WanDimensions, cells: Sequence[tuple[int, int, int]]) -> int:
    """Return the number of parameters of the layers of coarse stages with these cells."""
    sizes = [math.prod(cell) * math.prod(PATCH_SHAPE) for cell in cells]
    inputs, outputs, d = dimensions.in_channels, dimensions.out_channels, dimensions.dim
    return sum(d * (inputs * size + 1) + outputs * size * (d + 1) for size in sizes)


def lora_parameters(dimensions: WanDimensions, rank: int, targets: Sequence[str]) -> int:
    """Return the number of parameters of a LoRA.

    Args:
        dimensions: Sizes of the transformer.
        rank: Rank of the LoRA.
        targets: diffusers' names of the adapted layers; a name that occurs in self- and cross-attention counts twice.
    """
    d, ffn = dimensions.dim, dimensions.ffn_dim
    sizes = {**dict.fromkeys(ATTENTION_LAYERS, 4 * d), **dict.fromkeys(MLP_LAYERS, d + ffn)}
    return dimensions.layers * rank * sum(sizes.get(target, 2 * d) for target in targets)


def state_gib(trained: int, frozen: int, *, ema: bool) -> float:
    """Return the memory of all fp32 state in GiB.

    Args:
        trained: Number of trained parameters; each has a weight, a gradient, AdamW's two moments and perhaps an average.
        frozen: Number of frozen parameters.
        ema: Whether averaged weights are kept.
    """
    return 4 * (trained * (4 + ema) + frozen) / GIB


def activation_gib(tokens: int, dimensions: WanDimensions, samples: int, *, checkpointing: bool) -> float:
    """Estimate the memory in GiB of the activations that one forward pass keeps for its backward pass.

    With checkpointing these are the input of every block and the inside of one; without it, the inside of all. The inside is
    estimated as 16 tensors of the model's width and two of the feed-forward's width.
    """
    d = dimensions.dim
    inside = 2 * (16 * d + 2 * dimensions.ffn_dim) + 4 * 4 * d
    kept = dimensions.layers * 2 * d + inside if checkpointing else dimensions.layers * inside
    return samples * tokens * kept / GIB
