"""REFER's files: exact boxes and masks, splits, official counts, faults with their place, pickles that want to run."""

from __future__ import annotations

import itertools
import json
import os
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.data_files import SIZE, picture, rectangle, rle, write_json
from tests.data_files.refcoco import instances, ref, refs, write
from ufo_tune.core import masks
from ufo_tune.core.types import Targets
from ufo_tune.datasets import _refer, _refer_pickle, refcoco
from ufo_tune.datasets._phrases import Phrases
from ufo_tune.errors import ConfigError, DataError

REAL = Path(os.environ.get("UFO_TUNE_REAL_DATA", "")) / "refcoco_minigpt4"
real = pytest.mark.skipif(
    not os.environ.get("UFO_TUNE_REAL_DATA") or not REAL.is_dir(), reason="UFO_TUNE_REAL_DATA has no refcoco_minigpt4"
)
OFFICIAL = [
    ("refcoco", "val", 10834), ("refcoco", "testA", 5657), ("refcoco", "testB", 5095),
    ("refcoco+", "val", 10758), ("refcoco+", "testA", 5726), ("refcoco+", "testB", 4889),
    ("refcocog", "val", 4896), ("refcocog", "test", 9602),
]  # fmt: skip


def _load(folder: Path, split: str = "val", task: str = "res", **options: Any) -> Phrases:
    return refcoco.load(str(folder), split, task=task, **options)


def _truth(samples: Phrases, number: int) -> Targets:
    targets = samples[number].targets
    assert targets is not None
    return targets


def test_one_sample_per_sentence_in_the_order_of_the_file(tmp_path: Path) -> None:
    samples = _load(write(tmp_path, refs(), instances()))
    assert [s.text for s in samples] == ["two cups on the right", "right pair", "left cup"]
    assert [s.source for s in samples] == ["refcoco/val#0", "refcoco/val#1", "refcoco/val#20"]
    assert list(samples.image_ids) == ["9", "9", "9"] and samples.dropped == {}
    assert samples[0].image == tmp_path / "images/mscoco/images/train2014/COCO_train2014_000000000009.jpg"
    first, last = _truth(samples, 0), _truth(samples, 2)
    assert first.boxes.tolist() == [[20, 10, 50, 30]] and last.boxes.tolist() == [[5, 6, 15, 18]]
    united = rectangle(20, 10, 30, 30) | rectangle(40, 10, 50, 20)
    np.testing.assert_array_equal(masks.decode_many(first.masks or ()), united[None])
    np.testing.assert_array_equal(masks.decode_many(last.masks or ()), rectangle(5, 6, 15, 18)[None])


def test_boxes_alone_need_no_masks(tmp_path: Path) -> None:
    data = instances()
    for row in data["annotations"]:
        del row["segmentation"]
    folder = write(tmp_path, refs(), data)
    assert _truth(_load(folder, task="rec"), 2).masks is None
    with pytest.raises(DataError, match="refcoco/val#20: segmentation: no known form"):
        _load(folder)[2]


def test_splits_as_refer_takes_them(tmp_path: Path) -> None:
    found = [*refs(), ref(5, 101, 9, "testAB", "in both")]
    folder = write(tmp_path, found, instances())
    texts = {split: [s.text for s in _load(folder, split)] for split in ("train", "testA", "testB", "test")}
    assert texts["train"] == ["cup"]
    assert texts["testA"] == ["the only cup", "in both"] and texts["testB"] == ["cup here", "in both"]
    assert texts["test"] == ["the only cup", "cup here", "in both"]
    with pytest.raises(DataError, match="no such split .got 'testC'.; it has testA, testAB, testB, train, val"):
        _load(folder, "testC")


