"""Windows of a training sample: pixels and targets stay together, a phrase keeps its object."""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch

from ufo_tune.config import Recipe
from ufo_tune.core import masks
from ufo_tune.core.types import Sample, Targets
from ufo_tune.data.in_memory import InMemory
from ufo_tune.data.windows import Windows, cut, turn, turn_map
from ufo_tune.errors import ConfigError

SIZE = (30, 40)
MOVES = list(itertools.product((False, True), repeat=3))


def _marked(boxes: list[tuple[int, int, int, int]], text: str = "the vessels", **targets: object) -> Sample:
    """An image whose red channel is its own first mask, with every kind of target made of one another."""
    bitmaps = np.zeros((len(boxes), *SIZE), dtype=bool)
    for bitmap, (x0, y0, x1, y1) in zip(bitmaps, boxes, strict=True):
        bitmap[y0:y1, x0:x1] = True
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    image = np.stack([bitmaps[0] * 255, x, y], axis=-1).astype(np.uint8)
    rles = masks.encode_many(bitmaps)
    made = Targets(
        boxes=masks.boxes_of(rles),
        masks=rles,
        labels=torch.arange(len(boxes)),
        crowd=torch.zeros(len(boxes), dtype=torch.bool),
        ignore=masks.encode(~bitmaps[0]),
        label_map=bitmaps[0].astype(np.int16),
        depth=(x + 100 * y).astype(np.float32),
    )
    classes = () if text else ("a", "b", "c")
    return Sample(image, SIZE, "res", text, classes, replace(made, **targets), source="made#0")


def _together(image: np.ndarray, sample: Sample) -> None:
    """Every target still lies on the pixels it was made of."""
    targets = sample.targets
    assert image.shape[:2] == tuple(sample.size)
    first = image[..., 0] > 0
    assert np.array_equal(masks.decode(targets.masks[0]), first)
    assert np.array_equal(masks.decode(targets.ignore), ~first)
    assert np.array_equal(targets.label_map, first.astype(np.int16))
    assert np.array_equal(targets.depth, image[..., 1] + 100.0 * image[..., 2])
    assert torch.equal(targets.boxes, masks.boxes_of(targets.masks))


@pytest.mark.parametrize("box", [(5, 4, 25, 22), (14, 9, 18, 12)])  # no window holds it whole; most that see it do
@pytest.mark.parametrize("dihedral", [False, True])
def test_pixels_and_targets_stay_together(dihedral, box):
    sample = _marked([box])
    step = Windows([sample], 12, dihedral=dihedral)
    seen = set()
    for seed in range(60):
        image, moved = step(sample.image, sample, np.random.default_rng(seed))
        assert image.shape == (12, 12, 3) and image.flags.c_contiguous
        _together(image, moved)
        corner = image[0, 0, 1:].astype(int)
        seen.add(tuple(np.sign([image[0, -1, 1:] - corner, image[-1, 0, 1:] - corner]).ravel().tolist()))
    assert len(seen) == (8 if dihedral else 1)


@pytest.mark.parametrize(("axis", "drawn"), [(1, 11 / 37), (0, 8 / 27)])  # lefts 0 to 10 of 0 to 36; tops 0 to 7 of 26
def test_the_middle_of_a_window_is_scored_where_there_is_choice(axis, drawn):
    """A third of the picture is scored: of windows drawn blindly a third would do, of four draws four fifths."""
    limit = SIZE[axis] // 3
    bitmap = np.indices(SIZE)[axis] < limit
    sample = _marked([(0, 0, 40, 30)], ignore=masks.encode(~bitmap))
    step = Windows([sample], 4)
    places = [int(step(sample.image, sample, np.random.default_rng(seed))[0][2, 2, 2 - axis]) for seed in range(400)]
    assert np.mean(np.array(places) < limit) == pytest.approx(1 - (1 - drawn) ** 5, abs=0.06)


def test_windows_are_spread_over_all_places():
    sample = _marked([(0, 0, 40, 30)])
    step = Windows([sample], 28)
    corners = Counter(
        tuple(step(sample.image, sample, np.random.default_rng(seed))[0][0, 0, 1:].tolist()) for seed in range(2000)
    )
    assert set(corners) == {(x, y) for x in range(13) for y in range(3)}
    assert max(corners.values()) < 3 * min(corners.values())


