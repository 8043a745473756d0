"""The synthetic set: every phrase and answer is read again by a second, naive reader that sees masks and depth only."""

from __future__ import annotations

import pickle
import re
from collections import Counter

import numpy as np
import pytest

from ufo_tune.core.masks import decode
from ufo_tune.datasets import scenes
from ufo_tune.datasets._scene_language import QUESTIONS, REGIONS, WEIGHTS, WORDS
from ufo_tune.datasets._scene_layout import SPLITS, outline
from ufo_tune.datasets._scene_render import MIN_VISIBLE
from ufo_tune.errors import ConfigError

NUMBERS = "none one two three four five six seven eight nine ten eleven twelve".split()
NUMBERS += "thirteen fourteen fifteen sixteen seventeen eighteen nineteen twenty".split()
FIELDS = 20  # a side of the board
PLAIN = {"circles": "circle", "squares": "square", "triangles": "triangle", "stars": "star", "crosses": "cross"}
SIDES = (" left of ", " right of ", " above ", " below ", " in front of ", " behind ")


class Reader:
    """Understands the language from the pixels of masks and the depth map."""

    def __init__(self, scene):
        self.masks = scene.masks()
        depth = scene.depth()
        self.facts = [{t.size, t.texture, t.colour, t.shape} for t in scene.things]
        self.things = scene.things
        self.side = scene.side
        self.metres = [float(np.median(depth[m])) for m in self.masks]
        self.area = [int(m.sum()) for m in self.masks]
        self.low, self.high = [], []
        for mask in self.masks:
            ys, xs = np.nonzero(mask)
            self.low.append((xs.min(), ys.min()))
            self.high.append((xs.max() + 1, ys.max() + 1))
        self.x = [(a[0] + b[0]) / 2 for a, b in zip(self.low, self.high, strict=True)]
        self.y = [(a[1] + b[1]) / 2 for a, b in zip(self.low, self.high, strict=True)]
        self.all = range(len(self.masks))

    def having(self, words, among=None):
        need = {PLAIN.get(w, w) for w in words} - {"object", "objects", "the", "a", "an"}
        return [i for i in (self.all if among is None else among) if need <= self.facts[i]]

    def holds(self, i, side, j):
        return {
            "left of": self.x[i] < self.x[j],
            "right of": self.x[i] > self.x[j],
            "above": self.y[i] < self.y[j],
            "below": self.y[i] > self.y[j],
            "in front of": self.metres[i] < self.metres[j],
            "behind": self.metres[i] > self.metres[j],
        }[side]

    def meant(self, phrase):
        """Every object the phrase may mean."""
        assert phrase.startswith("the ")
        for side in SIDES:
            if side in phrase:
                head, anchor = phrase.split(side)
                (j,) = self.meant(anchor)
                return [i for i in self.meant_all(head) if i != j and self.holds(i, side.strip(), j)]
        first = phrase.split()[1]
        key = {
            "leftmost": lambda i: self.x[i],
            "rightmost": lambda i: -self.x[i],
            "topmost": lambda i: self.y[i],
            "bottommost": lambda i: -self.y[i],
            "biggest": lambda i: -self.area[i],
            "smallest": lambda i: self.area[i],
        }.get(first)
        if key is None:
            return self.meant_all(phrase)
        group = self.having(phrase.split()[2:])
        best = min(map(key, group))
        return [i for i in group if key(i) <= best + 1]  # one pixel apart is not apart

    def meant_all(self, phrase):
        return self.having(phrase.split())

    def region(self, i):
        row = ("upper", "middle", "lower")[min(int(self.y[i] * 3 / self.side), 2)]
        column = ("left", "middle", "right")[min(int(self.x[i] * 3 / self.side), 2)]
        return "middle" if row == column == "middle" else f"{row} {column}"

    def names(self, objects):
        ordered = sorted(objects, key=lambda i: (self.x[i], self.y[i]))
        return ", ".join(f"{self.things[i].colour} {self.things[i].shape}" for i in ordered)

    def one(self, phrase):
        (i,) = self.meant(phrase)
        return i

    def answer(self, kind, question):
        fields = re.fullmatch(re.sub(r"{(\w+)}", r"(?P<\1>.+)", QUESTIONS[kind]), question).groupdict()
        if kind in ("relation", "front"):  # greedy groups cannot tell where the first phrase ends
            middle = re.split("|".join(SIDES), question.removeprefix("is "))
            side = question.removeprefix("is " + middle[0]).removesuffix(middle[1]).strip()
            return "yes" if self.holds(self.one(middle[0]), side, self.one(middle[1])) else "no"
        return getattr(self, "_" + kind)(**fields)

    def _caption(self):
        parts = []
        for i in sorted(self.all, key=lambda i: (self.x[i], self.y[i])):
            t = self.things[i]
            texture = "" if t.texture == "plain" else t.texture + " "
            parts.append(f"a {t.size} {texture}{t.colour} {t.shape} in the {self.region(i)}")
        return ", ".join(parts)

    def _list(self):
        return self.names(self.all)

    def _repeat(self, number, group):
        return " ".join([PLAIN[group]] * NUMBERS.index(number))

    def _count(self, group):
        return NUMBERS[len(self.having(group.split()))]

    def _colour(self, x):
        return self.things[self.one(x)].colour

    def _shape(self, x):
        return self.things[self.one(x)].shape

    def _size(self, x):
        return self.things[self.one(x)].size

    def _texture(self, x):
        return self.things[self.one(x)].texture

    def _exist(self, a):
        return "yes" if self.having(a.split()) else "no"

    def _where(self, x):
        return self.region(self.one(x))

    def _region(self, region):
        return self.names(i for i in self.all if self.region(i) == region) or "nothing"

    def _cell(self, x):
        i = self.one(x)
        column, row = (1 + int(v * FIELDS // self.side) for v in (self.x[i], self.y[i]))
        return f"column {NUMBERS[column]} row {NUMBERS[row]}"

    def _span(self, x, axis, unit):
        i = self.one(x)
        number = max(1, round((self.high[i][axis] - self.low[i][axis]) * FIELDS / self.side + 1e-9))
        return f"{NUMBERS[number]} {unit}" + ("s" if number > 1 else "")

    def _columns(self, x, axis=0):
        i = self.one(x)
        pixels = np.nonzero(self.masks[i].any(axis))[0]  # columns (rows) of pixels that show it, by their middles
        first, last = (NUMBERS[1 + int((pixel + 0.5) * FIELDS / self.side)] for pixel in (pixels[0], pixels[-1]))
        return f"{first} to {last}"

    def _rows(self, x):
        return self._columns(x, axis=1)

    def _width(self, x):
        return self._span(x, 0, "column")

    def _height(self, x):
        return self._span(x, 1, "row")

    def _at(self, column, row):
        px, py = (int((NUMBERS.index(v) - 0.5) * self.side / FIELDS) for v in (column, row))
        hits = [i for i in self.all if self.masks[i][py, px]]
        return f"{self.things[hits[0]].size} {self.names(hits)}" if hits else "nothing"

    def _compare(self, x, y):
        return "yes" if self.area[self.one(x)] > self.area[self.one(y)] else "no"

    def _extreme(self, extreme):
        return self.names(self.meant(f"the {extreme} object"))


def load(split="val", **options):
    return scenes.load("", split, **{"size": 200, **options})


def test_same_numbers_same_scene_whatever_was_drawn_before():
    first = load(task="rec", size=5)
    kept = [(s.image.copy(), s.text, s.targets.boxes.clone()) for s in first]
    scenes.scene.cache_clear()
    scenes._phrases.cache_clear()
    again = load(task="rec", size=5)
    for i in reversed(range(len(again))):
        assert np.array_equal(again[i].image, kept[i][0])
        assert again[i].text == kept[i][1]
        assert again[i].targets.boxes.equal(kept[i][2])


def test_splits_and_seeds_share_no_picture():
    pictures = [scenes.scene(seed, split, k).image.tobytes() for seed in (0, 1) for split in SPLITS for k in range(25)]
    assert len(set(pictures)) == len(pictures)


@pytest.mark.parametrize("side", [64, 128, 200])
def test_boxes_bound_disjoint_masks_and_depth_orders_them(side):
    for sample in load(task="instance_segmentation", size=25, side=side):
        masks = np.stack([decode(rle) for rle in sample.targets.masks])
        assert sample.image.shape == (side, side, 3) and sample.image.dtype == np.uint8
        assert masks.shape[1:] == sample.size and masks.sum(0).max() == 1
        for mask, box in zip(masks, sample.targets.boxes.tolist(), strict=True):
            ys, xs = np.nonzero(mask)
            assert box == [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]


def test_every_object_shows_most_of_itself_and_far_ones_are_the_hidden_ones():
    hidden = 0
    for k in range(150):
        scene = scenes.scene(0, "val", k)
        for i, thing in enumerate(scene.things):
            whole = _area(thing)
            assert scene.areas[i] >= (MIN_VISIBLE - 0.03) * whole, (k, i)
            assert scene.hidden[i, i:].sum() == 0  # only nearer objects (smaller number) hide pixels
        assert (np.diff(scene.distances) >= 0).all()
        hidden += int((scene.hidden > 20).sum())
        depth = scene.depth()
        assert (depth.min() > 0 and depth[0, 0] > depth[-1, 0]) or scene.owner[[0, -1], 0].max() >= 0
    assert hidden > 50  # occlusion does occur


def _area(thing):
    """Shoelace formula, an independent area of the whole shape in pixels."""
    if thing.shape == "circle":
        return np.pi * (thing.width / 2) ** 2
    if thing.shape == "cross":
        return thing.width**2 * (2 * 0.36 - 0.36**2)
    x, y = (outline(thing.shape) * thing.width).T
    return abs(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1))) / 2


