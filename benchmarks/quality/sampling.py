"""Clips of a row, sampled by the sampler node in the real ComfyUI and decoded by its VAE; and rendered clips of the prompts."""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch
from torch import Tensor

from harness.in_process import pack_module, use_comfyui
from tiny_wan.world.grammar import Caption
from tiny_wan.world.scenes import render, scene_for
from tiny_wan.world.words import embed_all

from .results import FOLDER, ROOT, Results, captions, fingerprint, measure
from .rows import VAE, Row

BATCH, DECODED = 16, 4
NOISE_SEED = 1000
FRAMES, SIDE = 17, 128
LATENT = (5, 16, 16)
DATA = "data"


def run_data() -> Results:
    """Measure the reference, rendered clips of the same prompts."""
    results, prompts = Results(DATA, "rendered"), captions()
    for start in range(len(results), len(prompts), BATCH):
        part = prompts[start : start + BATCH]
        scenes = [scene_for(caption, seed=NOISE_SEED + start + row) for row, caption in enumerate(part)]
        results.add(measure(render(scenes, frames=FRAMES, height=SIDE, width=SIDE), part))
    return results


def run_row(row: Row) -> Results:
    """Sample, decode and measure the clips that are missing."""
    results, prompts = Results(row.name, fingerprint(row)), captions()
    if len(results) == len(prompts):
        return results
    sampler = ComfyUISampler(row)
    for start in range(len(results), len(prompts), BATCH):
        part = prompts[start : start + BATCH]
        began = time.process_time()
        latents = sampler.sample(part, seed=NOISE_SEED + start)
        seconds = time.process_time() - began
        results.add(measure(sampler.decode(latents), part), seconds=seconds)
        print(f"{row.name}: {len(results)} of {len(prompts)}, {seconds / len(part):.2f} CPU seconds a clip", flush=True)
    return results


class ComfyUISampler:
    """A row's model, LoRAs, VAE and lift, loaded in ComfyUI; a fitted lift is kept beside the results."""

    def __init__(self, row: Row) -> None:
        use_comfyui()
        import comfy.sd
        import comfy.utils
        import folder_paths

        lora_file, stage_lora = pack_module("samplers.comfyui.lora_file"), pack_module("samplers.comfyui.stage_lora")
        comfy.utils.PROGRESS_BAR_ENABLED = False
        self.row = row
        self.model = comfy.sd.load_diffusion_model(str(ROOT / row.model))
        for stages, path in row.loras.items():
            lora = stage_lora.StageLora(lora_file.load_lora_file(ROOT / path, path), 1.0, stages)
            self.model, _ = stage_lora.add_stage_lora(self.model, lora)
        self.vae = comfy.sd.VAE(sd=comfy.utils.load_torch_file(str(ROOT / VAE)))
        self.pyramid = pack_module("pyramid.stages").PyramidSpec.from_json(row.spec.to_json())
        folder_paths.add_model_folder_path("pyramidal_lifts", str(FOLDER / "lifts"), is_default=True)
        with torch.no_grad():
            self.lift, _ = pack_module("samplers.lifts").make_lift(self.vae, row.lift, None, self.pyramid)

    @torch.no_grad()
    def sample(self, prompts: Sequence[Caption], *, seed: int) -> Tensor:
        """Return ComfyUI latents (B, 16, T, h, w); the full-size noise is a function of the seed alone."""
        row = self.row
        empty = {"samples": torch.zeros(len(prompts), 16, *LATENT)}
        positive, negative = ([[embed_all(list(texts)), {}]] for texts in (prompts, [None] * len(prompts)))
        output = pack_module("nodes.sampler").PyramidalWanSampler.execute(
            model=self.model, positive=positive, negative=negative, latent=empty, seed=seed, steps=row.steps, cfg=row.cfg,
            sampler_name=row.sampler, denoise=1.0, grid=row.grid, shift=row.shift, start_stage="auto", end_stage="auto",
            pyramid=self.pyramid, lift=self.lift,
        )  # fmt: skip
        return output.args[0]["samples"]

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Decode videos (B, 3, T, H, W) in -1..1, a few at a time: one at a time takes three times as long on a CPU."""
        pictures = [self.vae.decode(part).reshape(-1, FRAMES, SIDE, SIDE, 3) for part in latents.split(DECODED)]
        return torch.cat(pictures).permute(0, 4, 1, 2, 3).float() * 2 - 1
