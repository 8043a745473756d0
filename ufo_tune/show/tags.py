"""Label tags: inside the picture, beside their objects, clear of each other where there is room."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image as Pillow
from PIL import ImageDraw

from ufo_tune.show import palette, text

_PAD = 4
"""Pixels between the letters and the side of their tag."""
_WIDEST = 0.6
"""Of the picture; longer labels are shortened."""
_CROWD = 15
"""More objects than this get smaller letters."""


def attach(
    picture: Any, boxes: np.ndarray, texts: Sequence[tuple[str, str]], colours: Sequence[palette.Colour]
) -> np.ndarray:
    """Draw a tag for every object that has a text, onto the picture.

    Args:
        picture: RGB, changed in place.
        boxes: [N, 4] xyxy in its pixels.
        texts: label and score of each object; a label is shortened before it leaves the picture, a score never.
        colours: one for each object.
    Returns:
        [T, 4] integer xyxy of the tags drawn (an object without text, or with no room for one letter, has none).
    """
    crowd = 38 if len(boxes) <= _CROWD else 46
    face = text.font(int(np.clip(max(picture.size) / crowd, 10, 26)), bold=True)
    height = text.height(face) + 2
    placed = np.zeros((0, 4), dtype=np.int64)
    if height > picture.height:
        return placed
    todo: list[tuple[np.ndarray, str, palette.Colour, np.ndarray]] = []
    for box, (label, score), colour in zip(boxes, texts, colours, strict=True):
        said = _said(label, score, face, picture.width)
        if not said:
            continue
        tag = _place(box, (text.width(said, face) + 2 * _PAD, height), picture.size, placed)
        placed = np.concatenate([placed, tag[None]])
        todo.append((tag, said, colour, box))
    pen = ImageDraw.Draw(picture, "RGBA")
    for tag, _, colour, box in todo:  # all leaders first: no line crosses letters
        _leader(pen, tag, box, colour)
    for tag, said, colour, _ in todo:
        _tag(picture, tag, said, colour, face)
    return placed


def _said(label: str, score: str, face: Any, room: int) -> str:
    label = text.one_line(label)
    tail = (" " if label else "") + score if score else ""
    wide = int(room * _WIDEST) - 2 * _PAD
    narrow = room - 2 * _PAD
    if text.width(label + tail, face) <= wide:
        return label + tail
    found = text.shorten(label, face, wide, tail) or text.shorten(label, face, narrow, tail)
    return found or (score if text.width(score, face) <= narrow else "")


def _place(box: np.ndarray, size: tuple[int, int], room: tuple[int, int], placed: np.ndarray) -> np.ndarray:
    """The best free place for a tag: around the box, then inside it, then the nearest free one, then the least hidden.

    Args:
        box: [4] xyxy of the object.
        size: (width, height) of the tag.
        room: (width, height) of the picture.
        placed: [P, 4] tags that are there already.
    Returns:
        [4] integer xyxy.
    """
    corners = np.concatenate([_beside(box, size), _lattice(box, size, room)])  # [C, 2]
    corners = np.round(corners).astype(np.int64)
    fits = ((corners >= 0) & (corners + size <= room)).all(axis=1)
    corners = corners[fits]
    if not len(corners):
        corners = np.clip(np.round(box[None, :2]).astype(np.int64), 0, np.array(room) - size)
    tags = np.concatenate([corners, corners + size], axis=1)  # [C, 4]
    low = np.maximum(tags[:, None, :2], placed[None, :, :2])  # [C, P, 2]
    high = np.minimum(tags[:, None, 2:], placed[None, :, 2:])
    hidden = np.maximum(high - low, 0).prod(axis=2).sum(axis=1)  # [C]
    return tags[int(np.argmin(hidden))]  # the first of the least hidden


def _beside(box: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Corners [8, 2] in order of preference: above, below, inside top, inside bottom, each left then right."""
    x0, y0, x1, y1 = box
    width, height = size
    return np.array(
        [(x, y) for y in (y0 - height, y1, y0, y1 - height) for x in (x0, x1 - width)],
        dtype=np.float64,
    )


def _lattice(box: np.ndarray, size: tuple[int, int], room: tuple[int, int]) -> np.ndarray:
    """Corners [C, 2] all over the picture, nearest to the box's top left first."""
    step_x, step_y = max(4, size[0] // 4), size[1] + 1
    xs = np.append(np.arange(0, room[0] - size[0] + 1, step_x), max(0, room[0] - size[0]))
    ys = np.append(np.arange(0, room[1] - size[1] + 1, step_y), max(0, room[1] - size[1]))
    corners = np.stack(np.meshgrid(xs, ys), axis=-1).reshape(-1, 2).astype(np.float64)  # [Y, X, 2] -> [C, 2]
    return corners[np.argsort(np.abs(corners - [box[0], box[1] - size[1]]).sum(axis=1), kind="stable")]


def _leader(pen: Any, tag: np.ndarray, box: np.ndarray, colour: palette.Colour) -> None:
    """A line from a tag to its object, where they do not touch."""
    gap = np.maximum(np.maximum(box[:2] - tag[2:], tag[:2] - box[2:]), 0)
    if gap.max() <= 2:
        return
    start = (tag[:2] + tag[2:]) / 2
    end = np.clip(start, box[:2], box[2:])
    for line, width in (((0, 0, 0, 140), 3), ((*colour, 255), 1)):
        pen.line((*start, *end), fill=line, width=width)


def _tag(picture: Any, tag: np.ndarray, said: str, colour: palette.Colour, face: Any) -> None:
    x0, y0, x1, y1 = (int(v) for v in tag)
    fine = 4  # Pillow draws round corners with steps, so they are drawn larger and shrunk
    shape = Pillow.new("L", ((x1 - x0) * fine, (y1 - y0) * fine), 0)
    ImageDraw.Draw(shape).rounded_rectangle((0, 0, shape.width - 1, shape.height - 1), radius=3 * fine, fill=255)
    picture.paste(colour, (x0, y0, x1, y1), shape.resize((x1 - x0, y1 - y0), Pillow.Resampling.BOX))
    ImageDraw.Draw(picture).text((x0 + _PAD, y0 + 1), said, fill=palette.ink_on(colour), font=face)
