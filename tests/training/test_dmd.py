"""DMD gradients against the exact Kullback-Leibler divergence of a Gaussian student and Gaussian data, in float64."""

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from pyramid.latent_shape import LatentShape
from pyramid.lift import ResizeDrop
from pyramid.paths import stage_path
from pyramid.resize import project
from pyramid.stages import PRESETS, PyramidSpec
from pyramid.training.recipes import dmd

FULL = LatentShape(5, 8, 8)
SPECS = {
    "per-frame": PRESETS["pyramidal-wan"],
    "shared": PyramidSpec(first_frame="shared"),
    "db2": PyramidSpec(resize="db2"),
    "flow": PRESETS["pyramidal-flow"],
}
STAGES = [pytest.param(spec.stages(FULL)[index], id=f"{name}-{index}") for name, spec in SPECS.items() for index in (0, 1)]
STAGES.append(pytest.param(PRESETS["pyramidal-wan"].stages(FULL)[2], id="full-size"))
RHOS = [0.1, 0.5, 0.9]


def matrix_of(operator, shape) -> Tensor:
    """Return the matrix of a linear operator on tensors of one shape."""
    size = torch.Size(shape).numel()
    columns = [operator(unit.reshape(1, *shape)).flatten() for unit in torch.eye(size, dtype=torch.float64)]
    return torch.stack(columns, dim=1)


@dataclass
class Problem:
    """Data ``N(0, Sr)``, a student ``m + A z``, and the path ``x = M clean + S noise`` with velocity ``-L clean + noise``."""

    M: Tensor
    S: Tensor
    L: Tensor
    Sr: Tensor
    m: Tensor
    A: Tensor

    def divergence(self, m: Tensor, A: Tensor) -> Tensor:
        fake = self.M @ A @ A.T @ self.M.T + self.S @ self.S
        real = self.M @ self.Sr @ self.M.T + self.S @ self.S
        inverse, mean = torch.linalg.inv(real), self.M @ m
        logs = torch.logdet(real) - torch.logdet(fake)
        return 0.5 * ((inverse @ fake).trace() - len(m) + mean @ inverse @ mean + logs)

    def field(self, mean: Tensor, covariance: Tensor) -> tuple[Tensor, Tensor]:
        """Return slope and offset of ``E[velocity | x]``, which is linear in ``x``."""
        seen = self.M @ covariance @ self.M.T + self.S @ self.S
        slope = (-self.L @ covariance @ self.M.T + self.S) @ torch.linalg.inv(seen)
        return slope, -self.L @ mean - slope @ self.M @ mean

    def mean_gradients(self, Q: Tensor) -> tuple[Tensor, Tensor]:
        """Return ``E[g]`` and ``E[g z^T]`` for ``g = Q (F_real - F_fake)``: the gradients of the student's m and A."""
        real, fake = self.field(torch.zeros_like(self.m), self.Sr), self.field(self.m, self.A @ self.A.T)
        slope, offset = real[0] - fake[0], real[1] - fake[1]
        return Q @ (slope @ self.M @ self.m + offset), Q @ slope @ self.M @ self.A


def problem(shape, M, S, L) -> Problem:
    generator = torch.Generator().manual_seed(3)
    size = torch.Size(shape).numel()
    root, A = (torch.randn(size, size, generator=generator, dtype=torch.float64) / size**0.5 for _ in range(2))
    eye = torch.eye(size, dtype=torch.float64)
    return Problem(
        M, S, L, root @ root.T + 0.2 * eye, torch.randn(size, generator=generator, dtype=torch.float64), A + 0.5 * eye
    )


