"""Class-balanced repeat factors: images with rare classes come oftener.

    classes, ends = samples.class_lists()
    factors = repeat_factors(classes, ends, threshold=1e-3)

Source: LVIS, Gupta et al. 2019 (arXiv 1908.03195), sec. 4: r(c) = max(1, sqrt(t / f(c))), an image's factor is the
largest of its classes'.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

_SAMPLES = 1 << 17  # looked at together: tens of millions of objects need no memory of their own size


def repeat_factors(classes: np.ndarray, ends: np.ndarray, threshold: float) -> np.ndarray:
    """How often each sample is to come in one epoch: [n] float64, at least 1; 1 without objects.

    Args:
        classes: [N] class numbers from 0 of all objects, sample after sample; twice the same in a sample counts once.
        ends: [n] where each sample's objects end.
        threshold: t, the share of samples that hold a class below which it counts as rare.
    """
    factors = np.ones(len(ends))
    if not len(classes):
        return factors
    width = int(classes.max()) + 1
    held = np.zeros(width, dtype=np.int64)  # samples with each class
    for _, own, lengths in _parts(classes, ends):
        sample = np.repeat(np.arange(len(lengths)), lengths)
        keys = np.sort(sample * width + own)
        once = keys[np.flatnonzero(np.diff(keys, prepend=-1))]  # each class of a sample; np.unique is 50 times slower
        held += np.bincount(once % width, minlength=width)
    share = held / len(ends)  # f(c)
    of_class = np.maximum(1.0, np.sqrt(threshold / np.where(held > 0, share, 1.0)))  # [classes]
    for start, own, lengths in _parts(classes, ends):
        some = np.flatnonzero(lengths)
        first = (np.cumsum(lengths) - lengths)[some]
        factors[start + some] = np.maximum.reduceat(of_class[own], first) if len(some) else 1.0
    return factors


def _parts(classes: np.ndarray, ends: np.ndarray) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Some samples at a time: number of the first, their objects' classes, and how many objects each has."""
    starts = np.append(0, ends)
    for first in range(0, len(ends), _SAMPLES):
        bounds = starts[first : first + _SAMPLES + 1]
        yield first, classes[bounds[0] : bounds[-1]], np.diff(bounds)
