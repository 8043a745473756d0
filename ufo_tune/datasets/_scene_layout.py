"""What stands where in a synthetic scene: attributes dealt evenly, places without too much overlap.

Scene ``k`` of a split is a pure function of (seed, split, k): the random generators are seeded by exactly these
numbers, so splits are disjoint by construction and nothing is stored. Counts, shapes and colours are dealt from shuffled decks
rather than drawn, so that any run of scenes is balanced and two short evaluation sets are equally hard.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

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
_SIZE_ODDS = {1: (1, 1, 1), 2: (1, 1, 1), 3: (0.35, 0.35, 0.3), 4: (0.4, 0.35, 0.25), 5: (0.48, 0.36, 0.16)}
_MANY_ODDS = (0.54, 0.36, 0.1)
_MAX_COVER = 0.22  # share of a box that nearer boxes may cover, before exact masks are looked at
_CANDIDATES = 48

STREAM_PHRASES, STREAM_QUESTIONS, _STREAM_DECK = 1, 2, 3


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
def _unit_outline(shape: str) -> np.ndarray:
    return outline(shape)


def _reach(shape: str, width: float, tilt: float) -> tuple[float, float, float, float]:
    """How far a tilted shape reaches left, up, right and down of its centre."""
    if shape == "circle":
        return (width / 2,) * 4
    c, s = np.cos(tilt) * width, np.sin(tilt) * width
    points = _unit_outline(shape)
    xs, ys = points[:, 0] * c - points[:, 1] * s, points[:, 0] * s + points[:, 1] * c
    return (-float(xs.min()), -float(ys.min()), float(xs.max()), float(ys.max()))


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


def _attributes(rng: np.random.Generator, cards: np.ndarray, side: int) -> list[Thing]:
    """Objects without places. Some share shape and colour; no two share all four attributes."""
    count = len(cards)
    odds = np.array(_SIZE_ODDS.get(count, _MANY_ODDS), dtype=float)
    sizes = rng.choice(3, size=count, p=odds / odds.sum())
    textures = rng.integers(0, 3, size=count)
    shapes, colours = cards // len(COLOURS), cards % len(COLOURS)
    # Equal shapes often get equal colours: phrases then need size, texture, place or a neighbour.
    for i in range(1, count):
        twins = np.flatnonzero(shapes[:i] == shapes[i])
        if len(twins) and rng.random() < 0.4:
            colours[i] = colours[twins[0]]
            if rng.random() < 0.6:
                textures[i] = textures[twins[0]]
    taken: set[tuple[int, int, int, int]] = set()
    things = []
    for i in range(count):
        options = [(int(sizes[i]) + a, int(textures[i]) + b) for a in range(3) for b in range(3)]
        size, texture = next((a % 3, b % 3) for a, b in options if (shapes[i], colours[i], a % 3, b % 3) not in taken)
        taken.add((shapes[i], colours[i], size, texture))
        shape = SHAPES[shapes[i]]
        low, high = SIZE_RANGES[SIZES[size]]
        width = SHAPE_SCALE[shape] * side * (low + (high - low) * rng.random())
        tilt = _MAX_TILT[shape] * (2 * rng.random() - 1)
        things.append(Thing(shape, COLOURS[colours[i]], TEXTURES[texture], SIZES[size], float(width), float(tilt)))
    return things


def _place(rng: np.random.Generator, things: list[Thing], side: int) -> list[Thing] | None:
    """Big objects first, each at the first random place that covers and is covered little; None: no room."""
    placed: list[Thing] = []
    boxes = np.zeros((0, 4))
    covered = np.zeros(0)
    for thing in sorted(things, key=lambda t: -t.width):
        left, up, right, down = _reach(thing.shape, thing.width, thing.tilt)
        uniform = rng.random((_CANDIDATES, 2))
        x = left + 1 + uniform[:, 0] * (side - 2 - left - right)
        y = up + 1 + uniform[:, 1] * (side - 2 - up - down)
        box = np.stack([x - left, y - up, x + right, y + down], axis=1)  # [C, 4]
        low = np.maximum(box[:, None, :2], boxes[None, :, :2])  # [C, N, 2]
        high = np.minimum(box[:, None, 2:], boxes[None, :, 2:])
        shared = np.prod(np.clip(high - low, 0, None), axis=2)  # [C, N]
        nearer = boxes[None, :, 3] > box[:, None, 3]  # lower edge further down: nearer, painted over the other
        own = (left + right) * (up + down)
        areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
        mine = (shared * nearer).sum(1) / own  # [C]
        theirs = covered[None] + shared * ~nearer / areas[None]  # [C, N]
        apart = np.abs(boxes[None, :, 3] - box[:, None, 3]) > 0.02 * side  # the depth order must be clear
        fits = (mine <= _MAX_COVER) & (theirs <= _MAX_COVER).all(1) & (apart | (shared == 0)).all(1)
        if not fits.any():
            return None
        k = int(fits.argmax())
        covered = np.append(theirs[k], mine[k])
        boxes = np.concatenate([boxes, box[k : k + 1]])
        x0, y0, x1, y1 = box[k].tolist()
        placed.append(replace(thing, x=float(x[k]), y=float(y[k]), box=(x0, y0, x1, y1)))
    return sorted(placed, key=lambda t: -t.box[3])


def propose(rng: np.random.Generator, seed: int, split: int, k: int, side: int, most: int) -> list[Thing]:
    """One layout of scene ``k``, nearest object first.

    Args:
        rng: The scene's generator; a second call draws another layout of the same deck.
        seed: The set's seed.
        split: Number of the split, a value of ``SPLITS``.
        k: Number of the scene.
        side: Image side in pixels.
        most: Largest number of objects.
    """
    starts, cards = _deck(seed, split, k // _BLOCK, most)
    mine = cards[starts[k % _BLOCK] : starts[k % _BLOCK + 1]]
    for attempt in range(200):
        things = _attributes(rng, mine, side)
        if attempt >= 20:  # crowded: shrink rather than drop an object, since counts are dealt evenly
            things = [_smaller(t, side) if t.size == "big" else t for t in things]
            things = [t for i, t in enumerate(things) if _key(t) not in {_key(u) for u in things[:i]}]
            if len(things) < len(mine):
                continue
        layout = _place(rng, things, side)
        if layout is not None:
            return layout
    raise AssertionError(f"scene {k}: no room for {len(mine)} objects on {side} px")


def _smaller(thing: Thing, side: int) -> Thing:
    low, high = SIZE_RANGES["small"]
    return replace(thing, size="small", width=SHAPE_SCALE[thing.shape] * side * (low + high) / 2)


def _key(thing: Thing) -> tuple[str, str, str, str]:
    return (thing.shape, thing.colour, thing.texture, thing.size)