def pyramidal(stage, rho):
    """Return the problem on a stage's path, sigma per element, the natural level and the shape of a latent."""
    shape = (1, stage.shape.frames, stage.shape.height, stage.shape.width)
    natural = torch.tensor([stage.natural_at(rho)], dtype=torch.float64)
    zero = torch.zeros(1, *shape, dtype=torch.float64)

    def path(clean, noise):
        return dmd.student_path(clean, noise, stage, natural)

    M, S = matrix_of(lambda x: path(x, zero).x, shape), matrix_of(lambda x: path(zero, x).x, shape)
    L = -matrix_of(lambda x: path(x, zero).velocity, shape)
    sigma = stage.at(natural).sigma.expand(1, *shape).flatten()
    return problem(shape, M, S, L), sigma, natural, shape


def differences(value, at: Tensor, direction: Tensor, *, step=1e-5) -> float:
    return float((value(at + step * direction) - value(at - step * direction)) / (2 * step))


def assert_is_the_gradient(problem, gradients, *, tolerance=1e-6):
    """Compare with central differences in random directions of both parameters."""
    generator = torch.Generator().manual_seed(5)
    for which in range(2):
        at = (problem.m, problem.A)[which]
        for _ in range(3):
            direction = torch.randn(at.shape, generator=generator, dtype=torch.float64)
            direction /= direction.norm()
            if which == 0:
                expected = differences(lambda m: problem.divergence(m, problem.A), at, direction)
            else:
                expected = differences(lambda A: problem.divergence(problem.m, A), at, direction)
            actual = float((gradients[which] * direction).sum())
            assert abs(actual - expected) < tolerance * max(1.0, gradients[which].norm().item())


@pytest.mark.parametrize("rho", RHOS)
@pytest.mark.parametrize("stage", STAGES)
def test_the_pyramidal_gradient_is_the_gradient_of_the_divergence(stage, rho):
    """Undo the normalisation, which divides by ``(1 - sigma)^2 / sigma`` in every frame."""
    task, sigma, natural, shape = pyramidal(stage, rho)
    Q = torch.diag((1 - sigma) ** 2 / sigma) @ matrix_of(lambda d: dmd.carried_back(d, stage, natural), shape)
    assert_is_the_gradient(task, task.mean_gradients(Q))


@pytest.mark.parametrize("stage", STAGES)
def test_the_simplified_gradient_is_exact_in_the_first_stage_and_descends_in_the_others(stage):
    for rho in RHOS:
        task, _, natural, shape = pyramidal(stage, rho)
        eye = torch.eye(len(task.m), dtype=torch.float64)
        exact = task.mean_gradients(matrix_of(lambda d: dmd.carried_back(d, stage, natural), shape))  # noqa: B023
        star = task.mean_gradients(eye)
        cosine = torch.nn.functional.cosine_similarity(*(torch.cat([g[0], g[1].flatten()]) for g in (exact, star)), dim=0)
        if stage.from_coarser is None:
            assert cosine > 1 - 1e-12
        else:
            assert 0.1 < cosine < 1 - 1e-4


@pytest.mark.parametrize("s", [0.05, 0.4, 0.9])
def test_the_gradient_with_a_plain_teacher_is_the_gradient_of_the_divergence_on_the_plain_path(s):
    shape, sigma = (1, 3, 4, 4), torch.tensor([s], dtype=torch.float64)
    zero = torch.zeros(1, *shape, dtype=torch.float64)
    M, S = (matrix_of(lambda x, k=k: dmd.plain_path(*((x, zero), (zero, x))[k], sigma)[0], shape) for k in range(2))
    L = -matrix_of(lambda x: dmd.plain_path(x, zero, sigma)[1], shape)
    task = problem(shape, M, S, L)
    assert_is_the_gradient(task, task.mean_gradients((1 - s) ** 2 / s * torch.eye(len(task.m), dtype=torch.float64)))


@pytest.mark.parametrize("stage", STAGES)
def test_a_critic_that_is_the_teacher_gives_no_gradient(stage):
    task, _, natural, shape = pyramidal(stage, 0.5)
    task.Sr, task.m = task.A @ task.A.T, torch.zeros_like(task.m)
    Q = matrix_of(lambda d: dmd.carried_back(d, stage, natural), shape)
    assert all(g.abs().max() < 1e-10 for g in task.mean_gradients(Q))


