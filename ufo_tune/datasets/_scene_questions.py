"""Questions about a synthetic scene: one function per kind gives (question, answer), or None where it does not fit."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence

from ufo_tune.datasets._scene_language import (
    BOARD,
    COLOURS,
    EXTREMES,
    NUMBERS,
    PLURALS,
    QUESTIONS,
    REGIONS,
    SHAPES,
    SIDES,
    SIZES,
    TEXTURES,
    WEIGHTS,
    Teller,
    describe,
)

Pair = tuple[str, str]
_REGION_MARGIN = 0.015  # share of the side a centre keeps from a region's border where a question hangs on it


def questions(teller: Teller, count: int, weights: Mapping[str, float] = WEIGHTS) -> list[tuple[str, str, str]]:
    """``count`` (kind, question, answer) triples; the questions differ while the scene has so many of these kinds."""
    found: dict[str, tuple[str, str, str]] = {}
    for _ in range(12 * count):
        kind = teller.draws.weighted(weights)
        pair = _KINDS[kind](teller)
        if pair is not None:
            found.setdefault(pair[0], (kind, *pair))
        if len(found) == count:
            break
    if not found:  # e.g. only "front" was asked for and nothing overlaps
        question, answer = _caption(teller)
        found[question] = ("caption", question, answer)
    triples = list(found.values())
    return [triples[j % len(triples)] for j in range(count)]


def _article(text: str) -> str:
    return ("an " if text[0] in "aeiou" else "a ") + text


def _region(teller: Teller, i: int) -> str:
    x, y = teller.centres[i]
    return REGIONS[_third(y)][_third(x)]


def _third(value: float) -> int:
    return min(int(3 * value), 2)


def _on_border(teller: Teller, i: int) -> bool:
    return any(abs(value - border) < _REGION_MARGIN for value in teller.centres[i] for border in (1 / 3, 2 / 3))


def captions(teller: Teller) -> tuple[str, ...]:
    """Every caption that the picture bears out, the strict one first: objects from left to right, each in its region.

    Objects whose middles' x are less than ``_REGION_MARGIN`` apart may be named in either order, and a middle so near
    to a border may be in either region: of such a picture, more than one caption is true.
    """
    orders = _orders(teller, teller.order)
    places = [_regions(teller, i) for i in range(teller.count)]
    told = (_told(teller, order, where) for order in orders for where in itertools.product(*places))
    return tuple(dict.fromkeys([_caption(teller)[1], *told]))


def _orders(teller: Teller, left: Sequence[int]) -> Iterator[tuple[int, ...]]:
    """All orders of the objects ``left``, given by their middles' x, that nobody can argue with."""
    if not left:
        yield ()
    for i in left:
        if teller.centres[i][0] - teller.centres[left[0]][0] < _REGION_MARGIN:
            yield from ((i, *rest) for rest in _orders(teller, [j for j in left if j != i]))


def _regions(teller: Teller, i: int) -> list[str]:
    """The regions that an object's middle may be said to be in."""
    columns, rows = ({_third(v + shift) for shift in (-_REGION_MARGIN, 0, _REGION_MARGIN)} for v in teller.centres[i])
    return [REGIONS[row][column] for row in rows for column in columns]


def _told(teller: Teller, order: Sequence[int], regions: Sequence[str]) -> str:
    parts = []
    for i in order:
        size, texture, colour, shape = teller.facts[i]
        words = [size, colour, shape] if texture == "plain" else [size, texture, colour, shape]
        parts.append(f"a {' '.join(words)} in the {regions[i]}")
    return ", ".join(parts)


def _caption(teller: Teller) -> Pair:
    return QUESTIONS["caption"], _told(teller, teller.order, [_region(teller, i) for i in range(teller.count)])


def _list(teller: Teller) -> Pair:
    return QUESTIONS["list"], ", ".join(f"{teller.facts[i][2]} {teller.facts[i][3]}" for i in teller.order)


def _repeat(teller: Teller) -> Pair:
    """Nothing to see: whoever says the same word so many times keeps count, as one who writes a run of slots must."""
    shape = teller.draws.pick(SHAPES)
    number = 2 + int(teller.draws.uniform() * (len(NUMBERS) - 2))
    question = QUESTIONS["repeat"].format(number=NUMBERS[number], group=PLURALS[shape])
    return question, " ".join([shape] * number)


