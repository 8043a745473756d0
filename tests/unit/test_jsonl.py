"""Own data: what each kind of row becomes, and that every fault names its line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.data_files import SIZE, picture, rectangle, rle, write_jsonl
from tests.data_files.depth_folder import depth_map, millimetres
from tests.data_files.jsonl import rows
from ufo_tune.core import masks
from ufo_tune.core.types import Sample, Targets
from ufo_tune.data.inspect import show, validate
from ufo_tune.datasets import jsonl
from ufo_tune.errors import ConfigError, DataError

BOX = [5, 6, 15, 18]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number, name in enumerate("abc"):
        picture(tmp_path / f"{name}.png", number)
    depth_map(tmp_path / "c_depth.png", millimetres())
    return tmp_path


def _load(folder: Path, content: list[Any], task: str = "rec", **options: Any) -> jsonl.Jsonl:
    write_jsonl(folder / "train.jsonl", content)
    return jsonl.load(str(folder), "train", task=task, **options)


def _truth(sample: Sample) -> Targets:
    assert sample.targets is not None
    return sample.targets


def _row(**changes: Any) -> dict[str, Any]:
    row: dict[str, Any] = {"image": "a.png", "objects": {"ref": ["the cup"], "bbox": [BOX]}}
    row["objects"].update({k: v for k, v in changes.items() if k in ("ref", "bbox", "bbox_type", "masks", "image_id")})
    row.update({k: v for k, v in changes.items() if k not in row["objects"]})
    return row


def test_one_sample_per_phrase(folder: Path) -> None:
    samples = _load(folder, rows())
    assert [s.text for s in samples] == ["the red cup", "a plate", "cup"]
    assert [_truth(s).boxes.tolist() for s in samples] == [[BOX], [[30, 10, 50, 30]], [BOX]]
    assert [s.source.rsplit("/", 1)[-1] for s in samples] == ["train.jsonl:1#0", "train.jsonl:1#1", "train.jsonl:2"]
    assert list(samples.image_ids) == ["a.png"] * 3
    assert samples[0].classes == () and _truth(samples[0]).masks is None


def test_a_file_may_hold_several_tasks(folder: Path) -> None:
    assert _load(folder, rows()).served == {
        "rec": 3, "res": 1, "detection": 2, "instance_segmentation": 2, "vqa": 1, "caption": 1, "conversation": 1,
        "depth": 1,
    }  # fmt: skip


def test_classes(folder: Path) -> None:
    samples = _load(folder, rows(), "instance_segmentation")
    truth = _truth(samples[0])
    assert samples[0].classes == ("cup", "plate") and truth.labels.tolist() == [1, 0]
    assert truth.crowd is not None and truth.crowd.tolist() == [False, True]
    expected = np.stack([rectangle(30, 10, 50, 30), rectangle(*BOX)])
    np.testing.assert_array_equal(masks.decode_many(truth.masks or ()), expected)
    assert samples[1].classes == ("cup", "plate") and _truth(samples[1]).masks == ()


def test_classes_as_an_option(folder: Path) -> None:
    samples = _load(folder, [_row(ref=["cup"])], "detection", classes=["plate", "cup"])
    assert samples[0].classes == ("plate", "cup") and _truth(samples[0]).labels.tolist() == [1]


def test_question_and_answer(folder: Path) -> None:
    turn = [{"role": "user", "content": "<image>What is it?"}, {"role": "assistant", "content": "a cup"}]
    system = {"role": "system", "content": "You are helpful."}
    samples = _load(folder, [rows()[4], {"images": ["b.png"], "messages": [system, *turn]}], "vqa")
    assert [(s.text, _truth(s).text) for s in samples] == [("How many cups?", "one"), ("What is it?", "a cup")]


def _said(*texts: str) -> list[dict[str, str]]:
    return [{"role": ("user", "assistant")[k % 2], "content": text} for k, text in enumerate(texts)]


def test_words_that_point(folder: Path) -> None:
    """Objects follow the placeholders of all turns; a box alone has an empty mask, a mask alone its bounds."""
    bitmap = rectangle(30, 10, 50, 30)
    row = {
        "image": "a.png",
        "messages": _said("<image>Where is it?", "At <bbox>.", "Segment what is left of <bbox>.", "<mask> and <bbox>"),
        "objects": {"bbox": [BOX, [1, 2, 3, 4], [], [2, 3, 4, 5]], "masks": [[], [], rle(bitmap), []]},
    }
    (sample,) = _load(folder, [row], "conversation")
    assert sample.history == (("Where is it?", "At <bbox>."),)
    truth = _truth(sample)
    assert (sample.text, truth.text) == ("Segment what is left of <bbox>.", "<mask> and <bbox>")
    assert truth.boxes.tolist() == [BOX, [1, 2, 3, 4], [30, 10, 50, 30], [2, 3, 4, 5]]
    expected = np.stack([np.zeros(SIZE, bool), np.zeros(SIZE, bool), bitmap, np.zeros(SIZE, bool)])
    np.testing.assert_array_equal(masks.decode_many(truth.masks or ()), expected)
    asked = {"image": "a.png", "question": "Where?", "answer": "<bbox>", "objects": {"bbox": [BOX]}}
    assert _load(folder, [asked], "conversation").served == {"conversation": 1}
    plain = {"image": "a.png", "question": "Where?", "answer": "here", "task": "conversation"}
    assert _load(folder, [plain], "conversation").served == {"conversation": 1}


def test_ms_swift_grounding(folder: Path) -> None:
    """The three rows of ms-swift's documentation, in their form: phrases and places are counted apart."""
    both = {"ref": ["a dog", "a woman"], "bbox": [BOX, [1, 2, 9, 9]]}
    rows_ = [
        {"messages": _said("<image>Describe.", "<ref-object><bbox> and <ref-object><bbox> are here"),
         "images": ["a.png"], "objects": both},
        {"messages": _said("<image>Find the <ref-object>", "<bbox><bbox>"), "images": ["a.png"],
         "objects": {"ref": ["sheep"], "bbox": [BOX, [1, 2, 9, 9]]}},
        {"messages": _said("<image>Open it", "Action: click(start_box='<bbox>')"), "images": ["b.png"],
         "objects": {"ref": [], "bbox": [BOX]}},
    ]  # fmt: skip
    samples = _load(folder, rows_, "conversation")
    assert samples.served == {"conversation": 3, "rec": 2}  # of the first row: each place has its phrase
    assert [(s.text, _truth(s).text) for s in samples] == [
        ("Describe.", "a dog<bbox> and a woman<bbox> are here"),
        ("Find the sheep", "<bbox><bbox>"),
        ("Open it", "Action: click(start_box='<bbox>')"),
    ]
    assert _truth(samples[1]).boxes.tolist() == [BOX, [1, 2, 9, 9]]
    assert [s.text for s in jsonl.load(str(folder), "train", task="rec")] == ["a dog", "a woman"]


