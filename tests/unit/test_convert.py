"""Any dataset to JSONL: what is written is read back as the same, and nothing half stays behind."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests import data_files
from tests.data_files import SIZE, picture, rectangle, write_jsonl
from ufo_tune import plugins
from ufo_tune.core import masks
from ufo_tune.core.types import Sample, Samples, Targets
from ufo_tune.data.convert import INLINE_CLASSES, convert
from ufo_tune.data.from_labels import FromLabels
from ufo_tune.data.images import open_image
from ufo_tune.data.inspect import validate
from ufo_tune.datasets import jsonl
from ufo_tune.errors import ConfigError, DataError

CASES = [
    (name, task)
    for name in plugins.names("datasets")
    for task in plugins.find("datasets", name).TASKS
    if task in jsonl.TASKS
]


def _read(out: Path, task: str) -> jsonl.Jsonl:
    return jsonl.load(str(out.parent), out.stem, task=task)


def _same(a: Sample, b: Sample) -> None:
    """Everything that a row can say; not the source, which is its line now, and the image's name."""
    assert (a.size, a.task, a.text, a.history) == (b.size, b.task, b.text, b.history)
    assert (a.absent, a.partial) == (b.absent, b.partial)
    grid = a.task in ("detection", "instance_segmentation")
    assert b.classes == (a.classes if grid else ())
    if a.image is None or b.image is None:
        assert a.image is b.image
    else:
        np.testing.assert_array_equal(open_image(a.image), open_image(b.image))
    one, two = a.targets, b.targets
    assert one is not None and two is not None
    assert torch.equal(one.boxes, two.boxes) and (not grid or torch.equal(one.labels, two.labels))
    assert (one.text, one.references) == (two.text, two.references)
    if a.task in ("res", "instance_segmentation"):
        assert one.masks is not None and two.masks is not None
        np.testing.assert_array_equal(masks.decode_many(one.masks, a.size), masks.decode_many(two.masks, a.size))
        assert (one.ignore is None) == (two.ignore is None)
        if one.ignore is not None and two.ignore is not None:
            np.testing.assert_array_equal(masks.decode(one.ignore), masks.decode(two.ignore))
    if a.task == "depth":
        np.testing.assert_array_equal(one.depth, two.depth)
    for crowd in ([] if t.crowd is None else t.crowd.tolist() for t in (one, two)):
        assert crowd in ([], _crowd(one)), (one.crowd, two.crowd)


def _crowd(targets: Targets) -> list[bool]:
    return [False] * len(targets.boxes) if targets.crowd is None else targets.crowd.tolist()


def _order(samples: Samples) -> list[Sample]:
    """As rows have them: together with the first sample of their image."""
    first: dict[str, int] = {}
    return sorted(samples, key=lambda s: first.setdefault(s.image_id, len(first)) if s.task in ("rec", "res") else 0)


