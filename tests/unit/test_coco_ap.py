"""COCO AP against hand-worked cases, against pycocotools reading files from disk, and against faster-coco-eval."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from ufo_tune.core import masks
from ufo_tune.core.types import Prediction, Sample, Targets
from ufo_tune.datasets import coco as coco_dataset
from ufo_tune.errors import ConfigError, EvalError
from ufo_tune.metrics import coco_ap

REAL = Path(os.environ.get("UFO_TUNE_REAL_DATA", "")) / "panopticapi_sample" / "sample_data"
CLASSES = ("circle", "square", "star")
SIZE = (8, 10)


def _sample(number: int = 0, size: tuple[int, int] = SIZE, classes: tuple[str, ...] = (), **targets: object) -> Sample:
    image = np.zeros((*size, 3), np.uint8)
    return Sample(image, size, "any", classes=classes, targets=Targets(**targets), source=f"made/test#{number:03d}")


def _one_box(box: list[float]) -> dict[str, torch.Tensor]:
    return {"boxes": torch.tensor([box]), "labels": torch.zeros(1, dtype=torch.long)}


def _block(rows: slice, columns: slice, size: tuple[int, int] = SIZE) -> np.ndarray:
    pixels = np.zeros(size, dtype=bool)
    pixels[rows, columns] = True
    return pixels


def _scene(rng: np.random.Generator, number: int, objects: int, found: int) -> tuple[Sample, Prediction]:
    """Random rectangles on 200 x 240 and predictions near them; masks are the rectangles without a corner."""
    size = (200, 240)

    def draw(count: int, near: np.ndarray | None = None) -> tuple[torch.Tensor, tuple, torch.Tensor]:
        corner, side = rng.integers(0, 120, (count, 2)), rng.integers(6, 80, (count, 2))
        if near is not None and len(near):
            chosen = near[rng.integers(len(near), size=count)]
            jitter = rng.integers(-6, 7, (count, 4))
            corner, side = chosen[:, :2] + jitter[:, :2], chosen[:, 2:] - chosen[:, :2] + jitter[:, 2:]
        corner, side = corner.clip(0, 150), side.clip(2, 50 if near is None else 60)
        boxes = np.concatenate([corner, corner + side], axis=1)
        bitmaps = np.zeros((count, *size), dtype=bool)
        for bitmap, (x0, y0, x1, y1) in zip(bitmaps, boxes, strict=True):
            bitmap[y0:y1, x0:x1] = True
            bitmap[y0 : (y0 + y1) // 2, x0 : (x0 + x1) // 2] = False
        return torch.tensor(boxes).float(), masks.encode_many(bitmaps), torch.tensor(rng.integers(0, 3, count))

    boxes, rles, labels = draw(objects)
    crowd = torch.tensor(rng.random(objects) < 0.1)
    sample = _sample(number, size, CLASSES, boxes=boxes, masks=rles, labels=labels, crowd=crowd)
    boxes_found, rles_found, labels_found = draw(found, boxes.numpy().astype(int))
    if objects:
        labels_found[::2] = labels[rng.integers(objects, size=len(labels_found[::2]))]
    scores = torch.tensor(rng.random(found), dtype=torch.float32)
    return sample, Prediction(boxes_found, rles_found, scores, labels_found)


def _from_disk(folder: Path, pairs: list[tuple[Sample, Prediction]], iou_type: str) -> np.ndarray:
    """The 12 numbers of pycocotools for files in COCO's own format, written here without our metric."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    truth: dict[str, list] = {
        "images": [],
        "annotations": [],
        "categories": [{"id": 10 + i, "name": n} for i, n in enumerate(CLASSES)],
    }
    results = []

    def shape(box: list[float], rle: dict) -> dict:
        x0, y0, x1, y1 = box
        return {
            "bbox": [x0, y0, x1 - x0, y1 - y0],
            "segmentation": {"size": list(rle["size"]), "counts": rle["counts"].decode()},
        }

    for image, (sample, prediction) in enumerate(pairs, start=1):
        truth["images"].append({"id": image, "height": sample.size[0], "width": sample.size[1]})
        t = sample.targets
        for box, rle, label, crowd in zip(t.boxes.tolist(), t.masks, t.labels.tolist(), t.crowd.tolist(), strict=True):
            number = len(truth["annotations"]) + 1
            area = int(masks.decode(rle).sum())
            more = {"id": number, "image_id": image, "category_id": 10 + label, "iscrowd": int(crowd), "area": area}
            truth["annotations"].append(shape(box, rle) | more)
        p = prediction
        for box, rle, label, score in zip(p.boxes.tolist(), p.masks, p.labels.tolist(), p.scores.tolist(), strict=True):
            row = shape(box, rle) | {"image_id": image, "category_id": 10 + label, "score": score}
            results.append({k: v for k, v in row.items() if k != ("bbox" if iou_type == "segm" else "segmentation")})
    (folder / "truth.json").write_text(json.dumps(truth))
    (folder / "results.json").write_text(json.dumps(results))
    coco = COCO(str(folder / "truth.json"))
    evaluation = COCOeval(coco, coco.loadRes(str(folder / "results.json")), iou_type)
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return evaluation.stats


