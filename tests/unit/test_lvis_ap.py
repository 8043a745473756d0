"""LVIS AP by hand, against COCO AP where every class is judged, and against the package ``lvis`` where it is there.

To run that: ``pip install --target DIR lvis``, then pytest with DIR on PYTHONPATH and UFO_TUNE_REAL_DATA set.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ufo_tune.config import Protocol
from ufo_tune.core import masks
from ufo_tune.core.types import Prediction, Sample, Targets
from ufo_tune.datasets import lvis as lvis_dataset
from ufo_tune.engine.sources import ask
from ufo_tune.errors import ConfigError, EvalError
from ufo_tune.metrics import coco_ap, lvis_ap

CLASSES = ("apple", "bow", "cup")
SIZE = (100, 100)
BOX = [10.0, 10, 50, 50]
ELSEWHERE = [60.0, 60, 90, 90]
REAL = Path(os.environ.get("UFO_TUNE_REAL_DATA", "")) / "lvis_val_100" / "data" / "lvis_val_100.json"


def _sample(number: int, objects: dict[str, list[float]], **more: Any) -> Sample:
    """One image with at most one object a class."""
    targets = Targets(
        boxes=torch.tensor(list(objects.values())).reshape(-1, 4),
        labels=torch.tensor([CLASSES.index(name) for name in objects], dtype=torch.long),
    )
    image = np.zeros((*SIZE, 3), np.uint8)
    return Sample(image, SIZE, "detection", classes=CLASSES, targets=targets, source=f"made/test#{number:03d}", **more)


def _found(*rows: tuple[str, list[float], float]) -> Prediction:
    names, boxes, scores = zip(*rows, strict=True) if rows else ((), (), ())
    labels = torch.tensor([CLASSES.index(name) for name in names], dtype=torch.long)
    return Prediction(torch.tensor(boxes).reshape(-1, 4), None, torch.tensor(scores), labels)


def _values(*pairs: tuple[Sample, Prediction]) -> dict[str, float]:
    metric = lvis_ap.Metric()
    for sample, prediction in pairs:
        metric.update(sample, prediction)
    return metric.compute()


@pytest.mark.parametrize(("absent", "wanted"), [((), 1.0), (("cup",), 1.0), (("apple",), 0.5), (None, 0.5)])
def test_a_false_alarm_costs_only_where_somebody_looked(absent, wanted):
    """A better-scored apple on an image without one: precision 1/2 at every recall, if it is known to be wrong."""
    hit = _sample(0, {"apple": BOX}), _found(("apple", BOX, 0.5))
    alarm = _sample(1, {}, absent=absent), _found(("apple", ELSEWHERE, 0.9))
    assert _values(hit, alarm)["AP"] == pytest.approx(wanted)


def test_where_a_class_is_not_all_marked_a_miss_is_one_and_a_false_alarm_is_none():
    found = _found(("apple", ELSEWHERE, 0.9), ("apple", BOX, 0.5))
    assert _values((_sample(0, {"apple": BOX}), found))["AP"] == pytest.approx(0.5)
    assert _values((_sample(0, {"apple": BOX}, partial=("apple",)), found))["AP"] == pytest.approx(1)
    assert _values((_sample(0, {"apple": BOX}, partial=("cup",)), found))["AP"] == pytest.approx(0.5)
    missed = _sample(0, {"apple": BOX}, partial=("apple",)), _found(("apple", ELSEWHERE, 0.9))
    assert _values(missed)["AP"] == 0


def test_where_a_class_is_not_all_marked_a_find_of_another_size_is_no_small_one():
    """The medium apple (40 x 40) is found, the small one (30 x 30) missed: nothing small was found."""
    found = _sample(0, {"apple": BOX}, partial=("apple",)), _found(("apple", BOX, 0.9))
    values = _values(found, (_sample(1, {"apple": ELSEWHERE}), _found()))
    assert (values["APs"], values["APm"]) == (0, pytest.approx(1))


def test_three_hundred_predictions_of_an_image_count_whatever_their_class():
    """The hit comes last by score, behind predictions of a class that nobody judges."""
    sample = _sample(0, {"apple": BOX}, absent=())
    for others, wanted in ((299, 1.0), (300, 0.0)):
        found = _found(("apple", BOX, 0.1), *[("cup", ELSEWHERE, 0.9)] * others)
        assert _values((sample, found))["AP"] == pytest.approx(wanted)


@pytest.mark.parametrize("name", ["lvis_boxes", "lvis_masks"])
def test_the_protocols_give_as_many_predictions_as_count(name):
    """LVIS counts 300 an image; the tasks give 100 unless they are told, as COCO does."""
    protocol = Protocol.load(name, keep_unset=True)
    assert ask(protocol.task, "", protocol.task_options).decode_options["max_per_image"] == 300


def test_groups_have_values_of_their_own():
    groups = {"apple": "r", "bow": "c", "cup": "c", "other": "f"}
    sample = _sample(0, {"apple": BOX, "bow": BOX, "cup": ELSEWHERE}, groups=groups)
    values = _values((sample, _found(("apple", BOX, 0.9), ("bow", BOX, 0.9))))
    assert values == pytest.approx(
        {
            **{"AP": 2 / 3, "AP50": 2 / 3, "AP75": 2 / 3, "APs": 0, "APm": 1, "APl": -1},  # the cup is small: 30 x 30
            **{"APr": 1, "APc": 1 / 2, "APf": -1, "n": 1, "invalid": 0},
        }
    )


def test_curve_is_the_mean_over_classes_at_half_iou():
    """Of one class all is found, of the other half: precision 1 up to recall 1/2, then the mean of 1 and 0."""
    metric = lvis_ap.Metric()
    assert metric.curves() == {}
    metric.update(_sample(0, {"apple": BOX, "bow": BOX}), _found(("apple", BOX, 0.9), ("bow", BOX, 0.9)))
    metric.update(_sample(1, {"bow": BOX}), _found())
    ((x, y),) = metric.curves().values()
    np.testing.assert_allclose(x, np.arange(101) / 100, atol=1e-12)
    np.testing.assert_allclose(y, np.where(np.arange(101) <= 50, 1, 0.5))


def test_bad_input_names_its_place():
    with pytest.raises(ConfigError, match=r"metrics/lvis_ap.iou_type: no such type \(got 'keypoints'\)"):
        lvis_ap.Metric(iou_type="keypoints")
    with pytest.raises(EvalError, match="made/test#000: the truth has no masks"):
        lvis_ap.Metric(iou_type="segm").update(_sample(0, {"apple": BOX}), Prediction())


def _random_pair(rng: np.random.Generator, number: int) -> tuple[Sample, Prediction]:
    corner, side = rng.integers(0, 50, (5, 2)), rng.integers(4, 50, (5, 2))
    boxes = torch.tensor(np.concatenate([corner, corner + side], 1)).float()
    labels = torch.tensor(rng.integers(0, 3, 5))
    targets = Targets(boxes, labels=labels)
    moved = boxes + torch.tensor(rng.normal(0, 2, (5, 4))).float()
    given = torch.cat([moved, boxes.flip(0)])
    names = torch.tensor(np.where(rng.random(10) < 0.8, torch.cat([labels, labels.flip(0)]), 0))
    image = np.zeros((*SIZE, 3), np.uint8)
    sample = Sample(image, SIZE, "detection", classes=CLASSES, targets=targets, source=f"made/test#{number:03d}")
    return sample, Prediction(given, None, torch.tensor(rng.random(10)), names)


def test_equals_coco_ap_where_every_class_is_judged():
    rng = np.random.default_rng(0)
    ours, theirs = lvis_ap.Metric(), coco_ap.Metric()
    for number in range(20):
        pair = _random_pair(rng, number)
        ours.update(*pair)
        theirs.update(*pair)
    values = theirs.compute()
    assert 0 < values["AP"] < 1
    assert ours.compute() == pytest.approx(values, abs=1e-12)
    for own, other in zip(ours.curves().values(), theirs.curves().values(), strict=True):
        np.testing.assert_allclose(own, other, atol=1e-12)


def _perturbed(sample: Sample, rng: np.random.Generator) -> Prediction:
    """The truth, moved, some of it lost or renamed, and false alarms of classes absent, not all marked and unknown."""
    targets = sample.targets
    kept = np.flatnonzero(rng.random(len(targets.boxes)) < 0.9)
    shifts = rng.integers(-6, 7, (len(kept), 2))
    labels = targets.labels[kept].clone()
    wrong = rng.random(len(kept)) < 0.1
    labels[wrong] = torch.tensor(rng.integers(0, len(sample.classes), int(wrong.sum())))
    moved = [np.roll(masks.decode(targets.masks[k]), shift, (0, 1)) for k, shift in zip(kept, shifts, strict=True)]
    names = [*(sample.absent or ())[:3], *sample.partial, *rng.choice(sample.classes, 4)]
    names += [sample.classes[k] for k in targets.labels[:3].tolist()]
    for _ in names:
        bitmap = np.zeros(sample.size, dtype=bool)
        y, x = rng.integers(0, sample.size[0] - 20), rng.integers(0, sample.size[1] - 20)
        bitmap[y : y + rng.integers(5, 200), x : x + rng.integers(5, 200)] = True
        moved.append(bitmap)
    extra = torch.tensor([sample.classes.index(name) for name in names], dtype=torch.long)
    shown = [m if m.any() else np.ones_like(m) for m in moved]
    rles = masks.encode_many(np.stack(shown)) if shown else ()
    scores = torch.tensor(rng.random(len(shown)), dtype=torch.float32)
    return Prediction(masks.boxes_of(rles), rles, scores, torch.cat([labels, extra]))


def _official(
    folder: Path, pairs: list[tuple[Sample, Prediction]], iou_type: str, monkeypatch: pytest.MonkeyPatch
) -> dict[str, float]:
    """What ``LVISEval`` says of LVIS's own file; areas are those of pixels, where v0.5's are those of outlines."""
    lvis = pytest.importorskip("lvis", reason="the package lvis (or its cv2, matplotlib) is not installed")
    monkeypatch.setattr(np, "float", float, raising=False)  # lvis 0.5.3 was written for NumPy 1
    data = json.loads(REAL.read_text())
    by_name = {c["name"]: c["id"] for c in data["categories"]}
    areas: dict[int, list[float]] = {}
    results = []
    for sample, prediction in pairs:
        image = int(sample.image_id)
        areas[image] = masks.area(sample.targets.masks).tolist()
        rows = zip(prediction.boxes.tolist(), prediction.masks, prediction.scores.double().tolist(), strict=True)
        for ((x0, y0, x1, y1), rle, score), label in zip(rows, prediction.labels.tolist(), strict=True):
            shape = (
                {"bbox": [x0, y0, x1 - x0, y1 - y0]}
                if iou_type == "bbox"
                else {"segmentation": {"size": list(rle["size"]), "counts": rle["counts"].decode()}}
            )
            results.append({"image_id": image, "category_id": by_name[sample.classes[label]], "score": score, **shape})
    for annotation in data["annotations"]:
        annotation["area"] = areas[annotation["image_id"]].pop(0)
    (folder / "truth.json").write_text(json.dumps(data))
    (folder / "results.json").write_text(json.dumps(results))
    evaluation = lvis.LVISEval(str(folder / "truth.json"), str(folder / "results.json"), iou_type)
    evaluation.run()
    return {name: float(evaluation.results[name]) for name in evaluation.results if name.startswith("AP")}


@pytest.mark.skipif(not REAL.is_file(), reason="UFO_TUNE_REAL_DATA has no lvis_val_100")
@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
def test_equals_lvis_eval_on_the_real_sample(tmp_path, monkeypatch, iou_type):
    monkeypatch.setenv("UFO_TUNE_CACHE", str(tmp_path / "cache"))
    samples = lvis_dataset.load(
        str(tmp_path), "val", task="instance_segmentation", annotations=str(REAL), min_size=0, image_dir="coco"
    )
    rng = np.random.default_rng(0)
    pairs = [(sample, _perturbed(sample, rng)) for sample in samples]
    metric = lvis_ap.Metric(iou_type=iou_type)
    for sample, prediction in pairs:
        metric.update(sample, prediction)
    values = metric.compute()
    assert set(values) == {"AP", "AP50", "AP75", "APs", "APm", "APl", "APr", "APc", "APf", "n", "invalid"}
    assert 0.1 < values["AP"] < 0.9 and sum(len(sample.partial) for sample in samples) > 10
    wanted = _official(tmp_path, pairs, iou_type, monkeypatch)
    assert {name: values[name] for name in wanted} == pytest.approx(wanted, abs=1e-9)
