"""Detection and instance segmentation: COCO average precision, computed by pycocotools itself.

Definition: AP = mean over classes and IoU 0.50:0.05:0.95 of the 101-point interpolated precision; AP50, AP75 at one
IoU; APs, APm, APl over true objects of less than 32^2, 32^2 to 96^2, and more pixels of the original image (mask area
where the truth has masks, box area elsewhere). At most 100 predictions a class and sample, best scores first. Crowd
objects are neither found nor missed. As in pycocotools a value is -1 where there is no such true object, so -1 is
"nothing to find", not a score. Unreadable answers give no box, so what they should have found counts as missed.

Every sample is one image with its own question; classes are matched by name over all samples, so two samples may ask
for different classes. Results do not depend on the order of updates: images are numbered by source.

Source: pycocotools ``COCOeval`` (Lin et al. 2014, arXiv 1405.0312; cocodataset.org/#detection-eval).
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from ufo_tune.core import masks
from ufo_tune.core.types import Prediction, Rle, Sample, Targets
from ufo_tune.errors import ConfigError, EvalError
from ufo_tune.metrics._base import RowMetric, truth

_NAMES = ("AP", "AP50", "AP75", "APs", "APm", "APl")
_NO_CLASS = "object"


@dataclass(frozen=True, slots=True)
class Record:
    """One sample in COCO's terms, still without ids: annotations hold their class by name."""

    source: str
    size: tuple[int, int]  # (H, W)
    classes: tuple[str, ...]
    truth: tuple[dict[str, Any], ...]
    predictions: tuple[dict[str, Any], ...]


class Metric(RowMetric[Record]):
    """``AP``, ``AP50``, ``AP75``, ``APs``, ``APm``, ``APl`` of boxes or masks.

    Args:
        iou_type: ``bbox`` compares boxes, ``segm`` masks.
        class_agnostic: Every object has one class: was it found at all?

    Raises:
        ConfigError: another ``iou_type``.
    """

    def __init__(self, *, iou_type: Literal["bbox", "segm"] = "bbox", class_agnostic: bool = False) -> None:
        super().__init__()
        if iou_type not in {"bbox", "segm"}:
            raise ConfigError(f"metrics/coco_ap.iou_type: no such type (got {iou_type!r}); use bbox or segm")
        self.iou_type = iou_type
        self.class_agnostic = class_agnostic

    def score(self, sample: Sample, prediction: Prediction) -> Record:
        """The sample's objects and predictions as COCO annotations.

        Raises:
            EvalError: masks are asked for and missing, or a prediction's fields differ in length.
        """
        targets = truth(sample)
        lengths = {len(prediction.boxes), len(prediction.scores), len(prediction.labels)}
        if self.iou_type == "segm":
            _need_masks(sample, "the truth", targets.masks, len(targets.boxes))
            _need_masks(sample, "the prediction", prediction.masks, len(prediction.scores))
            lengths = {len(prediction.masks or ()), len(prediction.scores), len(prediction.labels)}
        if len(lengths) > 1:
            raise EvalError(
                f"{sample.source}: predicted boxes, masks, scores and labels differ in number (got {lengths})"
            )
        names = (_NO_CLASS,) if self.class_agnostic else sample.classes
        return Record(
            sample.source, sample.size, names, self._objects(sample, targets), self._found(sample, prediction)
        )

    def summary(self) -> dict[str, float]:
        """The six values; -1 where there is no such true object."""
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval

        records = sorted(self.rows, key=lambda r: r.source)
        classes = {name: i for i, name in enumerate(sorted({c for r in records for c in r.classes}), start=1)}
        if not classes:
            return dict.fromkeys(_NAMES, -1.0)
        dataset = {
            "info": {},
            "images": [{"id": i, "height": r.size[0], "width": r.size[1]} for i, r in enumerate(records)],
            "categories": [{"id": i, "name": name} for name, i in classes.items()],
        }
        # pycocotools prints its progress and table; a library keeps quiet, and the numbers are read from `stats`.
        with contextlib.redirect_stdout(io.StringIO()):
            apis = []
            for groups in ([r.truth for r in records], [r.predictions for r in records]):
                api = COCO()
                api.dataset = {**dataset, "annotations": _numbered(groups, classes)}
                api.createIndex()
                apis.append(api)
            evaluation = COCOeval(*apis, iouType=self.iou_type)
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
        return {name: float(value) for name, value in zip(_NAMES, evaluation.stats[:6], strict=True)}

    def _class_name(self, sample: Sample, label: int) -> str:
        if self.class_agnostic:
            return _NO_CLASS
        if not 0 <= label < len(sample.classes):
            raise EvalError(f"{sample.source}: label is no class (got {label}); use 0..{len(sample.classes) - 1}")
        return sample.classes[label]

    def _objects(self, sample: Sample, targets: Targets) -> tuple[dict[str, Any], ...]:
        """The true objects; their area is the mask's where there is one, as in COCO's files."""
        crowd = [False] * len(targets.boxes) if targets.crowd is None else targets.crowd.tolist()
        areas = _box_areas(targets.boxes) if targets.masks is None else masks.area(targets.masks).tolist()
        rles = targets.masks or (None,) * len(targets.boxes)
        rows = zip(targets.boxes.double().tolist(), rles, targets.labels.tolist(), crowd, areas, strict=True)
        return tuple(
            _annotation(box, rle, self._class_name(sample, label)) | {"iscrowd": int(is_crowd), "area": area}
            for box, rle, label, is_crowd, area in rows
        )

    def _found(self, sample: Sample, prediction: Prediction) -> tuple[dict[str, Any], ...]:
        """The predictions; their area is that of what is compared."""
        scores, labels = prediction.scores.double().tolist(), prediction.labels.tolist()
        if self.iou_type == "segm":
            rles: Sequence[Rle | None] = prediction.masks or ()
            boxes = [[0.0, 0.0, 0.0, 0.0]] * len(scores)
            areas = masks.area(prediction.masks or ()).tolist()
        else:
            rles, boxes = (None,) * len(scores), prediction.boxes.double().tolist()
            areas = _box_areas(prediction.boxes)
        rows = zip(boxes, rles, labels, scores, areas, strict=True)
        return tuple(
            _annotation(box, rle, self._class_name(sample, label)) | {"iscrowd": 0, "area": area, "score": score}
            for box, rle, label, score, area in rows
        )


