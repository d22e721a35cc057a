"""Clips of a row, sampled by the sampler node in the real ComfyUI and decoded by its VAE; and rendered clips of the prompts."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from harness.in_process import pack_module, use_comfyui
from pyramid.schedules import parse_steps
from pyramid.training.fitted_lift import read_lift
from tiny_wan.world.grammar import Caption
from tiny_wan.world.scenes import render, scene_at, scene_for
from tiny_wan.world.words import embed_all

from . import rivals
from .results import PROMPTS, ROOT, SEEDS, Results, captions, fingerprint, lift_folder, measure
from .rivals import RIVALS
from .rows import FRAMES, IMAGE_MODEL, ON_WORLD, SIDE, VAE, Row

BATCH, DECODED = 16, 4
NOISE_SEED = 1000
LIFT_SEED, LIFT_CLIPS = 9, 25
DATA = "data"


def run_data(clips: int = PROMPTS * SEEDS, frames: int = FRAMES) -> Results:
    """Measure the reference, rendered clips of the same prompts."""
    name = DATA if frames == FRAMES else f"{DATA}-{frames}"
    results, prompts = Results(name, "rendered"), captions(clips)
    for start in range(len(results), len(prompts), BATCH):
        part = prompts[start : start + BATCH]
        results.add(measure(rendered(part, start, frames), part))
    return results.first(len(prompts))


def rendered(prompts: Sequence[Caption], start: int, frames: int = FRAMES) -> Tensor:
    """Return the rendered clips (B, 3, T, H, W) of prompts, the first of which is clip number ``start``."""
    scenes = [scene_for(caption, seed=NOISE_SEED + start + row) for row, caption in enumerate(prompts)]
    return render(scenes, frames=frames, height=SIDE, width=SIDE)


def world_clips() -> Tensor:
    """Return frames (N, H, W, 3) in 0..1 of clips of the tiny world, which no row is asked for."""
    scenes = [scene_at(index, seed=LIFT_SEED) for index in range(LIFT_CLIPS)]
    videos = render(scenes, frames=FRAMES, height=SIDE, width=SIDE)
    return videos.permute(0, 2, 3, 4, 1).flatten(0, 1).add(1).div(2)


def run_row(row: Row, *, deadline: float = math.inf, clips: int = PROMPTS * SEEDS) -> None:
    """Sample, decode and measure the clips that are missing, until a time of ``time.monotonic``."""
    prompts = captions(min(clips, row.clips))
    if len(Results(row.name, fingerprint(row))) >= len(prompts):
        return
    sampler = ComfyUISampler(row)
    results = Results(row.name, fingerprint(row))  # the sampler may just have fitted the lift
    for start in range(len(results), len(prompts), BATCH):
        part = prompts[start : start + BATCH]
        conditioning = sampler.conditioning(part, start)
        began = time.process_time()
        latents = sampler.sample(conditioning, seed=NOISE_SEED + start)
        seconds = time.process_time() - began
        results.add(measure(sampler.decode(latents), part), seconds=seconds)
        print(f"{row.name}: {len(results)} of {len(prompts)}, {seconds / len(part):.2f} CPU seconds a clip", flush=True)
        if time.monotonic() > deadline:
            break


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
        if row.plain_lora:
            applied = comfy.utils.load_torch_file(str(ROOT / row.plain_lora))
            self.model, _ = comfy.sd.load_lora_for_models(self.model, None, applied, 1.0, 0.0)
        stage_patches, patch_files = pack_module("samplers.comfyui.stage_patches"), pack_module("samplers.comfyui.patch_files")
        if (patches := patch_files.read_patches(str(ROOT / row.model), row.model)) is not None:
            self.model, _ = stage_patches.attach_patches(self.model, patches)
        self.vae = comfy.sd.VAE(sd=comfy.utils.load_torch_file(str(ROOT / VAE)))
        self.pyramid = pack_module("pyramid.stages").PyramidSpec.from_json(row.spec.to_json())
        folder_paths.folder_names_and_paths["pyramidal_lifts"] = ([str(lift_folder(row))], set())  # no other kept lift
        self.lift = self._trained_lift() if row.lift_file else self._made_lift()

    def _trained_lift(self) -> Any:
        """Return the lift that the weights were trained with, in the scale of the VAE."""
        model: Any = self.model
        latent_format = model.get_model_object("latent_format")
        scale = latent_format.latents_mean.flatten(), latent_format.latents_std.flatten()
        lift = read_lift(ROOT / self.row.lift_file).rescaled(*scale)
        (axes,) = self.row.spec.downsample_axes
        return pack_module("samplers.video_lift").VideoLift("of the training", lift.channels, {axes: lift})

    def _made_lift(self) -> Any:
        """Return the lift that the node makes for the row."""
        clips = world_clips() if self.row.lift == ON_WORLD else None
        with torch.no_grad():
            lift, _ = pack_module("samplers.lifts").make_lift(self.vae, self.row.lift, clips, self.pyramid)
        return lift if self.row.drop else dataclasses.replace(lift, drops={})

    @torch.no_grad()
    def conditioning(self, prompts: Sequence[Caption], start: int) -> tuple[list, list]:
        """Return ComfyUI's positive and negative conditioning of prompts, the first of which is clip number ``start``.

        An image-to-video model is also given the first frame of the rendered clips.
        """
        positive, negative = ([[embed_all(list(texts)), {}]] for texts in (prompts, [None] * len(prompts)))
        if self.row.model == IMAGE_MODEL:
            images = rendered(prompts, start, self.row.frames)[:, :, :1].permute(0, 2, 3, 4, 1).add(1).div(2)
            values = [self._image_values(image) for image in images]
            together = {name: torch.cat([value[name] for value in values]) for name in values[0]}
            positive, negative = ([[tensor, together]] for [[tensor, _]] in (positive, negative))
        return positive, negative

    def _image_values(self, image: Tensor) -> dict[str, Tensor]:
        """Return what ComfyUI's node adds to the conditioning for a first frame (1, H, W, 3) in 0..1."""
        from comfy_extras.nodes_wan import WanImageToVideo

        nothing = [[torch.zeros(1, 1, 1), {}]]
        positive = WanImageToVideo.execute(nothing, nothing, self.vae, SIDE, SIDE, self.row.frames, 1, start_image=image).args[
            0
        ]
        return {name: positive[0][1][name] for name in ("concat_latent_image", "concat_mask")}

    @torch.no_grad()
    def sample(self, conditioning: tuple[list, list], *, seed: int) -> Tensor:
        """Return ComfyUI latents (B, 16, T, h, w); the full-size noise is a function of the seed alone."""
        row, (positive, negative) = self.row, conditioning
        if row.rival:
            low, high = parse_steps(row.steps, 2)
            return rivals.sample(
                RIVALS[row.rival], self.model, self.vae, positive, negative, row.latent,
                steps=(low, high), cfg=float(row.cfg), shift=row.shift, seed=seed,
            )  # fmt: skip
        if row.full_size_first:
            return self._sample_full_size_first(positive, negative, seed)
        empty = {"samples": torch.zeros(positive[0][0].shape[0], 16, *row.latent)}
        output = pack_module("nodes.sampler").PyramidalWanSampler.execute(
            model=self.model, positive=positive, negative=negative, latent=empty, seed=seed, steps=row.steps, cfg=row.cfg,
            sampler_name=row.sampler, denoise=1.0, grid=row.grid, shift=row.shift, start_stage="auto", end_stage="auto",
            pyramid=self.pyramid, lift=self.lift,
        )  # fmt: skip
        return output.args[0]["samples"]

    def _sample_full_size_first(self, positive: list, negative: list, seed: int) -> Tensor:
        """Sample with two of ComfyUI's samplers: the second has the pyramid, and starts from the first one's leftover noise."""
        import comfy.sample
        import comfy.samplers

        row, schedule = self.row, pack_module("samplers.schedule")
        _, levels = schedule.levels_for(self.pyramid, row.steps, row.grid, row.shift)
        sigmas = schedule.to_sigmas(levels)
        pyramidal = pack_module("samplers.any_sampler").pyramidal_model(self.model, self.pyramid, lambda text: None, self.lift)
        empty = torch.zeros(positive[0][0].shape[0], 16, *row.latent)
        noise, sampler = comfy.sample.prepare_noise(empty, seed), comfy.samplers.sampler_object(row.sampler)

        def run(model: Any, noise: Tensor, sigmas: Tensor, latent: Tensor) -> Tensor:
            return comfy.sample.sample_custom(
                model, noise, float(row.cfg), sampler, sigmas, positive, negative, latent, disable_pbar=True, seed=seed
            )

        first = run(self.model, noise, sigmas[: row.full_size_first + 1], empty)
        return run(pyramidal, torch.zeros_like(noise), sigmas[row.full_size_first :], first)

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Decode videos (B, 3, T, H, W) in -1..1, a few at a time: one at a time takes three times as long on a CPU.

        Videos of another size than the reference are enlarged to it.
        """
        row = self.row
        pictures = [self.vae.decode(part).reshape(-1, row.frames, row.side, row.side, 3) for part in latents.split(DECODED)]
        videos = torch.cat(pictures).permute(0, 4, 1, 2, 3).float() * 2 - 1
        if row.side == SIDE:
            return videos
        frames = functional.interpolate(videos.transpose(1, 2).flatten(0, 1), size=SIDE, mode="bicubic", antialias=True)
        return frames.unflatten(0, (-1, row.frames)).transpose(1, 2).clamp(-1, 1)