def test_a_caption_has_no_question(folder: Path) -> None:
    (sample,) = _load(folder, [{"image": "a.png", "answer": ["a cup", "one cup"]}], "caption")
    assert sample.text == "" and _truth(sample).text == "a cup"
    assert _truth(sample).references == ("a cup", "one cup")


def test_depth(folder: Path) -> None:
    """A map beside whatever else the row is for; 0 is unknown and the scale is metres per unit."""
    stored = np.full(SIZE, 1500, dtype=np.uint16)
    stored[:4] = 0
    Image.fromarray(stored).save(folder / "d.png")
    row = {**_row(), "depth": "d.png"}
    for scale, metres in (({}, 1.5), ({"depth_scale": 1 / 256}, 1500 / 256)):
        (sample,) = _load(folder, [{**row, **scale}], "depth")
        assert sample.targets is not None and sample.targets.depth is not None and not sample.text
        np.testing.assert_allclose(sample.targets.depth, np.where(stored, metres, 0), rtol=1e-6)
    assert _load(folder, [row], "rec").served == {"rec": 1, "depth": 1}
    asked = {"image": "a.png", "question": "How far?", "answer": "near", "depth": "d.png"}
    assert _load(folder, [asked], "vqa").served == {"vqa": 1, "depth": 1}
    assert _load(folder, [{**row, "task": "depth"}], "depth").served == {"depth": 1}


def test_a_phrase_may_name_nothing(folder: Path) -> None:
    row = _row(ref=["the cup", "the dog"], bbox=[BOX, []], masks=[rle(rectangle(*BOX)), []])
    for task in ("rec", "res"):
        samples = _load(folder, [row], task)
        assert [len(_truth(s).boxes) for s in samples] == [1, 0] and samples[1].text == "the dog"
    assert _truth(samples[1]).masks == ()
    assert _load(folder, [_row(ref=["the dog"], bbox=[[]])], "rec").served == {"rec": 1}
    assert not validate(folder / "train.jsonl")


