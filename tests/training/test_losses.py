"""The losses of finetuning on samples whose exact velocity is known."""

import pytest
import torch

from pyramid.latent_shape import LatentShape
from pyramid.paths import stage_path
from pyramid.stages import PRESETS
from pyramid.training.recipes.losses import clean_end, flow_loss, natural_sample, teacher_end, teacher_loss

SPECS = {"per-frame": PRESETS["pyramidal-wan"], "flow": PRESETS["pyramidal-flow"], "time": PRESETS["tpdiff"]}
STAGES = [
    pytest.param(stage, id=f"{name}-{stage.index}")
    for name, spec in SPECS.items()
    for stage in spec.stages(LatentShape(5, 8, 8))
]


def samples(stage, rho):
    generator = torch.Generator().manual_seed(stage.index)
    shape = (2, 4, stage.shape.frames, stage.shape.height, stage.shape.width)
    clean, noise = torch.randn(shape, generator=generator), torch.randn(shape, generator=generator)
    blurred = torch.zeros_like(clean)
    if stage.from_coarser is not None:
        blurred = stage.from_coarser.up(stage.from_coarser.down(torch.randn(shape, generator=generator)))
    natural = stage.natural_at(torch.full((2,), rho))
    return clean, noise, natural, stage_path(clean, blurred, noise, stage, natural)


@pytest.mark.parametrize("stage", STAGES)
def test_the_exact_velocity_has_zero_flow_loss_and_leads_to_the_clean_end(stage):
    clean, noise, _, path = samples(stage, 0.7)
    assert flow_loss(path.velocity, path) == 0
    ends = teacher_end(clean, noise, stage), clean_end(path, path.velocity, stage)
    assert torch.allclose(*ends, atol=1e-5)


@pytest.mark.parametrize("rho", [1.0, 0.5, 0.1])
@pytest.mark.parametrize("stage", STAGES)
def test_with_a_teacher_that_knows_the_data_the_teacher_loss_is_rho_squared_times_the_flow_loss(stage, rho):
    clean, noise, _, path = samples(stage, rho)
    velocity = path.velocity + torch.randn(path.velocity.shape, generator=torch.Generator().manual_seed(9))
    loss = teacher_loss(path, velocity, clean, noise, stage)
    assert torch.allclose(loss, rho**2 * flow_loss(velocity, path), rtol=1e-3)


def test_the_teacher_gets_no_gradient():
    stage = SPECS["per-frame"].stages(LatentShape(5, 8, 8))[-1]
    clean, noise, _, path = samples(stage, 0.5)
    teacher, velocity = clean.clone().requires_grad_(True), path.velocity.clone().requires_grad_(True)
    teacher_loss(path, velocity, teacher * 1.1, noise, stage).backward()
    assert teacher.grad is None and velocity.grad.abs().sum() > 0


@pytest.mark.parametrize("stage", STAGES)
def test_the_teachers_input_is_the_ordinary_flow_at_the_sigma_of_the_path(stage):
    clean, noise, natural, path = samples(stage, 0.4)
    x, sigma = natural_sample(clean, noise, stage, natural)
    assert torch.allclose(sigma, path.level.sigma[:, 0, -1, 0, 0])
    assert torch.allclose(x, clean + sigma[:, None, None, None, None] * (noise - clean), atol=1e-6)
