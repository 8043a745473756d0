"""Losses in pieces against the same losses of everything at once."""

import pytest
import torch
import torch.nn.functional as F

from ufo_tune.core import pieces
from ufo_tune.core.losses import dice, focal


def losses(small, targets):
    logits = F.interpolate(small[:, None], size=tuple(targets.shape[-2:]), mode="bilinear")[:, 0]
    return {"dice": dice(logits, targets), "focal": focal(logits, targets)}


@pytest.fixture
def maps():
    g = torch.Generator().manual_seed(0)
    targets = torch.rand(5, 24, 32, generator=g).round()
    return torch.randn(5, 6, 8, generator=g).requires_grad_(), targets


@pytest.mark.parametrize("pixels", [1, 24 * 32 * 2, 2**20], ids=["one by one", "two and a rest", "all"])
def test_pieces_have_the_terms_and_gradients_of_the_whole(maps, pixels):
    small, targets = maps
    found, wanted = pieces.summed(losses, small, list(targets), pixels=pixels), losses(small, targets)
    for name in ("dice", "focal"):
        torch.testing.assert_close(found[name].total, wanted[name].total)
        assert float(found[name].count) == 5
    (mine,) = torch.autograd.grad(0.7 * found["dice"].total + 3.0 * found["focal"].total, small)
    (theirs,) = torch.autograd.grad(0.7 * wanted["dice"].total + 3.0 * wanted["focal"].total, small)
    torch.testing.assert_close(mine, theirs)
    assert float(mine.abs().max()) > 0


def test_only_gradients_of_the_small_maps_are_kept(maps):
    small, targets = maps
    total = pieces.summed(losses, small, list(targets), pixels=24 * 32)["dice"].total
    (kept,) = total.grad_fn.next_functions[0][0].saved_tensors
    assert kept.shape == (2, *small.shape)


def test_without_gradients_there_are_none(maps):
    small, targets = maps
    with torch.no_grad():
        found = pieces.summed(losses, small, list(targets))
    assert not found["dice"].total.requires_grad
    torch.testing.assert_close(found["dice"].total, losses(small, targets)["dice"].total.detach())


@pytest.mark.parametrize(
    ("group", "budget", "sizes"),
    [(3, 0, [3, 3]), (3, 5, [3, 3]), (3, 6, [6]), (1, 0, [1] * 6), (1, 4, [4, 2]), (2, 5, [4, 2])],
)
def test_maps_that_belong_together_are_in_one_piece(group, budget, sizes):
    """Six maps under a budget of so many: whole groups, one at least."""
    small, seen = torch.zeros(6, 2, 2, requires_grad=True), []

    def watched(part, targets):
        seen.append(len(targets))
        return losses(part, targets)

    pieces.summed(watched, small, [torch.zeros(4, 4)] * 6, pixels=16 * budget, group=group)
    assert seen == sizes
