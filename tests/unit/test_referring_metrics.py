"""gRefCOCO's measures, the best of an image, and LISA's protocol against hand-worked and published formulas."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ufo_tune.core import masks
from ufo_tune.core.types import Prediction, Sample, Targets
from ufo_tune.errors import ConfigError, EvalError
from ufo_tune.metrics import gres_iou, rec_accuracy, seg_iou

SIZE = (10, 20)


def _strip(start: int, stop: int) -> np.ndarray:
    """Rows of twenty pixels."""
    pixels = np.zeros(SIZE, dtype=bool)
    pixels[start:stop] = True
    return pixels


NOTHING = _strip(0, 0)


def _true(*pixels: np.ndarray, image: str = "", ignore: np.ndarray | None = None, number: int = 0) -> Sample:
    targets = Targets(
        boxes=torch.zeros(len(pixels), 4),
        masks=tuple(masks.encode(p) for p in pixels),
        labels=torch.zeros(len(pixels), dtype=torch.long),
        ignore=None if ignore is None else masks.encode(ignore),
    )
    return Sample(None, SIZE, "res", targets=targets, image_id=image, source=f"made/test#{number:03d}")


def _said(*pixels: np.ndarray, invalid: int = 0) -> Prediction:
    return Prediction(masks=tuple(masks.encode(p) for p in pixels), invalid=invalid)


def _gres(*pairs: tuple[Sample, Prediction], **options) -> dict[str, float]:
    metric = gres_iou.Metric(**options)
    for pair in pairs:
        metric.update(*pair)
    return metric.compute()


# ---- gres_iou ----


def test_gres_by_hand():
    """IoU 1/2; a right and a wrong answer where nothing is; "none" where 2 rows are."""
    values = _gres(
        (_true(_strip(0, 4)), _said(_strip(0, 2))),
        (_true(), _said()),
        (_true(), _said(_strip(0, 3))),
        (_true(_strip(0, 2)), _said()),
    )
    assert values["gIoU"] == (0.5 + 1 + 0 + 0) / 4
    assert values["cIoU"] == 2 / (4 + 0 + 3 + 2)
    assert (values["N_acc"], values["T_acc"]) == (0.5, 0.5)
    assert (values["Pr@0.7"], values["Pr@0.8"], values["Pr@0.9"]) == (0.0, 0.0, 0.0)
    assert (values["n_no_target"], values["n"], values["invalid"]) == (2, 4, 0)


def test_gres_precision_is_over_samples_with_a_target():
    values = _gres((_true(_strip(0, 10)), _said(_strip(0, 8))), (_true(), _said()), (_true(), _said()))
    assert (values["Pr@0.7"], values["Pr@0.8"], values["Pr@0.9"]) == (1.0, 1.0, 0.0)


def test_gres_several_targets_are_one_mask_and_an_empty_mask_is_none():
    values = _gres(
        (_true(_strip(0, 2), _strip(4, 6)), _said(_strip(4, 6), _strip(0, 2))), (_true(NOTHING), _said(NOTHING))
    )
    assert (values["gIoU"], values["N_acc"], values["n_no_target"]) == (1.0, 1.0, 1)


@pytest.mark.parametrize("prediction", [Prediction(invalid=1), _said(invalid=1), _said(NOTHING, invalid=1)])
def test_gres_unreadable_answer_is_no_right_none(prediction):
    """Also with the empty mask that task ``res`` gives; neither "none" nor a mask."""
    values = _gres((_true(), prediction), (_true(_strip(0, 2)), prediction))
    assert (values["gIoU"], values["N_acc"], values["T_acc"], values["cIoU"]) == (0.0, 0.0, 0.0, 0.0)
    assert values["invalid"] == 2


def test_gres_small_masks_can_stand_for_none():
    """One row is 20 pixels: below 21 it is none, on both sides."""
    pairs = [(_true(), _said(_strip(0, 1))), (_true(_strip(0, 1)), _said(_strip(0, 1)))]
    assert _gres(*pairs)["N_acc"] == 0.0
    assert _gres(*pairs, min_pixels=20)["N_acc"] == 0.0
    cleared = _gres(*pairs, min_pixels=21)
    assert (cleared["N_acc"], cleared["T_acc"], cleared["gIoU"], cleared["cIoU"]) == (1.0, 0.0, 0.5, 0.0)


def test_gres_leaves_out_what_no_sample_can_show():
    assert "N_acc" not in _gres((_true(_strip(0, 1)), _said(_strip(0, 1))))
    only = _gres((_true(), _said()))
    assert {"T_acc", "Pr@0.7"}.isdisjoint(only)
    assert (only["gIoU"], only["cIoU"], only["N_acc"]) == (1.0, 1.0, 1.0)


def test_gres_leaves_out_the_ignored_region():
    """What is left of truth and prediction outside of it is nothing, so there is no target and "none" is right."""
    values = _gres((_true(_strip(0, 2), ignore=_strip(0, 5)), _said(_strip(1, 5))))
    assert (values["gIoU"], values["n_no_target"]) == (1.0, 1)


def test_gres_agrees_with_the_published_accumulation():
    """The authors' running sums over random samples; N-acc and T-acc by the paper's TP, FN, TN and FP."""
    rng = np.random.default_rng(0)
    metric, ious, inter, union = gres_iou.Metric(), [], 0, 0
    tp = fn = tn = fp = 0
    for number in range(60):
        true = rng.random(SIZE) < rng.choice([0, 0.5])
        said = (true if rng.random() < 0.5 else rng.random(SIZE) < 0.6) & (rng.random() < 0.7)
        metric.update(_true(true, number=number), _said(said))
        both, either = np.logical_and(true, said).sum(), np.logical_or(true, said).sum()
        if not true.any():
            tp, fn = tp + (not said.any()), fn + bool(said.any())
            ious.append(float(not said.any()))
            union += either if said.any() else 0
        else:
            fp, tn = fp + (not said.any()), tn + bool(said.any())
            ious.append(both / either)
            inter, union = inter + both, union + either
    values = metric.compute()
    assert min(tp, fn, tn, fp) > 0
    assert values["gIoU"] == pytest.approx(np.mean(ious), abs=1e-12)
    assert values["cIoU"] == pytest.approx(inter / union, abs=1e-12)
    assert values["N_acc"] == pytest.approx(tp / (tp + fn), abs=1e-12)
    assert values["T_acc"] == pytest.approx(tn / (tn + fp), abs=1e-12)


def test_gres_refuses_missing_masks_and_bad_options():
    with pytest.raises(EvalError, match="gres_iou needs true masks"):
        gres_iou.Metric().update(Sample(None, SIZE, "res", targets=Targets()), _said())
    with pytest.raises(ConfigError, match="min_pixels: is negative"):
        gres_iou.Metric(min_pixels=-1)


# ---- seg_iou: the best of each image ----


def _best(*cases: tuple[str, np.ndarray, np.ndarray]) -> dict[str, float]:
    metric = seg_iou.Metric(best_of="image")
    for number, (image, true, said) in enumerate(cases):
        metric.update(_true(true, image=image, number=number), _said(said))
    return metric.compute()


def test_best_of_image_by_hand():
    """Image a: IoU 1/4, 3/4 and 1/2 of its three wordings; image b: 1/2. Only 3/4 and 1/2 count."""
    truth = _strip(0, 4)
    cases = [
        ("a", truth, _strip(0, 1)),
        ("b", truth, _strip(0, 2)),
        ("a", truth, _strip(0, 3)),
        ("a", truth, _strip(0, 2)),
    ]
    values = _best(*cases)
    assert values["best_of_gIoU"] == (3 / 4 + 1 / 2) / 2
    assert values["best_of_cIoU"] == (3 + 2) / (4 + 4)
    assert (values["best_of_Pr@0.5"], values["best_of_Pr@0.7"]) == (1.0, 0.5)
    assert (values["n_images"], values["n"]) == (2, 4)
    assert values == _best(*cases[::-1])


def test_best_of_image_never_bears_the_plain_names():
    plain = set(seg_iou.Metric().compute()) - {"n", "invalid"}
    assert {"cIoU", "gIoU", "Pr@0.5", "Pr@0.7", "Pr@0.9", "boundary_IoU"} == plain
    labelled = set(_best(("a", _strip(0, 1), _strip(0, 1)))) - {"n", "invalid", "n_images"}
    assert labelled == {f"best_of_{name}" for name in plain}
    assert set(seg_iou.Metric(best_of="image").compute()) >= labelled


def test_best_of_image_of_equal_ious_does_not_depend_on_the_order():
    """Both 1/2, of other areas: cIoU has to choose the same one either way."""
    cases = [("a", _strip(0, 2), _strip(0, 1)), ("a", _strip(0, 8), _strip(0, 4)), ("b", _strip(0, 3), _strip(0, 3))]
    assert _best(*cases) == _best(*cases[::-1]) == _best(*cases[1:], cases[0])
    assert _best(*cases)["best_of_cIoU"] == (4 + 3) / (8 + 3)


def test_best_of_image_is_the_highest_iou_and_not_the_largest_overlap():
    """Half of eight rows, and two rows whole: the second, whatever the first has in common with its truth."""
    values = _best(("a", _strip(0, 8), _strip(0, 4)), ("a", _strip(0, 2), _strip(0, 2)))
    assert (values["best_of_gIoU"], values["best_of_cIoU"]) == (1.0, 1.0)


def test_best_of_image_needs_image_ids():
    with pytest.raises(EvalError, match="made/test#000: best_of image needs image ids"):
        _best(("", _strip(0, 1), _strip(0, 1)))
    with pytest.raises(ConfigError, match=r"seg_iou.best_of: no such choice \(got 'phrase'\)"):
        seg_iou.Metric(best_of="phrase")


# ---- seg_iou: LISA's protocol ----


@pytest.mark.parametrize(
    ("true", "said", "ignore", "iou"),
    [
        ((0, 4), (2, 6), (4, 10), 2 / 4),  # what is said inside the ignored region costs nothing
        ((0, 4), (2, 6), (2, 4), 0.0),  # the rows in common are ignored: 2 + 2 left, none shared
        ((0, 4), (4, 8), (4, 10), 0.0),  # all that was said is ignored: an empty answer
        ((0, 4), (0, 4), (0, 2), 1.0),
        ((0, 4), (0, 6), (0, 6), 1.0),  # nothing is left of either: LISA's "no-object target" counts 1
        ((0, 0), (0, 4), (0, 4), 1.0),
        ((0, 0), (0, 4), (0, 3), 0.0),
    ],
)
def test_ignored_regions_by_hand(true, said, ignore, iou):
    metric = seg_iou.Metric()
    metric.update(_true(_strip(*true), ignore=_strip(*ignore)), _said(_strip(*said)))
    assert metric.compute()["gIoU"] == iou


def test_empty_samples_add_nothing_to_ciou():
    """IoU 1/2 beside two right empty answers: gIoU rises, cIoU does not."""
    metric = seg_iou.Metric()
    for number, (true, said) in enumerate([(_strip(0, 4), _strip(0, 2)), (NOTHING, NOTHING), (NOTHING, NOTHING)]):
        metric.update(_true(true, number=number), _said(said))
    assert (metric.compute()["cIoU"], metric.compute()["gIoU"]) == (0.5, pytest.approx(2.5 / 3))


# ---- rec_accuracy: odd boxes ----


@pytest.mark.parametrize(
    ("true", "said", "iou"),
    [
        ([0, 0, 4, 4], [[9, 9, 10, 10], [0, 0, 4, 4]], 0.0),  # the first one counts
        ([4, 4, 0, 0], [[0, 0, 4, 4]], 0.0),  # a true box without area
        ([0, 0, 4, 4], [[-4, 0, 4, 4]], 0.5),  # beyond the image: not clipped
        ([0, 0, 4, 4], [[4, 0, 0, 4]], 0.0),  # left and right swapped
        ([0, 0, 1e-3, 1e-3], [[0, 0, 1e-3, 1e-3]], 1.0),
        ([0, 0, 3e4, 3e4], [[0, 0, 3e4, 3e4]], 1.0),
        ([float("nan"), 0, 4, 4], [[0, 0, 4, 4]], 0.0),
    ],
)
def test_rec_odd_boxes(true, said, iou):
    targets = Targets(boxes=torch.tensor([true]).float(), labels=torch.zeros(1, dtype=torch.long))
    metric = rec_accuracy.Metric()
    metric.update(Sample(None, SIZE, "rec", targets=targets), Prediction(boxes=torch.tensor(said).float()))
    assert metric.compute() == {"Acc@0.5": float(iou >= 0.5), "mean_IoU": pytest.approx(iou), "n": 1, "invalid": 0}