@pytest.mark.parametrize(("name", "task"), CASES)
def test_every_dataset_comes_back_equal(name: str, task: str, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    root, split, options = data_files.make(name, tmp_path / "data")
    if name == "scenes":
        options = {**options, "size": 3}
    samples = plugins.find("datasets", name).load(root, split, task=task, **options)
    out = tmp_path / "mine.jsonl"
    done = convert(samples, out, progress=False)
    again = _read(out, task)
    assert done.samples == len(again) == len(samples) and not done.left_out
    assert done.rows == len(out.read_text().splitlines()) <= len(samples)
    for a, b in zip(_order(samples), again, strict=True):
        _same(a, b)
    assert validate(out) == []


@pytest.mark.parametrize("split", ["classes", "components"])
def test_label_maps_become_instances(split: str, tmp_path: Path) -> None:
    root, name, options = data_files.make("label_folder", tmp_path / "data")
    found = plugins.find("datasets", "label_folder").load(root, name, task="semantic_segmentation", **options)
    samples = FromLabels(found, split)
    done = convert(samples, tmp_path / "mine.jsonl", progress=False)
    assert done.samples == done.rows == len(found) > 0 and not done.left_out
    for a, b in zip(samples, _read(tmp_path / "mine.jsonl", "instance_segmentation"), strict=True):
        _same(a, b)


def _sample(image: Any, **changes: Any) -> Sample:
    targets = Targets(torch.tensor([[5.0, 6, 15, 18]]), (masks.encode(rectangle(5, 6, 15, 18)),), torch.tensor([0]))
    made = Sample(image, SIZE, "res", "the cup", targets=targets, source="x#1", image_id=str(image)[-20:])
    return made.with_(**changes)


def test_paths_are_relative_below_the_new_file_and_absolute_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture(tmp_path / "my" / "pictures" / "a.png")
    picture(tmp_path / "b.png")
    monkeypatch.chdir(tmp_path)
    convert([_sample(Path("my/pictures/a.png")), _sample(Path("b.png"))], Path("my/train.jsonl"), progress=False)
    rows = [json.loads(line) for line in Path("my/train.jsonl").read_text().splitlines()]
    assert [row["image"] for row in rows] == ["pictures/a.png", str(tmp_path / "b.png")]
    monkeypatch.chdir("/")
    assert len(list(_read(tmp_path / "my" / "train.jsonl", "res"))) == 2


def test_ignored_pixels_split_rows_and_are_left_out_where_there_are_none(tmp_path: Path) -> None:
    image = picture(tmp_path / "a.png")
    none, some = (masks.encode(bitmap) for bitmap in (np.zeros(SIZE, bool), rectangle(0, 0, 4, 4)))
    first = _sample(image, image_id="a")
    assert first.targets is not None
    samples = [first] + [first.with_(targets=replace(first.targets, ignore=mask)) for mask in (none, some, some)]
    convert(samples, tmp_path / "apart.jsonl", progress=False)  # a list does not say what shares an image
    done = convert(_read(tmp_path / "apart.jsonl", "res"), tmp_path / "mine.jsonl", progress=False)
    assert (done.rows, done.samples) == (2, 4)
    found = [s.targets.ignore for s in _read(tmp_path / "mine.jsonl", "res") if s.targets is not None]
    assert found[:2] == [None, None] and [masks.decode(m).sum() for m in found[2:] if m is not None] == [16, 16]


def test_numbers_are_the_shortest_that_give_the_same_box(tmp_path: Path) -> None:
    box = torch.tensor([[0.1, 3.0, 14.37, 18.333334]])
    targets = Targets(box, None, torch.tensor([0]))
    sample = _sample(picture(tmp_path / "a.png"), task="rec", targets=targets)
    convert([sample], tmp_path / "mine.jsonl", progress=False)
    assert '"bbox": [[0.1, 3, 14.37, 18.333334]]' in (tmp_path / "mine.jsonl").read_text()
    again = _read(tmp_path / "mine.jsonl", "rec")[0].targets
    assert again is not None and torch.equal(again.boxes, box)


def test_a_row_serves_what_the_samples_allow(tmp_path: Path) -> None:
    """Phrases with masks serve rec too; boxes alone must not pass for masks, even where there are no objects."""
    image = picture(tmp_path / "a.png")
    convert([_sample(image)], tmp_path / "phrases.jsonl", progress=False)
    assert _read(tmp_path / "phrases.jsonl", "rec")[0].text == "the cup"
    empty = _sample(image, task="detection", text="", classes=("cup",), targets=Targets())
    convert([empty], tmp_path / "boxes.jsonl", progress=False)
    assert len(_read(tmp_path / "boxes.jsonl", "detection")) == 1
    with pytest.raises(DataError, match="no rows for task instance_segmentation"):
        _read(tmp_path / "boxes.jsonl", "instance_segmentation")


def test_long_lists_of_classes_lie_in_a_file_that_rows_share(tmp_path: Path) -> None:
    names = tuple(f"class {n}" for n in range(INLINE_CLASSES + 1))
    image = picture(tmp_path / "a.png")
    other = (*names[:-1], "größer")
    samples = [
        _sample(image, task="instance_segmentation", text="", classes=c, absent=a)
        for c, a in ((names, None), (names, (names[1],)), (other, ()))
    ]
    out = tmp_path / "mine.jsonl"
    convert(samples, out, progress=False)
    assert (tmp_path / "mine_classes.txt").read_text().splitlines() == list(names)
    assert [json.loads(line)["classes"] for line in out.read_text().splitlines()] == [
        "mine_classes.txt", "mine_classes.txt", list(other),
    ]  # fmt: skip
    again = _read(out, "detection")
    assert [s.classes for s in again] == [names, names, other]
    assert [s.absent for s in again] == [None, (names[1],), ()]


def test_classes_that_are_not_all_marked(tmp_path: Path) -> None:
    names, image = ("cup", "plate", "dog"), picture(tmp_path / "a.png")
    sample = _sample(image, task="detection", text="", classes=names, absent=("dog",), partial=("plate",))
    convert([sample], tmp_path / "mine.jsonl", progress=False)
    _same(sample, _read(tmp_path / "mine.jsonl", "detection")[0])
    (tmp_path / "bad.jsonl").write_text(json.dumps({"image": "a.png", "classes": ["cup"], "partial": ["cap"]}) + "\n")
    with pytest.raises(DataError, match=r"bad.jsonl:1: partial: unknown class .got 'cap'.; did you mean 'cup'"):
        _read(tmp_path / "bad.jsonl", "detection")[0]


def test_explanations_do_not_go_away_in_silence(tmp_path: Path) -> None:
    one = _sample(picture(tmp_path / "a.png"))
    assert one.targets is not None
    said = one.with_(targets=replace(one.targets, text="the one that holds tea"))
    with pytest.raises(DataError, match="a phrase has no words that explain it .got 'the one that holds tea'"):
        convert([said], tmp_path / "mine.jsonl", progress=False)


def test_pixels_from_memory_become_files(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
    one, two = (_sample(pixels, image_id="a", text=text) for text in ("the cup", "it"))
    three = _sample(255 - pixels, image_id="b")
    convert([one, two, three], tmp_path / "mine.jsonl", progress=False)
    assert sorted(p.name for p in (tmp_path / "mine_images").iterdir()) == ["000000.png", "000001.png"]
    again = _read(tmp_path / "mine.jsonl", "res")
    assert [s.image_id for s in again] == ["mine_images/000000.png"] * 2 + ["mine_images/000001.png"]
    np.testing.assert_array_equal(open_image(again[1].image), pixels)


class _Broken(Sequence[Sample]):
    """Good samples, then one that cannot be made and one that makes no row."""

    def __init__(self, good: Sequence[Sample]) -> None:
        self.good = good

    def __len__(self) -> int:
        return len(self.good) + 2

    def __getitem__(self, index: Any) -> Any:
        if index < len(self.good):
            return self.good[index]
        if index == len(self.good):
            raise DataError("x#8: object 3: box has no area (got [9, 9, 9, 9]); give x1 < x2 and y1 < y2")
        return self.good[0].with_(text=" ", source="x#9")


def test_nothing_half_stays_behind(tmp_path: Path) -> None:
    pixels = np.zeros((*SIZE, 3), np.uint8)
    names = tuple(f"class {n}" for n in range(20))
    good = [_sample(pixels, task="instance_segmentation", text="", classes=names)]
    with pytest.raises(DataError, match="x#8: object 3: box has no area"):
        convert(_Broken(good), tmp_path / "mine.jsonl", progress=False)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(DataError, match=r"there is nothing to write .got 0 samples"):
        convert([], tmp_path / "mine.jsonl", progress=False)
    assert list(tmp_path.iterdir()) == []


def test_bad_samples_can_be_left_out_and_are_counted(tmp_path: Path) -> None:
    image = picture(tmp_path / "a.png")
    done = convert(_Broken([_sample(image)] * 2), tmp_path / "mine.jsonl", skip_bad=True, progress=False)
    assert (done.rows, done.samples) == (2, 2)
    assert dict(done.left_out) == {"box has no area": 1, "objects.ref[N]: empty phrase": 1}


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    sample = _sample(picture(tmp_path / "a.png"))
    for name in ("mine.jsonl", "mine_images", "mine_classes.txt"):
        (tmp_path / name).write_text("mine")
        with pytest.raises(ConfigError, match=rf"{name}: exists already"):
            convert([sample], tmp_path / "mine.jsonl", progress=False)
        assert (tmp_path / name).read_text() == "mine"
        (tmp_path / name).unlink()


def test_the_folder_is_made(tmp_path: Path) -> None:
    convert([_sample(picture(tmp_path / "a.png"))], tmp_path / "new" / "folder" / "mine.jsonl", progress=False)
    assert len(_read(tmp_path / "new" / "folder" / "mine.jsonl", "res")) == 1


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"task": "normals"}, "task normals has no rows .got it to write.; use rec, res, detection"),
        ({"task": "depth"}, "has no depth map to write"),
        ({"targets": None}, "has no targets to write"),
        ({"targets": Targets(torch.zeros(2, 4), labels=torch.zeros(2).long())}, "a phrase has one object .*got 2"),
        ({"task": "detection", "classes": ("cup, red",)}, "classes: a class name is empty or holds a comma"),
        ({"text": "so \ud83d"}, r"objects.ref: holds half a letter .got 'so \\ud83d'"),
    ],
)
def test_what_has_no_row_is_refused_with_its_source(changes: dict[str, Any], says: str, tmp_path: Path) -> None:
    sample = _sample(picture(tmp_path / "a.png"), **changes)
    with pytest.raises(DataError, match=rf"^x#1: {says}"):
        convert([sample], tmp_path / "mine.jsonl", progress=False)