@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
@pytest.mark.parametrize("seed", [0, 1])
def test_coco_equals_pycocotools_on_files(tmp_path, capsys, iou_type, seed):
    rng = np.random.default_rng(seed)
    pairs = [_scene(rng, i, int(rng.integers(0, 7)), int(rng.integers(0, 12))) for i in range(12)]
    metric = coco_ap.Metric(iou_type=iou_type)
    for sample, prediction in pairs:
        metric.update(sample, prediction)
    values = metric.compute()
    assert capsys.readouterr().out == ""  # our part keeps quiet
    stats = _from_disk(tmp_path, pairs, iou_type)
    assert [values[k] for k in ("AP", "AP50", "AP75", "APs", "APm", "APl")] == stats[:6].tolist()
    assert 0 < values["AP"] < 1
    assert values["n"] == 12


def _two_boxes() -> Sample:
    boxes = torch.tensor([[0.0, 0, 40, 40], [50, 50, 90, 90]])
    return _sample(0, (100, 100), CLASSES, boxes=boxes, labels=torch.tensor([0, 1]))


def test_coco_one_of_two_classes_found_is_half():
    metric = coco_ap.Metric()
    found = Prediction(torch.tensor([[0.0, 0, 40, 40]]), None, torch.tensor([0.9]), torch.tensor([0]))
    metric.update(_two_boxes(), found)
    values = metric.compute()
    assert [values[k] for k in ("AP", "AP50", "APm")] == pytest.approx([0.5] * 3)
    assert values["APs"] == values["APl"] == -1


def test_coco_iou_sets_the_thresholds_passed():
    """IoU 0.8 passes 0.50:0.05:0.80, seven of ten thresholds."""
    metric = coco_ap.Metric()
    sample = _sample(0, (100, 100), CLASSES, **_one_box([0.0, 0, 40, 40]))
    metric.update(sample, Prediction(torch.tensor([[0.0, 0, 40, 32]]), None, torch.tensor([0.3]), torch.tensor([0])))
    values = metric.compute()
    assert (values["AP50"], values["AP75"]) == (pytest.approx(1), pytest.approx(1))
    assert values["AP"] == pytest.approx(0.7)


def test_coco_class_agnostic_forgives_the_name_only():
    sample = _two_boxes()
    swapped = Prediction(sample.targets.boxes, None, torch.tensor([0.9, 0.8]), torch.tensor([1, 0]))
    values = {}
    for agnostic in (False, True):
        metric = coco_ap.Metric(class_agnostic=agnostic)
        metric.update(sample, swapped)
        values[agnostic] = metric.compute()["AP"]
    assert values == {False: 0.0, True: pytest.approx(1.0)}


def test_coco_classes_meet_by_name_over_samples():
    """Index 0 is another class in the second sample; names decide."""
    metric = coco_ap.Metric()
    for number, classes in enumerate([("circle", "square"), ("square",)]):
        sample = _sample(number, (100, 100), classes, **_one_box([0.0, 0, 40, 40]))
        metric.update(sample, Prediction(sample.targets.boxes, None, torch.tensor([0.9]), torch.tensor([0])))
    assert metric.compute()["AP"] == pytest.approx(1.0)


def test_coco_no_predictions_no_truth_and_nothing():
    metric = coco_ap.Metric()
    assert metric.compute() == {
        **dict.fromkeys(("AP", "AP50", "AP75", "APs", "APm", "APl"), -1.0),
        "n": 0,
        "invalid": 0,
    }
    metric.update(_sample(0, (100, 100), CLASSES), Prediction())
    assert metric.compute()["AP"] == -1
    metric.update(_two_boxes().with_(source="made/test#001"), Prediction(invalid=3))
    values = metric.compute()
    assert (values["AP"], values["n"], values["invalid"]) == (0.0, 2, 3)


