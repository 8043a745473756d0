"""RES and reasoning segmentation: how well the mask of each sample covers the truth.

Definition, with I and U the pixels of intersection and union of one sample, ignored pixels taken out of both masks:

* ``cIoU``: sum of I over the split / sum of U over the split (also called oIoU or overall IoU).
* ``gIoU``: mean over samples of I / U, where two empty masks (U = 0) count 1, as in LISA.
* ``Pr@t``: share of samples with I / U >= t.
* ``boundary_IoU``: mean over samples of the IoU of the two boundary bands, the pixels of a mask within d of its own
  contour, d = 2 % of the image diagonal in pixels (at least 1); two empty bands count 1.

A sample's true mask is the union of its targets' masks, the prediction the union of its masks: none is an empty mask.
An unreadable answer has no mask and says nothing, also not that there is nothing: it scores 0 where the truth is empty
too. Never the mean over background and foreground rows (ufo.md 13.2).

``best_of: image`` is another measure and has other names (``best_of_gIoU``, ...): of all samples of one image only the
one with the highest IoU counts. UFO's fine-tuned ReasonSeg numbers are of this kind (``IoUMetricBinaryBest``, ufo.md
13.3). Where an image has several instructions it is an upper bound, for the truth chooses the instruction: it must not
stand beside numbers of LISA's protocol, which scores the first instruction.

Source: LISA (arXiv 2308.00692) ``validate``; Boundary IoU, Cheng et al. 2021 (arXiv 2103.16562) sec. 4.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import numpy as np

from ufo_tune.core import masks
from ufo_tune.core.types import Prediction, Sample
from ufo_tune.errors import ConfigError, EvalError
from ufo_tune.metrics._base import RowMetric, mean
from ufo_tune.metrics._pixels import scored, true_masks, union


class Areas(NamedTuple):
    """Pixels of one sample, and whether its answer could be read."""

    image_id: str
    intersection: int
    union: int
    band_intersection: int
    band_union: int
    read: bool

    @property
    def iou(self) -> float:
        """I / U; of two empty masks whether the answer said so."""
        return _ratio(self.intersection, self.union, float(self.read))

    @property
    def band_iou(self) -> float:
        """The same of the boundary bands."""
        return _ratio(self.band_intersection, self.band_union, float(self.read))


class Metric(RowMetric[Areas]):
    """``cIoU``, ``gIoU``, ``Pr@0.5``, ``Pr@0.7``, ``Pr@0.9`` and ``boundary_IoU``.

    Args:
        boundary_ratio: Width of the boundary band as a share of the image diagonal.
        best_of: ``image``: only the best sample of each ``image_id`` counts. Names then start with ``best_of_``, and
            ``n_images`` says how many there are.

    Raises:
        ConfigError: another ``best_of``.
    """

    def __init__(self, *, boundary_ratio: float = 0.02, best_of: Literal["none", "image"] = "none") -> None:
        super().__init__()
        if best_of not in {"none", "image"}:
            raise ConfigError(f"metrics/seg_iou.best_of: no such choice (got {best_of!r}); use none or image")
        self.boundary_ratio = boundary_ratio
        self.best_of = best_of

    def score(self, sample: Sample, prediction: Prediction) -> Areas:
        """Pixel counts of the sample's union masks.

        Raises:
            EvalError: the truth has no masks, a mask has another size than the image, or the best of an image is
                asked for and the sample does not say which image it shows.
        """
        if self.best_of == "image" and not sample.image_id:
            raise EvalError(f"{sample.source}: best_of image needs image ids (got none); use best_of: none")
        wanted, given = true_masks(sample, "seg_iou"), union(prediction.masks or (), sample)
        width = max(1, round(self.boundary_ratio * math.hypot(*sample.size)))
        counted = scored(sample)
        # Bands are cut before the ignored pixels go, or the border of an ignored region would become a contour.
        bands = masks.boundary(wanted, width) & counted, masks.boundary(given, width) & counted
        areas = *_overlap(wanted & counted, given & counted), *_overlap(*bands)
        return Areas(sample.image_id, *areas, read=not prediction.invalid)

    def summary(self) -> dict[str, float]:
        """The six values, all in [0, 1]."""
        if self.best_of == "none":
            return _values(self.rows)
        best: dict[str, Areas] = {}
        for row in self.rows:
            # Equal IoU: the larger areas, so that the order of samples cannot matter.
            best[row.image_id] = max(best.get(row.image_id, row), row, key=lambda r: (r.iou, r))
        values = _values(list(best.values()))
        return {f"best_of_{name}": value for name, value in values.items()} | {"n_images": len(best)}


def _values(rows: list[Areas]) -> dict[str, float]:
    ious = [row.iou for row in rows]
    # Nothing to find and nothing painted anywhere: the share of right answers.
    overall = _ratio(sum(row.intersection for row in rows), sum(row.union for row in rows), mean(ious))
    values = {"cIoU": overall, "gIoU": mean(ious)}
    values |= {f"Pr@{t}": mean([float(v >= t) for v in ious]) for t in (0.5, 0.7, 0.9)}
    return values | {"boundary_IoU": mean([row.band_iou for row in rows])}


def _overlap(a: np.ndarray, b: np.ndarray) -> tuple[int, int]:
    """Pixels of the intersection and of the union."""
    return int(np.count_nonzero(a & b)), int(np.count_nonzero(a | b))


def _ratio(intersection: int, union: int, empty: float) -> float:
    """I / U, or ``empty`` of two empty masks."""
    return intersection / union if union else empty
