"""Metrics against hand-worked cases, independent formulas and pycocotools reading files from disk."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ufo_tune.core import masks
from ufo_tune.core.types import Prediction, Sample, Targets
from ufo_tune.errors import EvalError
from ufo_tune.metrics import exact_match, rec_accuracy, seg_iou

SIZE = (8, 10)


def _sample(number: int = 0, size: tuple[int, int] = SIZE, classes: tuple[str, ...] = (), **targets: object) -> Sample:
    image = np.zeros((*size, 3), np.uint8)
    return Sample(image, size, "any", classes=classes, targets=Targets(**targets), source=f"made/test#{number:03d}")


def _one_box(box: list[float]) -> dict[str, torch.Tensor]:
    return {"boxes": torch.tensor([box]), "labels": torch.zeros(1, dtype=torch.long)}


def _mask_sample(pixels: np.ndarray, number: int = 0, **more: object) -> Sample:
    one = {**_one_box([0, 0, 1, 1]), "masks": (masks.encode(pixels),)}
    return _sample(number, pixels.shape, **one, **more)


def _block(rows: slice, columns: slice, size: tuple[int, int] = SIZE) -> np.ndarray:
    pixels = np.zeros(size, dtype=bool)
    pixels[rows, columns] = True
    return pixels


# ---- rec_accuracy ----


@pytest.mark.parametrize(
    ("predicted", "iou"),
    [
        ([0, 0, 4, 4], 1.0),
        ([0, 0, 4, 2], 0.5),  # 8 / 16: exactly at the threshold counts as right
        ([2, 0, 6, 4], 8 / 24),
        ([0, 0, 2, 1.9], 3.8 / 16),
        ([5, 5, 9, 9], 0.0),
        ([4, 0, 8, 4], 0.0),  # touching edges share no area
        ([3, 3, 1, 1], 0.0),  # corners swapped: no area
        ([2, 2, 2, 2], 0.0),
        ([float("nan"), 0, 4, 4], 0.0),
        ([0, 0, float("inf"), 4], 0.0),
    ],
)
def test_rec_one_box_by_hand(predicted, iou):
    metric = rec_accuracy.Metric()
    metric.update(_sample(**_one_box([0, 0, 4, 4])), Prediction(boxes=torch.tensor([predicted], dtype=torch.float32)))
    values = metric.compute()
    assert values["mean_IoU"] == pytest.approx(iou, abs=1e-6)
    assert values["Acc@0.5"] == float(iou >= 0.5)


def test_rec_means_over_samples_and_counts_invalid_answers_as_misses():
    metric = rec_accuracy.Metric()
    truth = _one_box([0, 0, 4, 4])
    metric.update(_sample(**truth), Prediction(boxes=torch.tensor([[0.0, 0, 4, 3]])))
    metric.update(_sample(**truth), Prediction(invalid=1))
    assert metric.compute() == {"Acc@0.5": 0.5, "mean_IoU": 0.375, "n": 2, "invalid": 1}


def test_rec_zero_area_truth_and_prediction_give_numbers():
    metric = rec_accuracy.Metric()
    metric.update(_sample(**_one_box([1, 1, 1, 1])), Prediction(boxes=torch.tensor([[1.0, 1, 1, 1]])))
    assert metric.compute()["mean_IoU"] == 0.0


def test_rec_needs_exactly_one_true_box():
    with pytest.raises(EvalError, match=r"made/test#000: rec_accuracy needs one true box \(got 0\)"):
        rec_accuracy.Metric().update(_sample(), Prediction())
    with pytest.raises(EvalError, match="has no truth"):
        rec_accuracy.Metric().update(_sample().with_(targets=None), Prediction())


def test_rec_agrees_with_pycocotools_on_random_boxes():
    from pycocotools import mask as coco

    rng = np.random.default_rng(0)
    corner, side = rng.uniform(0, 50, (60, 2, 2)), rng.uniform(1, 60, (60, 2, 2))
    wanted = [coco.iou([[*c[0], *s[0]]], [[*c[1], *s[1]]], [0])[0, 0] for c, s in zip(corner, side, strict=True)]
    metric = rec_accuracy.Metric()
    for number, (c, s) in enumerate(zip(corner, side, strict=True)):
        xyxy = torch.tensor(np.concatenate([c, c + s], axis=1))
        metric.update(_sample(number, **_one_box(xyxy[1].tolist())), Prediction(boxes=xyxy[:1]))
    assert metric.rows == pytest.approx(wanted, abs=1e-6)


# ---- seg_iou ----


def test_seg_by_hand():
    metric = seg_iou.Metric()
    # I, U: 8, 16 (IoU .5) and 60, 80 (IoU .75)
    pairs = [
        (_block(slice(0, 4), slice(0, 4)), _block(slice(0, 2), slice(0, 4))),
        (_block(slice(0, 8), slice(0, 10)), _block(slice(0, 6), slice(0, 10))),
    ]
    for number, (wanted, given) in enumerate(pairs):
        metric.update(_mask_sample(wanted, number), Prediction(masks=(masks.encode(given),)))
    values = metric.compute()
    assert values["cIoU"] == 68 / 96
    assert values["gIoU"] == 0.625
    assert (values["Pr@0.5"], values["Pr@0.7"], values["Pr@0.9"]) == (1.0, 0.5, 0.0)
    assert (values["n"], values["invalid"]) == (2, 0)


def test_seg_empty_cases():
    """Empty-empty is 1 for gIoU and adds nothing to cIoU; one empty side is 0."""
    block, empty = _block(slice(0, 2), slice(0, 2)), np.zeros(SIZE, dtype=bool)
    metric = seg_iou.Metric()
    metric.update(_mask_sample(empty), Prediction())
    assert metric.compute()["gIoU"] == metric.compute()["cIoU"] == metric.compute()["boundary_IoU"] == 1.0
    metric.update(_mask_sample(block, 1), Prediction(masks=(), invalid=1))
    metric.update(_mask_sample(empty, 2), Prediction(masks=(masks.encode(block),)))
    values = metric.compute()
    assert values["gIoU"] == pytest.approx(1 / 3)
    assert values["cIoU"] == 0.0
    assert values["invalid"] == 1


@pytest.mark.parametrize("options", [{}, {"best_of": "image"}])
@pytest.mark.parametrize("given", [None, (), (np.zeros(SIZE, dtype=bool),)])
def test_seg_unreadable_answers_never_score(given, options):
    """Nothing to find, and an answer that cannot be read: a miss, beside one that says so rightly."""
    empty = np.zeros(SIZE, dtype=bool)
    said = Prediction(masks=None if given is None else tuple(masks.encode(g) for g in given), invalid=1)
    metric = seg_iou.Metric(**options)
    metric.update(_mask_sample(empty).with_(image_id="a"), said)
    shares = {k: v for k, v in metric.compute().items() if not k.startswith("n") and k != "invalid"}
    assert set(shares.values()) == {0.0} and len(shares) == 6
    metric.update(_mask_sample(empty, 1).with_(image_id="b"), Prediction())
    shares = {k: v for k, v in metric.compute().items() if not k.startswith("n") and k != "invalid"}
    assert set(shares.values()) == {0.5}
    # An IoU of 1/2 in another image: of the pixels nothing changes, of the samples half are right.
    whole, half = _block(slice(0, 4), slice(0, 4)), _block(slice(0, 2), slice(0, 4))
    metric.update(_mask_sample(whole, 2).with_(image_id="c"), Prediction(masks=(masks.encode(half),)))
    prefix = "best_of_" if options else ""
    values = metric.compute()
    assert (values[f"{prefix}cIoU"], values[f"{prefix}gIoU"]) == (0.5, 0.5)


def test_seg_ignored_pixels_are_in_neither_mask():
    wanted, given = _block(slice(0, 4), slice(0, 4)), _block(slice(0, 4), slice(2, 6))
    ignore = masks.encode(_block(slice(0, 8), slice(4, 10)))
    metric = seg_iou.Metric()
    metric.update(_mask_sample(wanted, ignore=ignore), Prediction(masks=(masks.encode(given),)))
    assert metric.compute()["cIoU"] == 8 / 16


def test_seg_union_of_several_masks():
    left, right = _block(slice(0, 8), slice(0, 5)), _block(slice(0, 8), slice(5, 10))
    boxes, labels = torch.zeros(2, 4), torch.zeros(2, dtype=torch.long)
    sample = _sample(boxes=boxes, labels=labels, masks=(masks.encode(left), masks.encode(right)))
    metric = seg_iou.Metric()
    metric.update(sample, Prediction(masks=(masks.encode(left | right),)))
    assert metric.compute()["gIoU"] == 1.0


def test_seg_boundary_by_hand():
    """Band of width 1 of a 4x4 square is its 12 rim pixels; the square moved right by one shares 6 of 18."""
    wanted, given = _block(slice(2, 6), slice(2, 6)), _block(slice(2, 6), slice(3, 7))
    metric = seg_iou.Metric(boundary_ratio=1e-9)
    metric.update(_mask_sample(wanted), Prediction(masks=(masks.encode(given),)))
    assert metric.compute()["boundary_IoU"] == 6 / 18


def test_seg_boundary_leaves_out_the_ignored_region_without_a_new_contour():
    """As before, and columns up to 2 and from 6 on are ignored: 6 of 18 - 4 - 4, column 5 being no rim of either."""
    wanted, given = _block(slice(2, 6), slice(2, 6)), _block(slice(2, 6), slice(3, 7))
    ignored = _block(slice(None), slice(0, 3)) | _block(slice(None), slice(6, None))
    metric = seg_iou.Metric(boundary_ratio=1e-9)
    metric.update(_mask_sample(wanted, ignore=masks.encode(ignored)), Prediction(masks=(masks.encode(given),)))
    assert metric.compute()["boundary_IoU"] == 6 / 10


@pytest.mark.parametrize("size", [(120, 160), (90, 160)])  # diagonals 200 and 183.6, d = 4 and round(3.67) = 4
def test_seg_boundary_against_scipy_erosion(size):
    """Band = mask minus its erosion by a (2d+1)^2 square, outside counting as empty; d = 2 % of the diagonal."""
    from scipy import ndimage

    rng = np.random.default_rng(1)
    y, x = np.mgrid[: size[0], : size[1]]
    wanted = (y - 60) ** 2 / 40**2 + (x - 80) ** 2 / 60**2 < 1
    given = (y - 64) ** 2 / 44**2 + (x - 72) ** 2 / 56**2 < 1
    given[:20] |= rng.random((20, size[1])) < 0.5
    square = np.ones((9, 9), dtype=bool)
    bands = [m & ~ndimage.binary_erosion(m, square, border_value=0) for m in (wanted, given)]
    metric = seg_iou.Metric()
    metric.update(_mask_sample(wanted), Prediction(masks=(masks.encode(given),)))
    assert metric.compute()["boundary_IoU"] == (bands[0] & bands[1]).sum() / (bands[0] | bands[1]).sum()


def test_seg_agrees_with_lisa_formula_on_random_masks():
    """Per class histograms as LISA's ``intersectionAndUnionGPU`` (K=2) takes them, 255 ignored."""
    rng = np.random.default_rng(2)
    inter, union, acc = np.zeros(2), np.zeros(2), np.zeros(2)
    metric = seg_iou.Metric()
    for number in range(20):
        wanted, given = rng.random(SIZE) < 0.4, rng.random(SIZE) < 0.4
        ignored = rng.random(SIZE) < 0.1
        if number % 5 == 0:
            wanted[:], given[:] = False, False
        target, output = np.where(ignored, 255, wanted.astype(int)), np.where(ignored, 255, given.astype(int))
        hits = np.bincount(output[(output == target) & (target != 255)].ravel(), minlength=2)[:2]
        total = np.bincount(output[output != 255].ravel(), minlength=2) + np.bincount(
            target[target != 255].ravel(), minlength=2
        )
        areas = total[:2] - hits
        inter, union = inter + hits, union + areas
        acc += np.where(areas == 0, 1.0, hits / (areas + 1e-5))
        metric.update(
            _mask_sample(wanted, number, ignore=masks.encode(ignored)), Prediction(masks=(masks.encode(given),))
        )
    assert metric.compute()["cIoU"] == pytest.approx(inter[1] / union[1], abs=1e-12)
    assert metric.compute()["gIoU"] == pytest.approx(acc[1] / 20, abs=1e-5)  # LISA's 1e-5 in the denominator