def _need_masks(sample: Sample, whose: str, rles: Sequence[Rle] | None, objects: int) -> None:
    if rles is None and objects:
        raise EvalError(f"{sample.source}: {whose} has no masks (got {objects} objects); use iou_type: bbox")
    for rle in rles or ():
        if tuple(rle["size"]) != tuple(sample.size):
            raise EvalError(
                f"{sample.source}: a mask of {whose} is {tuple(rle['size'])} but the image is {sample.size}; rescale it"
            )


def _annotation(box: list[float], rle: Rle | None, name: str) -> dict[str, Any]:
    """The part that truth and predictions share; COCO boxes are x, y, width, height."""
    x0, y0, x1, y1 = box
    shape = {} if rle is None else {"segmentation": dict(rle)}
    return {"bbox": [x0, y0, x1 - x0, y1 - y0], "name": name, **shape}


def _box_areas(boxes: Tensor) -> list[float]:
    """Areas of boxes [N, 4] xyxy."""
    sides = (boxes[:, 2:] - boxes[:, :2]).double()
    return list(map(float, sides.prod(-1).tolist()))


def _numbered(groups: Sequence[Sequence[dict[str, Any]]], classes: dict[str, int]) -> list[dict[str, Any]]:
    """One list with image and class numbers; ids count from 1, because COCOeval reads a match with id 0 as none."""
    flat = ((image, annotation) for image, group in enumerate(groups) for annotation in group)
    return [
        {**annotation, "id": number, "image_id": image, "category_id": classes[annotation["name"]]}
        for number, (image, annotation) in enumerate(flat, start=1)
    ]
