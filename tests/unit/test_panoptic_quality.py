"""Panoptic quality against hand-worked strips of pixels and the published formula over sets, also on COCO's sample."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from ufo_tune.core import masks
from ufo_tune.core.types import Prediction, Sample, Targets
from ufo_tune.errors import EvalError
from ufo_tune.metrics.panoptic_quality import Metric

CLASSES = ("cat", "dog", "grass")
CAT, DOG, GRASS = range(3)
LENGTH = 20
REAL = Path(os.environ.get("UFO_TUNE_REAL_DATA") or "nowhere") / "panopticapi_sample"
Segment = tuple[int, np.ndarray]
"""Class and pixels [H, W] bool."""


def _strip(start: int, stop: int) -> np.ndarray:
    pixels = np.zeros((1, LENGTH), dtype=bool)
    pixels[:, start:stop] = True
    return pixels


def _labels(*parts: tuple[int, int]) -> np.ndarray:
    """A label map of one row: (class, up to which column); -1 after the last."""
    label_map = np.full((1, LENGTH), -1, np.int16)
    for label, stop in reversed(parts):
        label_map[:, :stop] = label
    return label_map


def _segments(segments: list[Segment], size: tuple[int, int] = (1, LENGTH)) -> dict[str, object]:
    pixels = np.stack([p for _, p in segments]) if segments else np.zeros((0, *size), dtype=bool)
    return {"masks": masks.encode_many(pixels), "labels": torch.tensor([c for c, _ in segments], dtype=torch.long)}


def _true(
    segments: list[Segment] | None,
    *,
    crowd: list[bool] | None = None,
    void: np.ndarray | None = None,
    label_map: np.ndarray | None = None,
    size: tuple[int, int] = (1, LENGTH),
    classes: tuple[str, ...] = CLASSES,
    number: int = 0,
) -> Sample:
    fields = {} if segments is None else {**_segments(segments, size), "boxes": torch.zeros(len(segments), 4)}
    targets = Targets(
        **fields,
        crowd=None if crowd is None else torch.tensor(crowd),
        ignore=None if void is None else masks.encode(void),
        label_map=label_map,
    )
    return Sample(None, size, "any", classes=classes, targets=targets, source=f"made/test#{number:03d}")


def _said(segments: list[Segment], scores: list[float] | None = None, **more) -> Prediction:
    size = segments[0][1].shape if segments else (1, LENGTH)
    found = torch.tensor(scores if scores is not None else [1.0] * len(segments))
    return Prediction(**_segments(segments, size), scores=found, **more)


def _values(*pairs: tuple[Sample, Prediction], **options) -> dict[str, float]:
    metric = Metric(**options)
    for pair in pairs:
        metric.update(*pair)
    return metric.compute()


def _qualities(values: dict[str, float], suffix: str = "") -> tuple[float, float, float]:
    return values[f"PQ{suffix}"], values[f"SQ{suffix}"], values[f"RQ{suffix}"]


def test_by_hand():
    """Cats: one of IoU 3/4, one missed, one invented. Dogs: one of IoU 1. No grass anywhere."""
    true = _true([(CAT, _strip(0, 4)), (CAT, _strip(6, 8)), (DOG, _strip(10, 12))])
    said = _said([(CAT, _strip(0, 3)), (CAT, _strip(14, 16)), (DOG, _strip(10, 12))])
    values = _values((true, said))
    assert _qualities(values) == ((0.75 / 2 + 1) / 2, (0.75 + 1) / 2, (1 / 2 + 1) / 2)
    assert (values["n_classes"], values["n"], values["invalid"]) == (2, 1, 0)


def test_half_is_no_match():
    half = _values((_true([(CAT, _strip(0, 4))]), _said([(CAT, _strip(0, 2))])))
    assert _qualities(half) == (0.0, 0.0, 0.0)
    more = _values((_true([(CAT, _strip(0, 4))]), _said([(CAT, _strip(0, 3))])))
    assert _qualities(more) == (0.75, 0.75, 1.0)


def test_another_class_is_no_match():
    values = _values((_true([(CAT, _strip(0, 4))]), _said([(DOG, _strip(0, 4))])))
    assert (values["PQ"], values["n_classes"]) == (0.0, 2)


def test_void_is_taken_out_of_predictions():
    """The prediction reaches 4 pixels into void; without these its IoU is 1."""
    values = _values((_true([(CAT, _strip(0, 4))], void=_strip(4, 20)), _said([(CAT, _strip(0, 8))])))
    assert _qualities(values) == (1.0, 1.0, 1.0)


@pytest.mark.parametrize(("start", "wrong"), [(9, False), (8, True), (7, True)])
def test_a_prediction_mostly_on_void_is_no_false_alarm(start, wrong):
    """Four pixels of which 3, 2 and 1 are void: half of it is not most of it."""
    true = _true([(CAT, _strip(0, 4))], void=_strip(10, 20))
    values = _values((true, _said([(CAT, _strip(0, 4)), (CAT, _strip(start, start + 4))])))
    assert values["RQ"] == (1 / 1.5 if wrong else 1.0)


def test_crowds_are_neither_found_nor_missed():
    true = _true([(CAT, _strip(0, 4)), (CAT, _strip(6, 14))], crowd=[False, True])
    silent = _values((true, _said([(CAT, _strip(0, 4))])))
    assert _qualities(silent) == (1.0, 1.0, 1.0)
    covered = _values((true, _said([(CAT, _strip(0, 4)), (CAT, _strip(6, 14)), (CAT, _strip(14, 16))])))
    assert covered["RQ"] == 1 / 1.5  # the crowd excuses the first, not the one beside it
    other = _values((true, _said([(CAT, _strip(0, 4)), (DOG, _strip(6, 14))])))
    assert (other["PQ"], other["n_classes"]) == (0.5, 2)  # a dog is no part of a crowd of cats


def test_background_is_not_void():
    """With masks alone, a prediction where nothing is marked is a false alarm."""
    values = _values((_true([(CAT, _strip(0, 4))]), _said([(CAT, _strip(0, 4)), (CAT, _strip(10, 14))])))
    assert values["RQ"] == 1 / 1.5


def test_better_scores_take_the_pixels():
    """The dog (0.9) keeps its 4 pixels, the cat (0.6) the 5 that are left of its 7, whatever the order."""
    true = _true([(DOG, _strip(0, 4)), (CAT, _strip(4, 9))])
    cat, dog = (CAT, _strip(2, 9)), (DOG, _strip(0, 4))
    assert _values((true, _said([cat, dog], [0.6, 0.9])))["PQ"] == 1.0
    assert _values((true, _said([dog, cat], [0.9, 0.6])))["PQ"] == 1.0
    # The cat first: it keeps 7 (IoU 5 / 7), the dog is left 2 of 4, which is not more than half taken, and IoU 2 / 4.
    assert _values((true, _said([cat, dog], [0.9, 0.6])))["PQ"] == pytest.approx(5 / 7 / 2)


def test_mostly_covered_masks_are_dropped():
    """Of four pixels, 2 are taken: kept, and a false alarm; 3 are taken: dropped; with overlap 0.8 kept."""
    true, first = _true([(CAT, _strip(0, 8))]), (CAT, _strip(0, 8))
    half, most = (DOG, _strip(6, 10)), (DOG, _strip(5, 9))
    assert _values((true, _said([first, half], [0.9, 0.8])))["n_classes"] == 2
    assert _values((true, _said([first, most], [0.9, 0.8])))["n_classes"] == 1
    assert _values((true, _said([first, most], [0.9, 0.8])), overlap=0.8)["n_classes"] == 2


def test_low_scores_are_dropped():
    true, said = _true([(CAT, _strip(0, 4))]), _said([(CAT, _strip(0, 4)), (CAT, _strip(8, 12))], [0.5, 0.49])
    assert _values((true, said))["RQ"] == 1.0
    assert _values((true, said), min_score=0.4)["RQ"] == 1 / 1.5


def test_label_maps_are_segments_one_a_class():
    """Grass of 12 pixels in two parts, of which 9 are found; the rest of the map is void."""
    true = _true(None, label_map=_labels((GRASS, 6), (CAT, 10), (GRASS, 16)))
    said = Prediction(label_map=_labels((GRASS, 3), (CAT, 10), (GRASS, 20)))
    values = _values((true, said))
    assert values["PQ"] == (9 / 12 + 4 / 7) / 2
    assert set(values) == {"PQ", "SQ", "RQ", "n_classes", "n", "invalid"}, "things and stuff only where they are told"


def test_masks_go_before_the_label_map():
    """The label map calls all of it grass; the cat's pixels are the cat's in truth and prediction."""
    true = _true([(CAT, _strip(0, 4))], label_map=_labels((GRASS, 12)))
    said = _said([(CAT, _strip(0, 4))], label_map=_labels((GRASS, 20)))
    assert _qualities(_values((true, said))) == (1.0, 1.0, 1.0)


def test_things_and_stuff_apart():
    """Cat IoU 3/4, dog missed, grass IoU 1. The map's dogs are no stuff: not a segment, and void in the truth."""
    label_map = _labels((-1, 6), (GRASS, 14), (DOG, 20))
    true = _true([(CAT, _strip(0, 4)), (DOG, _strip(4, 6))], label_map=label_map)
    said = _said([(CAT, _strip(0, 3))], label_map=label_map)
    values = _values((true, said), stuff=["grass"])
    assert _qualities(values, "_th") == (0.75 / 2, 0.75 / 2, 0.5)
    assert _qualities(values, "_st") == (1.0, 1.0, 1.0)
    assert values["PQ"] == (0.75 + 0 + 1) / 3
    assert (values["n_classes"], values["n_classes_th"], values["n_classes_st"]) == (3, 2, 1)


