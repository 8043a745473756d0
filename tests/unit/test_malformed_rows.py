"""Every way a row of own data can be wrong is one line that names file and line; nothing crashes, nothing is silent."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.data_files import SIZE, picture, rectangle, rle
from ufo_tune.core.types import Sample
from ufo_tune.data.inspect import fix, kind_of, line_of, validate
from ufo_tune.datasets import jsonl
from ufo_tune.errors import ConfigError, DataError, UfoTuneError

BOX = [5, 6, 15, 18]
GOOD = {"image": "a.png", "objects": {"ref": ["the cup"], "bbox": [BOX]}}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    picture(tmp_path / "a.png")
    Image.new("L", (3, 2), 255).save(tmp_path / "small.png")
    Image.new("L", SIZE[::-1], 0).save(tmp_path / "empty.png")
    (tmp_path / "words.png").write_text("no picture")
    (tmp_path / "comma.txt").write_text("cup\nplate, red\n")
    (tmp_path / "latin.txt").write_bytes("größe\n".encode("latin-1"))
    return tmp_path


def _objects(**changes: Any) -> dict[str, Any]:
    return {"image": "a.png", "objects": {**GOOD["objects"], **changes}}  # type: ignore[dict-item]


def _classes(*names: str, **changes: Any) -> dict[str, Any]:
    return {**_objects(ref=["cup"], **changes), "classes": list(names)}


def _mask(value: Any) -> dict[str, Any]:
    return _objects(masks=[value])


def _vqa(question: Any, answer: Any) -> dict[str, Any]:
    return {"image": "a.png", "question": question, "answer": answer}


def _talk(answer: str, *, question: str = "Where?", task: str = "", **objects: Any) -> dict[str, Any]:
    named = {"task": task} if task else {}
    return {**_vqa(question, answer), **named, "objects": {"bbox": [BOX], **objects}}


RUNS = rle(rectangle(*BOX))
BAD: dict[str, tuple[Any, str]] = {
    # bytes, and JSON itself
    "not JSON": ("{no", "is not valid JSON"),
    "cut off": (json.dumps(GOOD)[:-5], "is not valid JSON"),
    "two objects in a line": (json.dumps(GOOD) + json.dumps(GOOD), "is not valid JSON"),
    "not UTF-8": (b'{"image": "a.png", "question": "gr\xf6\xdfe"}', r"is not UTF-8 .got byte b'\\xf6' at 34"),
    "UTF-16": ("{}".encode("utf-16-be"), "is not valid JSON"),
    "half a letter": (_vqa("so \ud83d", "x"), r"question: holds half a letter .got 'so \\ud83d'"),
    "nested too deeply": ('{"image": ' + "[" * 100_000, "is not valid JSON"),
    "a number of a million digits": ('{"image": "a.png", "width": 1' + "0" * 10_000 + "}", "is not valid JSON"),
    "a list": ([GOOD], "is no object .got list"),
    "a key twice": ('{"image": "a.png", "image": "b.png"}', "a key stands twice .got 'image'"),
    "a misspelt key": ({**GOOD, "clases": ["cup"]}, "did you mean 'classes'"),
    "an unknown key of objects": (_objects(boxes=[BOX]), "no such key .got 'boxes'"),
    # wrong types
    "objects is a list": ({"image": "a.png", "objects": [BOX]}, "objects: is no object .got list"),
    "image is a number": ({**GOOD, "image": 5}, "has no image .got 5"),
    "image is empty": ({**GOOD, "image": ""}, r"has no image .got \[''\]"),
    "images holds null": ({"images": [None], "objects": GOOD["objects"]}, "has no image"),
    "image has a long name": ({**GOOD, "image": "a" * 252 + ".png"}, "no such image .got file name too long"),
    "image holds a null character": ({**GOOD, "image": "a\0.png"}, "no such image"),
    "ref is a text": (_objects(ref="cup"), "objects.ref: is no list of texts"),
    "ref holds a number": (_objects(ref=[1]), "objects.ref: is no list of texts"),
    "bbox is one box": (_objects(bbox=BOX), "objects.bbox: needs one per ref .got 4 for 1"),
    "bbox is an object": (_objects(bbox={"x": 1}), "objects.bbox: needs one per ref"),
    "a box of words": (_objects(bbox=[["5", 6, 15, 18]]), "object 0: bbox: is not 4 numbers"),
    "a box of true": (_objects(bbox=[[True, 6, 15, 18]]), "object 0: bbox: is not 4 numbers"),
    "a box of three": (_objects(bbox=[BOX[:3]]), "object 0: bbox: is not 4 numbers"),
    "a box of nothing, of a class": (_classes("cup", bbox=[[]]), r"object 0: bbox: is not 4 numbers .got \[\]"),
    "a box of null": (_objects(bbox=[None]), "object 0: bbox: is not 4 numbers"),
    "crowd in words": (_objects(crowd=["no"]), "objects.crowd: are not true or false"),
    "image_id is true": (_objects(image_id=[True]), "objects.image_id: are not whole numbers"),
    "image_id beyond": (_objects(image_id=[1]), "objects.image_id: no such image .got 1 of 1"),
    "bbox_type is a list": (_objects(bbox_type=["real"]), "objects.bbox_type: unknown"),
    "task is a list": ({**GOOD, "task": ["rec"]}, "task: no such task"),
    "width in words": ({**GOOD, "width": "60", "height": 40}, "width and height: are not two whole numbers"),
    "height is missing": ({**GOOD, "width": 60}, "width and height: are not two whole numbers"),
    "width is true": ({**GOOD, "width": True, "height": 40}, "width and height: are not two whole numbers"),
    "question is a list": (_vqa(["why"], "x"), "question: is empty"),
    "answer is null": (_vqa("why", None), "answer: is empty"),
    "answers are numbers": (_vqa("why", ["two", 2]), "answer: is empty .got 2"),
    "messages out of turn": (
        {"image": "a.png", "messages": [{"role": "assistant", "content": "x"}]}, "messages: are not question, answer"
    ),
    # words that point
    "more placeholders than objects": (_talk("At <bbox> and <bbox>."), "<bbox> and <mask> stand 2 times for 1 objects"),
    "more objects than placeholders": (_talk("No.", task="conversation"), "stand 0 times for 1 objects"),
    "placeholders without objects": (_vqa("where", "at <bbox>"), "stand 1 times for 0 objects"),
    "a mask that is none": (_talk("It is <mask>."), "object 0: has no mask for its <mask>"),
    "a box that is none": (_talk("At <bbox>.", bbox=[[]]), "object 0: has no bbox for its <bbox>"),
    "a question by a mask": (_talk("A cup.", question="What is <mask>?"), "a question points by <mask>"),
    "more phrases than places": (_talk("<ref-object><bbox>", ref=["a", "b"]), "<ref-object> stands 1 times for 2"),
    "a place outside": (_talk("At <bbox>.", bbox=[[5, 6, 99, 18]]), "object 0: box is outside the image"),
    "a mask of a place of another size": (
        _talk("<mask>", masks=[rle(rectangle(*BOX)[:20])]), r"object 0: mask is \(20, 60\) but the image is"
    ),
    "masks for fewer places": (_talk("<bbox><mask>", bbox=[BOX, BOX], masks=[]), "objects.masks: needs one per place"),
    # boxes
    "reversed": (_objects(bbox=[[15, 18, 5, 6]]), "object 0: box has no area"),
    "no width": (_objects(bbox=[[5, 6, 5, 18]]), "object 0: box has no area"),
    "outside": (_objects(bbox=[[5, 6, 99, 18]]), "object 0: box is outside the image"),
    "beyond": (_objects(bbox=[[70, 50, 80, 60]]), "object 0: box is outside the image"),
    "NaN": (_objects(bbox=[[float("nan"), 6, 15, 18]]), "object 0: bbox: is not finite"),
    "infinite": (_objects(bbox=[[5, 6, float("inf"), 18]]), "object 0: bbox: is not finite"),
    "1e999": ('{"image": "a.png", "objects": {"ref": ["x"], "bbox": [[1, 1, 1e999, 9]]}}', "is not finite"),
    "a huge whole number": (_objects(bbox=[[5, 6, 10**400, 18]]), "object 0: bbox: is not finite"),
    "not in 0 to 1": (_objects(bbox_type="norm1"), "object 0: box is not in 0 to 1"),
    "xywh": (_objects(bbox=[[50, 30, 10, 10]]), "object 0: box has no area"),
    "neither boxes nor masks": ({"image": "a.png", "objects": {"ref": ["x"]}}, "have neither bbox nor masks"),
    # masks
    "a polygon of two points": (_mask([[5, 6, 15, 18]]), "object 0: polygon: is not x, y pairs of 3 points or more"),
    "an odd polygon": (_mask([[5, 6, 15, 18, 5, 6, 7]]), "object 0: polygon: is not x, y pairs"),
    "a polygon of words": (_mask([["a", 6, 15, 18, 5, 6]]), "object 0: polygon: is not a list of numbers"),
    "a polygon of NaN": (_mask([[float("nan"), 6, 15, 18, 5, 6]]), "object 0: polygon: reaches far beyond"),
    "a polygon far away": (_mask([[1e9, 6, 15, 18, 5, 6]]), "object 0: polygon: reaches far beyond"),
    "a polygon without area": (_mask([[5, 6, 5, 6, 5, 6]]), "object 0: mask is empty"),
    "no polygons": (_mask([]), "object 0: mask is empty"),
    "run lengths of another size": (_mask(rle(rectangle(*BOX)[:20])), r"object 0: mask is \(20, 60\) but the image is"),
    "run lengths too short": (_mask({**RUNS, "counts": [5, 5]}), "object 0: mask: runs fill 10 pixels"),
    "negative run lengths": (_mask({**RUNS, "counts": [2405, -5]}), "object 0: mask: runs fill"),
    "damaged run lengths": (_mask({**RUNS, "counts": RUNS["counts"][:-1]}), "object 0: mask: runs fill"),
    "run lengths of words": (_mask({**RUNS, "counts": ["a"]}), "object 0: mask: no known form"),
    "run lengths of one number": (_mask({**RUNS, "counts": 2400}), "object 0: mask: no known form"),
    "a size of one number": (_mask({**RUNS, "size": 40}), "object 0: mask: no known form"),
    "no size": (_mask({"counts": RUNS["counts"]}), "object 0: mask: no known form"),
    "a mask of null": (_mask(None), "object 0: mask: no known form"),
    "a missing PNG": (_mask("absent.png"), "absent.png: cannot read the mask"),
    "a PNG of another size": (_mask("small.png"), r"object 0: mask is \(2, 3\)"),
    "a PNG of nothing": (_mask("empty.png"), "object 0: mask is empty"),
    "no PNG": (_mask("words.png"), "words.png: cannot read the mask"),
    "ignore of another size": (
        {**_mask(RUNS), "ignore": rle(rectangle(*BOX)[:20])}, r"ignore: mask is \(20, 60\) but the image is"
    ),
    # images
    "missing": ({**GOOD, "image": "absent.png"}, "absent.png: no such image"),
    "a folder": ({**GOOD, "image": "."}, "no such image .got a folder"),
    "no picture": ({**GOOD, "image": "words.png"}, "words.png: is not an image"),
    "of another size": ({**GOOD, "width": 40, "height": 60}, "image is 60x40 but the row says 40x60"),
    # words
    "an empty phrase": (_objects(ref=[" "]), r"objects.ref\[0\]: empty phrase"),
    "a phrase of 100,000 letters": (_objects(ref=["x" * 100_000]), "objects.ref: is too long .got 100000 letters"),
    "an answer of a million letters": (_vqa("why", "x" * 1_000_000), "answer: is too long .got 1000000 letters"),
    "a class not in the list": (_classes("plate", "cap"), "object 0: unknown class .got 'cup'.; did you mean 'cap'"),
    "a comma in a class": (_classes("cup", "plate, red"), "classes: a class name is empty or holds a comma"),
    "an empty class": (_classes("cup", ""), "classes: a class name is empty or holds a comma"),
    "a class twice": (_classes("cup", "plate", " cup"), "classes: a class is listed twice .got 'cup'"),
    "an absent class not in the list": ({**_classes("cup"), "absent": ["plate"]}, "absent: unknown class .got 'plate'"),
    "a row twice": (GOOD, "is a row twice .got the same in line 1"),
    "a row twice, in another order": (dict(reversed(GOOD.items())), "is a row twice .got the same in line 1"),
    "nothing": ({}, "has no image"),
    "nothing but an image": ({"image": "a.png"}, "holds no task"),
}  # fmt: skip


def _write(path: Path, *rows: Any) -> Path:
    lines = (r if isinstance(r, bytes) else (r if isinstance(r, str) else json.dumps(r)).encode() for r in rows)
    path.write_bytes(b"".join(line + b"\n" for line in lines))
    return path


@pytest.mark.parametrize("name", BAD)
def test_one_line_that_names_file_and_line(name: str, folder: Path) -> None:
    row, says = BAD[name]
    file = _write(folder / "train.jsonl", GOOD, "", row, {**GOOD, "width": 60, "height": 40})
    problems = validate(file)
    assert len(problems) == 1, problems
    (problem,) = problems
    assert line_of(problem, file) == 3 and "\n" not in problem and len(problem) < 500
    assert re.search(rf"train\.jsonl:3: .*{says}", problem), problem
    assert kind_of(problem) and "train.jsonl" not in kind_of(problem)


@pytest.mark.parametrize("name", [n for n in BAD if not n.startswith("a row twice")])
def test_training_stops_there_or_skips_it(name: str, folder: Path) -> None:
    """What ``validate`` reports never reaches a model in silence: the row or the sample raises."""
    row, says = BAD[name]
    _write(folder / "train.jsonl", GOOD, row)
    caught: list[str] = []
    for task in jsonl.TASKS:
        try:
            list(jsonl.load(str(folder), "train", task=task))
        except UfoTuneError as error:
            caught.append(str(error))
    assert any(re.search(rf"train\.jsonl:2: .*{says}", said) for said in caught), caught
    found = [s.source for s in _good(jsonl.load(str(folder), "train", task="rec", on_bad_sample="skip"))]
    assert found and found[0].endswith("train.jsonl:1")


def _good(samples: jsonl.Jsonl) -> list[Sample]:
    found = []
    for number in range(len(samples)):
        try:
            found.append(samples[number])
        except DataError:
            continue
    return found


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("comma.txt", "comma.txt: a class name is empty or holds a comma .got 'plate, red'"),
        ("latin.txt", "latin.txt: is not UTF-8"),
        ("absent.txt", "absent.txt: no such file of class names"),
        ("empty.txt", "empty.txt: holds no class names"),
    ],
)
def test_a_file_of_classes_is_told_once_for_all_its_rows(name: str, says: str, folder: Path) -> None:
    (folder / "empty.txt").write_text("\n")
    rows = [{**_objects(ref=["cup"], bbox=[[n, 0, 20, 20]]), "classes": name} for n in range(3)]
    file = _write(folder / "train.jsonl", *rows)
    (problem,) = validate(file)
    assert re.search(says, problem), problem
    with pytest.raises(DataError, match=says):  # no row can be left out for it
        fix(file, folder / "clean.jsonl", [problem])


def test_a_clean_copy_has_the_good_rows_byte_for_byte_and_says_what_it_lacks(folder: Path) -> None:
    spaced = json.dumps(GOOD, separators=(" , ", " : "))
    last = json.dumps(_objects(ref=["größe"]), ensure_ascii=False)
    bad = [BAD[n][0] for n in ("reversed", "not JSON", "a polygon of two points", "missing")]
    file = _write(folder / "train.jsonl", spaced, *bad, "", _objects(bbox=[[7, 7, 6, 6]]), GOOD)
    file.write_bytes(file.read_bytes() + last.encode())  # without an end of line
    problems = validate(file)
    done = fix(file, folder / "clean.jsonl", problems)
    assert done.kept == 2
    assert done.left_out == {
        "box has no area": 2,
        "is not valid JSON": 1,
        "polygon: is not x, y pairs of N points or more": 1,
        "no such image": 1,
        "is a row twice": 1,
    }
    assert (folder / "clean.jsonl").read_text(encoding="utf-8") == f"{spaced}\n{last}\n"
    assert validate(folder / "clean.jsonl") == []
    with pytest.raises(ConfigError, match="clean.jsonl: exists already"):
        fix(file, folder / "clean.jsonl", problems)
    (folder / "other").mkdir()
    with pytest.raises(ConfigError, match="lies in another folder"):
        fix(file, folder / "other" / "clean.jsonl", problems)
    _write(file, *bad)
    with pytest.raises(DataError, match="no row is without problems"):
        fix(file, folder / "none.jsonl", validate(file))
    assert not (folder / "none.jsonl").exists()


@pytest.mark.parametrize(
    ("problem", "kind"),
    [
        ("/a/b.jsonl:3: object 0: box has no area (got [1, 2]); give x1 < x2", "box has no area"),
        ("b.jsonl:3#1: mask is (20, 60) but the image is (40, 60); check it", "mask is (N, N) but the image is (N, N)"),
        ("lvis/val#7: annotation 12: mask is empty (got 0 pixels); drop it", "mask is empty"),
        ("b.jsonl:3: /a/b c.png: no such image (got nothing); check the path", "no such image"),
        ("coco/val#1: the image is (4, 6) but the annotation says (6, 4); mend", None),
        ("is wrong", "is wrong"),
    ],
)
def test_kinds(problem: str, kind: str | None) -> None:
    assert kind_of(problem) == (kind or "the image is (N, N) but the annotation says (N, N)")


def test_an_index_of_a_bad_file_is_no_secret_of_the_cache(folder: Path) -> None:
    """The table is made once; a copy of the file elsewhere still tells its own name, and a mended one is good."""
    file = _write(folder / "train.jsonl", GOOD, "{")
    (first,) = validate(file)
    (folder / "b").mkdir()
    picture(folder / "b" / "a.png")
    (second,) = validate(_write(folder / "b" / "copy.jsonl", GOOD, "{"))
    assert "train.jsonl:2: " in first and "copy.jsonl:2: " in second
    assert validate(_write(file, GOOD)) == []


def test_worker_memory_does_not_grow_with_the_file(folder: Path) -> None:
    """What is pickled for a worker is one number a row."""
    import pickle

    row = json.dumps(_objects(ref=["a cup"] * 40, bbox=[BOX] * 40))
    samples = jsonl.open_file(_write(folder / "big.jsonl", *[row] * 200), task="rec")
    assert len(samples) == 8000 and len(pickle.dumps(samples)) < 8 * 200 + 4000
    assert samples.ends.nbytes == np.int64().nbytes * 200
