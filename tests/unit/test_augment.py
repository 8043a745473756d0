"""Augmentation: image, boxes and masks move as one, and samples that a change would falsify stay as they are."""

from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from ufo_tune import _torchvision
from ufo_tune.core import masks
from ufo_tune.core.normals import from_depth
from ufo_tune.core.types import Sample, Targets
from ufo_tune.data.augment import COLOURS, SIDED, Augment
from ufo_tune.errors import ConfigError

if not _torchvision.available():
    pytest.skip("torchvision is not installed", allow_module_level=True)

SIZE = (60, 90)
SEEDS = range(25)


def _scene(seed: int = 0, **changes: object) -> tuple[np.ndarray, Sample]:
    """Three ellipses, each in a colour that no other pixel has, with exact boxes and masks."""
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 100, (*SIZE, 3), dtype=np.uint8)
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    free = np.ones(SIZE, bool)
    bitmaps = []
    for number in range(3):
        cy, cx = rng.uniform(12, 48), rng.uniform(12 + 25 * number, 18 + 25 * number)
        pixels = ((y - cy) / rng.uniform(5, 11)) ** 2 + ((x - cx) / rng.uniform(5, 11)) ** 2 <= 1
        pixels &= free
        free &= ~pixels
        image[pixels] = 200 + number
        bitmaps.append(pixels)
    rles = masks.encode_many(np.stack(bitmaps))
    targets = Targets(
        boxes=masks.boxes_of(rles),
        masks=rles,
        labels=torch.arange(3),
        crowd=torch.tensor([False, False, True]),
        ignore=masks.encode(free & (x < 10)),
        label_map=np.where(bitmaps[0], 1, 0).astype(np.int16),
    )
    sample = Sample(image, SIZE, "instance_segmentation", classes=("a", "b", "c"), targets=targets)
    return image, sample.with_(**changes)


def _targets(sample: Sample) -> Targets:
    assert sample.targets is not None
    return sample.targets


def _rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.mark.parametrize(
    "options", [{"flip": 1.0}, {"crop": 1.0}, {"crop": 1.0, "crop_range": (0.3, 0.5), "flip": 0.5}]
)
def test_everything_moves_together(options: dict[str, float]) -> None:
    dropped = 0
    for seed in SEEDS:
        image, sample = _scene(seed)
        moved, after = Augment(**options)(image, sample, _rng(seed))
        truth = _targets(after)
        assert after.size == moved.shape[:2]
        bitmaps = masks.decode_many(truth.masks or (), after.size)
        torch.testing.assert_close(truth.boxes, masks.boxes_of(truth.masks or ()))
        for label, bitmap in zip(truth.labels.tolist(), bitmaps, strict=True):
            np.testing.assert_array_equal(bitmap, (moved == 200 + label).all(-1))  # every pixel kept its colour
        visible = [n for n in range(3) if (moved == 200 + n).all(-1).any()]
        assert truth.labels.tolist() == visible
        assert truth.crowd is not None and truth.crowd.tolist() == [n == 2 for n in visible]
        assert truth.label_map is not None and truth.label_map.dtype == np.int16
        np.testing.assert_array_equal(truth.label_map == 1, (moved == 200).all(-1))
        assert truth.ignore is not None and masks.decode(truth.ignore).shape == after.size
        dropped += 3 - len(visible)
    assert (dropped > 0) == ("crop" in options)


def test_flip_mirrors_boxes_by_the_closed_form() -> None:
    image, sample = _scene()
    moved, after = Augment(flip=1.0)(image, sample, _rng())
    x0, y0, x1, y1 = _targets(sample).boxes.unbind(1)
    torch.testing.assert_close(_targets(after).boxes, torch.stack([SIZE[1] - x1, y0, SIZE[1] - x0, y1], 1))
    np.testing.assert_array_equal(moved, image[:, ::-1])


def test_flipping_twice_is_identity() -> None:
    flip = Augment(flip=1.0)
    for seed in SEEDS:
        image, sample = _scene(seed)
        twice, after = flip(*flip(image, sample, _rng()), _rng())
        np.testing.assert_array_equal(twice, image)
        torch.testing.assert_close(_targets(after).boxes, _targets(sample).boxes)
        assert _targets(after).masks == _targets(sample).masks
        assert _targets(after).ignore == _targets(sample).ignore


