"""Datasets of label maps and of mask files: what their numbers mean, and what is said where they mean nothing."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests import data_files
from tests.data_files import SIZE, picture, rectangle, write_json
from tests.data_files._maps import write_map
from tests.data_files.mapillary import LABELS
from ufo_tune.core import masks
from ufo_tune.core.images import open_image
from ufo_tune.data.inspect import sample_problems
from ufo_tune.datasets import (
    _label_maps,
    ade20k,
    coco_stuff,
    drive,
    label_folder,
    mapillary,
    mask_folder,
    nuimages_seg,
)
from ufo_tune.errors import ConfigError, DataError

TASK = "semantic_segmentation"
REAL = Path(os.environ.get("UFO_TUNE_REAL_DATA") or "nowhere")
real = pytest.mark.skipif(not REAL.is_dir(), reason="UFO_TUNE_REAL_DATA names no folder of real samples")


def _map(sample):
    assert sample.targets.label_map.dtype == np.int16 and sample.targets.label_map.shape == tuple(sample.size)
    return sample.targets.label_map


@pytest.mark.parametrize(
    ("names", "count"), [(coco_stuff.CLASSES, 171), (ade20k.CLASSES, 150), (nuimages_seg.CLASSES, 31)]
)
def test_lists_of_classes(names, count):
    assert len(names) == len(set(names)) == count
    assert all(name == name.strip() and name and "," not in name for name in names)


def test_ade20k(tmp_path):
    root, split, _ = data_files.make("ade20k", tmp_path)
    found = _map(ade20k.load(root, split, task=TASK)[1])
    expected = np.where(rectangle(0, 0, 30, 40), 2, 149)  # a class is one less than its pixel value
    expected[:5] = -1
    np.testing.assert_array_equal(found, expected)
    names = [f"{i}\t0.1\t1\t1\tname {i}, other" for i in range(1, 151)]
    (tmp_path / "objectInfo150.txt").write_text("Idx\tRatio\tTrain\tVal\tName\n" + "\n".join(names) + "\n")
    assert ade20k.load(root, split, task=TASK).classes[149] == "name 150"
    (tmp_path / "objectInfo150.txt").write_text("Idx\tRatio\tTrain\tVal\tName\n1\t0\t1\t1\twall\n")
    with pytest.raises(DataError, match=r"objectInfo150.txt: is not the list of 150 names \(got 1\)"):
        ade20k.load(root, split, task=TASK)


def test_coco_stuff_numbers(tmp_path):
    root, split, _ = data_files.make("coco_stuff", tmp_path)
    train, original = (coco_stuff.load(root, split, task=TASK, labels=kind) for kind in ("train_ids", "original"))
    assert len(train) == len(original) == 2 and train.image_ids == ("139", "285")
    for a, b in zip(train, original, strict=True):
        np.testing.assert_array_equal(_map(a), _map(b))
        assert [a.classes[k] for k in np.unique(_map(a))[1:]] == ["person", "stop sign", "wood"]
        assert (_map(a)[:, -2:] == -1).all()
    # labels.txt of the authors: these lines, and a pixel value is one less
    for line, name in ((1, "person"), (11, "fire hydrant"), (13, "stop sign"), (90, "toothbrush"), (92, "banner"),
                       (169, "tree"), (182, "wood")):  # fmt: skip
        assert coco_stuff.CLASSES[coco_stuff._ORIGINAL.index(line - 1)] == name
    with pytest.raises(ConfigError, match="labels: unknown .*did you mean 'train_ids'"):
        coco_stuff.load(root, split, task=TASK, labels="train_id")


def test_coco_stuff_beside_the_images(tmp_path):
    for name in ("000000000009", "000000000025"):
        picture(tmp_path / "train2017" / f"{name}.jpg")
        write_map(tmp_path / "train2017" / f"{name}_labelTrainIds.png", np.full(SIZE, 170, np.uint8))
    samples = coco_stuff.load(str(tmp_path), "train2017", task=TASK)
    assert samples.image_ids == ("9", "25") and samples.classes[int(_map(samples[0])[0, 0])] == "wood"


def test_nuimages(tmp_path):
    root, split, _ = data_files.make("nuimages_seg", tmp_path)
    for options, count in (({}, 31), ({"annotated_only": True}, 25)):
        samples = nuimages_seg.load(root, split, task=TASK, **options)
        found = _map(samples[0])
        assert len(samples.classes) == count and (found[:10] == -1).all()
        shown = {samples.classes[k] for k in np.unique(found) if k >= 0}
        assert shown == {"car", "driveable_surface", "ego vehicle"}
    write_map(next((tmp_path / "annotations" / split).iterdir()), np.full(SIZE, 27, np.uint8))
    with pytest.raises(DataError, match=r"no class has this value \(got 27, 2400 times\)"):
        samples[0]


def test_mapillary(tmp_path):
    root, split, _ = data_files.make("mapillary", tmp_path)
    sample = mapillary.load(root, split, task=TASK)[0]
    assert sample.classes == ("Bird", "Sky", "Car", "Unlabeled")
    assert np.unique(_map(sample)).tolist() == [1, 2, 3] and (_map(sample)[36:] == 3).all()
    sample = mapillary.load(root, split, task=TASK, evaluated_only=True)[0]
    assert sample.classes == ("Bird", "Sky", "Car") and (_map(sample)[36:] == -1).all()
    sample = mapillary.load(root, split, task="instance_segmentation")[0]
    assert sample.classes == ("Bird", "Car") and sample.targets.labels.tolist() == [1, 1]
    assert sample.targets.boxes.tolist() == [[5, 10, 20, 30], [30, 10, 50, 30]]
    write_map(tmp_path / split / "v2.0" / "instances" / "abc.png", np.full(SIZE, 4 * 256, np.uint16))
    with pytest.raises(DataError, match=r"mapillary/training#abc: .*abc.png: no class has this value \(got 4"):
        mapillary.load(root, split, task="instance_segmentation")[0]


def test_mapillary_names(tmp_path):
    root, split, _ = data_files.make("mapillary", tmp_path)
    with pytest.raises(ConfigError, match=r"version: unknown \(got 'v3'\)"):
        mapillary.load(root, split, task=TASK, version="v3")
    with pytest.raises(DataError, match=r"config_v1.2.json: no such"):
        (tmp_path / split / "v1.2" / "labels").mkdir(parents=True)
        mapillary.load(root, split, task=TASK, version="v1.2")
    write_json(tmp_path / "config_v2.0.json", {"labels": [{"name": "a"}]})
    with pytest.raises(DataError, match="config_v2.0.json: has no list of labels"):
        mapillary.load(root, split, task=TASK)


def test_mapillary_of_older_releases(tmp_path):
    write_json(tmp_path / "config.json", {"labels": LABELS})
    picture(tmp_path / "validation" / "images" / "a.jpg")
    write_map(tmp_path / "validation" / "labels" / "a.png", np.full(SIZE, 2, np.uint8))
    assert (_map(mapillary.load(str(tmp_path), "validation", task=TASK, version="v1.2")[0]) == 2).all()


def test_drive(tmp_path):
    root, split, _ = data_files.make("drive", tmp_path)
    view, vessels = rectangle(5, 5, 55, 35), rectangle(10, 18, 50, 22)
    sample = drive.load(root, split, task="res")[0]
    assert sample.text == "the blood vessels" and sample.source == "drive/training#21_training"
    np.testing.assert_array_equal(masks.decode(sample.targets.masks[0]), vessels)
    np.testing.assert_array_equal(masks.decode(sample.targets.ignore), ~view)
    sample = drive.load(root, split, task=TASK, numbers=[22])[0]
    assert sample.image.name == "22_training.tif" and sample.classes == ("vessel", "retina")
    np.testing.assert_array_equal(_map(sample), np.where(vessels, 0, np.where(view, 1, -1)))
    with pytest.raises(ConfigError, match=r"numbers: no such photograph \(got 23\)"):
        drive.load(root, split, task="res", numbers=[23])
    (tmp_path / split / "1st_manual" / "21_manual1.gif").unlink()
    with pytest.raises(DataError, match=r"21_manual1.gif: no such manual mask"):
        drive.load(root, split, task="res")


def test_label_folder(tmp_path):
    root, split, _ = data_files.make("label_folder", tmp_path)
    samples = label_folder.load(root, split, task=TASK)
    assert samples.image_ids == ("a", "more/b") and samples.classes == ("background", "road", "tree")
    assert [np.unique(_map(s)).tolist() for s in samples] == [[-1, 0, 1, 2]] * 2
    zero = label_folder.load(root, split, task=TASK, classes=["road", "tree"], reduce_zero_label=True)
    np.testing.assert_array_equal(_map(zero[0]), np.maximum(_map(samples[0]) - 1, -1))
    named = label_folder.load(root, split, task=TASK, classes={2: "tree", 1: "road"}, ignore=[0, 255])
    assert named.classes == ("road", "tree")
    np.testing.assert_array_equal(_map(named[1]), _map(zero[1]))


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        (
            {"classes": ["a", "b"]},
            DataError,
            r"label_folder/train#a: .*a.png: no class has this value \(got 2, 400 times\)",
        ),
        ({"ignore": []}, DataError, r"no class has this value \(got 255"),
        ({"classes": ["a", "a", "b"]}, ConfigError, "not unique"),
        ({"classes": ["a", " ", "b"]}, ConfigError, "empty"),
        ({"classes": {0: "a", 1: "b", 2: "c", 255: "d"}}, ConfigError, r"'d' has a value that is ignored \(got 255\)"),
        ({"classes": {0: "a", 70000: "b"}}, ConfigError, r"no pixel has this value \(got 70000\)"),
        ({"suffix": "_x.png"}, DataError, "no file ends with _x.png"),
        (
            {"label_dir": "elsewhere"},
            DataError,
            r"no such folder \(got none of elsewhere\); check root, or give label_dir",
        ),
    ],
)
def test_label_folder_faults(tmp_path, options, error, says):
    root, split, _ = data_files.make("label_folder", tmp_path)
    with pytest.raises(error, match=says):
        label_folder.load(root, split, task=TASK, **options)[0]


def test_list_of_classes_of_another_kind(tmp_path):
    root, split, _ = data_files.make("label_folder", tmp_path)
    (tmp_path / "classes.txt").write_bytes("\ufeffa\r\nb\r\nc\r\n\r\n".encode())
    assert label_folder.load(root, split, task=TASK).classes == ("a", "b", "c")
    (tmp_path / "classes.txt").write_bytes(b"stra\xdfe\n")
    with pytest.raises(DataError, match=r"classes.txt: is not UTF-8"):
        label_folder.load(root, split, task=TASK)
    (tmp_path / "classes.txt").unlink()
    with pytest.raises(DataError, match=r"classes.txt: no such list of classes"):
        label_folder.load(root, split, task=TASK)


def test_files_that_do_not_pair_up(tmp_path):
    root, split, _ = data_files.make("label_folder", tmp_path)
    (tmp_path / "labels" / split / "._a.png").write_bytes(b"left by another system")
    assert len(label_folder.load(root, split, task=TASK)) == 2
    picture(tmp_path / "images" / split / "a.jpg")
    with pytest.raises(DataError, match=r"two images have one name \(got a.jpg and a.png\)"):
        label_folder.load(root, split, task=TASK)
    (tmp_path / "images" / split / "a.jpg").unlink()
    (tmp_path / "images" / split / "a.png").unlink()
    with pytest.raises(DataError, match=r"labels/train/a.png: has no image"):
        label_folder.load(root, split, task=TASK)


def test_links_to_folders_count_but_lead_in_no_circle(tmp_path):
    root, split, _ = data_files.make("label_folder", tmp_path)
    labels = tmp_path / "labels" / split
    (labels / "more").rename(tmp_path / "elsewhere")
    (labels / "more").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "back").symlink_to(labels)
    (labels / "nowhere").symlink_to(tmp_path / "gone")
    assert label_folder.load(root, split, task=TASK).image_ids == ("a", "more/b")


def test_listed_once(tmp_path, monkeypatch):
    root, split, _ = data_files.make("label_folder", tmp_path)
    label_folder.load(root, split, task=TASK)

    def never(*_: object) -> list[str]:
        raise AssertionError("listed again")

    with monkeypatch.context() as patch:
        patch.setattr(_label_maps, "files", never)
        assert len(label_folder.load(root, split, task=TASK)) == 2
    (tmp_path / "labels" / split / "more" / "b.png").rename(tmp_path / "labels" / split / "unlabelled.png")
    assert label_folder.load(root, split, task=TASK).image_ids == ("a", "unlabelled")


def _write_one(folder: Path, picture_: Image.Image) -> Path:
    picture_.save(folder / "a.png")
    return folder / "a.png"


@pytest.mark.parametrize(
    "values", [np.array([[0, 3], [255, 7]], np.uint8), np.array([[0, 300], [65535, 7]], np.uint16)]
)
def test_values_as_they_are(tmp_path, values):
    np.testing.assert_array_equal(_label_maps.read_values(write_map(tmp_path / "a.png", values)), values)


def test_places_in_a_palette_and_bits(tmp_path):
    values = np.array([[0, 1], [2, 1]], np.uint8)
    painted = Image.fromarray(values, mode="P")
    painted.putpalette([200, 0, 0, 0, 200, 0, 0, 0, 200])
    np.testing.assert_array_equal(_label_maps.read_values(_write_one(tmp_path, painted)), values)
    found = _label_maps.read_values(_write_one(tmp_path, Image.fromarray(values > 0)))
    np.testing.assert_array_equal(found, values > 0)
    assert found.dtype == np.uint8


def test_not_a_label_map(tmp_path):
    with pytest.raises(DataError, match=r"a.png: is no label map \(got 4 pixels of mode RGB\)"):
        _label_maps.read_values(write_map(tmp_path / "a.png", np.zeros((2, 2, 3), np.uint8)))
    (tmp_path / "b.png").write_bytes(write_map(tmp_path / "c.png", np.zeros(SIZE, np.uint8)).read_bytes()[:60])
    for name in ("b.png", "missing.png"):
        with pytest.raises(DataError, match=f"{name}: cannot read the label map"):
            _label_maps.read_values(tmp_path / name)


def test_classes_before_ignored_values():
    numbers = _label_maps.class_numbers([5, 300], ignored=range(10))
    assert [int(numbers[v]) for v in (0, 5, 9, 10, 300)] == [-1, 0, -1, -2, 1]


def test_masks_by_folder(tmp_path):
    root, split, _ = data_files.make("mask_folder", tmp_path)
    samples = mask_folder.load(root, split, task="res")
    assert [(s.image_id, s.text) for s in samples] == [("a", "blue plate"), ("a", "cup"), ("b", "cup")]
    both = rectangle(5, 6, 15, 18) | rectangle(5, 20, 15, 32)
    np.testing.assert_array_equal(masks.decode(samples[1].targets.masks[0]), both)
    assert samples[1].source == "mask_folder/train#a/cup"
    samples = mask_folder.load(root, split, task="instance_segmentation")
    assert [s.image_id for s in samples] == ["a", "b", "c"] and samples[0].classes == ("blue_plate", "cup")
    assert [s.targets.labels.tolist() for s in samples] == [[0, 1, 1], [1], []]
    assert samples[0].targets.boxes.tolist() == [[30, 10, 50, 30], [5, 6, 15, 18], [5, 20, 15, 32]]


@pytest.mark.parametrize(
    ("file", "image", "phrase"),
    [
        ("a/the_red_cup.png", "a", "the red cup"),
        ("a_the_red_cup.png", "a", "the red cup"),
        ("a_b_cup.png", "a_b", "cup"),
        ("a_b/cup.png", "a_b", "cup"),
        ("old cup/a_b.png", "a_b", "old cup"),
        ("cup/a_b/7.png", "a_b", "cup"),
    ],
)
def test_what_a_mask_is_of(tmp_path, file, image, phrase):
    for name in ("a", "a_b"):
        picture(tmp_path / "images" / f"{name}.jpg")
    write_map(tmp_path / "masks" / file, rectangle(1, 2, 9, 8).astype(np.uint8))
    samples = mask_folder.load(str(tmp_path), "", task="res")
    assert [(s.image_id, s.text) for s in samples] == [(image, phrase)]
    assert samples[0].targets.boxes.tolist() == [[1, 2, 9, 8]]
    assert mask_folder.load(str(tmp_path), "", task="res", phrase="the crack")[0].text == "the crack"


def test_a_mask_of_two_images(tmp_path):
    picture(picture(tmp_path / "images" / "a.jpg").with_name("a.png"))
    write_map(tmp_path / "masks" / "a_cup.png", rectangle(1, 2, 9, 8).astype(np.uint8))
    with pytest.raises(DataError, match=r"images: two images have one name \(got a.jpg and a.png\)"):
        mask_folder.load(str(tmp_path), "", task="res")


@pytest.mark.parametrize(
    ("file", "task", "says"),
    [
        ("a.png", "res", "does not say what it is a mask of .*give the option phrase"),
        ("a_1.png", "instance_segmentation", "does not say what it is a mask of .*name of its class"),
        ("b_cup.png", "res", "b_cup.png: is the mask of no image"),
        ("cup/deep/a/1.png", "res", "is the mask of no image"),
        ("readme.txt", "res", "no masks"),
    ],
)
def test_masks_of_nothing(tmp_path, file, task, says):
    picture(tmp_path / "images" / "a.jpg")
    write_map(tmp_path / "masks" / "x.png", rectangle(1, 2, 9, 8).astype(np.uint8)).rename(tmp_path / "made.png")
    (tmp_path / "masks" / file).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / "made.png").rename(tmp_path / "masks" / file)
    with pytest.raises(DataError, match=says):
        mask_folder.load(str(tmp_path), "", task=task)


def test_empty_mask(tmp_path):
    picture(tmp_path / "images" / "a.jpg")
    write_map(tmp_path / "masks" / "a_cup.png", np.zeros(SIZE, np.uint8))
    with pytest.raises(DataError, match=r"mask_folder/#a/cup: a_cup.png: mask is empty"):
        mask_folder.load(str(tmp_path), "", task="res")[0]


@real
def test_real_ade20k():
    root = REAL / "ade20k_sceneparsing150"
    samples = ade20k.load(str(root), "", task=TASK, image_dir="sampleData/images", label_dir="sampleData/annotations")
    assert len(samples) == 3 and samples.classes == ade20k.CLASSES  # named by the official file and by our copy
    assert list(sample_problems(samples)) == []
    with Image.open(root / "sampleData/annotations/ADE_val_00000001.png") as opened:
        np.testing.assert_array_equal(_map(samples[0]), np.asarray(opened).astype(int) - 1)


@real
def test_real_drive():
    samples = drive.load(str(REAL / "drive"), "training", task=TASK)
    assert len(samples) == 20 and {s.size for s in samples} == {(584, 565)}
    assert list(sample_problems(samples)) == []
    shares = [float((_map(s) == 0).sum() / (_map(s) >= 0).sum()) for s in samples]
    # All inside the field of view as vessels: Dice of 20 photographs is 2 s / (1 + s), .2 to .25 (see data/README.md).
    assert 0.1 < np.mean(shares) < 0.15
    sample = drive.load(str(REAL / "drive"), "training", task="res", numbers=[40])[0]
    scored = masks.decode(sample.targets.masks[0]) & ~masks.decode(sample.targets.ignore)
    np.testing.assert_array_equal(scored, _map(samples[19]) == 0)


@real
@pytest.mark.parametrize("version", ["v1.2", "v2.0"])
def test_real_mapillary_crop(version):
    """Vistas' own palette PNGs; the file of names is not there, so numbers stand for them."""
    samples = label_folder.load(
        str(REAL / "mmseg_tests_data/pseudo_mapillary_dataset"), "", task=TASK, image_dir="images", label_dir=version,
        classes=[str(i) for i in range(66 if version == "v1.2" else 124)],
    )  # fmt: skip
    assert np.unique(_map(samples[0])).tolist() == ([17, 44, 45] if version == "v1.2" else [27, 84, 85])
    assert list(sample_problems(samples)) == []


