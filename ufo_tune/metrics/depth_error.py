"""Depth: how far predicted metres are from the true ones.

Definition, over valid pixels with true depth t and predicted depth p, means being over pixels:

* ``AbsRel``: mean of |p - t| / t. ``SqRel``: mean of (p - t)^2 / t. ``RMSE``: root of the mean of (p - t)^2.
* ``log10``: mean of |log10 p - log10 t|. ``RMSElog``: root of the mean of (ln p - ln t)^2.
* ``SILog``: 100 times the standard deviation of ln p - ln t (BTS and KITTI; Eigen's own takes off half as much).
* ``delta1``, ``delta2``, ``delta3``: share of pixels with max(p / t, t / p) < 1.25, 1.25^2, 1.25^3.
* ``n_pixels``: valid pixels. Where it is 0 nothing was scored and the errors, being 0 too, say nothing.

Valid are pixels inside the crop, not in ``Targets.ignore``, with min_depth < t < max_depth (so 0, unknown, never is).
Predictions are clamped to that range, ends included. Each value is the mean over images of the image's own, as BTS,
AdaBins and their successors report for NYU and KITTI; images without a valid pixel are left out. ``pooled`` takes all
pixels of the split together instead, so that images with more valid pixels count more.

No answer, or one with a value that is not a number, is the worst answer there is: each pixel has whichever end of the
range is farther from the truth, once in metres and once in logarithms, and SILog, which has no worst value by pixel,
is 100 times that RMSElog. No answer that can be given scores worse on an image, so silence never pays.

Crops, rows and columns from the first to before the last; on other image sizes their parts of the sides, rounded down:

* ``eigen_nyu``: rows 45 to 471, columns 41 to 601 of 480 x 640.
* ``eigen_kitti``: rows 0.3324324 to 0.91351351, columns 0.0359477 to 0.96405229 of the sides.
* ``garg``: rows 0.40810811 to 0.99189189, columns 0.03594771 to 0.96405229 of the sides (KITTI).

The NYU and KITTI readers' option ``crop`` does the same to the truth; one of the two is enough.

Source: Eigen et al. 2014 (arXiv 1406.2283) sec. 4; Garg et al. 2016 (arXiv 1603.04992); github.com/cleinc/bts
``eval_with_pngs.py``; github.com/zhyever/Monocular-Depth-Estimation-Toolbox ``core/evaluation/metrics.py``.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import numpy as np

from ufo_tune.core.depth_windows import EIGEN_KITTI, EIGEN_NYU, EVERYWHERE, GARG, inside
from ufo_tune.core.types import Prediction, Sample
from ufo_tune.errors import ConfigError
from ufo_tune.metrics._base import RowMetric, mean, truth
from ufo_tune.metrics._pixels import said_map, scored, true_map

_CROPS = {"none": EVERYWHERE, "eigen_nyu": EIGEN_NYU, "eigen_kitti": EIGEN_KITTI, "garg": GARG}
_NAMES = ("AbsRel", "RMSE", "log10", "delta1", "delta2", "delta3", "SqRel", "RMSElog", "SILog")


class Sums(NamedTuple):
    """Sums over the valid pixels of one image, e = p - t in metres and l = ln p - ln t."""

    pixels: float
    e_t: float  # |e| / t
    ee_t: float  # e^2 / t
    ee: float
    l_abs: float  # |l|
    ll: float  # l^2
    l_sum: float  # l
    near1: float  # ratio < 1.25
    near2: float
    near3: float


class Metric(RowMetric[Sums]):
    """``AbsRel``, ``RMSE``, ``log10``, ``delta1``, ``delta2``, ``delta3``, ``SqRel``, ``RMSElog``, ``SILog``.

    Args:
        min_depth: Metres; truth at or below is not scored, predictions are raised to it.
        max_depth: Metres; truth at or beyond is not scored, predictions are lowered to it. NYU 10, KITTI 80.
        crop: The window that is scored.
        pooled: Means over all pixels of the split instead of means of the images' values.

    Raises:
        ConfigError: an unknown crop, or no range.
    """

    def __init__(
        self,
        *,
        min_depth: float = 1e-3,
        max_depth: float = 10.0,
        crop: Literal["none", "eigen_nyu", "eigen_kitti", "garg"] = "none",
        pooled: bool = False,
    ) -> None:
        super().__init__()
        if not 0 < min_depth < max_depth < math.inf:
            raise ConfigError(
                f"metrics/depth_error: is no range (got {min_depth} to {max_depth}); give 0 < min_depth < max_depth"
            )
        if crop not in _CROPS:
            raise ConfigError(f"metrics/depth_error.crop: no such crop (got {crop!r}); known: {', '.join(_CROPS)}")
        self.range = (min_depth, max_depth)
        self.crop = crop
        self.pooled = pooled

    def score(self, sample: Sample, prediction: Prediction) -> Sums:
        """Sums over the valid pixels.

        Raises:
            EvalError: a depth map is missing or of another size than the image.
        """
        near, far = self.range
        wanted = true_map(sample, truth(sample).depth, "depth map")
        given = said_map(sample, prediction, prediction.depth, "depth map")
        valid = scored(sample) & inside(sample.size, _CROPS[self.crop]) & (wanted > near) & (wanted < far)
        true = wanted[valid].astype(np.float64)  # [pixels]
        if given is None or np.isnan(given[valid]).any():
            return _sums(true, np.maximum(true - near, far - true), np.maximum(true / near, far / true), 0.0)
        said = given[valid].astype(np.float64).clip(near, far)  # [pixels]
        return _sums(true, np.abs(said - true), np.maximum(said / true, true / said), float(np.log(said / true).sum()))

    def summary(self) -> dict[str, float]:
        """Errors, 0 being the best, and shares ``delta`` in [0, 1]."""
        rows = [row for row in self.rows if row.pixels]
        pixels = int(sum(row.pixels for row in rows))
        if self.pooled and rows:
            rows = [Sums._make(math.fsum(column) for column in zip(*rows, strict=True))]
        images = [_errors(row) for row in rows]
        return {name: mean([image[k] for image in images]) for k, name in enumerate(_NAMES)} | {"n_pixels": pixels}


def _sums(true: np.ndarray, off: np.ndarray, ratio: np.ndarray, l_sum: float) -> Sums:
    """Sums over pixels [N] of true metres, metres off, and the larger by the smaller of true and predicted."""
    logs = np.log(ratio)
    parts = (off / true, off**2 / true, off**2, logs, logs**2)
    near = [float(np.count_nonzero(ratio < 1.25**k)) for k in (1, 2, 3)]
    return Sums._make([len(true), *(float(part.sum()) for part in parts), l_sum, *near])


def _errors(sums: Sums) -> tuple[float, ...]:
    """The measures of the pixels that were summed, in the order of ``_NAMES``."""
    n = sums.pixels
    return (
        sums.e_t / n,
        math.sqrt(sums.ee / n),
        sums.l_abs / n / math.log(10),
        sums.near1 / n,
        sums.near2 / n,
        sums.near3 / n,
        sums.ee_t / n,
        math.sqrt(sums.ll / n),
        100 * math.sqrt(max(0.0, sums.ll / n - (sums.l_sum / n) ** 2)),  # rounding may leave less than nothing
    )
