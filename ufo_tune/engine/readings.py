"""Would the same answers fit the truth better if they were read another way? Boxes, maps and class names.

    read = readings(case, codec)   # {"boxes": {"xyxy": 0.12, "cxcywh": 0.97, ...}}, the first as they were read

Each number is how well one sample's answer overlaps its truth, in [0, 1]. These are diagnostics of a mistake in a
convention and nothing else: no score is ever taken from another reading than the model's own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor

from ufo_tune.core import masks
from ufo_tune.core.answers import parse
from ufo_tune.core.boxes import clip, cxcywh_to_xyxy, iou
from ufo_tune.core.codec import Codec
from ufo_tune.core.types import Targets
from ufo_tune.engine.predictions import Case

Readings = dict[str, dict[str, float]]
"""What is read (boxes, maps, depth, classes) -> way of reading -> overlap with the truth; the model's own way first."""
SIDE = 96
"""Maps are looked at on a grid of SIDE x SIDE pixels: enough to see which way round they are."""
FOUND = 0.5
"""IoU from which on an object is found, whatever it is called."""

_BOXES: Mapping[str, Callable[[Tensor], Tensor]] = {
    "xyxy": lambda b: b,
    "cxcywh": cxcywh_to_xyxy,
    "xywh": lambda b: torch.cat([b[:, :2], b[:, :2] + b[:, 2:]], dim=1),
    "yxyx": lambda b: b[:, [1, 0, 3, 2]],
}
_MAPS: Mapping[str, Callable[[np.ndarray], np.ndarray]] = {
    "given": lambda m: m,
    "transposed": lambda m: m.T,
    "mirrored": lambda m: m[:, ::-1],
    "upside down": lambda m: m[::-1],
}
_DEPTHS: Mapping[str, float] = {"metres": 1.0, "millimetres": 0.001, "kilometres": 1000.0}


def readings(case: Case, codec: Codec) -> Readings:
    """How well the answer overlaps the truth, read in several ways; what the truth or the answer lacks is left out."""
    found = {"boxes": _boxes(case, codec), "maps": _maps(case), "depth": _depth(case), "classes": _classes(case)}
    return {kind: ways for kind, ways in found.items() if ways}


def located(case: Case) -> list[tuple[str, str]]:
    """True and given class name of every object that was found where it is (IoU >= 0.5, the surest prediction)."""
    return [(case.sample.classes[t], case.sample.classes[p]) for t, p in _pairs(case)]


def sampled(array: np.ndarray) -> np.ndarray:
    """The nearest pixels of a map [H, W] on the grid [SIDE, SIDE] over the image."""
    rows, columns = (((np.arange(SIDE) + 0.5) * side / SIDE).astype(int) for side in array.shape[:2])
    return array[rows[:, None], columns[None]]  # [SIDE, SIDE]


def _boxes(case: Case, codec: Codec) -> dict[str, float]:
    """Mean over true boxes of the IoU with the nearest predicted one."""
    targets, size = case.sample.targets, case.sample.size
    if targets is None or not len(targets.boxes) or case.prediction.masks is not None:
        return {}
    written = _written(case, codec)
    if not len(written):
        return {}
    height, width = size
    extent = torch.tensor([width, height, width, height], dtype=torch.float64)  # [4]
    own = "xyxy" if codec.box_format == "xyxy" else "cxcywh"
    ways = {own: _BOXES[own], **_BOXES}
    read = {name: way(written) / codec.num_bins * extent for name, way in ways.items()}
    read["pixels"] = _BOXES[own](written)
    return {name: _overlap(clip(boxes, size), targets.boxes.double()) for name, boxes in read.items()}


def _written(case: Case, codec: Codec) -> Tensor:
    """The boxes as integers of the answer, [N, 4] float64: the answer's own, else what they must have been.

    A box whose corners came in the wrong order is stored without area; only the answer still has all four numbers.
    """
    bins = parse(case.answers[0], codec).boxes if len(case.answers) == 1 else ()
    if bins:
        return torch.tensor(bins, dtype=torch.float64)
    boxes = case.prediction.boxes
    return codec.encode_boxes(boxes, case.sample.size).double() if len(boxes) else boxes.double()


