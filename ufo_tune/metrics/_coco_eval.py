"""Samples in COCO's terms, and pycocotools' evaluation of them: what COCO's and LVIS's AP share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from torch import Tensor

from ufo_tune.core import masks
from ufo_tune.core.types import Prediction, Rle, Sample, Targets
from ufo_tune.errors import ConfigError, EvalError
from ufo_tune.metrics._base import truth

IouType = Literal["bbox", "segm"]
Backend = Literal["pycocotools", "faster"]
UNDEFINED = -1.0
"""What COCO's code gives as AP where there is no such true object: no score, which is never below 0."""
Curve = tuple[np.ndarray, np.ndarray]
"""Points of a line, x [n] and y [n]."""
ONE_CLASS = "object"
"""The name of all classes where they do not matter."""


@dataclass(frozen=True, slots=True)
class Record:
    """One sample in COCO's terms, still without ids: annotations hold their class by name."""

    source: str
    size: tuple[int, int]  # (H, W)
    classes: tuple[str, ...]
    truth: tuple[dict[str, Any], ...]
    predictions: tuple[dict[str, Any], ...]


def record(sample: Sample, prediction: Prediction, iou_type: IouType, class_agnostic: bool = False) -> Record:
    """The sample's objects and predictions as COCO annotations.

    Raises:
        EvalError: masks are asked for and missing, or a prediction's fields differ in length.
    """
    targets = truth(sample)
    lengths = {len(prediction.boxes), len(prediction.scores), len(prediction.labels)}
    if iou_type == "segm":
        _need_masks(sample, "the truth", targets.masks, len(targets.boxes))
        _need_masks(sample, "the prediction", prediction.masks, len(prediction.scores))
        lengths = {len(prediction.masks or ()), len(prediction.scores), len(prediction.labels)}
    if len(lengths) > 1:
        raise EvalError(f"{sample.source}: predicted boxes, masks, scores and labels differ in number (got {lengths})")
    classes = (ONE_CLASS,) if class_agnostic else sample.classes
    names = _names(sample, targets.labels, class_agnostic), _names(sample, prediction.labels, class_agnostic)
    return Record(
        sample.source, sample.size, classes, _objects(targets, names[0]), _found(prediction, names[1], iou_type)
    )


def check(metric: str, iou_type: str, backend: str = "pycocotools") -> None:
    """Refuse unknown options, and a backend that is not installed.

    Raises:
        ConfigError: naming the option of ``metric``.
    """
    if iou_type not in {"bbox", "segm"}:
        raise ConfigError(f"metrics/{metric}.iou_type: no such type (got {iou_type!r}); use bbox or segm")
    if backend not in {"pycocotools", "faster"}:
        raise ConfigError(f"metrics/{metric}.backend: no such backend (got {backend!r}); use pycocotools or faster")
    _library(metric, backend)


def prepare(records: Sequence[Record], classes: Mapping[str, int], iou_type: IouType, backend: str) -> Any:
    """A ``COCOeval`` of the records, in their order; nothing is computed yet.

    Args:
        records: one per image.
        classes: number of each class, from 1.
        iou_type: what is compared.
        backend: whose ``COCOeval``.
    """
    coco, evaluation = _library("coco_ap", backend)
    dataset = {
        "info": {},
        "images": [{"id": i, "height": r.size[0], "width": r.size[1]} for i, r in enumerate(records)],
        "categories": [{"id": i, "name": name} for name, i in classes.items()],
    }
    sides = []
    for groups in ([r.truth for r in records], [r.predictions for r in records]):
        side = coco()
        side.dataset = {**dataset, "annotations": _numbered(groups, classes)}
        side.createIndex()
        sides.append(side)
    return evaluation(*sides, iouType=iou_type)


def mean_found(values: np.ndarray) -> float:
    """The mean without COCO's -1 (nothing to find); -1 where nothing else is there."""
    found = values[values > UNDEFINED]
    return float(found.mean()) if found.size else UNDEFINED


def precision_curve(precision: np.ndarray) -> dict[str, Curve]:
    """Precision [R, K] at R equidistant recalls and of K classes as a line by name; none without a true object."""
    found = precision[:, (precision > UNDEFINED).all(0)]  # [R, classes with objects]
    if not found.size:
        return {}
    return {"precision over recall at IoU 0.5": (np.linspace(0, 1, len(found)), found.mean(1))}


def _library(metric: str, backend: str) -> tuple[Any, Any]:
    """``COCO`` and ``COCOeval`` of the backend."""
    if backend == "pycocotools":
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval

        return COCO, COCOeval
    try:
        import faster_coco_eval
    except ImportError as error:
        raise ConfigError(
            f"metrics/{metric}.backend: faster needs faster-coco-eval (got no such module); "
            "pip install 'ufo-tune[fast]', or backend: pycocotools"
        ) from error
    return faster_coco_eval.COCO, faster_coco_eval.COCOeval_faster


def _names(sample: Sample, labels: Tensor, class_agnostic: bool) -> list[str]:
    """The class of each object by name."""
    numbers: list[int] = labels.tolist()
    if class_agnostic:
        return [ONE_CLASS] * len(numbers)
    for label in numbers:
        if not 0 <= label < len(sample.classes):
            raise EvalError(f"{sample.source}: label is no class (got {label}); use 0..{len(sample.classes) - 1}")
    return [sample.classes[label] for label in numbers]


def _objects(targets: Targets, names: Sequence[str]) -> tuple[dict[str, Any], ...]:
    """The true objects; their area is the mask's where there is one, as in COCO's files."""
    crowd = [False] * len(names) if targets.crowd is None else targets.crowd.tolist()
    areas = _box_areas(targets.boxes) if targets.masks is None else masks.area(targets.masks).tolist()
    rles = targets.masks or (None,) * len(names)
    rows = zip(targets.boxes.double().tolist(), rles, names, crowd, areas, strict=True)
    return tuple(
        _annotation(box, rle, name) | {"iscrowd": int(is_crowd), "area": area}
        for box, rle, name, is_crowd, area in rows
    )


def _found(prediction: Prediction, names: Sequence[str], iou_type: IouType) -> tuple[dict[str, Any], ...]:
    """The predictions; their area is that of what is compared."""
    scores = prediction.scores.double().tolist()
    if iou_type == "segm":
        rles: Sequence[Rle | None] = prediction.masks or ()
        boxes = [[0.0, 0.0, 0.0, 0.0]] * len(scores)
        areas = masks.area(prediction.masks or ()).tolist()
    else:
        rles, boxes = (None,) * len(scores), prediction.boxes.double().tolist()
        areas = _box_areas(prediction.boxes)
    rows = zip(boxes, rles, names, scores, areas, strict=True)
    return tuple(
        _annotation(box, rle, name) | {"iscrowd": 0, "area": area, "score": score}
        for box, rle, name, score, area in rows
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


def _numbered(groups: Sequence[Sequence[dict[str, Any]]], classes: Mapping[str, int]) -> list[dict[str, Any]]:
    """One list with image and class numbers; ids count from 1, because COCOeval reads a match with id 0 as none."""
    flat = ((image, annotation) for image, group in enumerate(groups) for annotation in group)
    return [
        {**annotation, "id": number, "image_id": image, "category_id": classes[annotation["name"]]}
        for number, (image, annotation) in enumerate(flat, start=1)
    ]