def test_ms_swift_rows_unchanged(folder: Path) -> None:
    row = {
        "messages": [
            {"role": "user", "content": "<image><image>Find <ref-object>"},
            {"role": "assistant", "content": "<bbox>"},
        ],
        "images": ["a.png", {"path": "b.png", "bytes": None}],
        "objects": {"ref": ["the cup", "the plate"], "bbox": [[0.1, 0.2, 0.5, 0.75], [0, 0, 1, 1]],
                    "bbox_type": "norm1", "image_id": [1, 0]},
    }  # fmt: skip
    samples = _load(folder, [row])
    assert [s.image_id for s in samples] == ["b.png", "a.png"]
    torch.testing.assert_close(_truth(samples[0]).boxes, torch.tensor([[6.0, 8, 30, 30]]))
    assert _truth(samples[1]).boxes.tolist() == [[0, 0, SIZE[1], SIZE[0]]]
    grid = _load(folder, [{**row, "classes": ["the plate", "the cup"]}], "detection")
    assert [s.image_id for s in grid] == ["a.png", "b.png"]
    assert [_truth(s).labels.tolist() for s in grid] == [[0], [1]]


@pytest.mark.parametrize("form", ["runs", "compressed", "polygons", "polygon", "png", "palette"])
def test_masks_in_every_form(folder: Path, form: str) -> None:
    bitmap = rectangle(*BOX)
    runs = np.diff(np.flatnonzero(np.diff(np.concatenate([[2], bitmap.T.reshape(-1), [2]]))))
    Image.fromarray(bitmap.astype(np.uint8)).save(folder / "png.png")
    palette = Image.fromarray(bitmap.astype(np.uint8), "P")
    palette.putpalette([0, 0, 0, 0, 0, 0])  # the number counts, not its colour
    palette.save(folder / "palette.png")
    polygon = [5, 6, 15, 6, 15, 18, 5, 18]
    value = {
        "runs": {"size": list(SIZE), "counts": runs.tolist()}, "compressed": rle(bitmap), "polygons": [polygon],
        "polygon": polygon, "png": "png.png", "palette": "palette.png",
    }[form]  # fmt: skip
    row = _row(masks=[value])
    del row["objects"]["bbox"]
    sample = _load(folder, [row], "res")[0]
    np.testing.assert_array_equal(masks.decode_many(_truth(sample).masks or ()), bitmap[None])
    assert _truth(sample).boxes.tolist() == [BOX]  # from the mask
    assert _truth(_load(folder, [row], "rec")[0]).boxes.tolist() == [BOX]


def test_sizes_are_those_a_viewer_shows(folder: Path) -> None:
    exif = Image.Exif()
    exif[274] = 6
    Image.open(folder / "a.png").save(folder / "turned.png", exif=exif)
    sample = _load(folder, [_row(image="turned.png", width=40, height=60, bbox=[[0, 0, 40, 60]])])[0]
    assert sample.size == (60, 40)


