"""Bars as a picture: one row per name, its length the number, which stands behind it."""

from __future__ import annotations

from collections.abc import Mapping

from PIL import Image as Pillow
from PIL import ImageDraw

from ufo_tune.show import text
from ufo_tune.show.overlay import Picture

_PAPER, _INK, _SOFT, _BAR = (255, 255, 255), (27, 31, 36), (87, 96, 106), (0, 114, 178)
_GAP, _NAMES, _NUMBERS = 12, 150, 72
"""Pixels around the picture, and for names and numbers beside the bars."""


def bars(values: Mapping[str, float], *, title: str = "", width: int = 520) -> Picture:
    """A chart of numbers from 0 up, in the order given; long names are cut.

    Args:
        values: name -> number.
        title: above the bars.
        width: pixels; the height follows from the number of bars.
    Returns:
        A ``PIL.Image.Image`` in RGB.
    """
    face, bold = text.font(13), text.font(14, bold=True)
    row = text.height(face) + 6
    top = _GAP + (text.height(bold) + 8 if title else 0)
    picture = Pillow.new("RGB", (width, top + row * len(values) + _GAP), _PAPER)
    pen = ImageDraw.Draw(picture)
    if title:
        pen.text((_GAP, _GAP), text.shorten(text.one_line(title), bold, width - 2 * _GAP), fill=_INK, font=bold)
    left, room = _GAP + _NAMES, width - 2 * _GAP - _NAMES - _NUMBERS
    most = max((v for v in values.values()), default=0) or 1
    for number, (name, value) in enumerate(values.items()):
        at = top + number * row
        label = text.shorten(text.one_line(name), face, _NAMES - 8)
        pen.text((left - 8 - text.width(label, face), at), label, fill=_SOFT, font=face)
        end = left + round(room * value / most)
        if value > 0:  # a bar that can be seen, however short
            pen.rectangle((left, at + 2, max(end, left + 1), at + row - 5), fill=_BAR)
        pen.text((max(end, left) + 6, at), f"{value:g}" if value < 1e5 else f"{value:.3g}", fill=_INK, font=face)
    return picture


def charts(panels: Mapping[str, Mapping[str, float]], *, title: str = "", columns: int = 2) -> Picture:
    """Several charts under one title, each in the column that is the shortest so far.

    Args:
        panels: title of a chart -> its values, as for ``bars``.
        title: above all.
        columns: side by side.
    Returns:
        A ``PIL.Image.Image`` in RGB.
    """
    face = text.font(18, bold=True)
    head = _GAP + text.height(face)
    ends = [head] * columns
    placed = []
    for name, values in panels.items():
        column = ends.index(min(ends))
        placed.append((bars(values, title=name), column, ends[column]))
        ends[column] += placed[-1][0].height
    width = placed[0][0].width if placed else 0
    page = Pillow.new("RGB", (max(1, width * min(columns, len(placed))), max(ends)), _PAPER)
    ImageDraw.Draw(page).text((_GAP, _GAP), text.one_line(title), fill=_INK, font=face)
    for picture, column, top in placed:
        page.paste(picture, (column * width, top))
    return page
