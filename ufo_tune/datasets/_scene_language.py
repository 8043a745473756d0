"""What is said about a synthetic scene: phrases that mean exactly one object, and the tables of its language.

Answers name positions in words only (a board of 20 x 20 fields, 3 x 3 regions); there are no pixel numbers, no boxes
and no masks here, so a model that is pre-trained on this language can see and talk but cannot point.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from ufo_tune.datasets._scene_layout import COLOURS, SHAPES, SIZES, TEXTURES, Draws
from ufo_tune.datasets._scene_render import Scene

NUMBERS = (
    "none", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen", "twenty",
)  # fmt: skip
BOARD = 20
REGIONS = (
    ("upper left", "upper middle", "upper right"),
    ("middle left", "middle", "middle right"),
    ("lower left", "lower middle", "lower right"),
)
PLURALS = {"circle": "circles", "square": "squares", "triangle": "triangles", "star": "stars", "cross": "crosses"}
EXTREMES = {"leftmost": (0, -1), "rightmost": (0, 1), "topmost": (1, -1), "bottommost": (1, 1)}
"""Axis (0 x, 1 y) and direction."""
SIDES = {"left of": (0, -1), "right of": (0, 1), "above": (1, -1), "below": (1, 1)}
EXTREME_MARGIN, SIDE_MARGIN, OTHER_MARGIN, SIZE_MARGIN = 0.06, 0.1, 0.04, 1.3

QUESTIONS: dict[str, str] = {
    "caption": "describe the picture",
    "list": "list the shapes from left to right",
    "repeat": "list {number} {group}",
    "count": "how many {group} are there",
    "colour": "what colour is {x}",
    "shape": "what shape is {x}",
    "size": "what size is {x}",
    "texture": "what texture is {x}",
    "exist": "is there {a}",
    "where": "where is {x}",
    "region": "what is in the {region}",
    "cell": "which column and row is the middle of {x} in",
    "columns": "which columns is {x} in",
    "rows": "which rows is {x} in",
    "width": "how wide is {x}",
    "height": "how tall is {x}",
    "at": "what is at column {column} row {row}",
    "relation": "is {x} {side} {y}",
    "front": "is {x} in front of {y}",
    "compare": "is {x} bigger than {y}",
    "extreme": "which object is the {extreme}",
}
"""Kinds of questions; the names in braces are filled from the tables above."""
WEIGHTS: dict[str, float] = {
    "caption": 0.5, "list": 0.5, "repeat": 0.8, "count": 1.5, "colour": 2.0, "shape": 2.0, "size": 1.0, "texture": 1.0,
    "exist": 1.5, "where": 2.0, "region": 1.0, "cell": 2.5, "columns": 2.5, "rows": 2.5, "width": 1.0, "height": 1.0,
    "at": 2.0, "relation": 1.5, "front": 0.5, "compare": 0.5, "extreme": 1.0,
}  # fmt: skip
"""Default mixture: most weight on finding the object that is described, and on saying where it is."""
PHRASE_WEIGHTS: dict[str, float] = {"attribute": 0.6, "superlative": 0.2, "relation": 0.2}
ASKING_WEIGHTS: dict[str, float] = {"attribute": 0.7, "superlative": 0.15, "relation": 0.15}
_ANSWER_WORDS = "yes no nothing a an the in and object objects column columns row rows behind front of biggest smallest"
_SUBSETS = {  # which attributes a description names (size, texture, colour, shape) and how often
    (0, 0, 1, 1): 5.0, (0, 0, 0, 1): 1.5, (0, 0, 1, 0): 1.0, (1, 0, 0, 1): 1.5, (0, 1, 0, 1): 1.5, (1, 0, 1, 1): 2.0,
    (0, 1, 1, 1): 2.0, (1, 1, 0, 1): 1.0, (1, 1, 1, 1): 1.0, (1, 0, 1, 0): 0.3, (0, 1, 1, 0): 0.3, (1, 0, 0, 0): 0.3,
    (0, 1, 0, 0): 0.3, (1, 1, 0, 0): 0.3, (1, 1, 1, 0): 0.3,
}  # fmt: skip
_ATTRIBUTES = {"size": 0, "texture": 1, "colour": 2, "shape": 3}


def _vocabulary() -> tuple[str, ...]:
    texts: list[str] = [*SHAPES, *COLOURS, *TEXTURES, *SIZES, *NUMBERS, *PLURALS.values(), *EXTREMES, *SIDES]
    texts += [cell for row in REGIONS for cell in row]
    texts += [" ".join(w for w in q.split() if not w.startswith("{")) for q in QUESTIONS.values()]
    texts.append(_ANSWER_WORDS)
    return tuple(sorted({word for text in texts for word in text.split()} | {","}))


WORDS: tuple[str, ...] = _vocabulary()
"""Every word of every phrase, question and answer, and the comma."""


class Teller:
    """Says true things about one scene. Every draw comes from ``draws``: same scene and draws, same words."""

    def __init__(self, scene: Scene, draws: Draws) -> None:
        self.scene, self.draws = scene, draws
        self.count = len(scene.things)
        self.facts = [(t.size, t.texture, t.colour, t.shape) for t in scene.things]
        boxes = scene.boxes.tolist()
        side = self.side = scene.side
        self.centres = [((x0 + x1) / 2 / side, (y0 + y1) / 2 / side) for x0, y0, x1, y1 in boxes]
        self.extents = [((x1 - x0) / side, (y1 - y0) / side) for x0, y0, x1, y1 in boxes]
        self.areas = scene.areas.tolist()
        self.order = sorted(range(self.count), key=lambda i: self.centres[i])
        keys = [[_subset(fact, subset) for subset in _SUBSETS] for fact in self.facts]
        times = Counter(key for row in keys for key in row)
        self._unique = [
            {subset: w for key, (subset, w) in zip(row, _SUBSETS.items(), strict=True) if times[key] == 1}
            for row in keys
        ]

    # Phrases

    def phrase(self, i: int, weights: Mapping[str, float] = PHRASE_WEIGHTS, hide: str = "") -> str | None:
        """A noun phrase that means object ``i`` and no other, and does not say its attribute ``hide``.

        Args:
            i: The object.
            weights: How often each kind of phrase is tried first.
            hide: ``size``, ``texture``, ``colour``, ``shape`` or nothing.

        Returns:
            The phrase, or None where there is none without the hidden attribute.
        """
        left = dict(weights)
        while left:
            kind = self.draws.weighted(left)
            del left[kind]
            text = _PHRASES[kind](self, i, hide)
            if text is not None:
                return text
        return self._attribute(i, hide)

    def phrases(self, count: int) -> list[tuple[int, str]]:
        """``count`` (object, phrase) pairs, different while the scene has so many; objects take turns."""
        turns = self.draws.shuffled(range(self.count))
        found: dict[str, int] = {}
        for attempt in range(6 * count):
            i = turns[attempt % self.count]
            text = self.phrase(i)
            if text is not None:
                found.setdefault(text, i)
            if len(found) == count:
                break
        pairs = [(i, text) for text, i in found.items()]
        return [pairs[j % len(pairs)] for j in range(count)]

    def _attribute(self, i: int, hide: str = "") -> str | None:
        usable = self._unique[i]
        if hide:
            usable = {subset: w for subset, w in usable.items() if not subset[_ATTRIBUTES[hide]]}
        if not usable:
            return None
        subset = self.draws.weighted(usable)
        return "the " + describe(self.facts[i], subset)

    def _group(self, i: int, hide: str) -> tuple[str, list[int]]:
        """A kind of object that ``i`` belongs to, its name and its members."""
        names = {"object": 1.0, "shape": 2.0, "colour": 1.0, "both": 1.0}
        for name in {"colour": ("colour", "both"), "shape": ("shape", "both")}.get(hide, ()):
            del names[name]
        kind = self.draws.weighted(names)
        subset = {"object": (0, 0, 0, 0), "shape": (0, 0, 0, 1), "colour": (0, 0, 1, 0), "both": (0, 0, 1, 1)}[kind]
        key = _subset(self.facts[i], subset)
        return describe(self.facts[i], subset), [j for j in range(self.count) if _subset(self.facts[j], subset) == key]

    def _superlative(self, i: int, hide: str = "") -> str | None:
        for _ in range(3):
            name, group = self._group(i, hide)
            if len(group) < 2:
                continue
            options = [word for word in EXTREMES if self.extreme(word, group) == i]
            if hide != "size":
                options += [word for word in ("biggest", "smallest") if self._size_extreme(word, group) == i]
            if options:
                return f"the {self.draws.pick(options)} {name}"
        return None

    def extreme(self, word: str, group: Sequence[int]) -> int | None:
        """Who of the group is leftmost (...) by the centre of its visible box, or None if it is too close."""
        axis, sign = EXTREMES[word]
        ranked = sorted(group, key=lambda j: -sign * self.centres[j][axis])
        if len(ranked) < 2:
            return ranked[0] if ranked else None
        gap = abs(self.centres[ranked[0]][axis] - self.centres[ranked[1]][axis])
        return ranked[0] if gap >= EXTREME_MARGIN else None

    def _size_extreme(self, word: str, group: Sequence[int]) -> int | None:
        sign = 1 if word == "biggest" else -1
        first = max(group, key=lambda j: sign * self.areas[j])
        return first if all(self.bigger(first, j) == sign for j in group if j != first) else None

    def bigger(self, i: int, j: int) -> int:
        """1 if ``i`` is clearly bigger than ``j`` by size class and by visible pixels, -1 if smaller, else 0."""
        a, b = SIZES.index(self.facts[i][0]), SIZES.index(self.facts[j][0])
        if a > b and self.areas[i] >= SIZE_MARGIN * self.areas[j]:
            return 1
        return -1 if a < b and self.areas[j] >= SIZE_MARGIN * self.areas[i] else 0

    def stands(self, i: int, word: str, j: int) -> bool | None:
        """Whether ``i`` is left of (...) ``j``: True, False, or None where one could argue."""
        axis, sign = SIDES[word]
        by = sign * (self.centres[i][axis] - self.centres[j][axis])
        return True if by >= SIDE_MARGIN else False if by <= -OTHER_MARGIN else None

    def overlaps(self, i: int, j: int) -> bool:
        """Whether one of the two visibly hides a part of the other."""
        return bool(max(self.scene.hidden[i, j], self.scene.hidden[j, i]) >= 0.03 * min(self.areas[i], self.areas[j]))

    def _depth_gap(self, i: int, j: int) -> float:
        return abs(self.scene.things[i].box[3] - self.scene.things[j].box[3]) / self.side

    def _relation(self, i: int, hide: str = "") -> str | None:
        if self.count < 2:
            return None
        for _ in range(4):
            name, group = self._group(i, hide)
            rivals = [k for k in group if k != i]
            if name == "object" or (not rivals and self.draws.uniform() < 0.6):
                continue
            j = self.draws.pick([k for k in range(self.count) if k != i])
            anchor = self._attribute(j)
            if self.overlaps(i, j) and self.draws.uniform() < 0.7:
                # Objects are numbered from near to far; nobody else of the group may be on that side at all.
                front = i < j
                if all(k == j or ((k < j) != front and self._depth_gap(k, j) >= OTHER_MARGIN) for k in rivals):
                    return f"the {name} {'in front of' if front else 'behind'} {anchor}"
            words = [w for w in SIDES if self.stands(i, w, j)]
            words = [w for w in words if all(k == j or self.stands(k, w, j) is False for k in rivals)]
            if words:
                return f"the {name} {self.draws.pick(words)} {anchor}"
        return None

    # Subjects of questions

    def subject(self, hide: str = "") -> tuple[int, str] | None:
        """A random object and a phrase for it."""
        i = int(self.draws.uniform() * self.count)
        text = self.phrase(i, ASKING_WEIGHTS, hide)
        return None if text is None else (i, text)

    def pair(self, among: Sequence[tuple[int, int]]) -> tuple[int, str, int, str] | None:
        """One of the pairs with a phrase by attributes for each of the two objects."""
        if not among:
            return None
        i, j = self.draws.pick(among)
        x, y = self._attribute(i), self._attribute(j)
        return None if x is None or y is None else (i, x, j, y)


def describe(fact: Sequence[str], subset: Sequence[int]) -> str:
    """Attributes in the order size, texture, colour, shape; "object" where the shape is not said."""
    words = [word for word, said in zip(fact, subset, strict=True) if said]
    return " ".join(words if subset[3] else [*words, "object"])


def _subset(fact: Sequence[str], subset: tuple[int, ...]) -> tuple[str, ...]:
    return tuple([word if said else "" for word, said in zip(fact, subset, strict=True)])


_PHRASES: dict[str, Callable[[Teller, int, str], str | None]] = {
    "attribute": Teller._attribute,
    "superlative": Teller._superlative,
    "relation": Teller._relation,
}