@pytest.mark.parametrize("stage", STAGES)
def test_the_high_band_fades_from_the_clean_to_the_noisy_end(stage):
    like = torch.zeros(1, 1, stage.shape.frames, 2, 2, dtype=torch.float64)
    shares = [dmd.high_band_share(stage, torch.tensor([stage.natural_at(rho)]), like=like) for rho in (1e-6, 0.5, 1 - 1e-6)]
    if stage.from_coarser is None:
        assert all(torch.allclose(share, torch.ones_like(share), atol=1e-5) for share in shares)
    else:
        clean, noisy = stage.per_frame(stage.clean.sigma, like), stage.per_frame(stage.noisy.sigma, like)
        kappa = (1 - clean) * noisy / (noisy - clean)
        assert torch.allclose(shares[0], 1 / kappa.expand_as(shares[0]), atol=1e-4) and shares[2].abs().max() < 1e-4
        assert (shares[2] < shares[1]).all() and (shares[1] < shares[0]).all()


def test_a_students_path_is_the_path_of_the_stage_with_the_low_band_of_its_prediction():
    stage = SPECS["per-frame"].stages(FULL)[1]
    clean, noise = torch.randn(2, 2, 4, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    natural = torch.tensor([0.7, 0.8])
    path = dmd.student_path(clean, noise, stage, natural)
    assert torch.equal(path.x, stage_path(clean, project(clean, stage.from_coarser), noise, stage, natural).x)


def test_a_drop_blurs_a_students_path_as_small_videos_blur_its_teachers():
    stage = SPECS["per-frame"].stages(FULL)[1]
    clean, noise = torch.randn(2, 2, 4, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    small = torch.randn(2, 4, 2, 2, 2, generator=torch.Generator().manual_seed(1))
    natural = torch.tensor([0.7, 0.8])
    path = dmd.student_path(clean, noise, stage, natural, lambda x, size: small.reshape(*x.shape[:2], *size))
    expected = stage_path(clean, stage.from_coarser.up(small), noise, stage, natural)
    assert torch.equal(path.x, expected.x) and torch.equal(path.velocity, expected.velocity)
    averaged = dmd.student_path(clean, noise, stage, natural, ResizeDrop(stage.from_coarser))
    torch.testing.assert_close(averaged.x, dmd.student_path(clean, noise, stage, natural).x)


def test_the_matching_loss_has_the_given_gradient():
    clean = torch.randn(2, 3, 1, 4, 4, requires_grad=True)
    gradient = torch.randn(clean.shape)
    dmd.matching_loss(clean, gradient).backward()
    assert torch.allclose(clean.grad, gradient / clean.numel(), atol=1e-7)


def test_the_weight_does_not_depend_on_the_size_of_the_stage_and_is_bounded():
    sigma = torch.tensor([0.5, 0.25])
    for side in (2, 8):
        teacher, velocity = torch.ones(2, 4, 3, side, side), torch.zeros(2, 4, 3, side, side)
        assert torch.allclose(dmd.weight(sigma, teacher, velocity).flatten(), sigma)
    assert dmd.weight(sigma, velocity, velocity).max() <= 0.5 / dmd.MIN_DISTANCE


@pytest.mark.parametrize("kind", ["cauchy", "mse"])
def test_the_teach_loss_is_zero_on_the_data_and_quadratic_near_it(kind):
    data = torch.randn(1, 2, 1, 4, 4)
    assert dmd.teach_loss(data, data, kind=kind) == 0
    assert float(dmd.teach_loss(data + 1e-3, data, kind=kind)) == pytest.approx(1e-6, rel=1e-2)
    far = dmd.teach_loss(data + 100, data, kind=kind)
    assert (far < 10) == (kind == "cauchy")


def test_guidance_follows_wans_convention():
    conditional, empty = torch.tensor(3.0), torch.tensor(1.0)
    assert dmd.guided(conditional, empty, 1.0) == 3 and dmd.guided(conditional, empty, 5.0) == 11
