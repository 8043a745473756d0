"""ReasonSeg: masks as LISA draws them, ignored regions, rephrasings, faults."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.data_files import SIZE, make, picture, rectangle, write_json
from tests.data_files.reason_seg import annotation, rectangle_shape, shape
from ufo_tune.core import masks
from ufo_tune.core.types import Targets
from ufo_tune.datasets import _filled_polygon, reason_seg
from ufo_tune.datasets._phrases import Phrases
from ufo_tune.errors import DataError

REAL = Path(os.environ.get("UFO_TUNE_REAL_DATA", "")) / "reasonseg"
real = pytest.mark.skipif(
    not os.environ.get("UFO_TUNE_REAL_DATA") or not REAL.is_dir(), reason="UFO_TUNE_REAL_DATA has no reasonseg"
)


def _truth(samples: Phrases, number: int) -> Targets:
    targets = samples[number].targets
    assert targets is not None
    return targets


def _mask(samples: Phrases, number: int) -> np.ndarray:
    found = _truth(samples, number).masks
    assert found is not None and len(found) == 1
    return masks.decode(found[0])


# Polygons as OpenCV draws them.


def test_corners_belong_to_a_polygon() -> None:
    drawn = _filled_polygon.draw([(5, 6), (24, 6), (24, 25), (5, 25)], SIZE)
    np.testing.assert_array_equal(drawn, rectangle(5, 6, 25, 26))
    np.testing.assert_array_equal(_filled_polygon.draw([(-9, -9), (90, -9), (90, 90), (-9, 90)], SIZE), np.ones(SIZE))
    assert not _filled_polygon.draw([(70, 50), (80, 50), (80, 60)], SIZE).any()
    dot, line = np.zeros(SIZE, dtype=bool), np.zeros(SIZE, dtype=bool)
    dot[7, 3] = line[10:21, 10:21][np.eye(11, dtype=bool)] = True
    line[10:21, 10:21] = np.eye(11, dtype=bool)
    np.testing.assert_array_equal(_filled_polygon.draw([(3, 7)], SIZE), dot)
    np.testing.assert_array_equal(_filled_polygon.draw([(20, 20), (10, 10)], SIZE), line)


def test_a_polygon_that_crosses_itself_is_even_odd() -> None:
    """A five-pointed star has a hole."""
    star = [(30, 2), (41, 36), (12, 15), (48, 15), (19, 36)]
    drawn = _filled_polygon.draw(star, SIZE)
    assert not drawn[20, 30] and drawn[8, 30] and drawn[17, 18] and drawn[30, 24]


def test_triangles_hold_all_their_points_and_hardly_more() -> None:
    """By the sign of the cross product, for triangles at random."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    for _ in range(100):
        points = rng.integers(0, (SIZE[1], SIZE[0]), (3, 2))
        edges = np.roll(points, -1, 0) - points  # [3, 2]
        turn = float(np.sign(edges[0, 0] * edges[1, 1] - edges[0, 1] * edges[1, 0])) or 1.0
        beyond = [
            -turn * (ex * (y - py) - ey * (x - px)) / max(np.hypot(ex, ey), 1e-9)
            for (px, py), (ex, ey) in zip(points, edges, strict=True)
        ]
        distance = np.max(beyond, axis=0)  # [H, W] pixels outside, at most, of the lines
        drawn = _filled_polygon.draw([(int(a), int(b)) for a, b in points], SIZE)
        if turn and abs(np.cross(np.append(edges[0], 0), np.append(edges[1], 0))[2]) > 0:
            assert drawn[distance <= 0].all() and (distance[drawn] <= 0.5 + 1e-9).all()


def test_equal_to_opencv() -> None:
    cv2 = pytest.importorskip("cv2", reason="OpenCV is no dependency; install version 4 to compare pixels")
    if not cv2.__version__.startswith("4."):
        pytest.skip(f"OpenCV {cv2.__version__} rounds some halves the other way")
    rng = np.random.default_rng(1)
    for _ in range(200):
        points = rng.integers(0, (SIZE[1], SIZE[0]), (int(rng.integers(1, 12)), 2))
        theirs = np.zeros(SIZE, dtype=np.uint8)
        cv2.polylines(theirs, np.array([points], dtype=np.int32), True, 1, 1)
        cv2.fillPoly(theirs, np.array([points], dtype=np.int32), 1)
        ours = _filled_polygon.draw([(int(a), int(b)) for a, b in points], SIZE)
        np.testing.assert_array_equal(ours, theirs > 0)


# ReasonSeg.


def _reason(
    folder: Path, *shapes: dict[str, Any], split: str = "val", text: Any = ("what?",), **options: Any
) -> Phrases:
    picture(folder / split / "a.jpg")
    write_json(folder / split / "a.json", annotation(list(text), True, *shapes))
    return reason_seg.load(str(folder), split, task="res", **options)


