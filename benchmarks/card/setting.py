"""The models, latents and prompts of a run: real dimensions with random weights made on the device, or the tiny Wan."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from harness.in_process import pack_module
from pyramid.flops import WAN_DIMENSIONS, WanDimensions
from pyramid.sizes import VideoSize
from tiny_wan.checkpoints import TEXT_DIM, transformer_shapes, vae_shapes

TINY = WanDimensions(dim=128, ffn_dim=256, layers=2)


@dataclass(frozen=True)
class Setting:
    """The models and sizes of a measurement.

    Attributes:
        tiny: Whether to measure the tiny Wan, to try the script out.
        checkpoint: File of a real 1.3B transformer; None for random weights.
    """

    tiny: bool
    checkpoint: Path | None = None

    @property
    def size(self) -> VideoSize:
        """Return the size of the video."""
        return VideoSize(width=128, height=128, frames=17) if self.tiny else VideoSize(width=832, height=448, frames=81)

    @property
    def dimensions(self) -> WanDimensions:
        """Return the sizes of the small transformer."""
        return TINY if self.tiny else WAN_DIMENSIONS["1.3B"]

    @property
    def large_dimensions(self) -> WanDimensions:
        """Return the sizes of the experts' transformers."""
        return TINY if self.tiny else WAN_DIMENSIONS["14B"]

    @property
    def device(self) -> torch.device:
        """Return the device that ComfyUI computes on."""
        import comfy.model_management

        return comfy.model_management.get_torch_device()

    @functools.cached_property
    def model(self) -> Any:
        """Return the MODEL of the small transformer in bfloat16."""
        import comfy.sd

        if self.checkpoint is not None:
            return comfy.sd.load_diffusion_model(str(self.checkpoint), model_options={"dtype": torch.bfloat16})
        return load(self.weights(self.dimensions, torch.bfloat16, seed=0), torch.bfloat16)

    def expert(self, seed: int) -> Any:
        """Return a large MODEL, in fp8 except for the tiny one."""
        dtype = torch.bfloat16 if self.tiny else torch.float8_e4m3fn
        return load(self.weights(self.large_dimensions, dtype, seed=seed), dtype)

    def vae(self) -> Any:
        """Return a VAE with random weights of the released one's widths, of the tiny one's in a tiny run."""
        import comfy.sd

        shapes = vae_shapes(4 if self.tiny else 96)
        return comfy.sd.VAE(sd=dict(random_weights(shapes, self.device, torch.bfloat16, seed=3)))

    def weights(self, dimensions: WanDimensions, dtype: torch.dtype, *, seed: int) -> dict[str, Tensor]:
        """Return random weights of a transformer, made on the device."""
        shapes = transformer_shapes(dim=dimensions.dim, ffn_dim=dimensions.ffn_dim, layers=dimensions.layers)
        return dict(random_weights(shapes, self.device, dtype, seed=seed))

    def prompt(self) -> list:
        """Return CONDITIONING of the length that Wan's text encoder pads to."""
        tokens = 32 if self.tiny else 512
        return [[torch.randn(1, tokens, TEXT_DIM, generator=torch.Generator().manual_seed(1)), {}]]

    def latent(self, batch: int = 1) -> dict:
        """Return an empty LATENT."""
        return {"samples": torch.zeros(batch, 16, *self.size.latent)}


def random_weights(
    shapes: Iterator[tuple[str, tuple[int, ...]]], device: torch.device, dtype: torch.dtype, *, seed: int
) -> Iterator[tuple[str, Tensor]]:
    """Yield random weights on a device, scaled so that activations keep the size of their inputs; vectors stay in bfloat16."""
    generator = torch.Generator(device).manual_seed(seed)
    for name, shape in shapes:
        noise = torch.randn(shape, generator=generator, device=device, dtype=torch.bfloat16)
        if name.endswith("bias"):
            yield name, 0.1 * noise
        elif name.endswith("gamma") or len(shape) == 1:
            yield name, 1 + 0.1 * noise
        else:
            fan_in = shape[-1] if name.endswith("modulation") else noise[0].numel()
            yield name, noise.mul_(fan_in**-0.5).to(dtype if noise.ndim == 2 else torch.bfloat16)


def load(weights: dict[str, Tensor], dtype: torch.dtype) -> Any:
    """Return the MODEL of these weights, which ComfyUI keeps in a dtype."""
    import comfy.sd

    model = comfy.sd.load_diffusion_model_state_dict(weights, model_options={"dtype": dtype})
    assert model is not None, "ComfyUI does not recognise the weights"
    return model


def preset(name: str) -> Any:
    """Return a preset pyramid of the pack."""
    return pack_module("pyramid.stages").PRESETS[name]
