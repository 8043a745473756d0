"""A result's forms, of answers made by hand: its arrays, pictures, and what other libraries read."""

from __future__ import annotations

import json
import sys
from contextlib import redirect_stdout
from io import BytesIO, StringIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageShow
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from tests import tiny
from ufo_tune.api import Result
from ufo_tune.api.messages import to_sample
from ufo_tune.api.pipeline import plain
from ufo_tune.core import masks
from ufo_tune.core.types import Prediction, Sample
from ufo_tune.errors import ConfigError

CLASSES = ("cup", "plate")


def bitmaps() -> np.ndarray:
    """A rectangle, a larger one, and nothing."""
    found = np.zeros((3, 40, 56), dtype=bool)
    found[0, 5:15, 10:30] = found[1, 20:38, 2:50] = True
    return found


def result(with_masks: bool = True) -> Result:
    """A plate, a cup, and a cup that is nowhere."""
    boxes = torch.tensor([[10.0, 5, 30, 15], [2, 20, 50, 38], [0, 0, 0, 0]])
    rles = masks.encode_many(bitmaps()) if with_masks else None
    answer = Prediction(boxes, rles, torch.tensor([0.9, 0.4, 0.2]), torch.tensor([1, 0, 0]))
    return Result(Sample(tiny.image(), (40, 56), "detection", classes=CLASSES), answer)


def phrase() -> Result:
    answer = Prediction(torch.tensor([[10.0, 5, 30, 15]]), None, torch.tensor([0.5]))
    return Result(Sample(tiny.image(), (40, 56), "rec", text="the bus"), answer)


def test_arrays_are_in_pixels_of_the_picture() -> None:
    found = result()
    assert found.boxes.dtype == np.float32 and found.boxes[1].tolist() == [2, 20, 50, 38]
    assert found.masks is not None and found.masks.dtype == bool
    np.testing.assert_array_equal(found.masks, bitmaps())
    assert found.labels == ["plate", "cup", "cup"] and found.found.tolist() == [True, True, False]
    assert phrase().labels == ["the bus"] and phrase().masks is None


@pytest.mark.parametrize(
    ("text", "boxes", "given"),
    [
        ("At <bbox>.", [[10, 5, 30, 15]], [[10, 5, 30, 15]]),
        ("There is no such object.", [[0, 0, 0, 0]], []),
        ("<mask> and <mask>", [[10, 5, 30, 15]], [[10, 5, 30, 15], [0, 0, 0, 0]]),  # task res keeps the first
    ],
)
def test_a_message_has_a_box_for_each_place_that_chat_can_take(
    text: str, boxes: list[list[float]], given: list[list[float]]
) -> None:
    found = Prediction(torch.tensor(boxes, dtype=torch.float32), None, torch.ones(len(boxes)), text=text)
    said = Result(Sample(tiny.image(), (40, 56), "rec", text="the bus"), found).message
    assert said["boxes"] == given
    question, follow = ({"role": "user", "content": words} for words in ("Where is it?", "And then?"))
    sample = to_sample([question, said, follow], "conversation", tiny.image())
    assert sample.history == (("Where is it?", text),)


def test_above_leaves_out_what_is_less_sure() -> None:
    few = result().above(0.4)
    assert few.labels == ["plate", "cup"] and few.masks is not None
    np.testing.assert_array_equal(few.masks, bitmaps()[:2])
    assert phrase().above(0.6).boxes.shape == (0, 4)


@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_pycocotools_reads_and_scores_what_to_coco_gives(kind: str) -> None:
    truth = COCO()
    truth.dataset = {
        "info": {},
        "images": [{"id": 7, "height": 40, "width": 56}],
        "categories": [{"id": 30, "name": "plate"}, {"id": 20, "name": "cup"}],
        "annotations": [
            {"id": 1, "image_id": 7, "category_id": 30, "bbox": [10, 5, 20, 10], "area": 200, "iscrowd": 0,
             "segmentation": [[10, 5, 30, 5, 30, 15, 10, 15]]},
            {"id": 2, "image_id": 7, "category_id": 20, "bbox": [2, 20, 48, 18], "area": 864, "iscrowd": 0,
             "segmentation": [[2, 20, 50, 20, 50, 38, 2, 38]]},
        ],
    }  # fmt: skip
    rows = result().to_coco(7, {"plate": 30, "cup": 20})
    with redirect_stdout(StringIO()):
        truth.createIndex()
        score = COCOeval(truth, truth.loadRes(json.loads(json.dumps(rows))), kind)
        score.evaluate()
        score.accumulate()
        score.summarize()
    assert len(rows) == 2 and score.stats[0] == pytest.approx(1.0)


def test_coco_ids_count_the_classes_from_one_unless_given() -> None:
    assert [row["category_id"] for row in result().to_coco()] == [2, 1]
    assert [row["category_id"] for row in phrase().to_coco()] == [1]
    with pytest.raises(ConfigError, match="categories lack a name"):
        result().to_coco(categories={"cup": 5})


