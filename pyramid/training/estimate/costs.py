"""What training costs: TFLOPs and memory of an optimiser step, counted like those of sampling.

Conventions: a backward pass costs twice its forward pass for full finetuning, once for a LoRA (whose own weights are few);
checkpointing adds one forward pass; a teacher costs one where it is asked. Optimiser and text encoder are left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ...flops import PATCH, WanDimensions, forward_tflops, tokens
from ...latent_shape import LatentShape
from ...stage_names import stage_name
from ...stages import PyramidSpec

GIB = 2**30


@dataclass(frozen=True)
class StageStep:
    """One stage's share of an optimiser step. tflops: of all its samples in all processes."""

    name: str
    shape: LatentShape
    tokens: int
    samples: int
    tflops: float


@dataclass(frozen=True)
class Work:
    """What a recipe does with one sample of a stage, in forward passes: of a network that trains (with its backward pass),
    and of frozen ones without (by stage)."""

    trained: float
    frozen: Sequence[float]
    lora: bool
    checkpointing: bool

    @property
    def trained_passes(self) -> float:
        """Forward passes that cost as much as what is done with the networks that train."""
        backward = (1.0 if self.lora else 2.0) + (1.0 if self.checkpointing else 0.0)
        return self.trained * (1.0 + backward)

    def passes(self, stage: int) -> float:
        """Forward passes that cost as much as all of it."""
        return self.trained_passes + self.frozen[stage]


def step_costs(spec: PyramidSpec, full: LatentShape, dimensions: WanDimensions, work: Work, *, samples: int) -> list[StageStep]:
    """The cost of every stage in running order; samples: of each stage in a step, over all processes."""
    steps = []
    for index, shape in enumerate(spec.shapes(full)):
        count = tokens(shape)
        cost = samples * work.passes(index) * forward_tflops(count, dimensions)
        steps.append(StageStep(stage_name(index, spec.number_of_stages), shape, count, samples, cost))
    return steps


def plain_tflops(steps: Sequence[StageStep], dimensions: WanDimensions, passes: float) -> float:
    """The same number of samples, all at full size, with ``passes`` for each: what training a plain model would cost."""
    return sum(step.samples for step in steps) * passes * forward_tflops(steps[-1].tokens, dimensions)


def matching_work(
    tokens: Sequence[int], steps: Sequence[int], dimensions: WanDimensions, *, updates: int, simulated: bool, lora: bool,
    checkpointing: bool,
) -> Work:  # fmt: skip
    """Of a mean iteration of distribution matching: the critic learns from the student's prediction; in every ``updates``-th
    the student does too, from teacher (with and without the prompt) and critic. steps: of the student, by stage."""
    predictions = 1 + 1 / updates
    forward = [forward_tflops(count, dimensions) for count in tokens]
    frozen = []
    for stage, own in enumerate(steps):
        on_the_way = (own - 1) + sum(steps[k] * forward[k] for k in range(stage)) / forward[stage]
        frozen.append(1 + 3 / updates + (predictions * on_the_way if simulated else 0.0))
    return Work(predictions, frozen, lora, checkpointing)


def adversarial_work(stages: int, *, updates: int, lora: bool, checkpointing: bool) -> Work:
    """Of a mean iteration of adversarial distillation, the small heads left out: features of data and of a prediction; in
    every ``updates``-th iteration a prediction that trains, whose gradient comes back through the features."""
    through = 3 if checkpointing else 2
    return Work(1 / updates, [3 + through / updates] * stages, lora, checkpointing)


def parameters(dimensions: WanDimensions) -> int:
    """Weights of a Wan text-to-video transformer."""
    d, patch = dimensions.dim, PATCH[0] * PATCH[1] * PATCH[2]
    attention = 2 * (4 * d * d + 4 * d + 2 * d)
    feed_forward = 2 * d * dimensions.ffn_dim + dimensions.ffn_dim + d
    block = attention + feed_forward + 6 * d + 2 * d
    text = dimensions.text_dim * d + d + d * d + d
    time = 256 * d + d + d * d + d + 6 * (d * d + d)
    ends = dimensions.in_channels * patch * d + d + dimensions.out_channels * patch * (d + 1) + 2 * d
    return dimensions.layers * block + text + time + ends


def lora_parameters(dimensions: WanDimensions, rank: int, targets: Sequence[str]) -> int:
    """Weights of a LoRA on these modules of every block (those named alike in both attentions count twice)."""
    d, ffn = dimensions.dim, dimensions.ffn_dim
    sizes = {"to_q": 4 * d, "to_k": 4 * d, "to_v": 4 * d, "to_out.0": 4 * d, "ffn.net.0.proj": d + ffn, "ffn.net.2": d + ffn}
    return dimensions.layers * rank * sum(sizes.get(target, 2 * d) for target in targets)


def state_gib(trained: int, frozen: int, *, ema: bool) -> float:
    """Weights, gradients, AdamW's two moments and averages of what is trained, and frozen weights; all fp32."""
    return 4 * (trained * (4 + ema) + frozen) / GIB


def activation_gib(tokens: int, dimensions: WanDimensions, samples: int, *, checkpointing: bool) -> float:
    """About what one forward and backward pass keeps: a block's input for every layer, and everything inside of one block
    (of all of them without checkpointing). An estimate: 16 tensors of the model's width, two of the feed-forward's."""
    d = dimensions.dim
    inside = 2 * (16 * d + 2 * dimensions.ffn_dim) + 4 * 4 * d
    kept = dimensions.layers * 2 * d + inside if checkpointing else dimensions.layers * inside
    return samples * tokens * kept / GIB
