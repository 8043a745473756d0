"""Losses of retrieved depth, in metres: scale-invariant logarithmic error and absolute error.

Both are means over the pixels of a map whose depth is known and lies in the codec's range: what an answer cannot say is
not learnt. The paper gives no loss (ufo.md 4.9). The first is that of Eigen et al. 2014, which forgives half of a
common factor; the second holds the factor fast.
"""

from __future__ import annotations

from torch import Tensor, nn

from ufo_tune.core.losses import depth_l1, silog
from ufo_tune.core.retrieval import depth_from_logits
from ufo_tune.core.types import Batch, EmbedTransform, LossTerm, ModelOutput
from ufo_tune.objectives import _retrieval as retrieval
from ufo_tune.objectives._base import Rerun

TERMS = ("silog", "depth_l1")
SLOTS = ("depth",)
_NEAREST = 1e-3
"""Metres; nearer ones have no useful logarithm."""


class Objective(nn.Module):
    """Depth losses.

    Args:
        silog_weight: of the scale-invariant term.
        l1_weight: of the absolute error.
        variance_focus: how much of a common factor the first term forgives: 0 nothing, 1 all of it (Eigen: 0.5).
    """

    def __init__(self, *, silog_weight: float = 1.0, l1_weight: float = 1.0, variance_focus: float = 0.5) -> None:
        super().__init__()
        self.weights = {"silog": silog_weight, "depth_l1": l1_weight}
        self.variance_focus = variance_focus

    def before(self, batch: Batch) -> list[EmbedTransform]:
        """None."""
        return []

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        """The number of depth slots, for both terms."""
        return retrieval.counts(batch, "depth", TERMS)

    def forward(self, batch: Batch, output: ModelOutput, rerun: Rerun) -> dict[str, LossTerm]:
        """``{"silog": ..., "depth_l1": ...}``, sums over the batch's depth slots."""
        near, far = output.depth_range

        def losses(logits: Tensor, truth: Tensor) -> dict[str, LossTerm]:
            depth = depth_from_logits(logits, (near, far)).clamp_min(_NEAREST)
            known = (truth >= max(near, _NEAREST)) & (truth <= far)
            return {
                "silog": silog(depth, truth, known, self.variance_focus),
                "depth_l1": depth_l1(depth, truth, known),
            }

        return retrieval.summed(batch, output, "depth", losses, self.weights)
