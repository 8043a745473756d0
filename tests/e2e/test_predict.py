"""``ufo-tune predict`` on every kind of picture a user may have, and one clear line for what cannot be asked.

The model is random; its answers are readable all the same, because predict writes only what the answer grammar allows.
"""

from __future__ import annotations

import json
import os
import shutil
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests import tiny
from ufo_tune import cli
from ufo_tune.core import masks
from ufo_tune.engine.predict import arguments_for
from ufo_tune.models.ufo import CONFIG_NAME

QUESTIONS = {
    "rec": ["--text", "the red ball"],
    "res": ["--text", "the red ball"],
    "detection": ["--classes", "red,circle"],
    "instance_segmentation": ["--classes", "red,circle"],
    "vqa": ["--text", "what is it?"],
    "caption": [],
    "conversation": ["--text", "where is it?"],
}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    tiny.model("llava", folder).save(folder / "model")
    return folder / "model"


def _noise(width: int, height: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def _sixteen_bit_colour(file: Path, width: int, height: int) -> None:
    """A PNG of three 16-bit channels, written by hand because Pillow writes none."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    values = _noise(width, height).astype(">u2") * 257
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    file.write_bytes(b"\x89PNG\r\n\x1a\n" + parts)


def pictures(folder: Path) -> dict[Path, tuple[int, int]]:
    """File -> (H, W) that a viewer shows."""
    made: dict[Path, tuple[int, int]] = {}

    def add(name: str, image: Image.Image, shown: tuple[int, int] | None = None, **options: object) -> None:
        image.save(folder / name, **options)
        made[folder / name] = shown or (image.height, image.width)

    colour = Image.fromarray(_noise(50, 30))
    for mode in ("1", "L", "LA", "P", "RGB", "RGBA"):
        add(f"{mode}.png", colour.convert(mode))
    add("clear_palette.png", colour.convert("P"), transparency=0)
    add("grey16.png", Image.fromarray(_noise(50, 30)[..., 0].astype(np.uint16) * 257))
    for mode in ("L", "RGB", "CMYK"):
        add(f"{mode}.jpg", colour.convert(mode))
    add("progressive.jpg", colour, progressive=True)
    for orientation in range(1, 9):  # from 5 on the sides change places
        exif = Image.Exif()
        exif[274] = orientation
        add(f"exif{orientation}.jpg", colour, (50, 30) if orientation > 4 else (30, 50), exif=exif)
    for width, height in ((1, 1), (1, 300), (300, 1), (1100, 900)):
        add(f"{width}x{height}.png", Image.fromarray(_noise(width, height)))
    _sixteen_bit_colour(folder / "colour16.png", 50, 30)
    made[folder / "colour16.png"] = (30, 50)
    return made


def test_every_kind_of_picture_gives_json_and_overlay(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made, out = pictures(tmp_path), tmp_path / "out"
    call = ["predict", str(checkpoint), *map(str, made), "--task", "rec", "--text", "the ball"]
    assert cli.main([*call, "--out", str(out), "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert len(rows) == len(made)
    for row, (file, (height, width)) in zip(rows, made.items(), strict=True):
        assert row["image"] == str(file) and row["size"] == [height, width], file
        ((x0, y0, x1, y1),) = row["boxes"]
        assert 0 <= x0 <= x1 <= width and 0 <= y0 <= y1 <= height, file
        assert row["answer"] == "<bbox>"
        with Image.open(row["overlay"]) as overlay:
            assert overlay.format == "PNG" and overlay.mode == "RGB"
        (written,) = [p for p in out.glob("*.json") if json.loads(p.read_text("utf-8"))["image"] == str(file)]
        assert json.loads(written.read_text("utf-8")) == row


def _taught(checkpoint: Path, folder: Path, *tasks: str) -> Path:
    """The same model, told that it learnt some tasks."""
    shutil.copytree(checkpoint, folder)
    config = folder / CONFIG_NAME
    settings = json.loads(config.read_text("utf-8"))
    config.write_text(json.dumps(settings | {"templates": {task: task for task in tasks}}), "utf-8")
    return folder


def _line(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[str, str]:
    """What ``predict`` says of its only picture, and on stderr."""
    assert cli.main(["predict", *arguments]) == 0
    printed = capsys.readouterr()
    return printed.out.strip().partition("  -> ")[0].partition(": ")[2], printed.err


def test_a_line_for_people_has_pixels_and_files_and_no_bins(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, out = _file(tmp_path, "good.png"), tmp_path / "out"
    model = _taught(checkpoint, tmp_path / "taught", "rec", "depth", "normals", "semantic_segmentation", "detection")

    def said(*question: str) -> str:
        line, warnings = _line([str(model), str(file), *question, "--out", str(out)], capsys)
        assert "warning: " not in warnings
        return line

    answer = said("--task", "rec", "--text", "the ball")
    (box,) = json.loads((out / "good.json").read_text("utf-8"))["boxes"]
    assert json.loads(answer) == [round(v) for v in box]
    for task, name in (("depth", "depth"), ("normals", "normals"), ("semantic_segmentation", "labels")):
        classes = ["--classes", "red,circle"] if name == "labels" else []
        assert said("--task", task, *classes) == str(out / f"good.{name}.png")
    found = said("--task", "detection", "--classes", "red")
    boxes = json.loads((out / "good.json").read_text("utf-8"))["boxes"]
    seen = sum(x1 > x0 and y1 > y0 for x0, y0, x1, y1 in boxes)  # random weights write flat ones, too
    assert found == {0: "no box", 1: "1 box"}.get(seen, f"{seen} boxes")


def test_a_task_that_was_not_learnt_is_refused_and_a_base_warns(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, model = _file(tmp_path, "good.png"), _taught(checkpoint, tmp_path / "taught", "res", "depth")
    question = ["--task", "rec", "--text", "the ball", "--out", str(tmp_path / "out")]
    assert cli.main(["predict", str(model), str(file), *question]) == 2
    error = capsys.readouterr().err
    assert "has not learnt rec (got a model of depth, res)" in error and not (tmp_path / "out").exists()
    _, warnings = _line([str(checkpoint), str(file), *question], capsys)
    assert f"warning: predict: {checkpoint} is a base that has learnt no task" in warnings


@pytest.mark.parametrize(
    ("task", "asked"),
    [
        ("res", "--task res --text PHRASE"),
        ("vqa", "--task vqa --text QUESTION"),
        ("detection", "--task detection --classes NAME,NAME"),
        ("depth", "--task depth"),
        (None, ""),
    ],
)
def test_the_next_step_asks_for_what_was_learnt(checkpoint: Path, tmp_path: Path, task: str | None, asked: str) -> None:
    assert arguments_for(_taught(checkpoint, tmp_path / "taught", *([task] if task else []))) == asked


@pytest.mark.parametrize("task", QUESTIONS)
def test_random_weights_answer_every_task_readably(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], task: str
) -> None:
    file = tmp_path / "wide.png"
    Image.fromarray(_noise(90, 37)).save(file)
    call = ["predict", str(checkpoint), str(file), "--task", task, *QUESTIONS[task], "--out", str(tmp_path / "out")]
    assert cli.main([*call, "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row["invalid"] == 0
    assert len(row["scores"]) == len(row["labels"]) == max(len(row["boxes"]), len(row.get("masks", ())))
    for x0, y0, x1, y1 in row["boxes"]:
        assert 0 <= x0 <= x1 <= 90 and 0 <= y0 <= y1 <= 37
    for mask in row.get("masks", ()):
        assert masks.decode({**mask, "counts": mask["counts"].encode()}).shape == (37, 90)


def _file(folder: Path, name: str) -> Path:
    """A picture that cannot be read, or can."""
    file = folder / name
    Image.fromarray(_noise(20, 10)).save(folder / "good.png")
    whole = (folder / "good.png").read_bytes()
    contents = {"text.png": b"no picture", "empty.png": b"", "cut.png": whole[: len(whole) // 2]}
    if name in contents:
        file.write_bytes(contents[name])
    return file


@pytest.mark.parametrize(
    ("picture", "question", "parts"),
    [
        ("text.png", ["--task", "rec", "--text", "x"], ["text.png", "is not an image"]),
        ("empty.png", ["--task", "rec", "--text", "x"], ["empty.png", "is not an image"]),
        ("cut.png", ["--task", "rec", "--text", "x"], ["cut.png", "cannot read the image"]),
        ("gone.png", ["--task", "rec", "--text", "x"], ["gone.png", "no such file"]),
        ("good.png", ["--task", "rec"], ["good.png", "the phrase is empty"]),
        ("good.png", ["--task", "res", "--text", "  "], ["good.png", "the phrase is empty"]),
        ("good.png", ["--task", "vqa"], ["good.png", "the question is empty"]),
        ("good.png", ["--task", "rec", "--text", "a <MASK>"], ["good.png", "<MASK>"]),
        ("good.png", ["--task", "conversation", "--text", "What is at <bbox>?"], ["points at object 0", "in words"]),
        ("good.png", ["--task", "rec", "--text", "caf\udce9"], ["good.png", "half a letter", "'caf\\udce9'"]),
        ("good.png", ["--task", "detection", "--classes", "caf\udce9"], ["good.png", "half a letter"]),
        ("good.png", ["--task", "detektion", "--classes", "cup"], ["detektion", "did you mean 'detection'"]),
        ("good.png", ["--task", "detection"], ["good.png", "no classes"]),
        ("good.png", ["--task", "detection", "--classes", " , "], ["good.png", "no classes"]),
        ("good.png", ["--task", "detection", "--classes", "cup,cup"], ["good.png", "listed twice", "'cup'"]),
        ("good.png", ["--task", "detection", "--classes", "cup,background"], ["good.png", "'background'"]),
    ],
)
def test_what_cannot_be_asked_is_one_line(
    checkpoint: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    picture: str,
    question: list[str],
    parts: list[str],
) -> None:
    out = tmp_path / "out"
    assert cli.main(["predict", str(checkpoint), str(_file(tmp_path, picture)), *question, "--out", str(out)]) == 2
    printed = capsys.readouterr()
    (line,) = [text for text in printed.err.splitlines() if text.startswith("error: ")]
    assert all(part in line for part in parts), line
    assert printed.out == "" and "Traceback" not in printed.err and not list(tmp_path.glob("out/*"))


def test_a_comma_parts_classes(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A name with a comma cannot be given here: it is two names, and blanks and empty names do no harm."""
    file = _file(tmp_path, "good.png")
    call = ["predict", str(checkpoint), str(file), "--task", "detection", "--classes", " red, circle,,"]
    assert cli.main([*call, "--out", str(tmp_path / "out"), "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row["classes"] == ["red", "circle"] and set(row["labels"]) <= {"red", "circle"}


def test_a_picture_whose_name_is_not_utf_8(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / os.fsdecode(b"caf\xe9.png")
    _file(tmp_path, "good.png").rename(file)
    call = ["predict", str(checkpoint), str(file), "--task", "rec", "--text", "x", "--out", str(tmp_path / "out")]
    assert cli.main([*call, "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row["image"] == str(file)
    written = tmp_path / "out" / os.fsdecode(b"caf\xe9.json")
    assert json.loads(written.read_text("utf-8")) == row, "the name can be read back, and opens the file"
    assert cli.main(call) == 0, "without --json it is said in words"


def test_no_model_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = _file(tmp_path, "good.png")
    call = ["predict", str(tmp_path / "none"), str(file), "--task", "rec", "--text", "x", "--out", str(tmp_path / "o")]
    assert cli.main(call) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and "none: no such folder" in line