@real
@pytest.mark.parametrize("version", ["v1.2", "v2.0"])
def test_real_mapillary_tree(version):
    root = str(REAL / "datumaro_assets/mapillary_vistas_dataset")
    maps = mapillary.load(root, "val", task=TASK, version=version)
    assert maps.classes == ("Bird", "Separator", "Bicycle") and len(maps) == 2
    assert [np.unique(_map(s)).tolist() for s in maps] == [[0, 1], [1, 2]]
    things = mapillary.load(root, "val", task="instance_segmentation", version=version)
    assert [s.targets.labels.tolist() for s in things] == [[0, 1], [1, 2, 2]]  # 0, 256 and 256, 512, 513
    assert list(sample_problems(things)) == []


@real
def test_real_coco128_masks():
    """Label maps with gaps between their numbers, named by value; 201 of 256 images have one."""
    lines = (REAL / "coco128/semantic_segmentation/config.yaml").read_text().partition("classes:")[2].splitlines()
    named = dict(line.strip().split(": ", 1) for line in lines if line.strip())
    classes = {int(value): name for value, name in named.items() if name != "unlabeled"}
    samples = label_folder.load(
        str(REAL / "coco128"), "val2017", task=TASK, classes=classes, ignore=[0],
        label_dir="semantic_segmentation/masks/{split}",
    )  # fmt: skip
    assert len(samples) == 100 and list(sample_problems(samples)) == []
    assert open_image(samples[0].image).shape[:2] == _map(samples[0]).shape
