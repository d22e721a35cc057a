"""Noise masks on Gaussian data, where a region of whole blocks is independent of the rest of the video.

The coefficients of the data are independent, and each belongs to one block. A run under a mask of whole blocks is therefore,
inside the mask, the same run without a mask; outside it is the given video.
"""

from __future__ import annotations

import comfy.samplers
import pytest
import torch
from comfy.patcher_extension import WrappersMP
from comfy_extras.nodes_differential_diffusion import DifferentialDiffusion
from comfyui_gaussian import GaussianComfyUI
from comfyui_graph import GivenNoise, guider

from pyramidalwan.pyramid.latent_shape import LatentShape
from pyramidalwan.pyramid.masks import coarser_mask
from pyramidalwan.pyramid.noise_pyramid import whiten
from pyramidalwan.pyramid.paths import stage_path
from pyramidalwan.pyramid.resize import missing_band
from pyramidalwan.pyramid.stages import PRESETS, PyramidSpec
from pyramidalwan.samplers.any_sampler import pyramidal_model
from pyramidalwan.samplers.run import PyramidRun
from pyramidalwan.samplers.schedule import follow_sigmas

FULL = LatentShape(5, 16, 16)
SHARED = {"field": "natural", "timestep_source": "sigma", "first_frame": "shared"}
SPECS = {
    "HW": PRESETS["training-free"],
    "THW-HW": PyramidSpec((0.9, 0.7), ("THW", "HW"), **SHARED),
    "wan": PRESETS["pyramidal-wan"],
    "wan-shared": PyramidSpec((0.9, 0.6), ("HW", "THW"), first_frame="shared"),
}
NATURAL = ["HW", "THW-HW"]
CURVE = torch.linspace(1, 0, 17)


def video(seed=3):
    return torch.randn(1, 16, *FULL, generator=torch.Generator().manual_seed(seed))


def block_mask():
    """Return a mask of whole blocks of two halvings in all axes: the later frames, and a box of height and width."""
    mask = torch.zeros(1, 1, *FULL)
    mask[:, :, 1:, 4:12, 8:16] = 1
    return mask


def drawn():
    return torch.randn(1, 16, *FULL, generator=torch.Generator().manual_seed(5))


def run(model, spec, latent, sigmas=CURVE, sampler="euler"):
    """Return the whole result of a run whose steps are those of SIGMAS."""
    followed, levels = follow_sigmas(sigmas, spec)
    sampler = comfy.samplers.sampler_object(sampler)
    return PyramidRun(guider(model), GivenNoise(drawn(), 5), sampler, levels, followed).sample(latent)


def levels_above(stages, index):
    return reversed(stages[index + 1 :])


def low(latent, stages, index):
    for finer in levels_above(stages, index):
        latent = finer.from_coarser.down(latent)
    return latent


def low_noise(noise, stages, index):
    for finer in levels_above(stages, index):
        noise = whiten(finer.from_coarser.down(noise), finer.from_coarser)
    return noise


def low_mask(mask, spec, index):
    for axes in reversed(spec.downsample_axes[index:]):
        mask = coarser_mask(mask, axes)
    return mask


