"""Masks: COCO run lengths, polygons and bitmaps; IoU, boundaries and matrix-NMS.

Run lengths (``Rle``) are what is stored and passed on; bitmaps are numpy bool [H, W].
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from pycocotools import mask as coco
from scipy import ndimage
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


def encode_ids(ids: np.ndarray) -> dict[int, Rle]:
    """The run lengths of the pixels of each number in a map [H, W], in the order of numbers, in one pass."""
    size = (ids.shape[0], ids.shape[1])
    flat = ids.T.reshape(-1)  # column by column, as run lengths count
    starts = np.flatnonzero(np.append(True, flat[1:] != flat[:-1]))  # [K] of runs of one number
    ends = np.append(starts[1:], flat.size)
    order = np.argsort(flat[starts], kind="stable")
    numbers, first = np.unique(flat[starts][order], return_index=True)
    found: dict[int, Rle] = {}
    for number, runs in zip(numbers.tolist(), np.split(order, first[1:]), strict=True):
        edges = np.stack([starts[runs], ends[runs]], axis=1).reshape(-1)  # in, out, in, out, ...
        counts = np.diff(edges, prepend=0, append=flat.size)
        found[number] = from_segmentation({"size": size, "counts": counts[: -1 if counts[-1] == 0 else None]}, size)
    return found


def decode(rle: Rle) -> np.ndarray:
    """The bitmap [H, W] bool of run lengths."""
    return np.asarray(coco.decode(dict(rle)), dtype=bool)


def decode_many(rles: Sequence[Rle], size: tuple[int, int] = (0, 0)) -> np.ndarray:
    """The bitmaps [N, H, W] bool of run lengths; ``size`` (H, W) is used only where there are none."""
    if not rles:
        return np.zeros((0, *size), dtype=bool)
    stacked = coco.decode([dict(r) for r in rles])  # [H, W, N]
    return np.ascontiguousarray(stacked.transpose(2, 0, 1)).astype(bool)  # [N, H, W]


def union(rles: Sequence[Rle]) -> Rle:
    """The pixels of one or more masks of one size together."""
    merged: Rle = coco.merge([dict(r) for r in rles])
    return merged


def from_polygons(polygons: Sequence[Sequence[float]], size: tuple[int, int]) -> Rle:
    """The union of polygons, each ``[x0, y0, x1, y1, ...]`` in pixels, on an image of ``size`` (H, W).

    Raises:
        DataError: a polygon has fewer than three points, an odd number of coordinates, or absurd ones.
    """
    if len(polygons) == 0:
        return encode(np.zeros(size, dtype=bool))
    parts = coco.frPyObjects([_coordinates(p, size) for p in polygons], *size)
    merged: Rle = coco.merge(parts)
    return merged


def from_segmentation(segmentation: Any, size: tuple[int, int]) -> Rle:
    """The mask of a COCO ``segmentation`` field: polygons, run lengths as a list, or compressed run lengths.

    Args:
        segmentation: a list of polygons, or ``{"size": [H, W], "counts": list | str | bytes}``.
        size: (H, W) of the image.

    Raises:
        DataError: it is none of these, of another size than the image, or damaged.
    """
    if isinstance(segmentation, list | tuple):
        return from_polygons(segmentation, size)
    if not isinstance(segmentation, Mapping) or not {"size", "counts"} <= set(segmentation):
        raise DataError(f"segmentation: no known form (got {segmentation!r:.80}); give polygons, or size and counts")
    own = segmentation["size"]
    if not isinstance(own, Sequence):
        raise DataError(f"mask size: is not height and width (got {own!r:.80}); check the annotation file")
    if tuple(own) != tuple(size):
        raise DataError(f"mask is {tuple(own)} but the image is {tuple(size)}; check the annotation file")
    counts = segmentation["counts"]
    if isinstance(counts, str):
        counts = counts.encode("utf-8", "replace")
    try:
        runs = run_lengths(counts) if isinstance(counts, bytes) else np.asarray(counts, dtype=np.int64)
    except (TypeError, ValueError, OverflowError) as error:
        raise DataError(
            f"mask counts: are no run lengths (got {counts!r:.80}); give integers or COCO's string"
        ) from error
    # pycocotools reads beyond its memory where the runs do not fill the image, so nothing else may be let in.
    if runs.sum() != size[0] * size[1] or (runs < 0).any():
        raise DataError(
            f"mask: runs fill {runs.sum()} pixels (got an image of {tuple(size)}); check the annotation file"
        )
    if isinstance(counts, bytes):
        return {"size": list(size), "counts": counts}
    compressed: Rle = coco.frPyObjects({"size": list(size), "counts": runs.tolist()}, *size)
    return compressed


def run_lengths(counts: bytes) -> np.ndarray:
    """The runs [K] int64 (background first) in COCO's compressed form; damaged bytes give runs that do not add up.

    Five bits a byte from 48 up, the sixth says that more follow, two's complement; from the fourth run on each is
    the difference to the one before the last.
    """
    code = np.frombuffer(counts, dtype=np.uint8).astype(np.int64) - 48  # [bytes]
    last = (code & 0x20) == 0
    if not len(code) or code.min() < 0 or code.max() > 0x3F or not last[-1]:
        return np.zeros(0, dtype=np.int64)
    starts = np.concatenate([[0], np.flatnonzero(last)[:-1] + 1])  # [K]
    lengths = np.diff(np.append(starts, len(code)))  # [K]
    if lengths.max() > 6:  # 30 bits: no image is larger
        return np.zeros(0, dtype=np.int64)
    place = np.arange(len(code)) - np.repeat(starts, lengths)  # [bytes] number within its run
    values = np.add.reduceat((code & 0x1F) << (5 * place), starts)  # [K]
    negative = (code[last] & 0x10) != 0
    values = values - np.where(negative, np.int64(1) << (5 * lengths), 0)
    runs = values.copy()
    runs[1::2] = np.cumsum(values[1::2])
    runs[2::2] = np.cumsum(values[2::2])  # the first run stands alone
    return runs


def area(rles: Sequence[Rle]) -> Tensor:
    """Pixels of each mask: [N] int64."""
    # pycocotools 2.0.11 keeps the number of masks in 8 bits here.
    parts = [coco.area([dict(r) for r in rles[i : i + 255]]) for i in range(0, len(rles), 255)]
    return torch.from_numpy(np.concatenate([np.zeros(0, dtype=np.int64), *parts]).astype(np.int64))


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
    return torch.from_numpy(np.asarray(values, dtype=np.float64))


def boundary(mask: Bitmap, width: int) -> np.ndarray:
    """The pixels of a mask within ``width`` pixels (chessboard distance) of its contour; image edges are contour.

    Args:
        mask: [H, W].
        width: pixels, at least 1.

    Returns:
        [H, W] bool, a subset of the mask.

    Source:
        Boundary IoU, Cheng et al. 2021 (arXiv 2103.16562), sec. 4.
    """
    pixels = _numpy(mask)
    inner = ndimage.minimum_filter(pixels.astype(np.uint8), size=2 * width + 1, mode="constant", cval=0)
    return np.asarray(pixels & ~inner.astype(bool))


def mean_inside(probabilities: Tensor, found: Tensor) -> Tensor:
    """How sure of each mask: the mean probability [N] of its own pixels; 0 where it has none.

    Args:
        probabilities: [N, H, W].
        found: [N, H, W] bool: which pixels belong to the masks.
    """
    pixels = found.sum(dim=(1, 2)).clamp_min(1)  # [N]
    return (probabilities * found).sum(dim=(1, 2)) / pixels


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


def _coordinates(polygon: Sequence[float], size: tuple[int, int]) -> list[float]:
    try:
        values = np.asarray(polygon, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise DataError(
            f"polygon: is not a list of numbers (got {polygon!r:.80}); give [x0, y0, x1, y1, ...]"
        ) from error
    if values.ndim != 1 or len(values) < 6 or len(values) % 2:
        raise DataError(f"polygon: is not x, y pairs of 3 points or more (got {values.size} numbers); mend or drop it")
    # pycocotools walks along every edge, so one absurd coordinate would take all memory.
    if not np.isfinite(values).all() or np.abs(values).max() > 10 * max(size):
        raise DataError(
            f"polygon: reaches far beyond the image {tuple(size)} (got {np.abs(values).max():g}); give pixels"
        )
    return [float(v) for v in values]


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