BAD: list[tuple[Any, str, str]] = [
    ("{not json", "rec", "is not valid JSON"),
    ([1], "rec", "is no object .got list"),
    ({"objects": {"ref": []}}, "rec", "has no image .got None"),
    ({"image": "a.png"}, "rec", "holds no task .got image"),
    ({"image": "a.png", "object": {}}, "rec", "no such key .got 'object'.; did you mean 'objects'"),
    (_row(clases=["a"]), "rec", "no such key .got 'clases'.; did you mean 'classes'"),
    ({"image": "a.png", "objects": {"refs": ["a"]}}, "rec", "objects: no such key .got 'refs'.; did you mean 'ref'"),
    (_row(ref=["a", "b"]), "rec", "objects.bbox: needs one per ref .got 1 for 2"),
    (_row(ref=[""]), "rec", r"objects.ref\[0\]: empty phrase .got ''"),
    (_row(ref=["  "]), "rec", "empty phrase"),
    (_row(ref="cup"), "rec", "objects.ref: is no list of texts"),
    ({"image": "a.png", "objects": {"ref": ["a"]}}, "rec", "neither bbox nor masks"),
    (_row(bbox_type="norm1000"), "rec", "bbox_type: unknown .got 'norm1000'.; did you mean 'norm1'"),
    (_row(image_id=[1]), "rec", "no such image .got 1 of 1"),
    (_row(task="wrong"), "rec", "task: no such task .got 'wrong'"),
    (_row(task="res"), "rec", "does not hold what task res needs"),
    (_row(width="60", height=40), "rec", "width and height: are not two whole numbers"),
    ({"image": "a.png", "question": "", "answer": "b"}, "vqa", "question: is empty"),
    ({"image": "a.png", "question": "what?"}, "vqa", "answer: is empty"),
    (
        {"image": "a.png", "messages": [{"role": "user", "content": "hi"}]},
        "vqa",
        "messages: are not question, answer, ...",
    ),
    ({"image": "a.png", "messages": "hi"}, "vqa", "messages: are not question, answer, ..."),
    (_row(depth=7), "depth", "depth: is no path, or not of one image .got 7, 1 images"),
    (_row(depth="d.png", depth_scale=0), "depth", "depth_scale: is no scale .got 0"),
    (_row(depth="absent.png"), "depth", "absent.png: no such depth map"),
    (_row(depth="a.png"), "depth", "a.png: holds no 16-bit depth"),
    (_row(image="absent.png"), "rec", "absent.png: no such image"),
    (_row(image="train.jsonl"), "rec", "train.jsonl: is not an image"),
    (_row(width=50, height=40), "rec", "image is 60x40 but the row says 50x40"),
    (_row(bbox=[[5, 6, 75, 18]]), "rec", r"object 0: box is outside the image .got \[5.*image 60x40"),
    (_row(bbox=[[15, 6, 5, 18]]), "rec", "object 0: box has no area"),
    (_row(bbox=[[5, 6, 15]]), "rec", "object 0: bbox: is not 4 numbers"),
    (_row(bbox=[["5", 6, 15, 18]]), "rec", "object 0: bbox: is not 4 numbers"),
    (_row(bbox_type="norm1"), "rec", "object 0: box is not in 0 to 1"),
    (_row(masks=[rle(rectangle(*BOX)[:20])]), "res", r"object 0: mask is \(20, 60\) but the image is \(40, 60\)"),
    (_row(masks=["absent.png"]), "res", "absent.png: cannot read the mask"),
    (_row(masks=["small.png"]), "res", r"object 0: mask is \(2, 3\) but the image is \(40, 60\)"),
    (_row(masks=[None]), "res", "object 0: mask: no known form"),
    (_row(masks=[{"size": list(SIZE), "counts": "zzz"}]), "res", "object 0: mask"),
    (_row(masks=[{"size": list(SIZE), "counts": [2400]}]), "res", "object 0: mask is empty"),
    (
        _row(ref=["cap"], classes=["cup", "plate"]),
        "detection",
        "object 0: unknown class .got 'cap'.; did you mean 'cup'",
    ),
]


@pytest.mark.parametrize(("row", "task", "message"), BAD)
def test_every_fault_names_its_line(folder: Path, row: Any, task: str, message: str) -> None:
    Image.new("L", (3, 2)).save(folder / "small.png")
    good = [r for r in rows() if r.get("question") or "objects" in r]
    write_jsonl(folder / "train.jsonl", [*good, "", row])
    with pytest.raises(DataError, match=rf"train\.jsonl:{len(good) + 2}: .*{message}") as caught:
        list(jsonl.load(str(folder), "train", task=task))
    assert "\n" not in str(caught.value)
    assert validate(folder / "train.jsonl") == [str(caught.value)]  # found once, whatever the task


def test_bad_rows_can_be_left_out_and_are_counted(folder: Path) -> None:
    samples = _load(folder, [_row(), "{", _row(ref=[""]), _row(ref=["b"])], on_bad_sample="skip")
    assert [s.text for s in samples] == ["the cup", "b"] and samples.skipped == 2
    assert samples[1].source.endswith("train.jsonl:4")


def test_nothing_for_the_task(folder: Path) -> None:
    with pytest.raises(DataError, match=r"no rows for task detection .got rec 1.; detection needs classes"):
        _load(folder, [_row()], "detection")
    with pytest.raises(DataError, match=r"x.jsonl: no such JSONL file; .* has a.png, b.png, c.png"):
        jsonl.load(str(folder), "x", task="rec")
    with pytest.raises(ConfigError, match="no such task .got 'vqaa'.; did you mean 'vqa'"):
        _load(folder, [_row()], "vqaa")