@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
def test_coco_false_alarm_on_an_image_without_objects_costs(iou_type):
    """A better-scored false alarm before one hit: precision 1/2 at every recall."""
    disc = masks.encode(_block(slice(0, 40), slice(0, 40), (100, 100)))
    found = Prediction(torch.tensor([[0.0, 0, 40, 40]]), (disc,), torch.tensor([0.9]), torch.tensor([0]))
    metric = coco_ap.Metric(iou_type=iou_type)
    metric.update(_sample(0, (100, 100), CLASSES, masks=()), found)
    hit = _sample(1, (100, 100), CLASSES, **_one_box([0.0, 0, 40, 40]), masks=(disc,))
    metric.update(hit, Prediction(found.boxes, found.masks, torch.tensor([0.5]), found.labels))
    assert metric.compute()["AP"] == pytest.approx(0.5)


def test_coco_bad_input_names_the_sample():
    one = Prediction(torch.zeros(1, 4), None, torch.ones(1), torch.tensor([3]))
    with pytest.raises(EvalError, match=r"made/test#000: label is no class \(got 3\)"):
        coco_ap.Metric().update(_two_boxes(), one)
    with pytest.raises(EvalError, match="differ in number"):
        coco_ap.Metric().update(_two_boxes(), Prediction(torch.zeros(2, 4)))
    with pytest.raises(EvalError, match="the truth has no masks"):
        coco_ap.Metric(iou_type="segm").update(_two_boxes(), Prediction())
    small = (masks.encode(np.ones((4, 5), dtype=bool)),)  # pycocotools would compare it without a word
    one = _sample(classes=CLASSES, **_one_box([0, 0, 4, 4]), masks=(masks.encode(_block(slice(0, 4), slice(0, 4))),))
    with pytest.raises(EvalError, match=r"a mask of the prediction is \(4, 5\) but the image is \(8, 10\)"):
        wrong = Prediction(torch.zeros(1, 4), small, torch.ones(1), torch.zeros(1, dtype=torch.long))
        coco_ap.Metric(iou_type="segm").update(one, wrong)
    with pytest.raises(ConfigError, match="iou_type"):
        coco_ap.Metric(iou_type="keypoints")
    with pytest.raises(ConfigError, match=r"metrics/coco_ap.backend: no such backend \(got 'slow'\)"):
        coco_ap.Metric(backend="slow")


# ---- real photographs ----


def _moved(sample: Sample, rng: np.random.Generator) -> Prediction:
    """Every true object twice, its mask shifted and grown or worn at the rim, one in six under another name."""
    from scipy import ndimage

    shown, labels = [], []
    for rle, label in zip(sample.targets.masks, sample.targets.labels.tolist(), strict=True):
        for reach in (3, 12):
            bitmap = np.roll(masks.decode(rle), rng.integers(-reach, reach + 1, 2), (0, 1))
            change = ndimage.binary_dilation if rng.random() < 0.5 else ndimage.binary_erosion
            changed = change(bitmap, iterations=int(rng.integers(1, 3)))
            shown.append(changed if changed.any() else bitmap)
            labels.append(label if rng.random() < 5 / 6 else int(rng.integers(len(sample.classes))))
    rles = masks.encode_many(np.stack(shown))
    scores = torch.tensor(rng.random(len(shown)), dtype=torch.float32)
    return Prediction(masks.boxes_of(rles), rles, scores, torch.tensor(labels))


def _direct(pairs: list[tuple[Sample, Prediction]], iou_type: str, root: Path) -> tuple[list[float], np.ndarray]:
    """Six numbers and the precision array of COCOeval, the truth made from the id PNGs with plain NumPy."""
    from PIL import Image
    from pycocotools import mask as coco_masks
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    data = json.loads((root / "panoptic_examples.json").read_text())
    names = {c["name"]: c["id"] for c in data["categories"]}
    things = {c["id"] for c in data["categories"] if c["isthing"]}
    annotations = []
    for image in data["annotations"]:
        pixels = np.asarray(Image.open(root / "panoptic_examples" / image["file_name"]).convert("RGB")).astype(int)
        ids = pixels[..., 0] + 256 * pixels[..., 1] + 65536 * pixels[..., 2]  # [H, W]
        for segment in image["segments_info"]:
            if segment["category_id"] in things:
                bitmap = np.asfortranarray(ids == segment["id"], dtype=np.uint8)
                rle = coco_masks.encode(bitmap)
                row = {"id": len(annotations) + 1, "image_id": image["image_id"], "segmentation": rle}
                row |= {"category_id": segment["category_id"], "iscrowd": segment["iscrowd"]}
                annotations.append(row | {"area": int(bitmap.sum()), "bbox": segment["bbox"]})
    truth = COCO()
    truth.dataset = {"info": {}, "images": data["images"], "categories": data["categories"], "annotations": annotations}
    truth.createIndex()
    results = []
    for sample, p in pairs:
        for k, label in enumerate(p.labels.tolist()):
            x0, y0, x1, y1 = p.boxes[k].tolist()
            shape = {"bbox": [x0, y0, x1 - x0, y1 - y0]} if iou_type == "bbox" else {"segmentation": dict(p.masks[k])}
            category = names[sample.classes[label]]
            results.append(
                {"image_id": int(sample.image_id), "category_id": category, "score": float(p.scores[k])} | shape
            )
    evaluation = COCOeval(truth, truth.loadRes(results), iou_type)
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return evaluation.stats[:6].tolist(), evaluation.eval["precision"]


