"""LabelMe's files and datasets of Hugging Face: boxes, masks, classes and columns, and faults with their place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import Dataset, DatasetDict, Features, Image, List, Value
from PIL import Image as pil

from tests.data_files import SIZE, picture, rectangle, write_json
from tests.data_files import hf as hf_files
from tests.data_files import labelme as labelme_files
from tests.data_files.labelme import annotation, shape
from ufo_tune.core import masks
from ufo_tune.core.types import NO_SIZE, Sample, Targets
from ufo_tune.datasets import hf, labelme
from ufo_tune.datasets._objects import Objects
from ufo_tune.errors import ConfigError, DataError


def _truth(sample: Sample) -> Targets:
    assert sample.targets is not None
    return sample.targets


def _labelme(folder: Path, **options: Any) -> Objects:
    return labelme.load(str(folder), "train", task="instance_segmentation", **options)


def test_shapes(tmp_path: Path) -> None:
    labelme_files.make(tmp_path)
    samples = _labelme(tmp_path)
    assert samples.classes == ("ball", "cup", "plate") and samples.image_ids == ("a", "b", "more/c")
    assert [s.source for s in samples] == ["labelme/train#a", "labelme/train#b", "labelme/train#more/c"]
    first, second = _truth(samples[0]), _truth(samples[1])
    assert first.boxes.tolist() == [[30, 10, 50, 30], [5, 6, 15, 18]] and first.labels.tolist() == [2, 1]
    found = masks.decode_many(first.masks or ())
    np.testing.assert_array_equal(found, [rectangle(30, 10, 50, 30), rectangle(5, 6, 15, 18)])
    assert second.labels.tolist() == [1, 0]  # the two cups are one object
    assert second.boxes[0].tolist() == [2, 2, 48, 9] and second.boxes[1].tolist() == [20, 10, 40, 30]
    pair, disc = masks.decode_many(second.masks or ())
    np.testing.assert_array_equal(pair, rectangle(2, 2, 10, 9) | rectangle(40, 2, 48, 9))
    rows, cols = np.mgrid[: SIZE[0], : SIZE[1]] + 0.5
    exact = np.hypot(cols - 30, rows - 20) <= 10
    assert (disc & exact).sum() / (disc | exact).sum() > 0.97
    assert len(_truth(samples[2]).boxes) == 0 and samples[1].image == tmp_path / "train" / "../images/b.png"


def test_masks_of_ai_tools(tmp_path: Path) -> None:
    picture(tmp_path / "train" / "a.png", 0)
    ring = np.ones((6, 8), dtype=bool)
    ring[2:4, 2:5] = False  # a hole, which no polygon has
    square = shape("cup", [[40, 20], [46, 20], [46, 30], [40, 30]], group=1)
    rows = [labelme_files.painted("ring", ring, (5, 9)), labelme_files.painted("cup", ring, (20, 3), 1), square]
    write_json(tmp_path / "train" / "a.json", annotation("a.png", *rows))
    (sample,) = _labelme(tmp_path)
    truth = _truth(sample)
    alone, pair = np.zeros(SIZE, dtype=bool), rectangle(40, 20, 46, 30)
    alone[9:15, 5:13] = pair[3:9, 20:28] = ring
    np.testing.assert_array_equal(masks.decode_many(truth.masks or ()), [alone, pair])
    assert truth.boxes.tolist() == [[5, 9, 13, 15], [20, 3, 46, 30]] and truth.labels.tolist() == [1, 0]
    assert [len(_truth(s).boxes) for s in _labelme(tmp_path, min_area=43)] == [1]  # 48 less 6; 42 and 60


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"points": [[5, 9], [13, 14]]}, "mask cannot be read .*8x6 pixels"),
        ({"points": [[60, 9], [67, 14]]}, "mask is not inside the image"),
        ({"points": [[5, 9]]}, "mask is not inside the image"),
        ({"mask": "bm90IGEgcG5n"}, "mask cannot be read"),
        ({"mask": "!"}, "mask cannot be read"),
        ({"mask": None}, "mask cannot be read"),
        ({"mask": 3}, "mask cannot be read"),
    ],
)
def test_faults_of_such_masks(tmp_path: Path, changes: dict[str, Any], says: str) -> None:
    picture(tmp_path / "train" / "a.png", 0)
    row = labelme_files.painted("ring", np.ones((6, 8), dtype=bool), (5, 9)) | changes
    write_json(tmp_path / "train" / "a.json", annotation("a.png", row))
    with pytest.raises(DataError, match=f"a.json: shape 0: {says}"):
        _labelme(tmp_path)


def test_a_mask_of_nothing_is_told(tmp_path: Path) -> None:
    picture(tmp_path / "train" / "a.png", 0)
    row = labelme_files.painted("ring", np.zeros((6, 8), dtype=bool), (5, 9))
    write_json(tmp_path / "train" / "a.json", annotation("a.png", row))
    with pytest.raises(DataError, match="a.json: shape 0: mask has no pixel"):
        _labelme(tmp_path)


def test_images_elsewhere_and_filters(tmp_path: Path) -> None:
    labelme_files.make(tmp_path)
    samples = _labelme(tmp_path, image_root="images", images=["b"], classes=["ball"])
    assert samples[0].image == tmp_path / "images" / "b.png" and samples[0].classes == ("ball",)
    assert len(_truth(samples[0]).boxes) == 1
    assert [s.image_id for s in _labelme(tmp_path, min_area=250, keep_empty=False)] == ["a", "b"]  # 400; disc of 314
    assert [s.image_id for s in _labelme(tmp_path, min_area=350, keep_empty=False)] == ["a"]


def test_a_list_of_labels(tmp_path: Path) -> None:
    labelme_files.make(tmp_path)
    (tmp_path / "labels.txt").write_text("__ignore__\n_background_\nplate\ncup\nball\nknife\n")
    samples = _labelme(tmp_path, labels="labels.txt")
    assert samples.classes == ("plate", "cup", "ball", "knife")
    assert _truth(samples[0]).labels.tolist() == [0, 1]
    write_json(tmp_path / "train" / "a.json", annotation("a.png", shape("__ignore__", [[1, 1], [9, 1], [9, 9]])))
    assert len(_truth(_labelme(tmp_path, labels="labels.txt")[0]).boxes) == 0
    (tmp_path / "labels.txt").write_text("plate\ncups\nball\n__ignore__")
    with pytest.raises(DataError, match=r"b.json: shape 0: unknown label \(got 'cup'\); did you mean 'cups'"):
        _labelme(tmp_path, labels="labels.txt")


def test_a_list_of_labels_from_windows(tmp_path: Path) -> None:
    labelme_files.make(tmp_path)
    (tmp_path / "labels.txt").write_bytes(b"\xef\xbb\xbfcup\r\nplate\r\nball\r\n")
    assert _labelme(tmp_path, labels="labels.txt").classes == ("cup", "plate", "ball")
    (tmp_path / "labels.txt").write_bytes("café\n".encode("latin-1"))
    with pytest.raises(DataError, match=r"labels.txt: is not UTF-8 text"):
        _labelme(tmp_path, labels="labels.txt")


def test_a_circle_may_leave_the_image(tmp_path: Path) -> None:
    picture(tmp_path / "train" / "a.png")
    circle = shape("ball", [[58, 20], [58, 30]], "circle")
    write_json(tmp_path / "train" / "a.json", annotation("a.png", circle))
    assert _truth(_labelme(tmp_path)[0]).boxes.tolist() == [[48, 10, 60, 30]]


def test_old_files_have_no_size(tmp_path: Path) -> None:
    picture(tmp_path / "train" / "a.png")
    old = annotation("a.png", {"label": "cup", "points": [[1, 1], [9, 1], [9, 9]]})
    del old["imageHeight"], old["imageWidth"]
    write_json(tmp_path / "train" / "a.json", old)
    assert _labelme(tmp_path)[0].size == SIZE


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"images": []}, "a.json: is no file of LabelMe .got images"),
        (annotation("", shape("cup", [])), "a.json: is no file of LabelMe"),
        (annotation("a.png", {"points": []}), "shape 0: has no label"),
        (annotation("a.png", shape(" ", [])), "shape 0: has no label"),
        (annotation("a.png", shape("cup", None)), "shape 0: has no points .got None"),  # type: ignore[arg-type]
        (annotation("a.png", shape("cup", [[1, 2], [3, 4]])), "shape 0: polygon of 2 points"),
        (annotation("a.png", shape("cup", [[1, 2]], "circle")), "shape 0: circle of 1 points"),
        (annotation("a.png", shape("cup", [[1, 2], [3]])), "shape 0: point: is not 2 numbers"),
        (annotation("a.png", shape("cup", [[1, 2], ["3", 4]])), "shape 0: point: is not 2 numbers"),
        (annotation("a.png", shape("cup", [[1, float("nan")]])), "shape 0: point: is not finite"),
        (annotation("a.png", shape("cup", [[1, 2]], "point")), "shape 0: has no area .got shape_type 'point'.*ignore"),
    ],
)
def test_files_that_are_not_right(tmp_path: Path, content: Any, message: str) -> None:
    picture(tmp_path / "train" / "a.png")
    write_json(tmp_path / "train" / "a.json", content)
    with pytest.raises(DataError, match=message):
        _labelme(tmp_path)


def test_shapes_that_are_left_out(tmp_path: Path) -> None:
    picture(tmp_path / "train" / "a.png")
    shapes = shape("cup", [[1, 2]], "point"), shape("cup", [[1, 1], [9, 1], [9, 9]])
    write_json(tmp_path / "train" / "a.json", annotation("a.png", *shapes))
    assert len(_truth(_labelme(tmp_path, ignore=["point"])[0]).boxes) == 1
    outside = shape("cup", [[70, 1], [90, 1], [90, 9]])
    write_json(tmp_path / "train" / "a.json", annotation("a.png", outside))
    with pytest.raises(DataError, match=r"labelme/train#a: shape 0: box is outside the image"):
        _labelme(tmp_path)[0]


def _hf(folder: Path, task: str = "detection", split: str = "train", **options: Any) -> hf.Rows:
    return hf.load(str(folder), split, task=task, **options)


def _saved(folder: Path, columns: dict[str, list[Any]], features: Features | None = None) -> Path:
    found = Dataset.from_dict(columns, features=features)
    DatasetDict({"train": found}).save_to_disk(str(folder / "saved"))
    return folder / "saved"


def test_objects_and_questions(tmp_path: Path) -> None:
    root = Path(hf_files.make(tmp_path)[0])
    samples = _hf(root)
    assert samples.classes == ("cup", "plate") and samples.image_ids == ("7", "9") and samples[1].image_id == "9"
    assert _truth(samples[0]).boxes.tolist() == [[5, 6, 15, 18], [30, 10, 50, 30]]
    assert _truth(samples[0]).labels.tolist() == [0, 1] and len(_truth(samples[1]).boxes) == 0
    assert [s.source for s in samples] == ["saved/train#0", "saved/train#1"]
    expected = np.array(pil.open(tmp_path / "source" / "0.png"))
    assert isinstance(samples[0].image, np.ndarray)
    np.testing.assert_array_equal(samples[0].image, expected)
    asked = _hf(root, "vqa")
    assert [(s.text, _truth(s).text) for s in asked] == [("What is it?", "A cup."), ("How many?", "None")]


def test_parquet(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    found = hf_files.table(tmp_path)
    for number in range(2):
        found.select([number]).to_parquet(str(tmp_path / "data" / f"train-0000{number}-of-00002.parquet"))
    samples = _hf(tmp_path)
    assert samples.classes == ("cup", "plate") and samples.image_ids == ("7", "9")
    np.testing.assert_array_equal(samples[1].image, np.array(pil.open(tmp_path / "source" / "1.png")))


@pytest.mark.parametrize(
    "name", ["test", "test-00000-of-00001", "test-00000-of-00001-b42a775f407cee45", "test_0", "test.0-of-1"]
)
def test_a_split_is_not_another_that_begins_alike(tmp_path: Path, name: str) -> None:
    found = hf_files.table(tmp_path)
    found.select([0]).to_parquet(str(tmp_path / f"{name}.parquet"))
    for other in ("testA", "test_long", "testdev-00000-of-00001", "test2017"):  # RefCOCO on the Hub: test, testA, testB
        found.to_parquet(str(tmp_path / f"{other}.parquet"))
    assert len(_hf(tmp_path, split="test")) == 1
    assert len(_hf(tmp_path, split="testA")) == 2
    with pytest.raises(DataError, match=r"tes: no such split .got test.*parquet"):
        _hf(tmp_path, split="tes")


@pytest.mark.parametrize("form", ["xywh", "normalised"])
def test_formats_of_boxes(tmp_path: Path, form: Any) -> None:
    boxes = {"xywh": [5.0, 6.0, 10.0, 12.0], "normalised": [5 / 60, 6 / 40, 15 / 60, 18 / 40]}
    image = str(picture(tmp_path / "a.png"))
    features = Features({"photo": Image(), "things": List({"box": List(Value("float64")), "name": Value("string")})})
    root = _saved(tmp_path, {"photo": [image], "things": [[{"box": boxes[form], "name": "plate"}]]}, features)
    columns = {"image": "photo", "boxes": "things.box", "labels": "things.name"}
    samples = _hf(root, columns=columns, classes=["cup", "plate"], bbox_format=form)
    np.testing.assert_allclose(_truth(samples[0]).boxes.numpy(), [[5, 6, 15, 18]], rtol=1e-6)
    assert _truth(samples[0]).labels.tolist() == [1]
    with pytest.raises(DataError, match=r"saved/train#0: object 0: unknown class \(got 'plate'\)"):
        _hf(root, columns=columns, classes=["cup"], bbox_format=form)[0]
    with pytest.raises(ConfigError, match="does not name its classes"):
        _hf(root, columns=columns)


def test_several_answers_and_no_image(tmp_path: Path) -> None:
    root = _saved(tmp_path, {"query": ["What?", " "], "label": [["a cup", "cup"], ["b"]]})
    samples = _hf(root, "vqa", columns={"image": "", "question": "query", "answer": "label"})
    assert samples[0].image is None and samples[0].size == NO_SIZE and samples[0].image_id == samples[0].source
    assert _truth(samples[0]).references == ("a cup", "cup") and _truth(samples[0]).text == "a cup"
    with pytest.raises(DataError, match="saved/train#1: the question is no text"):
        samples[1]


def test_alpha_lies_over_white(tmp_path: Path) -> None:
    pixels = np.zeros((*SIZE, 4), np.uint8)
    pixels[:, 30:, 3] = 255  # black, and on the left nothing
    pil.fromarray(pixels).save(tmp_path / "a.png")
    features = Features({"image": Image(), "question": Value("string"), "answer": Value("string")})
    root = _saved(tmp_path, {"image": [str(tmp_path / "a.png")], "question": ["a"], "answer": ["b"]}, features)
    shown = _hf(root, "vqa")[0].image
    assert isinstance(shown, np.ndarray) and (shown[:, :30] == 255).all() and (shown[:, 30:] == 0).all()


@pytest.mark.parametrize(
    ("boxes", "labels", "message"),
    [
        ([[5.0, 6.0, 5.0, 18.0]], [0], "object 0: box has no area"),
        ([[5.0, 6.0, 75.0, 18.0]], [0], "object 0: box is outside the image"),
        ([[5.0, 6.0, 15.0]], [0], "object 0: box: is not 4 numbers"),
        ([[5.0, 6.0, 15.0, 18.0]], [2], "object 0: no such class .got 2 of 2"),
        ([[5.0, 6.0, 15.0, 18.0]], [-1], "object 0: no such class .got -1 of 2"),
        ([[5.0, 6.0, 15.0, 18.0]], [], "needs a class per box .got 0 for 1"),
    ],
)
def test_bad_objects(tmp_path: Path, boxes: Any, labels: Any, message: str) -> None:
    kinds = {"bbox": List(List(Value("float32"))), "category": List(Value("int32"))}
    rows = {"image": [str(picture(tmp_path / "a.png"))], "objects": [{"bbox": boxes, "category": labels}]}
    root = _saved(tmp_path, rows, Features({"image": Image(), "objects": kinds}))
    with pytest.raises(DataError, match=f"saved/train#0: {message}"):
        _hf(root, classes=["cup", "plate"])[0]


@pytest.mark.parametrize(
    ("objects", "message"),
    [
        ({"bbox": 5, "category": [0]}, "boxes and classes are no lists .got 5"),
        (["cup"], "has no objects.bbox .got .'cup'"),
    ],
)
def test_objects_of_another_shape(tmp_path: Path, objects: Any, message: str) -> None:
    Dataset.from_dict({"image": [pil.open(picture(tmp_path / "a.png"))], "objects": [objects]}).to_parquet(
        str(tmp_path / "train.parquet")
    )
    with pytest.raises(DataError, match=f"train#0: {message}"):
        _hf(tmp_path, classes=["cup", "plate"])[0]


def test_wrong_options(tmp_path: Path) -> None:
    root = Path(hf_files.make(tmp_path)[0])
    with pytest.raises(ConfigError, match="columns: no such key .got 'box'.; did you mean 'boxes'"):
        _hf(root, columns={"box": "a"})
    with pytest.raises(
        ConfigError, match=r"columns.boxes: .* has no such column .got 'object'.; did you mean 'objects'"
    ):
        _hf(root, columns={"boxes": "object.bbox"})
    with pytest.raises(ConfigError, match="bbox_format: unknown .got 'xyxx'.; did you mean 'xyxy'"):
        _hf(root, bbox_format="xyxx")
    with pytest.raises(ConfigError, match="has names of its own"):
        _hf(root, classes=["a", "b"])
    with pytest.raises(DataError, match="no/such/place: is no folder"):
        _hf(Path("no/such/place"))
    with pytest.raises(DataError, match="absent: no such split"):
        hf.load(str(root), "absent", task="vqa")
