"""Pictures of what every pixel has a value for: depth with its metres, surface normals, classes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image as Pillow
from PIL import ImageDraw

from ufo_tune.show import palette, text
from ufo_tune.show.overlay import Picture, draw

_PAPER, _SOFT, _UNKNOWN = (255, 255, 255), (87, 96, 106), (128, 128, 128)
_GAP, _RAMP, _ROOM = 8, 14, 50
"""Pixels between a map and its scale, of the scale's colours, and for its numbers."""


def depth(metres: np.ndarray, span: tuple[float, float] | None = None, *, scale_to: int | None = 512) -> Picture:
    """Depth as colours, near ones dark, with the scale in metres beside them; grey where it is unknown.

    Args:
        metres: [H, W], 0 unknown.
        span: metres of the first and last colour, so that several maps can be compared; default: the map's own.
        scale_to: long side of the map in pixels; None keeps the size.
    Returns:
        A ``PIL.Image.Image`` in RGB, wider than the map by the scale.
    """
    near, far = span or spread(metres)
    known = np.isfinite(metres) & (metres > 0)
    colours = palette.heat((np.where(known, metres, near) - near) / (far - near))  # [H, W, 3]
    colours[~known] = _UNKNOWN
    picture = draw(colours, scale_to=scale_to)
    bar = legend(picture.height, near, far, [(near + far) / 2], unit=" m")
    page = Pillow.new("RGB", (picture.width + _GAP + bar.width, picture.height), _PAPER)
    page.paste(picture, (0, 0))
    page.paste(bar, (picture.width + _GAP, 0))
    return page


def spread(metres: np.ndarray) -> tuple[float, float]:
    """The range of colours that suits a depth map: from its 1st to its 99th percentile."""
    known = metres[np.isfinite(metres) & (metres > 0)]
    near, far = np.percentile(known, [1, 99]).tolist() if len(known) else (0.0, 1.0)
    return near, max(far, near + 0.01)


def normals(vectors: np.ndarray, *, scale_to: int | None = 512) -> Picture:
    """Surface normals as colours: red grows to the right, green downwards, blue away; grey where they are unknown.

    Args:
        vectors: [H, W, 3] of length 1, or 0 where unknown.
        scale_to: long side of the result in pixels; None keeps the size.
    """
    return draw(normal_colours(vectors), scale_to=scale_to)


def normal_colours(vectors: np.ndarray) -> np.ndarray:
    """[H, W, 3] uint8: components from -1 to 1 as 0 to 255, so that no direction at all is the grey in the middle."""
    return ((np.clip(vectors, -1, 1) + 1) * 127.5).round().astype(np.uint8)


def labels(image: np.ndarray, label_map: np.ndarray, classes: Sequence[str], *, scale_to: int | None = 512) -> Picture:
    """The areas of the classes on a picture, each class in the same colour wherever it is drawn.

    Args:
        image: [H, W, 3] uint8 RGB.
        label_map: [H, W] class numbers, -1 where there is none.
        classes: names.
        scale_to: long side of the result in pixels; None keeps the size.
    """
    present = np.unique(label_map[label_map >= 0]).tolist()
    names = [classes[n] if n < len(classes) else str(n) for n in present]
    areas = label_map == np.array(present, dtype=int)[:, None, None]  # [N, H, W]
    return draw(image, masks=areas, labels=names, colours=[palette.of_object(n) for n in present], scale_to=scale_to)


def legend(height: int, low: float, high: float, marks: Sequence[float] = (), *, unit: str = "") -> Picture:
    """The colour scale upright, with the values at its ends and those ``marks`` between them that have room."""
    face = text.font(11)
    bar = Pillow.new("RGB", (_RAMP + _ROOM, height), _PAPER)
    ramp = palette.heat(np.linspace(1, 0, height))[:, None].repeat(_RAMP, axis=1)  # [height, _RAMP, 3]
    bar.paste(Pillow.fromarray(ramp), (0, 0))
    pen = ImageDraw.Draw(bar)
    line = text.height(face)
    places = {high: 0, low: height - line}
    for mark in (m for m in marks if low < m < high):
        top = round((high - mark) / (high - low) * height) - line // 2
        if line <= top <= height - 2 * line:
            places[mark] = top
            pen.line((0, top + line // 2, _RAMP - 1, top + line // 2), fill=_PAPER)
    for value, top in places.items():
        pen.text((_RAMP + 5, top), f"{value:.1f}{unit}", fill=_SOFT, font=face)
    return bar