@pytest.mark.parametrize("end", [0.0, 0.75, 0.95], ids=["whole", "ends in a stage", "ends in the first"])
@pytest.mark.parametrize("name", SPECS)
def test_inside_is_the_run_without_a_mask_and_outside_is_given(t2v_model, name, end):
    """The output, every draft and the clean prediction."""
    spec, mask = SPECS[name], block_mask()
    if end and name not in NATURAL:
        end = 0.3  # runs with finetuned weights end in the last stage only
    model, curve = GaussianComfyUI(spec, FULL).into(t2v_model), torch.linspace(1, end, 17)
    free = run(model, spec, {"samples": torch.zeros(1, 16, *FULL)}, curve)
    masked = run(model, spec, {"samples": video(), "noise_mask": mask}, curve)
    stages = spec.stages(FULL)
    odds = end / (1 - end)
    process_in, process_out = t2v_model.model.process_latent_in, t2v_model.model.process_latent_out
    last = follow_sigmas(curve, spec)[0].stages(FULL)[-1]
    clean = process_in(video())
    outside = process_out(stage_path(clean, last.low_band(clean), drawn(), last, end).x / (1 - end))
    where = mask.expand(1, 16, *FULL) > 0
    made = masked.output["samples"]
    torch.testing.assert_close(made[where], free.output["samples"][where], atol=2e-4 * (1 + odds), rtol=1e-4)
    torch.testing.assert_close(made[~where], outside[~where], atol=2e-4 * (1 + odds), rtol=1e-4)
    for index, (draft, unmasked) in enumerate(zip(masked.drafts, free.drafts, strict=True)):
        size = tuple(stages[index].shape)
        if tuple(draft["samples"].shape[2:]) != size:
            continue  # a run that ends early returns its last prediction at full size
        where = (low_mask(mask, spec, index) > 0).expand(1, 16, *size)
        torch.testing.assert_close(draft["samples"][where], unmasked["samples"][where], atol=2e-4, rtol=1e-4)
        torch.testing.assert_close(draft["samples"][~where], low(video(), stages, index)[~where], atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("name", SPECS)
def test_the_given_region_follows_the_path_of_each_stage(t2v_model, name):
    """In every call the network sees the given part at the level of the step, blurred where the stage's path is."""
    spec, mask, seen = SPECS[name], block_mask(), []
    data = GaussianComfyUI(spec, FULL)

    def look(executor, x, timestep, *args, **kwargs):
        seen.append((x.clone(), float(timestep.flatten()[0])))
        return executor(x, timestep, *args, **kwargs)

    model = data.into(t2v_model)
    model.add_wrapper_with_key(WrappersMP.PREDICT_NOISE, "look", look)
    run(model, spec, {"samples": video(), "noise_mask": mask})
    followed = follow_sigmas(CURVE, spec)[0].stages(FULL)
    assert len(seen) == 16
    for x, natural in seen:
        stage = next(stage for stage in followed if tuple(stage.shape) == tuple(x.shape[2:]))
        clean = low(t2v_model.model.process_latent_in(video()), followed, stage.index)
        noise = low_noise(drawn(), followed, stage.index)
        blurred = clean if stage.from_coarser is None else stage.low_band(clean)
        wanted = stage_path(clean, blurred, noise, stage, natural).x
        where = (low_mask(mask, spec, stage.index) == 0).expand_as(x)
        torch.testing.assert_close(x[where], wanted[where], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", NATURAL)
@pytest.mark.parametrize("start", [0.95, 0.75, 0.5])
def test_a_mask_and_a_noised_video(t2v_model, name, start):
    """Denoise below 1 under a mask: inside it is the run without one."""
    spec, mask = SPECS[name], block_mask()
    model, curve = GaussianComfyUI(spec, FULL).into(t2v_model), torch.linspace(start, 0, 11)
    free, masked = (run(model, spec, {"samples": video(), **more}, curve) for more in ({}, {"noise_mask": mask}))
    where = mask.expand(1, 16, *FULL) > 0
    torch.testing.assert_close(masked.output["samples"][where], free.output["samples"][where], atol=2e-4, rtol=1e-4)
    torch.testing.assert_close(masked.output["samples"][~where], video()[~where], atol=2e-4, rtol=1e-4)


def test_two_samplers_under_a_mask_that_the_first_alone_has(t2v_model):
    """The first run ends in a low stage at full size; the second, without node and mask, starts from it."""
    spec, mask = SPECS["HW"], block_mask()
    model = GaussianComfyUI(spec, FULL).into(t2v_model)
    first = pyramidal_model(model, spec, lambda text: None)
    euler = comfy.samplers.sampler_object("euler")
    with_mask = guider(first).sample(drawn(), video(), euler, CURVE[:5], denoise_mask=mask, seed=5)
    without = guider(first).sample(drawn(), torch.zeros_like(drawn()), euler, CURVE[:5], seed=5)
    where = mask.expand(1, 16, *FULL) > 0
    torch.testing.assert_close(with_mask[where], without[where], atol=1e-3, rtol=1e-4)
    natural = float(CURVE[4])
    path = t2v_model.model.process_latent_in(video()) + natural / (1 - natural) * drawn()
    torch.testing.assert_close(with_mask[~where], t2v_model.model.process_latent_out(path)[~where], atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize("differential", [False, True], ids=["soft", "differential"])
def test_a_stage_starts_inside_a_soft_mask_as_without_one(t2v_model, differential):
    """ComfyUI blends soft masks in each step; a stage starts from what its mask lets through, and not from a blend.

    At the first level of the high stage the missing band is noise where the mask is open, and also holds the given video's
    where it is closed. 'Differential Diffusion' closes each grey level until its own step.
    """
    spec = SPECS["HW"]
    greys = torch.tensor([0.0, 0.3, 0.9, 1.0])
    mask = greys.repeat_interleave(4).view(1, 1, 1, 16, 1).expand(1, 1, *FULL)
    started = []

    def sampler(model, x, sigmas, **options):
        started.append(x.clone())
        return comfy.samplers.k_diffusion_sampling.sample_euler(model, x, sigmas, **options)

    model = pyramidal_model(GaussianComfyUI(spec, FULL).into(t2v_model), spec, lambda text: None)
    if differential:
        model = DifferentialDiffusion.execute(model, 1.0)[0]
    guider(model).sample(drawn(), video(), comfy.samplers.KSAMPLER(sampler), CURVE, denoise_mask=mask, seed=5)
    resize = spec.stages(FULL)[1].from_coarser
    natural = min(CURVE.tolist(), key=lambda level: abs(level - 0.8))
    opened = (greys >= natural if differential else greys > 0).repeat_interleave(4).view(1, 1, 1, 16, 1)
    noise, given = missing_band(drawn(), resize), missing_band(t2v_model.model.process_latent_in(video()), resize)
    wanted = natural * noise + (1 - natural) * given * ~opened
    torch.testing.assert_close(missing_band(started[1], resize), wanted, atol=1e-4, rtol=1e-4)
