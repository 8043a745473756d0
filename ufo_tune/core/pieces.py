"""Losses of large maps, piece by piece: the maps of one piece exist at a time, and nothing is computed twice.

Masks are supervised at the resolution of the image, but their gradient is wanted at the resolution of the tokens, where
it is a hundredth of the size. So it is taken as soon as a piece's loss is known, and only it is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ufo_tune.core.types import LossTerm

PIXELS = 2**20
"""Of a piece: 4 MB a map in float32, of which a mask's losses hold about six."""
Losses = Callable[[Tensor, Tensor], Mapping[str, LossTerm]]
"""Small maps [m, ...] and their targets [m, H, W] -> terms, each a sum over the m."""


def summed(
    losses: Losses, small: Tensor, targets: Sequence[Tensor], *, pixels: int = PIXELS, group: int = 1
) -> dict[str, LossTerm]:
    """``losses(small, torch.stack(targets))``, computed in pieces; totals are differentiable once.

    Args:
        losses: gives the same terms for every piece.
        small: [M, ...], at least one.
        targets: M x [H, W] of one size.
        pixels: of the targets of a piece; one group at least.
        group: so many maps in a row belong together.
    """
    each = group * max(1, pixels // (group * targets[0].numel()))
    names: list[str] = []
    totals, counts = _Summed.apply(losses, small, targets, each, names)  # type: ignore[no-untyped-call]
    return {name: LossTerm(totals[k], counts[k]) for k, name in enumerate(names)}


class _Summed(torch.autograd.Function):
    """Totals and counts [K] of K terms; keeps the gradients [K, M, ...] of the totals."""

    @staticmethod
    def forward(
        ctx: Any, losses: Losses, small: Tensor, targets: Sequence[Tensor], each: int, names: list[str]
    ) -> tuple[Tensor, Tensor]:
        needed = ctx.needs_input_grad[1]
        pieces = []
        for start in range(0, len(targets), each):
            with torch.set_grad_enabled(needed):
                part = small[start : start + each].detach().requires_grad_(needed)
                terms = losses(part, torch.stack(list(targets[start : start + each])))
                pieces.append(_piece(list(terms.values()), part, needed))
        names += terms
        totals, counts, gradients = zip(*pieces, strict=True)
        if needed:
            ctx.save_for_backward(torch.cat(gradients, dim=1))
        counted = torch.stack(counts).sum(0)
        ctx.mark_non_differentiable(counted)
        return torch.stack(totals).sum(0), counted

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[None, Tensor, None, None, None]:
        (gradients,) = ctx.saved_tensors
        return None, torch.einsum("k,k...->...", grad.to(gradients.dtype), gradients), None, None, None


def _piece(terms: Sequence[LossTerm], part: Tensor, needed: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Totals and counts [K] without a graph, and the gradients [K, m, ...] of the totals; without ``needed`` empty."""
    last = len(terms) - 1
    gradients = [torch.autograd.grad(t.total, part, retain_graph=k < last)[0] for k, t in enumerate(terms) if needed]
    totals = torch.stack([t.total.detach() for t in terms])
    return totals, torch.stack([t.count for t in terms]), torch.stack(gradients) if needed else totals