def test_small_stuff_can_be_dropped():
    true, said = _true(None, label_map=_labels((GRASS, 20))), Prediction(label_map=_labels((CAT, 3), (GRASS, 20)))
    assert _values((true, said))["n_classes"] == 2
    assert _values((true, said), stuff_pixels=3)["n_classes"] == 2
    assert _values((true, said), stuff_pixels=4)["n_classes"] == 1


def test_classes_are_pooled_by_name_over_samples():
    """Cats: IoU 1, and one missed under another number: 1 / 1.5, not the mean of 1 and 0."""
    pairs = [
        (_true([(CAT, _strip(0, 4))]), _said([(CAT, _strip(0, 4))])),
        (_true([(1, _strip(0, 4))], classes=("horse", "cat"), number=1), _said([])),
    ]
    values = _values(*pairs)
    assert (values["PQ"], values["n_classes"]) == (1 / 1.5, 1)


def test_unreadable_answers_miss_everything():
    values = _values((_true([(CAT, _strip(0, 4))]), Prediction(invalid=1)))
    assert (values["PQ"], values["n_classes"], values["invalid"]) == (0.0, 1, 1)


def test_a_true_segment_that_is_all_void_is_none():
    values = _values((_true([(CAT, _strip(0, 4))], void=_strip(0, 6)), _said([])))
    assert values["n_classes"] == 0


