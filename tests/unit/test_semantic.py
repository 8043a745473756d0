"""Label maps as answers of points, as one map again, and as instances."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from tests.spoken import CELLS, CLASSES, SIZE, encode, sample_of, words
from ufo_tune.core import answers, masks
from ufo_tune.core.codec import Codec
from ufo_tune.core.types import Sample, Targets, View
from ufo_tune.data.semantic import to_instances
from ufo_tune.errors import ConfigError, DataError
from ufo_tune.tasks import semantic_segmentation as task

CODEC = Codec(slot_side=1)


def _sample(label_map: np.ndarray, classes: tuple[str, ...] = CLASSES) -> Sample:
    label_map = np.asarray(label_map, dtype=np.int16)
    size = (label_map.shape[0], label_map.shape[1])
    return Sample(
        np.zeros((*size, 3), np.uint8), size, task.TEMPLATE, classes=classes,
        targets=Targets(label_map=label_map), source="made/semantic#0", image_id="made#0",
    )  # fmt: skip


def _said(sample: Sample, seed: int = 0, **options: object) -> list[tuple[str, tuple[float, float]]]:
    said = encode(task, sample, CODEC, seed, **options).turns[0].answers
    return [(a.text.partition(",")[0], a.point) for a in said]


def _striped() -> np.ndarray:
    """20 x 20: classes 0 and 1 by halves; three pixels of class 2 off the points of a 10 x 10 grid (odd ones)."""
    label_map = np.repeat([[0] * 10 + [1] * 10], 20, axis=0)
    label_map[[8, 7, 8], [3, 4, 4]] = 2
    return label_map


@pytest.mark.parametrize("seed", range(5))
def test_points_speak_of_what_lies_under_them(seed):
    label_map = _striped()
    said = _said(_sample(label_map), seed, rows=10, cols=10, repeat=4)
    by_class = {name: [p for n, p in said if n == name] for name in CLASSES}
    assert [len(by_class[n]) for n in CLASSES] == [4, 4, 1]
    for number, name in enumerate(CLASSES[:2]):
        for x, y in by_class[name]:
            assert label_map[int(y * 20), int(x * 20)] == number


def test_points_of_an_oblong_map_speak_of_what_lies_under_them():
    """20 x 40: two classes side by side above, the third below."""
    label_map = np.repeat([[0] * 20 + [1] * 20, [2] * 40], 10, axis=0)
    said = _said(_sample(label_map), 0, rows=5, cols=5, repeat=25)
    assert len(said) == 25
    for name, (x, y) in said:
        assert name == CLASSES[label_map[int(y * 20), int(x * 40)]]


def test_class_between_the_points_of_an_oblong_map_has_the_nearest():
    """Pixel (32, 8) of 40 x 20 is at (0.8125, 0.425): of tenths, 0.9 and 0.5 are nearest, then 0.7 and 0.5."""
    label_map = np.zeros((20, 40))
    label_map[8, 32] = 2
    for seed in range(5):
        said = _said(_sample(label_map), seed, rows=5, cols=5)
        ((x, y),) = [p for name, p in said if name == CLASSES[2]]
        assert y == pytest.approx(0.5) and min(abs(x - 0.9), abs(x - 0.7)) < 1e-6
    assert x == pytest.approx(0.9), "the second only where the other class happens to want the first"


def test_class_between_the_points_is_spoken_of_nearby():
    label_map = np.zeros((20, 20))
    label_map[8, 12] = 2  # points of a 5 x 5 grid are read at pixels 2, 6, 10, 14 and 18
    for seed in range(5):
        said = _said(_sample(label_map), seed, rows=5, cols=5)
        points = [p for name, p in said if name == CLASSES[2]]
        assert len(points) == 1 and len(said) == 4
        # The pixel's middle is (12.5, 8.5) / 20; by L1 the nearest points are these two, both 1.5 + 2.5 pixels off.
        assert tuple(round(v, 4) for v in points[0]) in {(0.5, 0.5), (0.7, 0.5), (0.5, 0.3), (0.7, 0.3)}
        distance = abs(points[0][0] - 0.625) + abs(points[0][1] - 0.425)
        assert distance == pytest.approx(min(
            abs(x - 0.625) + abs(y - 0.425) for x in (0.1, 0.3, 0.5, 0.7, 0.9) for y in (0.1, 0.3, 0.5, 0.7, 0.9)
        ))  # fmt: skip


@pytest.mark.parametrize("keep", [3, 4, 8, 100])
def test_every_class_before_any_twice(keep):
    label_map = np.repeat([[0] * 8 + [1] * 8 + [2] * 4], 20, axis=0)
    for seed in range(10):
        said = _said(_sample(label_map), seed, keep=keep, repeat=3)
        assert {name for name, _ in said} == set(CLASSES)
        assert len(said) == min(keep, 9) and len({p for _, p in said}) == len(said)


def test_points_differ_from_time_to_time():
    seen = {frozenset(p for _, p in _said(_sample(_striped()), seed)) for seed in range(6)}
    assert len(seen) == 6


def test_more_classes_than_points():
    label_map = np.repeat([[0] * 8 + [1] * 8 + [2] * 4], 20, axis=0)
    said = _said(_sample(label_map), rows=1, cols=2)
    assert len(said) == 2 and len({name for name, _ in said}) == 2


def test_mask_is_the_whole_class():
    label_map = _striped()
    for answer in encode(task, _sample(label_map), CODEC).turns[0].answers:
        number = CLASSES.index(answer.text.partition(",")[0])
        np.testing.assert_array_equal(answer.slots[0].target, label_map == number)
        assert answer.text == f"{CLASSES[number]},{answers.slots(CODEC)}"


def test_nothing_labelled_is_nothing_said():
    dialogue = encode(task, _sample(np.full((20, 20), -1)), CODEC, sample_prob=1.0)
    assert dialogue.turns[0].answers == ()
    assert any(name in dialogue.turns[0].question for name in CLASSES)


def test_class_sampling_asks_for_what_is_there():
    names = tuple(f"class {i:02}" for i in range(50))
    for seed in range(4):
        question = encode(task, _sample(_striped(), names), CODEC, seed, sample_prob=1.0, absent=2).turns[0].question
        listed = [name for name in names if name in question]
        assert len(listed) == 9 and set(names[:3]) <= set(listed)


def test_background_may_be_a_class():
    sample = _sample(_striped(), ("background", "road", "tree"))
    assert {name for name, _ in _said(sample)} == {"background", "road", "tree"}
    found = task.decode(words(["background,<MASK>"], CODEC, True), sample.with_(size=SIZE), CODEC)
    assert found.invalid == 0 and (found.label_map == 0).all()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"targets": Targets()}, "has no label map"),
        ({"size": (20, 30)}, r"label map is \(20, 20\) but the image is \(20, 30\)"),
        ({"classes": CLASSES[:2]}, r"unknown class \(got 2\); use 0..1"),
        ({"targets": Targets(label_map=np.full((20, 20), -2, np.int16))}, r"unknown class \(got -2\)"),
    ],
)
def test_bad_truth(change, says):
    with pytest.raises(DataError, match=f"^made/semantic#0: .*{says}"):
        encode(task, _sample(_striped()).with_(**change), CODEC)


def _generation(texts: list[str], first: list[float], logits: list[np.ndarray]):
    """Answers of one slot token each, whose masks have the given logits per cell; one pixel a cell."""
    generation = words(texts, CODEC, True)
    h, w = CELLS
    generation.scores[:, 0] = torch.tensor(first)
    generation.image_features = torch.eye(h * w).reshape(h, w, h * w)
    generation.hidden = torch.zeros(*generation.ids.shape, h * w)
    for row, values in enumerate(logits):
        generation.hidden[row, 2] = torch.from_numpy(values).flatten().float() * math.sqrt(h * w)
    generation.views = (View((0.0, 0.0, float(w), float(h)), CELLS),)
    return generation


def test_answers_of_a_class_add_up():
    """Left: cup 2 x .4 x sigmoid(2) beats cat .7 x sigmoid(2), though each alone is less; right: cat."""
    left = np.where(np.arange(CELLS[1]) < 4, 2.0, -2.0) * np.ones((CELLS[0], 1))
    generation = _generation(
        ["cup,<MASK>", "cat,<MASK>", "Cup,<MASK>"], [0.4, 0.7, 0.4], [left, np.full(CELLS, 2.0), left]
    )
    sample = _sample(np.zeros(CELLS))
    found = task.decode(generation, sample, CODEC)
    assert found.label_map.dtype == np.int16 and found.invalid == 0
    np.testing.assert_array_equal(found.label_map, np.where(left > 0, 0, 2))


def test_the_mean_counts_every_class_once():
    """Three cups of .2 (sigmoid -1.39) add up to .6 and beat one cat of .5, which is more than any and their mean."""
    logits = [np.full(CELLS, math.log(p / (1 - p))) for p in (0.2, 0.2, 0.2, 0.5)]
    generation = _generation(["cup,<MASK>"] * 3 + ["cat,<MASK>"], [1.0] * 4, logits)
    sample = _sample(np.zeros(CELLS))
    assert (task.decode(generation, sample, CODEC, fuse="sum").label_map == 0).all()
    assert (task.decode(generation, sample, CODEC, fuse="mean").label_map == 2).all()
    with pytest.raises(ConfigError, match=r"fuse is unknown \(got 'max'\); give sum or mean"):
        task.decode(generation, sample, CODEC, fuse="max")


def test_a_few_masks_at_a_time(monkeypatch):
    rng = np.random.default_rng(0)
    texts = [f"{CLASSES[i % 3]},<MASK>" for i in range(9)]
    generation = _generation(texts, rng.random(9).tolist(), list(rng.normal(size=(9, *CELLS))))
    sample = _sample(np.zeros(CELLS))
    whole = task.decode(generation, sample, CODEC).label_map
    monkeypatch.setattr(task, "_CHUNK_PIXELS", 2 * CELLS[0] * CELLS[1])
    np.testing.assert_array_equal(task.decode(generation, sample, CODEC).label_map, whole)
    evidence = np.zeros((3, *CELLS))
    for row, score in enumerate(generation.scores[:, 0].tolist()):
        logits = generation.hidden[row, 2].reshape(CELLS).numpy() / math.sqrt(CELLS[0] * CELLS[1])
        evidence[row % 3] += score / (1 + np.exp(-logits))
    np.testing.assert_array_equal(whole, evidence.argmax(0))


def test_every_pixel_has_a_class_once_one_answer_is_read():
    far_below = np.full(CELLS, -200.0)  # the probability is 0 in float32
    found = task.decode(_generation(["cat,<MASK>"], [0.5], [far_below]), _sample(np.zeros(CELLS)), CODEC)
    assert (found.label_map == 2).all()
    nothing = task.decode(
        words(["cat", "dog,<MASK>", "cup,<MASK><MASK>"], CODEC, True), sample_of(task.TEMPLATE), CODEC
    )
    assert nothing.invalid == 3 and (nothing.label_map == -1).all()


CORNERS = np.array([
    [1, 1, -1, 0],
    [-1, -1, 0, -1],
    [2, -1, -1, 2],
    [2, -1, -1, 2],
])  # fmt: skip


def test_instances_of_classes():
    found = to_instances(_sample(CORNERS))
    targets = found.targets
    assert found.task == "instance_segmentation" and found.classes == CLASSES and found.source == "made/semantic#0"
    assert targets.labels.tolist() == [0, 1, 2] and targets.label_map is None
    assert targets.boxes.tolist() == [[2, 0, 4, 2], [0, 0, 2, 1], [0, 2, 4, 4]]
    for number, rle in enumerate(targets.masks):
        np.testing.assert_array_equal(masks.decode(rle), number == CORNERS)
    np.testing.assert_array_equal(masks.decode(targets.ignore), CORNERS == -1)


def test_instances_of_components():
    """The two pixels of class 0 touch at a corner; class 2 is in two pieces."""
    targets = to_instances(_sample(CORNERS), "components").targets
    assert targets.labels.tolist() == [0, 1, 2, 2]
    assert targets.boxes.tolist() == [[2, 0, 4, 2], [0, 0, 2, 1], [0, 2, 1, 4], [3, 2, 4, 4]]
    assert masks.area(targets.masks).tolist() == [2, 2, 2, 2]


def test_small_instances_are_left_out():
    assert to_instances(_sample(CORNERS), "classes", min_area=3).targets.labels.tolist() == [2]
    assert to_instances(_sample(CORNERS), "components", min_area=3).targets.labels.tolist() == []
    empty = to_instances(_sample(np.full((4, 4), -1))).targets
    assert empty.masks == () and empty.boxes.shape == (0, 4)
    assert to_instances(_sample(np.zeros((4, 4)))).targets.ignore is None


def test_instances_of_what_they_cannot_be_made_of():
    with pytest.raises(DataError, match=r"^made/semantic#0: has no label map"):
        to_instances(_sample(CORNERS).with_(targets=None))
    with pytest.raises(ConfigError, match=r"no such split \(got 'pieces'\); use classes or components"):
        to_instances(_sample(CORNERS), "pieces")
