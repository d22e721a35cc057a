"""The settings that finetuning and distillation share, with units and the sources of their defaults.

"PW" is PyramidalWan (arXiv 2601.04792); "guess" marks values about which nothing was published.
"""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from ...flops import WAN_DIMENSIONS
from ...key_names import LINEAR_LAYERS
from ...latent_shape import VAE_SPACE, VAE_TIME, LatentShape, video_frames
from ...stages import COARSE, FIRST_FRAME, ROPE, TIMESTEP_SOURCES, TRAINING_PRESETS, PyramidSpec
from .toml_config import Section

MAX_NAME = 4096
"""Characters of the longest path."""


def _check_name(name: str) -> str:
    if not name.strip():
        raise ValueError("a path must not be empty")
    if not name.isprintable():
        raise ValueError("a path must not hold control characters or line breaks")
    return name


def _as_text(value: Any) -> Any:
    """Return a whole number as text: the steps of a pyramid of one stage look like one."""
    return str(value) if type(value) is int else value


def _check_model_size(name: str) -> str:
    if name not in WAN_DIMENSIONS:
        raise ValueError(f"expected {' or '.join(WAN_DIMENSIONS)}")
    return name


Share = Annotated[float, Field(ge=0.0, le=1.0)]
Decay = Annotated[float, Field(ge=0.0, lt=1.0)]
Name = Annotated[str, Field(max_length=MAX_NAME), AfterValidator(_check_name)]
"""The path of a file or folder."""
ModelSize = Annotated[str, AfterValidator(_check_model_size)]
"""A size of Wan whose dimensions are known."""
StageSteps = Annotated[str, BeforeValidator(_as_text)]
"""The steps of every stage, low to high resolution: "20-20-10"."""


class Pyramid(Section):
    """The pyramid that the weights are trained for: a preset, and the settings that differ from it."""

    preset: str = Field(default="pyramidal-wan", description=f"one of {', '.join(TRAINING_PRESETS)}")
    boundaries: tuple[float, ...] | None = Field(
        default=None, description="natural noise levels at the transitions, descending"
    )
    downsample_axes: tuple[str, ...] | None = Field(
        default=None, description='axes that are halved at each transition: "THW", "HW" or "T"; or "HW 2/3"'
    )
    resize: str | None = Field(default=None, description="haar, dct, or an orthogonal wavelet of PyWavelets")
    field: str | None = Field(default=None, description="pyramidal, or natural: the ordinary flow at every stage's size")
    timestep_source: str | None = Field(
        default=None, description=f"noise level that the network is conditioned on: {', '.join(TIMESTEP_SOURCES)}"
    )
    first_frame: str | None = Field(default=None, description=f"noise levels of latent frame 0: {', '.join(FIRST_FRAME)}")
    rope: str | None = Field(default=None, description=f"positions: {', '.join(ROPE)}")
    coarse: str | None = Field(
        default=None, description=f"what is coarser in the early stages: {', '.join(COARSE)}; patches go with preset 'ppf'"
    )

    @model_validator(mode="after")
    def _check_pyramid(self) -> Pyramid:
        if self.preset not in TRAINING_PRESETS:
            raise ValueError(f"unknown preset '{self.preset}'; expected {', '.join(TRAINING_PRESETS)}")
        self.spec()
        return self

    def spec(self) -> PyramidSpec:
        """Return the preset with the settings that differ from it."""
        changes = {name: value for name, value in self if name != "preset" and value is not None}
        return dataclasses.replace(TRAINING_PRESETS[self.preset], **changes)


class Video(Section):
    """Size of the training videos at full resolution."""

    width: PositiveInt = Field(default=832, le=8192, description="pixels (PW)")
    height: PositiveInt = Field(
        default=448, le=8192, description="pixels (PW: 448 instead of 480, which cannot be halved twice)"
    )
    frames: PositiveInt = Field(default=81, le=4097, description="pixel frames, 4k+1 (PW)")

    @model_validator(mode="after")
    def _check_size(self) -> Video:
        if self.width % VAE_SPACE or self.height % VAE_SPACE or self.frames % VAE_TIME != 1:
            near = [max(1, round(side / VAE_SPACE)) * VAE_SPACE for side in (self.width, self.height)]
            frames = video_frames(1 + max(0, round((self.frames - 1) / VAE_TIME)))
            raise ValueError(
                f"{self.width}x{self.height}, {self.frames} frames does not fit Wan's VAE: sides must be multiples of 8 and "
                f"frames 4k+1; the nearest is {near[0]}x{near[1]}, {frames} frames"
            )
        return self

    def check_fits(self, pyramid: Pyramid) -> None:
        """Check that a pyramid can halve these videos.

        Raises:
            ValueError: It cannot.
        """
        try:
            pyramid.spec().shapes(self.latent)
        except ValueError as error:
            raise ValueError(
                f"video.width {self.width}, video.height {self.height} and video.frames {self.frames} do not fit the pyramid: "
                f"{error}"
            ) from None

    @property
    def latent(self) -> LatentShape:
        """Return the size of the videos' latents."""
        return LatentShape.of_video(self.frames, self.height, self.width)


