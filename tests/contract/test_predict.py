"""Any picture in, JSON and overlay out; plumbing only, the model is random."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests import tiny
from ufo_tune import cli
from ufo_tune.config import DecodeSection
from ufo_tune.core import masks
from ufo_tune.core.types import Prediction
from ufo_tune.engine import predict
from ufo_tune.errors import ConfigError, DataError

QUESTIONS = {
    "rec": {"text": "the red ball"},
    "res": {"text": "the red ball"},
    "vqa": {"text": "what is it?"},
    "caption": {},
    "conversation": {"text": "what is at <bbox>?", "boxes": [[1, 2, 30, 20]]},
    "detection": {"classes": ("red", "circle")},
    "instance_segmentation": {"classes": ("red", "circle")},
    "semantic_segmentation": {"classes": ("red", "circle")},
    "depth": {},
    "normals": {},
}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("predict")
    tiny.model("llava", folder).save(folder / "model")
    return folder / "model"


@pytest.fixture(scope="module")
def predictor(checkpoint: Path) -> predict.Predictor:
    return predict.Predictor(checkpoint, decode=DecodeSection(max_new_tokens=24, constrained=True))


def picture(folder: Path, mode: str, suffix: str, size: tuple[int, int] = (50, 30)) -> Path:
    noise = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    image = Image.fromarray(noise[..., 0].astype(np.uint16) * 257) if mode == "I;16" else Image.fromarray(noise)
    file = folder / f"{mode.replace(';', '')}{suffix}"
    (image if mode == "I;16" else image.convert(mode)).save(file)
    return file


def test_a_model_is_asked_on_the_grid_that_it_was_trained_on(tmp_path: Path) -> None:
    model = tiny.model("llava", tmp_path)
    model.settings["task_options"] = {"detection": {"rows": 2, "cols": 3, "keep": 4}}
    model.save(tmp_path / "trained")
    asked = predict.Predictor(tmp_path / "trained").asked
    assert asked("detection").encode_options == {"rows": 2, "cols": 3, "keep": 4}
    assert asked("detection", options={"rows": 5}).encode_options == {"rows": 5, "cols": 3, "keep": 4}
    assert asked("instance_segmentation").encode_options == {}  # the task's own defaults


@pytest.mark.parametrize("task", QUESTIONS)
def test_every_task_answers_in_pixels_of_the_picture(predictor: predict.Predictor, task: str) -> None:
    image = tiny.image(size=(37, 90))
    found = predictor(image, task, **QUESTIONS[task])
    assert isinstance(found, Prediction)
    assert len(found.boxes) == 0 or found.boxes.shape[1] == 4
    assert (found.boxes >= 0).all() and (found.boxes <= torch.tensor([90.0, 37, 90, 37])).all()
    assert all(masks.decode(m).shape == (37, 90) for m in found.masks or ())
    near, far = predictor.model.codec.depth_range
    if task == "depth":  # the grammar leaves nothing but the slot
        assert found.invalid == 0 and found.depth.shape == (37, 90)
        assert near <= found.depth.min() < found.depth.max() <= far
    if task == "normals":
        assert found.invalid == 0 and found.normals.shape == (37, 90, 3)
        np.testing.assert_allclose(np.linalg.norm(found.normals, axis=-1), 1, atol=1e-5)
    predictor.asked(task)
    asked = {key: value for key, value in QUESTIONS[task].items() if key != "boxes"}
    json.dumps(predict.to_json(predict.to_sample(image, task, **asked), found))


def test_files_pixels_and_pillow_images_are_one(predictor: predict.Predictor, tmp_path: Path) -> None:
    file = picture(tmp_path, "RGB", ".png")
    ways = (file, str(file), np.asarray(Image.open(file)), Image.open(file))
    first, *others = [predictor(w, "rec", text="the ball") for w in ways]
    assert all(torch.equal(first.boxes, o.boxes) and first.text == o.text for o in others)


def test_transparency_is_white_in_both_ways(tmp_path: Path) -> None:
    clear = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    assert (predict.to_sample(clear, "rec").image == 255).all()


def test_files_of_every_mode_give_json_and_overlay(checkpoint: Path, tmp_path: Path) -> None:
    modes = [("L", ".png"), ("RGBA", ".png"), ("P", ".png"), ("CMYK", ".jpg"), ("1", ".png"), ("I;16", ".png")]
    files = [picture(tmp_path, mode, suffix) for mode, suffix in modes]
    turned = tmp_path / "turned.jpg"
    exif = Image.Exif()
    exif[274] = 6  # lies on its side
    Image.open(files[0]).save(turned, exif=exif)
    out = tmp_path / "out"
    rows = predict.predict_files(checkpoint, [*files, turned], "rec", text="the ball", out=out, progress=False)
    assert [row["size"] for row in rows] == [[30, 50]] * 6 + [[50, 30]]
    for row, file in zip(rows, [*files, turned], strict=True):
        assert json.loads((out / f"{file.stem}.json").read_text("utf-8")) == row
        assert row["image"] == str(file) and row["task"] == "rec" and row["text"] == "the ball"
        assert len(row["boxes"]) == len(row["scores"]) == len(row["labels"])
        overlay = Image.open(row["overlay"])
        assert overlay.mode == "RGB" and max(overlay.size) >= 512


def test_masks_are_written_as_text(checkpoint: Path, tmp_path: Path) -> None:
    found = Prediction(masks=masks.encode_many(np.eye(8, dtype=bool)[None]), scores=torch.ones(1))
    row = json.loads(json.dumps(predict.to_json(predict.to_sample(tiny.image(size=(8, 8)), "res", "it"), found)))
    (mask,) = row["masks"]
    assert np.array_equal(masks.decode({**mask, "counts": mask["counts"].encode()}), np.eye(8, dtype=bool))
    assert row["labels"] == ["it"]


@pytest.mark.parametrize("task", ["depth", "normals", "semantic_segmentation"])
def test_maps_are_files_and_no_numbers_in_json(checkpoint: Path, tmp_path: Path, task: str) -> None:
    file = picture(tmp_path, "RGB", ".png", size=(200, 120))
    (row,) = predict.predict_files(checkpoint, [file], task, **QUESTIONS[task], out=tmp_path, progress=False)
    key, name = {"semantic_segmentation": ("label_map", "labels")}.get(task, (task, task))
    assert row[key] == str(tmp_path / f"RGB.{name}.png") and ("depth_scale" in row) == (task == "depth")
    with Image.open(row[key]) as stored:
        assert stored.size == (200, 120)
    assert len((tmp_path / "RGB.json").read_text()) < 2000 and max(Image.open(row["overlay"]).size) >= 512


def test_files_of_one_name_do_not_overwrite_each_other(checkpoint: Path, tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        picture(tmp_path / folder, "RGB", ".png")
    files = [tmp_path / "a" / "RGB.png", tmp_path / "b" / "RGB.png"]
    before = files[0].read_bytes()
    predict.predict_files(checkpoint, files, "vqa", text="what?", out=tmp_path / "a", progress=False)
    assert {p.name for p in (tmp_path / "a").iterdir()} == {
        "RGB.png", "RGB.json", "RGB.overlay.png", "RGB-2.json", "RGB-2.overlay.png",
    }  # fmt: skip
    assert files[0].read_bytes() == before


def test_what_cannot_be_read_is_said_before_the_model_is_loaded(tmp_path: Path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"broken\.png: is not an image"):
        predict.predict_files(tmp_path / "no model", [broken], "rec", text="x", out=tmp_path / "out")
    with pytest.raises(ConfigError, match="no images"):
        predict.predict_files(tmp_path / "no model", [], "rec", text="x", out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--task", "rec"], "the phrase is empty"),
        (["--task", "detection"], "no classes|class"),
        (["--task", "no_task", "--text", "x"], "no_task"),
    ],
)
def test_a_question_that_cannot_be_asked_is_one_line(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    file = picture(tmp_path, "RGB", ".png")
    assert cli.main(["predict", str(checkpoint), str(file), *arguments, "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err.strip()
    assert any(part in error for part in message.split("|")) and "Traceback" not in error


def test_the_command_prints_what_it_wrote(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = picture(tmp_path, "RGB", ".png")
    call = ["predict", str(checkpoint), str(file), "--task", "res", "--text", "it", "--out", str(tmp_path), "--json"]
    assert cli.main(call) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row == json.loads((tmp_path / "RGB.json").read_text("utf-8"))
