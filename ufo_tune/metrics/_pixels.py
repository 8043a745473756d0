"""What dense metrics share: true and predicted pixels, checked to lie on the original image."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ufo_tune.core import masks
from ufo_tune.core.types import Prediction, Rle, Sample
from ufo_tune.errors import EvalError
from ufo_tune.metrics._base import truth


def scored(sample: Sample) -> np.ndarray:
    """[H, W] bool: the pixels that ``Targets.ignore`` does not cover.

    Raises:
        EvalError: the sample has no truth, or the ignored region is of another size than the image.
    """
    ignore = truth(sample).ignore
    return np.ones(sample.size, dtype=bool) if ignore is None else ~bitmap(ignore, sample)


def bitmap(rle: Rle, sample: Sample) -> np.ndarray:
    """One mask as [H, W] bool.

    Raises:
        EvalError: it is of another size than the image.
    """
    return union((rle,), sample)


def union(rles: Sequence[Rle], sample: Sample) -> np.ndarray:
    """The union of masks as [H, W] bool; all False of none.

    Raises:
        EvalError: a mask is of another size than the image.
    """
    for rle in rles:
        if tuple(rle["size"]) != tuple(sample.size):
            raise EvalError(f"{sample.source}: mask is {tuple(rle['size'])} but the image is {sample.size}; rescale it")
    return masks.decode(masks.union(rles)) if rles else np.zeros(sample.size, dtype=bool)


def true_masks(sample: Sample, metric: str) -> np.ndarray:
    """The union of the true masks as [H, W] bool.

    Raises:
        EvalError: the truth has no masks, or one is of another size than the image.
    """
    rles = truth(sample).masks
    if rles is None:
        raise EvalError(f"{sample.source}: {metric} needs true masks (got none); use a dataset with masks")
    return union(rles, sample)


def true_map(sample: Sample, array: np.ndarray | None, name: str) -> np.ndarray:
    """A map [H, W, ...] of the truth.

    Args:
        sample: whose truth it is.
        array: the map.
        name: of the map, in messages.

    Raises:
        EvalError: there is none, or it is of another size than the image.
    """
    if array is None:
        raise EvalError(f"{sample.source}: the truth has no {name} (got none); use a dataset with one")
    return _of_size(array, sample, name, "true")


def said_map(sample: Sample, prediction: Prediction, array: np.ndarray | None, name: str) -> np.ndarray | None:
    """A predicted map [H, W, ...]; None where the answer could not be read.

    Args:
        sample: what was asked.
        prediction: what was understood.
        array: the map.
        name: of the map, in messages.

    Raises:
        EvalError: a readable answer gives none (the protocol's task is another one), or the size is not the image's.
    """
    if array is not None:
        return _of_size(array, sample, name, "predicted")
    if not prediction.invalid:
        raise EvalError(f"{sample.source}: the prediction has no {name} (got none); check the protocol's task")
    return None


def _of_size(array: np.ndarray, sample: Sample, name: str, whose: str) -> np.ndarray:
    if array.shape[:2] != tuple(sample.size):
        raise EvalError(
            f"{sample.source}: the {whose} {name} is {array.shape[:2]} but the image is {tuple(sample.size)}; "
            "rescale it"
        )
    return array
