"""COCO's and YOLO's files: exact boxes, masks, classes, filters, and faults with their place."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools.coco import COCO

from tests.data_files import SIZE, picture, rectangle
from tests.data_files.coco import instances
from ufo_tune.core import masks
from ufo_tune.core.types import Targets
from ufo_tune.data.inspect import sample_problems
from ufo_tune.datasets import coco
from ufo_tune.datasets._objects import Objects
from ufo_tune.errors import ConfigError, DataError

REAL = Path(os.environ.get("UFO_TUNE_REAL_DATA", "")) / "coco128"
real = pytest.mark.skipif(
    not os.environ.get("UFO_TUNE_REAL_DATA") or not REAL.is_dir(), reason="UFO_TUNE_REAL_DATA has no coco128"
)


def _write(folder: Path, data: dict[str, Any]) -> Path:
    (folder / "annotations").mkdir(exist_ok=True)
    (folder / "annotations" / "instances_val.json").write_text(json.dumps(data))
    for number, name in enumerate("abc"):
        picture(folder / "val" / f"{name}.png", number)
    return folder


def _load(folder: Path, task: str = "instance_segmentation", **options: Any) -> Objects:
    return coco.load(str(folder), "val", task=task, **options)


def _truth(samples: Objects, number: int) -> Targets:
    targets = samples[number].targets
    assert targets is not None
    return targets


def test_boxes_masks_classes_and_order(tmp_path: Path) -> None:
    samples = _load(_write(tmp_path, instances()))
    assert samples.classes == ("cup", "plate")  # by id
    assert samples.image_ids == ("2", "11", "12")
    assert samples[0].source == "coco/val#2"
    first = _truth(samples, 0)
    assert first.boxes.tolist() == [[5, 6, 15, 18], [30, 10, 50, 30]]
    assert first.labels.tolist() == [0, 1] and first.crowd is not None and first.crowd.tolist() == [False, False]
    expected = np.stack([rectangle(5, 6, 15, 18), rectangle(30, 10, 50, 30)])
    np.testing.assert_array_equal(masks.decode_many(first.masks or ()), expected)
    second = _truth(samples, 1)
    assert second.crowd is not None and second.crowd.tolist() == [True]
    np.testing.assert_array_equal(masks.decode_many(second.masks or ()), rectangle(0, 0, 60, 20)[None])
    assert _truth(samples, 2).masks == () and len(_truth(samples, 2).boxes) == 0


def test_masks_equal_those_of_pycocotools(tmp_path: Path) -> None:
    samples = _load(_write(tmp_path, instances()))
    theirs = COCO(tmp_path / "annotations" / "instances_val.json")
    for number, image in enumerate(samples.image_ids):
        rows = theirs.loadAnns(theirs.getAnnIds(imgIds=int(image)))
        for rle, row in zip(_truth(samples, number).masks or (), rows, strict=True):
            np.testing.assert_array_equal(masks.decode(rle), theirs.annToMask(row))


def test_detection_reads_no_masks(tmp_path: Path) -> None:
    data = instances()
    for row in data["annotations"]:
        del row["segmentation"]
    assert _truth(_load(_write(tmp_path, data), "detection"), 0).masks is None
    with pytest.raises(DataError, match="coco/val#2: annotation 1: segmentation: no known form"):
        _load(tmp_path)[0]


def test_filters(tmp_path: Path) -> None:
    folder = _write(tmp_path, instances())
    assert len(_load(folder, keep_empty=False)) == 2
    assert _load(folder, images=1).image_ids == ("2",)
    assert _load(folder, images=["b.png", 2]).image_ids == ("11", "2")
    assert _load(folder, images=1, keep_empty=False, min_area=500).image_ids == ("11",)
    only = _load(folder, classes=["plate"])
    assert only.classes == ("plate",) and _truth(only, 0).boxes.tolist() == [[30, 10, 50, 30]]
    assert _load(folder, images=["b"], classes="present").classes == ("plate",)
    assert _load(folder, min_size=11)[0].targets is not None
    assert len(_truth(_load(folder, min_size=11), 0).boxes) == 1  # the cup is 10 wide
    assert len(_truth(_load(folder, min_area=130), 0).boxes) == 1


def test_wrong_options(tmp_path: Path) -> None:
    folder = _write(tmp_path, instances())
    with pytest.raises(ConfigError, match="no such class .got 'plat'.; did you mean 'plate'"):
        _load(folder, classes=["plat"])
    with pytest.raises(ConfigError, match="no such image .got 'z.png'.; give ids such as 2"):
        _load(folder, images=["z.png"])
    with pytest.raises(ConfigError, match="datasets/coco.images: is negative .got -1"):
        _load(folder, images=-1)
    with pytest.raises(ConfigError, match="layout: unknown .got 'panoptik'.; did you mean 'panoptic'"):
        _load(folder, layout="panoptik")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bbox": [50, 6, 30, 12]}, r"coco/val#2: annotation 1: box is outside the image \(got .*image 60x40\)"),
        ({"bbox": [5, 6, 10]}, r"annotation 1: bbox: is not 4 numbers"),
        ({"bbox": [5, 6, 10, float("nan")]}, r"annotation 1: bbox: is not finite"),
        ({"category_id": 4}, r"annotation 1: no such category \(got 4\); ids are 3, 7"),
        ({"category_id": [3]}, r"annotation 1: no such category \(got \[3\]\); ids are 3, 7"),
        ({"image_id": 5}, r"annotation 1: its image is not listed \(got image_id 5\)"),
        ({"image_id": {}}, r"annotation 1: its image is not listed \(got image_id {}\)"),
        ({"area": "big"}, r"annotation 1: area is no number of pixels \(got 'big'\)"),
        ({"area": float("nan")}, r"annotation 1: area is no number of pixels \(got nan\)"),
        ({"area": -1}, r"annotation 1: area is no number of pixels \(got -1\)"),
        ({"iscrowd": "0"}, r"annotation 1: iscrowd is neither 0 nor 1 \(got '0'\)"),
        ({"bbox": [15, 18, -10, -12], "area": None}, r"coco/val#2: annotation 1: box has no area"),
        ({"segmentation": {"size": None, "counts": "0"}}, r"coco/val#2: annotation 1: mask size: is not"),
        ({"segmentation": {"size": [60, 40], "counts": "0"}}, r"mask is \(60, 40\) but the image is \(40, 60\)"),
        ({"segmentation": [[1, 2, 3]]}, r"coco/val#2: annotation 1: polygon"),
        ({"segmentation": [[1, 2, 3, "a", 5, 6]]}, r"coco/val#2: annotation 1: polygon"),
        ({"segmentation": [["1", 2, 3, 4, 5, None]]}, r"coco/val#2: annotation 1: polygon"),
        ({"segmentation": [[70, 50, 80, 50, 80, 60]]}, r"annotation 1: mask is empty"),
        ({"segmentation": []}, r"annotation 1: mask is empty"),
    ],
)
def test_faults_name_their_place(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    data = instances()
    data["annotations"][0].update(change)
    with pytest.raises(DataError, match=message):
        _load(_write(tmp_path, data))[0]


def test_an_area_that_is_not_given_is_that_of_the_box(tmp_path: Path) -> None:
    data = instances()
    data["annotations"][0]["area"] = None  # 10 x 12
    del data["annotations"][1]["area"]  # 20 x 20
    samples = _load(_write(tmp_path, data), min_area=121)
    assert [thing.area for thing in samples.pictures[0].things] == [120, 400]
    assert len(_truth(samples, 0).boxes) == 1


def test_a_reversed_box_is_told_of_whatever_the_filters(tmp_path: Path) -> None:
    data = instances()
    data["annotations"][2].update(bbox=[20, 10, -5, 5], area=0)
    samples = _load(_write(tmp_path, data), min_area=50, keep_empty=False)
    assert samples.image_ids == ("2", "11")
    with pytest.raises(DataError, match="coco/val#11: annotation 3: box has no area"):
        samples[1]


def test_ids_may_be_texts_or_whole_floats(tmp_path: Path) -> None:
    data = instances()
    for row, key in zip(data["images"], ("b", "a", 12.0), strict=True):  # 12.0 is how pandas writes 12
        for annotation in data["annotations"]:
            annotation["image_id"] = key if annotation["image_id"] == row["id"] else annotation["image_id"]
        row["id"] = key
    samples = _load(_write(tmp_path, data))
    assert samples.image_ids == ("12", "a", "b")
    assert [len(_truth(samples, k).boxes) for k in range(3)] == [0, 2, 1]


def test_a_box_over_the_edge_by_rounding_is_clipped(tmp_path: Path) -> None:
    data = instances()
    data["annotations"][0]["bbox"] = [50.2, 20, 10.3, 20.4]
    boxes = _truth(_load(_write(tmp_path, data), "detection"), 0).boxes
    torch.testing.assert_close(boxes[0], torch.tensor([50.2, 20, 60, 40]))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda d: d.pop("categories"), "has no list 'categories'"),
        (lambda d: d["images"][0].pop("height"), r"images\[0\] lacks 'height'"),
        (lambda d: d["images"][0].update(id=2), "images: ids are not unique"),
        (lambda d: d["images"][0].update(id=[2]), r"images\[0\]: id is neither a number nor a text .got \[2\]"),
        (lambda d: d["images"][0].update(height=None), "image 11: height is no number of pixels .got None"),
        (lambda d: d["images"][0].update(width=float("inf")), "image 11: width is no number of pixels .got inf"),
        (lambda d: d["images"][0].update(width=60.5), "image 11: width is no number of pixels .got 60.5"),
        (lambda d: d["images"][0].update(width=0), "image 11: width is no number of pixels .got 0"),
        (lambda d: d["categories"][0].update(id=None), r"categories\[0\]: id is neither a number nor a text .got None"),
        (lambda d: d["categories"][1].update(name=None), r"categories\[1\]: the name of a class is no text .got None"),
        (lambda d: d["categories"][0].update(name="cup"), "names are not unique"),
    ],
)
def test_damaged_files(tmp_path: Path, damage: Any, message: str) -> None:
    data = instances()
    damage(data)
    with pytest.raises(DataError, match=message):
        _load(_write(tmp_path, data))


def test_missing_files(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no folder of images .got none of"):
        _load(tmp_path)
    _write(tmp_path, instances())
    with pytest.raises(DataError, match=r"instances_x.json: no such annotation file; .* has instances_val.json"):
        _load(tmp_path, annotations="annotations/instances_x.json")
    for text in ("{", "[" * 100_000):
        (tmp_path / "annotations" / "instances_val.json").write_text(text)
        with pytest.raises(DataError, match="is not valid JSON"):
            _load(tmp_path)


def _panoptic(folder: Path) -> tuple[dict[str, Any], np.ndarray]:
    """Two things and stuff; ids beyond 255 use all three channels."""
    ids = np.full(SIZE, 70000)
    ids[rectangle(5, 6, 15, 18)] = 300
    ids[rectangle(30, 10, 50, 30)] = 7
    colours = np.stack([ids % 256, ids // 256 % 256, ids // 65536], -1).astype(np.uint8)
    (folder / "annotations" / "panoptic_val").mkdir(parents=True)
    Image.fromarray(colours).save(folder / "annotations" / "panoptic_val" / "a.png")
    picture(folder / "images" / "val" / "a.jpg")
    segments = [
        {"id": 300, "category_id": 1, "bbox": [5, 6, 10, 12], "area": 120, "iscrowd": 0},
        {"id": 70000, "category_id": 2, "bbox": [0, 0, 60, 40], "area": 1880, "iscrowd": 0},
        {"id": 7, "category_id": 3, "bbox": [30, 10, 20, 20], "area": 400, "iscrowd": 1},
    ]
    data = {
        "categories": [
            {"id": 1, "name": "cup", "isthing": 1}, {"id": 2, "name": "sky", "isthing": 0}, {"id": 3, "name": "dog"}
        ],
        "images": [{"id": 4, "file_name": "a.jpg", "height": SIZE[0], "width": SIZE[1]}],
        "annotations": [{"image_id": 4, "file_name": "a.png", "segments_info": segments}],
    }  # fmt: skip
    (folder / "annotations" / "panoptic_val.json").write_text(json.dumps(data))
    return data, ids


def test_panoptic(tmp_path: Path) -> None:
    _, ids = _panoptic(tmp_path)
    samples = _load(tmp_path, layout="panoptic")
    truth = _truth(samples, 0)
    assert samples.classes == ("cup", "dog") and truth.labels.tolist() == [0, 1]
    assert truth.crowd is not None and truth.crowd.tolist() == [False, True]
    np.testing.assert_array_equal(masks.decode_many(truth.masks or ()), np.stack([ids == 300, ids == 7]))
    torch.testing.assert_close(truth.boxes, masks.boxes_of(truth.masks or ()))


def test_panoptic_faults(tmp_path: Path) -> None:
    data, _ = _panoptic(tmp_path)
    data["annotations"][0]["segments_info"][0]["id"] = 301
    path = tmp_path / "annotations" / "panoptic_val.json"
    path.write_text(json.dumps(data))
    with pytest.raises(DataError, match="coco/val#4: segment 301 has no pixels"):
        _load(tmp_path, layout="panoptic")[0]
    data["annotations"][0]["segments_info"] = None
    path.write_text(json.dumps(data))
    with pytest.raises(DataError, match="panoptic_val.json: has no list 'segments_info'"):
        _load(tmp_path, layout="panoptic")
    data["annotations"][0].update(segments_info=[])
    path.write_text(json.dumps(data))
    Image.new("RGB", (3, 2)).save(tmp_path / "annotations" / "panoptic_val" / "a.png")
    with pytest.raises(DataError, match=r"coco/val#4: mask is \(2, 3\) but the image is \(40, 60\)"):
        _load(tmp_path, layout="panoptic")[0]


def _yolo(folder: Path, text: str) -> Path:
    (folder / "labels" / "val").mkdir(parents=True)
    (folder / "labels" / "val" / "a.txt").write_text(text)
    (folder / "data.yaml").write_text("names: {0: cup, 1: plate}\n")
    picture(folder / "images" / "val" / "a.png")
    picture(folder / "images" / "val" / "b.png")  # no label file: no objects
    return folder


def test_yolo_boxes_and_polygons(tmp_path: Path) -> None:
    folder = _yolo(tmp_path, "1 0.5 0.5 0.2 0.4\n\n0 0.1 0.2 0.3 0.2 0.3 0.6 0.1 0.6\n")
    samples = _load(folder, "detection", layout="yolo")
    # centre (30, 20), sides 12 x 16; polygon corners (6, 8) and (18, 24)
    torch.testing.assert_close(_truth(samples, 0).boxes, torch.tensor([[24.0, 12, 36, 28], [6, 8, 18, 24]]))
    assert _truth(samples, 0).labels.tolist() == [1, 0] and len(_truth(samples, 1).boxes) == 0
    (folder / "labels" / "val" / "a.txt").write_text("0 0.1 0.2 0.3 0.2 0.3 0.6 0.1 0.6\n")
    found = _truth(_load(folder, layout="yolo"), 0).masks
    np.testing.assert_array_equal(masks.decode_many(found or ()), rectangle(6, 8, 18, 24)[None])


@pytest.mark.parametrize(
    ("text", "message"),
    [("0 0.5 0.5 x 0.1", "is not a row of numbers"), ("0 0.5 0.5 0.1", "is neither a box nor a polygon .got 3"),
     ("9 0.5 0.5 0.1 0.1", "no such class .got 9.; numbers are 0, 1"),
     ("nan 0.5 0.5 0.1 0.1", "no such class .got nan."), ("inf 0.5 0.5 0.1 0.1", "no such class .got inf."),
     ("0.7 0.5 0.5 0.1 0.1", "no such class .got 0.7."), ("0 nan 0.5 0.1 0.1", "is no box or polygon"),
     ("0 0.5 0.5 -0.1 0.1", "is no box or polygon"), ("0 0 0 1 inf 1 1", "is no box or polygon")],
)  # fmt: skip
def test_yolo_faults(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DataError, match=rf"a\.txt:2: {message}"):
        _load(_yolo(tmp_path, "1 0.5 0.5 0.2 0.4\n" + text), "detection", layout="yolo")
    with pytest.raises(DataError, match="labels2: no such folder of label files"):
        _load(tmp_path, "detection", layout="yolo", labels="labels2")


def test_yolo_files_as_windows_and_macos_leave_them(tmp_path: Path) -> None:
    folder = _yolo(tmp_path, "")
    (folder / "labels" / "val" / "a.txt").write_bytes(b"\xef\xbb\xbf1 0.5 0.5 0.2 0.4\r\n")
    (folder / "images" / "val" / "._a.png").write_bytes(b"resource fork")
    samples = _load(folder, "detection", layout="yolo")
    assert samples.image_ids == ("a", "b")
    torch.testing.assert_close(_truth(samples, 0).boxes, torch.tensor([[24.0, 12, 36, 28]]))
    (folder / "labels" / "val" / "a.txt").write_bytes(b"1 0.5 0.5 0.2 0.4 \xff\n")
    with pytest.raises(DataError, match=r"a\.txt: is no text"):
        _load(folder, "detection", layout="yolo")


def test_yolo_images_that_cannot_be_told_apart(tmp_path: Path) -> None:
    folder = _yolo(tmp_path, "1 0.5 0.5 0.2 0.4\n")
    picture(folder / "images" / "val" / "a.bmp")
    with pytest.raises(DataError, match=r"a\.png: has the labels of another image .got a\.txt for a\.bmp too."):
        _load(folder, "detection", layout="yolo")
    for path in (folder / "images" / "val").iterdir():
        path.unlink()
    with pytest.raises(DataError, match="val: has no images"):
        _load(folder, "detection", layout="yolo")


def test_links_that_lead_nowhere_are_missing_images(tmp_path: Path) -> None:
    folder = _yolo(tmp_path, "1 0.5 0.5 0.2 0.4\n")
    (folder / "labels" / "val" / "z.txt").symlink_to(tmp_path / "gone.txt")
    assert len(_load(folder, "detection", layout="yolo")) == 2
    (folder / "images" / "val" / "z.png").symlink_to(tmp_path / "gone.png")
    with pytest.raises(DataError, match=r"z\.png: no such image"):
        _load(folder, "detection", layout="yolo")


def test_a_file_without_images_is_named(tmp_path: Path) -> None:
    folder = _write(tmp_path, {"images": [], "categories": [{"id": 1, "name": "cup"}], "annotations": []})
    with pytest.raises(DataError, match=r"instances_val\.json: has no rows"):
        _load(folder)


@pytest.mark.parametrize(
    ("names", "message"),
    [("[no, yes]", "names: 0: the name of a class is no text .got False"), ("{0: cup, 1: }", "1: .* no text .got None"),
     ("{a: cup, 1: dog}", "names: is no number of a class .got 'a'")],
)  # fmt: skip
def test_yolo_names(tmp_path: Path, names: str, message: str) -> None:
    folder = _yolo(tmp_path, "1 0.5 0.5 0.2 0.4\n")
    (folder / "data.yaml").write_text(f"names: {names}\n")
    with pytest.raises(DataError, match=rf"data\.yaml: .*{message}"):
        _load(folder, "detection", layout="yolo")
    (folder / "data.yaml").write_text('names: {"1": "yes", "0": "no"}\n')
    assert _load(folder, "detection", layout="yolo").classes == ("no", "yes")


@real
@pytest.mark.parametrize(("split", "images", "segments"), [("train2017", 100, 746), ("val2017", 100, 712)])
def test_real_panoptic_masks_have_the_published_boxes_and_areas(split: str, images: int, segments: int) -> None:
    path = REAL / "panoptic_segmentation" / "annotations" / f"panoptic_{split}.json"
    data = json.loads(path.read_text())
    things = {c["id"] for c in data["categories"] if c["isthing"]}
    areas = {
        str(a["image_id"]): [s["area"] for s in a["segments_info"] if s["category_id"] in things]
        for a in data["annotations"]
    }
    samples = coco.load(
        str(REAL),
        split,
        task="instance_segmentation",
        layout="panoptic",
        annotations="panoptic_segmentation/annotations/panoptic_{split}.json",
    )
    assert len(samples) == images and len(samples.classes) == 80
    for number in range(0, images, 4):
        truth = _truth(samples, number)
        assert masks.area(truth.masks or ()).tolist() == areas[samples.image_ids[number]]
        torch.testing.assert_close(truth.boxes, masks.boxes_of(truth.masks or ()))
    assert sum(len(p.things) for p in samples.pictures) == segments == sum(map(len, areas.values()))
    assert list(sample_problems(samples[:8])) == []


@real
def test_real_yolo_rows_are_all_read() -> None:
    """1839 rows in SOURCE.txt, of which 12 belong to two images that are not there."""
    found = 0
    for split in ("train2017", "val2017"):
        samples = coco.load(
            str(REAL),
            split,
            task="detection",
            layout="yolo",
            annotations="object_detection/config.yaml",
            labels="object_detection/labels/{split}",
            min_size=0,
        )
        assert len(samples) == 128
        found += sum(len(s.targets.boxes) for s in samples if s.targets)
    assert found == 1839 - 12


def test_a_text_that_no_file_can_hold(tmp_path: Path) -> None:
    data = instances()
    data["images"][0]["file_name"] = "half\ud800.png"
    with pytest.raises(DataError, match=r"instances_val\.json: a text holds half a letter .got 'half\\ud800\.png'"):
        _load(_write(tmp_path, data))
