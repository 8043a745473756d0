"""What stands where in a synthetic scene: attributes dealt evenly, places without too much overlap.

Scene ``k`` of a split is a pure function of (seed, split, k): the random generators are seeded by exactly these
numbers, so splits are disjoint by construction and nothing is stored. Counts, shapes and colours are dealt from
shuffled decks rather than drawn, so that any run of scenes is balanced and two short evaluation sets are equally hard.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TypeVar

import numpy as np

SHAPES = ("circle", "square", "triangle", "star", "cross")
COLOURS = ("red", "green", "blue", "yellow", "purple", "orange", "white", "pink")
TEXTURES = ("plain", "striped", "dotted")
SIZES = ("small", "medium", "big")
SPLITS = {"train": 1, "val": 2, "test": 3, "pretrain": 4}

SIZE_RANGES = {"small": (0.180, 0.210), "medium": (0.265, 0.305), "big": (0.375, 0.420)}
"""Nominal side as a share of the image's; neighbouring ranges are a factor of at least 1.23 apart."""
SHAPE_SCALE = {"circle": 1.0, "square": 0.9, "triangle": 1.1, "star": 1.14, "cross": 1.05}
"""Drawn width per nominal side: spiky shapes are wider, so that objects of one size look equally big."""
STAR_INNER = 0.5
"""Radius of a star's notches as a share of that of its tips."""
CROSS_ARM = 0.36
"""Width of a cross's arm as a share of the cross's."""

_BLOCK = 240  # scenes per deck: 840 objects of 1-6 a scene are 21 rounds of the 40 shape-colour pairs
_MAX_TILT = {"circle": 0.0, "square": 0.21, "triangle": 0.26, "star": 0.3, "cross": 0.24}  # radians
_SIZE_ODDS: dict[int, dict[int, float]] = {  # objects in the scene -> weight of small, medium, big
    1: {0: 0.33, 1: 0.33, 2: 0.33},
    2: {0: 0.33, 1: 0.33, 2: 0.33},
    3: {0: 0.35, 1: 0.35, 2: 0.3},
    4: {0: 0.4, 1: 0.35, 2: 0.25},
    5: {0: 0.46, 1: 0.36, 2: 0.18},
    6: {0: 0.52, 1: 0.36, 2: 0.12},
}
_MAX_COVER = 0.22  # share of a box that nearer boxes may cover, before exact masks are looked at
_DEPTH_GAP = 0.02  # share of the side between the lower edges of boxes that overlap
_CANDIDATES = 40  # places tried for one object

STREAM_PHRASES, STREAM_QUESTIONS, _STREAM_DECK = 1, 2, 3


T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Thing:
    """One object: what it is and where it stands (pixels, y down). ``box`` bounds the whole shape, hidden parts too."""

    shape: str
    colour: str
    texture: str
    size: str
    width: float  # drawn width before it is tilted
    tilt: float  # radians
    x: float = 0.0
    y: float = 0.0
    box: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)


def generator(*numbers: int) -> np.random.Generator:
    """A random generator that depends on these non-negative numbers alone."""
    return np.random.default_rng(np.random.SeedSequence(numbers))