def test_refclef_has_lists_of_run_lengths_and_texts_as_ids(tmp_path: Path) -> None:
    parts = [rectangle(2, 3, 12, 13), rectangle(20, 3, 30, 23)]
    data = {
        "images": [{"id": 8756, "file_name": "8756.jpg", "height": SIZE[0], "width": SIZE[1]}],
        "annotations": [
            {"id": "8756_2", "image_id": 8756, "bbox": [2, 3, 28, 20], "segmentation": [rle(p) for p in parts]}
        ],
    }  # fmt: skip
    picture(tmp_path / "saiapr_tc-12" / "8756.jpg")
    write_json(tmp_path / "refclef" / "instances.json", data)
    content = pickle.dumps([ref(0, "8756_2", 8756, "test", "sunray")], protocol=2)
    (tmp_path / "refclef" / "refs(berkeley).p").write_bytes(content)
    samples = _load(tmp_path, "test", variant="refclef", split_by="berkeley")
    truth = _truth(samples, 0)
    assert samples[0].source == "refclef/test#0" and truth.boxes.tolist() == [[2, 3, 30, 23]]
    np.testing.assert_array_equal(masks.decode_many(truth.masks or ()), (parts[0] | parts[1])[None])


def test_the_files_are_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write(tmp_path, refs(), instances())
    first = _load(folder)

    def again(*_: Any, **__: Any) -> Iterator[Any]:
        raise AssertionError("read again")

    monkeypatch.setattr(_refer, "phrases", again)
    assert [s.text for s in _load(folder, task="rec")] == [s.text for s in first]
    write(tmp_path, refs()[:1], instances())
    with pytest.raises(AssertionError, match="read again"):  # another content
        _load(folder)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"variant": "refcoco-"}, "datasets/refcoco.variant: no such choice .got 'refcoco-'.; did you mean"),
        ({"split_by": "umd"}, r"refcoco.split_by: no such choice \(got 'umd'\); known: google, unc"),
        ({"layout": "row"}, "refcoco.layout: no such choice .got 'row'.; did you mean 'rows'"),
        ({"layout": "rows"}, "rows have boxes of the usual COCO splits only .got task res"),
    ],
)
def test_wrong_options(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        _load(write(tmp_path, refs(), instances()), **options)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ann_id": 7}, r"refs\(unc\)\.p: ref 2: its annotation is not listed \(got 7\)"),
        ({"ann_id": 103}, r"ref 2: its annotation 103 is of another image \(got 25 for 9\)"),
        ({"ann_id": None}, "ref 2: 'ann_id' is not a whole number or a text or a list .got None"),
        ({"ann_id": []}, "ref 2: 'ann_id' is no list of ids"),
        ({"image_id": 77, "ann_id": -1}, "no target"),
        ({"image_id": [9]}, "ref 2: its annotation 101 is of another image"),
        ({"split": 3}, "ref 2: 'split' is not a text .got 3"),
        ({"sentences": "left cup"}, "ref 2: 'sentences' is not a list .got 'left cup'"),
        ({"sentences": [{"raw": "x"}]}, "ref 2: sentence 0: 'sent' is not a text .got None"),
        ({"sentences": ["left cup"]}, "ref 2: sentence 0: 'sent' is not a text .got None"),
    ],
)
def test_faults_of_refs_name_their_place(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    found = refs()
    found[2].update(change)
    folder = write(tmp_path, found, instances())
    if message == "no target":
        assert _load(folder).dropped == {"no target": 1} and len(_load(folder)) == 2
        return
    with pytest.raises(DataError, match=message):
        _load(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bbox": [5, 6, 10]}, r"ref 2: annotation 101: bbox: is not 4 numbers"),
        ({"bbox": [5, 6, 10, float("nan")]}, "annotation 101: bbox: is not finite"),
        ({"id": 102}, "instances.json: annotations: ids are not unique .got 3 rows, 2 ids"),
        ({"id": None}, r"instances.json: annotations\[0\]: 'id' is not a whole number or a text .got None"),
    ],
)
def test_faults_of_instances_name_their_place(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    data = instances()
    data["annotations"][0].update(change)
    with pytest.raises(DataError, match=message):
        _load(write(tmp_path, refs(), data))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bbox": [55, 6, 10, 12]}, r"refcoco/val#20: box is outside the image \(got .*image 60x40\)"),
        ({"bbox": [5, 6, -3, 12]}, "refcoco/val#20: box has no area"),
        ({"segmentation": [[1, 2, 3, 4]]}, "refcoco/val#20: polygon: is not x, y pairs of 3 points or more"),
        ({"segmentation": {"size": [60, 40], "counts": "0"}}, r"refcoco/val#20: mask is \(60, 40\) but the image"),
        ({"segmentation": [[70, 50, 80, 50, 80, 60]]}, "refcoco/val#20: mask is empty"),
    ],
)
def test_faults_of_regions_name_the_sample(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    data = instances()
    data["annotations"][0].update(change)
    samples = _load(write(tmp_path, refs(), data))
    assert len(samples) == 3 and samples[0].text
    with pytest.raises(DataError, match=message):
        samples[2]


def test_a_phrase_without_words_is_a_fault(tmp_path: Path) -> None:
    found = refs()
    found[2]["sentences"][0]["sent"] = " \t"
    samples = _load(write(tmp_path, found, instances()), task="rec")
    with pytest.raises(DataError, match=r"refcoco/val#20: the phrase is empty \(got ' \\t'\)"):
        samples[2]


def test_missing_files(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such folder .got none of images/mscoco/images/train2014, .* image_dir"):
        _load(tmp_path)
    folder = write(tmp_path, refs(), instances())
    with pytest.raises(DataError, match=r"refcoco\+/refs\(unc\).p: no such annotation file; .* has images, refcoco"):
        _load(folder, variant="refcoco+")
    (folder / "refcoco" / "instances.json").write_text("{")
    with pytest.raises(DataError, match="instances.json: is not valid JSON"):
        _load(folder)


def _rows(folder: Path, **change: Any) -> Path:
    row = {"img_id": "COCO_train2014_000000580957_4", "sents": "white bowl", "bbox": [5.5, 6, 10, 12.25]}
    rows = [{**row, "height": 40, "width": 60, **change}]
    (folder / "train2014").mkdir(exist_ok=True)
    write_json(folder / "refcocog_val.json", rows)
    return folder


def test_rows(tmp_path: Path) -> None:
    samples = _load(_rows(tmp_path), task="rec", layout="rows", variant="refcocog")
    assert samples[0].image == tmp_path / "train2014" / "COCO_train2014_000000580957.jpg"
    assert samples[0].source == "refcocog/val#0" and samples[0].image_id == "580957" and samples[0].size == (40, 60)
    assert _truth(samples, 0).boxes.tolist() == [[5.5, 6, 15.5, 18.25]] and _truth(samples, 0).masks is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"img_id": "580957"}, r"refcocog_val.json: row 0: 'img_id' is none \(got '580957'\)"),
        ({"bbox": "0 0 1 1"}, "row 0: bbox: is not 4 numbers"),
        ({"height": "40"}, "row 0: 'height' is not a whole number .got '40'"),
        ({"width": True}, "row 0: 'width' is not a whole number .got True"),
        ({"sents": ["white bowl"]}, "row 0: 'sents' is not a text"),
    ],
)
def test_faults_of_rows(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        _load(_rows(tmp_path, **change), task="rec", layout="rows", variant="refcocog")


# Pickles.


def test_python_2_pickles(tmp_path: Path) -> None:
    """Byte strings, unicode and long numbers, spelled out as Python 2's protocols 0 and 2 write them."""
    old = b"(lp0\n(dp1\nS'sent'\np2\nS'caf\\xe9'\np3\nsS'raw'\np4\nVCaf\\u00e9\np5\nsS'ref_id'\np6\nL49000L\nsa."
    newer = b"\x80\x02]q\x01}q\x02(U\x04sentq\x03U\x04caf\xe9q\x04U\x06ref_idq\x05M\x68\xbfua."
    path = tmp_path / "refs(unc).p"
    path.write_bytes(old)
    assert _refer_pickle.load(path) == [{"sent": "café", "raw": "Café", "ref_id": 49000}]
    path.write_bytes(newer)
    assert _refer_pickle.load(path) == [{"sent": "café", "ref_id": 49000}]


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_numpy_numbers_become_plain_ones(tmp_path: Path, protocol: int) -> None:
    path = tmp_path / "refs.p"
    numbers = {
        "a": np.int64(-7),
        "b": np.float32(0.5),
        "c": np.uint8(200),
        "d": np.bool_(True),
        "e": np.dtype(">i4").type(9),
    }
    path.write_bytes(pickle.dumps([numbers], protocol=protocol))
    found = _refer_pickle.load(path)[0]
    assert found == {"a": -7, "b": 0.5, "c": 200, "d": True, "e": 9}
    assert [type(v) for v in found.values()] == [int, float, int, bool, int]


class _Harm:
    def __init__(self, call: Any, *arguments: Any) -> None:
        self.call, self.arguments = call, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call, self.arguments


def _harmful(mark: Path) -> dict[str, bytes]:
    """Pickles that make a file when loaded by ``pickle``, and the name that each asks for."""
    touch = f"open({str(mark)!r}, 'w')"
    made = {
        "builtins.eval": pickle.dumps([{"ref_id": _Harm(eval, touch)}], protocol=4),
        "__builtin__.eval": pickle.dumps([_Harm(eval, touch)], protocol=0),
        "builtins.getattr": pickle.dumps([_Harm(getattr, "x", "upper")], protocol=5),
        "posix.system": pickle.dumps([{"a": 1}, _Harm(os.system, f"touch {mark}")], protocol=2),
        "os.system": f"(S'touch {mark}'\nios\nsystem\n.".encode(),  # INST: class and call in one
        "os.popen": f"cos\npopen\n(S'touch {mark}'\ntR.".encode(),
        "numpy.load": b"cnumpy\nload\n.",
        "numpy.core.multiarray._reconstruct": b"cnumpy.core.multiarray\n_reconstruct\n.",
    }
    return made


@pytest.mark.parametrize("asked", _harmful(Path("x")))
def test_a_pickle_that_wants_to_run_is_refused_by_name(tmp_path: Path, asked: str) -> None:
    path, mark = tmp_path / "refs(unc).p", tmp_path / "ran"
    path.write_bytes(_harmful(mark)[asked])
    with pytest.raises(DataError, match=rf"refs\(unc\)\.p: the pickle asks for code to be run \(got {asked}\)"):
        _refer_pickle.load(path)
    assert not mark.exists()


def test_the_harmful_pickles_do_harm_elsewhere(tmp_path: Path) -> None:
    """Else the test before would show nothing."""
    for asked in ("builtins.eval", "__builtin__.eval", "posix.system", "os.system"):
        mark = tmp_path / asked
        pickle.loads(_harmful(mark)[asked])
        assert mark.exists()


def test_the_dataset_refuses_it_too(tmp_path: Path) -> None:
    folder = write(tmp_path, refs(), instances())
    (folder / "refcoco" / "refs(unc).p").write_bytes(_harmful(tmp_path / "ran")["builtins.eval"])
    with pytest.raises(DataError, match="builtins.eval"):
        _load(folder)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is no pickle that can be read"),
        (b"not a pickle", "is no pickle that can be read"),
        (pickle.dumps(refs())[:-40], "is no pickle that can be read"),
        (b"P1234\n.", "is no pickle that can be read"),  # a persistent id
        (b"cnumpy\ndtype\n(S'O8'\nI0\nI1\ntR.", "is no pickle that can be read .got numbers of kind 'O8'"),
        (pickle.dumps({"refs": []}), "must hold a list of dictionaries .got dict"),
        (pickle.dumps([1]), "must hold a list of dictionaries"),
    ],
)
def test_damaged_pickles(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "refs(unc).p"
    path.write_bytes(content)
    with pytest.raises(DataError, match=rf"refs\(unc\)\.p: {message}"):
        _refer_pickle.load(path)


# The real val and test splits.


def _equal(samples: Phrases, rows: list[dict[str, Any]]) -> None:
    """All boxes, texts and images, read from the table at once, and a few samples."""
    xywh = np.array([r["bbox"] for r in rows])  # [N, 4]
    xyxy = np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], 1)
    stored = samples.table.column("boxes").combine_chunks().flatten().to_numpy().reshape(-1, 4)
    np.testing.assert_array_equal(stored, xyxy)
    assert samples.table.column("text").to_pylist() == [r["sents"] for r in rows]
    assert list(samples.image_ids) == [str(int(r["img_id"].split("_")[2])) for r in rows]
    for number in range(0, len(rows), 97):
        sample = samples[number]
        assert sample.text == rows[number]["sents"] and sample.size == (rows[number]["height"], rows[number]["width"])
        torch.testing.assert_close(_truth(samples, number).boxes[0], torch.tensor(xyxy[number], dtype=torch.float32))


