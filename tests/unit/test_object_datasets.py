"""LVIS, Objects365, nuImages, PACO-LVIS and PASCAL-Part: what their own files say, tiny ones and LVIS's sample."""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pycocotools.coco import COCO

from tests import data_files
from tests.data_files import SIZE, picture, rectangle, rle, write_json
from tests.data_files import lvis as lvis_files
from tests.data_files import nuimages as nuimages_files
from tests.data_files import objects365 as objects365_files
from tests.data_files import pascal_part as pascal_part_files
from ufo_tune import plugins
from ufo_tune.core import masks
from ufo_tune.core.types import Sample, Targets
from ufo_tune.datasets import lvis, nuimages
from ufo_tune.datasets._objects import Objects
from ufo_tune.errors import ConfigError, DataError

REAL = Path(os.environ.get("UFO_TUNE_REAL_DATA", "")) / "lvis_val_100" / "data" / "lvis_val_100.json"
real = pytest.mark.skipif(
    not os.environ.get("UFO_TUNE_REAL_DATA") or not REAL.is_file(), reason="UFO_TUNE_REAL_DATA has no lvis_val_100"
)


def _load(name: str, folder: Path, task: str = "detection", **options: Any) -> Objects:
    root, split, made = data_files.make(name, folder)
    found: Objects = plugins.find("datasets", name).load(root, split, task=task, **made, **options)
    return found


def _truth(sample: Sample) -> Targets:
    assert sample.targets is not None
    return sample.targets


def _bitmaps(sample: Sample) -> np.ndarray:
    return masks.decode_many(_truth(sample).masks or ())


# ---- LVIS


def test_lvis_boxes_masks_names_and_places_of_images(tmp_path: Path) -> None:
    samples = _load("lvis", tmp_path, "instance_segmentation")
    assert samples.classes == ("apple", "wine_bucket", "bow_(weapon)")  # by id
    assert samples.image_ids == ("3", "20", "21") and samples[1].source == "lvis/val#20"
    assert [Path(str(s.image)).relative_to(tmp_path).parts[0] for s in samples] == ["train2017", "val2017", "train2017"]
    assert _truth(samples[1]).boxes.tolist() == [[5, 6, 15, 18], [30, 10, 50, 30]]
    assert _truth(samples[1]).labels.tolist() == [0, 2]
    np.testing.assert_array_equal(_bitmaps(samples[1]), [rectangle(5, 6, 15, 18), rectangle(30, 10, 50, 30)])


def test_lvis_absent_are_the_verified_classes_only(tmp_path: Path) -> None:
    samples = _load("lvis", tmp_path)
    assert samples[0].absent == ("wine_bucket",)  # apples are listed too, but not all of them have an annotation
    assert samples[1].absent == ("wine_bucket",)
    assert samples[2].absent == ("bow_(weapon)", "apple")
    assert _load("lvis", tmp_path, classes=["apple"])[2].absent == ("apple",)


def test_lvis_says_what_is_marked_in_part_and_how_frequent_classes_are(tmp_path: Path) -> None:
    samples = _load("lvis", tmp_path)
    assert [s.partial for s in samples] == [("apple",), (), ()]
    assert dict(samples[0].groups) == {"apple": "f", "wine_bucket": "c", "bow_(weapon)": "r"}
    assert samples[0].groups is samples[1].groups  # a thousand names, held once
    assert _load("lvis", tmp_path, classes=["wine_bucket"])[0].partial == ()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda d: d["images"][0]["neg_category_ids"].append(5),
            r"image 20: neg_category_ids: no such category .got 5",
        ),
        (lambda d: d["images"][0].pop("neg_category_ids"), r"image 20: lacks 'neg_category_ids'"),
        (
            lambda d: d["annotations"][0].update(category_id=5),
            r"annotation 1: no such category .got 5.; the file lists 3",
        ),
        (lambda d: d["annotations"][0].update(image_id=5), r"image that is not listed .got image_id 5"),
        (
            lambda d: d["annotations"][0].update(image_id="20"),
            r"annotations: byte \d+: image_id is no integer .got '20'",
        ),
        (lambda d: d["annotations"][0].update(bbox=[1, 2, 3]), r"annotation 1: bbox: is not 4 numbers"),
        (lambda d: d["annotations"][0].update(bbox=[1, 2, 3, float("nan")]), r"annotation 1: bbox: is not finite"),
        (lambda d: d["images"][0].update(id=3), r"images: ids are not unique .got 3 twice"),
        (lambda d: d["images"][0].pop("height"), r"image 20: lacks 'height'"),
        (lambda d: d["categories"][0].update(id=4), r"categories: ids are not unique .got 3 rows, 2 ids"),
        (lambda d: d["categories"][0].update(name="apple"), r"class names are not unique"),
        (lambda d: d.pop("categories"), r"has no list 'categories' .got info, annotations, images"),
        (lambda d: d.update(images={}), r"cannot be read as JSON .got, at byte \d+: \{ where \[ should be"),
        (lambda d: d.update(images=[[1]]), r"images holds no objects .got \[1\]"),
    ],
)
def test_lvis_faults_name_their_place(tmp_path: Path, damage: Any, message: str) -> None:
    data = lvis_files.rows()
    damage(data)
    write_json(tmp_path / "lvis_v1_val.json", data)
    with pytest.raises(DataError, match=message):
        lvis.load(str(tmp_path), "val", task="detection")


