"""The tiny image-to-video transformer: training matches ComfyUI's conditioning, and videos start with the given frame."""

from __future__ import annotations

import pytest
import torch

from harness.in_process import ROOT, use_comfyui
from tiny_wan.recipes.patch_code import fit
from tiny_wan.recipes.train_i2v import START, ImageRecipe
from tiny_wan.recipes.train_t2v import Size, draw_batch
from tiny_wan.world.grammar import draw_captions
from tiny_wan.world.reading import read
from tiny_wan.world.scenes import render, scene_for
from tiny_wan.world.words import embed_all

WEIGHTS = ROOT / "tiny_wan" / "weights"
FILE = WEIGHTS / "tiny_wan_i2v.safetensors"
FRAMES, SIDE = 17, 128


@pytest.fixture(scope="module")
def code():
    return fit(seed=ImageRecipe().seed)


def comfyui_model():
    use_comfyui()
    import comfy.sd

    return comfy.sd.load_diffusion_model(str(FILE))


def conditioning(captions, videos):
    """Yield prompts with the first frame of each video (B, 3, T, H, W) in -1..1, by ComfyUI's own node."""
    use_comfyui()
    import comfy.sd
    import comfy.utils
    from comfy_extras.nodes_wan import WanImageToVideo

    vae = comfy.sd.VAE(sd=comfy.utils.load_torch_file(str(WEIGHTS / "tiny_wan_vae.safetensors")))
    for caption, video in zip(captions, videos, strict=True):
        first = video[:, :1].permute(1, 2, 3, 0).add(1).div(2)
        positive, negative = ([[embed_all([text]), {}]] for text in (caption, None))
        yield vae, WanImageToVideo.execute(positive, negative, vae, SIDE, SIDE, FRAMES, 1, start_image=first).args


def test_training_starts_as_the_text_to_video_model(code):
    """The new channels have no effect before the first step."""
    recipe = ImageRecipe()
    batch = draw_batch(0, Size(2, 4, 2, 1.0), recipe, code)
    assert batch.beside.shape == (2, 20, 2, 4, 4)
    model = recipe.build()
    with torch.no_grad():
        seen, blind = (
            model(torch.cat([batch.noise, beside], dim=1), 1000 * batch.sigma, batch.context)
            for beside in (batch.beside, torch.zeros_like(batch.beside))
        )
    assert torch.equal(seen, blind) and seen.shape == batch.noise.shape
    assert START.is_file()


@pytest.mark.skipif(not FILE.is_file(), reason="no trained image-to-video weights in tiny_wan/weights")
def test_the_recipes_mask_and_image_equal_comfyuis(code):
    """ComfyUI's node encodes with the tiny VAE, the recipe with the patch code."""
    captions = draw_captions(2, seed=5)
    videos = render([scene_for(caption, seed=1) for caption in captions], frames=FRAMES, height=SIDE, width=SIDE)
    ours = ImageRecipe().beside(videos, code.latents(videos), code, torch.Generator().manual_seed(0))
    model = comfyui_model().model
    for row, (_, (positive, _, latent)) in enumerate(conditioning(captions, videos)):
        noise = torch.zeros_like(latent["samples"])
        theirs = model.concat_cond(noise=noise, device=noise.device, **positive[0][1])
        assert theirs.shape == ours[row : row + 1].shape
        assert torch.equal(theirs[0, :4], ours[row, :4])
        error = (theirs[0, 4:, 0] - ours[row, 4:, 0]).square().mean() / ours[row, 4:, 0].square().mean()
        assert error < 0.05


@pytest.mark.skipif(not FILE.is_file(), reason="no trained image-to-video weights in tiny_wan/weights")
def test_a_video_starts_with_its_image_and_follows_its_prompt():
    """Sampled by the sampler node without a pyramid: the first frame is the image, colours and motion are the prompt's."""
    use_comfyui()
    from pyramidalwan.nodes.sampler import PyramidalWanSampler
    from pyramidalwan.pyramid.stages import PRESETS

    captions = draw_captions(4, seed=6)
    videos = render([scene_for(caption, seed=2) for caption in captions], frames=FRAMES, height=SIDE, width=SIDE)
    model, right, errors = comfyui_model(), [], []
    for (vae, (positive, negative, latent)), caption, video in zip(
        conditioning(captions, videos), captions, videos, strict=True
    ):
        output = PyramidalWanSampler.execute(
            model=model, positive=positive, negative=negative, latent=latent, seed=3, steps="8", cfg="2", sampler_name="euler",
            denoise=1.0, grid="auto", shift=5.0, start_stage="auto", end_stage="auto", pyramid=PRESETS["plain"],
        )  # fmt: skip
        made = vae.decode(output.args[0]["samples"]).reshape(-1, SIDE, SIDE, 3).permute(3, 0, 1, 2) * 2 - 1
        errors.append((made[:, 0] - video[:, 0]).square().mean().item() / video[:, 0].var().item())
        (reading,) = read(made[None])
        right.append(reading.agrees(caption))
    assert sum(errors) / len(errors) < 0.2  # between different scenes it is about 2
    for name in ("colour", "ground", "motion"):
        assert sum(row[name] for row in right) >= 3, name