@real
@pytest.mark.parametrize(("variant", "split", "count"), OFFICIAL)
def test_real_rows_have_the_official_counts_and_boxes(variant: str, split: str, count: int) -> None:
    samples = _load(REAL, split, "rec", variant=variant, layout="rows", image_dir="train2014")
    rows = json.loads((REAL / f"{variant}_{split}.json").read_text())
    assert len(samples) == len(rows) == count
    _equal(samples, rows)


def _as_refer(rows: list[dict[str, Any]], split: str, numbers: Iterator[int]) -> tuple[list[Any], list[Any], list[Any]]:
    """Refs, images and annotations that say what rows of MiniGPT-4 do."""
    found, images, annotations = [], {}, []
    for key, group in itertools.groupby(rows, lambda r: str(r["img_id"])):
        same, number = list(group), next(numbers)
        name = key.rsplit("_", 1)[0]
        image = int(name.rsplit("_", 1)[1])
        size = {"height": same[0]["height"], "width": same[0]["width"]}
        images[image] = {"id": image, "file_name": f"{name}.jpg", **size}
        annotations.append({"id": number, "image_id": image, "bbox": same[0]["bbox"], "segmentation": [], "iscrowd": 0})
        found.append(ref(number, number, image, split, *(r["sents"] for r in same)))
    return found, list(images.values()), annotations


@real
@pytest.mark.parametrize(("variant", "split_by"), [("refcoco", "unc"), ("refcoco+", "unc"), ("refcocog", "umd")])
def test_the_pickle_reader_gives_the_same_counts_and_boxes(tmp_path: Path, variant: str, split_by: str) -> None:
    """REFER's own pickles could not be had: this one is made here from the real rows, of all splits in one file."""
    splits = {split: count for name, split, count in OFFICIAL if name == variant}
    rows = {split: json.loads((REAL / f"{variant}_{split}.json").read_text()) for split in splits}
    numbers = itertools.count(1)
    found, images, annotations = zip(*(_as_refer(rows[split], split, numbers) for split in splits), strict=True)
    data = {"images": [*itertools.chain(*images)], "annotations": [*itertools.chain(*annotations)]}
    write_json(tmp_path / variant / "instances.json", data)
    (tmp_path / variant / f"refs({split_by}).p").write_bytes(pickle.dumps([*itertools.chain(*found)], protocol=2))
    for split, count in splits.items():
        samples = _load(tmp_path, split, "rec", variant=variant, image_dir="train2014")
        assert len(samples) == count
        _equal(samples, rows[split])
