"""Detection and instance segmentation with many classes: LVIS average precision, matched by pycocotools.

Definition: every class is evaluated on its own images, those where it has an object or where somebody looked for it in
vain (``Sample.absent``; all images where that is None); predictions of other classes are neither right nor wrong. Where
not every object of a class is marked (``Sample.partial``), a prediction of it that finds nothing is not wrong. Of each
image the 300 best predictions count, of all classes together. Apart from that AP, AP50, AP75, APs, APm, APl are COCO's:
IoU 0.50:0.05:0.95, 101-point precision, mean over the classes that have objects, -1 where there is nothing to find.
``APr``, ``APc``, ``APf`` are over the classes that fewer than 10, 10 to 99, and 100 or more training images have; any
grouping of classes that a dataset gives (``Sample.groups``) has its ``AP<group>``.

Areas are those of masks where the truth has masks, as in LVIS's files; of boxes elsewhere, which changes APs, APm and
APl only: give the dataset ``with_masks: true`` for boxes as LVIS scores them, and ``min_size: 0``, for an object that
is filtered out is not there to be found. Unreadable answers give no box, so what they should have found is missed.

Source: Gupta et al. 2019 (arXiv 1908.03195) sec. 2.4; ``LVISEval`` of github.com/lvis-dataset/lvis-api.
"""

from __future__ import annotations

import contextlib
import io
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ufo_tune.core.types import Prediction, Sample
from ufo_tune.metrics import _coco_eval as coco_eval
from ufo_tune.metrics._base import RowMetric
from ufo_tune.metrics._coco_eval import UNDEFINED, Curve, IouType, Record

__all__ = ["UNDEFINED", "Metric"]

_MOST = 300
"""Predictions of an image that count."""
_AREAS = ("", "s", "m", "l")
_Precision = np.ndarray
"""[IoU 10, recall 101, area 4]."""


@dataclass(frozen=True, slots=True)
class Judged:
    """One sample with what can be judged of it: ``record.classes``, of which ``partial`` are not all marked."""

    record: Record
    partial: tuple[str, ...]
    groups: Mapping[str, str]


class Metric(RowMetric[Judged]):
    """``AP``, ``AP50``, ``AP75``, ``APs``, ``APm``, ``APl`` of boxes or masks, and ``AP<group>`` of groups of classes.

    Args:
        iou_type: ``bbox`` compares boxes, ``segm`` masks.

    Raises:
        ConfigError: another ``iou_type``.
    """

    def __init__(self, *, iou_type: IouType = "bbox") -> None:
        super().__init__()
        coco_eval.check("lvis_ap", iou_type)
        self.iou_type = iou_type

    def score(self, sample: Sample, prediction: Prediction) -> Judged:
        """The sample's objects and predictions, as far as they can be judged.

        Raises:
            EvalError: masks are asked for and missing, or a prediction's fields differ in length.
        """
        record = coco_eval.record(sample, prediction, self.iou_type)
        classes = set(sample.classes)
        if sample.absent is not None:
            classes = {annotation["name"] for annotation in record.truth} | classes.intersection(sample.absent)
        best = sorted(record.predictions, key=lambda annotation: -annotation["score"])[:_MOST]
        judged = replace(
            record,
            classes=tuple(sorted(classes)),
            predictions=tuple(annotation for annotation in best if annotation["name"] in classes),
        )
        return Judged(judged, tuple(c for c in sample.partial if c in classes), sample.groups)

    def summary(self) -> dict[str, float]:
        """The values; -1 where there is no such true object."""
        of = self._precisions()
        # Samples of one dataset share one table of groups.
        tables = {id(row.groups): row.groups for row in self.rows}.values()
        known = {name: group for table in tables for name, group in table.items()}
        groups = {g: [of[name] for name in sorted(of) if known.get(name) == g] for g in sorted(set(known.values()))}
        every = _stack(list(of.values()))  # [K, IoU, recall, area]
        values = {"AP": every[..., 0], "AP50": every[:, 0, :, 0], "AP75": every[:, 5, :, 0]}
        values |= {f"AP{name}": every[..., i] for i, name in enumerate(_AREAS) if name}
        values |= {f"AP{name}": _stack(own)[..., 0] for name, own in groups.items()}
        return {name: coco_eval.mean_found(value) for name, value in values.items()}

    def curves(self) -> dict[str, Curve]:
        """Precision over recall at IoU 0.5, averaged over the classes that have objects: name -> x [101], y [101]."""
        every = _stack(list(self._precisions().values()))  # [K, IoU, recall, area]
        return coco_eval.precision_curve(every[:, 0, :, 0].T)

    def _precisions(self) -> dict[str, _Precision]:
        """The precision of every class, by name in alphabetical order."""
        images: dict[str, list[tuple[Record, bool]]] = defaultdict(list)
        for row in sorted(self.rows, key=lambda row: row.record.source):
            true, found = _by_class(row.record.truth), _by_class(row.record.predictions)
            for name in row.record.classes:
                own = replace(row.record, classes=(name,), truth=tuple(true[name]), predictions=tuple(found[name]))
                images[name].append((own, name in row.partial))
        with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its progress
            return {name: _precision(name, images[name], self.iou_type) for name in sorted(images)}


def _precision(name: str, images: Sequence[tuple[Record, bool]], iou_type: IouType) -> _Precision:
    """The precision of one class on its images, of which some are marked in part."""
    evaluation = coco_eval.prepare([record for record, _ in images], {name: 1}, iou_type, "pycocotools")
    evaluation.params.maxDets = [_MOST]
    evaluation.evaluate()
    for found in evaluation.evalImgs:
        if found is not None and images[found["image_id"]][1]:
            found["dtIgnore"] = found["dtIgnore"].astype(bool) | (found["dtMatches"] == 0)
    evaluation.accumulate()
    precision: _Precision = evaluation.eval["precision"][:, :, 0, :, 0]  # [IoU, recall, class, area, detections]
    return precision


def _by_class(annotations: Sequence[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for annotation in annotations:
        found[annotation["name"]].append(annotation)
    return found


def _stack(precisions: Sequence[_Precision]) -> np.ndarray:
    """[K, IoU, recall, area], also of none."""
    return np.stack([np.zeros((10, 101, len(_AREAS))), *precisions])[1:]
