"""Train the tiny Wan VAE: the encoder to compute the patch code, the decoder to invert it.

    python -m tiny_wan.recipes.train_vae                       # start, or continue where the last one stopped
    python -m tiny_wan.recipes.train_vae --minutes 60          # one hour; run the same command again for the next
    python -m tiny_wan.recipes.train_vae --export tiny_wan/weights/tiny_wan_vae.safetensors

The two halves are separate regressions without common gradients: the latent space is given (`patch_code.py`), so neither
depends on the other, and no adversarial or KL term is needed to regularise it. In the last part of the recipe the decoder also
sees the encoder's latents, and learns to correct the encoder's errors. Both train on crops and on clips of full length, with
plain causal convolutions, which equal ComfyUI's chunks (`whole_clip.py`).
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, TypeVar

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from harness.in_process import ROOT
from harness.wan_modules import build_vae, latent_format
from pyramid.training.engine.ema import ExponentialMovingAverage
from pyramid.training.engine.schedules import learning_rate_factor

from ..worlds import SHAPES, World
from . import whole_clip
from .command_line import train_or_export
from .loop import drawn_ahead
from .patch_code import PatchCode
from .train_t2v import saved_code
from .training_state import Run

if TYPE_CHECKING:
    from comfy.ldm.wan.vae import WanVAE

STATE = ROOT / ".state" / "vae"
HALVES = ("decoder", "encoder")


@dataclass(frozen=True)
class Crop:
    """A training shape.

    Attributes:
        frames: Frames of the rendered clip.
        side: Height and width of the rendered clip, in pixels.
        crop: Height and width of the crop, in pixels.
        batch: Clips in a batch.
        weight: Relative frequency with which it is drawn.
    """

    frames: int
    side: int
    crop: int
    batch: int
    weight: float


@dataclass(frozen=True)
class Recipe:
    """Everything that determines the weights, except the machine."""

    world: ClassVar[World] = SHAPES
    dim: int = 8
    steps: int = 6_400  # decoder and encoder steps together
    encoder_share: float = 0.3  # of the steps
    crops: tuple[Crop, ...] = (
        Crop(9, 128, 64, 2, 6.0),
        Crop(17, 128, 64, 2, 1.5),
        Crop(17, 128, 128, 1, 0.25),
        Crop(9, 64, 64, 2, 1.0),
        Crop(5, 32, 32, 8, 0.5),
    )
    learning_rate: float = 5e-3  # of the convolutions, by Muon; a third of it for the rest, by AdamW
    warm_up: int = 200  # steps
    decay_share: float = 0.4  # the learning rate falls to zero over this last share
    encoder_latents_from: float = 0.6  # after this share of the steps every other decoder batch comes from the encoder
    ema_decay: float = 0.998
    seed: int = 1

    def build(self) -> WanVAE:
        """Build the network that training starts with."""
        vae = channels_last(build_vae(dim=self.dim))
        init_weights(vae, seed=self.seed)
        return vae


def init_weights(vae: nn.Module, *, seed: int) -> None:
    """Initialise variance-preserving convolutions, and zeros at the end of residual branches and attention.

    The network starts as its linear path.
    """
    generator = torch.Generator().manual_seed(seed)
    for name, value in vae.named_parameters():
        if name.endswith("gamma"):
            nn.init.ones_(value)
        elif name.endswith("bias"):
            nn.init.zeros_(value)
        elif name.endswith((".residual.6.weight", ".proj.weight")):
            nn.init.zeros_(value)
        else:
            nn.init.normal_(value, std=value[0].numel() ** -0.5, generator=generator)


def half_of(vae: nn.Module, half: str) -> dict[str, nn.Parameter]:
    """Return the parameters of one half, including its 1x1 convolution at the latent."""
    prefixes = ("encoder.", "conv1.") if half == "encoder" else ("decoder.", "conv2.")
    return {name: value for name, value in vae.named_parameters() if name.startswith(prefixes)}


Network = TypeVar("Network", bound=nn.Module)


def channels_last(vae: Network) -> Network:
    """Store the convolutions' weights channels last, which GPU kernels expect and which is 1.6 times as fast on a CPU."""
    for module in vae.modules():
        if isinstance(module, nn.Conv2d):
            module.weight.data = module.weight.data.contiguous(memory_format=torch.channels_last)
        elif isinstance(module, nn.Conv3d):
            module.weight.data = module.weight.data.contiguous(memory_format=torch.channels_last_3d)
    return vae