@pytest.mark.parametrize("shape", ["square", "triangle", "star", "cross", "circle"])
def test_unhidden_masks_have_the_area_of_their_polygon(shape):
    ratios = []
    for k in range(0, 240, 6):
        scene = scenes.scene(3, "train", k)
        for i, thing in enumerate(scene.things):
            if thing.shape == shape and scene.hidden[i].sum() == 0:
                ratios.append(scene.areas[i] / _area(thing))
    assert len(ratios) > 5 and np.abs(np.array(ratios) - 1).max() < 0.06 and abs(np.mean(ratios) - 1) < 0.01


def test_sizes_do_not_run_into_each_other():
    widths = {}
    for k in range(240):
        for thing in scenes.scene(0, "train", k).things:
            widths.setdefault((thing.shape, thing.size), []).append(thing.width)
    for shape in scenes.SHAPES:
        for small, big in (("small", "medium"), ("medium", "big")):
            assert max(widths[shape, small]) * 1.2 < min(widths[shape, big])


def test_shapes_colours_and_counts_are_balanced_even_in_few_scenes():
    for split, size in (("val", 60), ("test", 240)):
        things = [scenes.scene(0, split, k).things for k in range(size)]
        shapes = Counter(t.shape for row in things for t in row)
        assert max(shapes.values()) - min(shapes.values()) <= 8  # at most one unfinished round of 8 colours
        counts = Counter(len(row) for row in things)
        assert set(counts) == {1, 2, 3, 4, 5, 6} and max(counts.values()) == min(counts.values())
        colours = Counter(t.colour for row in things for t in row)
        assert max(colours.values()) <= 1.6 * min(colours.values())
    twins = sum(len({(t.colour, t.shape) for t in row}) < len(row) for row in things)
    assert 0.15 < twins / len(things) < 0.7  # equal colour and shape: size, place or neighbours must tell


