"""Masks at the size of each stage: a coarse latent is sampled if it covers any part of the region."""

from __future__ import annotations

import itertools

import pytest
import torch

from pyramid.masks import coarser_mask
from pyramid.resize import make_resize


def brute_force(mask: torch.Tensor, axes: str) -> torch.Tensor:
    """Return the largest value among the fine latents that each coarse one covers, one by one."""
    frames, height, width = mask.shape[2:]
    times = [(0,), *((2 * k + 1, 2 * k + 2) for k in range(frames // 2))] if "T" in axes else [(k,) for k in range(frames)]
    sides = [
        [(2 * k, 2 * k + 1) if "HW" in axes else (k,) for k in range(n // (2 if "HW" in axes else 1))] for n in (height, width)
    ]
    made = torch.zeros(*mask.shape[:2], len(times), len(sides[0]), len(sides[1]))
    for (t, times_), (i, rows), (j, columns) in itertools.product(enumerate(times), enumerate(sides[0]), enumerate(sides[1])):
        covered = [mask[:, :, a, b, c] for a in times_ for b in rows for c in columns]
        made[:, :, t, i, j] = torch.stack(covered).amax(0)
    return made


@pytest.mark.parametrize("axes", ["HW", "T", "THW"])
def test_a_coarse_latent_has_the_largest_value_that_it_covers(axes):
    mask = torch.rand(2, 3, 5, 6, 4, generator=torch.Generator().manual_seed(0))
    assert torch.equal(coarser_mask(mask, axes), brute_force(mask, axes))


@pytest.mark.parametrize("axes", ["HW", "T", "THW"])
def test_outside_the_coarse_mask_nothing_of_the_region_is_seen(axes):
    """The low band of a video outside the coarse mask does not depend on what stands inside the region."""
    generator = torch.Generator().manual_seed(1)
    mask = (torch.rand(1, 1, 5, 8, 8, generator=generator) > 0.9).float()
    video, other = (torch.randn(1, 1, 5, 8, 8, generator=generator) for _ in range(2))
    resize, outside = make_resize("haar", axes), coarser_mask(mask, axes) == 0
    changed = other * mask + video * (1 - mask)
    assert torch.equal(resize.down(changed)[outside], resize.down(video)[outside]) and outside.any()
    assert not torch.equal(resize.down(changed), resize.down(video))


@pytest.mark.parametrize("axes", ["HW", "T", "THW"])
def test_masks_of_one_value_keep_it(axes):
    for value in (0.0, 0.25, 1.0):
        assert torch.equal(coarser_mask(torch.full((1, 1, 3, 4, 4), value), axes).unique(), torch.tensor([value]))


def test_the_first_frame_stays_alone():
    """Wan's first latent frame has no partner in time: a mask of all later frames gives it alone, at every size."""
    mask = torch.ones(1, 1, 9, 4, 4)
    mask[:, :, 0] = 0
    twice = coarser_mask(coarser_mask(mask, "THW"), "THW")
    assert twice.shape == (1, 1, 3, 1, 1) and twice.flatten().tolist() == [0, 1, 1]
