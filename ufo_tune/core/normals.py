"""Surface normals out of a depth map and a pinhole camera.

    normals = from_depth(depth, (525.0, 525.0, 319.5, 239.5))  # [H, W, 3]

The inverse of depth is an affine function of the pixel on every plane, so a least-squares fit of it in a small window
is exact there, and its three coefficients are the normal.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from ufo_tune.errors import DataError

Intrinsics = tuple[float, float, float, float]
"""Focal lengths and principal point of a pinhole camera in pixels: fx, fy, cx, cy; the first pixel's centre is 0."""


def from_depth(depth: np.ndarray, intrinsics: Sequence[float], *, radius: int = 2, edge: float = 0.05) -> np.ndarray:
    """Unit vectors (x right, y down, z away) that point towards the camera.

    Args:
        depth: [H, W] metres along the camera's axis, 0 unknown.
        intrinsics: fx, fy, cx, cy in pixels.
        radius: the window has ``2 radius + 1`` pixels a side; wider ones are less noisy and rounder at edges.
        edge: a window whose farthest pixel is this part beyond its nearest lies across an edge.

    Returns:
        [H, W, 3] float32; all 0, unknown, where the window leaves the image, holds an unknown pixel, or lies across an
        edge.

    Raises:
        DataError: the focal lengths are not positive.

    Source:
        Gradients of inverse depth: Fan et al. 2021 (arXiv 2005.08165), sec. 3; the third component follows from the
        same plane.
    """
    fx, fy, cx, cy = intrinsics
    if min(fx, fy) <= 0:
        raise DataError(f"normals: focal lengths must be positive (got {fx}, {fy}); give pixels")
    known = depth > 0
    near = np.where(known, 1 / np.where(known, depth.astype(np.float64), 1), 0)  # [H, W] inverse metres
    # On a plane n . P = c with P = z ((u - cx) / fx, (v - cy) / fy, 1): 1 / z = n . ((u - cx) / fx, ..., 1) / c.
    along = np.arange(-radius, radius + 1, dtype=np.float64)
    flat, slope = np.full(len(along), 1 / len(along)), along / (along**2).sum()
    mean, by_column, by_row = (
        ndimage.correlate1d(ndimage.correlate1d(near, rows, axis=0), columns, axis=1)
        for rows, columns in ((flat, flat), (flat, slope), (slope, flat))
    )
    rows, columns = np.mgrid[: depth.shape[0], : depth.shape[1]]  # [H, W] each
    away = np.stack([fx * by_column, fy * by_row, mean - (columns - cx) * by_column - (rows - cy) * by_row], axis=-1)
    low = ndimage.minimum_filter(near, len(along), mode="constant")  # 0 outside the image too
    high = ndimage.maximum_filter(near, len(along), mode="constant")
    smooth = (low > 0) & (high <= low * (1 + edge))
    length = np.linalg.norm(away, axis=-1)
    smooth &= length > 0
    normals: np.ndarray = np.where(smooth, -1 / np.where(smooth, length, 1), 0)[..., None] * away  # [H, W, 3]
    return normals.astype(np.float32)
