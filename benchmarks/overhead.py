"""Measure the overhead of a pyramidal run over ComfyUI's own runs of the same forward passes at the same sizes.

Both run alternately in one process, and their CPU times are compared: every stage's steps with ComfyUI's own sampler on the
unmodified model, and the whole pyramid. The script prints the ratio of the medians.

Run: .venv/bin/python -m benchmarks.overhead [--rounds 9] [--width 416 --height 256 --frames 33]
"""

from __future__ import annotations

import argparse
import logging
import statistics
import time
from collections.abc import Callable

import torch

from harness.in_process import pack_module, use_comfyui
from pyramid.sizes import VideoSize
from tiny_wan.checkpoints import t2v_state_dict

STEPS = (6, 6, 3)
LIMIT = 1.05


def main() -> None:
    """Time both and print the ratio; the exit status is 1 above the limit."""
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
        pyramid()  # warm up
        comfyui()
        times = [(cpu_seconds(comfyui), cpu_seconds(pyramid)) for _ in range(options.rounds)]
    median_comfyui, median_pyramid = (statistics.median(column) for column in zip(*times, strict=True))
    ratio = median_pyramid / median_comfyui
    print(f"{options.width}x{options.height}, {options.frames} frames, steps {'-'.join(map(str, STEPS))}, euler, one thread")
    print(f"ComfyUI: {median_comfyui:.2f} s CPU    pyramid: {median_pyramid:.2f} s CPU    ratio {ratio:.3f} (limit {LIMIT})")
    print("each round: " + ", ".join(f"{with_pyramid / without:.3f}" for without, with_pyramid in times))
    if ratio > LIMIT:
        raise SystemExit(1)


def contenders(width: int, height: int, frames: int) -> tuple[Callable[[], None], Callable[[], None]]:
    """Return the pyramidal run, and ComfyUI's runs of the same steps at the sizes of the stages."""
    import comfy.samplers
    import comfy.sd
    import comfy.utils

    seed_noise, run = pack_module("samplers.noise").SeedNoise(0), pack_module("samplers.run").PyramidRun
    comfy.utils.PROGRESS_BAR_ENABLED = False
    model = comfy.sd.load_diffusion_model_state_dict(t2v_state_dict(dim=256, ffn_dim=1024, layers=3))
    assert model is not None, "ComfyUI does not recognise the weights"
    spec, full = pack_module("pyramid.stages").PRESETS["pyramidal-wan"], VideoSize(width, height, frames).latent
    stages, levels = spec.stages(full), pack_module("pyramid.schedules").stage_levels(spec, STEPS)
    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds([[torch.randn(1, 32, 4096), {}]], [[torch.randn(1, 32, 4096), {}]])
    sampler = comfy.samplers.sampler_object("euler")

    def pyramid() -> None:
        run(guider, seed_noise, sampler, levels, spec).sample({"samples": torch.zeros(1, 16, *full)})

    def comfyui() -> None:
        for stage, naturals in zip(stages, levels, strict=True):
            latent = {"samples": torch.zeros(1, 16, *stage.shape)}
            noise, sigmas = seed_noise.generate_noise(latent), torch.tensor(naturals)
            guider.sample(noise, latent["samples"], sampler, sigmas, callback=lambda *_: None, seed=0)

    return pyramid, comfyui


def cpu_seconds(run: Callable[[], None]) -> float:
    """Return the CPU time of a run, which other programs on the machine affect less than wall-clock time."""
    start = time.process_time()
    run()
    return time.process_time() - start


if __name__ == "__main__":
    main()