def test_limit(tmp_path: Path) -> None:
    image = picture(tmp_path / "a.png")
    done = convert(
        [_sample(image, text=f"cup {n}") for n in range(9)], tmp_path / "mine.jsonl", limit=4, progress=False
    )
    assert done.samples == 4 and [s.text for s in _read(tmp_path / "mine.jsonl", "res")] == [
        f"cup {n}" for n in range(4)
    ]


def _yolo(folder: Path, lines: str) -> tuple[str, str, dict[str, Any]]:
    picture(folder / "images" / "train" / "a.png")
    (folder / "labels" / "train").mkdir(parents=True)
    (folder / "labels" / "train" / "a.txt").write_text(lines)
    (folder / "data.yaml").write_text("names: [plate, cup]\n")
    return str(folder), "train", {"layout": "yolo"}


@pytest.mark.parametrize(
    ("task", "line"),
    [("detection", "1 0.5 0.5 0.25 0.5\n"), ("instance_segmentation", "1 0.1 0.1 0.5 0.1 0.5 0.5 0.1 0.5\n")],
)
def test_yolo_with_values_by_hand(task: str, line: str, tmp_path: Path) -> None:
    root, split, options = _yolo(tmp_path, line)
    samples = plugins.find("datasets", "coco").load(root, split, task=task, **options)
    convert(samples, tmp_path / "mine.jsonl", progress=False)
    (row,) = (json.loads(text) for text in (tmp_path / "mine.jsonl").read_text().splitlines())
    assert row["image"] == "images/train/a.png" and (row["width"], row["height"]) == (60, 40)
    assert row["classes"] == ["plate", "cup"] and row["objects"]["ref"] == ["cup"]
    if task == "detection":
        assert row["objects"]["bbox"] == [[22.5, 10, 37.5, 30]] and "masks" not in row["objects"]
    else:
        assert row["objects"]["bbox"] == [[6, 4, 30, 20]]
        bitmap = masks.decode(masks.from_segmentation(row["objects"]["masks"][0], SIZE))
        np.testing.assert_array_equal(bitmap, rectangle(6, 4, 30, 20))


