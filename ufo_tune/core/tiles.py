"""Overlapping tiles of an image, and maps of tiles blended into one of the image.

blend = Blend(1, (584, 565))
for box in boxes((584, 565), side=96, stride=48):
    blend.add(Tile(box), probabilities)  # [1, 96, 96]
blend.result()  # [1, 584, 565]
"""

from __future__ import annotations

import itertools
from typing import NamedTuple

import torch
from torch import Tensor

TileBox = tuple[int, int, int, int]
"""xyxy in whole pixels of the image."""


class Turn(NamedTuple):
    """One of the eight symmetries of the square: rows and columns swapped, then left and right, then top and bottom."""

    transpose: bool = False
    mirror: bool = False
    upend: bool = False


TURNS = tuple(Turn(*moves) for moves in itertools.product((False, True), repeat=3))
"""All eight; the first changes nothing."""


class Tile(NamedTuple):
    """A part of an image as it was shown: which pixels, and how turned."""

    box: TileBox
    turn: Turn = TURNS[0]

    @property
    def size(self) -> tuple[int, int]:
        """(h, w) as it was shown."""
        x0, y0, x1, y1 = self.box
        return (x1 - x0, y1 - y0) if self.turn.transpose else (y1 - y0, x1 - x0)


def turned_back(values: Tensor, turn: Turn) -> Tensor:
    """Maps [..., h, w] of what was shown, as they lie in the image: the inverse of ``turn``."""
    flipped = values.flip([d for d, flip in ((-2, turn.upend), (-1, turn.mirror)) if flip])
    return flipped.mT if turn.transpose else flipped  # [..., w, h] where transposed


def boxes(size: tuple[int, int], side: int, stride: int) -> list[TileBox]:
    """Tiles in raster order that cover an image of ``size`` (H, W).

    The last ones end with the image; where the image is smaller than a tile, the tile is cut to it.

    Args:
        size: (H, W) of the image.
        side: of a tile in pixels.
        stride: pixels from one tile to the next, at most ``side``.
    """
    (ys, height), (xs, width) = (_starts(length, side, stride) for length in size)
    return [(x, y, x + width, y + height) for y in ys for x in xs]


def _starts(length: int, side: int, stride: int) -> tuple[list[int], int]:
    """Where tiles begin along one axis, and how long they are."""
    if length <= side:
        return [0], length
    last = length - side
    return [*range(0, last, stride), last], side


def hann(length: int) -> Tensor:
    """Weights [length] that fall from the middle to both ends, all above 0: a Hann window at pixel centres."""
    at = (torch.arange(length) + 0.5) / length  # in (0, 1)
    return torch.sin(torch.pi * at) ** 2


class Blend:
    """A weighted mean of overlapping maps, summed up tile by tile: memory is that of the image, not of the tiles.

    Pixels near a tile's edge, where a model has seen little around them, weigh little.

    Args:
        maps: how many maps a tile has (M).
        size: (H, W) of the image.
        device: where the sums are kept.
    """

    def __init__(self, maps: int, size: tuple[int, int], device: torch.device | str = "cpu") -> None:
        self._sums = torch.zeros(maps, *size, device=device)  # [M, H, W]
        self._weights = torch.zeros(size, device=device)  # [H, W]

    def add(self, tile: Tile, values: Tensor) -> None:
        """Take in the maps [M, h, w] of one tile, of the size and turned as it was shown."""
        x0, y0, x1, y1 = tile.box
        weights = torch.outer(hann(y1 - y0), hann(x1 - x0)).to(self._sums)  # [h, w]
        self._sums[:, y0:y1, x0:x1] += weights * turned_back(values, tile.turn).to(self._sums)
        self._weights[y0:y1, x0:x1] += weights

    def result(self) -> Tensor:
        """The mean [M, H, W] float32; 0 where no tile was."""
        return self._sums / self._weights.clamp_min(torch.finfo(self._weights.dtype).tiny)
