"""Dice and focal loss of retrieved masks: slot embeddings times the model's image features.

Logits are raised to the targets' resolution before the losses (UFO sec. 3.2; ufo.md 4.2-4.3, 7.2).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ufo_tune.core import pieces
from ufo_tune.core.losses import dice, focal
from ufo_tune.core.retrieval import mask_logits
from ufo_tune.core.types import Batch, EmbedTransform, LossTerm, ModelOutput
from ufo_tune.objectives._base import Rerun

TERMS = ("dice", "focal")


class Objective(nn.Module):
    """Mask losses.

    Args:
        dice_weight: of the dice term.
        focal_weight: of the focal term.
    """

    def __init__(self, *, dice_weight: float = 1.0, focal_weight: float = 1.0) -> None:
        super().__init__()
        self.dice_weight = dice_weight
        self.focal_weight = focal_weight

    def before(self, batch: Batch) -> list[EmbedTransform]:
        """None."""
        return []

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        """The number of mask slots, for both terms."""
        masks = torch.tensor(float(batch.slot_kinds.count("mask")), device=batch.ids.device)
        return {"dice": masks, "focal": masks}

    def forward(self, batch: Batch, output: ModelOutput, rerun: Rerun) -> dict[str, LossTerm]:
        """``{"dice": ..., "focal": ...}``, sums over the batch's mask slots."""
        is_mask = [kind == "mask" for kind in batch.slot_kinds]
        if not any(is_mask):
            # Still part of the graph: a rank without masks must call backward through the same parameters.
            zero = output.hidden.sum().float() * 0.0
            none = zero.detach()
            return {"dice": LossTerm(zero, none), "focal": LossTerm(zero, none)}
        terms: dict[str, LossTerm] = {}
        for row in batch.slot_owner.unique().tolist():  # rows may differ in grid and target size
            mine = [m for m, owner in enumerate(batch.slot_owner.tolist()) if owner == row and is_mask[m]]
            if not mine:
                continue
            queries = output.hidden[row, batch.slot_index[mine]]  # [M, S, D]
            small = mask_logits(queries, output.image_features[row])  # [M, h*s, w*s]
            found = pieces.summed(_losses, small, [batch.slot_targets[m] for m in mine])
            _add(terms, "dice", found["dice"], self.dice_weight)
            _add(terms, "focal", found["focal"], self.focal_weight)
        return terms


def _losses(small: Tensor, targets: Tensor) -> dict[str, LossTerm]:
    """Of logits [M, h*s, w*s] raised to the targets' size [M, Hc, Wc]."""
    logits = raise_to(small, targets.shape[-2:])
    return {"dice": dice(logits, targets), "focal": focal(logits, targets)}


def raise_to(logits: Tensor, size: torch.Size | tuple[int, ...]) -> Tensor:
    """Bilinear from [M, h, w] to [M, Hc, Wc], as two matrix products: torch's own takes ten times as long back."""
    down, across = (_bilinear(a, b, logits) for a, b in zip(logits.shape[-2:], size, strict=True))  # [Hc, h], [Wc, w]
    with torch.autocast(logits.device.type, enabled=False):
        return down @ logits @ across.T


def _bilinear(few: int, many: int, like: Tensor) -> Tensor:
    """[many, few]: what each of the many values takes of the few, as ``F.interpolate`` has it."""
    eye = torch.eye(few, dtype=like.dtype, device=like.device)
    return F.interpolate(eye[None, None], size=(many, few), mode="bilinear", align_corners=False)[0, 0]


def _add(terms: dict[str, LossTerm], name: str, term: LossTerm, weight: float) -> None:
    old = terms.get(name)
    total, count = weight * term.total, term.count
    terms[name] = LossTerm(old.total + total, old.count + count) if old else LossTerm(total, count)
