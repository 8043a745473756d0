"""Box formats, IoU and soft-NMS. Boxes are [N, 4]; xyxy unless a name says otherwise, coordinates continuous."""

from __future__ import annotations

import torch
from torch import Tensor


def xyxy_to_cxcywh(boxes: Tensor) -> Tensor:
    """Corners [..., 4] to centre and size [..., 4], in the same unit."""
    x1, y1, x2, y2 = boxes.unbind(-1)
    return torch.stack([(x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1], dim=-1)  # [..., 4]


def cxcywh_to_xyxy(boxes: Tensor) -> Tensor:
    """Centre and size [..., 4] to corners [..., 4], in the same unit."""
    cx, cy, w, h = boxes.unbind(-1)
    return torch.stack([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2], dim=-1)  # [..., 4]


def area(boxes: Tensor) -> Tensor:
    """Areas [N] of boxes [N, 4]; 0 where a side is negative."""
    return (boxes[:, 2] - boxes[:, 0]).clamp(min=0) * (boxes[:, 3] - boxes[:, 1]).clamp(min=0)


def clip(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Boxes [N, 4] in pixels, clamped to an image of ``size`` (H, W)."""
    height, width = size
    return torch.stack(  # 4 x [N] -> [N, 4]
        [
            boxes[:, 0].clamp(0, width),
            boxes[:, 1].clamp(0, height),
            boxes[:, 2].clamp(0, width),
            boxes[:, 3].clamp(0, height),
        ],
        dim=1,
    )


def iou(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union of each box of ``a`` [N, 4] with each of ``b`` [M, 4].

    Returns:
        [N, M]; 0 (not NaN) where both boxes are empty.
    """
    low = torch.maximum(a[:, None, :2], b[None, :, :2])  # [N, M, 2]
    high = torch.minimum(a[:, None, 2:], b[None, :, 2:])  # [N, M, 2]
    intersection = (high - low).clamp(min=0).prod(-1)  # [N, M]
    union = area(a)[:, None] + area(b)[None] - intersection  # [N, M]
    return torch.where(union > 0, intersection / union.where(union > 0, 1.0), 0.0)


def soft_nms(
    boxes: Tensor, scores: Tensor, labels: Tensor, *, iou_threshold: float = 0.5, min_score: float = 1e-3
) -> tuple[Tensor, Tensor]:
    """Class-wise linear soft-NMS: a box that overlaps a better one of its class keeps ``1 - IoU`` of its score.

    Args:
        boxes: [N, 4] xyxy.
        scores: [N].
        labels: [N] class indices; boxes of different classes never touch each other.
        iou_threshold: overlaps up to this cost nothing.
        min_score: boxes whose score falls below this are dropped.

    Returns:
        Indices [K] of the boxes that stay, best first, and their new scores [K].

    Source:
        Bodla et al. 2017, linear variant; defaults of UFO's detection (``mmcv`` soft_nms).
    """
    overlap = iou(boxes.double(), boxes.double()) * (labels[:, None] == labels[None])  # [N, N]
    decay = torch.where(overlap > iou_threshold, 1 - overlap, 1.0)  # [N, N]
    left = scores.double().clone()  # [N]
    alive = left >= min_score  # [N]; a score may decay to 0 and stay, so no score can mean "gone"
    order: list[int] = []
    kept: list[float] = []
    # Sequential by definition: who is best next depends on the decays so far. One vector operation a box.
    while bool(alive.any()):
        best = int(left.where(alive, -torch.inf).argmax())
        order.append(best)
        kept.append(float(left[best]))
        alive[best] = False
        left = left * decay[best]
        alive &= left >= min_score
    keep = torch.tensor(order, dtype=torch.long, device=boxes.device)
    return keep, torch.tensor(kept, dtype=scores.dtype, device=scores.device)