@pytest.mark.parametrize(
    "words",
    ["the cup on the left", "LEFTMOST dog", "rightmost one", "facing rightwards", "left-hand door", "turn clockwise",
     "anti-clockwise arrow", "at 3 o'clock", "the east wing", "second zebra", "the last cup", "2nd one",
     "guy onleft", "bottomright"],
)  # fmt: skip
def test_sided_words_forbid_the_flip(words: str) -> None:
    image, sample = _scene(text=words, classes=())
    moved, after = Augment(flip=1.0)(image, sample, _rng())
    np.testing.assert_array_equal(moved, image)
    torch.testing.assert_close(_targets(after).boxes, _targets(sample).boxes)
    assert SIDED.search(words)
    image, sample = _scene(classes=("a", words, "c"))
    np.testing.assert_array_equal(Augment(flip=1.0)(image, sample, _rng())[0], image)


@pytest.mark.parametrize(
    "words", ["the bright cup", "upright bass", "beast", "a cleft rock", "copyright sign", "a secondary road", "blast"]
)
def test_words_that_only_look_sided(words: str) -> None:
    assert not SIDED.search(words)
    image, sample = _scene(text=words, classes=())
    np.testing.assert_array_equal(Augment(flip=1.0)(image, sample, _rng())[0], image[:, ::-1])


def test_free_text_is_never_touched() -> None:
    image, sample = _scene(text="how many cups?", classes=(), targets=Targets(text="three"))
    everything = Augment(flip=1.0, crop=1.0, jitter=1.0)
    moved, after = everything(image, sample, _rng())
    assert moved is image and after is sample
    caption = sample.with_(text="", targets=Targets(text="a cup left of a plate"))
    assert everything(image, caption, _rng())[1] is caption
    talk = sample.with_(text="", history=(("where is the cup", "left"),), targets=_targets(_scene()[1]))
    assert everything(image, talk, _rng())[1] is talk


def test_a_sample_without_truth_is_left_alone() -> None:
    image, sample = _scene(targets=None)
    assert Augment(flip=1.0)(image, sample, _rng()) == (image, sample)


def test_crop_keeps_what_a_phrase_names() -> None:
    made = 0
    for seed in SEEDS:
        image, scene = _scene(seed)
        box, rle = _targets(scene).boxes[1:2], (_targets(scene).masks or ())[1:2]
        sample = scene.with_(text="the thing", classes=(), targets=Targets(box, rle, torch.zeros(1, dtype=torch.long)))
        moved, after = Augment(crop=1.0, phrase_range=(0.5, 0.9))(image, sample, _rng(seed))
        made += moved.shape != image.shape
        assert masks.area(_targets(after).masks or ()).equal(masks.area(rle))
        torch.testing.assert_close(_targets(after).boxes[:, 2:] - _targets(after).boxes[:, :2], box[:, 2:] - box[:, :2])
        torch.testing.assert_close(_targets(after).boxes, masks.boxes_of(_targets(after).masks or ()))
    assert made > len(SEEDS) // 2


def test_no_crop_where_the_phrase_fills_the_image() -> None:
    image, sample = _scene(
        text="everything",
        classes=(),
        targets=Targets(torch.tensor([[1.0, 1, 89, 59]]), None, torch.zeros(1, dtype=torch.long)),
    )
    assert Augment(crop=1.0, phrase_range=(0.5, 0.8))(image, sample, _rng())[0].shape == image.shape


def test_crop_without_masks_drops_cut_off_boxes() -> None:
    for seed in SEEDS:
        image, sample = _scene(seed)
        sample = sample.with_(targets=replace(_targets(sample), masks=None))
        moved, after = Augment(crop=1.0, crop_range=(0.3, 0.5))(image, sample, _rng(seed))
        boxes = _targets(after).boxes
        assert ((boxes[:, 2:] - boxes[:, :2]) >= 1).all()
        assert (boxes >= 0).all() and (boxes[:, 2] <= moved.shape[1]).all() and (boxes[:, 3] <= moved.shape[0]).all()
        seen = {n for n in range(3) if (moved == 200 + n).all(-1).any()}
        assert seen <= set(_targets(after).labels.tolist())


END = 1 - 1e-9
"""The last of what a random number of [0, 1) chooses from."""


@pytest.mark.parametrize(
    ("span", "place", "window"),
    [
        ((0.5, 1.0), (0, END, 0, END), (0, 30, 30, 60)),  # shares of the shorter side, 60; left in 0..30
        ((0.5, 1.0), (END, 0, 0, 0), (0, 0, 60, 30)),
        ((0.5, 1.0), (0.5, 0.5, 0.5, 0.5), (8, 23, 45, 45)),  # of 16 rows and 46 columns the middle ones
        ((1.5, 1.5), (0, 0, END, END), (0, 0, 60, 90)),  # no more than there is
    ],
)
def test_windows_by_hand(span: tuple[float, float], place: tuple[float, ...], window: tuple[int, ...]) -> None:
    assert Augment(crop=1.0, crop_range=span)._window(_scene()[1], np.array(place)) == window


