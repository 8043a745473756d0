"""Generalised referring segmentation (gRefCOCO): phrases that name one thing, several or none.

Definition, with I and U the pixels of intersection and union of the predicted and the true mask of one sample. A
sample has no target where its true mask is empty; it is answered with "none" where the predicted mask is empty.

* ``gIoU``: mean over all samples of I / U; a sample without target counts 1 if the answer is "none", else 0.
* ``cIoU``: sum of I / sum of U over all samples: what is painted where nothing is adds to U, a right "none" adds
  nothing, a wrong "none" adds the true mask to U.
* ``N_acc``: share of samples without target whose answer is "none". ``T_acc``: share of samples with a target whose
  answer is a mask. ``Pr@t``: share of samples with a target with I / U >= t.

``N_acc`` is left out where every sample has a target, ``T_acc`` and ``Pr@t`` where none has; ``n_no_target`` says how
many there are. True and predicted masks are unions of all masks, without what is ignored. An unreadable answer says
nothing at all, so it is no right "none": its sample scores 0 everywhere.

The authors' code reads "none" off a classifier of the model, has 1 added to the denominator of ``N_acc`` and prints
something else as T_acc (the precision of "none"); ``N_acc`` and ``T_acc`` here are the paper's and GSVA's. Our models
say "none" by giving no mask, so a mask of any size is one; with ``min_pixels`` smaller ones mean "none" too, for
comparison with models that cannot say it (such as 50).

Source: Liu et al. 2023, GRES (arXiv 2306.00968) sec. 3; github.com/henghuiding/ReLA ``refer_evaluation.py``;
github.com/LeapLabTHU/GSVA ``eval_gres``.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ufo_tune.core.types import Prediction, Sample
from ufo_tune.errors import ConfigError
from ufo_tune.metrics._base import RowMetric, mean
from ufo_tune.metrics._pixels import scored, true_masks, union


class Row(NamedTuple):
    """One sample: whether there is a target, what was answered (neither: unreadable), and pixels."""

    target: bool
    none: bool
    painted: bool
    intersection: int
    union: int

    @property
    def iou(self) -> float:
        """I / U, or whether "none" was right."""
        return self.intersection / self.union if self.target else float(self.none)


class Metric(RowMetric[Row]):
    """``gIoU``, ``cIoU``, ``N_acc``, ``T_acc``, ``Pr@0.7``, ``Pr@0.8``, ``Pr@0.9`` and ``n_no_target``.

    Args:
        min_pixels: A predicted mask of fewer pixels is none.

    Raises:
        ConfigError: ``min_pixels`` is negative.
    """

    def __init__(self, *, min_pixels: int = 0) -> None:
        super().__init__()
        if min_pixels < 0:
            raise ConfigError(f"metrics/gres_iou.min_pixels: is negative (got {min_pixels}); give 0 or more")
        self.min_pixels = min_pixels

    def score(self, sample: Sample, prediction: Prediction) -> Row:
        """Pixel counts of the sample's union masks.

        Raises:
            EvalError: the truth has no masks, or a mask has another size than the image.
        """
        counted = scored(sample)
        wanted = true_masks(sample, "gres_iou") & counted
        given = union(prediction.masks or (), sample) & counted
        if np.count_nonzero(given) < self.min_pixels:
            given = np.zeros_like(given)
        painted = bool(given.any())
        return Row(
            target=bool(wanted.any()),
            none=not painted and not prediction.invalid,
            painted=painted,
            intersection=int(np.count_nonzero(wanted & given)),
            union=int(np.count_nonzero(wanted | given)),
        )

    def summary(self) -> dict[str, float]:
        """The values, all in [0, 1] but the count."""
        united = sum(r.union for r in self.rows)
        # Nothing to find and nothing painted anywhere: the share of right "none".
        overall = sum(r.intersection for r in self.rows) / united if united else mean([r.iou for r in self.rows])
        values = {"gIoU": mean([r.iou for r in self.rows]), "cIoU": overall}
        targets, others = [r for r in self.rows if r.target], [r for r in self.rows if not r.target]
        if others:
            values["N_acc"] = mean([float(r.none) for r in others])
        if targets:
            values["T_acc"] = mean([float(r.painted) for r in targets])
            values |= {f"Pr@{t}": mean([float(r.iou >= t) for r in targets]) for t in (0.7, 0.8, 0.9)}
        return values | {"n_no_target": len(others)}