def matrix_of(weight: Tensor) -> Tensor:
    """Return a view of a channels-last convolution weight (out, in, ...) as (out, kernel * in)."""
    return weight.permute(0, *range(2, weight.ndim), 1).reshape(len(weight), -1)


class MatrixView:
    """Muon for convolutions: it requires matrices, so it steps on (out, kernel * in) views that share the weights' memory."""

    def __init__(self, weights: list[nn.Parameter], *, lr: float, momentum: float, weight_decay: float):
        self.weights = weights
        self.matrices = [nn.Parameter(matrix_of(weight.data)) for weight in weights]
        self.optimizer = torch.optim.Muon(
            self.matrices, lr=lr, momentum=momentum, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw"
        )

    def step(self) -> None:
        """Step on the weights' gradients."""
        for weight, matrix in zip(self.weights, self.matrices, strict=True):
            assert weight.grad is not None, "step follows backward"
            matrix.grad = matrix_of(weight.grad)
        self.optimizer.step()


@dataclass(frozen=True)
class Optimizer:
    """The two optimisers of one half."""

    muon: MatrixView
    adamw: torch.optim.Optimizer
    learning_rate: float

    @staticmethod
    def of(parameters: dict[str, nn.Parameter], *, learning_rate: float) -> Optimizer:
        """Build Muon for convolutions and AdamW for the rest."""
        matrices = [value for value in parameters.values() if value.ndim > 1 and value.numel() > 8 * len(value)]
        chosen = {id(value) for value in matrices}
        rest = [value for value in parameters.values() if id(value) not in chosen]
        muon = MatrixView(matrices, lr=learning_rate, momentum=0.95, weight_decay=0.0)
        return Optimizer(
            muon, torch.optim.AdamW(rest, lr=learning_rate / 3, betas=(0.9, 0.99), weight_decay=0.0), learning_rate
        )

    def step(self, factor: float) -> None:
        """Step with the learning rate times the schedule's factor."""
        for optimizer, rate in ((self.muon.optimizer, self.learning_rate), (self.adamw, self.learning_rate / 3)):
            for group in optimizer.param_groups:
                group["lr"] = rate * factor
        self.muon.step()
        self.adamw.step()

    def state(self) -> list[dict]:
        """Return the state to save."""
        return [self.muon.optimizer.state_dict(), self.adamw.state_dict()]

    def load(self, state: list[dict]) -> None:
        """Continue from a saved state."""
        self.muon.optimizer.load_state_dict(state[0])
        self.adamw.load_state_dict(state[1])


