"""An entry's samples as an endless row of epochs, each in its own order: once each, repeated, or packed by image.

    Once(1000).group(place=3, key=(seed, entry, epoch))  # -> (617,)

Which samples stand at a place is computed from the place and the key alone: every process finds the same, no large
table is made or kept, and twelve million samples start as fast as twelve.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from functools import lru_cache
from typing import Protocol

import numpy as np

Key = tuple[int, ...]
"""What an epoch's randomness comes from: whole numbers from 0."""
_SMALL = 1 << 16
"""Orders of at most so many places are drawn as a table: a network over few places would not be fair."""
_ROUNDS = 4
_BITS = (1 << 64) - 1


class Epochs(Protocol):
    """``groups`` places in each epoch, and the samples that stand at each."""

    groups: int

    def group(self, place: int, key: Key) -> tuple[int, ...]:
        """Indices of the samples at place 0 .. ``groups`` - 1 of the epoch that ``key`` names."""


class Once:
    """Each of ``count`` samples once an epoch."""

    def __init__(self, count: int) -> None:
        self.groups = count

    def group(self, place: int, key: Key) -> tuple[int, ...]:
        """One sample."""
        return (shuffled(place, self.groups, key),)


class Repeated:
    """Each sample as often an epoch as its factor says, on average over epochs.

    An epoch has as many places as the factors add up to, rounded up, so that no sample is left out. The places lie
    evenly over the factors laid end to end, moved by a random part of a place each epoch (systematic sampling): a
    sample of factor 2.3 comes two or three times, in 3 epochs of 10 three times.

    Args:
        factors: [n], at least 1 each.
    """

    def __init__(self, factors: np.ndarray) -> None:
        ends = np.cumsum(factors, dtype=np.float64)
        self.groups = math.ceil(ends[-1] * (1 - 1e-12))  # rounding of the sum is no further place
        self._ends = ends * (self.groups / ends[-1])  # [n] where each sample's part ends, in places

    def group(self, place: int, key: Key) -> tuple[int, ...]:
        """One sample."""
        shift = _words(key)[-1] / 2**64  # [0, 1]
        at = shuffled(place, self.groups, key) + shift
        return (min(int(np.searchsorted(self._ends, at, side="right")), len(self._ends) - 1),)


class Packed:
    """Up to ``most`` samples of one image at a place, each sample once an epoch, with other partners every time.

    Args:
        images: what names each sample's image.
        most: samples at a place.
    """

    def __init__(self, images: Sequence[Hashable], most: int) -> None:
        numbers = {name: number for number, name in enumerate(dict.fromkeys(images))}
        image = np.fromiter(map(numbers.__getitem__, images), np.int32, len(images))  # [n]
        sizes = np.bincount(image)  # [images]
        self._most = most
        self._samples = np.argsort(image, kind="stable").astype(np.int32)  # [n] image after image
        self._ends = np.cumsum(sizes)  # [images] where each one's samples end
        self._places = np.cumsum(-(-sizes // most))  # [images] where each one's places end
        self.groups = int(self._places[-1])

    def group(self, place: int, key: Key) -> tuple[int, ...]:
        """Samples of one image; only its last place may hold fewer than ``most``."""
        place = shuffled(place, self.groups, key)
        image = int(np.searchsorted(self._places, place, side="right"))
        start, first = (int(self._ends[image - 1]), int(self._places[image - 1])) if image else (0, 0)
        own: list[int] = self._samples[start : int(self._ends[image])].tolist()
        word = _words(key)[-1]
        own.sort(key=lambda i: _mix(i ^ word))  # a random order, without a generator for each image
        return tuple(own[(place - first) * self._most :][: self._most])


def shuffled(place: int, count: int, key: Key) -> int:
    """Where ``key``'s random permutation of ``range(count)`` leads from ``place``; without a table of it if it is long.

    Source:
        Black and Rogaway 2002, "Ciphers with arbitrary finite domains": a Feistel network over rows and columns, whose
        halves are added modulo their own sizes; from the few places beyond ``count`` it walks on.
    """
    if count <= _SMALL:
        return int(_table(count, key)[place])
    rows = math.isqrt(count - 1) + 1
    columns = -(-count // rows)
    words = _words(key)
    while True:
        row, column = divmod(place, columns)
        for turn in range(0, 2 * _ROUNDS, 2):
            row = (row + _mix(column ^ words[turn])) % rows
            column = (column + _mix(row ^ words[turn + 1])) % columns
        place = row * columns + column
        if place < count:
            return place


@lru_cache(maxsize=64)  # 8 MB at most
def _table(count: int, key: Key) -> np.ndarray:
    """[count] a random permutation."""
    return np.random.default_rng(key).permutation(np.arange(count, dtype=np.uint16))


@lru_cache(maxsize=256)
def _words(key: Key) -> tuple[int, ...]:
    """Random 64-bit numbers of a key: two for each round, and one more."""
    return tuple(np.random.SeedSequence(key).generate_state(2 * _ROUNDS + 1, np.uint64).tolist())


def _mix(value: int) -> int:
    """A 64-bit number that looks random (finaliser of SplitMix64)."""
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _BITS
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _BITS
    return value ^ (value >> 31)
