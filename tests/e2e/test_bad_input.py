"""Every kind of bad input, through the command line: one line with place, value and remedy, and exit code 2."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image

from tests import tiny
from tests.data_files import SIZE, picture, rectangle, rle, write_jsonl
from ufo_tune import cli

BOX = [5, 6, 15, 18]
GOOD = {"image": "a.png", "objects": {"ref": ["red circle"], "bbox": [BOX], "masks": [rle(rectangle(*BOX))]}}


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """The line that a command ends with."""
    assert cli.main([str(a) for a in arguments]) == 2
    printed = capsys.readouterr()
    (line,) = [text for text in printed.err.splitlines() if text.startswith("error: ")]
    assert printed.err.splitlines()[-1] == line and "Traceback" not in printed.err and not printed.out
    where, _, remedy = line.removeprefix("error: ").partition("; ")
    assert ": " in where and remedy, f"place, fault and remedy: {line}"
    return line


def recipe(folder: Path, task: str = "rec", **changes: Any) -> Path:
    document: dict[str, Any] = {
        "model": {"base": "tiny:llava", "codec": {"num_bins": 64, "slot_side": 2}},
        "data": {"mixture": [{"task": task, "dataset": "jsonl", "root": str(folder), "template": f"scenes_{task}"}]},
        "train": {"max_steps": 2, "save_steps": 1, "logging_steps": 1, "report_to": []},
    }
    if task in ("detection", "instance_segmentation"):
        document["tasks"] = {task: {"rows": 2, "cols": 2}}
    document.update(changes)
    path = folder / "my.yaml"
    path.write_text(yaml.safe_dump(document), encoding="utf-8")
    return path


def own_data(folder: Path, *rows: Any) -> Path:
    picture(folder / "a.png")
    whole = (folder / "a.png").read_bytes()
    (folder / "cut.png").write_bytes(whole[: len(whole) // 2])
    (folder / "text.png").write_text("no picture")
    Image.new("L", (3, 2)).save(folder / "small.png")
    return write_jsonl(folder / "train.jsonl", [GOOD, *rows])


def row(**changes: Any) -> dict[str, Any]:
    objects = {**GOOD["objects"], **{k: v for k, v in changes.items() if k in ("ref", "bbox", "masks")}}  # type: ignore[dict-item]
    return {**GOOD, "objects": objects, **{k: v for k, v in changes.items() if k not in objects}}


BAD_DATA: dict[str, tuple[dict[str, Any], str, tuple[str, ...]]] = {
    "unreadable image": (row(image="text.png"), "rec", ("text.png", "is not an image", "give a JPEG or PNG")),
    "truncated image": (row(image="cut.png"), "rec", ("cut.png", "cannot read the image", "replace")),
    "missing image": (row(image="gone.png"), "rec", ("gone.png", "no such image", "check the path")),
    "box outside": (row(bbox=[[5, 6, 75, 18]]), "rec", (":2: ", "box is outside the image", "75", "60x40")),
    "box without area": (row(bbox=[[15, 6, 5, 18]]), "rec", (":2: ", "box has no area", "15")),
    "mask of another size": (row(masks=["small.png"]), "res", (":2: ", "mask is (2, 3)", "(40, 60)")),
    "mask of other pixels": (row(masks=[rle(rectangle(*BOX)[:20])]), "res", (":2: ", "mask is (20, 60)", "(40, 60)")),
    "unknown class": (row(ref=["cap"], classes=["cup"]), "detection", (":2: ", "unknown class", "'cap'", "'cup'")),
    "empty phrase": (row(ref=[""]), "rec", (":2: ", "empty phrase", "''")),
    "token of ours": (row(ref=["the <MASK> box"]), "rec", (":2: ", "the phrase spells the token <MASK>", "remove")),
    "token of the image": (row(ref=["the <image> box"]), "rec", (":2: ", "<image>", "remove it")),
    "class that means nothing": (
        row(ref=["cup"], classes=["cup", "background"]),
        "detection",
        (":2: ", "'background'"),
    ),
    "image of another size": (row(width=SIZE[1] + 1, height=SIZE[0]), "rec", (":2: ", "61x40", "60x40")),
}


@pytest.mark.parametrize("case", BAD_DATA)
@pytest.mark.parametrize("command", ["train", "validate"])
def test_bad_data(tmp_path: Path, capsys: pytest.CaptureFixture[str], case: str, command: str) -> None:
    bad, task, parts = BAD_DATA[case]
    file = own_data(tmp_path, bad)
    if task == "detection":
        write_jsonl(file, [{**row(ref=["cup"]), "classes": ["cup"]}, bad])
    if command == "train":
        line = refused(
            capsys, "train", recipe(tmp_path, task), "--out", tmp_path / "run", "--quiet", "--train.save_steps=0"
        )
    else:
        assert cli.main(["data", "validate", str(file)]) == 2
        printed = capsys.readouterr().err
        line = next(text for text in printed.splitlines() if ":2: " in text or "png: " in text)
        assert "Traceback" not in printed
    assert all(part in line for part in parts), line
    assert not (tmp_path / "run" / "last").exists()


@pytest.mark.parametrize("bad", [{"image": "cut.png"}, {"ref": ["the <MASK> box"]}, {"ref": ["the <image> box"]}])
def test_bad_rows_can_be_skipped(tmp_path: Path, capsys: pytest.CaptureFixture[str], bad: dict[str, Any]) -> None:
    own_data(tmp_path, row(**bad))
    call = ["train", str(recipe(tmp_path)), "--out", str(tmp_path / "run"), "--quiet"]
    assert cli.main([*call, "--data.on_bad_sample", "skip"]) == 0
    assert (tmp_path / "run" / "last").exists()
    *_, line = (json.loads(text) for text in (tmp_path / "run" / "log.jsonl").read_text("utf-8").splitlines())
    assert line["rows/skipped"] >= 1 and "rows/dropped" not in line


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"train": {"learning_rat": 1e-3}}, ("train.learning_rat", "0.001", "did you mean 'learning_rate'")),
        ({"trian": {}}, ("trian", "no such key", "did you mean 'train'")),
        ({"train": {"max_steps": "many"}}, ("train.max_steps", "'many'")),
        ({"objectives": {"next_tokn": {}}}, ("objectives", "'next_tokn'", "did you mean 'next_token'")),
        ({"objectives": {"next_token": {"wait": 2}}}, ("objectives.next_token.wait", "no such option", "weight")),
        ({"model": {"base": "tiny:lava"}}, ("no such name", "'lava'", "did you mean 'llava'")),
        ({"model": {"base": "no/such/folder"}}, ("no/such/folder",)),
    ],
)
def test_bad_recipe(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], changes: dict[str, Any], parts: tuple[str, ...]
) -> None:
    own_data(tmp_path)
    line = refused(capsys, "train", recipe(tmp_path, **changes), "--out", tmp_path / "run", "--quiet")
    assert all(part in line for part in parts), line
    assert not (tmp_path / "run").exists(), "nothing was begun"


def test_missing_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own_data(tmp_path)
    gone = tmp_path / "gone"
    for arguments in (
        ("train", gone / "my.yaml"),
        ("eval", gone, "--suite", "scenes_rec"),
        ("predict", gone, tmp_path / "a.png", "--task", "rec", "--text", "x", "--out", tmp_path / "out"),
        ("predict", gone, gone / "a.png", "--task", "rec", "--text", "x"),
        ("merge", gone, "--out", tmp_path / "merged"),
        ("data", "validate", gone / "my.jsonl"),
        ("data", "show", gone / "my.jsonl", "--out", tmp_path / "shown"),
    ):
        assert "gone" in refused(capsys, *arguments), arguments
    (tmp_path / "train.jsonl").unlink()
    assert "train.jsonl" in refused(capsys, "train", recipe(tmp_path), "--out", tmp_path / "run", "--quiet")


@pytest.mark.parametrize("place", ["file", "file/below", "a" * 300])
def test_where_nothing_can_be_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    """Known before anything is loaded, drawn or scored: what is loaded here does not even exist."""
    own_data(tmp_path)
    (tmp_path / "file").write_text("somebody's")
    # `prepare` has the name by itself, and first: imported later it would keep the stand-in for every test to come.
    for place_of_base in ("prepare", "load"):
        monkeypatch.setattr(f"ufo_tune.engine.{place_of_base}.base", lambda *_, **__: pytest.fail("loads a base"))
    monkeypatch.setattr("ufo_tune.engine.train.Sources", lambda *_, **__: pytest.fail("opens data"))
    out, gone = ("--out", tmp_path / place), tmp_path / "gone"
    jsonl = tmp_path / "train.jsonl"
    for arguments in (
        ("predict", gone, tmp_path / "a.png", "--task", "rec", "--text", "x", *out),
        ("train", recipe(tmp_path), "--quiet", *out),
        ("eval", gone, "--suite", "scenes_rec", *out),
        ("eval", "--compare", gone, gone, *out),
        ("prepare", "tiny:llava", *out),
        ("merge", gone, *out),
        ("import-ufo", gone, "--base", gone, *out),
        ("quickstart", *out),
        ("data", "show", jsonl, *out),
        ("data", "stats", jsonl, *out),
        (
            "data",
            "convert",
            "scenes",
            "",
            "val",
            "--task",
            "rec",
            "--limit",
            "1",
            "--out",
            tmp_path / place / "a.jsonl",
        ),
    ):
        line = refused(capsys, *arguments)
        assert place.split("/")[0] in line and "cannot be" in line, line
    assert (tmp_path / "file").read_text() == "somebody's"
    assert cli.main(["data", "convert", "scenes", "", "val", "--task", "rec", "--out", str(tmp_path)]) == 2


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with an adapter, and everything in its checkpoint."""
    folder = tmp_path_factory.mktemp("run")
    own_data(folder)
    assert cli.main(["train", str(recipe(folder)), "--out", str(folder / "run"), "--quiet"]) == 0
    return folder / "run"