def test_an_outline_thinner_than_a_pixel_is_left_out_only_if_it_covers_none(tmp_path: Path) -> None:
    data = lvis_files.rows()
    sliver = [10.0, 10.0, 30.0, 30.0, 30.0, 30.01]  # 20 x 20 box, area 0.1
    column = [12.0, 2.0, 13.0, 2.0, 13.0, 30.0, 12.0, 30.0]  # one pixel wide: area 28 = its longer side
    thin = [12.4, 2.0, 13.4, 2.0, 13.4, 30.0, 12.4, 30.0]
    data["annotations"] = []
    for number, (polygon, area) in enumerate(((sliver, 0.1), (column, 28.0), (thin, 27.9))):
        x, y, width, height = min(polygon[::2]), min(polygon[1::2]), np.ptp(polygon[::2]), np.ptp(polygon[1::2])
        row = {"id": number, "image_id": 3, "category_id": 4, "bbox": [x, y, float(width), float(height)]}
        data["annotations"].append(row | {"area": area, "segmentation": [polygon]})
    write_json(tmp_path / "lvis_v1_val.json", data)
    truth = _truth(lvis.load(str(tmp_path), "val", task="instance_segmentation")[0])
    assert truth.boxes[:, 0].tolist() == pytest.approx([12.0, 12.4])
    assert (masks.area(truth.masks or ()) > 0).all()


@real
def test_lvis_real_sample(tmp_path: Path) -> None:
    """v0.5, 100 images: every number against the file read by plain ``json``, every mask against pycocotools."""
    data = json.loads(REAL.read_text())
    samples = lvis.load(
        str(tmp_path), "val", task="instance_segmentation", annotations=str(REAL), min_size=0, image_dir="coco"
    )
    theirs = COCO(REAL)
    by_id = {c["id"]: c["name"] for c in data["categories"]}
    rows = {i["id"]: i for i in data["images"]}
    assert len(samples) == 100 and len(samples.classes) == 1230 and sum(len(_truth(s).boxes) for s in samples) == 977
    assert not any("," in name for name in samples.classes)
    for sample in samples:
        row = rows[int(sample.image_id)]
        assert sample.size == (row["height"], row["width"])
        assert sample.image == tmp_path / "coco" / "val2017" / f"{row['id']:012d}.jpg"
        found = [a for a in data["annotations"] if a["image_id"] == row["id"]]
        boxes = torch.tensor([[x, y, x + w, y + h] for x, y, w, h in (a["bbox"] for a in found)]).reshape(-1, 4)
        torch.testing.assert_close(_truth(sample).boxes, boxes)
        assert [samples.classes[k] for k in _truth(sample).labels.tolist()] == [by_id[a["category_id"]] for a in found]
        unsure = set(row["not_exhaustive_category_ids"]) | {a["category_id"] for a in found}
        assert sample.absent == tuple(by_id[k] for k in row["neg_category_ids"] if k not in unsure)
        assert sample.partial == tuple(by_id[k] for k in row["not_exhaustive_category_ids"])
        for bitmap, row in zip(_bitmaps(sample), found, strict=True):
            np.testing.assert_array_equal(bitmap, theirs.annToMask(row))


