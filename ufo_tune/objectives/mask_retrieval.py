"""Dice and focal loss of retrieved masks: slot embeddings times the model's image features.

Source: UFO (arXiv 2503.01342) sec. 3.2; ufo.md 7.2.
"""

from __future__ import annotations

from torch import Tensor, nn

from ufo_tune.core.losses import dice, focal
from ufo_tune.core.types import Batch, EmbedTransform, LossTerm, ModelOutput
from ufo_tune.objectives import _retrieval as retrieval
from ufo_tune.objectives._base import Rerun

TERMS = ("dice", "focal")
SLOTS = ("mask",)


class Objective(nn.Module):
    """Mask losses.

    Args:
        dice_weight: of the dice term.
        focal_weight: of the focal term.
    """

    def __init__(self, *, dice_weight: float = 1.0, focal_weight: float = 1.0) -> None:
        super().__init__()
        self.weights = {"dice": dice_weight, "focal": focal_weight}

    def before(self, batch: Batch) -> list[EmbedTransform]:
        """None."""
        return []

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        """The number of mask slots, for both terms."""
        return retrieval.counts(batch, "mask", TERMS)

    def forward(self, batch: Batch, output: ModelOutput, rerun: Rerun) -> dict[str, LossTerm]:
        """``{"dice": ..., "focal": ...}``, sums over the batch's mask slots."""
        return retrieval.summed(batch, output, "mask", _losses, self.weights)


def _losses(logits: Tensor, targets: Tensor) -> dict[str, LossTerm]:
    targets = targets.float()  # once for both
    return {"dice": dice(logits, targets), "focal": focal(logits, targets)}
