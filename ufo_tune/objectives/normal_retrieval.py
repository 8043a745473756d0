"""Loss of retrieved surface normals: one minus the cosine of the angle to the true ones.

A target is the mean of the true vectors under it. Where that is shorter than one half, the truth is unknown, beside an
edge, or outside the image: such pixels do not count. The paper gives no loss (ufo.md 4.9).
"""

from __future__ import annotations

from torch import Tensor, nn

from ufo_tune.core.losses import cosine
from ufo_tune.core.retrieval import normals_from_logits
from ufo_tune.core.types import Batch, EmbedTransform, LossTerm, ModelOutput
from ufo_tune.objectives import _retrieval as retrieval
from ufo_tune.objectives._base import Rerun

TERMS = ("normal",)
SLOTS = ("normal",)
_SHORTEST = 0.5


class Objective(nn.Module):
    """The loss of normals.

    Args:
        weight: of the term.
    """

    def __init__(self, *, weight: float = 1.0) -> None:
        super().__init__()
        self.weights = {"normal": weight}

    def before(self, batch: Batch) -> list[EmbedTransform]:
        """None."""
        return []

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        """The number of maps: three slots each."""
        return retrieval.counts(batch, "normal", TERMS, slots=3)

    def forward(self, batch: Batch, output: ModelOutput, rerun: Rerun) -> dict[str, LossTerm]:
        """``{"normal": ...}``, a sum over the batch's maps of normals."""
        return retrieval.summed(batch, output, "normal", _losses, self.weights, slots=3)


def _losses(logits: Tensor, targets: Tensor) -> dict[str, LossTerm]:
    found, truth = (v.unflatten(0, (-1, 3)) for v in (normals_from_logits(logits), targets))  # [3M, ..] -> [M, 3, ..]
    return {"normal": cosine(found, truth, truth.norm(dim=1) >= _SHORTEST)}
