"""Losses as pure functions. Each gives a sum and a count (``LossTerm``), never a mean."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from ufo_tune.core.types import IGNORE, LossTerm

_SMOOTH = 1e-3


def token_cross_entropy(
    logits: Tensor, labels: Tensor, weights: Tensor | None = None, *, spend: bool = False
) -> LossTerm:
    """Cross-entropy of tokens; nothing is shifted here.

    Args:
        logits: [..., V] at the positions that predict ``labels``.
        labels: [...] int64, ``IGNORE`` where unsupervised.
        weights: [...] of each token; default 1.
        spend: write the gradient into the memory of the logits, which nobody reads after this; the backward pass then
            runs once.

    Returns:
        The weighted sum over supervised tokens and the sum of their weights.
    """
    flat = labels.reshape(-1)  # [T]
    mass = (flat != IGNORE).float()
    if weights is not None:
        mass = mass * weights.reshape(-1).float()
    rows = logits.reshape(len(flat), logits.shape[-1])  # [T, V]
    total: Tensor = _CrossEntropy.apply(rows, flat.clamp_min(0), mass, spend)  # type: ignore[no-untyped-call]
    return LossTerm(total, mass.sum())


class _CrossEntropy(torch.autograd.Function):
    """The sum over rows of logits [T, V]. Keeps the logits alone, and makes one array of their size or none.

    torch's own holds three in float32 on the way back, and with a vocabulary of 150,000 they are most of a step's
    memory.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor, mass: Tensor, spend: bool) -> Tensor:
        ctx.spend, ctx.spent = spend, False
        each = _rows(logits)
        p = logits.new_empty(min(each, len(logits)), logits.shape[1], dtype=torch.float32)  # of every piece in turn
        normal = torch.cat([_logsumexp(rows, p[: len(rows)]) for rows in torch.split(logits, each)])  # [T]
        ctx.save_for_backward(logits, labels, mass, normal)
        chosen = logits.gather(1, labels[:, None])[:, 0].float()  # [T]
        return ((normal - chosen) * mass).sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        if ctx.spent:
            raise RuntimeError("token_cross_entropy: its logits are spent; go back once, or leave spend out")
        logits, labels, mass, normal = ctx.saved_tensors
        ctx.spent = ctx.spend
        out, each = logits if ctx.spend else torch.empty_like(logits), _rows(logits)
        columns = (labels[:, None], (mass * grad)[:, None], normal[:, None])  # [T, 1] each
        for into, some, label, weight, level in zip(*(v.split(each) for v in (out, logits, *columns)), strict=True):
            p = torch.sub(some, level, out=into if into.dtype == level.dtype else None).exp_()  # [t, V] float32
            p.scatter_add_(1, label, torch.full_like(level, -1.0)).mul_(weight)
            if p is not into:
                into.copy_(p)
        return out, None, None, None


def _logsumexp(logits: Tensor, room: Tensor) -> Tensor:
    """[t] of logits [t, V] in float32; ``room`` [t, V] is written to, for fresh memory costs more than the sums do."""
    most = logits.amax(1, keepdim=True).float()  # [t, 1]
    return torch.sub(logits, most, out=room).exp_().sum(1).log_() + most[:, 0]