# ---- Objects365


def test_objects365(tmp_path: Path) -> None:
    samples = _load("objects365", tmp_path)
    assert samples.classes == ("Person", "Formula 1") and samples.image_ids == ("11", "12")  # 10 is not in the archives
    assert _truth(samples[0]).boxes.tolist() == [[5, 6, 15, 18], [0, 0, 60, 40]]  # no fake, nothing without area
    assert _truth(samples[0]).labels.tolist() == [0, 1] and _truth(samples[0]).masks is None
    crowd = _truth(samples[0]).crowd
    assert crowd is not None and crowd.tolist() == [False, True]
    assert _truth(samples[1]).boxes.tolist() == [[50.5, 0, 60, 20.5]]  # clipped
    assert samples[1].image == tmp_path / "val" / "patch16" / "objects365_v2_00908727.jpg"
    assert samples[0].absent is None and not samples[0].partial and not samples[0].groups  # exhaustive


def test_objects365_has_no_masks(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="datasets/objects365: no such task .got 'instance_segmentation'"):
        _load("objects365", tmp_path, "instance_segmentation")
    assert len(objects365_files.rows()["images"]) == 3


# ---- nuImages


def test_nuimages(tmp_path: Path) -> None:
    samples = _load("nuimages", tmp_path, "instance_segmentation")
    assert samples.classes == (
        "car", "truck", "trailer", "bus", "construction_vehicle", "bicycle", "motorcycle", "pedestrian", "traffic_cone",
        "barrier",
    )  # fmt: skip
    assert samples.image_ids == ("d1", "d3")  # camera key frames only
    assert samples[0].image == tmp_path / "samples" / "CAM_FRONT" / "a.jpg" and samples[0].absent is None
    assert _truth(samples[0]).boxes.tolist() == [[30, 10, 50, 30]]  # the child, not the animal
    assert _truth(samples[0]).labels.tolist() == [7]
    np.testing.assert_array_equal(_bitmaps(samples[0]), rectangle(30, 10, 50, 30)[None])
    assert _truth(samples[1]).labels.tolist() == [0, 7]  # the adult without a mask is dropped
    assert sum(len(names) for names in nuimages.CLASSES.values()) == 14
    assert len(_load("nuimages", tmp_path, min_area=150)[1].targets.boxes) == 1  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("table", "change", "message"),
    [
        ("object_ann", {"mask": {"size": [40, 60], "counts": "%"}}, r"object o1: mask: is no size and base64 counts"),
        ("object_ann", {"mask": {"size": [40, 60]}}, r"object o1: mask: is no size and base64 counts"),
        ("object_ann", {"mask": {"size": [60, 40], "counts": ""}}, r"object o1: mask is \(60, 40\) but the image"),
        ("object_ann", {"sample_data_token": "d2"}, r"o1: no such key frame or category .got d2, c1.; are all tables"),
        ("object_ann", {"category_token": "c9"}, r"o1: no such key frame or category .got d3, c9"),
        ("object_ann", {"bbox": [1, 2, 3]}, r"object o1: bbox: is not 4 numbers"),
    ],
)
def test_nuimages_faults(tmp_path: Path, table: str, change: dict[str, Any], message: str) -> None:
    tables = nuimages_files.tables()
    tables[table][0].update(change)
    for name, rows in tables.items():
        write_json(tmp_path / "v1.0-mini" / f"{name}.json", rows)
    with pytest.raises(DataError, match=message):
        nuimages.load(str(tmp_path), "mini", task="detection")