def draw_video(step: int, recipe: Recipe) -> Tensor:
    """Draw the clips of a step, (B, 3, T, H, W) in -1..1, with every random choice from (recipe.seed, step)."""
    rng = np.random.default_rng(np.random.SeedSequence([recipe.seed, 3, step]))
    weights = np.array([crop.weight for crop in recipe.crops])
    shape = recipe.crops[rng.choice(len(weights), p=weights / weights.sum())]
    scenes = [recipe.world.scene_at(step * 16 + row, seed=recipe.seed + 1) for row in range(shape.batch)]
    video = recipe.world.render(scenes, frames=shape.frames, height=shape.side, width=shape.side)
    top, left = rng.integers(0, (shape.side - shape.crop) // 8 + 1, 2) * 8
    return video[..., top : top + shape.crop, left : left + shape.crop].contiguous()


def half_at(step: int, recipe: Recipe) -> str:
    """Return the half that a step trains; the encoder's steps are evenly distributed."""
    share = recipe.encoder_share
    return "encoder" if math.floor((step + 1) * share) > math.floor(step * share) else "decoder"


def half_loss(vae: WanVAE, video: Tensor, half: str, *, code: PatchCode, encoder_latents: bool) -> Tensor:
    """Return the mean squared error, of the latents for the encoder and of the video for the decoder: ().

    Args:
        vae: The network.
        video: Clips (B, 3, T, H, W) in -1..1.
        half: "encoder" or "decoder".
        code: The code that defines the latents.
        encoder_latents: Whether the decoder sees the encoder's latents instead of the code's.
    """
    latents, video = code.latents(video), video.contiguous(memory_format=torch.channels_last_3d)
    with torch.autocast(video.device.type, torch.bfloat16):
        if half == "encoder":
            return (whole_clip.encode(vae, video).float() - latents).square().mean()
        if encoder_latents:
            with torch.no_grad():
                latents = whole_clip.encode(vae, video)
        latents = latents.contiguous(memory_format=torch.channels_last_3d)
        return (whole_clip.decode(vae, latents).float() - video).square().mean()


def psnr(video: Tensor, reference: Tensor) -> Tensor:
    """Return the peak signal-to-noise ratio of each clip in dB, (B,); the range -1..1 has a peak of 2."""
    return 10.0 * torch.log10(4.0 / (video - reference).square().flatten(1).mean(dim=1))


@torch.no_grad()
def held_out(
    vae: WanVAE,
    code: PatchCode,
    *,
    clips: int = 2,
    frames: int = 17,
    side: int = 128,
    seed: int = 4242,
    world: World = SHAPES,
) -> dict[str, float]:
    """Measure the quality on whole clips that no training stream contains.

    Returns:
        psnr_code: dB of the decoder on the code's latents. psnr: dB of encoder and decoder. encoder_error: root mean square
        error of the encoder's latents, relative to their standard deviation.
    """
    device = next(vae.parameters()).device
    scenes = [world.scene_at(row, seed=seed) for row in range(clips)]
    video = world.render(scenes, frames=frames, height=side, width=side).to(device)
    latents, encoded = code.latents(video), whole_clip.encode(vae, video)
    return {
        "psnr_code": psnr(whole_clip.decode(vae, latents).clamp(-1, 1), video).mean().item(),
        "psnr": psnr(whole_clip.decode(vae, encoded).clamp(-1, 1), video).mean().item(),
        "encoder_error": ((encoded - latents).square().mean() / latents.var()).sqrt().item(),
    }


@dataclass
class Trainer:
    """The state of a run: weights, averages, optimisers, steps and seconds."""

    recipe: Recipe
    vae: WanVAE
    average: ExponentialMovingAverage
    optimizers: dict[str, Optimizer]
    step: int = 0
    seconds: float = 0.0

    @staticmethod
    def start(recipe: Recipe, device: torch.device) -> Trainer:
        """Build the network, its averages and its optimisers."""
        vae = recipe.build().to(device)
        optimizers = {half: Optimizer.of(half_of(vae, half), learning_rate=recipe.learning_rate) for half in HALVES}
        average = ExponentialMovingAverage(dict(vae.named_parameters()), decay=recipe.ema_decay)
        return Trainer(recipe, vae, average, optimizers)

    def state(self) -> dict:
        """Return the state to save."""
        return {
            "model": self.vae.state_dict(), "average": self.average.values, "step": self.step, "seconds": self.seconds,
            "optimizers": {half: optimizer.state() for half, optimizer in self.optimizers.items()},
        }  # fmt: skip

    def load(self, state: dict) -> None:
        """Continue from a saved state."""
        self.vae.load_state_dict(state["model"])
        self.average.load(state["average"])
        for half, optimizer in self.optimizers.items():
            optimizer.load(state["optimizers"][half])
        self.step, self.seconds = state["step"], state["seconds"]

    def train_step(self, video: Tensor, code: PatchCode) -> tuple[str, float]:
        """Run one step of the half whose turn it is, and return its name and loss."""
        half = half_at(self.step, self.recipe)
        encoder_latents = self.step % 2 == 1 and self.step > self.recipe.encoder_latents_from * self.recipe.steps
        loss = half_loss(self.vae, video, half, code=code, encoder_latents=encoder_latents)
        loss.backward()
        nn.utils.clip_grad_norm_(half_of(self.vae, half).values(), 1.0)
        recipe = self.recipe
        factor = learning_rate_factor(self.step, steps=recipe.steps, warm_up=recipe.warm_up, decay_share=recipe.decay_share)
        self.optimizers[half].step(factor)
        self.vae.zero_grad(set_to_none=True)
        self.average.update(self.step)
        self.step += 1
        return half, loss.item()


def train(recipe: Recipe, run: Run, *, device: torch.device, seconds: float, workers: int = 0, report_every: int = 500) -> None:
    """Train until the recipe's last step or for `seconds`, whichever comes first, and save."""
    trainer, saved = Trainer.start(recipe, device), run.open(recipe)
    if saved:
        trainer.load(saved)
    code, losses = saved_code(run.folder, seed=recipe.seed).to(device), {half: [] for half in HALVES}
    began, before = time.monotonic(), trainer.seconds
    for video in drawn_ahead(lambda step: draw_video(step, recipe), trainer.step, recipe.steps, workers=workers):
        half, loss = trainer.train_step(video.to(device), code)
        losses[half].append(loss)
        trainer.seconds = before + time.monotonic() - began
        if trainer.step % report_every == 0:
            averaged = averaged_vae(trainer.average.values, dim=recipe.dim).to(device)
            means = {half: float(np.mean(values)) for half, values in losses.items() if values}
            report = {"step": trainer.step, "minutes": trainer.seconds / 60} | means
            run.report(report | held_out(averaged, code, world=recipe.world))
            losses = {half: [] for half in HALVES}
        run.save(trainer.state)
        if time.monotonic() - began > seconds:
            break
    run.save(trainer.state, force=True)


def averaged_vae(values: dict[str, Tensor], *, dim: int) -> WanVAE:
    """Build a network with the averaged weights."""
    vae = build_vae(dim=dim)
    vae.load_state_dict(values)
    return vae.requires_grad_(False)


@torch.no_grad()
def fold_latent_format(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Fold ComfyUI's per-channel mean and deviation of latents into the two 1x1 convolutions, and return the new weights.

    ComfyUI computes model = (latent - mean) / std. The encoder's last convolution must therefore return std * model + mean, and
    the decoder's first one invert it: W ((z - mean) / std) + b = (W / std) z + (b - W (mean / std)).
    """
    constants = latent_format()
    mean, std = constants.latents_mean.flatten(), constants.latents_std.flatten()
    channels, folded = len(mean), dict(weights)
    out, bias = weights["conv1.weight"].clone(), weights["conv1.bias"].clone()
    out[:channels] *= std[:, None, None, None, None]
    bias[:channels] = bias[:channels] * std + mean
    into = weights["conv2.weight"] / std[None, :, None, None, None]
    folded |= {"conv1.weight": out, "conv1.bias": bias, "conv2.weight": into}
    folded["conv2.bias"] = weights["conv2.bias"] - into.flatten(1) @ mean
    return folded


@torch.no_grad()
def unfold_latent_format(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Invert `fold_latent_format`: return the weights of a VAE file as they are trained."""
    constants = latent_format()
    mean, std = constants.latents_mean.flatten(), constants.latents_std.flatten()
    channels, unfolded = len(mean), dict(weights)
    out, bias = weights["conv1.weight"].clone(), weights["conv1.bias"].clone()
    out[:channels] /= std[:, None, None, None, None]
    bias[:channels] = (bias[:channels] - mean) / std
    unfolded |= {"conv1.weight": out, "conv1.bias": bias}
    unfolded["conv2.weight"] = weights["conv2.weight"] * std[None, :, None, None, None]
    unfolded["conv2.bias"] = weights["conv2.bias"] + weights["conv2.weight"].flatten(1) @ mean
    return unfolded


def export(run: Run, path: Path) -> None:
    """Write the averaged weights in ComfyUI's layout and convention, in fp16."""
    state = torch.load(run.folder / "state.pt", map_location="cpu", weights_only=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    weights = {name: value.half().contiguous() for name, value in fold_latent_format(state["average"]).items()}
    save_file(weights, path, metadata={"steps": str(state["step"]), "hours": f"{state['seconds'] / 3600:.2f}"})
    print(f"{path}: {path.stat().st_size / 2**20:.2f} MiB after {state['step']} steps")


def main(description: str, recipe: Recipe, state: Path) -> None:
    """Train or export as the command line says; see ``train_or_export``."""
    train_or_export(description, state, train=partial(train, recipe), export=export)


if __name__ == "__main__":
    main(__doc__ or "", Recipe(), STATE)