def test_targets_and_ignored_regions(tmp_path: Path) -> None:
    root, split, _ = make("reason_seg", tmp_path)
    samples = reason_seg.load(root, split, task="res")
    assert [(s.text, s.source, s.image_id) for s in samples] == [
        ("something to sit on", "reason_seg/val#chair", "chair"),
        ("What is it that one drinks from?", "reason_seg/val#cup.0", "cup"),
    ]
    hole = rectangle(10, 10, 15, 15)
    np.testing.assert_array_equal(_mask(samples, 0), rectangle(5, 6, 25, 26) & ~hole)  # corners are cut, and inside
    first, second = _truth(samples, 0), _truth(samples, 1)
    assert first.ignore is not None and second.ignore is None
    np.testing.assert_array_equal(masks.decode(first.ignore), hole)
    assert first.boxes.tolist() == [[5, 6, 25, 26]] and second.boxes.tolist() == [[30, 5, 50, 35]]
    train = reason_seg.load(root, "train", task="res")
    assert _truth(train, 0).ignore is None and not (_mask(train, 0) & hole).any()


def test_the_smallest_polygon_decides(tmp_path: Path) -> None:
    """Whatever the order in the file."""
    inner, middle = rectangle_shape("target", 20, 15, 24, 19), rectangle_shape("IGNORE too", 15, 10, 29, 24)
    outer, flag = rectangle_shape("target", 5, 5, 45, 35), shape("Flag", [[0, 0], [59, 39]])
    small, ring = rectangle(20, 15, 25, 20), rectangle(15, 10, 30, 25)
    for number, order in enumerate([(inner, middle, outer, flag), (outer, flag, inner, middle)]):
        samples = _reason(tmp_path / str(number), *order)
        np.testing.assert_array_equal(_mask(samples, 0), rectangle(5, 5, 46, 36) & ~ring | small)
        ignore = _truth(samples, 0).ignore
        assert ignore is not None
        np.testing.assert_array_equal(masks.decode(ignore), ring & ~small)


def test_of_equal_polygons_the_first_is_on_top(tmp_path: Path) -> None:
    same = [5.0, 5.0, 20.0, 20.0]
    samples = _reason(tmp_path, rectangle_shape("target", *same), rectangle_shape("ignore", *same))
    assert _mask(samples, 0).sum() == 16 * 16 and _truth(samples, 0).ignore is None
    hidden = _reason(tmp_path / "b", rectangle_shape("ignore", *same), rectangle_shape("target", *same))
    with pytest.raises(DataError, match="reason_seg/val#a: mask is empty"):
        hidden[0]


def test_sentences_and_their_lengths(tmp_path: Path) -> None:
    root, _, _ = make("reason_seg", tmp_path)
    counts = {}
    for sentences in ("first", "all"):
        for split in ("val", "val_short", "val_long"):
            samples = reason_seg.load(root, split, task="res", sentences=sentences)  # type: ignore[arg-type]
            counts[sentences, split] = (len(samples), dict(samples.dropped))
    assert counts == {
        ("first", "val"): (2, {}), ("first", "val_short"): (1, {"long": 1}), ("first", "val_long"): (1, {"short": 1}),
        ("all", "val"): (3, {}), ("all", "val_short"): (1, {"long": 2}), ("all", "val_long"): (2, {"short": 1}),
    }  # fmt: skip
    assert reason_seg.load(root, "val_short", task="res")[0].text == "something to sit on"
    ignored = _truth(reason_seg.load(root, "train_short", task="res"), 0).ignore
    assert ignored is None  # background in training, whatever the length


def test_lengths_are_two(tmp_path: Path) -> None:
    root, _, _ = make("reason_seg", tmp_path)
    for split in ("val_medium", "_short", "val_short_long"):
        with pytest.raises(DataError, match=f"no such folder .got split '{split}'"):
            reason_seg.load(root, split, task="res")


