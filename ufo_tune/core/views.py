"""Views: how an image became tokens, and the only way from tokens back to (h, w) and to pixels.

The *canvas* is the smallest rectangle (original pixels) around all views: the image, plus padding where the aspect
ratio was kept. Views tile it in raster order of their corners; features, grid points and masks all pass through here.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ufo_tune.core.types import View
from ufo_tune.errors import ModelError

Box = tuple[float, float, float, float]


def letterbox(size: tuple[int, int], rows: int = 1, cols: int = 1) -> Box:
    """The canvas of aspect ``cols : rows`` that holds an image centred, without distortion.

    Args:
        size: (H, W) of the image in pixels.
        rows: height of the canvas in units.
        cols: width of the canvas in units.
    Returns:
        xyxy in original pixels; reaches beyond the image on the padded sides.
    """
    height, width = size
    unit = max(height / rows, width / cols)
    pad_x, pad_y = (unit * cols - width) / 2, (unit * rows - height) / 2
    return (-pad_x, -pad_y, width + pad_x, height + pad_y)


def crops(box: Box, rows: int, cols: int, grid: tuple[int, int]) -> tuple[View, ...]:
    """Cut a rectangle into ``rows`` x ``cols`` equal views of ``grid`` tokens, row by row."""
    xs = torch.linspace(box[0], box[2], cols + 1, dtype=torch.float64).tolist()
    ys = torch.linspace(box[1], box[3], rows + 1, dtype=torch.float64).tolist()
    return tuple(View((xs[c], ys[r], xs[c + 1], ys[r + 1]), grid) for r in range(rows) for c in range(cols))


def cut(image: np.ndarray, box: Box) -> tuple[np.ndarray, tuple[int, int]]:
    """The pixels [h, w, 3] of an image [H, W, 3] that a box touches, one at least, and the first's (x, y)."""
    (x0, y0), (x1, y1) = ([math.floor(v) for v in box[:2]], [math.ceil(v) for v in box[2:]])
    left, top = min(max(0, x0), image.shape[1] - 1), min(max(0, y0), image.shape[0] - 1)
    return image[top : max(top + 1, y1), left : max(left + 1, x1)], (left, top)


def beside(views: Sequence[View], corner: tuple[int, int]) -> tuple[View, ...]:
    """The views of a part of an image, from its corner (x, y) on, as views of the image that are no part of its map."""
    x, y = corner
    return tuple(
        replace(v, box=(v.box[0] + x, v.box[1] + y, v.box[2] + x, v.box[3] + y), thumbnail=True) for v in views
    )