def test_seg_refuses_other_sizes_and_missing_truth():
    sample = _mask_sample(_block(slice(0, 2), slice(0, 2)))
    with pytest.raises(EvalError, match=r"made/test#000: mask is \(4, 4\) but the image is \(8, 10\)"):
        seg_iou.Metric().update(sample, Prediction(masks=(masks.encode(np.ones((4, 4), dtype=bool)),)))
    with pytest.raises(EvalError, match="seg_iou needs true masks"):
        seg_iou.Metric().update(_sample(), Prediction())


# ---- exact_match ----


@pytest.mark.parametrize(
    ("given", "wanted", "right"),
    [
        ("Red", "red", True),
        ("the red  circle.", " a Red circle", True),
        ("\uff12", "2", True),  # full-width digit
        ("red", "blue", False),
        ("red circle", "circle red", False),
        ("", "red", False),
        ("", "", True),
        ("A", "a.", True),
        ("B", "A", False),
        ("", "A", False),
        ("0.5", "05", False),
        ("-3", "3", False),
        ("C#", "C++", False),
    ],
)
def test_exact_match_by_hand(given, wanted, right):
    metric = exact_match.Metric()
    metric.update(_sample(text=wanted), Prediction(text=given))
    assert metric.compute() == {"exact_match": float(right), "n": 1, "invalid": 0}


@pytest.mark.parametrize(("given", "right"), [("A Cup", True), ("mug", True), ("the glass", True), ("cup mug", False)])
def test_exact_match_takes_any_of_several_true_texts(given, right):
    sample = _sample(text="cup").with_(targets=Targets(text="cup", references=("cup", "mug", "glass")))
    metric = exact_match.Metric()
    metric.update(sample, Prediction(text=given))
    assert metric.compute()["exact_match"] == float(right)


def test_merge_refuses_another_metric():
    with pytest.raises(EvalError, match="cannot merge"):
        rec_accuracy.Metric().merge(exact_match.Metric())
