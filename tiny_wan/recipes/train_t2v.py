"""Train the tiny Wan 2.1 text-to-video transformer by flow matching on several resolutions and lengths.

    python -m tiny_wan.recipes.train_t2v                       # start, or continue where the last one stopped
    python -m tiny_wan.recipes.train_t2v --minutes 60          # one hour; run the same command again for the next
    python -m tiny_wan.recipes.train_t2v --export tiny_wan/weights/tiny_wan_t2v.safetensors

The same command runs on a GPU (minutes) and on a CPU (hours). As in Wan, x = (1 - sigma) clean + sigma noise, the target is
noise - clean, the network is conditioned on 1000 sigma, and sigma is drawn uniformly and then shifted towards noise.
Clean latents are the patch code (`patch_code.py`), which the tiny VAE is trained to compute, of clips that are rendered on the
fly at each size: every sample is new, and a smaller stage sees the encoding of the smaller *video*.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from harness.in_process import ROOT
from harness.wan_modules import build_transformer, differentiable
from pyramid.latent_shape import VAE_SPACE, video_frames
from pyramid.training.engine.atomic import atomic_file
from pyramid.training.engine.ema import ExponentialMovingAverage
from pyramid.training.engine.schedules import learning_rate_factor

from ..worlds import SHAPES, World
from .command_line import train_or_export
from .loop import drawn_ahead
from .patch_code import PatchCode, fit
from .training_state import Run

if TYPE_CHECKING:
    from comfy.ldm.wan.model import WanModel

STATE = ROOT / ".state" / "t2v"


@dataclass(frozen=True)
class Size:
    """A training shape.

    Attributes:
        frames: Latent frames.
        side: Latent height and width.
        batch: Clips in a batch.
        weight: Relative frequency with which it is drawn.
    """

    frames: int
    side: int
    batch: int
    weight: float

    @property
    def video(self) -> tuple[int, int]:
        """Frames and side of the video, in pixels."""
        return video_frames(self.frames), VAE_SPACE * self.side


@dataclass(frozen=True)
class Phase:
    """A number of optimiser steps on a mix of sizes."""

    steps: int
    sizes: tuple[Size, ...]


@dataclass(frozen=True)
class Recipe:
    """Everything that determines the weights, except the machine."""

    world: ClassVar[World] = SHAPES
    code_seed: ClassVar[int] = 1  # of the patch code, which is the same for all weights
    dim: int = 128
    ffn_dim: int = 512
    layers: int = 6
    phases: tuple[Phase, ...] = (
        Phase(12_500, (Size(5, 8, 16, 5.0), Size(3, 8, 16, 2.0), Size(2, 4, 32, 1.5), Size(5, 16, 8, 1.5))),
        Phase(
            8_000,
            (
                Size(5, 16, 8, 6.0),
                Size(3, 16, 8, 0.5),
                Size(5, 8, 16, 1.5),
                Size(3, 8, 16, 1.0),
                Size(2, 4, 32, 0.5),
                Size(9, 16, 4, 0.5),
            ),
        ),
    )
    learning_rate: float = 5e-3  # of the matrices inside the blocks, by Muon
    outer_learning_rate: float = 1.5e-3  # of everything else, by AdamW
    warm_up: int = 300  # steps
    decay_share: float = 0.3  # the learning rate falls to zero over this last share of all steps
    weight_decay: float = 0.01
    clip_norm: float = 1.0
    sigma_shift: float = 3.0
    drop_prompt: float = 0.1
    ema_decay: float = 0.9995
    seed: int = 1

    @property
    def steps(self) -> int:
        """Optimiser steps of all phases."""
        return sum(phase.steps for phase in self.phases)

    def build(self) -> WanModel:
        """Build the network that training starts with."""
        model = build_transformer(dim=self.dim, ffn_dim=self.ffn_dim, layers=self.layers)
        init_weights(model, seed=self.seed)
        return model

    def beside(self, video: Tensor, clean: Tensor, code: PatchCode, generator: torch.Generator) -> Tensor:
        """Return the channels that the network sees beside the noisy latent: none."""
        return clean[:, :0]

    def stored(self, name: str, weight: Tensor) -> Tensor:
        """Return a weight in the precision of the exported file."""
        return weight.half()


def init_weights(model: WanModel, *, seed: int) -> None:
    """Initialise as Wan does: Xavier for matrices, deviation 0.02 for those of the embeddings, zero for the head."""
    generator = torch.Generator().manual_seed(seed)
    for name, value in model.named_parameters():
        if name.startswith("head.head"):
            nn.init.zeros_(value)
        elif name.endswith("modulation"):
            nn.init.normal_(value, std=model.dim**-0.5, generator=generator)
        elif name.endswith("bias"):
            nn.init.zeros_(value)
        elif "norm" in name:
            nn.init.ones_(value)
        elif name.startswith(("text_embedding", "time_embedding")):
            nn.init.normal_(value, std=0.02, generator=generator)
        else:
            nn.init.xavier_uniform_(value.flatten(1), generator=generator)


def make_optimizers(model: WanModel, recipe: Recipe) -> list[torch.optim.Optimizer]:
    """Build Muon for the blocks' matrices (updates scaled to AdamW's size) and AdamW for embeddings, head, norms, modulations.

    AdamW changes every weight by about the learning rate, and so a unit with `fan_in` inputs by up to `fan_in` times that. At
    the text width of 4096 these are several units per step: GELUs die, and a word whose units are all dead is lost for good.
    The learning rate of a wide matrix is therefore divided by the ratio of its width to the model's. (The schedule multiplies
    `learning_rate` in a parameter group.)
    """
    inner = [value for name, value in model.named_parameters() if name.startswith("blocks") and value.ndim == 2]
    chosen = {id(value) for value in inner}
    groups: dict[float, list[nn.Parameter]] = {}
    for name, value in model.named_parameters():
        if id(value) not in chosen:
            width = value[0].numel() if name.endswith("weight") and value.ndim > 1 else 1
            groups.setdefault(recipe.outer_learning_rate * min(1.0, model.dim / width), []).append(value)
    outer = [{"params": values, "lr": rate, "learning_rate": rate} for rate, values in groups.items()]
    decay, muon = recipe.weight_decay, [{"params": inner, "learning_rate": recipe.learning_rate}]
    return [
        torch.optim.Muon(muon, lr=recipe.learning_rate, weight_decay=decay, momentum=0.95, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(outer, betas=(0.9, 0.99), weight_decay=decay, fused=True),
    ]


def size_at(step: int, recipe: Recipe) -> Size:
    """Return the shape of step number `step`: a function of the recipe alone, so a resumed run equals an uninterrupted one."""
    for phase in recipe.phases:
        if step < phase.steps:
            break
        step -= phase.steps
    else:
        raise ValueError(f"step is past the recipe's last one by {step}; the recipe has {recipe.steps} steps")
    weights = np.array([size.weight for size in phase.sizes])
    rng = np.random.default_rng(np.random.SeedSequence([recipe.seed, 1, phase.steps, step]))
    return phase.sizes[rng.choice(len(weights), p=weights / weights.sum())]


@dataclass(frozen=True)
class Batch:
    """A training batch.

    Attributes:
        clean: Latents (B, 16, t, h, w).
        noise: Unit noise (B, 16, t, h, w).
        sigma: Noise levels (B,).
        context: Prompt embeddings (B, words, 4096).
        beside: Further input channels of the network (B, C, t, h, w).
    """

    clean: Tensor
    noise: Tensor
    sigma: Tensor
    context: Tensor
    beside: Tensor

    def to(self, device: torch.device) -> Batch:
        """Return a copy on the device."""
        values = (self.clean, self.noise, self.sigma, self.context, self.beside)
        return Batch(*(value.to(device, non_blocking=True) for value in values))


def draw_batch(step: int, size: Size, recipe: Recipe, code: PatchCode) -> Batch:
    """Draw the batch of a step, with every random choice from (recipe.seed, step). Sigmas are stratified over the batch."""
    rng = np.random.default_rng(np.random.SeedSequence([recipe.seed, 2, step]))
    generator = torch.Generator().manual_seed(int(rng.integers(2**63)))
    scenes = [recipe.world.scene_at(step * 64 + row, seed=recipe.seed) for row in range(size.batch)]
    frames, side = size.video
    video = recipe.world.render(scenes, frames=frames, height=side, width=side)
    clean = code.latents(video)
    captions = [None if rng.random() < recipe.drop_prompt else scene.caption for scene in scenes]
    u = (torch.randperm(size.batch, generator=generator) + torch.rand(size.batch, generator=generator)) / size.batch
    sigma = recipe.sigma_shift * u / (1.0 + (recipe.sigma_shift - 1.0) * u)
    noise = torch.randn(clean.shape, generator=generator)
    return Batch(clean, noise, sigma, recipe.world.embed_all(captions), recipe.beside(video, clean, code, generator))


def flow_loss(model: nn.Module, batch: Batch) -> Tensor:
    """Return the mean squared error of the velocity noise - clean: ()."""
    sigma = batch.sigma[:, None, None, None, None]
    noisy = (1.0 - sigma) * batch.clean + sigma * batch.noise
    with torch.autocast(noisy.device.type, torch.bfloat16):
        velocity = model(torch.cat([noisy, batch.beside], dim=1), 1000.0 * batch.sigma, batch.context)
    return (velocity.float() - (batch.noise - batch.clean)).square().mean()


@dataclass
class Trainer:
    """The state of a run: weights, averages, optimisers, steps and seconds."""

    recipe: Recipe
    model: WanModel
    average: ExponentialMovingAverage
    optimizers: list[torch.optim.Optimizer]
    step: int = 0
    seconds: float = 0.0

    @staticmethod
    def start(recipe: Recipe, device: torch.device) -> Trainer:
        """Build the network, its averages and its optimisers."""
        model = recipe.build().to(device)
        average = ExponentialMovingAverage(dict(model.named_parameters()), decay=recipe.ema_decay)
        return Trainer(recipe, model, average, make_optimizers(model, recipe))

    def state(self) -> dict:
        """Return the state to save."""
        return {
            "model": self.model.state_dict(), "average": self.average.values, "step": self.step, "seconds": self.seconds,
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
        }  # fmt: skip

    def load(self, state: dict) -> None:
        """Continue from a saved state."""
        self.model.load_state_dict(state["model"])
        self.average.load(state["average"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.step, self.seconds = state["step"], state["seconds"]

    def train_step(self, batch: Batch) -> float:
        """Run one optimiser step and return the loss."""
        recipe = self.recipe
        factor = learning_rate_factor(self.step, steps=recipe.steps, warm_up=recipe.warm_up, decay_share=recipe.decay_share)
        with differentiable():
            loss = flow_loss(self.model, batch)
            loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), recipe.clip_norm)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["learning_rate"] * factor
            optimizer.step()
        self.model.zero_grad(set_to_none=True)
        self.average.update(self.step)
        self.step += 1
        return loss.item()


def train(recipe: Recipe, run: Run, *, device: torch.device, seconds: float, workers: int = 0, report_every: int = 500) -> None:
    """Train until the recipe's last step or for `seconds`, whichever comes first, and save."""
    trainer, saved = Trainer.start(recipe, device), run.open(recipe)
    if saved:
        trainer.load(saved)
    code, losses = saved_code(run.folder, seed=recipe.code_seed), {}
    began, before = time.monotonic(), trainer.seconds

    def draw(step: int) -> tuple[Size, Batch]:
        size = size_at(step, recipe)
        return size, draw_batch(step, size, recipe, code)

    for size, batch in drawn_ahead(draw, trainer.step, recipe.steps, workers=workers):
        loss = trainer.train_step(batch.to(device))
        losses.setdefault(f"{size.frames}x{size.side}", []).append(loss)
        trainer.seconds = before + time.monotonic() - began
        if trainer.step % report_every == 0:
            means = {name: float(np.mean(values)) for name, values in sorted(losses.items())}
            run.report({"step": trainer.step, "minutes": trainer.seconds / 60} | means)
            losses.clear()
        run.save(trainer.state)
        if time.monotonic() - began > seconds:
            break
    run.save(trainer.state, force=True)


def saved_code(folder: Path, *, seed: int) -> PatchCode:
    """Return the patch code, which is fitted once and kept in the run folder."""
    path = folder / "patch_code.safetensors"
    if not path.exists():
        with atomic_file(path) as partial:
            fit(seed=seed).save(partial)
    return PatchCode.load(path)


def export(run: Run, path: Path, recipe: Recipe) -> None:
    """Write the averaged weights in ComfyUI's layout, with the run's steps and hours in the header."""
    state = torch.load(run.folder / "state.pt", map_location="cpu", weights_only=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    weights = {name: recipe.stored(name, value).contiguous() for name, value in state["average"].items()}
    save_file(weights, path, metadata={"steps": str(state["step"]), "hours": f"{state['seconds'] / 3600:.2f}"})
    print(f"{path}: {path.stat().st_size / 2**20:.2f} MiB after {state['step']} steps")


def main(description: str, recipe: Recipe, state: Path) -> None:
    """Train or export as the command line says; see ``train_or_export``."""
    train_or_export(description, state, train=partial(train, recipe), export=partial(export, recipe=recipe))


if __name__ == "__main__":
    main(__doc__ or "", Recipe(), STATE)
