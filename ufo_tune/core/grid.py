"""Grid points: where parallel answers look, which object each of them speaks of, and what it sees there."""

from __future__ import annotations

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

BACKGROUND = -1
"""Assignment of a grid point that has no object."""

_DISTANCE_WEIGHT = 5.0
_OFF_MASK_WEIGHT = 100.0


def grid_points(rows: int, cols: int) -> Tensor:
    """Centres of the cells of a grid over the image.

    Returns:
        [rows * cols, 2] float32 x, y in [0, 1], row by row.
    """
    y = (torch.arange(rows, dtype=torch.float32) + 0.5) / rows
    x = (torch.arange(cols, dtype=torch.float32) + 0.5) / cols
    yy, xx = torch.meshgrid(y, x, indexing="ij")
    return torch.stack([xx, yy], dim=-1).reshape(-1, 2)  # [rows, cols, 2] -> [rows * cols, 2]


def assign(points: Tensor, boxes: Tensor, masks: Tensor | None = None, *, repeat: int = 3) -> Tensor:
    """The object each grid point speaks of, by the cheapest one-to-one matching.

    The cost of a pair is 5 times the L1 distance of the point to the box's centre, plus 100 where the point is off
    the object's mask. Every object is offered ``repeat`` times, so up to so many points speak of it. Where there are
    too few points for that it is offered less often (UFO leaves it to the matching, which may then drop an object
    altogether while another one keeps its three points).

    Args:
        points: [N, 2] x, y in [0, 1].
        boxes: [G, 4] xyxy in [0, 1].
        masks: [G, H, W] bool, or None for boxes only.
        repeat: points per object.

    Returns:
        [N] int64 object numbers, -1 for background. With G > N some objects have no point.

    Source:
        UFO (arXiv 2503.01342) sec. 3.3; PointsL1Cost and MaskCost of its code at 6976de9.
    """
    result = torch.full((len(points),), BACKGROUND, dtype=torch.long)
    count = len(boxes)
    if count == 0 or len(points) == 0:
        return result
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2  # [G, 2]
    cost = _DISTANCE_WEIGHT * torch.cdist(points.double(), centres.double(), p=1)  # [N, G]
    if masks is not None:
        cost = cost + _OFF_MASK_WEIGHT * (~_on_mask(points, masks)).double()
    times = max(1, min(repeat, len(points) // count))
    rows, cols = linear_sum_assignment(cost.repeat(1, times).numpy())  # [N, times * G]
    result[torch.from_numpy(rows)] = torch.from_numpy(cols) % count
    return result


def keep_points(assigned: Tensor, keep: int, rng: np.random.Generator) -> Tensor:
    """Which grid points to train on: all that have an object (a random subset when too many), then random others.

    Args:
        assigned: [N] from ``assign``.
        keep: how many to keep at most.
        rng: source of the choice.

    Returns:
        [min(keep, N)] int64 indices, ascending.
    """
    truth = assigned.cpu().numpy()
    order = rng.permutation(len(truth))
    order = order[np.argsort(truth[order] == BACKGROUND, kind="stable")]  # random, positives first
    return torch.from_numpy(np.sort(order[: max(keep, 0)]))


def _on_mask(points: Tensor, masks: Tensor) -> Tensor:
    height, width = masks.shape[1:]
    x = (points[:, 0] * width).long().clamp(0, width - 1)  # [N] pixel that holds the point
    y = (points[:, 1] * height).long().clamp(0, height - 1)
    return masks[:, y, x].bool().T  # [G, N] -> [N, G]
