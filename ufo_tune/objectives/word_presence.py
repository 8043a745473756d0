"""Which words a caption holds, read off the image tokens: multiple-instance learning for pre-training a small tower.

Every image token's state after the language model scores every word through the head; a word's score for the image is
the log-mean-exp over its tokens, trained by binary cross-entropy against the words of the caption. Its gradient reaches
the tower without passing through attention from the answer, which has to find the right tokens first; docs/tiny_base.md
tells how fast the embedded base's tower learns with and without a stage of that kind. Only rows with a single answer
count: a caption tells what is there, the answer to one of many questions does not.

Source: noisy word detectors from captions, Fang et al., CVPR 2015 (arXiv 1411.4952), sec. 3, with log-mean-exp pooling.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ufo_tune.core.sequence import predicting
from ufo_tune.core.types import Batch, EmbedTransform, LossTerm, ModelOutput
from ufo_tune.objectives._base import Rerun

TERMS = ("words",)


class Objective(nn.Module):
    """Word presence.

    Args:
        weight: of the term, which sums over the vocabulary.
    """

    def __init__(self, *, weight: float = 0.1) -> None:
        super().__init__()
        self.weight = weight

    def before(self, batch: Batch) -> list[EmbedTransform]:
        """None."""
        return []

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        """The number of rows with one answer."""
        return {"words": torch.tensor(float(len(_captioned(batch))), device=batch.ids.device)}

    def forward(self, batch: Batch, output: ModelOutput, rerun: Rerun) -> dict[str, LossTerm]:
        """``{"words": sum over captioned rows of the summed binary cross-entropies}``."""
        rows = _captioned(batch)
        zero = output.hidden.sum().float() * 0.0
        term = LossTerm(zero, torch.tensor(float(len(rows)), device=batch.ids.device))
        owner, _, label = predicting(batch.labels, batch.segment)  # [Q] each
        for row in rows:
            words = output.logits(output.image_features[row].flatten(0, 1)).float()  # [h*w, V]
            scores = words.logsumexp(0) - math.log(len(words))  # [V]
            present = torch.zeros_like(scores).index_fill(0, label[owner == row], 1.0)
            term.total = term.total + self.weight * F.binary_cross_entropy_with_logits(scores, present, reduction="sum")
        return {"words": term}


def _captioned(batch: Batch) -> list[int]:
    """Rows that hold a single answer."""
    return [row for row, counts in enumerate(batch.answer_counts) if sum(counts) == 1]
