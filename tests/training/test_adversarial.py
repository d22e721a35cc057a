"""Hinge losses, the reconstruction loss, and the discriminator heads."""

import pytest
import torch

from pyramid.training.recipes.adversarial import (
    Branch,
    DiscriminatorHeads,
    discriminator_accuracy,
    hinge_discriminator,
    hinge_generator,
    reconstruction,
)


def test_hinge_losses_have_their_defined_values():
    assert hinge_discriminator(torch.tensor([2.0, 1.0]), torch.tensor([-1.0, -3.0])) == 0
    assert hinge_discriminator(torch.tensor([0.0]), torch.tensor([0.0])) == 2
    assert hinge_generator(torch.tensor([1.0, 3.0])) == -2


def test_the_reconstruction_loss_is_quadratic_for_small_and_linear_for_large_errors():
    data = torch.zeros(1, 1, 1, 4, 4, dtype=torch.float64)
    assert reconstruction(data, data) == 0
    assert float(reconstruction(data + 1e-4, data, width=0.1)) == pytest.approx(1e-8 / 0.2, rel=1e-2)
    assert float(reconstruction(data + 50, data, width=0.1)) == pytest.approx(50 - 0.1, rel=1e-3)


def test_the_accuracy_counts_pairs_whose_data_has_the_larger_mean_logit():
    real, fake = torch.tensor([[3.0, -1.0], [0.0, 0.0], [1.0, 1.0]]), torch.tensor([[0.0, 0.0], [5.0, -1.0], [2.0, -1.0]])
    assert float(discriminator_accuracy(real, fake)) == pytest.approx(2 / 3)
    assert discriminator_accuracy(real, real) == 0


@pytest.mark.parametrize("kind, axis", [("space", 2), ("time", 3)])
def test_a_branch_mixes_only_positions_along_its_own_axes(kind, axis):
    """Permuting frames permutes the logits of the spatial branch, permuting rows those of the temporal one."""
    torch.manual_seed(0)
    branch, features, direction = Branch(8, kind), torch.randn(2, 8, 5, 4, 3), torch.randn(2, 8)
    order = torch.tensor([3, 1, 0, 2, 4][: features.shape[axis]])
    logits, permuted = (branch(x, direction).unflatten(1, (5, 4, 3)) for x in (features, features.index_select(axis, order)))
    assert torch.allclose(logits.index_select(axis - 1, order), permuted, atol=1e-5)
    other = 5 - axis
    order = torch.tensor([3, 1, 0, 2, 4][: features.shape[other]])
    permuted = branch(features.index_select(other, order), direction).unflatten(1, (5, 4, 3))
    assert not torch.allclose(logits.index_select(other - 1, order), permuted, atol=1e-2)


def test_there_is_a_logit_per_position_that_does_not_depend_on_the_scale_of_the_features():
    torch.manual_seed(0)
    heads = DiscriminatorHeads(16, taps=2, width=8, condition=12)
    features, condition = [torch.randn(3, 30, 16) for _ in range(2)], torch.randn(3, 12)
    logits = heads(features, (5, 2, 3), condition)
    assert logits.shape == (3, 2 * 2 * 30)
    assert torch.allclose(heads([10 * tap for tap in features], (5, 2, 3), condition), logits, atol=1e-4)


def test_the_heads_learn_to_separate_two_kinds_of_features_and_depend_on_the_condition():
    torch.manual_seed(0)
    heads = DiscriminatorHeads(16, taps=2, width=8)
    optimizer = torch.optim.Adam(heads.parameters(), lr=1e-2)
    generator = torch.Generator().manual_seed(1)
    condition = torch.randn(4, 16, generator=generator)

    def draw(kind):
        """Return features of two kinds that differ only in the correlation of neighbouring rows."""
        rows = torch.randn(4, 3, 2, 4, 16, generator=generator)
        rows = rows.repeat_interleave(2, dim=2) if kind else torch.cat([rows, torch.randn(rows.shape, generator=generator)], 2)
        return [rows.flatten(1, 3), rows.flatten(1, 3) * 0.5]

    for _ in range(60):
        loss = hinge_discriminator(heads(draw(True), (3, 4, 4), condition), heads(draw(False), (3, 4, 4), condition))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    real, fake = (heads(draw(kind), (3, 4, 4), condition).mean(dim=1) for kind in (True, False))
    assert real.min() > fake.max()
    features = draw(True)
    assert not torch.allclose(heads(features, (3, 4, 4), condition), heads(features, (3, 4, 4), condition.flip(0)), atol=1e-2)
