"""mIoU and Dice against hand-worked cases and scikit-learn, also on ADE20K's and DRIVE's own files."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn import metrics as sk

from ufo_tune.core import masks
from ufo_tune.core.types import Prediction, Sample, Targets
from ufo_tune.datasets import ade20k, drive
from ufo_tune.datasets._label_maps import class_numbers, read_values, to_numbers
from ufo_tune.errors import EvalError
from ufo_tune.metrics import dice, miou

CLASSES = ("sky", "sea", "sand", "ship")
SIZE = (6, 10)
REAL = Path(os.environ.get("UFO_TUNE_REAL_DATA") or "nowhere")
real = pytest.mark.skipif(not REAL.is_dir(), reason="UFO_TUNE_REAL_DATA names no folder of real samples")


def _sample(number: int = 0, size: tuple[int, int] = SIZE, classes: tuple[str, ...] = CLASSES, **truth) -> Sample:
    return Sample(None, size, "any", classes=classes, targets=Targets(**truth), source=f"made/test#{number:03d}")


def _map(*rows: tuple[int, int]) -> np.ndarray:
    """A label map of ten columns: (number, how many rows)."""
    return np.repeat([number for number, _ in rows], [count for _, count in rows])[:, None].repeat(10, 1).astype("i2")


def _masked(pixels: np.ndarray, **more) -> Sample:
    one = {"boxes": torch.zeros(1, 4), "labels": torch.zeros(1, dtype=torch.long), "masks": (masks.encode(pixels),)}
    return _sample(0, pixels.shape, (), **one, **more)


def _random_map(rng: np.random.Generator, size: tuple[int, int], low: int, high: int) -> np.ndarray:
    return rng.integers(low, high, size).astype(np.int16)


# ---- miou ----


def test_miou_by_hand():
    """Rows of ten pixels: sky 2 true, of which 1 is said to be sea; sea 3; one ignored row; nobody says sand."""
    metric = miou.Metric(per_class=True)
    truth, said = _map((0, 2), (1, 3), (-1, 1)), _map((0, 1), (1, 4), (3, 1))
    metric.update(_sample(label_map=truth), Prediction(label_map=said))
    values = metric.compute()
    assert values == {
        "mIoU": (1 / 2 + 3 / 4) / 2,
        "mAcc": (1 / 2 + 1) / 2,
        "aAcc": 4 / 5,
        "n_classes": 2,  # ship was said on an ignored row only
        "IoU/sea": 3 / 4,
        "IoU/sky": 1 / 2,
        "n": 1,
        "invalid": 0,
    }


def test_miou_of_a_class_that_is_said_but_nowhere_true():
    """IoU 0 counts in mIoU; it has no accuracy (mmseg: 0 / 0 is left out of the mean)."""
    metric = miou.Metric()
    metric.update(_sample(label_map=_map((0, 6))), Prediction(label_map=_map((0, 3), (2, 3))))
    values = metric.compute()
    assert (values["mIoU"], values["mAcc"], values["n_classes"]) == (0.25, 0.5, 2)


def test_miou_pixels_without_an_answer_are_wrong_for_their_class_only():
    metric = miou.Metric(per_class=True)
    metric.update(_sample(label_map=_map((0, 3), (1, 3))), Prediction(label_map=_map((0, 3), (-1, 3))))
    values = metric.compute()
    assert (values["IoU/sky"], values["IoU/sea"], values["aAcc"]) == (1.0, 0.0, 0.5)
    assert (values["mIoU"], values["mAcc"]) == (0.5, 0.5)


def test_miou_unreadable_answer_is_wrong_everywhere():
    metric = miou.Metric()
    metric.update(_sample(label_map=_map((0, 3), (1, 3))), Prediction(invalid=1))
    assert metric.compute() == {"mIoU": 0.0, "mAcc": 0.0, "aAcc": 0.0, "n_classes": 2, "n": 1, "invalid": 1}


def test_miou_sums_over_samples_before_dividing_and_matches_classes_by_name():
    """Sky: 1 of 2 rows, then 6 of 6 under another number: 7 of 8, not the mean of 1/2 and 1."""
    metric = miou.Metric(per_class=True)
    metric.update(_sample(label_map=_map((0, 2), (-1, 4))), Prediction(label_map=_map((0, 1), (-1, 5))))
    metric.update(_sample(1, classes=("cliff", "sky"), label_map=_map((1, 6))), Prediction(label_map=_map((1, 6))))
    assert metric.compute()["IoU/sky"] == 7 / 8


def test_miou_leaves_out_the_ignored_region():
    ignored = np.zeros(SIZE, dtype=bool)
    ignored[3:] = True
    metric = miou.Metric()
    sample = _sample(label_map=_map((0, 6)), ignore=masks.encode(ignored))
    metric.update(sample, Prediction(label_map=_map((0, 3), (1, 3))))
    assert metric.compute()["mIoU"] == 1.0


def test_miou_of_a_truth_without_a_class_is_a_number():
    metric = miou.Metric()
    metric.update(_sample(label_map=_map((-1, 6))), Prediction(label_map=_map((0, 6))))
    assert metric.compute() == {"mIoU": 0.0, "mAcc": 0.0, "aAcc": 0.0, "n_classes": 0, "n": 1, "invalid": 0}


def test_miou_agrees_with_scikit_learn():
    rng = np.random.default_rng(0)
    metric, pixels = miou.Metric(), []
    for number in range(8):
        truth, said = _random_map(rng, (30, 40), -1, 3), _random_map(rng, (30, 40), -1, 4)
        said = np.where(rng.random((30, 40)) < 0.5, truth, said).astype(np.int16)
        metric.update(_sample(number, (30, 40), label_map=truth), Prediction(label_map=said))
        pixels.append(np.stack([truth.ravel(), said.ravel()]))
    truth, said = np.concatenate(pixels, axis=1)
    truth, said = truth[truth >= 0], said[truth >= 0]
    values = metric.compute()
    assert values["mIoU"] == pytest.approx(sk.jaccard_score(truth, said, labels=range(4), average="macro"), abs=1e-12)
    assert values["mAcc"] == pytest.approx(sk.recall_score(truth, said, labels=range(3), average="macro"), abs=1e-12)
    assert values["aAcc"] == sk.accuracy_score(truth, said)


def test_miou_refuses_what_it_cannot_count():
    good = Prediction(label_map=_map((0, 6)))
    with pytest.raises(EvalError, match="made/test#000: the truth has no label map"):
        miou.Metric().update(_sample(), good)
    with pytest.raises(EvalError, match="the prediction has no label map .* check the protocol's task"):
        miou.Metric().update(_sample(label_map=_map((0, 6))), Prediction())
    with pytest.raises(EvalError, match=r"predicted label map is \(3, 10\) but the image is \(6, 10\)"):
        miou.Metric().update(_sample(label_map=_map((0, 6))), Prediction(label_map=_map((0, 3))))
    with pytest.raises(EvalError, match=r"predicted label map has a number that is no class \(got 0 to 4\)"):
        miou.Metric().update(_sample(label_map=_map((0, 6))), Prediction(label_map=_map((0, 3), (4, 3))))
    with pytest.raises(EvalError, match="true label map has a number that is no class"):
        miou.Metric().update(_sample(label_map=_map((-2, 6))), good)
    with pytest.raises(EvalError, match="two classes share a name"):
        miou.Metric().update(_sample(classes=("a", "a"), label_map=_map((0, 6))), good)


@real
def test_miou_of_ade20ks_own_sample_predictions():
    """The benchmark's three sample images with the predictions beside them, against scikit-learn's confusion matrix."""
    root = REAL / "ade20k_sceneparsing150" / "sampleData"
    samples = ade20k.load(
        str(root), "sample", task="semantic_segmentation", image_dir="images", label_dir="annotations"
    )
    numbers = class_numbers(range(1, 151), ignored=[0])
    metric, table = miou.Metric(), np.zeros((151, 151), dtype=np.int64)
    for sample in samples:
        file = root / "predictions" / f"{sample.image_id}.png"
        said = to_numbers(read_values(file), numbers, str(file))
        metric.update(sample, Prediction(label_map=said))
        table += sk.confusion_matrix(sample.targets.label_map.ravel(), said.ravel(), labels=[-1, *range(150)])
    counted = table[1:]  # rows of true classes
    right, true, given = counted[:, 1:].diagonal(), counted.sum(1), counted[:, 1:].sum(0)
    with np.errstate(invalid="ignore"):
        ious, accuracies = right / (true + given - right), right / true
    values = metric.compute()
    assert values["n"] == 3
    assert values["mIoU"] == pytest.approx(np.nanmean(ious), abs=1e-12)
    assert values["mAcc"] == pytest.approx(np.nanmean(accuracies), abs=1e-12)
    assert values["aAcc"] == pytest.approx(right.sum() / true.sum(), abs=1e-12)
    assert values["n_classes"] == np.isfinite(ious).sum() > 10


# ---- dice ----


def _rows(*numbers: int) -> np.ndarray:
    pixels = np.zeros(SIZE, dtype=bool)
    pixels[list(numbers)] = True
    return pixels


def _dice(*pairs: tuple[Sample, np.ndarray | None]) -> dict[str, float]:
    metric = dice.Metric()
    for sample, pixels in pairs:
        metric.update(sample, Prediction() if pixels is None else Prediction(masks=(masks.encode(pixels),)))
    return metric.compute()


def test_dice_by_hand():
    """In rows: TP 1, FP 1, FN 1, TN 3; then TP 2, FP 0, FN 0, TN 4."""
    values = _dice((_masked(_rows(0, 1)), _rows(1, 2)), (_masked(_rows(4, 5)), _rows(4, 5)))
    assert values["Dice"] == (2 / 4 + 1) / 2
    assert values["F1"] == 6 / 8
    assert values["accuracy"] == 10 / 12
    assert values["sensitivity"] == 3 / 4
    assert values["specificity"] == 7 / 8


def test_dice_counts_inside_the_field_of_view_only():
    outside = masks.encode(_rows(4, 5))
    values = _dice((_masked(_rows(0, 4), ignore=outside), _rows(0, 5)))
    assert set(values.values()) == {1.0, 0}  # and 0 invalid


def test_dice_of_empty_masks():
    empty = np.zeros(SIZE, dtype=bool)
    both = _dice((_masked(empty), None))
    assert (both["Dice"], both["F1"], both["sensitivity"], both["specificity"]) == (1.0, 1.0, 1.0, 1.0)
    missed = _dice((_masked(_rows(0)), None))
    assert (missed["Dice"], missed["sensitivity"], missed["specificity"], missed["accuracy"]) == (0.0, 0.0, 1.0, 5 / 6)
    invented = _dice((_masked(empty), _rows(0)))
    assert (invented["Dice"], invented["sensitivity"], invented["specificity"]) == (0.0, 1.0, 5 / 6)
    whole = _dice((_masked(_rows(*range(6))), _rows(*range(6))))
    assert whole["specificity"] == 1.0


@pytest.mark.parametrize(("true", "said"), [((), (0,)), ((0,), ())])
def test_f1_pools_pixels_beside_a_right_empty_answer(true, said):
    """2 TP / (2 TP + FP + FN) with one of FP and FN, and no TP: 0. Dice means over samples: 0 and 1."""
    values = _dice((_masked(_rows(*true)), _rows(*said)), (_masked(_rows()), None))
    assert (values["F1"], values["Dice"]) == (0.0, 0.5)


@pytest.mark.parametrize("found", [(0,), (0, 1, 2)])
def test_f1_is_no_mean_where_as_much_is_wrong_as_right(found):
    """TP 1 and FN 1, or TP 2 and FP 1, beside an empty truth that is painted over: FP 1 more."""
    values = _dice((_masked(_rows(0, 1)), _rows(*found)), (_masked(_rows()), _rows(5)))
    hit, off = min(len(found), 2), abs(len(found) - 2) + 1
    assert values["F1"] == 2 * hit / (2 * hit + off) != values["Dice"]


def test_dice_of_no_samples():
    assert set(dice.Metric().compute().values()) == {0}


@pytest.mark.parametrize("given", [None, (masks.encode(np.zeros(SIZE, dtype=bool)),)])
def test_dice_unreadable_answer_is_a_miss_where_nothing_is_true(given):
    empty = np.zeros(SIZE, dtype=bool)
    metric = dice.Metric()
    metric.update(_masked(empty), Prediction(masks=given, invalid=1))
    assert (metric.compute()["Dice"], metric.compute()["F1"]) == (0.0, 0.0)
    metric.update(_masked(empty), Prediction())
    assert (metric.compute()["Dice"], metric.compute()["F1"]) == (0.5, 0.5)
    metric.update(_masked(_rows(0, 1)), Prediction(masks=(masks.encode(_rows(1, 2)),)))  # TP 1, FP 1, FN 1
    assert (metric.compute()["Dice"], metric.compute()["F1"]) == (pytest.approx(1.5 / 3), 0.5)


def test_dice_joins_all_masks_of_a_sample():
    two = {"boxes": torch.zeros(2, 4), "labels": torch.zeros(2, dtype=torch.long)}
    sample = _sample(0, SIZE, (), **two, masks=masks.encode_many(np.stack([_rows(0, 1), _rows(1, 2)])))
    metric = dice.Metric()
    metric.update(sample, Prediction(masks=masks.encode_many(np.stack([_rows(2), _rows(0, 1)]))))
    assert metric.compute()["Dice"] == 1.0


def test_dice_agrees_with_scikit_learn_and_scipy():
    from scipy.spatial import distance

    rng = np.random.default_rng(1)
    pairs = [(rng.random(SIZE) < 0.3, rng.random(SIZE) < 0.4) for _ in range(12)]
    values = _dice(*((_masked(truth), said) for truth, said in pairs))
    truth, said = (np.concatenate([p[k].ravel() for p in pairs]) for k in (0, 1))
    each = [1 - distance.dice(t.ravel(), s.ravel()) for t, s in pairs]
    assert values["Dice"] == pytest.approx(np.mean(each), abs=1e-12)
    assert values["F1"] == pytest.approx(sk.f1_score(truth, said), abs=1e-12)
    assert values["accuracy"] == pytest.approx(sk.accuracy_score(truth, said), abs=1e-12)
    assert values["sensitivity"] == pytest.approx(sk.recall_score(truth, said), abs=1e-12)
    assert values["specificity"] == pytest.approx(sk.recall_score(~truth, ~said), abs=1e-12)


def test_dice_refuses_missing_truth_and_other_sizes():
    with pytest.raises(EvalError, match="dice needs true masks"):
        dice.Metric().update(_sample(), Prediction())
    with pytest.raises(EvalError, match=r"mask is \(2, 2\) but the image is \(6, 10\)"):
        dice.Metric().update(_masked(_rows(0)), Prediction(masks=(masks.encode(np.ones((2, 2), dtype=bool)),)))


@real
def test_dice_of_drive_with_everything_painted():
    """Of a share p of vessel pixels in view, painting all gives precision p and recall 1: Dice 2 p / (1 + p)."""
    samples = drive.load(str(REAL / "drive"), "training", task="res")
    shares, metric = [], dice.Metric()
    for sample in samples:
        view = ~masks.decode(sample.targets.ignore)
        shares.append(masks.decode(sample.targets.masks[0])[view].mean())
        metric.update(sample, Prediction(masks=(masks.encode(np.ones(sample.size, dtype=bool)),)))
    values = metric.compute()
    assert values["n"] == 20
    assert values["Dice"] == pytest.approx(np.mean([2 * p / (1 + p) for p in shares]), abs=1e-12)
    assert 0.2 < values["Dice"] < 0.25  # 0.232 on the test half
    assert (values["sensitivity"], values["specificity"]) == (1.0, 0.0)