def test_a_window_is_no_larger_than_the_image():
    sample = _marked([(5, 4, 25, 22)])
    image, moved = Windows([sample], 35)(sample.image, sample, np.random.default_rng(0))
    assert image.shape == (30, 35, 3) and moved.size == (30, 35)
    whole, same = Windows([sample], 0)(sample.image, sample, np.random.default_rng(0))
    assert np.array_equal(whole, sample.image) and same is sample


def test_a_phrase_keeps_its_object_in_sight():
    """One pixel of 1200 is in a random window of 5x5 once in 50 times; the step must show it always."""
    sample = _marked([(39, 29, 40, 30)])
    for masked in (True, False):
        given = sample if masked else sample.with_(targets=replace(sample.targets, masks=None))
        step = Windows([given], 5)
        for seed in range(20):
            image, moved = step(given.image, given, np.random.default_rng(seed))
            assert image.shape == (5, 5, 3) and image[..., 0].any() and len(moved.targets.boxes) == 1
            x0, y0, x1, y1 = moved.targets.boxes[0].int().tolist()
            assert image[y0:y1, x0:x1, 0].tolist() == [[255]]


def test_objects_that_leave_are_dropped_where_there_is_no_phrase():
    leave = [(22, 6, 30, 12), (6, 20, 12, 28)]  # on one side only, of the last window
    sample = _marked([(2, 2, 8, 8), (20, 20, 30, 28), (6, 6, 22, 22), *leave], text="")
    found = cut(sample.targets, (0, 0, 10, 10), keep=False)
    assert found.labels.tolist() == [0, 2] and len(found.crowd) == 2
    assert found.boxes.tolist() == [[2, 2, 8, 8], [6, 6, 10, 10]]
    assert masks.area(found.masks).tolist() == [36, 16]
    kept = cut(sample.targets, (0, 0, 10, 10), keep=True)
    assert kept.boxes[1].tolist() == [0, 0, 0, 0] and int(masks.area(kept.masks)[1]) == 0
    oblong = (5, 5, 10, 15)  # rows 5-15, columns 5-20
    found = cut(sample.targets, oblong, keep=False)
    assert [masks.decode(m).shape for m in (*found.masks, found.ignore)] == [(10, 15)] * 3
    assert masks.area(found.masks).tolist() == [3 * 3, 14 * 9]
    bare = cut(replace(sample.targets, masks=None), oblong, keep=False)
    assert bare.labels.tolist() == [0, 2] and bare.boxes.tolist() == [[0, 0, 3, 3], [1, 1, 15, 10]]


def test_a_picture_of_which_nothing_is_scored_is_cut_all_the_same():
    sample = _marked([(2, 2, 8, 8)], text="", ignore=masks.encode(np.ones(SIZE, dtype=bool)))
    assert Windows([sample], 12)(sample.image, sample, np.random.default_rng(0))[0].shape == (12, 12, 3)


def test_an_object_without_a_mask_is_every_pixel_its_box_touches():
    """A box of 1.6 x 1.8 pixels in a corner: windows of one pixel show one of the 3 x 2 that it touches."""
    box = torch.tensor([[2.5, 3.2, 4.1, 5.0]])
    sample = _marked([(2, 3, 5, 5)])
    sample = sample.with_(targets=replace(sample.targets, boxes=box, masks=None, ignore=None))
    step, shown = Windows([sample], 1), set()
    for seed in range(60):
        image, _ = step(sample.image, sample, np.random.default_rng(seed))
        shown.add(tuple(image[0, 0, 1:].tolist()))
    assert shown == {(x, y) for x in (2, 3, 4) for y in (3, 4)}


def test_a_cut_box_is_that_of_what_is_left():
    """Two squares that touch at a corner: the window holds nothing of the upper one, and two rows above the lower."""
    bitmap = np.zeros(SIZE, dtype=bool)
    bitmap[:10, :10] = bitmap[10:20, 10:20] = True
    whole = Targets(torch.tensor([[0.0, 0.0, 20.0, 20.0]]), (masks.encode(bitmap),), torch.zeros(1, dtype=torch.long))
    found = cut(whole, (8, 12, 20, 20), keep=False)  # rows 8-28, columns 12-32
    assert found.boxes.tolist() == [[0, 2, 8, 12]]