def _overlap(boxes: Tensor, truth: Tensor) -> float:
    return float(iou(truth, boxes).amax(dim=1).mean())


def _maps(case: Case) -> dict[str, float]:
    """IoU of all masks together; share of pixels with the right class where there is a label map."""
    targets, prediction = case.sample.targets, case.prediction
    if targets is None:
        return {}
    if targets.label_map is not None and prediction.label_map is not None:
        truth, given = sampled(targets.label_map), sampled(prediction.label_map)
        known = truth >= 0
        return {n: _share((way(given) == truth)[known]) for n, way in _MAPS.items()} if known.any() else {}
    if not targets.masks or not prediction.masks:
        return {}
    truth, given = (sampled(masks.decode(masks.union(rles))) for rles in (targets.masks, prediction.masks))
    if not truth.any():
        return {}
    return {n: float((way(given) & truth).sum() / (way(given) | truth).sum()) for n, way in _MAPS.items()}


def _depth(case: Case) -> dict[str, float]:
    """Share of known pixels within a factor of 1.25 of the truth."""
    targets, prediction = case.sample.targets, case.prediction
    if targets is None or targets.depth is None or prediction.depth is None:
        return {}
    truth, given = sampled(targets.depth), sampled(prediction.depth)
    known = truth > 0

    def near(depth: np.ndarray) -> float:
        ratio = np.maximum(depth, 1e-9)[known] / truth[known]
        return _share(np.maximum(ratio, 1 / ratio) < 1.25)

    if not known.any():
        return {}
    ways = {name: near(given * factor) for name, factor in _DEPTHS.items()}
    return ways | {name: near(way(given)) for name, way in list(_MAPS.items())[1:]}


def _classes(case: Case) -> dict[str, float]:
    """Share of found objects, or of labelled pixels, with the right class; then with every number one off."""
    targets, prediction = case.sample.targets, case.prediction
    count = len(case.sample.classes)
    if targets is None or count < 2:
        return {}
    if targets.label_map is not None and prediction.label_map is not None:
        truth, given = sampled(targets.label_map), sampled(prediction.label_map)
        known = (truth >= 0) & (given >= 0)
        steps = Counter(((given[known].astype(int) - truth[known]) % count).tolist())
    else:
        steps = Counter((p - t) % count for t, p in _pairs(case))
    total = sum(steps.values())
    if not total:
        return {}
    ways = {"given": 0, "one lower": 1, "one higher": count - 1}  # a number that is one too high, read one lower
    return {name: steps[step] / total for name, step in ways.items()}


def _pairs(case: Case) -> list[tuple[int, int]]:
    """True and given class number of every single object that was found."""
    targets, prediction = case.sample.targets, case.prediction
    count = len(case.sample.classes)
    lengths = {len(prediction.boxes), len(prediction.labels), len(prediction.scores)}
    if targets is None or not count or not len(targets.boxes) or len(lengths) > 1 or lengths == {0}:
        return []
    overlap = iou(_truth_boxes(targets), prediction.boxes)  # [M, N]
    sure = torch.where(overlap >= FOUND, prediction.scores + overlap * 1e-3, -1.0)  # [M, N]; IoU settles equal scores
    best, which = sure.max(dim=1)  # [M]
    single = torch.ones(len(best), dtype=torch.bool) if targets.crowd is None else ~targets.crowd.bool()
    seen = (best >= 0) & single
    pairs = zip(targets.labels[seen].tolist(), prediction.labels[which[seen]].tolist(), strict=True)
    return [(t, p) for t, p in pairs if 0 <= t < count and 0 <= p < count]


def _truth_boxes(targets: Targets) -> Tensor:
    """Bounds of the masks where there are some, as predictions with masks have them."""
    return targets.boxes if targets.masks is None else masks.boxes_of(targets.masks)


def _share(right: np.ndarray) -> float:
    return float(right.mean())