@pytest.mark.parametrize(
    ("mask", "first", "last"),
    [
        (None, (10, 25), (20, 40)),  # rows 40 - 30 to 20, columns 70 - 45 to 40, whole pixels
        ((41, 15, 69, 45), (15, 25), (15, 40)),  # the mask reaches beyond its box
        ((0, 0, 0, 0), (10, 25), (20, 40)),  # an empty mask holds nothing fast
    ],
)
def test_windows_hold_what_a_phrase_names(
    mask: tuple[int, ...] | None, first: tuple[int, int], last: tuple[int, int]
) -> None:
    """Half of 60 x 90 is 30 x 45; everything named lies within whatever the random numbers are."""
    rles = None
    if mask is not None:
        bitmap = np.zeros(SIZE, bool)
        bitmap[mask[1] : mask[3], mask[0] : mask[2]] = True
        rles = (masks.encode(bitmap),)
    targets = Targets(torch.tensor([[40.5, 20.5, 69.5, 39.5]]), rles, labels=torch.zeros(1, dtype=torch.long))
    sample = _scene(text="the cup", targets=targets)[1]
    half = Augment(crop=1.0, phrase_range=(0.5, 0.5))
    assert half._window(sample, np.array([0, 0, 0, 0])) == (*first, 30, 45)
    assert half._window(sample, np.array([0, 0, END, END])) == (*last, 30, 45)


def test_what_a_crop_leaves_of_an_object(monkeypatch: pytest.MonkeyPatch) -> None:
    """A window of columns 20-60 and rows 10-40: what it cuts is bounded anew, by its mask where it has one."""
    monkeypatch.setattr(Augment, "_window", lambda *_: (10, 20, 30, 40))
    drawn = {  # box -> the mask's bounds, which are smaller; what comes out
        (25, 15, 55, 35): ((30, 20, 40, 30), (5, 5, 35, 25)),  # whole: its box is its own
        (20, 10, 60, 40): ((50, 12, 58, 20), (0, 0, 40, 30)),  # as large as the window: whole too
        (10, 25, 40, 30): ((30, 25, 34, 28), (10, 15, 14, 18)),  # cut on one side: left, top, right, bottom
        (25, 5, 30, 20): ((25, 15, 29, 18), (5, 5, 9, 8)),
        (45, 22, 70, 30): ((45, 24, 48, 28), (25, 14, 28, 18)),
        (42, 32, 50, 50): ((42, 34, 47, 38), (22, 24, 27, 28)),
    }
    bitmaps = np.zeros((len(drawn), *SIZE), bool)
    for bitmap, ((x0, y0, x1, y1), _) in zip(bitmaps, drawn.values(), strict=True):
        bitmap[y0:y1, x0:x1] = True
    targets = Targets(torch.tensor(list(drawn)).float(), masks.encode_many(bitmaps), labels=torch.arange(len(drawn)))
    image, sample = _scene(targets=targets, classes=tuple("abcdef"))
    found = _targets(Augment(crop=1.0)(image, sample, _rng())[1])
    assert found.boxes.tolist() == [list(after) for _, after in drawn.values()]
    bare = Augment(crop=1.0)(image, sample.with_(targets=replace(targets, masks=None)), _rng())[1]
    cut = [[10, 25, 40, 30], [25, 5, 30, 20], [45, 22, 70, 30], [42, 32, 50, 50]]
    shares = [[max(x0 - 20, 0), max(y0 - 10, 0), min(x1 - 20, 40), min(y1 - 10, 30)] for x0, y0, x1, y1 in cut]
    assert _targets(bare).boxes.tolist() == [[5, 5, 35, 25], [0, 0, 40, 30], *shares]


def test_crop_of_an_image_without_objects() -> None:
    image, sample = _scene(targets=Targets())
    moved, after = Augment(crop=1.0, crop_range=(0.5, 0.5))(image, sample, _rng())
    assert moved.shape == (30, 30, 3) and len(_targets(after).boxes) == 0
    image, sample = _scene(targets=Targets(masks=()))
    assert _targets(Augment(crop=1.0)(image, sample, _rng())[1]).masks == ()


def test_depth_is_mirrored_but_not_cropped() -> None:
    depth = np.arange(60 * 90, dtype=np.float32).reshape(SIZE)
    image, sample = _scene(targets=Targets(depth=depth), classes=())
    moved, after = Augment(crop=1.0, flip=1.0)(image, sample, _rng())
    assert moved.shape == image.shape
    np.testing.assert_array_equal(_targets(after).depth, depth[:, ::-1])


