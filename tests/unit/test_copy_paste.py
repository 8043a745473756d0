"""Copy-paste: what is pasted is seen, what it covers is cut, and every truth fits the picture that comes out."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from ufo_tune.core import masks
from ufo_tune.core.types import Sample, Targets
from ufo_tune.data import copy_paste
from ufo_tune.data.copy_paste import MIN_PIXELS, CopyPaste
from ufo_tune.errors import ConfigError, DataError

SIZE = (40, 60)
CLASSES = ("cup", "dog", "car")


def _sample(
    bitmaps: list[np.ndarray], labels: list[int], number: int = 0, size: tuple[int, int] = SIZE, **fields: Any
) -> Sample:
    """Every object is painted in its own colour over grey of the sample's number."""
    image = np.full((*size, 3), number, dtype=np.uint8)
    for place, bitmap in enumerate(bitmaps):
        image[bitmap] = 50 * number + 10 * place
    rles = masks.encode_many(np.stack(bitmaps)) if bitmaps else ()
    crowd = fields.pop("crowd", None)
    targets = Targets(masks.boxes_of(rles), rles, torch.tensor(labels, dtype=torch.long), crowd)
    made = Sample(image, size, "detection", classes=CLASSES, targets=targets, source=f"made#{number}")
    return made.with_(**fields)


