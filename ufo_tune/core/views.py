"""Views: how an image became tokens, and the only way from tokens back to (h, w) and to pixels.

The *canvas* is the smallest rectangle (original pixels) around all views: the image, plus padding where the aspect
ratio was kept. Views tile it in raster order of their corners; features, grid points and masks all pass through here.
"""

from __future__ import annotations

from collections.abc import Sequence

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


def canvas(views: Sequence[View]) -> Box:
    """xyxy bounds (original pixels) of all views together."""
    x0, y0, x1, y1 = zip(*(v.box for v in views), strict=True)
    return (min(x0), min(y0), max(x1), max(y1))


def _tiling(views: Sequence[View]) -> tuple[int, int]:
    """Rows and columns of the views.

    Raises:
        ModelError: views are not a full raster of equal grids.
    """
    cols = len({round(v.box[0], 3) for v in views})
    rows = len({round(v.box[1], 3) for v in views})
    corners = [(round(v.box[1], 3), round(v.box[0], 3)) for v in views]
    if rows * cols != len(views) or corners != sorted(corners) or len({v.grid for v in views}) != 1:
        raise ModelError(f"views: not a raster of equal tiles (got {list(views)}); order them row by row")
    return rows, cols


def grid_of(views: Sequence[View]) -> tuple[int, int]:
    """(h, w) of the stitched token grid."""
    rows, cols = _tiling(views)
    return rows * views[0].grid[0], cols * views[0].grid[1]


def stitch(features: Tensor, views: Sequence[View]) -> Tensor:
    """Arrange image tokens as a map.

    Args:
        features: [K, D], view by view, raster order inside a view.
        views: the views they come from.
    Returns:
        [h, w, D].
    Raises:
        ModelError: the number of tokens does not fit the views.
    """
    rows, cols = _tiling(views)
    h, w = views[0].grid
    if len(features) != rows * cols * h * w:
        raise ModelError(
            f"views: {len(features)} image tokens for {rows}x{cols} views of {h}x{w} cells; "
            f"{rows * cols * h * w} are expected"
        )
    tiles = features.view(rows, cols, h, w, -1)  # [rows, cols, h, w, D]
    return tiles.transpose(1, 2).reshape(rows * h, cols * w, -1)  # [rows*h, cols*w, D]


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
        mask: [H, W] float.
        views: the canvas' views.
        out_size: (Hc, Wc) of the target.
    Returns:
        [Hc, Wc] float in the range of ``mask``.
    """
    height, width = mask.shape
    x0, y0, x1, y1 = canvas(views)
    rows = _area_weights(height, y0, y1, out_size[0], mask)  # [Hc, H]
    cols = _area_weights(width, x0, x1, out_size[1], mask)  # [Wc, W]
    return rows @ mask @ cols.T


def _area_weights(length: int, low: float, high: float, cells: int, like: Tensor) -> Tensor:
    """[cells, length]: the share of each canvas cell that each pixel covers; separable area interpolation."""
    edges = torch.linspace(low, high, cells + 1, dtype=torch.float64)
    pixels = torch.arange(length, dtype=torch.float64)
    overlap = torch.minimum(edges[1:, None], pixels + 1) - torch.maximum(edges[:-1, None], pixels)  # [cells, length]
    return (overlap.clamp_min(0) / (edges[1] - edges[0])).to(like)
