"""Clips of a row: the sampler node in the real ComfyUI, decoded by its VAE; and real clips of the same prompts."""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch
from torch import Tensor

from harness.in_process import use_comfyui
from tiny_wan.world.grammar import Caption
from tiny_wan.world.scenes import render, scene_for
from tiny_wan.world.words import embed_all

from .results import ROOT, Results, captions, fingerprint, measure
from .rows import VAE, Row

BATCH, DECODED = 16, 4
NOISE_SEED = 1000
FRAMES, SIDE = 17, 128
LATENT = (5, 16, 16)
DATA = "data"


def run_data() -> Results:
    """The reference: rendered clips of the same prompts."""
    results, wanted = Results(DATA, "rendered"), captions()
    for start in range(len(results), len(wanted), BATCH):
        part = wanted[start : start + BATCH]
        scenes = [scene_for(caption, seed=NOISE_SEED + start + place) for place, caption in enumerate(part)]
        results.add(measure(render(scenes, frames=FRAMES, height=SIDE, width=SIDE), part))
    return results


def run_row(row: Row) -> Results:
    """Samples, decodes and measures what is missing."""
    results, wanted = Results(row.name, fingerprint(row)), captions()
    if len(results) == len(wanted):
        return results
    sampler = ComfyUISampler(row)
    for start in range(len(results), len(wanted), BATCH):
        part = wanted[start : start + BATCH]
        began = time.process_time()
        latents = sampler.sample(part, seed=NOISE_SEED + start)
        seconds = time.process_time() - began
        results.add(measure(sampler.decode(latents), part), seconds=seconds)
        print(f"{row.name}: {len(results)} of {len(wanted)}, {seconds / len(part):.2f} CPU seconds a clip", flush=True)
    return results


class ComfyUISampler:
    """Weights and settings of a row in ComfyUI."""

    def __init__(self, row: Row) -> None:
        use_comfyui()
        import comfy.sd
        import comfy.utils

        from pyramidalwan.samplers.comfyui.lora_file import load_lora_file
        from pyramidalwan.samplers.comfyui.stage_lora import StageLora, add_stage_lora

        comfy.utils.PROGRESS_BAR_ENABLED = False
        self.row = row
        self.model = comfy.sd.load_diffusion_model(str(ROOT / row.model))
        for stages, path in row.loras.items():
            self.model, _ = add_stage_lora(self.model, StageLora(load_lora_file(ROOT / path, path), 1.0, stages))
        self.vae = comfy.sd.VAE(sd=comfy.utils.load_torch_file(str(ROOT / VAE)))

    @torch.no_grad()
    def sample(self, prompts: Sequence[Caption], *, seed: int) -> Tensor:
        """Host latents (B, 16, T, h, w); the full-size noise follows from the seed alone."""
        from pyramidalwan.nodes.sampler import PyramidalWanSampler
        from pyramidalwan.pyramid.stages import PyramidSpec

        row = self.row
        empty = {"samples": torch.zeros(len(prompts), 16, *LATENT)}
        positive, negative = ([[embed_all(list(texts)), {}]] for texts in (prompts, [None] * len(prompts)))
        output = PyramidalWanSampler.execute(
            model=self.model, positive=positive, negative=negative, latent=empty, seed=seed, steps=row.steps, cfg=row.cfg,
            sampler_name=row.sampler, denoise=1.0, grid=row.grid, shift=row.shift, start_stage="auto", end_stage="auto",
            pyramid=PyramidSpec.from_json(row.spec.to_json()),
        )  # fmt: skip
        return output.args[0]["samples"]

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Videos (B, 3, T, H, W) in -1..1, a few at a time: one at a time takes three times as long on a CPU."""
        pictures = [self.vae.decode(part).reshape(-1, FRAMES, SIDE, SIDE, 3) for part in latents.split(DECODED)]
        return torch.cat(pictures).permute(0, 4, 1, 2, 3).float() * 2 - 1
