"""Semantic segmentation: IoU of each class over the whole split, averaged over classes.

Definition: pixels whose true class is known (not -1, not in ``Targets.ignore``) are counted over all samples. With I
the pixels of a class that are predicted right, P those predicted as it and T those that truly are it:

* ``mIoU``: mean over classes of I / (P + T - I). ``mAcc``: mean over classes of I / T. ``aAcc``: sum of I / sum of T.
* ``n_classes``: how many classes ``mIoU`` averages. A class that is nowhere predicted nor true is left out (mmseg's
  ``nanmean``); one that is predicted but nowhere true has IoU 0 and no accuracy.

A pixel predicted -1 (nothing was said) is wrong for its true class and a false alarm for none; an unreadable answer
says -1 everywhere. Classes are matched by name over all samples, so two samples may ask for different lists. This is
the ADE20K protocol: 150 classes, "other" ignored, single scale, no flip.

Source: Long et al. 2015 (arXiv 1411.4038) sec. 5; mmsegmentation ``IoUMetric``.
"""

from __future__ import annotations

from collections import defaultdict

import numpy as np

from ufo_tune.core.types import Prediction, Sample
from ufo_tune.errors import EvalError
from ufo_tune.metrics._base import RowMetric, mean, truth
from ufo_tune.metrics._pixels import said_map, scored, true_map

Pixels = dict[str, tuple[int, int, int]]
"""Class -> pixels predicted right, predicted, and true; only the classes that one sample shows or answers."""


class Metric(RowMetric[Pixels]):
    """``mIoU``, ``mAcc``, ``aAcc`` and ``n_classes``.

    Args:
        per_class: Give ``IoU/<class>`` of each class too.
    """

    def __init__(self, *, per_class: bool = False) -> None:
        super().__init__()
        self.per_class = per_class

    def score(self, sample: Sample, prediction: Prediction) -> Pixels:
        """Pixels of each class.

        Raises:
            EvalError: a label map is missing, of another size than the image, or has a number that is no class; or two
                classes share a name.
        """
        names = sample.classes
        if len(set(names)) != len(names):
            raise EvalError(f"{sample.source}: two classes share a name (got {len(names)} names); give each its own")
        wanted = _checked(sample, true_map(sample, truth(sample).label_map, "label map"), "true")
        given = said_map(sample, prediction, prediction.label_map, "label map")
        given = np.full_like(wanted, -1) if given is None else _checked(sample, given, "predicted")
        known = scored(sample) & (wanted >= 0)
        wanted, given = wanted[known], given[known]  # [pixels]
        parts = (wanted[wanted == given], given[given >= 0], wanted)
        counts = np.stack([np.bincount(part, minlength=len(names)) for part in parts], axis=1)  # [C, 3]
        return {names[c]: tuple(counts[c].tolist()) for c in np.flatnonzero(counts.any(axis=1))}

    def summary(self) -> dict[str, float]:
        """The means, in [0, 1], and the number of classes."""
        totals: dict[str, np.ndarray] = defaultdict(lambda: np.zeros(3, dtype=np.int64))
        for row in self.rows:
            for name, counts in row.items():
                totals[name] += counts
        sums = {name: tuple(map(int, totals[name])) for name in sorted(totals)}
        ious = {name: right / (said + true - right) for name, (right, said, true) in sums.items()}
        labelled = sum(true for _, _, true in sums.values())
        values: dict[str, float] = {
            "mIoU": mean(list(ious.values())),
            "mAcc": mean([right / true for right, _, true in sums.values() if true]),
            "aAcc": sum(right for right, _, _ in sums.values()) / labelled if labelled else 0.0,
            "n_classes": len(ious),
        }
        return values | ({f"IoU/{name}": iou for name, iou in ious.items()} if self.per_class else {})


def _checked(sample: Sample, label_map: np.ndarray, whose: str) -> np.ndarray:
    """The map as integers.

    Raises:
        EvalError: a number is neither -1 nor a class.
    """
    low, high = (int(label_map.min()), int(label_map.max())) if label_map.size else (-1, -1)
    if low < -1 or high >= len(sample.classes):
        raise EvalError(
            f"{sample.source}: the {whose} label map has a number that is no class (got {low} to {high}); use -1 to "
            f"{len(sample.classes) - 1}"
        )
    return label_map.astype(np.int64)