def test_ms_swift_rows(tmp_path: Path) -> None:
    """Their ``objects`` with normalised boxes and several images become plain rows of one image each."""
    for name in "ab":
        picture(tmp_path / f"{name}.png")
    messages = [{"role": "user", "content": "<image><image>Find it"}, {"role": "assistant", "content": "<bbox>"}]
    objects = {"ref": ["the cup", "it"], "bbox": [[0.1, 0.2, 0.5, 0.75], [0, 0, 1, 1]], "bbox_type": "norm1"}
    row = {"messages": messages, "images": ["a.png", "b.png"], "objects": {**objects, "image_id": [1, 0]}}
    write_jsonl(tmp_path / "swift.jsonl", [row])
    samples = jsonl.load(str(tmp_path), "swift", task="rec")
    convert(samples, tmp_path / "mine.jsonl", progress=False)
    rows = [json.loads(line) for line in (tmp_path / "mine.jsonl").read_text().splitlines()]
    assert [r["image"] for r in rows] == ["b.png", "a.png"]
    assert [r["objects"]["bbox"] for r in rows] == [[[6, 8, 30, 30]], [[0, 0, 60, 40]]]


def test_turns_and_captions(tmp_path: Path) -> None:
    image = picture(tmp_path / "a.png")
    history = (("What is it?", "A cup."),)
    samples = [
        Sample(image, SIZE, "vqa", "Which colour?", targets=Targets(text="red"), source="x#0", history=history),
        Sample(None, (0, 0), "vqa", "2 + 2?", targets=Targets(text="4"), source="x#2"),
        Sample(image, SIZE, "vqa", "What is <mask> in <bbox>?", targets=Targets(text="words"), source="x#3"),
        Sample(image, SIZE, "caption", targets=Targets(text="a cup", references=("a cup", "one cup")), source="x#1"),
    ]
    convert(samples, tmp_path / "mine.jsonl", progress=False)
    again = [*_read(tmp_path / "mine.jsonl", "vqa"), *_read(tmp_path / "mine.jsonl", "caption")]
    for a, b in zip(samples, again, strict=True):
        _same(a, b)
    roles = [m["role"] for m in json.loads((tmp_path / "mine.jsonl").read_text().splitlines()[0])["messages"]]
    assert roles == ["user", "assistant", "user", "assistant"]  # ms-swift's own form


