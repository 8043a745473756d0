"""Cross-entropy of the next token, computed at supervised positions only: the full logits are never made.

The end token counts in every answer, however short (ufo.md 5.3 describes what happens otherwise).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ufo_tune.core.losses import token_cross_entropy
from ufo_tune.core.sequence import predicting
from ufo_tune.core.types import Batch, EmbedTransform, LossTerm, ModelOutput
from ufo_tune.objectives._base import Rerun

TERMS = ("token",)


class Objective(nn.Module):
    """Token cross-entropy.

    Args:
        weight: of the whole term.
        slot_weight: of slot tokens after the first of a slot: they follow by rule, so they teach nothing once seen.
    """

    def __init__(self, *, weight: float = 1.0, slot_weight: float = 1.0) -> None:
        super().__init__()
        self.weight = weight
        self.slot_weight = slot_weight

    def before(self, batch: Batch) -> list[EmbedTransform]:
        """None."""
        return []

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        """``{"token": sum of token weights}``."""
        return {"token": self._weights(batch, *predicting(batch.labels, batch.segment)[:2]).sum()}

    def forward(self, batch: Batch, output: ModelOutput, rerun: Rerun) -> dict[str, LossTerm]:
        """``{"token": sum of weighted cross-entropies over supervised tokens}``."""
        row, at, labels = predicting(batch.labels, batch.segment)  # [Q] each
        term = token_cross_entropy(output.logits(output.hidden[row, at]), labels, self._weights(batch, row, at))
        return {"token": LossTerm(self.weight * term.total, term.count)}

    def _weights(self, batch: Batch, row: Tensor, at: Tensor) -> Tensor:
        """[Q] weight of each supervised token."""
        weights = torch.ones(batch.ids.shape, device=batch.ids.device)  # [B, T], at the predicting position
        if len(batch.slot_index):
            weights[batch.slot_owner[:, None], batch.slot_index[:, 1:]] = self.slot_weight
        return weights[row, at]