def test_refuses_what_it_cannot_score():
    cat = [(CAT, _strip(0, 4))]
    with pytest.raises(EvalError, match=r"made/test#000: true masks overlap \(got 2 pixels\)"):
        _values((_true([*cat, (DOG, _strip(2, 6))]), _said([])))
    with pytest.raises(EvalError, match="needs masks or a label map"):
        _values((_true(None), _said([])))
    with pytest.raises(EvalError, match="the prediction has no segments"):
        _values((_true(cat), Prediction()))
    with pytest.raises(EvalError, match=r"no such class \(got 3\)"):
        _values((_true(cat), _said([(3, _strip(0, 4))])))
    with pytest.raises(EvalError, match="differ in number"):
        _values((_true(cat), _said(cat, [])))
    with pytest.raises(EvalError, match=r"mask is \(1, 20\) but the image is \(1, 21\)"):
        _values((_true([], size=(1, 21)), _said(cat)))


# ---- the published formula, over sets of pixels ----


def _published(
    images: list[tuple[list[tuple[int, bool, set]], list[tuple[int, set]], set]],
) -> dict[int, tuple[float, float, float]]:
    """Kirillov et al. sec. 4: PQ, SQ, RQ of each class. Images are true (class, crowd, pixels), said, and void."""
    ious: dict[int, list[float]] = {}
    wrong: dict[int, int] = {}
    missed: dict[int, int] = {}
    for true, said, void in images:
        matched_true, matched_said = set(), set()
        for t, (true_class, crowd, true_pixels) in enumerate(true):
            for s, (said_class, said_pixels) in enumerate(said):
                counted = said_pixels - void
                iou = len(true_pixels & counted) / len(true_pixels | counted)
                if not crowd and true_class == said_class and iou > 0.5:
                    ious.setdefault(true_class, []).append(iou)
                    matched_true.add(t)
                    matched_said.add(s)
        for t, (true_class, crowd, _) in enumerate(true):
            if not crowd and t not in matched_true:
                missed[true_class] = missed.get(true_class, 0) + 1
        for s, (said_class, said_pixels) in enumerate(said):
            crowds = [pixels for label, crowd, pixels in true if crowd and label == said_class]
            if s not in matched_said and len(said_pixels & void.union(*crowds)) / len(said_pixels) <= 0.5:
                wrong[said_class] = wrong.get(said_class, 0) + 1
    found = {}
    for label in {*ious, *wrong, *missed}:
        total, tp = sum(ious.get(label, [])), len(ious.get(label, []))
        size = tp + wrong.get(label, 0) / 2 + missed.get(label, 0) / 2
        found[label] = (total / size, total / tp if tp else 0.0, tp / size)
    return found


