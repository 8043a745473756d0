"""Masks: COCO run lengths, polygons and bitmaps; IoU, boundaries and matrix-NMS.

Run lengths (``Rle``) are what is stored and passed on; bitmaps are numpy bool [H, W].
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from pycocotools import mask as coco  # type: ignore[import-untyped, unused-ignore]
from scipy import ndimage  # type: ignore[import-untyped, unused-ignore]
from torch import Tensor

from ufo_tune.core.types import Rle
from ufo_tune.errors import DataError

Bitmap = np.ndarray | Tensor
"""Bool or 0/1 pixels."""


def encode(mask: Bitmap) -> Rle:
    """The run lengths of a bitmap [H, W]."""
    return encode_many(_numpy(mask)[None])[0]


def encode_many(masks: Bitmap) -> tuple[Rle, ...]:
    """The run lengths of bitmaps [N, H, W]: N of them."""
    array = _numpy(masks)
    if array.shape[0] == 0:
        return ()
    columns = np.asfortranarray(array.transpose(1, 2, 0), dtype=np.uint8)  # [H, W, N], as pycocotools wants it
    return tuple(coco.encode(columns))


def decode(rle: Rle) -> np.ndarray:
    """The bitmap [H, W] bool of run lengths."""
    return np.asarray(coco.decode(dict(rle)), dtype=bool)


def decode_many(rles: Sequence[Rle], size: tuple[int, int] = (0, 0)) -> np.ndarray:
    """The bitmaps [N, H, W] bool of run lengths; ``size`` (H, W) is used only where there are none."""
    if not rles:
        return np.zeros((0, *size), dtype=bool)
    stacked = coco.decode([dict(r) for r in rles])  # [H, W, N]
    return np.ascontiguousarray(stacked.transpose(2, 0, 1)).astype(bool)  # [N, H, W]


def from_polygons(polygons: Sequence[Sequence[float]], size: tuple[int, int]) -> Rle:
    """The union of polygons, each ``[x0, y0, x1, y1, ...]`` in pixels, on an image of ``size`` (H, W).

    Raises:
        DataError: a polygon has fewer than three points or an odd number of coordinates.
    """
    for polygon in polygons:
        if len(polygon) < 6 or len(polygon) % 2:
            raise DataError(
                f"polygon: is not x, y pairs of 3 points or more (got {len(polygon)} numbers); mend or drop it"
            )
    if not polygons:
        return encode(np.zeros(size, dtype=bool))
    height, width = size
    parts = coco.frPyObjects([[float(v) for v in p] for p in polygons], height, width)
    merged: Rle = coco.merge(parts)
    return merged


def from_segmentation(segmentation: Any, size: tuple[int, int]) -> Rle:
    """The mask of a COCO ``segmentation`` field: polygons, run lengths as a list, or compressed run lengths.

    Args:
        segmentation: a list of polygons, or ``{"size": [H, W], "counts": list | str | bytes}``.
        size: (H, W) of the image.

    Raises:
        DataError: it is none of these, or of another size than the image.
    """
    if isinstance(segmentation, list | tuple):
        return from_polygons(segmentation, size)
    if not isinstance(segmentation, Mapping) or not {"size", "counts"} <= set(segmentation):
        raise DataError(f"segmentation: no known form (got {segmentation!r:.80}); give polygons, or size and counts")
    if tuple(segmentation["size"]) != tuple(size):
        raise DataError(
            f"mask is {tuple(segmentation['size'])} but the image is {tuple(size)}; check the annotation file"
        )
    counts = segmentation["counts"]
    if isinstance(counts, list | tuple):
        if sum(counts) != size[0] * size[1]:
            raise DataError(f"mask counts: add up to {sum(counts)} (got {size} pixels); check the annotation file")
        uncompressed: Rle = coco.frPyObjects({"size": list(size), "counts": list(counts)}, *size)
        return uncompressed
    return {"size": list(size), "counts": counts.encode() if isinstance(counts, str) else counts}


def area(rles: Sequence[Rle]) -> Tensor:
    """Pixels of each mask: [N] int64."""
    if not rles:
        return torch.zeros(0, dtype=torch.long)
    return torch.from_numpy(np.asarray(coco.area([dict(r) for r in rles])).astype(np.int64))


def boxes_of(rles: Sequence[Rle]) -> Tensor:
    """The tightest box around each mask: [N, 4] float32 xyxy pixels; zeros for an empty mask."""
    if not rles:
        return torch.zeros(0, 4)
    xywh = torch.from_numpy(np.asarray(coco.toBbox([dict(r) for r in rles])).astype(np.float32))  # [N, 4]
    boxes = torch.cat([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], dim=1)  # [N, 4]
    return boxes * (area(rles) > 0)[:, None]


def iou(a: Sequence[Rle], b: Sequence[Rle]) -> Tensor:
    """Intersection over union of each mask of ``a`` with each of ``b``: [N, M] float64; 0 where both are empty."""
    if not a or not b:
        return torch.zeros(len(a), len(b), dtype=torch.float64)
    values = coco.iou([dict(r) for r in a], [dict(r) for r in b], [0] * len(b))
    return torch.from_numpy(np.nan_to_num(np.asarray(values, dtype=np.float64)))


def intersection_union(a: Rle, b: Rle) -> tuple[int, int]:
    """Pixels in both masks, and pixels in either."""
    both = int(coco.area(coco.merge([dict(a), dict(b)], intersect=True)))
    return both, int(area([a, b]).sum()) - both


def boundary(mask: Bitmap, width: int | None = None) -> np.ndarray:
    """The pixels of a mask within ``width`` pixels (chessboard distance) of its contour; image edges are contour.

    Args:
        mask: [H, W].
        width: pixels; default 2 % of the image's diagonal, at least 1.

    Returns:
        [H, W] bool, a subset of the mask.

    Source:
        Boundary IoU, Cheng et al. 2021 (arXiv 2103.16562), sec. 4.
    """
    pixels = _numpy(mask)
    if width is None:
        width = max(1, round(0.02 * float(np.hypot(*pixels.shape))))
    inner = ndimage.minimum_filter(pixels.astype(np.uint8), size=2 * width + 1, mode="constant", cval=0)
    return np.asarray(pixels & ~inner.astype(bool))


def boundary_iou(a: Bitmap, b: Bitmap, width: int | None = None) -> float:
    """IoU of the boundaries of two masks [H, W]; 1 where both masks are empty. See ``boundary``."""
    first, second = boundary(a, width), boundary(b, width)
    union = int((first | second).sum())
    return int((first & second).sum()) / union if union else 1.0


def matrix_nms(masks: Sequence[Rle] | Bitmap, scores: Tensor, labels: Tensor, *, sigma: float = 2.0) -> Tensor:
    """Scores after matrix-NMS: masks lose by overlapping better ones of their class, all at once.

    Each score is multiplied by ``min_j exp(-sigma * (iou_ij^2 - worst_j^2))`` over better masks j of its class, where
    ``worst_j`` is the largest IoU of j with a mask better than j. Equal scores rank in the order given.

    Args:
        masks: N run lengths, or bitmaps [N, H, W].
        scores: [N].
        labels: [N] class indices.
        sigma: width of the Gaussian; larger forgives less.

    Returns:
        [N] new scores in the order given; nothing is dropped.

    Source:
        SOLOv2, Wang et al. 2020 (arXiv 2003.10152), sec. 3.3, Gaussian kernel.
    """
    if len(scores) == 0:
        return scores.clone()
    order = torch.argsort(scores, descending=True, stable=True)
    overlap = _self_iou(masks).to(scores.device)[order][:, order]  # [N, N], best first
    same = labels[order][:, None] == labels[order][None]  # [N, N]
    overlap = (overlap * same).triu(diagonal=1)  # row j better than column i
    worst = overlap.amax(dim=0)  # [N]
    # A mask of another class or a worse one has overlap 0 and a factor >= 1; the best of all has factor 1.
    decay = torch.exp(-sigma * (overlap**2 - worst[:, None] ** 2)).amin(dim=0)  # [N]
    result = torch.empty_like(scores)
    result[order] = (scores[order].double() * decay).to(scores.dtype)
    return result


def _self_iou(masks: Sequence[Rle] | Bitmap) -> Tensor:
    if not isinstance(masks, np.ndarray | Tensor):
        return iou(masks, masks)
    flat = torch.from_numpy(_numpy(masks)).flatten(1).float()  # [N, H*W]
    both = (flat @ flat.T).double()  # [N, N] pixels, exact in float32 below 16.7 million
    pixels = both.diagonal()
    union = pixels[:, None] + pixels[None] - both
    return both / union.clamp(min=1)


def _numpy(mask: Bitmap) -> np.ndarray:
    array = mask.detach().cpu().numpy() if isinstance(mask, Tensor) else mask
    return np.asarray(array, dtype=bool)