def _count(teller: Teller) -> Pair:
    draws = teller.draws
    kind = draws.weighted({"all": 0.5, "size": 0.5, "texture": 0.5, "colour": 1.5, "shape": 1.5, "both": 1.0})
    tables = {"size": SIZES, "texture": TEXTURES, "colour": COLOURS, "shape": SHAPES}
    fact = draws.pick(teller.facts)  # half of the questions are about what is there
    if kind == "all":
        return QUESTIONS["count"].format(group="objects"), NUMBERS[teller.count]
    if kind == "both":
        colour, shape = fact[2], fact[3] if draws.uniform() < 0.6 else draws.pick(SHAPES)
        number = sum(f[2] == colour and f[3] == shape for f in teller.facts)
        return QUESTIONS["count"].format(group=f"{colour} {PLURALS[shape]}"), NUMBERS[number]
    axis = list(tables).index(kind)
    word = fact[axis] if draws.uniform() < 0.6 else draws.pick(tables[kind])
    number = sum(f[axis] == word for f in teller.facts)
    group = PLURALS[word] if kind == "shape" else f"{word} objects"
    return QUESTIONS["count"].format(group=group), NUMBERS[number]


def _attribute(kind: str, axis: int) -> Callable[[Teller], Pair | None]:
    def ask(teller: Teller) -> Pair | None:
        subject = teller.subject(hide=kind)
        return subject and (QUESTIONS[kind].format(x=subject[1]), teller.facts[subject[0]][axis])

    return ask


def _exist(teller: Teller) -> Pair:
    draws = teller.draws
    subset = draws.weighted(
        {(0, 0, 1, 1): 3.0, (0, 0, 0, 1): 1.0, (0, 0, 1, 0): 1.0, (1, 0, 1, 1): 1.0, (0, 1, 1, 1): 1.0}
    )
    fact = list(draws.pick(teller.facts))
    if draws.uniform() < 0.5:  # change one word: the nearest miss
        axis = draws.pick([a for a in range(4) if subset[a]])
        fact[axis] = draws.pick((SIZES, TEXTURES, COLOURS, SHAPES)[axis])
    there = any(all(not s or f[a] == fact[a] for a, s in enumerate(subset)) for f in teller.facts)
    return QUESTIONS["exist"].format(a=_article(describe(fact, subset))), "yes" if there else "no"


def _where(teller: Teller) -> Pair | None:
    subject = teller.subject()
    if subject is None or _on_border(teller, subject[0]):
        return None
    return QUESTIONS["where"].format(x=subject[1]), _region(teller, subject[0])


def _what_in_region(teller: Teller) -> Pair | None:
    if any(_on_border(teller, i) for i in range(teller.count)):
        return None
    draws = teller.draws
    full = _region(teller, draws.pick(range(teller.count)))
    region = full if draws.uniform() < 0.7 else draws.pick(draws.pick(REGIONS))
    inside = [i for i in teller.order if _region(teller, i) == region]
    answer = ", ".join(f"{teller.facts[i][2]} {teller.facts[i][3]}" for i in inside) or "nothing"
    return QUESTIONS["region"].format(region=region), answer


def _field(value: float) -> str:
    return NUMBERS[min(int(value * BOARD), BOARD - 1) + 1]


def _cell(teller: Teller) -> Pair | None:
    subject = teller.subject()
    if subject is None:
        return None
    x, y = teller.centres[subject[0]]
    return QUESTIONS["cell"].format(x=subject[1]), f"column {_field(x)} row {_field(y)}"


def _fields(kind: str, axis: int) -> Callable[[Teller], Pair | None]:
    """The columns (rows) of the board that hold the middles of its first and last pixels."""

    def ask(teller: Teller) -> Pair | None:
        subject = teller.subject()
        if subject is None:
            return None
        middle, extent = teller.centres[subject[0]][axis], teller.extents[subject[0]][axis]
        inside = 0.5 / teller.side  # half a pixel: the far edge is exclusive
        first, last = _field(middle - extent / 2 + inside), _field(middle + extent / 2 - inside)
        return QUESTIONS[kind].format(x=subject[1]), f"{first} to {last}"

    return ask