def _where(pixels: np.ndarray) -> set[int]:
    return set(np.flatnonzero(pixels).tolist())


def _compare(
    images: list[tuple[list[tuple[int, bool, np.ndarray]], list[Segment], np.ndarray]],
    classes: tuple[str, ...],
    stuff: set[int],
) -> None:
    metric, sets = Metric(stuff=[classes[k] for k in sorted(stuff)]), []
    for number, (true, said, void) in enumerate(images):
        segments, crowd = [(label, pixels) for label, _, pixels in true], [is_crowd for _, is_crowd, _ in true]
        sample = _true(segments, crowd=crowd, void=void, size=void.shape, classes=classes, number=number)
        metric.update(sample, _said(said))
        sets.append(
            (
                [(label, is_crowd, _where(pixels)) for label, is_crowd, pixels in true],
                [(label, _where(pixels)) for label, pixels in said],
                _where(void),
            )
        )
    expected, values = _published(sets), metric.compute()
    for suffix, kept in (("", set(expected)), ("_th", set(expected) - stuff), ("_st", set(expected) & stuff)):
        assert kept
        wanted = np.mean([expected[label] for label in kept], axis=0)
        assert _qualities(values, suffix) == pytest.approx(tuple(wanted), abs=1e-12)
        assert values[f"n_classes{suffix}"] == len(kept)


def _of_ids(ids: np.ndarray) -> list[np.ndarray]:
    return [ids == number for number in np.unique(ids[ids > 0])]


def test_agrees_with_the_formula_on_random_cuts():
    """Blocks cut by shifted grids, some void, some crowds, some of another class."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:36, :48]
    images = []
    for _ in range(12):
        dy, dx = rng.integers(0, 4, 2)
        true, said = _of_ids(1 + y // 12 * 10 + x // 12), _of_ids(1 + (y + dy) // 12 * 10 + (x + dx) // 12)
        void = rng.random((36, 48)) < rng.choice([0, 0.1])
        void[:, :6] = True
        kinds = rng.integers(0, 3, len(true))
        crowd_of = rng.integers(0, 3)  # one crowd a class and image at most, as in COCO
        crowd = [k == crowd_of for k in range(len(true))]
        segments = [(int(c), g, p & ~void) for c, g, p in zip(kinds, crowd, true, strict=True) if (p & ~void).any()]
        images.append((segments, [(int(rng.integers(0, 3)), p) for p in said if rng.random() < 0.8], void))
    _compare(images, CLASSES, {GRASS})


@pytest.mark.skipif(not REAL.is_dir(), reason="UFO_TUNE_REAL_DATA has no panopticapi_sample")
def test_agrees_with_the_formula_on_cocos_sample():
    """COCO's two sample images with their crowds and void; the truth moved, cut, renamed and thinned is predicted."""
    from PIL import Image

    categories = json.loads((REAL / "panoptic_coco_categories.json").read_text())
    number = {c["id"]: k for k, c in enumerate(categories)}
    document = json.loads((REAL / "sample_data" / "panoptic_examples.json").read_text())
    rng = np.random.default_rng(1)
    images = []
    for annotation in document["annotations"]:
        file = REAL / "sample_data" / "panoptic_examples" / annotation["file_name"]
        ids = np.asarray(Image.open(file).convert("RGB")).astype(np.int64) @ (1, 256, 65536)  # [H, W]
        true, said = [], []
        for info in annotation["segments_info"]:
            pixels = ids == info["id"]
            assert pixels.sum() == info["area"]
            true.append((number[info["category_id"]], bool(info["iscrowd"]), pixels))
            moved = np.roll(pixels, (6, -4), axis=(0, 1))
            if rng.random() < 0.2:
                moved[:, : moved.shape[1] // 2] = False
            label = number[info["category_id"]] if rng.random() < 0.85 else int(rng.integers(len(categories)))
            if rng.random() < 0.9 and moved.any():
                said.append((label, moved))
        assert any(crowd for _, crowd, _ in true)
        images.append((true, said, ids == 0))
    names = tuple(c["name"] for c in categories)
    _compare(images, names, {k for k, c in enumerate(categories) if not c["isthing"]})