def test_places_in_words(tmp_path: Path) -> None:
    """Boxes of all objects, masks where the words say so; of a phrase that names nothing, neither."""
    image, size = picture(tmp_path / "a.png"), SIZE
    drawn = (masks.encode(np.zeros(size, bool)), masks.encode(rectangle(5, 6, 15, 18)))
    places = Targets(torch.tensor([[1.0, 2, 9, 8], [5, 6, 15, 18]]), drawn, torch.zeros(2).long(), text="Here: <mask>.")
    talk = Sample(image, size, "conversation", "Segment it.", targets=places, source="x#0")
    talk = talk.with_(history=(("What is at <bbox>?", "A cup."),))
    nothing = Sample(image, size, "res", "the dog", targets=Targets(masks=()), source="x#1", image_id="a")
    plain = Sample(image, size, "conversation", "Hello?", targets=Targets(text="Yes."), source="x#2")
    convert([talk, plain], tmp_path / "talk.jsonl", progress=False)
    rows = [json.loads(line) for line in (tmp_path / "talk.jsonl").read_text().splitlines()]
    assert rows[0]["objects"]["bbox"] == [[1, 2, 9, 8], [5, 6, 15, 18]] and rows[0]["objects"]["masks"][0] == []
    for a, b in zip([talk, plain], _read(tmp_path / "talk.jsonl", "conversation"), strict=True):
        _same(a, b)
    found = _read(tmp_path / "talk.jsonl", "conversation")[0].targets
    assert found is not None and found.masks is not None
    np.testing.assert_array_equal(masks.decode_many(found.masks), masks.decode_many(drawn))
    convert([nothing], tmp_path / "b.jsonl", progress=False)
    objects = json.loads((tmp_path / "b.jsonl").read_text())["objects"]
    assert objects == {"ref": ["the dog"], "bbox": [[]], "masks": [[]]}
    _same(nothing, _read(tmp_path / "b.jsonl", "res")[0])
    assert not validate(tmp_path / "b.jsonl") and not validate(tmp_path / "talk.jsonl")


def _real(*parts: str) -> Path:
    root = os.environ.get("UFO_TUNE_REAL_DATA")
    if not root or not Path(root, *parts).exists():
        pytest.skip(f"UFO_TUNE_REAL_DATA has no {'/'.join(parts)}")
    return Path(root, *parts)


def _photographs() -> Iterator[tuple[str, str, dict[str, Any]]]:
    panoptic = "panoptic_segmentation/annotations/panoptic_{split}.json"
    yield "detection", "train2017", {"layout": "panoptic", "annotations": panoptic, "images": 8}
    yield "instance_segmentation", "train2017", {"layout": "panoptic", "annotations": panoptic, "images": 8}


@pytest.mark.parametrize(("task", "split", "options"), list(_photographs()))
def test_real_photographs_come_back_equal(task: str, split: str, options: dict[str, Any], tmp_path: Path) -> None:
    samples = plugins.find("datasets", "coco").load(str(_real("coco128")), split, task=task, **options)
    convert(samples, tmp_path / "mine.jsonl", progress=False)
    for a, b in zip(samples, _read(tmp_path / "mine.jsonl", task), strict=True):
        _same(a, b)
    assert validate(tmp_path / "mine.jsonl") == []