class Draws:
    """Cheap random choices: uniform numbers are taken from the generator in blocks."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng
        self._block: Iterator[float] = iter(())

    def uniform(self) -> float:
        """One number in [0, 1)."""
        try:
            return next(self._block)
        except StopIteration:
            self._block = iter(self._rng.random(256).tolist())
            return next(self._block)

    def pick(self, items: Sequence[T]) -> T:
        """One of the items."""
        return items[int(self.uniform() * len(items))]

    def weighted(self, weights: Mapping[T, float]) -> T:
        """One of the keys, as often as its weight says."""
        left = self.uniform() * sum(weights.values())
        for key, weight in weights.items():
            left -= weight
            if left < 0:
                return key
        return next(reversed(list(weights)))

    def shuffled(self, items: Iterable[T]) -> list[T]:
        """The items in random order."""
        return sorted(items, key=lambda _: self.uniform())


def outline(shape: str) -> np.ndarray:
    """Corners [P, 2] (x right, y down) of a shape of width 1 around its centre of rotation."""
    if shape == "square":
        corners = np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)]) / 2
    elif shape == "triangle":
        radius = 1 / np.sqrt(3)
        corners = np.array([(0, -radius), (0.5, radius / 2), (-0.5, radius / 2)])
    elif shape == "star":
        radius = 1 / (2 * np.sin(np.radians(72)))
        angles = np.radians(36 * np.arange(10))
        reach = np.where(np.arange(10) % 2 == 0, radius, radius * STAR_INNER)
        corners = np.stack([reach * np.sin(angles), -reach * np.cos(angles)], axis=1)
    elif shape == "cross":
        arm = CROSS_ARM / 2
        corners = np.array([(s * a, t * b) for a, b in ((0.5, arm), (arm, 0.5)) for s in (-1, 1) for t in (-1, 1)])
    else:
        raise ValueError(shape)
    return corners


@lru_cache(maxsize=16)
def _corners(shape: str) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in outline(shape)]


def _reach(shape: str, width: float, tilt: float) -> tuple[float, float, float, float]:
    """How far a tilted shape reaches left, up, right and down of its centre."""
    if shape == "circle":
        return (width / 2,) * 4
    c, s = math.cos(tilt) * width, math.sin(tilt) * width
    xs = [x * c - y * s for x, y in _corners(shape)]
    ys = [x * s + y * c for x, y in _corners(shape)]
    return -min(xs), -min(ys), max(xs), max(ys)


@lru_cache(maxsize=8)
def _deck(seed: int, split: int, block: int, most: int) -> tuple[np.ndarray, np.ndarray]:
    """Where each scene's cards start [_BLOCK + 1] and the cards: shape-colour pairs of all objects of the block."""
    rng = generator(seed, split, block, _STREAM_DECK)
    rounds = -(-_BLOCK // most)
    counts = np.concatenate([rng.permutation(most) + 1 for _ in range(rounds)])[:_BLOCK]
    starts = np.concatenate([[0], np.cumsum(counts)])
    pairs = len(SHAPES) * len(COLOURS)
    cards = np.concatenate([rng.permutation(pairs) for _ in range(-(-int(starts[-1]) // pairs))])
    return starts, cards


def _attributes(draws: Draws, cards: Sequence[int], side: int) -> list[Thing]:
    """Objects without places. Some share shape and colour; no two share all four attributes."""
    odds = _SIZE_ODDS[len(cards)]
    taken: list[tuple[int, int, int, int]] = []
    things = []
    for card in cards:
        shape, colour = divmod(card, len(COLOURS))
        size, texture = draws.weighted(odds), int(draws.uniform() * len(TEXTURES))
        twins = [other for other in taken if other[0] == shape]
        # Equal shapes often get equal colours: phrases then need size, texture, place or a neighbour.
        if twins and draws.uniform() < 0.25:
            colour = twins[0][1]
            texture = twins[0][3] if draws.uniform() < 0.6 else texture
        free = [(a % 3, b % 3) for a in range(size, size + 3) for b in range(texture, texture + 3)]
        size, texture = next(pair for pair in free if (shape, colour, *pair) not in taken)
        taken.append((shape, colour, size, texture))
        name = SHAPES[shape]
        low, high = SIZE_RANGES[SIZES[size]]
        width = SHAPE_SCALE[name] * side * (low + (high - low) * draws.uniform())
        tilt = _MAX_TILT[name] * (2 * draws.uniform() - 1)
        things.append(Thing(name, COLOURS[colour], TEXTURES[texture], SIZES[size], width, tilt))
    return things


def _place(draws: Draws, things: Sequence[Thing], side: int) -> list[Thing] | None:
    """Big objects first, each at the first random place that covers and is covered little; None: no room."""
    placed: list[Thing] = []
    covered: list[float] = []
    for thing in sorted(things, key=lambda t: -t.width):
        left, up, right, down = _reach(thing.shape, thing.width, thing.tilt)
        for _ in range(_CANDIDATES):
            x = left + 1 + draws.uniform() * (side - 2 - left - right)
            y = up + 1 + draws.uniform() * (side - 2 - up - down)
            candidate = replace(thing, x=x, y=y, box=(x - left, y - up, x + right, y + down))
            after = _covered(candidate, placed, covered, side)
            if after is not None:
                covered = after
                placed.append(candidate)
                break
        else:
            return None
    return sorted(placed, key=lambda t: -t.box[3])


def _covered(thing: Thing, placed: Sequence[Thing], covered: Sequence[float], side: int) -> list[float] | None:
    """Share of each box that nearer boxes cover once ``thing`` stands too (its own last); None: too much of one."""
    x0, y0, x1, y1 = thing.box
    own, after = 0.0, list(covered)
    for i, other in enumerate(placed):
        a0, b0, a1, b1 = other.box
        wide, tall = min(x1, a1) - max(x0, a0), min(y1, b1) - max(y0, b0)
        if wide <= 0 or tall <= 0:
            continue
        if abs(b1 - y1) < _DEPTH_GAP * side:  # the depth order must be clear
            return None
        if b1 > y1:  # its lower edge is further down: nearer, painted over this one
            own += wide * tall / ((x1 - x0) * (y1 - y0))
        else:
            after[i] += wide * tall / ((a1 - a0) * (b1 - b0))
            if after[i] > _MAX_COVER:
                return None
        if own > _MAX_COVER:
            return None
    return [*after, own]


def propose(draws: Draws, seed: int, split: int, k: int, side: int, most: int) -> list[Thing]:
    """One layout of scene ``k``, nearest object first.

    Args:
        draws: The scene's draws; a second call draws another layout of the same deck.
        seed: The set's seed.
        split: Number of the split, a value of ``SPLITS``.
        k: Number of the scene.
        side: Image side in pixels.
        most: Largest number of objects.
    """
    starts, cards = _deck(seed, split, k // _BLOCK, most)
    mine = cards[starts[k % _BLOCK] : starts[k % _BLOCK + 1]].tolist()
    for attempt in range(200):
        things = _attributes(draws, mine, side)
        if attempt >= 20:  # crowded: shrink rather than drop an object, since counts are dealt evenly
            things = [_smaller(t, side) if t.size == "big" else t for t in things]
            things = [t for i, t in enumerate(things) if _key(t) not in {_key(u) for u in things[:i]}]
            if len(things) < len(mine):
                continue
        layout = _place(draws, things, side)
        if layout is not None:
            return layout
    raise AssertionError(f"scene {k}: no room for {len(mine)} objects on {side} px")


def _smaller(thing: Thing, side: int) -> Thing:
    low, high = SIZE_RANGES["small"]
    return replace(thing, size="small", width=SHAPE_SCALE[thing.shape] * side * (low + high) / 2)


def _key(thing: Thing) -> tuple[str, str, str, str]:
    return (thing.shape, thing.colour, thing.texture, thing.size)