def _box(x0: int, y0: int, x1: int, y1: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    bitmap = np.zeros(size, dtype=bool)
    bitmap[y0:y1, x0:x1] = True
    return bitmap


def _paste(sample: Sample, other: Sample, seed: int = 0, **options: Any) -> tuple[np.ndarray, Sample]:
    assert isinstance(sample.image, np.ndarray)
    return CopyPaste([other], 1.0, **options)(sample.image, sample, np.random.default_rng(seed))


def _truth(sample: Sample) -> tuple[np.ndarray, Targets]:
    targets = sample.targets
    assert targets is not None and targets.masks is not None
    return masks.decode_many(targets.masks, sample.size), targets


@pytest.fixture
def as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """No change of size: images of one size then lie exactly over each other."""
    monkeypatch.setattr(copy_paste, "SCALE", (1.0, 1.0))


class Drawn:
    """Random numbers that are given: a scale, and one end of each range."""

    def __init__(self, scale: float, high: bool) -> None:
        self.scale, self.high = scale, high

    def uniform(self, low: float, high: float) -> float:
        assert low < self.scale < high
        return self.scale

    def integers(self, low: np.ndarray, high: np.ndarray, endpoint: bool) -> np.ndarray:
        assert endpoint
        return np.array(high if self.high else low)


@pytest.mark.parametrize(
    ("scale", "high", "window"),
    [
        (1.0, False, (0, 0, 15, 30)),  # 10 x 20 fits 40 x 30 one and a half times
        (1.0, True, (25, 0, 15, 30)),
        (0.9, True, (26, 3, 14, 27)),  # 13.5 is 14: the even one
        (1.2, False, (0, 0, 18, 30)),  # 36 wide: six columns reach beyond, on the left
        (1.2, True, (22, 0, 18, 30)),  # or on the right
    ],
)
def test_size_and_place_by_hand(scale: float, high: bool, window: tuple[int, int, int, int]) -> None:
    ramp = np.broadcast_to(10 * np.arange(20, dtype=np.uint8)[:, None], (10, 20, 3))
    patch, seen = copy_paste._patch(
        np.ones((1, 10, 20), bool), np.ascontiguousarray(ramp), (40, 30), Drawn(scale, high)
    )
    assert patch is not None and seen.all() and patch.bitmaps.all()
    assert patch.window == window
    times, beyond = 1.5 * scale, 6 if (scale, high) == (1.2, False) else 0
    wanted = 10 * ((np.arange(window[3]) + beyond + 0.5) / times - 0.5)
    assert np.abs(patch.pixels[5, :, 0] - wanted.clip(0, 190)).max() < 1.5


def test_masks_are_read_at_the_middle_of_pixels() -> None:
    """Every third column, four thirds as large: columns (j + 1/2) 3/4, rounded down."""
    stripes = np.zeros((1, 30, 30), bool)
    stripes[:, :, 1::3] = True
    patch, _ = copy_paste._patch(stripes, np.zeros((30, 30, 3), np.uint8), (40, 40), Drawn(1.0, False))
    assert patch is not None and patch.window == (0, 1, 40, 38)
    np.testing.assert_array_equal(np.flatnonzero(patch.bitmaps[0, 0]) + 1, [j for j in range(40) if j % 4 in (1, 2)])


def test_only_masks_off_the_window_are_left_undecoded() -> None:
    """Rows 10-15 and columns 20-40: one pixel inside at each side, and one outside."""
    inside = [(20, 12), (39, 12), (30, 10), (30, 14)]
    outside = [(19, 12), (40, 12), (30, 9), (30, 15)]
    dots = [masks.encode(_box(x, y, x + 1, y + 1)) for x, y in (*inside, *outside)]
    assert copy_paste._under(dots, (10, 20, 5, 20)) == [0, 1, 2, 3]


@pytest.mark.usefixtures("as_it_is")
def test_by_hand() -> None:
    sample = _sample([_box(0, 0, 20, 20), _box(30, 0, 50, 10), _box(10, 30, 14, 34)], [0, 1, 2], 1)
    other = _sample([_box(10, 0, 40, 5), _box(8, 28, 20, 38)], [1, 0], 2)
    for seed in range(20):
        image, pasted = _paste(sample, other, seed)
        bitmaps, targets = _truth(pasted)
        if targets.labels.tolist() == [0, 1, 1, 0]:  # both were chosen; the small car is gone
            break
    expected = [_box(0, 0, 20, 20) & ~_box(10, 0, 20, 5), _box(30, 0, 50, 10) & ~_box(30, 0, 40, 5)]
    expected += [_box(10, 0, 40, 5), _box(8, 28, 20, 38)]
    np.testing.assert_array_equal(bitmaps, np.stack(expected))
    assert targets.labels.tolist() == [0, 1, 1, 0]
    assert targets.boxes.tolist() == [[0, 0, 20, 20], [30, 0, 50, 10], [10, 0, 40, 5], [8, 28, 20, 38]]
    assert (image[expected[2]] == 100).all() and (image[expected[3]] == 110).all()  # the other's colours
    assert (image[expected[0]] == 50).all() and (image[~np.any(expected, 0)] == 1).all()


@pytest.mark.usefixtures("as_it_is")
def test_boxes_follow_what_can_be_seen() -> None:
    sample = _sample([_box(0, 0, 20, 20)], [0], 1)
    _, pasted = _paste(sample, _sample([_box(0, 0, 60, 12)], [1], 2))
    assert _truth(pasted)[1].boxes.tolist() == [[0, 12, 20, 20], [0, 0, 60, 12]]


@pytest.mark.usefixtures("as_it_is")
def test_little_that_is_left_is_nothing() -> None:
    for left, stays in ((1, False), (MIN_PIXELS, True)):
        sample = _sample([_box(10, 10, 30, 11)], [0], 1)  # one row of 20
        _, pasted = _paste(sample, _sample([_box(10, 5, 30 - left, 15)], [1], 2))
        assert (len(_truth(pasted)[0]) == 2) is stays
    tiny = _sample([_box(1, 1, 4, 4)], [2], 1)  # 9 pixels, not covered: it stays
    assert _truth(_paste(tiny, _sample([_box(30, 20, 50, 30)], [1], 2))[1])[1].labels.tolist() == [2, 1]


def test_truth_fits_the_picture_at_any_size_and_place() -> None:
    rng = np.random.default_rng(0)
    seen = 0
    for seed in range(60):
        size = tuple(int(v) for v in rng.integers(20, 90, size=2))
        other = _sample(
            [_box(2, 3, size[1] // 2, size[0] // 2, size), _box(size[1] // 2, 9, size[1], size[0], size)],
            [1, 2],
            2,
            size,
        )
        sample = _sample([_box(5, 5, 25, 30), _box(30, 8, 55, 38)], [0, 1], 1)
        before = sample.image.copy()  # type: ignore[union-attr]
        image, pasted = _paste(sample, other, seed)
        assert image.shape == (*SIZE, 3) and image.dtype == np.uint8
        np.testing.assert_array_equal(sample.image, before)
        bitmaps, targets = _truth(pasted)
        torch.testing.assert_close(targets.boxes, masks.boxes_of(targets.masks or ()))
        assert bitmaps.sum((1, 2)).min() >= MIN_PIXELS and bitmaps.sum(0).max() == 1  # nothing is seen through
        for bitmap, label in zip(bitmaps, targets.labels.tolist(), strict=True):
            inner = np.unique(image[bitmap])
            if inner.max() < 100:
                np.testing.assert_array_equal(inner, {0: [50], 1: [60]}[label])  # painted so above
            else:
                assert {1: 100, 2: 110}[label] in inner.tolist()
                seen += 1
    assert seen > 60


def test_the_pasted_are_of_another_size() -> None:
    other = _sample([_box(20, 10, 40, 30)], [1], 2)
    sample = _sample([], [], 1)
    areas = {int(_truth(_paste(sample, other, seed)[1])[0][0].sum()) for seed in range(40)}
    assert min(areas) < 400 < max(areas)
    low, high = copy_paste.SCALE
    assert max(areas) <= 400 * (high + 0.05) ** 2
    whole = [a for a in areas if a >= 400 * low**2 * 0.9]
    assert len(whole) > 5


def test_deterministic_and_at_most_so_many() -> None:
    other = _sample([_box(6 * i, 2, 6 * i + 5, 30) for i in range(10)], [i % 3 for i in range(10)], 2)
    sample = _sample([_box(0, 0, 20, 20)], [0], 1)
    first, second = _paste(sample, other, 5), _paste(sample, other, 5)
    np.testing.assert_array_equal(first[0], second[0])
    np.testing.assert_array_equal(_truth(first[1])[0], _truth(second[1])[0])
    counts = [len(_truth(_paste(_sample([], [], 1), other, s, most=3)[1])[0]) for s in range(40)]
    assert max(counts) == 3 and min(counts) >= 0 and len(set(counts)) >= 3


def test_probability() -> None:
    sample, other = _sample([_box(0, 0, 20, 20)], [0], 1), _sample([_box(6, 6, 50, 30)], [1], 2)
    never = CopyPaste([other], 0.0)
    assert never(sample.image, sample, np.random.default_rng(0)) == (sample.image, sample)  # type: ignore[arg-type]
    step, rng = CopyPaste([other], 0.3), np.random.default_rng(0)
    done = sum(step(sample.image, sample, rng)[1] is not sample for _ in range(400))  # type: ignore[arg-type]
    assert abs(done - 120) < 4 * np.sqrt(400 * 0.3 * 0.7)


def test_not_over_itself_and_not_of_nothing() -> None:
    sample = _sample([_box(0, 0, 20, 20)], [0], 1)
    assert _paste(sample, sample)[1] is sample
    crowd = _sample([_box(0, 0, 20, 20)], [0], 2, crowd=torch.tensor([True]))
    assert _paste(sample, crowd)[1] is sample
    with pytest.raises(DataError, match=r"made#3: has no masks"):
        _paste(sample.with_(targets=Targets(), source="made#3"), sample)


@pytest.mark.usefixtures("as_it_is")
def test_crowds_below_are_cut_and_stay_crowds() -> None:
    sample = _sample([_box(0, 0, 60, 20)], [0], 1, crowd=torch.tensor([True]))
    sample = sample.with_(targets=Targets(**{**_fields(sample), "ignore": masks.encode(_box(0, 0, 10, 40))}))
    _, pasted = _paste(sample, _sample([_box(0, 0, 30, 10)], [1], 2))
    bitmaps, targets = _truth(pasted)
    assert targets.crowd is not None and targets.crowd.tolist() == [True, False]
    np.testing.assert_array_equal(bitmaps[0], _box(0, 0, 60, 20) & ~_box(0, 0, 30, 10))
    assert targets.ignore is not None
    np.testing.assert_array_equal(masks.decode(targets.ignore), _box(0, 10, 10, 40))


def _fields(sample: Sample) -> dict[str, Any]:
    targets = sample.targets
    assert targets is not None
    return {"boxes": targets.boxes, "masks": targets.masks, "labels": targets.labels, "crowd": targets.crowd}


@pytest.mark.usefixtures("as_it_is")
def test_where_not_everything_is_marked_only_what_was_looked_for_is_pasted() -> None:
    sample = _sample([_box(0, 0, 20, 20)], [0], 1, absent=("dog",))
    other = _sample([_box(0, 25, 20, 35), _box(22, 0, 40, 20), _box(42, 0, 60, 40)], [0, 1, 2], 2)
    labels, absent = set(), set()
    for seed in range(30):
        pasted = _paste(sample, other, seed)[1]
        labels |= set(_truth(pasted)[1].labels.tolist()[1:])
        assert pasted.absent == (() if 1 in _truth(pasted)[1].labels.tolist() else ("dog",))
        absent.add(pasted.absent)
    assert labels == {0, 1} and len(absent) == 2  # "car" may be there unmarked
    assert _paste(_sample([], [], 1, absent=()), other)[1].absent == ()


@pytest.mark.usefixtures("as_it_is")
def test_other_lists_of_classes_are_matched_by_name() -> None:
    sample = _sample([], [], 1, classes=("dog", "tree"))
    other = _sample([_box(0, 25, 20, 35), _box(22, 0, 40, 20)], [0, 1], 2)
    bitmaps, targets = _truth(_paste(sample, other)[1])
    assert targets.labels.tolist() == [0]
    np.testing.assert_array_equal(bitmaps[0], _box(22, 0, 40, 20))


def test_refuses_samples_without_masks_or_with_a_phrase() -> None:
    sample = _sample([_box(0, 0, 20, 20)], [0], 1)
    targets = sample.targets
    assert targets is not None
    with pytest.raises(ConfigError, match=r"data\.mixture\.3\.copy_paste: needs masks .*with_masks: true"):
        bare = sample.with_(targets=Targets(targets.boxes, None, targets.labels))
        CopyPaste([bare], 0.5, where="data.mixture.3")
    with pytest.raises(ConfigError, match="would change what a phrase or question means"):
        CopyPaste([sample.with_(text="the left cup", task="res", classes=())], 0.5)