def test_supervision_gets_what_was_found() -> None:
    supervision = pytest.importorskip("supervision")
    found = result().to_supervision()
    assert isinstance(found, supervision.Detections) and len(found) == 2
    assert found.area.tolist() == [200, 864]  # by supervision, from the masks
    assert found.class_id.tolist() == [1, 0] and found.data["class_name"].tolist() == ["plate", "cup"]
    assert found.confidence.tolist() == pytest.approx([0.9, 0.4])
    assert result(with_masks=False).to_supervision().box_area.tolist() == [200, 864]
    assert len(result().above(1).to_supervision()) == 0


def test_a_missing_supervision_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(ConfigError, match="pip install supervision"):
        result().to_supervision()


def test_save_writes_a_picture_or_json(tmp_path: Path) -> None:
    found = result()
    with Image.open(found.save(tmp_path / "seen.jpg")) as picture:
        assert picture.format == "JPEG" and picture.size == (512, round(512 * 40 / 56))
    row = json.loads(found.save(tmp_path / "seen.json").read_text("utf-8"))
    assert row == found.to_json() and row["labels"] == ["plate", "cup", "cup"] and row["size"] == [40, 56]
    with pytest.raises(ConfigError, match="no such kind of picture"):
        found.save(tmp_path / "seen.docx")
    with pytest.raises(ConfigError, match=r"no such kind of picture \(got 'seen.psd'\)"):  # Pillow reads them only
        found.save(tmp_path / "seen.psd")
    for name in ("gone/seen.png", "gone/seen.json", "seen.xbm"):  # the last one knows black and white alone
        with pytest.raises(ConfigError, match=f"save: .*{name} cannot be written"):
            found.save(tmp_path / name)


def test_a_notebook_shows_the_drawing() -> None:
    with Image.open(BytesIO(result()._repr_png_())) as shown:
        np.testing.assert_array_equal(np.asarray(shown), np.asarray(result().draw()))


def test_draw_leaves_out_doubtful_classes_and_keeps_a_size_that_is_given() -> None:
    found = result()
    pictures = [np.asarray(found.draw(scale_to=56, min_score=s)) for s in (1.0, 0.5, 0.3)]
    np.testing.assert_array_equal(pictures[0], tiny.image())
    changed = [(p != tiny.image()).any(-1) for p in pictures[1:]]
    assert not changed[0][30, 25] and changed[1][30, 25], "the cup is drawn where its score allows it only"


def test_show_opens_the_drawing_or_says_that_nobody_can_see_it(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[Image.Image] = []

    class Viewer(ImageShow.Viewer):
        def show(self, image: Image.Image, **options: object) -> int:
            opened.append(image)
            return 1

    monkeypatch.setattr(ImageShow, "_viewers", [Viewer()])
    result().show()
    assert [picture.size for picture in opened] == [(512, 366)]
    monkeypatch.setattr(ImageShow, "_viewers", [])
    with pytest.raises(ConfigError, match="no viewer"):
        result().show()


def test_plain_outputs_are_those_of_transformers_pipelines() -> None:
    first, second = plain(result())
    assert (first["label"], second["label"]) == ("plate", "cup") and first["score"] == pytest.approx(0.9)
    assert first["mask"].mode == "L"
    np.testing.assert_array_equal(np.asarray(first["mask"]), bitmaps()[0] * 255)
    (sure,) = plain(result(with_masks=False), threshold=0.5)
    assert sure["box"] == {"xmin": 10, "ymin": 5, "xmax": 30, "ymax": 15}
    sample = Sample(tiny.image(size=(2, 2)), (2, 2), "depth", classes=CLASSES)
    deep = plain(Result(sample, Prediction(depth=np.array([[1, 2], [3, 5]], dtype=np.float32))))
    assert deep["predicted_depth"].tolist() == [[1, 2], [3, 5]]
    assert np.asarray(deep["depth"]).tolist() == [[0, 63], [127, 255]]
    (plate,) = plain(Result(sample, Prediction(label_map=np.array([[1, -1], [1, 1]], dtype=np.int16))))
    assert plate["label"] == "plate" and plate["score"] is None
    assert np.asarray(plate["mask"]).tolist() == [[255, 0], [255, 255]]
    assert plain(Result(sample, Prediction(text="a cup"))) == [{"generated_text": "a cup"}]
    up = np.zeros((2, 2, 3), dtype=np.float32)
    up[..., 1] = -1
    shown = plain(Result(sample, Prediction(normals=up)))
    assert shown["predicted_normals"].shape == (2, 2, 3) and shown["normals"].getpixel((0, 0))[1] == 0


def test_a_result_says_what_it_is() -> None:
    assert repr(result()) == "Result(detection, 'cup, plate', 2 of 3 objects found)"
    assert repr(Result(Sample(None, (0, 0), "vqa", text="why?"), Prediction(text="so", invalid=1))) == (
        "Result(vqa, 'why?', text='so', invalid=1)"
    )