WEIGHTS = ("adapter_model.safetensors", "trained.safetensors", "ufo_config.json", "adapter_config.json")


@pytest.mark.parametrize("keep", [0.0, 0.5])
@pytest.mark.parametrize("name", WEIGHTS)
def test_truncated_run(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, keep: float) -> None:
    capsys.readouterr()
    shutil.copytree(run, tmp_path / "run", symlinks=True)
    file = tmp_path / "run" / "checkpoint-2" / name
    file.write_bytes(file.read_bytes()[: int(keep * file.stat().st_size)])
    picture(tmp_path / "a.png")
    question = ("--task", "rec", "--text", "red circle", "--out", tmp_path / "out")
    for command in (
        ("predict", tmp_path / "run", tmp_path / "a.png", *question),
        ("eval", tmp_path / "run", "--suite", "scenes_rec", "--limit", "1"),
        ("merge", tmp_path / "run", "--out", tmp_path / "merged"),
    ):
        assert "checkpoint-2" in refused(capsys, *command), command
    assert not (tmp_path / "merged").exists()


@pytest.mark.parametrize("name", ["training_state.pt", "trained.safetensors"])
def test_truncated_run_is_not_resumed(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    capsys.readouterr()
    shutil.copytree(run, tmp_path / "run", symlinks=True)
    file = tmp_path / "run" / "checkpoint-2" / name
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    line = refused(capsys, "train", run.parent / "my.yaml", "--out", tmp_path / "run", "--resume", "--quiet")
    assert "checkpoint-2" in line and "delete it to resume from the one before" in line
    shutil.rmtree(tmp_path / "run" / "checkpoint-2")  # what the line says to do
    arguments = ["train", str(run.parent / "my.yaml"), "--out", str(tmp_path / "run"), "--resume", "--quiet"]
    assert cli.main(arguments) == 0
    assert (tmp_path / "run" / "last").resolve().name == "checkpoint-2"


def test_run_of_an_older_version_is_not_resumed(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Before every process had generators of its own, the state of one was kept as ``rng``."""
    capsys.readouterr()
    shutil.copytree(run, tmp_path / "run", symlinks=True)
    file = tmp_path / "run" / "checkpoint-2" / "training_state.pt"
    state = torch.load(file, weights_only=True)
    state["rng"] = state.pop("random")[0]["cpu"]
    torch.save(state, file)
    line = refused(capsys, "train", run.parent / "my.yaml", "--out", tmp_path / "run", "--resume", "--quiet")
    assert "checkpoint-2/training_state.pt: has no random (got" in line and "resume with that version" in line


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json", "ufo_config.json"])
def test_truncated_model(tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    tiny.model("llava", tmp_path).save(tmp_path / "model")
    file = tmp_path / "model" / name
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    own_data(tmp_path)
    question = ("--task", "rec", "--text", "red circle", "--out", tmp_path / "out")
    assert "model" in refused(capsys, "predict", tmp_path / "model", tmp_path / "a.png", *question)
    changed = recipe(tmp_path, model={"base": str(tmp_path / "model")})
    assert "model" in refused(capsys, "train", changed, "--out", tmp_path / "run", "--quiet")