@pytest.mark.parametrize("moves", MOVES)
def test_turns_move_boxes_as_they_move_pixels(moves):
    sample = _marked([(5, 4, 25, 10)])
    turned = turn(sample.targets, SIZE, *moves)
    _together(turn_map(sample.image, *moves), sample.with_(targets=turned, size=SIZE[::-1] if moves[0] else SIZE))


@pytest.mark.parametrize("moves", MOVES)
def test_normals_turn_with_the_picture(moves):
    """Normals of a height z(x, y) = a x + b y are along (-a, -b, 1); a turned picture has another slope."""
    y, x = np.mgrid[: SIZE[0], : SIZE[1]].astype(np.float64)
    height = 0.3 * x + 0.7 * y
    normals = np.broadcast_to(np.float32([-0.3, -0.7, 1.0]), (*SIZE, 3))
    turned = turn(_marked([(0, 0, 9, 9)], normals=normals).targets, SIZE, *moves).normals
    slope_y, slope_x = np.gradient(turn_map(height, *moves))
    expected = np.stack([-slope_x, -slope_y, np.ones_like(slope_x)], axis=-1)
    assert turned == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    "text", ["the left vessel", "the lower one", "above the disc", "the uppermost", "lowest one", "lying dog", "third"]
)
def test_words_of_place_forbid_turns(text):
    sample = _marked([(5, 4, 25, 22)], text)
    step = Windows([sample], 0, dihedral=True)
    for seed in range(10):
        assert np.array_equal(step(sample.image, sample, np.random.default_rng(seed))[0], sample.image)


def test_a_sample_without_targets_stays():
    sample = _marked([(5, 4, 25, 22)])
    bare = sample.with_(targets=None)
    image, same = Windows([sample], 8, dihedral=True)(bare.image, bare, np.random.default_rng(0))
    assert image is bare.image and same is bare


def test_free_text_is_refused():
    caption = Sample(np.zeros((*SIZE, 3), np.uint8), SIZE, "caption", targets=Targets(text="a cat"), source="made#7")
    with pytest.raises(ConfigError, match=r"mixture\.1\.window: cutting .* \(got made#7, task caption\)"):
        Windows([caption], 8, where="data.mixture.1")


def test_a_phrase_that_names_nothing_may_come_first():
    """gRefCOCO and own data have such phrases: that nothing is there stays true of a part of the picture."""
    sample = _marked([(5, 4, 25, 22)])
    nothing = sample.with_(targets=Targets(masks=()))
    step = Windows([nothing, sample], 8, dihedral=True)
    for seed in range(8):
        image, moved = step(sample.image, nothing, np.random.default_rng(seed))
        assert image.shape[:2] == moved.size == (8, 8)
        assert moved.targets is not None and len(moved.targets.boxes) == 0 and moved.targets.masks == ()


@pytest.mark.parametrize("option", ["window: 8", "dihedral: true"])
def test_packed_entries_cannot_be_cut(option):
    name, _, value = option.partition(": ")
    with pytest.raises(ConfigError, match=f"{name} and pack do not go together"):
        Recipe.load("quickstart", {f"data.mixture.0.{name}": value})


class _Counting:
    def __init__(self) -> None:
        self.asked: list[int] = []
        self.image_ids = ("a", "b")

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> Sample:
        self.asked.append(index)
        return _marked([(index, 0, 5, 5)])


def test_samples_in_memory_are_made_once():
    source = _Counting()
    kept = InMemory(source)
    assert len(kept) == 2 and kept.image_ids == ("a", "b") and not hasattr(kept, "class_lists")
    assert [int(masks.area(kept[i].targets.masks)[0]) for i in (0, 1, 0, 0)] == [25, 20, 25, 25]
    assert [s.size for s in kept[:]] == [SIZE] * 2
    assert source.asked == [0, 1]
