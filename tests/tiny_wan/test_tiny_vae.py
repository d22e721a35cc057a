"""The tiny VAE: whole clips equal ComfyUI's chunks, folding keeps the function, and both halves learn."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from safetensors.torch import load_file

from harness.in_process import ROOT
from harness.wan_modules import build_vae, latent_format
from tiny_wan.recipes import train_vae, whole_clip
from tiny_wan.recipes.patch_code import PatchCode, fit, hadamard, patches
from tiny_wan.recipes.train_vae import Crop, Recipe, Trainer, draw_video, fold_latent_format, held_out, psnr
from tiny_wan.recipes.training_state import Run
from tiny_wan.world.reading import accuracy, read
from tiny_wan.world.scenes import render, scene_at

TINY = Recipe(dim=8, steps=8, warm_up=1, encoder_share=0.5, crops=(Crop(5, 32, 32, 2, 1.0), Crop(9, 64, 32, 1, 1.0)))
SHIPPED = ROOT / "tiny_wan" / "weights" / "tiny_wan_vae.safetensors"


@pytest.fixture(scope="module")
def code() -> PatchCode:
    return fit(seed=1, clips_per_size=32)


@pytest.fixture
def vae() -> torch.nn.Module:
    """Build a VAE in which no weight is zero, so every path contributes."""
    vae = build_vae(dim=8)
    train_vae.init_weights(vae, seed=0)
    generator = torch.Generator().manual_seed(0)
    for value in vae.parameters():
        value.add_(0.05 * torch.randn(value.shape, generator=generator))
    return vae.requires_grad_(False)


@pytest.mark.parametrize("frames", [1, 5, 17])
def test_whole_clips_equal_comfyuis_chunks(vae, frames):
    video = render([scene_at(0, seed=0)], frames=frames, height=32, width=48)
    latent = vae.encode(video)
    torch.testing.assert_close(whole_clip.encode(vae, video), latent, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(whole_clip.decode(vae, latent), vae.decode(latent), atol=1e-5, rtol=1e-5)


def test_folding_converts_between_comfyui_latents_and_model_latents(vae):
    video = render([scene_at(0, seed=0)], frames=5, height=32, width=32)
    folded = build_vae(dim=8)
    folded.load_state_dict(fold_latent_format(vae.state_dict()))
    constants, model_latent = latent_format(), vae.encode(video)
    comfyui_latent = folded.encode(video)
    torch.testing.assert_close(constants.process_in(comfyui_latent), model_latent, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(folded.decode(comfyui_latent), vae.decode(model_latent), atol=1e-4, rtol=1e-4)


def test_the_patch_code_has_unit_variance_and_reconstructs_well(code):
    video = render([scene_at(index, seed=9) for index in range(24)], frames=17, height=128, width=128)
    latents = code.latents(video)
    assert latents.shape == (24, 16, 5, 16, 16)
    assert (latents.std(dim=(0, 2, 3, 4)) - 1.0).abs().max() < 0.2
    assert latents.mean(dim=(0, 2, 3, 4)).abs().max() < 0.2
    assert psnr(code.video(latents), video).mean() > 26.5
    torch.testing.assert_close(code.latents(code.video(latents))[:, :, 1:], latents[:, :, 1:], atol=1e-3, rtol=1e-3)


def test_the_first_frame_is_repeated_to_fill_its_patch():
    video = torch.arange(5.0)[None, None, :, None, None].expand(1, 3, 5, 8, 8)
    frames = patches(video)[0, :, 0, 0].view(2, 4, 3, 8, 8)[:, :, 0, 0, 0]
    assert frames.tolist() == [[0.0] * 4, [1.0, 2.0, 3.0, 4.0]]
    with pytest.raises(ValueError, match="1 [+] 4k frames"):
        patches(torch.zeros(1, 3, 4, 8, 8))


def test_the_hadamard_matrix_is_orthonormal():
    matrix = hadamard(16)
    torch.testing.assert_close(matrix @ matrix.T, torch.eye(16, dtype=torch.float64))
    assert matrix.abs().unique().numel() == 1


def test_both_halves_learn(code):
    trainer = Trainer.start(dataclasses.replace(TINY, steps=60, learning_rate=1e-2), torch.device("cpu"))
    video = draw_video(0, TINY)
    losses = {"encoder": [], "decoder": []}
    with torch.enable_grad():
        for _ in range(40):
            half, loss = trainer.train_step(video, code)
            losses[half].append(loss)
    for half, values in losses.items():
        assert values[-1] < 0.7 * values[0], half


def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path, code):
    """Bit for bit: weights, averages, optimisers and data continue where they stopped."""
    for name in ("once", "twice"):
        (tmp_path / name).mkdir()
        code.save(tmp_path / name / "patch_code.safetensors")
    with torch.enable_grad():
        train_vae.train(TINY, Run(tmp_path / "once"), device=torch.device("cpu"), seconds=600)
        train_vae.train(TINY, Run(tmp_path / "twice"), device=torch.device("cpu"), seconds=0.2)
        train_vae.train(TINY, Run(tmp_path / "twice"), device=torch.device("cpu"), seconds=600)
    once, twice = (torch.load(tmp_path / name / "state.pt", weights_only=True) for name in ("once", "twice"))
    assert once["step"] == twice["step"] == TINY.steps
    for kind in ("model", "average"):
        for name, value in once[kind].items():
            assert torch.equal(value, twice[kind][name]), name


def test_a_folder_of_another_recipe_is_rejected(tmp_path):
    Run(tmp_path).open(TINY)
    with pytest.raises(ValueError, match="other options.*'dim': [(]8, 16[)]"):
        Run(tmp_path).open(dataclasses.replace(TINY, dim=16))


def test_the_export_loads_in_comfyui(tmp_path):
    import comfy.sd

    trainer = Trainer.start(TINY, torch.device("cpu"))
    run = Run(tmp_path / "run")
    run.open(TINY)
    run.save(trainer.state, force=True)
    train_vae.export(run, tmp_path / "vae.safetensors")
    vae = comfy.sd.VAE(sd=load_file(tmp_path / "vae.safetensors"))
    pixels = render([scene_at(0, seed=0)], frames=5, height=32, width=32)[0].permute(1, 2, 3, 0).add(1).div(2)
    latent = vae.encode(pixels)
    assert latent.shape == (1, 16, 2, 4, 4)
    assert vae.decode(latent).shape == (1, 5, 32, 32, 3)


@pytest.mark.skipif(not SHIPPED.exists(), reason="no trained VAE in tiny_wan/weights")
def test_the_shipped_vae_preserves_every_attribute():
    """After encoding and decoding, standard clips have at least 26 dB and every attribute."""
    weights = {name: value.float() for name, value in load_file(SHIPPED).items()}
    vae = build_vae(dim=8)
    vae.load_state_dict(weights)
    scenes = [scene_at(index, seed=31) for index in range(12)]
    video = render(scenes, frames=17, height=128, width=128)
    with torch.no_grad():
        restored = torch.cat([vae.decode(vae.encode(clips)) for clips in video.split(6)])
    assert psnr(restored.clamp(-1, 1), video).mean() > 26.0
    assert min(accuracy(read(restored), [scene.caption for scene in scenes]).values()) == 1.0


def test_the_report_has_all_measures(code):
    trainer = Trainer.start(TINY, torch.device("cpu"))
    report = held_out(trainer.vae, code, clips=1, frames=5, side=32)
    assert set(report) == {"psnr_code", "psnr", "encoder_error"}