class Model(Section):
    """The network to start from."""

    transformer: Name = Field(description="diffusers folder, or one .safetensors file of Wan or ComfyUI; unquantised T2V")
    size: ModelSize = Field(default="1.3B", description="1.3B or 14B: for the estimates of --dry-run before the file exists")
    gradient_checkpointing: bool = Field(default=True, description="recompute activations: a third more time, far less memory")


class Data(Section):
    """Cached latents and text embeddings."""

    cache: Name = Field(description="folder written by 'python -m pyramid.training cache'")
    held_out: NonNegativeInt = Field(
        default=32, le=1_000_000, description="number of items at the end of the cache that are kept for validation"
    )
    workers: NonNegativeInt = Field(
        default=2, le=256, description="processes that load batches ahead; 0 loads them in the training process"
    )


class Optimizer(Section):
    """AdamW with a linear warm-up, a constant learning rate and an optional linear decay."""

    learning_rate: PositiveFloat = Field(
        default=1e-5, le=0.1, description="guess: between Pyramidal Flow's 5e-5 and distillation's 1e-6"
    )
    warm_up: NonNegativeInt = Field(default=200, le=10_000_000, description="optimiser steps (guess)")
    decay_share: Share = Field(
        default=0.0, description="last share of all steps over which the learning rate falls to 0; 0 keeps it constant (guess)"
    )
    betas: tuple[Decay, Decay] = Field(default=(0.9, 0.99), description="of AdamW (guess)")
    weight_decay: NonNegativeFloat = Field(default=0.01, le=10.0, description="of AdamW (guess)")
    clip: PositiveFloat = Field(default=1.0, le=1e6, description="maximum norm of the gradient (guess)")
    ema: Decay = Field(
        default=0.999,
        description="decay of the moving average of the weights, which is exported; 0 exports the last weights (guess)",
    )


class Adapter(Section):
    """The trained weights: all of the network's, or a LoRA."""

    kind: Literal["full", "lora"] = Field(default="full", description="PW finetunes all weights; LoRA for small machines")
    rank: PositiveInt = Field(default=128, le=4096, description="of a LoRA (SwD's value for Wan, arXiv 2503.16397)")
    alpha: PositiveFloat | None = Field(
        default=None, le=65536.0, description="of a LoRA; default: the rank, which makes its scale 1"
    )
    scope: Literal["shared", "per-stage"] = Field(default="shared", description="one LoRA for all stages, or one for each")
    targets: tuple[str, ...] = Field(
        default=LINEAR_LAYERS,
        min_length=1,
        max_length=64,
        description="modules with a LoRA, by diffusers' names",
    )


class System(Section):
    """Settings of the execution; they change the result only by rounding."""

    precision: Literal["fp32", "bf16"] = Field(default="bf16", description="of the arithmetic; weights and optimiser stay fp32")
    parallel: Literal["ddp", "fsdp2"] = Field(
        default="ddp", description="with several processes: a copy of the weights in each, or shards"
    )
    device: Literal["auto", "cpu"] = Field(default="auto", description="auto uses an accelerator if there is one")


class Keep(Section):
    """Checkpoints and logs."""

    save_every: PositiveInt = Field(default=250, le=10_000_000, description="optimiser steps between checkpoints")
    checkpoints: PositiveInt = Field(
        default=3, le=10_000, description="number of newest checkpoints to keep, besides the best one"
    )
    log_every: PositiveInt = Field(default=10, le=10_000_000, description="optimiser steps between lines of the log")
    explode: float = Field(default=8.0, gt=1.0, le=1e9, description="stop when the loss is this many times its running mean")


class Validation(Section):
    """Held-out loss and samples, both of the averaged weights."""

    every: PositiveInt = Field(default=500, le=10_000_000, description="optimiser steps")
    videos: NonNegativeInt = Field(default=2, le=1000, description="number of held-out prompts to sample")
    steps: StageSteps = Field(default="20-20-10", description="of the samples, low to high resolution")
    cfg: NonNegativeFloat = Field(default=5.0, le=100.0, description="of the samples (Wan's default is 5 to 6)")
    vae: Name | None = Field(default=None, description="Wan VAE that decodes the samples to mp4; default: save latents")
