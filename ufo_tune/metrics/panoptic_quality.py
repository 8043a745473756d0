"""Panoptic segmentation: are the segments of an image found, and how well are they cut out?

Definition: a predicted and a true segment of one class match if their IoU > 0.5, void pixels taken out of the
prediction; since segments do not overlap, at most one can. Of each class over the whole split, with TP the matches, FP
the predicted and FN the true segments without a match:

* ``SQ`` = sum of the matches' IoU / TP. ``RQ`` = TP / (TP + FP / 2 + FN / 2). ``PQ`` = SQ x RQ.

Each is the mean over the ``n_classes`` classes that have a TP, FP or FN. With the option ``stuff``, ``PQ_th``,
``PQ_st`` and so on are the same over the other classes and over these. A crowd segment is neither found nor missed; a
prediction without a match is no FP if more than half of it lies on void and on crowds of its class (of several crowds
panopticapi looks at the last only).

True segments are the masks, which may not overlap, and, of pixels that no mask covers, one segment for each class of
the label map. Void is what ``Targets.ignore`` covers and what the label map, where there is one, leaves at -1; with
masks alone, pixels outside them are the background and count against predictions.

Predictions may overlap, so they are laid down like panopticapi's ``combine_semantic_and_instance_predictions``: masks
of at least ``min_score``, best first, each getting the pixels that no better one has; one is dropped where more than
``overlap`` of it is taken already. Then each class of the label map gets what is left of it, if that is at least
``stuff_pixels``. Equal scores rank as given. An unreadable answer has no segments.

Classes are matched by name over all samples, so two samples may ask for different ones.

Source: Kirillov et al. 2019 (arXiv 1801.00868) sec. 4 and 7; github.com/cocodataset/panopticapi ``evaluation.py``.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from ufo_tune.core.types import Prediction, Rle, Sample
from ufo_tune.errors import EvalError
from ufo_tune.metrics._base import RowMetric, mean, truth
from ufo_tune.metrics._pixels import bitmap, scored, true_map

_VOID = -1
_NO_CLASS = "object"


@dataclass(frozen=True, slots=True)
class Tally:
    """What one class comes to in one sample, or in all of them."""

    ious: tuple[float, ...] = ()  # of the matches
    wrong: int = 0  # FP
    missed: int = 0  # FN

    def __add__(self, other: Tally) -> Tally:
        return Tally(self.ious + other.ious, self.wrong + other.wrong, self.missed + other.missed)

    def qualities(self) -> tuple[float, float, float]:
        """PQ, SQ and RQ; there is something to score."""
        total, found = math.fsum(self.ious), len(self.ious)
        size = found + self.wrong / 2 + self.missed / 2
        return total / size, total / found if found else 0.0, found / size


@dataclass(slots=True)
class _Segments:
    """Segments that do not overlap. ``ids`` [H, W]: 0 no segment, 1.. their numbers, ``_VOID`` not scored."""

    ids: np.ndarray
    labels: list[int]
    crowd: list[bool]

    def add(self, pixels: np.ndarray, label: int, crowd: bool = False) -> None:
        """One more segment, of pixels [H, W] bool."""
        self.labels.append(label)
        self.crowd.append(crowd)
        self.ids[pixels] = len(self.labels)


class Metric(RowMetric[dict[str, Tally]]):
    """``PQ``, ``SQ``, ``RQ`` and ``n_classes``; with ``stuff`` also ``PQ_th``, ``SQ_th``, ..., ``RQ_st``.

    Args:
        stuff: Names of the uncountable classes; all others are things. Label maps then stand for these only.
        min_score: Masks of lower scores are dropped.
        overlap: A mask is dropped if a larger share of it is taken by better ones.
        stuff_pixels: A class of the predicted label map is dropped if fewer pixels are left to it (64 x 64 in
            panopticapi's script).
    """

    def __init__(
        self, *, stuff: Collection[str] = (), min_score: float = 0.5, overlap: float = 0.5, stuff_pixels: int = 0
    ) -> None:
        super().__init__()
        self.stuff = frozenset(stuff)
        self.min_score = min_score
        self.overlap = overlap
        self.stuff_pixels = stuff_pixels

    def score(self, sample: Sample, prediction: Prediction) -> dict[str, Tally]:
        """Matches, false and missed segments of each class.

        Raises:
            EvalError: the truth has neither masks nor a label map, its masks overlap, something is of another size
                than the image, a label is no class, a prediction's fields differ in length, or a readable one gives
                no segments at all (the protocol's task is another one).
        """
        rows = _tallies(self._truth(sample), self._found(sample, prediction))
        return {_name(sample, label): tally for label, tally in rows.items()}

    def summary(self) -> dict[str, float]:
        """The means, in [0, 1], and the numbers of classes they are over."""
        classes: dict[str, Tally] = defaultdict(Tally)
        for row in self.rows:
            for name, tally in row.items():
                classes[name] += tally
        values = _means(list(classes.values()), "")
        if self.stuff:
            values |= _means([t for name, t in classes.items() if name not in self.stuff], "_th")
            values |= _means([t for name, t in classes.items() if name in self.stuff], "_st")
        return values

    def _truth(self, sample: Sample) -> _Segments:
        targets = truth(sample)
        if targets.masks is None and targets.label_map is None:
            raise EvalError(f"{sample.source}: panoptic_quality needs masks or a label map (got none); add segments")
        segments = _Segments(np.zeros(sample.size, dtype=np.int64), [], [])
        crowd = [False] * len(targets.labels) if targets.crowd is None else targets.crowd.tolist()
        for rle, label, is_crowd in zip(targets.masks or (), targets.labels.tolist(), crowd, strict=False):
            pixels = bitmap(rle, sample)
            if both := np.count_nonzero(segments.ids[pixels]):
                raise EvalError(f"{sample.source}: true masks overlap (got {both} pixels); use panoptic annotations")
            segments.add(pixels, label, is_crowd)
        if targets.label_map is not None:
            rest = self._rest(sample, segments, true_map(sample, targets.label_map, "label map"))
            for label in _present(rest):
                segments.add(rest == label, label)
            segments.ids[segments.ids == 0] = _VOID
        segments.ids[~scored(sample)] = _VOID
        return segments

    def _found(self, sample: Sample, prediction: Prediction) -> _Segments:
        if prediction.masks is None and prediction.label_map is None and not prediction.invalid:
            raise EvalError(f"{sample.source}: the prediction has no segments (got none); check the protocol's task")
        rles: Sequence[Rle] = prediction.masks or ()
        labels, scores = prediction.labels.tolist(), prediction.scores.tolist()
        if rles and not len(rles) == len(labels) == len(scores):
            lengths = f"{len(rles)}, {len(labels)} and {len(scores)}"
            raise EvalError(f"{sample.source}: predicted masks, labels and scores differ in number (got {lengths})")
        segments = _Segments(np.zeros(sample.size, dtype=np.int64), [], [])
        for k in sorted(range(len(rles)), key=lambda k: -scores[k]):
            if scores[k] >= self.min_score:
                pixels = bitmap(rles[k], sample)
                free = pixels & (segments.ids == 0)
                area, left = np.count_nonzero(pixels), np.count_nonzero(free)
                if left and area - left <= self.overlap * area:
                    segments.add(free, labels[k])
        if prediction.label_map is not None:
            rest = self._rest(sample, segments, true_map(sample, prediction.label_map, "label map"))
            for label in _present(rest):
                pixels = rest == label
                if np.count_nonzero(pixels) >= self.stuff_pixels:
                    segments.add(pixels, label)
        return segments

    def _rest(self, sample: Sample, segments: _Segments, label_map: np.ndarray) -> np.ndarray:
        """[H, W]: what a label map says of pixels that no mask has; -1 elsewhere, and where it is not about stuff."""
        rest = np.where(segments.ids == 0, label_map, -1)
        if self.stuff:
            things = [label for label in _present(rest) if _name(sample, label) not in self.stuff]
            rest[np.isin(rest, things)] = -1
        return rest


def _tallies(true: _Segments, found: _Segments) -> dict[int, Tally]:
    """Matches, false and missed segments by label; only labels that have any."""
    pairs = (true.ids + 1) * (len(found.labels) + 1) + found.ids  # [H, W]
    table = np.bincount(pairs.ravel(), minlength=(len(true.labels) + 2) * (len(found.labels) + 1))
    table = table.reshape(len(true.labels) + 2, len(found.labels) + 1)  # [void, none, T; none, P] pixels
    both, void = table[2:, 1:], table[0, 1:]  # [T, P], [P]
    true_area, found_area = table[2:].sum(axis=1), table[:, 1:].sum(axis=0)  # [T], [P]
    union = true_area[:, None] + (found_area - void) - both  # [T, P]
    true_labels, found_labels = np.array(true.labels, dtype=int), np.array(found.labels, dtype=int)
    crowd = np.array(true.crowd, dtype=bool)
    same = true_labels[:, None] == found_labels  # [T, P]
    match = (2 * both > union) & same & ~crowd[:, None]
    excused = void + (both * (same & crowd[:, None])).sum(axis=0)  # [P]
    wrong = ~match.any(axis=0) & (2 * excused <= found_area)  # [P]
    missed = ~match.any(axis=1) & ~crowd & (true_area > 0)  # [T]; a segment that is all void is none
    tallies: dict[int, Tally] = defaultdict(Tally)
    for t, p in np.argwhere(match):
        tallies[true.labels[t]] += Tally(ious=(float(both[t, p] / union[t, p]),))
    for p in np.flatnonzero(wrong):
        tallies[found.labels[p]] += Tally(wrong=1)
    for t in np.flatnonzero(missed):
        tallies[true.labels[t]] += Tally(missed=1)
    return dict(tallies)


def _means(classes: Sequence[Tally], suffix: str) -> dict[str, float]:
    """PQ, SQ and RQ averaged over classes, and how many these are."""
    each = [tally.qualities() for tally in classes]
    means = {f"{name}{suffix}": mean([q[k] for q in each]) for k, name in enumerate(("PQ", "SQ", "RQ"))}
    return means | {f"n_classes{suffix}": len(each)}


def _present(label_map: np.ndarray) -> list[int]:
    """The numbers of a label map, ascending, without -1."""
    return [int(label) for label in np.unique(label_map) if label >= 0]


def _name(sample: Sample, label: int) -> str:
    """The class of a label.

    Raises:
        EvalError: it is none of the sample's classes.
    """
    if not sample.classes:
        return _NO_CLASS
    if not 0 <= label < len(sample.classes):
        raise EvalError(f"{sample.source}: no such class (got {label}); use 0 to {len(sample.classes) - 1}")
    return sample.classes[label]