def test_mirrored_normals_are_those_of_the_mirrored_surface() -> None:
    """A tilted plane seen by a camera whose axis is in the middle, and the same plane in a mirror."""
    height, width = SIZE
    camera = (80.0, 80.0, (width - 1) / 2, (height - 1) / 2)
    x = (np.arange(width) - camera[2]) / camera[0]
    depth = np.broadcast_to(2 / (0.8 - 0.6 * x), SIZE)  # 0.6 X - 0.8 Z = -2
    normals, mirrored = from_depth(depth, camera), from_depth(depth[:, ::-1], camera)
    np.testing.assert_allclose(normals[30, 45], (0.6, 0, -0.8), atol=1e-5)
    image, sample = _scene(targets=Targets(normals=normals), classes=())
    _, after = Augment(flip=1)(image, sample, _rng())
    np.testing.assert_allclose(_targets(after).normals, mirrored, atol=1e-5)
    sloped = sample.with_(targets=Targets(normals=np.broadcast_to(np.float32([0.6, -0.48, -0.64]), (*SIZE, 3))))
    up_too = _targets(Augment(flip=1)(image, sloped, _rng())[1]).normals
    np.testing.assert_array_equal(up_too, np.broadcast_to(np.float32([-0.6, -0.48, -0.64]), (*SIZE, 3)))
    _, cut = Augment(crop=1)(image, sample, _rng())
    assert _targets(cut).normals.shape == (*cut.size, 3) and cut.size != SIZE


def test_jitter_changes_colours_only() -> None:
    image, sample = _scene()
    moved, after = Augment(jitter=1.0)(image, sample, _rng())
    assert (moved != image).any() and moved.shape == image.shape
    assert _targets(after) is _targets(sample)


def test_factors_of_colours_by_hand() -> None:
    """Brightness, contrast and saturation about 1, hue about 0; each by its own number and strength."""
    jitter = Augment(jitter=1.0, jitter_strength=(0.4, 0.3, 0.2, 0.1))
    assert jitter._factors(np.array([0, 0.5, 1, 0.75]), hue=True) == pytest.approx((0.6, 1.0, 1.2, 0.05))
    assert jitter._factors(np.array([0.75, 0, 0.25, 0]), hue=True) == pytest.approx((1.2, 0.7, 0.9, -0.1))
    assert jitter._factors(np.array([0.75, 0, 0.25, 0]), hue=False) == pytest.approx((1.2, 0.7, 0.9, 0.0))


def test_hue_stays_where_words_name_a_colour() -> None:
    image, sample = _scene(text="the red cup", classes=())
    image[...] = [120, 0, 0]
    hue = Augment(jitter=1.0, jitter_strength=(0, 0, 0, 0.5))
    np.testing.assert_array_equal(hue(image, sample, _rng())[0], image)
    assert (hue(image, sample.with_(text="the cup"), _rng())[0] != image).any()
    for words in ("tan pants", "blond boy", "the lightblue one", "multicolored kite", "the greens", "khakis"):
        np.testing.assert_array_equal(hue(image, sample.with_(text=words), _rng())[0], image)
    assert COLOURS.search("a reddish, blueish thing") and not COLOURS.search("a covered, tired bluejay and goldfinch")


def test_same_seed_same_result_and_same_consumption() -> None:
    augment = Augment(flip=0.5, crop=0.5, jitter=0.5)
    image, sample = _scene()
    first, second, other = _rng(3), _rng(3), _rng(3)
    a, b = augment(image, sample, first), augment(image, sample, second)
    np.testing.assert_array_equal(a[0], b[0])
    augment(image, sample.with_(targets=None), other)
    assert first.random() == second.random() == other.random()


def test_input_is_not_written_to() -> None:
    image, sample = _scene()
    image.flags.writeable = False
    before = image.copy()
    Augment(flip=1.0, crop=1.0, jitter=1.0)(image, sample, _rng())
    np.testing.assert_array_equal(image, before)


@pytest.mark.parametrize(
    ("options", "place"),
    [({"flip": 1.5}, "flip"), ({"crop_range": (0.9, 0.1)}, "crop_range"), ({"jitter": "yes"}, "jitter"),
     ({"jitter_strength": (0.1, 0.1, 0.1, 0.9)}, "jitter_strength"), ({"phrase_range": (0,)}, "phrase_range")],
)  # fmt: skip
def test_bad_options(options: dict[str, object], place: str) -> None:
    with pytest.raises(ConfigError, match=rf"data\.augment\.{place}: is out of range"):
        Augment(**options)  # type: ignore[arg-type]


def test_without_torchvision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_torchvision, "available", lambda: False)
    assert not Augment().active
    with pytest.raises(ConfigError, match=r"pip install 'ufo-tune\[augment\]'"):
        Augment(flip=0.5)


def test_torchvision_is_usable() -> None:
    assert _torchvision.available() and _torchvision.available()
    assert "torchvision" in sys.modules