def test_windows_1252_and_rotated_photographs(tmp_path: Path) -> None:
    folder = tmp_path / "val"
    folder.mkdir()
    exif = Image.Exif()
    exif[274] = 6  # shown turned by a quarter: 40x60 becomes 60x40
    Image.new("RGB", (SIZE[0], SIZE[1])).save(folder / "a.jpg", exif=exif)
    text = json.dumps(
        annotation(["the girl in the café"], False, rectangle_shape("target", 40, 5, 59, 39)), ensure_ascii=False
    )
    (folder / "a.json").write_bytes(text.encode("cp1252"))
    samples = reason_seg.load(str(tmp_path), "val", task="res")
    assert samples[0].text == "the girl in the café" and samples[0].size == SIZE
    np.testing.assert_array_equal(_mask(samples, 0), rectangle(40, 5, 60, 40))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"text": []}, "'text' is no list of texts"),
        ({"text": [None]}, "'text' is no list of texts .got .None.."),
        ({"is_sentence": 1}, "'is_sentence' is not true or false .got 1"),
        ({"shapes": {}}, "'shapes' is not a list"),
        ({"shapes": [7]}, "shape 0: 'label' is not a text"),
        ({"shapes": [{"label": "target", "points": [[1, "a"], [2, 2]]}]}, "shape 0: point 0: is not 2 numbers"),
        ({"shapes": [{"label": "target", "points": [[1, float("inf")]]}]}, "shape 0: point 0: is not finite"),
        ({"shapes": [{"label": "target", "points": []}]}, "shape 0: is no polygon .got no points"),
    ],
)
def test_faults_of_annotations(tmp_path: Path, data: dict[str, Any], message: str) -> None:
    picture(tmp_path / "val" / "a.jpg")
    whole = annotation(["what?"], True, rectangle_shape("target", 5, 5, 9, 9))
    write_json(tmp_path / "val" / "a.json", {**whole, **data})
    with pytest.raises(DataError, match=rf"val/a\.json: {message}"):
        reason_seg.load(str(tmp_path), "val", task="res")


def test_missing_or_damaged_annotations(tmp_path: Path) -> None:
    picture(tmp_path / "val" / "a.jpg")
    with pytest.raises(DataError, match="val/a.json: no such annotation of the image beside it"):
        reason_seg.load(str(tmp_path), "val", task="res")
    for text, message in (("{", "is not valid JSON"), ("[]", "must hold an object")):
        (tmp_path / "val" / "a.json").write_text(text)
        with pytest.raises(DataError, match=f"a.json: {message}"):
            reason_seg.load(str(tmp_path), "val", task="res")


@real
@pytest.mark.parametrize(
    ("split", "texts", "pixels", "ignored"), [("train", 6, 86761, 0), ("val", 1, 3168, 2533), ("test", 1, 2507524, 0)]
)
def test_real_annotations(tmp_path: Path, split: str, texts: int, pixels: int, ignored: int) -> None:
    """The photographs are not there: blank ones, large enough for the polygons, stand in.

    Pixels are those of LISA's ``get_mask_from_json`` with OpenCV 4.10 on the same blanks.
    """
    (path,) = (REAL / split).glob("*.json")
    data = json.loads(path.read_text())
    width, height = (np.concatenate([s["points"] for s in data["shapes"]]).max(0) + 20).astype(int).tolist()
    (tmp_path / split).mkdir()
    Image.new("L", (width, height)).save(tmp_path / split / f"{path.stem}.jpg")
    (tmp_path / split / path.name).write_bytes(path.read_bytes())
    samples = reason_seg.load(str(tmp_path), split, task="res", sentences="all")
    assert [s.text for s in samples] == data["text"] and len(samples) == texts
    assert all(s.size == (height, width) and s.image_id == path.stem for s in samples)
    truth = _truth(samples, texts - 1)
    assert masks.area(truth.masks or ()).tolist() == [pixels]
    assert (0 if truth.ignore is None else int(masks.area([truth.ignore])[0])) == ignored
    flags = [s for s in data["shapes"] if s["label"] == "flag"]
    assert len(flags) == (3 if split == "val" else 0) or all(len(s["points"]) == 2 for s in flags)


def test_explanations(tmp_path: Path) -> None:
    """Only images that are explained, in the words of the file; the question stays the annotation's."""
    root, _, options = make("reason_seg", tmp_path)
    rows = [{"query": "?", "outputs": " One drinks\nfrom a cup. ", "image": "cup.jpg", "json": "cup.json"}]
    write_json(tmp_path / "explanatory" / "train.json", rows)
    samples = reason_seg.load(root, "train", task="res", explanations="explanatory/train.json", **options)
    assert [s.text for s in samples] == ["What is it that one drinks from?", "From what would one drink?"]
    assert {_truth(samples, n).text for n in (0, 1)} == {"One drinks from a cup."}
    assert samples.dropped == {"not explained": 1}
    assert _truth(reason_seg.load(root, "train", task="res", **options), 0).text == ""
    write_json(tmp_path / "explanatory" / "train.json", [{"image": "cup.jpg"}])
    with pytest.raises(DataError, match="train.json: row 0: 'outputs' is not a text .got None"):
        reason_seg.load(root, "train", task="res", explanations="explanatory/train.json")
    with pytest.raises(DataError, match="absent.json: no such annotation file"):
        reason_seg.load(root, "train", task="res", explanations="absent.json")


@real
def test_real_explanations() -> None:
    file = REAL / "explanatory" / "train.json"
    found = reason_seg._explained(file)
    assert len(found) == 3 == len(json.loads(file.read_text()))
    assert all(name.endswith(".jpg") for name in found)
    assert found["10619389843_339d3c9434_o.jpg"].startswith("When eating a bowl of soup, a spoon would most likely")
