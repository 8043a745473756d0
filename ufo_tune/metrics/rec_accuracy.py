"""REC: share of phrases whose box is right.

Definition: continuous IoU of the predicted and the true xyxy box in pixels of the original image (width = x2 - x1,
nothing added); right if IoU >= 0.5 (not >). ``mean_IoU`` is the mean over samples. No box, an unreadable box, a box
without area or with a value that is not finite has IoU 0, so both values are always numbers.

Source: RefCOCO protocol (Yu et al. 2016, arXiv 1608.00272; Acc@0.5 as in MDETR and UFO, ufo.md 13.1). UFO's own code
divides by a zero union and lets the NaN into its mean.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ufo_tune.core.types import Prediction, Sample
from ufo_tune.errors import EvalError
from ufo_tune.metrics._base import RowMetric, mean, truth


class Metric(RowMetric[float]):
    """``Acc@0.5`` and ``mean_IoU`` of one box per phrase; the first box counts where several were given."""

    def score(self, sample: Sample, prediction: Prediction) -> float:
        """IoU of the first predicted box with the true box, in [0, 1].

        Raises:
            EvalError: the sample does not have exactly one true box.
        """
        boxes = truth(sample).boxes
        if len(boxes) != 1:
            raise EvalError(f"{sample.source}: rec_accuracy needs one true box (got {len(boxes)}); filter the split")
        return _iou(prediction.boxes[0], boxes[0]) if len(prediction.boxes) else 0.0

    def summary(self) -> dict[str, float]:
        """``Acc@0.5`` and ``mean_IoU``."""
        return {"Acc@0.5": mean([float(v >= 0.5) for v in self.rows]), "mean_IoU": mean(self.rows)}


def _iou(a: Tensor, b: Tensor) -> float:
    """IoU of two xyxy boxes [4]; 0 where the union is empty or a value is not finite."""
    a, b = a.double(), b.double()
    size_a, size_b = (a[2:] - a[:2]).clamp(min=0), (b[2:] - b[:2]).clamp(min=0)
    inside = (torch.minimum(a[2:], b[2:]) - torch.maximum(a[:2], b[:2])).clamp(min=0)
    shared = float(inside.prod())
    union = float(size_a.prod() + size_b.prod()) - shared
    # NaN fails every comparison, so it also lands here.
    return shared / union if 0 < union < float("inf") else 0.0
