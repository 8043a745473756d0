"""A polygon with its outline, pixel for pixel as OpenCV draws it, which some benchmarks' masks are defined by.

    bitmap = draw([(5, 6), (24, 6), (24, 25)], size=(40, 60))

Corners are whole pixels and belong to the polygon, unlike in COCO's run lengths, where they are points between pixels.
Equal to ``fillPoly`` and ``polylines`` of thickness 1 of OpenCV 4 for polygons inside the image (OpenCV 5 rounds some
halves the other way: two pixels in a thousand of small polygons). Where a polygon leaves the image, OpenCV cuts its
lines to whole pixels first, and pixels of the outline may differ.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

_ONE = 1 << 16
"""A pixel in OpenCV's fixed-point numbers."""


def draw(corners: Sequence[tuple[int, int]], size: tuple[int, int]) -> np.ndarray:
    """[H, W] bool: pixels inside (even-odd, so a polygon may cross itself) or on the outline.

    Args:
        corners: x, y in pixels; one or two make a dot or a line.
        size: (H, W) of the image.
    """
    height, width = size
    points = np.asarray(corners, dtype=np.int64)  # [N, 2]
    rows, first, last = _spans(points)
    shown = (rows >= 0) & (rows < height) & (last >= 0) & (first < width) & (first <= last)
    rows, first, last = rows[shown], first[shown].clip(0), last[shown].clip(max=width - 1)
    depth = np.zeros((height, width + 1), dtype=np.int16)
    np.add.at(depth, (rows, first), 1)
    np.add.at(depth, (rows, last + 1), -1)
    bitmap = np.asarray(depth[:, :width].cumsum(1) > 0)
    outline = _outline(points)
    outline = outline[((outline >= 0) & (outline < (width, height))).all(1)]
    bitmap[outline[:, 1], outline[:, 0]] = True
    return bitmap


def _spans(points: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Row, first and last pixel [spans] of the inside; an edge ends before the row of its lower corner."""
    rows, crossings = [], []
    for a, b in zip(points.tolist(), np.roll(points, -1, 0).tolist(), strict=True):
        (x0, y0), (x1, y1) = (a, b) if a[1] <= b[1] else (b, a)
        slope = abs(x1 - x0) * _ONE // max(y1 - y0, 1)  # of a pixel a row, cut, whichever way it leans
        row = np.arange(y0, y1)
        rows.append(row)
        crossings.append(x0 * _ONE + (row - y0) * (slope if x1 >= x0 else -slope))
    row, x = np.concatenate(rows), np.concatenate(crossings)
    order = np.lexsort((x, row))
    row, x = row[order], (x[order] + _ONE // 2) // _ONE  # rounded; an even number in every row
    return row[::2], x[::2], x[1::2]


def _outline(points: np.ndarray) -> np.ndarray:
    """Pixels [n, 2] of the lines between corners: one for each step along the longer side, drawn from left to right."""
    lines = []
    for a, b in zip(points, np.roll(points, -1, 0), strict=True):
        if a[0] > b[0]:
            a, b = b, a
        way = b - a
        steps = int(np.abs(way).max())
        along = np.abs(way) * np.arange(steps + 1)[:, None] / max(steps, 1)  # [steps + 1, 2]
        lines.append(a + np.sign(way) * np.ceil(along - 0.5).astype(int))  # halves go to the smaller side
    return np.concatenate(lines)
