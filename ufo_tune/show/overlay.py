"""Boxes, masks, labels and scores on a picture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image as Pillow
from PIL import ImageDraw
from scipy import ndimage
from torch import Tensor

from ufo_tune.core import masks as rle
from ufo_tune.core.types import Rle
from ufo_tune.errors import DataError
from ufo_tune.show import palette, tags

Picture = Any
"""A ``PIL.Image.Image``, RGB (Pillow's types are not read)."""
_FILL = 0.42
_SHADE = 0.55
"""How much of the photograph a mask and the dark rim of an outline cover."""


def draw(
    image: np.ndarray,
    boxes: Tensor | np.ndarray | None = None,
    masks: Sequence[Rle] | Tensor | np.ndarray | None = None,
    labels: Sequence[str] | None = None,
    scores: Tensor | np.ndarray | Sequence[float] | None = None,
    *,
    colours: Sequence[palette.Colour] | None = None,
    scale_to: int | None = 512,
) -> Picture:
    """A picture with what was found in it.

    Objects of different labels have different colours; where all labels are equal, every object has its own. Masks
    and boxes are drawn from large to small, so that nothing small is covered.

    Args:
        image: [H, W, 3] uint8 RGB.
        boxes: [N, 4] xyxy in pixels of ``image``; what reaches beyond it is cut off.
        masks: N run lengths, or bitmaps [N, H, W].
        labels: N texts.
        scores: N numbers in [0, 1], shown behind the label.
        colours: N, instead of those by label.
        scale_to: long side of the result in pixels; None keeps the size.
    Returns:
        A ``PIL.Image.Image`` in RGB, of the aspect of ``image``.
    Raises:
        DataError: the image is not RGB, masks are of another size, a box is not finite, or counts differ.
    """
    if image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise DataError(f"draw: image is not RGB pixels [H, W, 3] (got {image.shape}); use data.images.open_image")
    frames = None if boxes is None else np.asarray(boxes, dtype=np.float64).reshape(-1, 4)  # [N, 4]
    bitmaps = None if masks is None else _bitmaps(masks, image.shape[:2])
    count = _count({"boxes": frames, "masks": bitmaps, "labels": labels, "scores": scores, "colours": colours})
    if frames is not None and not np.isfinite(frames).all():
        raise DataError(f"draw: a box is not finite (got {frames.tolist()}); drop it before drawing")
    picture = _resized(image, scale_to)
    if count == 0:
        return picture
    if frames is None:
        if bitmaps is None:
            return picture
        frames = np.stack([_bounds(m) for m in bitmaps])  # [N, 4]
    ratio = np.array([picture.width / image.shape[1], picture.height / image.shape[0]] * 2)
    placed = np.clip(frames * ratio, 0, [picture.width, picture.height] * 2)  # [N, 4] pixels of the result
    colours = colours or _colours(labels, count)
    order = np.argsort(-_areas(placed), kind="stable")
    stroke = max(2, round(max(picture.size) / 256))
    if bitmaps is not None:
        canvas = np.asarray(picture, dtype=np.float32).copy()
        for i in order:
            _paint(canvas, bitmaps[i], colours[i], stroke)
        picture = Pillow.fromarray(canvas.round().astype(np.uint8))
    if boxes is not None:
        pen = ImageDraw.Draw(picture, "RGBA")
        for i in order:
            # Beside a mask the box is a hint only.
            _frame(pen, placed[i], colours[i], stroke if bitmaps is None else max(1, stroke // 2))
    tags.attach(picture, placed, _texts(labels, scores, count), colours)
    return picture


def _count(parts: dict[str, Any]) -> int:
    counts = {name: len(part) for name, part in parts.items() if part is not None}
    if len(set(counts.values())) > 1:
        raise DataError(f"draw: counts differ (got {counts}); give one of each per object")
    return next(iter(counts.values()), 0)


def _bitmaps(masks: Sequence[Rle] | Tensor | np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    """[N, H, W] bool."""
    if isinstance(masks, Tensor):
        masks = masks.detach().cpu().numpy()
    bitmaps = masks.astype(bool) if isinstance(masks, np.ndarray) else rle.decode_many(masks, (size[0], size[1]))
    if bitmaps.shape[1:] != tuple(size):
        raise DataError(f"draw: masks are {bitmaps.shape[1:]} but the image is {tuple(size)}; decode them at its size")
    return bitmaps


def _resized(image: np.ndarray, scale_to: int | None) -> Picture:
    picture = Pillow.fromarray(np.ascontiguousarray(image, dtype=np.uint8))
    if scale_to is None or scale_to == max(picture.size):
        return picture
    ratio = scale_to / max(picture.size)
    size = tuple(max(1, round(side * ratio)) for side in picture.size)
    return picture.resize(size, Pillow.Resampling.LANCZOS if ratio < 1 else Pillow.Resampling.BICUBIC)


def _colours(labels: Sequence[str] | None, count: int) -> list[palette.Colour]:
    names = list(dict.fromkeys(labels or ()))
    if labels is None or len(names) < 2:
        return [palette.of_object(i) for i in range(count)]
    return [palette.of_object(names.index(label)) for label in labels]


def _texts(labels: Sequence[str] | None, scores: Any, count: int) -> list[tuple[str, str]]:
    """(label, score) of every object; the score is never shortened."""
    names = labels or [""] * count
    numbers = [""] * count if scores is None else [f"{float(s):.2f}" for s in scores]
    return list(zip(names, numbers, strict=True))


def _areas(boxes: np.ndarray) -> np.ndarray:
    return np.maximum(boxes[:, 2:] - boxes[:, :2], 0).prod(axis=1)


def _bounds(mask: np.ndarray) -> np.ndarray:
    """xyxy of a bitmap's pixels; of an empty one, the whole image."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return np.array([0, 0, mask.shape[1], mask.shape[0]], dtype=np.float64)
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], dtype=np.float64)


def _paint(canvas: np.ndarray, mask: np.ndarray, colour: palette.Colour, stroke: int) -> None:
    """Blend a translucent mask with a bright outline inside and a dark rim outside into [H, W, 3] float."""
    if not mask.any():
        return
    (x0, y0, x1, y1), parts = _coverage(mask, canvas.shape[:2], stroke)
    part = canvas[y0:y1, x0:x1]
    for alpha, tint in zip(parts, (colour, (0, 0, 0), colour), strict=True):
        part += alpha * (np.array(tint, dtype=np.float32) - part)


def layer(
    mask: np.ndarray, colour: palette.Colour, size: tuple[int, int], stroke: int
) -> tuple[np.ndarray, tuple[int, int, int, int]]:
    """A mask as a picture to lay over another: what ``draw`` paints of it, and nothing beside it.

    Args:
        mask: [H, W] bool, not empty.
        colour: of the mask.
        size: (height, width) of the picture that it will lie on, of the mask's aspect.
        stroke: width of the outline in pixels of that picture.
    Returns:
        [h, w, 4] uint8 RGBA, and its place, xyxy pixels of the picture.
    """
    place, parts = _coverage(mask, size, stroke)
    tint, through = np.zeros((*parts[0].shape[:2], 3), dtype=np.float32), np.ones_like(parts[0])
    for alpha, own in zip(parts, (colour, (0, 0, 0), colour), strict=True):
        tint += alpha * (np.array(own, dtype=np.float32) - tint)  # times its own alpha, over black
        through = through * (1 - alpha)
    alpha = 1 - through
    tint /= np.maximum(alpha, 1e-6)
    return np.concatenate([tint.clip(0, 255), 255 * alpha], axis=2).round().astype(np.uint8), place


def _coverage(
    mask: np.ndarray, size: tuple[int, ...], stroke: int
) -> tuple[tuple[int, int, int, int], tuple[np.ndarray, ...]]:
    """Where a mask is painted on (height, width) pixels, xyxy; and what its fill, rim and outline cover, [h, w, 1]."""
    height, width = size
    ratio = np.array([width / mask.shape[1], height / mask.shape[0]] * 2)
    margin = stroke + 2
    around = _bounds(mask) * ratio + [-margin, -margin, margin, margin]
    x0, y0 = np.floor(np.maximum(around[:2], 0)).astype(int).tolist()
    x1, y1 = np.ceil(np.minimum(around[2:], [width, height])).astype(int).tolist()
    fine = 2 if max(height, width) <= 1024 else 1  # drawn twice as large and averaged: smooth edges where they show
    source = np.array([x0, y0, x1, y1]) / ratio
    soft = _enlarged(mask, tuple(source), ((x1 - x0) * fine, (y1 - y0) * fine))
    inside = soft >= min(0.5, float(soft.max()))  # a mask thinner than a pixel keeps its brightest ones
    depth = _signed_distance(inside) / fine
    fill = np.clip(depth * fine + 0.5, 0, 1) * _FILL
    line = np.clip(stroke / 2 + 0.5 - np.abs(depth - stroke / 2), 0, 1)
    rim = np.clip(1 - np.abs(depth + 0.5), 0, 1) * _SHADE
    return (x0, y0, x1, y1), tuple(_pooled(a, fine)[..., None] for a in (fill, rim, line))


def _enlarged(mask: np.ndarray, source: tuple[float, ...], size: tuple[int, int]) -> np.ndarray:
    """A part of a mask at another size, [height, width] in [0, 1]; enlarged ones get round corners, not stairs."""
    growth = size[0] / max(source[2] - source[0], 1e-6)
    way = Pillow.Resampling.NEAREST if growth > 1 else Pillow.Resampling.BOX
    part = Pillow.fromarray(mask.astype(np.uint8) * 255).resize(size, way, box=source)
    soft = np.asarray(part, dtype=np.float32) / 255
    # 0.7 pixels of the mask: about the widest blur that leaves a line of one pixel above one half.
    rounded: np.ndarray = ndimage.gaussian_filter(soft, 0.7 * growth, mode="nearest") if growth > 1 else soft
    return rounded


def _signed_distance(inside: np.ndarray) -> np.ndarray:
    """Pixels to the nearest edge, positive inside; where there is no edge, far inside."""
    if inside.all():
        return np.full(inside.shape, 1e6, dtype=np.float32)
    within, beyond = ndimage.distance_transform_edt(inside), ndimage.distance_transform_edt(~inside)
    signed: np.ndarray = np.where(inside, within - 0.5, 0.5 - beyond).astype(np.float32)
    return signed


def _pooled(values: np.ndarray, by: int) -> np.ndarray:
    height, width = values.shape[0] // by, values.shape[1] // by
    pooled: np.ndarray = values.reshape(height, by, width, by).mean(axis=(1, 3))  # [H*by, W*by] -> [H, W]
    return pooled


def _frame(pen: Any, box: np.ndarray, colour: palette.Colour, stroke: int) -> None:
    """A box with a dark rim, inside its own pixels and at least one pixel large."""
    x0, y0 = np.floor(box[:2]).astype(int)
    x1, y1 = np.maximum(np.ceil(box[2:]).astype(int) - 1, [x0, y0])
    pen.rectangle((x0 - 1, y0 - 1, x1 + 1, y1 + 1), outline=(0, 0, 0, round(255 * _SHADE)))
    pen.rectangle((x0, y0, x1, y1), outline=(*colour, 255), width=int(min(stroke, 1 + min(x1 - x0, y1 - y0) // 2)))
