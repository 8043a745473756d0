"""RES and reasoning segmentation: how well the mask of each sample covers the truth.

Definition, with I and U the pixels of intersection and union of one sample, ignored pixels taken out of both masks:

* ``cIoU``: sum of I over the split / sum of U over the split (also called oIoU or overall IoU).
* ``gIoU``: mean over samples of I / U, where two empty masks (U = 0) count 1, as in LISA.
* ``Pr@t``: share of samples with I / U >= t.
* ``boundary_IoU``: mean over samples of the IoU of the two boundary bands, the pixels of a mask within d of its own
  contour, d = 2 % of the image diagonal in pixels (at least 1); two empty bands count 1.

A sample's true mask is the union of its targets' masks, the prediction the union of its masks: none is an empty mask.
An unreadable answer has no mask, so it scores 0 unless the truth is empty. Never the mean over background and
foreground rows (ufo.md 13.2).

Source: LISA (arXiv 2308.00692) ``validate``; Boundary IoU, Cheng et al. 2021 (arXiv 2103.16562) sec. 4.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from ufo_tune.core import masks
from ufo_tune.core.types import Prediction, Rle, Sample
from ufo_tune.errors import EvalError
from ufo_tune.metrics._base import RowMetric, mean, truth

Areas = tuple[int, int, int, int]
"""Pixels of one sample: intersection, union, intersection of the boundary bands, union of them."""


class Metric(RowMetric[Areas]):
    """``cIoU``, ``gIoU``, ``Pr@0.5``, ``Pr@0.7``, ``Pr@0.9`` and ``boundary_IoU``.

    Args:
        boundary_ratio: Width of the boundary band as a share of the image diagonal.
    """

    def __init__(self, *, boundary_ratio: float = 0.02) -> None:
        super().__init__()
        self.boundary_ratio = boundary_ratio

    def score(self, sample: Sample, prediction: Prediction) -> Areas:
        """Pixel counts of the sample's union masks.

        Raises:
            EvalError: the truth has no masks, or a mask has another size than the image.
        """
        targets = truth(sample)
        if targets.masks is None:
            raise EvalError(f"{sample.source}: seg_iou needs true masks (got none); use a dataset with masks")
        width = max(1, round(self.boundary_ratio * math.hypot(*sample.size)))
        scored = np.ones(sample.size, dtype=bool) if targets.ignore is None else ~_merged((targets.ignore,), sample)
        wanted, given = _merged(targets.masks, sample), _merged(prediction.masks or (), sample)
        # Bands are cut before the ignored pixels go, or the border of an ignored region would become a contour.
        bands = masks.boundary(wanted, width) & scored, masks.boundary(given, width) & scored
        wanted, given = wanted & scored, given & scored
        return (*_overlap(wanted, given), *_overlap(*bands))

    def summary(self) -> dict[str, float]:
        """The six values, all in [0, 1]."""
        ious = [_ratio(i, u) for i, u, _, _ in self.rows]
        total_union = sum(u for _, u, _, _ in self.rows)
        values = {
            "cIoU": _ratio(sum(i for i, _, _, _ in self.rows), total_union) if self.rows else 0.0,
            "gIoU": mean(ious),
        }
        values |= {f"Pr@{t}": mean([float(v >= t) for v in ious]) for t in (0.5, 0.7, 0.9)}
        return values | {"boundary_IoU": mean([_ratio(i, u) for _, _, i, u in self.rows])}


def _merged(rles: Sequence[Rle], sample: Sample) -> np.ndarray:
    """The union of masks as bool [H, W]; all False of none."""
    union = np.zeros(sample.size, dtype=bool)
    for rle in rles:
        if tuple(rle["size"]) != tuple(sample.size):
            raise EvalError(f"{sample.source}: mask is {tuple(rle['size'])} but the image is {sample.size}; rescale it")
        union |= masks.decode(rle)
    return union


def _overlap(a: np.ndarray, b: np.ndarray) -> tuple[int, int]:
    """Pixels of the intersection and of the union."""
    return int(np.count_nonzero(a & b)), int(np.count_nonzero(a | b))


def _ratio(intersection: int, union: int) -> float:
    """I / U; 1 of two empty masks."""
    return intersection / union if union else 1.0
