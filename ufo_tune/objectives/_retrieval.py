"""What the objectives of dense maps share: the slots of one kind as maps beside their targets, and sums over rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from ufo_tune.core import pieces
from ufo_tune.core.retrieval import mask_logits
from ufo_tune.core.types import Batch, LossTerm, ModelOutput, SlotKind

Losses = Callable[[Tensor, Tensor], Mapping[str, LossTerm]]
"""Logits [M, Hc, Wc] and targets [M, Hc, Wc] of some slots of one row -> terms, each a sum over them."""


def counts(batch: Batch, kind: SlotKind, terms: Iterable[str], slots: int = 1) -> dict[str, Tensor]:
    """The number of maps of a kind, ``slots`` slots each, for every term; known before the pass."""
    number = torch.tensor(float(batch.slot_kinds.count(kind) // slots), device=batch.ids.device)
    return dict.fromkeys(terms, number)


def summed(
    batch: Batch, output: ModelOutput, kind: SlotKind, losses: Losses, weights: Mapping[str, float], slots: int = 1
) -> dict[str, LossTerm]:
    """Weighted sums of losses over the slots of one kind.

    Args:
        batch: with its slots.
        output: of the pass over it.
        kind: of slot.
        losses: gives a term for each name in ``weights``.
        weights: what every term's total, not its count, is multiplied by.
        slots: of one map; ``losses`` sees whole maps.

    Returns:
        A term for each name in ``weights``. Without slots all are 0 but still part of the graph: a rank without maps
        must call backward through the same parameters.
    """

    def raised(small: Tensor, targets: Tensor) -> Mapping[str, LossTerm]:
        # Losses are those of the targets' resolution (UFO sec. 3.2; ufo.md 4.2-4.3, 7.2).
        return losses(raise_to(small, targets.shape[-2:]), targets)

    terms: dict[str, LossTerm] = {}
    for small, targets in _maps(batch, output, kind):
        for name, term in pieces.summed(raised, small, targets, group=slots).items():
            old, total = terms.get(name), weights[name] * term.total
            terms[name] = LossTerm(old.total + total, old.count + term.count) if old else LossTerm(total, term.count)
    if not terms:
        zero = output.hidden[:0].float().sum()  # of nothing: a sum of all could overflow
        return {name: LossTerm(zero, zero.detach()) for name in weights}
    return terms


def raise_to(logits: Tensor, size: torch.Size | tuple[int, int]) -> Tensor:
    """Bilinear from [M, h, w] to [M, Hc, Wc], as two matrix products: torch's own takes ten times as long back."""
    down, across = (_bilinear(a, b, logits) for a, b in zip(logits.shape[-2:], size, strict=True))  # [Hc, h], [Wc, w]
    with torch.autocast(logits.device.type, enabled=False):
        return down @ logits @ across.T


def _bilinear(few: int, many: int, like: Tensor) -> Tensor:
    """[many, few]: what each of the many values takes of the few, as ``F.interpolate`` has it."""
    eye = torch.eye(few, dtype=like.dtype, device=like.device)
    return F.interpolate(eye[None, None], size=(many, few), mode="bilinear", align_corners=False)[0, 0]


def _maps(batch: Batch, output: ModelOutput, kind: SlotKind) -> Iterator[tuple[Tensor, list[Tensor]]]:
    """Logits [M, h*s, w*s] and M targets [Hc, Wc] of each row's slots of a kind, in order; rows may differ in size."""
    owners = batch.slot_owner.tolist()  # [M]
    for row in sorted(set(owners)):
        mine = [m for m, owner in enumerate(owners) if owner == row and batch.slot_kinds[m] == kind]
        if mine:
            queries = output.hidden[row, batch.slot_index[mine]]  # [M, S, D]
            yield mask_logits(queries, output.image_features[row]), [batch.slot_targets[m] for m in mine]