def _span(kind: str, axis: int, unit: str) -> Callable[[Teller], Pair | None]:
    def ask(teller: Teller) -> Pair | None:
        subject = teller.subject()
        if subject is None:
            return None
        number = max(1, int(teller.extents[subject[0]][axis] * BOARD + 0.5))
        return QUESTIONS[kind].format(x=subject[1]), f"{NUMBERS[number]} {unit}{'' if number == 1 else 's'}"

    return ask


def _at(teller: Teller) -> Pair:
    """What the pixel in the middle of a field shows; two of three questions aim at an object."""
    draws = teller.draws
    if draws.uniform() < 0.65:
        i = draws.pick(range(teller.count))
        (x, y), (w, h) = teller.centres[i], teller.extents[i]
        at = (x + (draws.uniform() - 0.5) * w, y + (draws.uniform() - 0.5) * h)
        column, row = (min(max(int(v * BOARD), 0), BOARD - 1) for v in at)
    else:
        column, row = int(draws.uniform() * BOARD), int(draws.uniform() * BOARD)
    px, py = (int((v + 0.5) / BOARD * teller.side) for v in (column, row))
    owner = int(teller.scene.owner[py, px])
    size, _, colour, shape = teller.facts[owner]
    answer = f"{size} {colour} {shape}" if owner >= 0 else "nothing"
    return QUESTIONS["at"].format(column=NUMBERS[column + 1], row=NUMBERS[row + 1]), answer


def _relation(teller: Teller) -> Pair | None:
    pair = teller.pair([(i, j) for i in range(teller.count) for j in range(teller.count) if i != j])
    if pair is None:
        return None
    i, x, j, y = pair
    words = [w for w in SIDES if teller.stands(i, w, j) is not None]
    if not words:
        return None
    word = teller.draws.pick(words)
    return QUESTIONS["relation"].format(x=x, side=word, y=y), "yes" if teller.stands(i, word, j) else "no"


def _front(teller: Teller) -> Pair | None:
    """Only pairs of which one visibly hides a part of the other."""
    everyone = range(teller.count)
    pair = teller.pair([(i, j) for i in everyone for j in everyone if i != j and teller.overlaps(i, j)])
    if pair is None:
        return None
    return QUESTIONS["front"].format(x=pair[1], y=pair[3]), "yes" if pair[0] < pair[2] else "no"


def _compare(teller: Teller) -> Pair | None:
    everyone = range(teller.count)
    pair = teller.pair([(i, j) for i in everyone for j in everyone if teller.bigger(i, j)])
    if pair is None:
        return None
    x, y = (_without_size(teller, i) for i in (pair[0], pair[2]))
    if x is None or y is None:
        return None
    return QUESTIONS["compare"].format(x=x, y=y), "yes" if teller.bigger(pair[0], pair[2]) > 0 else "no"


def _without_size(teller: Teller, i: int) -> str | None:
    return teller.phrase(i, {"attribute": 1.0}, hide="size")


def _extreme(teller: Teller) -> Pair | None:
    word = teller.draws.pick(tuple(EXTREMES))
    i = teller.extreme(word, range(teller.count)) if teller.count > 1 else None
    if i is None:
        return None
    return QUESTIONS["extreme"].format(extreme=word), f"{teller.facts[i][2]} {teller.facts[i][3]}"


_KINDS: dict[str, Callable[[Teller], Pair | None]] = {
    "caption": _caption,
    "list": _list,
    "repeat": _repeat,
    "count": _count,
    "colour": _attribute("colour", 2),
    "shape": _attribute("shape", 3),
    "size": _attribute("size", 0),
    "texture": _attribute("texture", 1),
    "exist": _exist,
    "where": _where,
    "region": _what_in_region,
    "cell": _cell,
    "columns": _fields("columns", 0),
    "rows": _fields("rows", 1),
    "width": _span("width", 0, "column"),
    "height": _span("height", 1, "row"),
    "at": _at,
    "relation": _relation,
    "front": _front,
    "compare": _compare,
    "extreme": _extreme,
}
