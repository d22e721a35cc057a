"""What a pyramidal run costs beyond the host's own runs of the same forwards at the same sizes.

Both are done alternately in one process, and their CPU time is compared: first every stage's steps by the host's own
sampler on the unbound model, then the whole pyramid. Prints the ratio of the medians.

Run: .venv/bin/python -m benchmarks.overhead [--rounds 9] [--width 416 --height 256 --frames 33]
"""

from __future__ import annotations

import argparse
import logging
import statistics
import time
from collections.abc import Callable

import torch

from harness.in_process import use_comfyui
from tiny_wan.checkpoints import t2v_state_dict

STEPS = (6, 6, 3)
LIMIT = 1.05


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--height", type=int, default=256)
    parser.add_argument("--frames", type=int, default=33)
    options = parser.parse_args()
    use_comfyui()
    logging.disable(logging.INFO)
    torch.set_num_threads(1)
    with torch.inference_mode():
        pyramid, comfyui = contenders(options.width, options.height, options.frames)
        pyramid(), comfyui()  # warm up
        times = [(cpu_seconds(comfyui), cpu_seconds(pyramid)) for _ in range(options.rounds)]
    own, ours = (statistics.median(column) for column in zip(*times, strict=True))
    spread = ", ".join(f"{ours / own:.3f}" for own, ours in times)
    print(f"{options.width}x{options.height}, {options.frames} frames, steps {'-'.join(map(str, STEPS))}, euler, one thread")
    print(f"host's own runs: {own:.2f} s CPU    pyramid: {ours:.2f} s CPU    ratio {ours / own:.3f} (limit {LIMIT})")
    print(f"each round: {spread}")
    if ours / own > LIMIT:
        raise SystemExit(1)


def contenders(width: int, height: int, frames: int) -> tuple[Callable[[], None], Callable[[], None]]:
    """The pyramidal run, and the host's runs of the same steps at the sizes of the stages."""
    import comfy.samplers
    import comfy.sd
    import comfy.utils

    from pyramidalwan.pyramid.schedules import stage_levels
    from pyramidalwan.pyramid.sizes import VideoSize
    from pyramidalwan.pyramid.stages import PRESETS
    from pyramidalwan.samplers.noise import SeedNoise
    from pyramidalwan.samplers.run import PyramidRun

    comfy.utils.PROGRESS_BAR_ENABLED = False
    model = comfy.sd.load_diffusion_model_state_dict(t2v_state_dict(dim=256, ffn_dim=1024, layers=3))
    spec, full = PRESETS["pyramidal-wan"], VideoSize(width, height, frames).latent
    stages, levels = spec.stages(full), stage_levels(spec, STEPS)
    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds([[torch.randn(1, 32, 4096), {}]], [[torch.randn(1, 32, 4096), {}]])
    sampler = comfy.samplers.sampler_object("euler")

    def pyramid() -> None:
        PyramidRun(guider, SeedNoise(0), sampler, levels, spec).sample({"samples": torch.zeros(1, 16, *full)})

    def comfyui() -> None:
        for stage, naturals in zip(stages, levels, strict=True):
            latent = {"samples": torch.zeros(1, 16, *stage.shape)}
            noise, sigmas = SeedNoise(0).generate_noise(latent), torch.tensor(naturals)
            guider.sample(noise, latent["samples"], sampler, sigmas, callback=lambda *_: None, seed=0)

    return pyramid, comfyui


def cpu_seconds(run: Callable[[], None]) -> float:
    """CPU time: other programs on the machine do not count."""
    start = time.process_time()
    run()
    return time.process_time() - start


if __name__ == "__main__":
    main()