def tiling(size: tuple[int, int], most: int, side: int, longest: int = 1 << 30) -> tuple[int, int]:
    """Rows and columns of tiles for an image: the nearest aspect ratio among all with at most ``most`` tiles.

    Of ratios equally near the larger tiling is taken where the image has more than half of its pixels.

    Args:
        size: (H, W) of the image in pixels.
        most: tiles.
        side: of a tile, pixels.
        longest: rows or columns at most.
    Source:
        InternVL's ``dynamic_preprocess`` (ufo.md 9.2), and HF's ``get_optimal_tiled_canvas``.
    """
    height, width = size
    known = sorted(
        ((r, c) for r in range(1, min(most, longest) + 1) for c in range(1, min(most // r, longest) + 1)),
        key=lambda rc: (rc[0] * rc[1], rc[1]),
    )
    best, nearest = (1, 1), float("inf")
    for rows, cols in known:
        distance = abs(width / height - cols / rows)
        if distance < nearest or (distance == nearest and height * width > 0.5 * side * side * rows * cols):
            best, nearest = (rows, cols), distance
    return best


def _parts(views: Sequence[View]) -> list[View]:
    """The views that make up the map."""
    return [v for v in views if not v.thumbnail]


def canvas(views: Sequence[View]) -> Box:
    """xyxy bounds (original pixels) of all views together."""
    x0, y0, x1, y1 = zip(*(v.box for v in _parts(views)), strict=True)
    return (min(x0), min(y0), max(x1), max(y1))


def _raster(views: Sequence[View]) -> tuple[int, int]:
    """Rows and columns of the views.

    Raises:
        ModelError: views are not a full raster of equal grids.
    """
    cols = len({round(v.box[0], 3) for v in views})
    rows = len({round(v.box[1], 3) for v in views})
    corners = [(round(v.box[1], 3), round(v.box[0], 3)) for v in views]
    if rows * cols != len(views) or corners != sorted(corners) or len({(v.grid, v.newline) for v in views}) != 1:
        raise ModelError(f"views: not a raster of equal tiles (got {list(views)}); order them row by row")
    return rows, cols


def grid_of(views: Sequence[View]) -> tuple[int, int]:
    """(h, w) of the stitched token grid; (0, 0) without an image."""
    parts = _parts(views)
    rows, cols = _raster(parts) if parts else (0, 0)
    return (rows * parts[0].grid[0], cols * parts[0].grid[1]) if parts else (0, 0)


def tokens_of(views: Sequence[View]) -> int:
    """Image tokens of all views together."""
    return sum(v.tokens for v in views)


@lru_cache(maxsize=4096)
@torch.inference_mode(False)  # what is kept from generation may index states that train
def cells(views: tuple[View, ...]) -> Tensor:
    """Which image token, in the order of the views, shows each cell of the map: [h, w] i64.

    Raises:
        ModelError: views are not a full raster of equal grids.
    """
    starts = [0, *itertools.accumulate(v.tokens for v in views)]
    parts = [(start, v) for start, v in zip(starts, views, strict=False) if not v.thumbnail]
    if not parts:
        return torch.zeros(0, 0, dtype=torch.long)
    rows, cols = _raster([v for _, v in parts])
    h, w = parts[0][1].grid
    inner = torch.arange(h)[:, None] * (w + parts[0][1].newline) + torch.arange(w)  # [h, w]
    tiles = torch.stack([start + inner for start, _ in parts]).view(rows, cols, h, w)  # [rows, cols, h, w]
    return tiles.transpose(1, 2).reshape(rows * h, cols * w)  # [rows*h, cols*w]


def stitch(features: Tensor, views: Sequence[View]) -> Tensor:
    """Arrange image tokens as a map.

    Args:
        features: [K, D], view by view, raster order inside a view.
        views: the views they come from.
    Returns:
        [h, w, D]: tokens of thumbnails and line ends are left out.
    Raises:
        ModelError: the number of tokens does not fit the views.
    """
    views = tuple(views)
    at = cells(views)
    if len(features) != tokens_of(views):
        raise ModelError(
            f"views: {len(features)} image tokens for {len(views)} views; {tokens_of(views)} are expected (got "
            f"{list(views)})"
        )
    return features[at.to(features.device)]


def to_canvas(points: Tensor, size: tuple[int, int], views: Sequence[View]) -> Tensor:
    """Move points [N, 2] from [0, 1] of the image to [0, 1] of the canvas."""
    x0, y0, x1, y1 = canvas(views)
    height, width = size
    origin = points.new_tensor([x0, y0])
    extent = points.new_tensor([x1 - x0, y1 - y0])
    return (points * points.new_tensor([width, height]) - origin) / extent


def from_canvas(points: Tensor, size: tuple[int, int], views: Sequence[View]) -> Tensor:
    """Move points [N, 2] from [0, 1] of the canvas to [0, 1] of the image; undoes ``to_canvas``."""
    x0, y0, x1, y1 = canvas(views)
    height, width = size
    origin = points.new_tensor([x0, y0])
    extent = points.new_tensor([x1 - x0, y1 - y0])
    return (points * extent + origin) / points.new_tensor([width, height])


def _image_grid(size: tuple[int, int], views: Sequence[View], device: torch.device) -> Tensor:
    """Sampling grid [1, H, W, 2] in [-1, 1] of the canvas, one entry for each pixel centre of the image."""
    height, width = size
    x0, y0, x1, y1 = canvas(views)
    xs = ((torch.arange(width, device=device) + 0.5 - x0) / (x1 - x0)) * 2 - 1  # [W]
    ys = ((torch.arange(height, device=device) + 0.5 - y0) / (y1 - y0)) * 2 - 1  # [H]
    return torch.stack([xs.expand(height, width), ys[:, None].expand(height, width)], dim=-1)[None]


def crop_logits(logits: Tensor, views: Sequence[View], size: tuple[int, int]) -> Tensor:
    """Bring maps on the canvas to the pixels of the original image, bilinear (on logits, before the sigmoid).

    Args:
        logits: [M, h, w] on the canvas.
        views: the canvas' views.
        size: (H, W) of the image.
    Returns:
        [M, H, W]; equal to ``F.interpolate(align_corners=False)`` where the canvas is the image.
    """
    grid = _image_grid(size, views, logits.device).to(logits.dtype)
    return F.grid_sample(logits[None], grid, mode="bilinear", padding_mode="border", align_corners=False)[0]


def to_target(mask: Tensor, views: Sequence[View], out_size: tuple[int, int]) -> Tensor:
    """Bring a map of the original image onto the canvas, as a training target.

    Each output pixel is the mean of the original pixels under it (area), so thin shapes do not vanish; padding is 0.

    Args:
        mask: [H, W] bool or float.
        views: the canvas' views.
        out_size: (Hc, Wc) of the target.
    Returns:
        [Hc, Wc] float32 in the range of ``mask``.
    """
    x0, y0, x1, y1 = canvas(views)
    target = torch.from_numpy(np.zeros(out_size, dtype=np.float32))  # unlike torch's, pages that stay 0 cost nothing
    drawn = [np.flatnonzero(mask.numpy().any(axis=1 - axis)) for axis in (0, 1)]  # rows, columns with something on them
    if not len(drawn[0]):
        return target
    (top, bottom), (left, right) = ((int(d[0]), int(d[-1]) + 1) for d in drawn)
    part = mask[top:bottom, left:right].float()  # the rest of a mask is nothing, and most of it
    rows, part = _area_means(part, 0, y0 - top, y1 - top, out_size[0])
    columns, part = _area_means(part, 1, x0 - left, x1 - left, out_size[1])
    target[rows, columns] = part
    return target


def to_known_target(values: Tensor, views: Sequence[View], out_size: tuple[int, int]) -> Tensor:
    """Bring a map with unknown pixels (0) onto the canvas: the mean of the known pixels under each output pixel.

    Args:
        values: [H, W] float, 0 where unknown.
        views: the canvas' views.
        out_size: (Hc, Wc) of the target.
    Returns:
        [Hc, Wc] float32, 0 where less than half of the pixel is known, padding included.
    """
    known = to_target(values != 0, views, out_size)
    return torch.where(known >= 0.5, to_target(values, views, out_size) / known.clamp_min(0.5), 0.0)


def _area_means(values: Tensor, axis: int, low: float, high: float, cells: int) -> tuple[slice, Tensor]:
    """One axis of values [H, W] cut into ``cells`` from ``low`` to ``high``: the mean of the pixels under each.

    A cell touches few pixels, so they are added one after the other; a matrix of all weights is mostly zeros.

    Returns:
        Which cells have a pixel under them, and those cells.
    """
    length = values.shape[axis]
    edges = torch.linspace(low, high, cells + 1, dtype=torch.float64)
    inside = ((edges[1:] > 0) & (edges[:-1] < length)).nonzero()[:, 0]
    if not len(inside):
        return slice(0, 0), values.narrow(axis, 0, 0)
    found = slice(int(inside[0]), int(inside[-1]) + 1)
    start, end = edges[:-1][found], edges[1:][found]  # [found]
    first = start.floor()
    total = torch.zeros((), dtype=values.dtype)
    for step in range(int((end.ceil() - first).max())):
        pixel = first + step  # [found]
        overlap = (torch.minimum(end, pixel + 1) - torch.maximum(start, pixel)).clamp_min(0)
        weight = (overlap / (end - start) * ((pixel >= 0) & (pixel < length))).to(values)
        total = total + values.index_select(axis, pixel.long().clamp(0, length - 1)) * weight.unsqueeze(1 - axis)
    return found, total
