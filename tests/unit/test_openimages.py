"""Open Images' CSV files: groups, verified labels, masks of another resolution, sizes, faults, and the real sample."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests import data_files
from tests.data_files import SIZE, picture, rectangle
from ufo_tune.core import masks
from ufo_tune.core.types import Sample, Targets
from ufo_tune.datasets import openimages
from ufo_tune.datasets._objects import Objects
from ufo_tune.errors import DataError

REAL = Path(os.environ.get("UFO_TUNE_REAL_DATA", "")) / "datumaro_assets" / "open_images_dataset" / "v6"
real = pytest.mark.skipif(
    not os.environ.get("UFO_TUNE_REAL_DATA") or not REAL.is_dir(), reason="UFO_TUNE_REAL_DATA has no datumaro_assets"
)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    data_files.make("openimages", tmp_path)
    return tmp_path


def _load(root: Path, task: str = "detection", **options: Any) -> Objects:
    return openimages.load(str(root), "train", task=task, **options)


def _truth(sample: Sample) -> Targets:
    assert sample.targets is not None
    return sample.targets


def _change(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


def test_boxes_in_pixels_grouped_by_image(root: Path) -> None:
    samples = _load(root)
    assert samples.classes == ("Airplane", "Hot dog", "Car") and samples.image_ids == ("00a1", "00b2", "00c3")
    assert samples[1].source == "openimages/train#00b2" and samples[1].size == SIZE
    torch.testing.assert_close(  # 60 wide, 40 high; in the order of the file
        _truth(samples[1]).boxes, torch.tensor([[30.0, 10, 45, 30], [6, 5, 15, 20], [30, 10, 45, 30]])
    )
    assert _truth(samples[1]).labels.tolist() == [2, 0, 2]
    assert _truth(samples[0]).boxes.tolist() == [[0, 0, 60, 20], [0, 0, 60, 40]]
    assert [c.tolist() for s in samples if (c := _truth(s).crowd) is not None] == [[True, False], [False] * 3, []]


def test_absent_classes_were_verified(root: Path) -> None:
    samples = _load(root)
    assert samples[0].absent == ("Car",)
    assert samples[1].absent == ("Hot dog",)  # an airplane has a box there, whatever the label says
    assert samples[2].absent == ("Airplane",)
    (root / "annotations" / "train-annotations-human-imagelabels-boxable.csv").unlink()
    assert [s.absent for s in _load(root)] == [(), ()]


def test_depictions_and_insides(root: Path) -> None:
    assert len(_truth(_load(root, depictions=False)[1]).boxes) == 2
    assert len(_truth(_load(root, inside=False)[0]).boxes) == 1


def test_masks_are_scaled_to_their_images(root: Path) -> None:
    samples = _load(root, "instance_segmentation")
    assert samples.image_ids == ("00a1", "00b2", "00c3")
    for number, bitmap in enumerate((rectangle(0, 0, 60, 20), rectangle(30, 10, 45, 30))):
        np.testing.assert_array_equal(masks.decode_many(_truth(samples[number]).masks or ()), bitmap[None])
    assert len(_truth(_load(root, with_masks=True)[1]).masks or ()) == 1
    narrow = rectangle(30, 10, 45, 30)[::3, ::3]  # 14 x 20 for 40 x 60: sides are rounded
    Image.fromarray(narrow).save(root / "masks" / "train" / "00b2_m0k4j_1.png")
    found = masks.decode_many(_truth(samples[1]).masks or ())[0]
    assert (found & rectangle(30, 10, 45, 30)).sum() / (found | rectangle(30, 10, 45, 30)).sum() > 0.8


def test_a_mask_of_another_shape_is_refused(root: Path) -> None:
    Image.fromarray(rectangle(30, 10, 45, 30).T).save(root / "masks" / "train" / "00b2_m0k4j_1.png")
    with pytest.raises(
        DataError, match=r"openimages/train#00b2: line 2: mask is \(60, 40\) but the image is \(40, 60\)"
    ):
        _load(root, "instance_segmentation")[1]


def test_missing_images(root: Path) -> None:
    (root / "train" / "00b2.jpg").unlink()
    with pytest.raises(DataError, match=r"00b2.jpg: no such image"):
        _load(root)
    assert _load(root, skip_missing=True).image_ids == ("00a1", "00c3")
    picture(root / "train" / "00b2.jpg")
    assert _load(root, skip_missing=True).image_ids == ("00a1", "00b2", "00c3")  # the folder has changed


def test_sizes_from_a_file(root: Path) -> None:
    (root / "sizes.csv").write_text("ImageID,Width,Height\n00b2,120,80\n00a1,60,40\n")
    samples = _load(root, sizes="sizes.csv")
    assert [s.size for s in samples] == [(40, 60), (80, 120), (40, 60)]  # 00c3: from its header
    assert _truth(samples[1]).boxes[0].tolist() == [60, 20, 90, 60]
    (root / "sizes.csv").write_text("ImageID,Width,Height\n00b2,,80\n")
    with pytest.raises(DataError, match=r"sizes.csv: line 2: is no size"):
        _load(root, sizes="sizes.csv")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("/m/0cmf2,1,0,1", "/m/xx,1,0,1", r"bbox.csv: line 3: no such class .got /m/xx.; is .*boxable.csv the file"),
        ("0.5,0.75,0.25", "a,0.75,0.25", r"bbox.csv: cannot be read .got .*'a'.*it must have ImageID"),
        ("0.5,0.75,0.25", "nan,0.75,0.25", r"bbox.csv: line 2: box is not finite"),
        ("0.5,0.75,0.25", ",0.75,0.25", r"bbox.csv: line 2: box is not finite"),
        ("IsGroupOf", "Group", r"bbox.csv: cannot be read .*IsGroupOf"),
        ("00b2,xclick,/m/0k4j,1,", "00b2,xclick,/m/0k4j,1,1,1,", r"bbox.csv: cannot be read .*Expected 13 columns"),
    ],
)
def test_faults(root: Path, old: str, new: str, message: str) -> None:
    _change(root / "annotations" / "oidv6-train-annotations-bbox.csv", old, new)
    with pytest.raises(DataError, match=message):
        _load(root)


def test_class_names(root: Path) -> None:
    file = root / "annotations" / "class-descriptions-boxable.csv"
    file.write_text("LabelName,DisplayName\n" + file.read_text())  # V7 names its columns
    assert _load(root).classes == ("Airplane", "Hot dog", "Car")
    file.write_text("/m/0cmf2\n")
    with pytest.raises(DataError, match=r"boxable.csv: row 1: is not a machine name and a name .got \['/m/0cmf2'\]"):
        _load(root)


def test_usual_places(root: Path) -> None:
    plain = _load(root)
    for file in (root / "annotations").iterdir():
        file.rename(root / file.name)
    (root / "annotations").rmdir()
    (root / "images").mkdir()
    (root / "train").rename(root / "images" / "train")
    (root / "masks" / "train").rename(root / "train-masks")
    moved = _load(root)
    assert [s.source for s in moved] == [s.source for s in plain]
    assert len(_load(root, "instance_segmentation")[1].targets.masks or ()) == 1  # type: ignore[union-attr]
    (root / "train-masks").rename(root / "elsewhere")
    with pytest.raises(
        DataError, match=r"no such folder .got none of masks/train, train-masks.; check root, or give mask_dir"
    ):
        _load(root, "instance_segmentation")


@real
def test_real_sample_of_v6() -> None:
    options: dict[str, Any] = {"descriptions": "oidv6-class-descriptions.csv", "min_size": 0.0}
    samples = openimages.load(str(REAL), "train", task="instance_segmentation", **options)
    assert samples.image_ids == ("a", "b") and samples.classes == tuple(f"Generic label #{n}" for n in range(4))
    assert samples[1].size == (2, 8)
    torch.testing.assert_close(_truth(samples[1]).boxes, torch.tensor([[1.6, 0.6, 8, 1]]))
    with Image.open(REAL / "masks" / "train" / "b_m0_01234567.png") as opened:
        expected = np.asarray(opened) != 0
    np.testing.assert_array_equal(masks.decode_many(_truth(samples[1]).masks or ())[0], expected)
    assert samples[0].absent == () and samples[1].absent == ()  # a: verified present; b: has a box whatever its label
    other = openimages.load(str(REAL), "test", task="detection", **options)
    torch.testing.assert_close(_truth(other[0]).boxes, torch.tensor([[3.5, 0, 4, 5]]))  # 5 x 10 pixels
    crowd = _truth(other[0]).crowd
    assert crowd is not None and crowd.tolist() == [True] and _truth(other[0]).labels.tolist() == [3]
