"""Cross-entropy of the next token, computed at supervised positions only: the full logits are never made.

The end token counts in every answer, however short (ufo.md 5.3 describes what happens otherwise).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ufo_tune.core.losses import token_cross_entropy
from ufo_tune.core.sequence import predicting
from ufo_tune.core.types import Batch, EmbedTransform, LossTerm, ModelOutput
from ufo_tune.errors import ConfigError
from ufo_tune.objectives._base import Calls, Rerun

TERMS = ("token",)


class Objective(nn.Module):
    """Token cross-entropy.

    Args:
        weight: of the whole term.
        slot_weight: of slot tokens after the first of a slot: they follow by rule, so they teach nothing once seen.
        rows: most supervised tokens whose logits exist at once; of more, the logits are made piece by piece, and again
            in the backward pass. A thousand of them are 600 MB in float32 for a vocabulary of 152,000.
    """

    def __init__(self, *, weight: float = 1.0, slot_weight: float = 1.0, rows: int = 1024) -> None:
        super().__init__()
        if rows < 1:
            raise ConfigError(f"objectives.next_token.rows: is out of range (got {rows}); give 1 or more")
        self.weight = weight
        self.slot_weight = slot_weight
        self.rows = rows
        self.calls: Calls = lambda own: own

    def before(self, batch: Batch) -> list[EmbedTransform]:
        """None."""
        return []

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        """``{"token": sum of token weights}``."""
        return {"token": self._weights(batch, *predicting(batch.labels, batch.segment)[:2]).sum()}

    def forward(self, batch: Batch, output: ModelOutput, rerun: Rerun) -> dict[str, LossTerm]:
        """``{"token": sum of weighted cross-entropies over supervised tokens}``."""
        row, at, labels = predicting(batch.labels, batch.segment)  # [Q] each
        hidden, weights = output.hidden[row, at], self._weights(batch, row, at)  # [Q, D], [Q]

        def piece(states: Tensor, wanted: Tensor, mass: Tensor) -> tuple[Tensor, Tensor]:
            term = token_cross_entropy(output.logits(states), wanted, mass, spend=True)
            return term.total, term.count

        parts = [values.split(self.rows) for values in (hidden, labels, weights)]
        more = self.calls(len(parts[0])) - len(parts[0])
        pieces = [*zip(*parts, strict=True), *[(hidden[:0], labels[:0], weights[:0])] * more]
        if len(pieces) == 1:
            done = [piece(*pieces[0])]
        else:
            done = [checkpoint(piece, *part, use_reentrant=False) for part in pieces]
        total, count = (torch.stack(values).sum() for values in zip(*done, strict=True))
        return {"token": LossTerm(self.weight * total, count)}

    def _weights(self, batch: Batch, row: Tensor, at: Tensor) -> Tensor:
        """[Q] weight of each supervised token."""
        weights = torch.ones(batch.ids.shape, device=batch.ids.device)  # [B, T], at the predicting position
        if len(batch.slot_index):
            weights[batch.slot_owner[:, None], batch.slot_index[:, 1:]] = self.slot_weight
        return weights[row, at]