def test_validate_puts_every_row_into_words(folder: Path) -> None:
    content = [
        _row(ref=["the <MASK> box"]),
        _row(ref=["nothing"], bbox=[[]]),  # wordings such as `grec` know phrases that name nothing
        {"image": "a.png", "answer": ["two cups", "two <box> cups"]},  # training draws one of them
        {"image": "a.png", "classes": ["cup", "background"]},
        {"image": "a.png", "question": "How many <image>?", "answer": "two"},
    ]
    told = [p.split(": ", 1) for p in validate(write_jsonl(folder / "words.jsonl", content))]
    assert [(Path(place).name, why.partition(" (")[0]) for place, why in told] == [
        ("words.jsonl:1", "the phrase spells the token <MASK>"),
        ("words.jsonl:3", "the caption spells the token <box>"),
        ("words.jsonl:4", "a class name is empty, holds a comma, or means 'no object'"),
        ("words.jsonl:5", "the text spells a model's own <image>"),
    ]


def test_validate_lists_all_problems_in_the_order_of_lines(folder: Path) -> None:
    (folder / "c.png").write_bytes((folder / "c.png").read_bytes()[:500])
    content = [
        _row(bbox=[[0, 0, 99, 9]]), "{", _row(masks=[rle(rectangle(*BOX))]), _row(image="c.png"),
        _row(ref=["dog"], classes=["cup"]), _row(image="c.png", ref=["other"]), _row(ref=[""]),
    ]  # fmt: skip
    write_jsonl(folder / "train.jsonl", content)
    found = validate(folder / "train.jsonl")
    assert [p.split(": ")[0].rsplit(":", 1)[-1] for p in found] == ["1", "2", "4", "5", "6", "7"]
    assert "cannot read the image" in found[2]
    write_jsonl(folder / "train.jsonl", rows())
    assert validate(folder / "train.jsonl")[0].count("c.png") == 1  # the row without objects shows it
    picture(folder / "c.png")
    assert validate(folder / "train.jsonl") == []
    with pytest.raises(DataError, match="empty.jsonl: holds no rows .got an empty file.; write one JSON object per"):
        validate(write_jsonl(folder / "empty.jsonl", []))


def test_show_draws_a_sheet_per_task(folder: Path) -> None:
    write_jsonl(folder / "train.jsonl", rows())
    written = show(folder / "train.jsonl", folder / "seen", limit=2)
    assert sorted(p.stem for p in written) == sorted(jsonl.TASKS)
    for path in written:
        with Image.open(path) as sheet:
            assert sheet.mode == "RGB" and sheet.width > 384
    write_jsonl(folder / "train.jsonl", [*rows(), "{"])
    with pytest.raises(DataError, match=rf"train.jsonl:{len(rows()) + 1}: is not valid JSON"):
        show(folder / "train.jsonl", folder / "seen")


def test_offsets_hold_for_any_line_ends_and_letters(folder: Path) -> None:
    lines = [json.dumps(_row(ref=[f"die Tasse Nr. {n}, größer"]), ensure_ascii=False) for n in range(4)]
    (folder / "train.jsonl").write_bytes(("\r\n".join(lines[:2]) + "\r\n\r\n" + "\n".join(lines[2:])).encode())
    samples = jsonl.load(str(folder), "train", task="rec")
    assert [s.text for s in samples] == [f"die Tasse Nr. {n}, größer" for n in range(4)]
    assert samples[3].source.endswith(":5")


def test_a_question_may_do_without_an_image(folder: Path, tmp_path: Path) -> None:
    """Text-only rows: read, encoded beside rows that have an image, and drawn as words."""
    from tests import tiny
    from ufo_tune.data.collate import Collator
    from ufo_tune.engine.sources import ask

    content = [
        {"question": "what is red", "answer": "a circle"},
        {"image": "a.png", "question": "what is it", "answer": "a square"},
        {"messages": [{"role": "user", "content": "what"}, {"role": "assistant", "content": "the box"}]},
    ]
    samples = _load(folder, content, "vqa")
    assert [s.image is None for s in samples] == [True, False, True] and samples[0].size == (0, 0)
    assert [_truth(s).text for s in samples] == ["a circle", "a square", "the box"]
    asked = ask("vqa", "", {})
    model = tiny.model("llava", tmp_path)
    collate = Collator(model.processor, asked.task, asked.template, model.codec, asked.encode_options)
    batch = collate.rows([(s,) for s in samples], np.random.default_rng(0))
    assert batch is not None and [len(v) for v in batch.views] == [0, 1, 0]
    assert len(batch.pixels["pixel_values"]) == 1
    assert not validate(folder / "train.jsonl") and len(show(folder / "train.jsonl", tmp_path / "seen")) == 1