@pytest.mark.skipif(not REAL.is_dir(), reason="UFO_TUNE_REAL_DATA has no panopticapi_sample")
@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
def test_coco_equals_pycocotools_on_real_instances(tmp_path, monkeypatch, iou_type):
    monkeypatch.setenv("UFO_TUNE_CACHE", str(tmp_path))
    samples = coco_dataset.load(
        str(REAL), "sample", task="instance_segmentation", layout="panoptic", annotations="panoptic_examples.json",
        image_dir="input_images", min_size=0,
    )  # fmt: skip
    rng = np.random.default_rng(0)
    pairs = [(sample, _moved(sample, rng)) for sample in samples]
    metric = coco_ap.Metric(iou_type=iou_type)
    for sample, prediction in pairs:
        metric.update(sample, prediction)
    values = metric.compute()
    stats, precision = _direct(pairs, iou_type, REAL)
    assert [values[k] for k in ("AP", "AP50", "AP75", "APs", "APm", "APl")] == pytest.approx(stats, abs=1e-12)
    assert 0 < values["AP"] < values["AP50"] <= 1
    ((x, y),) = metric.curves().values()
    with_objects = precision[0, :, :, 0, 2][:, precision[0, 0, :, 0, 2] >= 0]  # [101, classes]
    np.testing.assert_allclose(y, with_objects.mean(1), atol=1e-12)
    assert x[0] == 0 and x[-1] == 1


# ---- curves and the fast backend ----


def test_coco_curve_by_hand():
    """A better-scored false alarm before one of two objects: precision 1/2 up to recall 1/2, then nothing."""
    metric = coco_ap.Metric()
    assert metric.curves() == {}
    boxes = torch.tensor([[0.0, 0, 40, 40], [50, 50, 90, 90]])
    sample = _sample(0, (100, 100), CLASSES, boxes=boxes, labels=torch.tensor([0, 0]))
    found = Prediction(
        torch.tensor([[45.0, 0, 90, 40], [0, 0, 40, 40]]), None, torch.tensor([0.9, 0.5]), torch.zeros(2).long()
    )
    metric.update(sample, found)
    ((x, y),) = metric.curves().values()
    np.testing.assert_allclose(x, np.linspace(0, 1, 101))
    np.testing.assert_allclose(y, np.where(np.arange(101) <= 50, 0.5, 0))
    assert metric.compute()["AP50"] == pytest.approx(float(y.mean()))


def test_coco_faster_asks_for_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "faster_coco_eval", None)
    with pytest.raises(ConfigError, match=r"metrics/coco_ap.backend: .*pip install 'ufo-tune\[fast\]'"):
        coco_ap.Metric(backend="faster")


@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
def test_coco_faster_equals_pycocotools(iou_type):
    pytest.importorskip("faster_coco_eval", reason="faster-coco-eval (extra fast) is not installed")
    rng = np.random.default_rng(3)
    slow, fast = coco_ap.Metric(iou_type=iou_type), coco_ap.Metric(iou_type=iou_type, backend="faster")
    assert fast.compute() == slow.compute()
    for number in range(30):
        pair = _scene(rng, number, int(rng.integers(0, 7)), int(rng.integers(0, 12)))
        slow.update(*pair)
        fast.update(*pair)
    assert fast.compute() == pytest.approx(slow.compute(), abs=1e-6)
    for own, other in zip(fast.curves().values(), slow.curves().values(), strict=True):
        np.testing.assert_allclose(own, other, atol=1e-6)
    nothing = coco_ap.Metric(iou_type=iou_type, backend="faster")
    nothing.update(_sample(0, (100, 100), CLASSES, masks=()), Prediction())
    assert nothing.compute()["AP"] == -1
