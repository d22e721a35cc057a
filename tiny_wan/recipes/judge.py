"""Watch a training run of the tiny transformer: sample prompts and read the attributes back.

    python -m tiny_wan.recipes.judge --size 5x16 --clips 64 --steps 25 --cfg 4

Latents are decoded by the linear patch code, which costs nothing and is good enough to read attributes from, so this can be
run beside a training. The published tables sample in ComfyUI and decode with the tiny VAE (`benchmarks/quality.py`).
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
    """Plain Euler sampling on a shifted grid: noise (B, 16, t, h, w) and context (B, 6, 4096) -> clean latents."""
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
    """The run folder's averaged weights and the step they are from."""
    state = torch.load(folder / "state.pt", map_location="cpu", weights_only=True)
    model = build_transformer(dim=recipe.dim, ffn_dim=recipe.ffn_dim, layers=recipe.layers)
    model.load_state_dict(state["average"])
    return model.requires_grad_(False), state["step"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
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
    settings = {"steps": options.steps, "cfg": options.cfg, "shift": options.shift}
    pieces = zip(noise.to(options.device).split(16), context.split(16), strict=True)
    parts = [sample_plain(model, x, c, **settings).cpu() for x, c in pieces]
    video = saved_code(options.out, seed=Recipe().seed).video(torch.cat(parts))
    shares = {name: round(share, 3) for name, share in accuracy(read(video), captions).items()}
    print({"step": step, "size": options.size} | shares)
    if options.video:
        save_video(options.video, torch.cat(list(video[:4]), dim=3), scale=2)


if __name__ == "__main__":
    main()
