"""The settings that finetuning and distillation share. Every one says its unit and where its default comes from.

"PW" is PyramidalWan (arXiv 2601.04792); "guess" is what nothing was published about.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from ...latent_shape import LatentShape
from ...stages import FIRST_FRAME, PRESETS, RESIZES, ROPE, TIMESTEP_SOURCES, PyramidSpec
from .toml_config import Section

Positive = Annotated[int, Field(gt=0)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]
Rate = Annotated[float, Field(gt=0.0)]
Weight = Annotated[float, Field(ge=0.0)]


class Pyramid(Section):
    """Which pyramid the weights are for: a preset, and what differs from it."""

    preset: str = Field(default="pyramidal-wan", description=f"one of {', '.join(PRESETS)}")
    boundaries: tuple[float, ...] | None = Field(default=None, description="natural noise levels at the transitions, falling")
    downsample_axes: tuple[str, ...] | None = Field(
        default=None, description='axes that shrink at each transition: "THW", "HW" or "T"'
    )
    resize: str | None = Field(default=None, description="haar, dct, or an orthogonal wavelet of PyWavelets")
    field: str | None = Field(default=None, description="pyramidal, or natural: the ordinary flow at every stage's size")
    timestep_source: str | None = Field(default=None, description=f"what the network is told: {', '.join(TIMESTEP_SOURCES)}")
    first_frame: str | None = Field(default=None, description=f"levels of latent frame 0: {', '.join(FIRST_FRAME)}")
    rope: str | None = Field(default=None, description=f"positions: {', '.join(ROPE)}")

    @model_validator(mode="after")
    def _is_a_pyramid(self) -> Pyramid:
        if self.preset not in PRESETS:
            raise ValueError(f"preset {self.preset!r} is none of {', '.join(PRESETS)}")
        if self.resize is not None and self.resize not in RESIZES:
            raise ValueError(f"resize {self.resize!r} is none of haar, dct and PyWavelets' orthogonal ones")
        self.spec()
        return self

    def spec(self) -> PyramidSpec:
        own = {name: value for name, value in self if name != "preset" and value is not None}
        base = PRESETS[self.preset]
        return PyramidSpec(**{**{name: getattr(base, name) for name in base.__dataclass_fields__}, **own})


class Video(Section):
    """Size of the training videos at full resolution."""

    width: Positive = Field(default=832, description="pixels (PW)")
    height: Positive = Field(default=448, description="pixels (PW: 448 instead of 480, so that it halves)")
    frames: Positive = Field(default=81, description="pixel frames, 4k+1 (PW)")

    @model_validator(mode="after")
    def _is_a_latent(self) -> Video:
        if self.width % 8 or self.height % 8 or self.frames % 4 != 1:
            near = [max(8, round(side / 8) * 8) for side in (self.width, self.height)]
            frames = 4 * max(0, round((self.frames - 1) / 4)) + 1
            raise ValueError(
                f"a video of {self.width}x{self.height}, {self.frames} frames does not fit Wan's VAE (sides by 8, frames "
                f"4k+1); the nearest that does is {near[0]}x{near[1]}, {frames} frames"
            )
        return self

    @property
    def latent(self) -> LatentShape:
        return LatentShape.of_video(self.frames, self.height, self.width)


class Model(Section):
    """The network to start from."""

    transformer: str = Field(description="diffusers folder, or one .safetensors file of Wan or ComfyUI; unquantised T2V")
    size: str = Field(default="1.3B", description="1.3B or 14B: for the estimates of --dry-run where the file is not there yet")
    gradient_checkpointing: bool = Field(default=True, description="recompute activations: a third more time, far less memory")


class Data(Section):
    """Cached latents and text embeddings."""

    cache: str = Field(description="folder that 'python -m pyramid.training cache' wrote")
    held_out: Annotated[int, Field(ge=0)] = Field(default=32, description="last items of the cache, kept for validation")
    workers: Annotated[int, Field(ge=0)] = Field(
        default=2, description="processes that read ahead; 0 reads in the training process"
    )


class Optimizer(Section):
    """AdamW with a linear warm-up, then a constant rate."""

    learning_rate: Rate = Field(default=1e-5, description="guess: between Pyramidal Flow's 5e-5 and distillation's 1e-6")
    warm_up: Annotated[int, Field(ge=0)] = Field(default=200, description="optimiser steps (guess)")
    decay_share: Share = Field(
        default=0.0, description="last share of all steps over which the rate falls to 0; 0 keeps it (guess)"
    )
    betas: tuple[float, float] = Field(default=(0.9, 0.99), description="of AdamW (guess)")
    weight_decay: Weight = Field(default=0.01, description="of AdamW (guess)")
    clip: Rate = Field(default=1.0, description="largest norm of the gradient (guess)")
    ema: Share = Field(
        default=0.999, description="decay of the averaged weights that are exported; 0 exports the last ones (guess)"
    )


class Adapter(Section):
    """What is trained: all weights, or a LoRA beside them."""

    kind: Literal["full", "lora"] = Field(default="full", description="PW finetunes all weights; LoRA for small machines")
    rank: Positive = Field(default=128, description="of a LoRA (SwD's value for Wan, arXiv 2503.16397)")
    alpha: Rate | None = Field(default=None, description="of a LoRA; not set is the rank, so that its factor is 1")
    scope: Literal["shared", "per-stage"] = Field(default="shared", description="one LoRA for all stages, or one for each")
    targets: tuple[str, ...] = Field(
        default=("to_q", "to_k", "to_v", "to_out.0", "ffn.net.0.proj", "ffn.net.2"),
        description="diffusers' module names that get one",
    )


class System(Section):
    """How it runs; nothing here changes what is learnt, beyond rounding."""

    precision: Literal["fp32", "bf16"] = Field(default="bf16", description="of the arithmetic; weights and optimiser stay fp32")
    parallel: Literal["ddp", "fsdp2"] = Field(
        default="ddp", description="several processes: a copy in each, or weights in shards"
    )
    device: Literal["auto", "cpu"] = Field(default="auto", description="auto takes the accelerator where there is one")


class Keep(Section):
    """What is written while it trains. Files appear complete or not at all."""

    save_every: Positive = Field(default=250, description="optimiser steps between checkpoints")
    checkpoints: Positive = Field(default=3, description="newest checkpoints that stay; the best one stays besides")
    log_every: Positive = Field(default=10, description="optimiser steps between lines of the log")
    explode: Rate = Field(default=8.0, description="stop when the loss is this many times its running mean")


class Validation(Section):
    """Held-out loss, and videos that the averaged weights make."""

    every: Positive = Field(default=500, description="optimiser steps")
    videos: Annotated[int, Field(ge=0)] = Field(default=2, description="prompts of held-out items to sample; 0 samples none")
    steps: str = Field(default="20-20-10", description="of the samples, low to high resolution")
    cfg: Weight = Field(default=5.0, description="of the samples (Wan's default is 5 to 6)")
    vae: str | None = Field(default=None, description="Wan VAE that decodes the samples to mp4; not set keeps them as latents")