def test_each_phrase_means_its_target_and_nothing_else():
    samples = load(task="res", phrases=6, size=120)
    kinds = Counter()
    for i in range(len(samples)):
        sample = samples[i]
        drawn = scenes.scene(0, "val", i // 6)
        reader = Reader(drawn)
        (found,) = reader.meant(sample.text)
        assert decode(sample.targets.masks[0]).tolist() == reader.masks[found].tolist(), sample.text
        assert scenes.SHAPES[sample.targets.labels[0]] == drawn.things[found].shape
        relation = any(side in sample.text for side in SIDES)
        kinds["relation" if relation else "superlative" if "st " in sample.text[:15] else "attribute"] += 1
        kinds[sample.text.split()[1]] += 1
    assert min(kinds[k] for k in ("relation", "superlative", "attribute")) > 0.1 * len(samples)
    assert all(kinds[k] for k in ("leftmost", "rightmost", "topmost", "bottommost", "biggest", "smallest"))


@pytest.mark.parametrize("kind", list(WEIGHTS))
def test_answers_agree_with_masks(kind):
    samples = load(task="vqa", kinds=[kind], questions=4, size=80, split="train")
    answers = Counter()
    for i in range(len(samples)):
        sample = samples[i]
        if sample.source.endswith(" " + kind):
            reader = Reader(scenes.scene(0, "train", i // 4))
            assert sample.targets.text == reader.answer(kind, sample.text), (sample.source, sample.text)
            answers[sample.targets.text] += 1
    assert sum(answers.values()) >= 30
    assert max(answers.values()) <= 0.75 * sum(answers.values()), answers  # a constant answer is no good


def test_questions_of_a_scene_differ_and_words_are_closed():
    samples = load(task="vqa", size=220, split="pretrain")
    words, kinds = set(), Counter()
    for k in range(220):
        asked = [samples[8 * k + j] for j in range(8)]
        assert len({s.text for s in asked}) == 8
        for sample in asked:
            kinds[sample.source.split()[1]] += 1
            words |= set(f"{sample.text} {sample.targets.text}".replace(",", " ,").split())
            assert not len(sample.targets.boxes) and sample.targets.masks is None
            assert not re.search(r"\d", sample.text + sample.targets.text)
    phrases = load(task="rec", size=220)
    words |= {word for s in phrases for word in s.text.split()}
    assert words <= set(WORDS), words - set(WORDS)
    assert set(kinds) == set(WEIGHTS)
    assert {" ".join(r.split()) for row in REGIONS for r in row} and len(WORDS) == len(set(WORDS)) < 120


def test_samples_of_one_scene_share_an_image_id():
    for task, repeat in (("rec", 4), ("vqa", 8), ("detection", 1)):
        samples = load(task=task, size=3)
        assert len(samples) == 3 * repeat == len(samples.image_ids)
        assert [s.image_id for s in samples] == list(samples.image_ids)
        assert len(set(samples.image_ids)) == 3
    ids = [set(load(task=task, size=3).image_ids) for task in scenes.TASKS]
    assert all(i == ids[0] for i in ids)
    assert samples[-1].source == samples[2].source
    with pytest.raises(IndexError):
        samples[3]


def test_pickle_carries_options_only():
    samples = load(task="vqa")
    samples[0]
    data = pickle.dumps(samples)
    assert len(data) < 2000
    assert pickle.loads(data)[17].text == samples[17].text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": "dev"}, "scenes.split"),
        ({"task": "normals"}, "scenes.task"),
        ({"size": 0}, "scenes.size"),
        ({"seed": -1}, "scenes.seed"),
        ({"side": 16}, "scenes.side"),
        ({"max_objects": 7}, "scenes.max_objects"),
        ({"kinds": ["coulour"]}, "scenes.kinds"),
        ({"kinds": []}, "scenes.kinds"),
        ({"kinds": {"at": 0}}, "scenes.kinds.at"),
    ],
)
def test_bad_options_say_which_and_what_is_right(options, message):
    with pytest.raises(ConfigError, match=message + r".*\(got .*\); "):
        load(**{"task": "rec", **options})
