"""Binary segmentation of one thing, such as vessels: Dice and its relatives over pixels.

Definition, over the pixels that ``Targets.ignore`` does not cover (DRIVE: inside the field of view), with TP, FP, FN
and TN the pixels rightly and wrongly painted, wrongly and rightly left:

* ``Dice``: mean over samples of 2 TP / (2 TP + FP + FN).
* ``F1``: the same of all samples' pixels together, as mmsegmentation's ``mFscore`` of the class has it. (UFO's DRIVE
  figures are called F1; how its images are joined is not said.)
* ``accuracy``: (TP + TN) / all. ``sensitivity``: TP / (TP + FN). ``specificity``: TN / (TN + FP). All pooled.

A ratio without pixels (nothing true and nothing painted; nothing true; nothing untrue) is 1: there was nothing to
miss. True and predicted masks are the unions of all masks of the sample, and no mask is an empty one. An unreadable
answer has no mask, and its ``Dice`` is 0 where nothing is true too: it did not say that there is nothing.

Source: Dice 1945 (doi 10.2307/1932409); Staal et al. 2004 (doi 10.1109/TMI.2004.825627) for DRIVE, whose evaluation
counts pixels inside the field of view.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ufo_tune.core.types import Prediction, Sample
from ufo_tune.metrics._base import RowMetric, mean
from ufo_tune.metrics._pixels import scored, true_masks, union


class Pixels(NamedTuple):
    """Counted pixels of one sample, and whether its answer could be read."""

    hit: int  # TP
    wrong: int  # FP
    missed: int  # FN
    left: int  # TN
    read: bool = True

    @property
    def dice(self) -> float:
        """2 TP / (2 TP + FP + FN); without any of them whether the answer said so."""
        own = 2 * self.hit + self.wrong + self.missed
        return 2 * self.hit / own if own else float(self.read)


class Metric(RowMetric[Pixels]):
    """``Dice``, ``F1``, ``accuracy``, ``sensitivity`` and ``specificity``."""

    def score(self, sample: Sample, prediction: Prediction) -> Pixels:
        """Pixels of the sample's union masks.

        Raises:
            EvalError: the truth has no masks, or a mask has another size than the image.
        """
        counted = scored(sample)
        wanted = true_masks(sample, "dice")[counted]  # [pixels]
        given = union(prediction.masks or (), sample)[counted]  # [pixels]
        kinds = np.bincount(2 * wanted + given, minlength=4)
        hit, wrong, missed, left = (int(kinds[i]) for i in (3, 1, 2, 0))
        return Pixels(hit, wrong, missed, left, read=not prediction.invalid)

    def summary(self) -> dict[str, float]:
        """The five values, all in [0, 1]; 0 of no samples."""
        if not self.rows:
            return dict.fromkeys(("Dice", "F1", "accuracy", "sensitivity", "specificity"), 0.0)
        hit, wrong, missed, left = (sum(column) for column in list(zip(*self.rows, strict=True))[:4])
        dice = mean([row.dice for row in self.rows])
        return {
            "Dice": dice,
            # Nothing true and nothing painted anywhere: the share of right answers.
            "F1": Pixels(hit, wrong, missed, left).dice if hit + wrong + missed else dice,
            "accuracy": _ratio(hit + left, hit + wrong + missed + left),
            "sensitivity": _ratio(hit, hit + missed),
            "specificity": _ratio(left, left + wrong),
        }


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else 1.0