def test_nuimages_in_cocos_form(tmp_path: Path) -> None:
    """As MMDetection3D converts it: the same boxes and masks, other ids."""
    own = _load("nuimages", tmp_path, "instance_segmentation")
    names = list(nuimages.CLASSES)
    counts = base64.b64decode(nuimages_files.mask(rectangle(30, 10, 50, 30))["counts"]).decode()
    rows = {
        "images": [{"id": 0, "file_name": "samples/CAM_FRONT/a.jpg", "height": SIZE[0], "width": SIZE[1]}],
        "annotations": [{"id": 0, "image_id": 0, "category_id": 7, "bbox": [30, 10, 20, 20], "area": 400, "iscrowd": 0,
                         "segmentation": {"size": list(SIZE), "counts": counts}}],
        "categories": [{"id": n, "name": name} for n, name in enumerate(names)],
    }  # fmt: skip
    write_json(tmp_path / "annotations" / "nuimages_v1.0-mini.json", rows)
    file = "annotations/nuimages_v1.0-{split}.json"
    found = nuimages.load(str(tmp_path), "mini", task="instance_segmentation", annotations=file)
    assert found.classes == own.classes and found[0].image == own[0].image
    assert torch.equal(_truth(found[0]).boxes, _truth(own[0]).boxes) and _truth(found[0]).masks == _truth(own[0]).masks


# ---- PACO-LVIS and PASCAL-Part


def test_paco_lvis(tmp_path: Path) -> None:
    samples = _load("paco_lvis", tmp_path, "instance_segmentation")
    assert samples.classes == ("trash can", "car", "car:door handle", "trash can:lid")  # by id
    assert [s.absent for s in samples] == [("trash can:lid", "car:door handle"), ("trash can",)]
    assert _truth(samples[1]).labels.tolist() == [1, 2]
    assert _truth(samples[1]).boxes.tolist() == [[5, 6, 25, 26], [10, 12, 14, 20]]
    np.testing.assert_array_equal(_bitmaps(samples[1]), [rectangle(5, 6, 25, 26), rectangle(10, 12, 14, 20)])
    assert samples[0].image == tmp_path / "val2017" / "000000000007.jpg"


def test_pascal_part_is_measured_on_its_masks(tmp_path: Path) -> None:
    samples = _load("pascal_part", tmp_path, "instance_segmentation")
    assert samples.classes == ("aeroplane:wheel", "bus:license plate")
    assert samples.image_ids == ("2008000002", "2008000003") and samples[0].absent is None
    assert samples[0].image == tmp_path / "VOCdevkit" / "VOC2010" / "JPEGImages" / "2008_000002.jpg"
    boxes = [list(box) for _, box in pascal_part_files.PARTS.values()]
    assert _truth(samples[0]).boxes.tolist() == [boxes[1]]
    assert _truth(samples[1]).boxes.tolist() == [boxes[0], boxes[2]]  # one column of pixels; none without a mask
    assert len(_truth(_load("pascal_part", tmp_path, min_area=17)[1]).boxes) == 1  # 16 pixels


def test_pascal_part_masks_of_another_size(tmp_path: Path) -> None:
    data = pascal_part_files.rows()
    data["annotations"][0]["segmentation"] = rle(rectangle(5, 6, 15, 18).T)
    write_json(tmp_path / "train.json", data)
    with pytest.raises(DataError, match=r"annotation 0: mask is \(60, 40\) but the image is \(40, 60\)"):
        plugins.find("datasets", "pascal_part").load(str(tmp_path), "train", task="detection")


# ---- What they share


@pytest.mark.parametrize("name", ["lvis", "nuimages", "paco_lvis", "pascal_part"])
def test_filters(tmp_path: Path, name: str) -> None:
    everything = _load(name, tmp_path)
    assert all(_truth(s).masks is None for s in everything)
    assert all(_truth(s).masks is not None for s in _load(name, tmp_path, with_masks=True))
    only = _load(name, tmp_path, images=[everything.image_ids[1]], classes="present")
    assert len(only) == 1 and set(_truth(only[0]).labels.tolist()) == set(range(len(only.classes)))
    assert all(len(_truth(s).boxes) for s in _load(name, tmp_path, keep_empty=False))
    assert all(not len(_truth(s).boxes) for s in _load(name, tmp_path, min_size=61))


def test_images_elsewhere(tmp_path: Path) -> None:
    root, split, _ = data_files.make("lvis", tmp_path / "lvis")
    image = picture(tmp_path / "coco" / "train2017" / "000000000003.jpg")
    for place in ("../coco", str(tmp_path / "coco")):
        found = lvis.load(root, split, task="detection", image_dir=place)[0].image
        assert isinstance(found, Path) and found.resolve() == image.resolve()