def _rows(logits: Tensor) -> int:
    """How many rows of logits [T, V] are worked on at once: on a CPU what a core's cache holds between two passes."""
    return max(1, 2 ** (18 if logits.device.type == "cpu" else 24) // logits.shape[1])


def dice(logits: Tensor, targets: Tensor) -> LossTerm:
    """Dice loss ``1 - (2 sum(p g) + 1e-3) / (sum(p) + sum(g) + 1e-3)`` of each mask.

    Args:
        logits: [M, H, W].
        targets: [M, H, W] in [0, 1].

    Returns:
        The sum over masks, and M.

    Source:
        UFO (arXiv 2503.01342), "naive" variant of its code at 6976de9.
    """
    losses: Tensor = _Dice.apply(logits.float().flatten(1), targets.float().flatten(1))  # type: ignore[no-untyped-call]
    return LossTerm(losses.sum(), _count(logits))


class _Dice(torch.autograd.Function):
    """[M] of logits x and targets g [M, N]. Autograd would make a dozen arrays of the size of the maps, this makes two.

    With p = sigmoid(x): d/dp = -2 g / bottom + top / bottom^2, and dp/dx = p - p^2.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, g: Tensor) -> Tensor:
        p = x.sigmoid()
        top, bottom = 2 * (p * g).sum(1) + _SMOOTH, p.sum(1) + g.sum(1) + _SMOOTH  # [M] each
        ctx.save_for_backward(p, g, top, bottom)
        return 1 - top / bottom

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        p, g, top, bottom = ctx.saved_tensors
        slope = torch.addcmul((grad * top / bottom**2)[:, None], g, (-2 * grad / bottom)[:, None]).mul_(p)  # [M, N]
        return slope.addcmul_(slope, p, value=-1), None


def focal(logits: Tensor, targets: Tensor, alpha: float = 0.25, gamma: float = 2.0) -> LossTerm:
    """Focal loss ``alpha_t (1 - p_t)^gamma BCE``, a mean over the pixels of each mask.

    Args:
        logits: [M, H, W].
        targets: [M, H, W] in [0, 1].
        alpha: weight of foreground pixels; ``1 - alpha`` that of the others.
        gamma: how much well-classified pixels are played down, 0 or more.

    Returns:
        The sum over masks of their pixel means, and M.

    Source:
        Lin et al. 2017 (arXiv 1708.02002).
    """
    x, g = logits.float().flatten(1), targets.float().flatten(1)  # [M, H*W]
    losses: Tensor = _Focal.apply(x, g, alpha, gamma)  # type: ignore[no-untyped-call]
    return LossTerm(losses.sum(), _count(logits))


class _Focal(torch.autograd.Function):
    """[M] of logits x and targets g [M, N], with their gradient at once: six arrays of the size of the maps, not forty.

    With p = sigmoid(x), wrong = p + g - 2 p g and e = BCE, a pixel has weight wrong^gamma e, and so the slope
    weight wrong^(gamma - 1) (gamma (1 - 2 g) (p - p^2) e + wrong (p - g)). What depends on x is never written into
    what does not: in ``estimate`` x has no bytes, but g has, and cannot take any from it.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, g: Tensor, alpha: float, gamma: float) -> Tensor:
        p, sign = x.sigmoid(), torch.mul(g, -2).add_(1)  # [M, N] each, as all that follow
        wrong, entropy = torch.addcmul(g, p, sign), F.softplus(x).addcmul_(x, g, value=-1)
        if gamma < 1:
            wrong.clamp_min_(torch.finfo(x.dtype).tiny)  # 0 has no power below 0
        weight = wrong.pow(gamma - 1).mul_(torch.mul(g, (2 * alpha - 1) / x.shape[1]).add_((1 - alpha) / x.shape[1]))
        losses = (weight * wrong).mul_(entropy).sum(1)  # [M]
        if ctx.needs_input_grad[0]:
            slope = entropy.mul_(sign).mul_(p).mul_(gamma)
            slope.addcmul_(slope, p, value=-1).addcmul_(wrong, p.sub_(g)).mul_(weight)
            ctx.save_for_backward(slope)
        return losses

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        (slope,) = ctx.saved_tensors
        return slope * grad[:, None], None, None, None


def silog(depth: Tensor, truth: Tensor, known: Tensor, lam: float = 0.5) -> LossTerm:
    """Scale-invariant logarithmic loss ``mean(d^2) - lam mean(d)^2``, d = log depth - log truth, over known pixels.

    Args:
        depth: [M, H, W] metres, above 0.
        truth: [M, H, W] metres.
        known: [M, H, W] bool, where ``truth`` counts; a map without any adds 0.
        lam: how much of a common factor is forgiven: 0 nothing, 1 all of it.

    Returns:
        The sum over maps, and M.

    Source:
        Eigen et al. 2014 (arXiv 1406.2283), eq. 4.
    """
    ratio = torch.where(known, depth, 1.0).log() - torch.where(known, truth, 1.0).log()  # [M, H, W], 0 where unknown
    number = known.flatten(1).sum(1).clamp_min(1)  # [M]
    mean, square = (v.flatten(1).sum(1) / number for v in (ratio, ratio**2))  # [M] each
    return LossTerm((square - lam * mean**2).sum(), _count(depth))


def depth_l1(depth: Tensor, truth: Tensor, known: Tensor) -> LossTerm:
    """Absolute error in metres, a mean over the known pixels of each map.

    Args:
        depth: [M, H, W] metres.
        truth: [M, H, W] metres.
        known: [M, H, W] bool, where ``truth`` counts; a map without any adds 0.

    Returns:
        The sum over maps, and M.
    """
    return LossTerm(_known_means((depth - truth).abs(), known).sum(), _count(depth))


def cosine(normals: Tensor, truth: Tensor, known: Tensor) -> LossTerm:
    """One minus the cosine between vectors, a mean over the known pixels of each map.

    Args:
        normals: [M, 3, H, W] of any length.
        truth: [M, 3, H, W] of any length but 0 where it is known.
        known: [M, H, W] bool, where ``truth`` counts; a map without any adds 0.

    Returns:
        The sum over maps, and M.
    """
    # The bound keeps the gradient of a vector of no length finite: it then points nowhere, and any way is up.
    return LossTerm(_known_means(1 - F.cosine_similarity(normals, truth, 1, 1e-3), known).sum(), _count(normals))


def _known_means(values: Tensor, known: Tensor) -> Tensor:
    """[M] means of values [M, H, W] where they are known; 0 where nowhere."""
    return torch.where(known, values, 0.0).flatten(1).sum(1) / known.flatten(1).sum(1).clamp_min(1)


def _count(logits: Tensor) -> Tensor:
    return torch.tensor(float(len(logits)), device=logits.device)
