"""Monitor a training run of the tiny transformer: sample prompts and read their attributes from the clips.

    python -m tiny_wan.recipes.judge --size 5x16 --clips 64 --steps 25 --cfg 4

Latents are decoded by the linear patch code, which takes next to no time and is good enough to read attributes, so this can run
alongside a training job. The published tables sample in ComfyUI and decode with the tiny VAE (`benchmarks/quality`).
"""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path

import torch
from torch import Tensor, nn

from harness.wan_modules import build_transformer

from ..world.grammar import draw_captions
from ..world.reading import accuracy, read
from ..world.videos import save_video
from ..world.words import embed_all
from .train_t2v import STATE, Recipe, saved_code


@torch.no_grad()
def sample_plain(model: nn.Module, noise: Tensor, context: Tensor, *, steps: int, cfg: float, shift: float) -> Tensor:
    """Sample by Euler steps on a shifted grid, without a pyramid.

    Args:
        model: The transformer.
        noise: (B, 16, t, h, w).
        context: (B, 6, 4096).
        steps: Number of steps.
        cfg: Guidance scale.
        shift: Flow shift of the grid.

    Returns:
        Clean latents (B, 16, t, h, w).
    """
    u = torch.linspace(1.0, 0.0, steps + 1)
    sigmas = (shift * u / (1.0 + (shift - 1.0) * u)).tolist()
    both = torch.cat([context, embed_all([None] * len(context)).to(context)])
    x = noise
    for sigma, lower in itertools.pairwise(sigmas):
        with torch.autocast(x.device.type, torch.bfloat16):
            conditional, empty = model(torch.cat([x, x]), x.new_full((2 * len(x),), 1000.0 * sigma), both).float().chunk(2)
        x = x + (lower - sigma) * (empty + cfg * (conditional - empty))
    return x


def averaged_transformer(folder: Path, recipe: Recipe) -> tuple[nn.Module, int]:
    """Load a run folder's averaged weights, and return the model and its step."""
    state = torch.load(folder / "state.pt", map_location="cpu", weights_only=True)
    model = build_transformer(dim=recipe.dim, ffn_dim=recipe.ffn_dim, layers=recipe.layers)
    model.load_state_dict(state["average"])
    return model.requires_grad_(False), state["step"]


def main() -> None:
    """Read the command line, sample, and print the shares of right attributes."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--out", type=Path, default=STATE, help="run folder (default: %(default)s)")
    parser.add_argument("--size", default="5x16", help="latent FRAMESxSIDE (default: %(default)s)")
    parser.add_argument("--clips", type=int, default=64)
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--cfg", type=float, default=4.0)
    parser.add_argument("--shift", type=float, default=5.0)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--video", type=Path, help="write the first four clips side by side to this mp4")
    options = parser.parse_args()
    frames, side = map(int, options.size.split("x"))
    model, step = averaged_transformer(options.out, Recipe())
    captions = draw_captions(options.clips, seed=options.seed)
    noise = torch.randn(options.clips, 16, frames, side, side, generator=torch.Generator().manual_seed(options.seed))
    context, model = embed_all(captions).to(options.device), model.to(options.device)
    pieces = zip(noise.to(options.device).split(16), context.split(16), strict=True)
    parts = [sample_plain(model, x, c, steps=options.steps, cfg=options.cfg, shift=options.shift).cpu() for x, c in pieces]
    video = saved_code(options.out, seed=Recipe.code_seed).video(torch.cat(parts))
    shares = {name: round(share, 3) for name, share in accuracy(read(video), captions).items()}
    print({"step": step, "size": options.size} | shares)
    if options.video:
        save_video(options.video, torch.cat(list(video[:4]), dim=3), scale=2)


if __name__ == "__main__":
    main()
