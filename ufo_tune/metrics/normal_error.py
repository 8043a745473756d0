"""Surface normals: the angle between predicted and true directions.

Definition: the angle in degrees between the two vectors of a pixel, over the valid pixels of all samples together (a
true vector of length > 0 that ``Targets.ignore`` does not cover); neither vector need be of length 1.

* ``mean``: of all angles. ``median``: of all angles, each to the nearest 0.05 degree, for a histogram of each sample
  is kept and not its pixels.
* ``within_11.25``, ``within_22.5``, ``within_30``: share of angles below so many degrees.
* ``n_pixels``: valid pixels. Where it is 0 nothing was scored and the errors, being 0 too, say nothing.

A predicted vector of length 0 or with a value that is not finite, and every one of an unreadable answer, points the
opposite way: 180 degrees. Axes are those of ``Targets.normals`` (x right, y down, z away); nothing is flipped to fit.

Source: Fouhey et al. 2013 (ICCV); Eigen and Fergus 2015 (arXiv 1411.4734); pixels pooled as in
github.com/baegwangbin/DSINE ``compute_normal_metrics``.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from ufo_tune.core.types import Prediction, Sample
from ufo_tune.metrics._base import RowMetric, truth
from ufo_tune.metrics._pixels import said_map, scored, true_map

_STEPS = 20
"""Histogram steps a degree."""
_LIMITS = (11.25, 22.5, 30)


class Angles(NamedTuple):
    """The angles of one sample's valid pixels."""

    pixels: int
    total: float  # degrees
    below: tuple[int, ...]  # pixels below each of _LIMITS
    steps: np.ndarray  # [K] u16: the angles that occur, in steps, ascending
    counts: np.ndarray  # [K] u32: pixels of each


class Metric(RowMetric[Angles]):
    """``mean``, ``median`` (degrees), ``within_11.25``, ``within_22.5``, ``within_30`` and ``n_pixels``."""

    def score(self, sample: Sample, prediction: Prediction) -> Angles:
        """The sample's angles, as a histogram and exact sums.

        Raises:
            EvalError: a map of normals is missing or of another size than the image.
        """
        wanted = true_map(sample, truth(sample).normals, "map of normals")
        given = said_map(sample, prediction, prediction.normals, "map of normals")
        valid = scored(sample) & (np.abs(wanted).max(axis=-1) > 0)  # [H, W]
        true = wanted[valid].astype(np.float64)  # [pixels, 3]
        angles = _angles(true, np.zeros_like(true) if given is None else given[valid].astype(np.float64))
        steps, counts = np.unique(np.rint(angles * _STEPS).astype(np.uint16), return_counts=True)
        below = tuple(int(np.count_nonzero(angles < limit)) for limit in _LIMITS)
        return Angles(len(angles), float(angles.sum()), below, steps, counts.astype(np.uint32))

    def summary(self) -> dict[str, float]:
        """Degrees, 0 being the best, and shares in [0, 1]."""
        pixels = sum(row.pixels for row in self.rows)
        below = [sum(row.below[k] for row in self.rows) for k in range(len(_LIMITS))]
        return {
            "mean": math.fsum(row.total for row in self.rows) / pixels if pixels else 0.0,
            "median": _median(self.rows) if pixels else 0.0,
            **{f"within_{limit}": n / pixels if pixels else 0.0 for limit, n in zip(_LIMITS, below, strict=True)},
            "n_pixels": pixels,
        }


def _angles(true: np.ndarray, said: np.ndarray) -> np.ndarray:
    """Degrees [N] between vectors [N, 3]; 180 where the second has no direction."""
    length = np.linalg.norm(said, axis=1, keepdims=True)  # [N, 1]
    pointing = np.isfinite(length) & (length > 0)
    true = true / np.linalg.norm(true, axis=1, keepdims=True)
    said = np.where(pointing, said, -true) / np.where(pointing, length, 1)
    # The arc cosine of what rounding leaves of 1 is off by hundredths of a degree; this form is exact at both ends.
    halves = np.linalg.norm(true - said, axis=1), np.linalg.norm(true + said, axis=1)
    return np.asarray(np.degrees(2 * np.arctan2(*halves)))


def _median(rows: list[Angles]) -> float:
    """The median of one or more angles, in degrees."""
    histogram = np.zeros(180 * _STEPS + 1, dtype=np.int64)
    for row in rows:
        histogram[row.steps] += row.counts
    upto = np.cumsum(histogram)
    middle = [(int(upto[-1]) - 1) // 2, int(upto[-1]) // 2]  # places of the one or two in the middle, from 0
    return float(np.searchsorted(upto, middle, side="right").mean()) / _STEPS
