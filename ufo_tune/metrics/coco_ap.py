"""Detection and instance segmentation: COCO average precision, computed by pycocotools itself.

Definition: AP = mean over classes and IoU 0.50:0.05:0.95 of the 101-point interpolated precision; AP50, AP75 at one
IoU; APs, APm, APl over true objects of less than 32^2, 32^2 to 96^2, and more pixels of the original image (mask area
where the truth has masks, box area elsewhere). At most 100 predictions a class and sample, best scores first. Crowd
objects are neither found nor missed. As in pycocotools a value is -1 where there is no such true object, so -1 is
"nothing to find", not a score. Unreadable answers give no box, so what they should have found counts as missed.

Every sample is one image with its own question; classes are matched by name over all samples, so two samples may ask
for different classes. Results do not depend on the order of updates: images are numbered by source.

Source: pycocotools ``COCOeval`` (Lin et al. 2014, arXiv 1405.0312; cocodataset.org/#detection-eval). The backend
``faster`` is faster-coco-eval, the same algorithm in C++ (github.com/MiXaiLL76/faster_coco_eval).
"""

from __future__ import annotations

import contextlib
import io
from typing import Any

import numpy as np

from ufo_tune.core.types import Prediction, Sample
from ufo_tune.metrics import _coco_eval as coco_eval
from ufo_tune.metrics._base import RowMetric
from ufo_tune.metrics._coco_eval import UNDEFINED, Backend, Curve, IouType, Record

__all__ = ["UNDEFINED", "Metric"]

_NAMES = ("AP", "AP50", "AP75", "APs", "APm", "APl")


class Metric(RowMetric[Record]):
    """``AP``, ``AP50``, ``AP75``, ``APs``, ``APm``, ``APl`` of boxes or masks.

    Args:
        iou_type: ``bbox`` compares boxes, ``segm`` masks.
        class_agnostic: Every object has one class: was it found at all?
        backend: ``pycocotools``, or ``faster`` (extra ``fast``) for the same values in less time.

    Raises:
        ConfigError: another ``iou_type`` or ``backend``, or the backend is not installed.
    """

    def __init__(
        self, *, iou_type: IouType = "bbox", class_agnostic: bool = False, backend: Backend = "pycocotools"
    ) -> None:
        super().__init__()
        coco_eval.check("coco_ap", iou_type, backend)
        self.iou_type = iou_type
        self.class_agnostic = class_agnostic
        self.backend = backend

    def score(self, sample: Sample, prediction: Prediction) -> Record:
        """The sample's objects and predictions as COCO annotations.

        Raises:
            EvalError: masks are asked for and missing, or a prediction's fields differ in length.
        """
        return coco_eval.record(sample, prediction, self.iou_type, self.class_agnostic)

    def summary(self) -> dict[str, float]:
        """The six values; -1 where there is no such true object."""
        evaluation = self._evaluate()
        values = [UNDEFINED] * len(_NAMES) if evaluation is None else map(float, evaluation.stats[: len(_NAMES)])
        return dict(zip(_NAMES, values, strict=True))

    def curves(self) -> dict[str, Curve]:
        """Precision over recall at IoU 0.5, averaged over the classes that have objects: name -> x [101], y [101]."""
        evaluation = self._evaluate()
        if evaluation is None:
            return {}
        precision: np.ndarray = evaluation.eval["precision"]  # [IoU, recall, class, area, detections]
        return coco_eval.precision_curve(precision[0, :, :, 0, -1])

    def _evaluate(self) -> Any:
        """A ``COCOeval`` that is done; None where no class was asked for."""
        records = sorted(self.rows, key=lambda r: r.source)
        classes = {name: i for i, name in enumerate(sorted({c for r in records for c in r.classes}), start=1)}
        if not classes:
            return None
        # pycocotools prints its progress and table; a library keeps quiet, and the numbers are read from `stats`.
        with contextlib.redirect_stdout(io.StringIO()):
            evaluation = coco_eval.prepare(records, classes, self.iou_type, self.backend)
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
        return evaluation
