"""Hinge losses, the reconstruction loss, and heads that can tell two kinds of features apart."""

import pytest
import torch

from pyramid.training.adversarial import Branch, Heads, hinge_discriminator, hinge_generator, reconstruction


def test_hinge_losses():
    assert hinge_discriminator(torch.tensor([2.0, 1.0]), torch.tensor([-1.0, -3.0])) == 0
    assert hinge_discriminator(torch.tensor([0.0]), torch.tensor([0.0])) == 2
    assert hinge_generator(torch.tensor([1.0, 3.0])) == -2


def test_the_reconstruction_is_quadratic_near_and_linear_far():
    data = torch.zeros(1, 1, 1, 4, 4, dtype=torch.float64)
    assert reconstruction(data, data) == 0
    assert float(reconstruction(data + 1e-4, data, width=0.1)) == pytest.approx(1e-8 / 0.2, rel=1e-2)
    assert float(reconstruction(data + 50, data, width=0.1)) == pytest.approx(50 - 0.1, rel=1e-3)


@pytest.mark.parametrize("kind, axis", [("space", 2), ("time", 3)])
def test_a_branch_sees_its_own_axes_only(kind, axis):
    """Shuffling frames cannot change what the spatial branch says, shuffling places not what the temporal one does."""
    torch.manual_seed(0)
    branch = Branch(8, kind)
    features = torch.randn(2, 8, 5, 4, 4)
    order = torch.randperm(features.shape[axis])
    shuffled = features.index_select(axis, order)
    assert torch.allclose(branch(features), branch(shuffled), atol=1e-5)
    assert branch(features).shape == (2,)


def test_the_heads_learn_to_tell_two_kinds_apart_and_see_the_condition():
    torch.manual_seed(0)
    heads = Heads(16, taps=2, width=8)
    optimizer = torch.optim.Adam(heads.parameters(), lr=1e-2)
    generator = torch.Generator().manual_seed(1)
    condition = torch.randn(4, 16, generator=generator)

    def draw(kind):
        """Features that differ only in how neighbours in space go together."""
        rows = torch.randn(4, 3, 2, 4, 16, generator=generator)
        rows = rows.repeat_interleave(2, dim=2) if kind else torch.cat([rows, torch.randn(rows.shape, generator=generator)], 2)
        return [rows.flatten(1, 3), rows.flatten(1, 3) * 0.5]

    for _ in range(60):
        loss = hinge_discriminator(heads(draw(True), (3, 4, 4), condition), heads(draw(False), (3, 4, 4), condition))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    real, fake = (heads(draw(kind), (3, 4, 4), condition) for kind in (True, False))
    assert real.min() > fake.max()
    features = draw(True)
    assert not torch.allclose(heads(features, (3, 4, 4), condition), heads(features, (3, 4, 4), condition + 1))
