"""Pictures made of pictures: contact sheets, and the map of every single slot token."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image as Pillow
from PIL import ImageDraw
from torch import Tensor

from ufo_tune.core import masks as rle
from ufo_tune.core.images import sample_image
from ufo_tune.core.types import Prediction, Rle, Sample
from ufo_tune.errors import ConfigError, DataError
from ufo_tune.show import maps, palette, text
from ufo_tune.show.overlay import Picture, draw

_PAPER, _INK, _SOFT = (255, 255, 255), (27, 31, 36), (87, 96, 106)
_GAP = 12
"""Pixels around every picture of a sheet."""
_LINES = 3
"""Most lines of a caption."""


def sheet(images: Sequence[Any], captions: Sequence[str], columns: int) -> Picture:
    """A contact sheet on white: pictures in rows, as wide as the widest, with captions of up to three lines.

    Args:
        images: ``PIL.Image.Image`` or [H, W, 3] uint8 each.
        captions: one each, plain text; longer ones are cut with an ellipsis.
        columns: most pictures in a row.
    Returns:
        A ``PIL.Image.Image`` in RGB.
    Raises:
        ConfigError: fewer than one column.
        DataError: no pictures, or not one caption each.
    """
    if columns < 1:
        raise ConfigError(f"sheet: columns must be at least 1 (got {columns}); 4 suits a page")
    if not images or len(images) != len(captions):
        raise DataError(f"sheet: {len(captions)} captions for {len(images)} pictures; give one each, and at least one")
    pictures = [Pillow.fromarray(p) if isinstance(p, np.ndarray) else p.convert("RGB") for p in images]
    cell = max(120, *(p.width for p in pictures))
    face = text.font(int(np.clip(cell / 26, 12, 20)))
    wrapped = [text.wrap(c, face, cell, _LINES) for c in captions]
    line = text.height(face) + 2
    starts = range(0, len(pictures), columns)
    rows = [(pictures[i : i + columns], wrapped[i : i + columns]) for i in starts]
    heights = [max(p.height for p in row) + line * max(map(len, words)) + _GAP for row, words in rows]
    width = _GAP + min(columns, len(pictures)) * (cell + _GAP)
    page = Pillow.new("RGB", (width, _GAP + sum(heights)), _PAPER)
    pen = ImageDraw.Draw(page)
    top = _GAP
    for (row, words), height in zip(rows, heights, strict=True):
        foot = top + max(p.height for p in row)
        for column, (picture, lines) in enumerate(zip(row, words, strict=True)):
            left = _GAP + column * (cell + _GAP)
            page.paste(picture, (left, foot - picture.height))
            for number, said in enumerate(lines):
                pen.text((left, foot + 2 + number * line), said, fill=_INK, font=face)
        top += height
    return page


def draw_prediction(
    sample: Sample, prediction: Prediction, *, scale_to: int | None = 512, min_score: float = 0.3
) -> Picture:
    """A sample's picture with what the model said: labels by class or phrase; an answer in words stands below.

    Depth and normals are pictures of their own; the colours of a depth map span the true one where it is known, so that
    the two can be compared.

    Not drawn are objects of no extent (an answer that could not be read) and, of a question about classes, those scored
    below ``min_score``: average precision wants them all, eyes do not.

    Raises:
        DataError: the picture cannot be read.
    """
    image = sample_image(sample)
    if image is None:  # text only
        image = np.full((64, 512, 3), 255, dtype=np.uint8)
    if prediction.depth is not None:
        true = sample.targets.depth if sample.targets is not None else None
        return maps.depth(prediction.depth, None if true is None else maps.spread(true), scale_to=scale_to)
    if prediction.normals is not None:
        return maps.normals(prediction.normals, scale_to=scale_to)
    if prediction.label_map is not None:
        return maps.labels(image, prediction.label_map, sample.classes, scale_to=scale_to)
    labels = names(sample, prediction)
    boxes, masks, scores = prediction.boxes, prediction.masks, prediction.scores
    sure = [True] * len(labels)
    if sample.classes and len(scores) == len(labels):
        sure = (scores >= min_score).tolist()
    seen = [i for i in range(len(labels)) if sure[i] and _has_extent(prediction, i)]
    if not seen:
        picture = draw(image, scale_to=scale_to)
        said = " ".join(filter(None, (sample.text, "\u2192", prediction.text)))
        return sheet([picture], [said], 1) if prediction.text else picture
    return draw(
        image,
        boxes[seen] if len(boxes) else None,
        [masks[i] for i in seen] if masks else None,
        [labels[i] for i in seen] if any(labels) else None,
        scores[seen] if len(scores) == len(labels) else None,
        scale_to=scale_to,
    )


def draw_truth(sample: Sample, *, scale_to: int | None = 512) -> Picture | None:
    """A sample's picture with its truth, as ``draw_prediction`` draws; None where nothing of it can be drawn.

    Raises:
        DataError: the picture cannot be read.
    """
    t = sample.targets
    if t is None or not (len(t.boxes) or t.masks or any(m is not None for m in (t.label_map, t.depth, t.normals))):
        return None
    truth = Prediction(t.boxes, t.masks, labels=t.labels, label_map=t.label_map, depth=t.depth, normals=t.normals)
    return draw_prediction(sample, truth, scale_to=scale_to)


def names(sample: Sample, prediction: Prediction) -> list[str]:
    """What every object of a prediction is called: its class, or the phrase where no classes were asked for."""
    count = len(prediction.boxes) or len(prediction.masks or ())
    numbers = prediction.labels.tolist() if len(prediction.labels) == count else [-1] * count
    return [sample.classes[n] if 0 <= n < len(sample.classes) else sample.text for n in numbers]


def slot_maps(
    image: np.ndarray, logits: Tensor | np.ndarray, mask: np.ndarray | Rle, *, caption: str = "", height: int = 360
) -> Picture:
    """What every slot token sees: the picture with the merged mask beside the map of each token.

    All maps share one colour scale, from the 1st to the 99th percentile, so that they can be compared.

    Args:
        image: [H, W, 3] uint8 RGB.
        logits: [S, h, w] mask logits of each token alone, S a square; they cover the whole image.
        mask: the final mask [H, W] bool, or its run lengths.
        caption: what was asked.
        height: of the picture and of the arrangement, in pixels.
    Returns:
        A ``PIL.Image.Image`` in RGB.
    Raises:
        DataError: the tokens do not fill a square.
    Source:
        UFO (arXiv 2503.01342), the figure of the single mask tokens.
    """
    alone = np.asarray(logits.detach().float().cpu() if isinstance(logits, Tensor) else logits, dtype=np.float32)
    side = math.isqrt(len(alone))
    if alone.ndim != 3 or not len(alone) or side * side != len(alone):
        raise DataError(f"slot_maps: tokens do not fill a square (got {alone.shape}); give [S, h, w], S = 1, 4, 9, 16")
    bitmap = mask if isinstance(mask, np.ndarray) else rle.decode(mask)
    width = max(side, round(height * image.shape[1] / image.shape[0]))
    merged = draw(image, masks=bitmap[None], scale_to=None if image.shape[0] == height else max(width, height))
    merged = merged.resize((width, height), Pillow.Resampling.LANCZOS)
    low, high = np.percentile(alone, [1, 99])
    tiles = palette.heat((alone - low) / max(float(high - low), 1e-6))  # [S, h, w, 3]
    gap = 3
    block = Pillow.new("RGB", (side * (max(1, width // side) + gap) - gap, height), _PAPER)
    tile = (max(1, width // side), max(1, (height - (side - 1) * gap) // side))
    for number, colours in enumerate(tiles):
        place = (number % side * (tile[0] + gap), number // side * (tile[1] + gap))
        block.paste(Pillow.fromarray(colours).resize(tile, Pillow.Resampling.BICUBIC), place)
    return _titled(
        [merged, block, maps.legend(height, float(low), float(high), [0.0])],
        [caption or "all tokens together", f"each of the {len(alone)} <MASK> tokens alone", "logit"],
    )


def _titled(parts: Sequence[Any], titles: Sequence[str]) -> Picture:
    """Pictures of one height side by side, each under its title."""
    face = text.font(13)
    head = text.height(face) + 6
    gap = 2 * _GAP
    width = sum(p.width for p in parts) + gap * (len(parts) + 1)
    page = Pillow.new("RGB", (width, parts[0].height + head + 2 * _GAP), _PAPER)
    pen = ImageDraw.Draw(page)
    left = gap
    for part, title in zip(parts, titles, strict=True):
        pen.text((left, _GAP), text.shorten(text.one_line(title), face, part.width), fill=_INK, font=face)
        page.paste(part, (left, _GAP + head))
        left += part.width + gap
    return page


def _has_extent(prediction: Prediction, which: int) -> bool:
    if prediction.masks:
        return bool(rle.area([prediction.masks[which]])[0] > 0)
    x0, y0, x1, y1 = prediction.boxes[which].tolist()
    return x1 > x0 and y1 > y0
