"""The data commands, from their arguments to what they print and write."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from tests import data_files
from tests.data_files import picture, write_jsonl
from tests.data_files.jsonl import rows
from ufo_tune import cli, plugins
from ufo_tune.data import inspect
from ufo_tune.datasets import jsonl


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A folder with ``train.jsonl`` of every task."""
    data_files.make("jsonl", tmp_path)
    return tmp_path


def _run(capsys: pytest.CaptureFixture[str], *arguments: Any, code: int = 0) -> str:
    assert cli.main([str(a) for a in arguments]) == code
    out, err = capsys.readouterr()
    return err if code else out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["validate", "absent.jsonl"], "absent.jsonl: no such JSONL file"),
        (["convert", "scenes", "", "val", "--task", "rec", "--out", "o.jsonl", "--limit", "-1"], "limit: is negative"),
        (["validate", "a", "b"], "data: give FILE, or DATASET ROOT SPLIT --task TASK (got 'a b')"),
        (["validate", "scenes", "", "val"], "--task TASK (got 'scenes  val')"),
        (["validate", "scenes", "", "val", "--task", "rec", "--fix-skip", "x"], "--fix-skip: copies a JSONL"),
        (["show", "scenes", "", "val", "--task", "recc"], "datasets/scenes: has no task 'recc'"),
        (["stats", "scenez", "", "val", "--task", "rec"], "did you mean 'scenes'?"),
        (["stats", "scenes", "", "val", "--task", "rec", "--option", "sise=2"], "did you mean 'size'?"),
        (["stats", "scenes", "", "val", "--task", "rec", "--option", "size"], "write --option size=VALUE"),
        (["stats", "scenes", "", "val", "--task", "rec", "--option", "size={"], "--option: size is no YAML value"),
        (["stats", "x.jsonl", "--option", "size=2"], "--option: is for datasets"),
        (["convert", "scenes", "", "val", "--task", "rec"], "required: --out"),
        (["convert", "scenes", "", "val", "--task", "rec", "--from-labels", "classes", "--out", "x"], "--from-labels"),
        (["convert", "scenes", "", "val", "--task", "rec", "--from-labels", "x", "--out", "x"], "invalid choice: 'x'"),
        (["audit", "x.jsonl"], "required: --against"),
        (["audit", "x.jsonl", "--against", "scenes_recc"], "did you mean 'scenes_rec'?"),
        (["audit", "x.jsonl", "--against", "scenes_rec"], "x.jsonl: no such JSONL file"),
        (["audit", "no_such_recipe", "--against", "scenes_rec"], "recipes: no such name"),
    ],
)
def test_mistakes_are_one_line(arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    (line,) = _run(capsys, "data", *arguments, code=2).splitlines()
    assert says in line


def test_convert_then_everything_else(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root, split, _ = data_files.make("coco", tmp_path)
    out = tmp_path / "mine.jsonl"
    arguments = ("data", "convert", "coco", root, split, "--task", "instance_segmentation", "--out", out)
    said = _run(capsys, *arguments, "--option", "classes=[cup, plate]", "--option", "min_area=100")
    assert f"written: {out}: 3 samples in 3 rows" in said and f"ufo-tune data show {out}" in said
    assert "exists already" in _run(capsys, *arguments, code=2)
    assert _run(capsys, "data", "validate", out) == f"{out}: no problems\n"
    assert "task rec" not in _run(capsys, "data", "stats", out)
    for words in ([out], ["coco", root, split, "--task", "detection"]):
        said = _run(capsys, "data", "show", *words, "--out", tmp_path / "seen", "--limit", 2)
        assert f"picture: {tmp_path / 'seen' / 'detection.png'}" in said


def test_convert_label_maps_and_limit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root, split, options = data_files.make("label_folder", tmp_path / "data")
    given = [word for key, value in options.items() for word in ("--option", f"{key}={json.dumps(value)}")]
    arguments = ["data", "convert", "label_folder", root, split, "--task", "instance_segmentation", *given]
    arguments += ["--from-labels", "components", "--limit", 1]
    said = _run(capsys, *arguments, "--out", tmp_path / "mine.jsonl")
    assert "1 samples in 1 rows" in said
    (row,) = (json.loads(line) for line in (tmp_path / "mine.jsonl").read_text().splitlines())
    assert len(row["objects"]["masks"]) == len(row["objects"]["ref"]) > 0


def test_convert_leaves_out_what_is_bad_only_when_told(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = rows()[0]
    bad = {"image": "a.png", "objects": {"ref": ["x"], "bbox": [[9, 9, 5, 5]]}}
    write_jsonl(own / "mixed.jsonl", [good, bad])
    arguments = ("data", "convert", "jsonl", own, "mixed", "--task", "rec", "--out", own / "mine.jsonl")
    assert "mixed.jsonl:2: object 0: box has no area" in _run(capsys, *arguments, code=2)
    said = _run(capsys, *arguments, "--skip-bad")
    assert "2 samples in 1 rows" in said and "left out: 1 x box has no area" in said


def test_validate_lists_and_fixes(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write_jsonl(own / "mixed.jsonl", [rows()[0], "{", rows()[0], rows()[3]])
    lines = _run(capsys, "data", "validate", file, code=2).splitlines()
    assert len(lines) == 3 and "mixed.jsonl:2: is not valid JSON" in lines[0] and "2 problems" in lines[2]
    said = _run(capsys, "data", "validate", file, "--fix-skip", own / "clean.jsonl")
    assert said.splitlines() == [
        f"written: {own / 'clean.jsonl'}: 2 rows",
        "left out: 1 x is not valid JSON",
        "left out: 1 x is a row twice",
    ]
    assert "no problems" in _run(capsys, "data", "validate", own / "clean.jsonl")


def test_validate_and_show_one_task(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad = {"image": "a.png", "classes": ["cup"], "objects": {"ref": ["cap"], "bbox": [[5, 6, 15, 18]]}}
    file = write_jsonl(own / "mixed.jsonl", [*rows(), bad])
    write_jsonl(own / "talk.jsonl", [{"image": "a.png", "question": "what is it?", "answer": "a cup"}])
    assert "unknown class" in _run(capsys, "data", "validate", file, code=2)
    assert "no problems" in _run(capsys, "data", "validate", file, "--task", "rec")
    assert _run(capsys, "data", "show", file, "--task", "res", "--out", own / "seen").count("picture: ") == 1
    for command in ("validate", "show", "stats"):
        (line,) = _run(capsys, "data", command, own / "talk.jsonl", "--task", "detection", code=2).splitlines()[:1]
        assert "talk.jsonl: has no rows for task detection (got vqa 1)" in line
    assert "no such task (got 'recc')" in _run(capsys, "data", "validate", file, "--task", "recc", code=2)


def test_validate_any_dataset(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root, split, _ = data_files.make("coco", tmp_path)
    words = ("data", "validate", "coco", root, split, "--task", "detection")
    assert "no problems" in _run(capsys, *words)
    (tmp_path / "val" / "b.png").unlink()
    (first, last) = _run(capsys, *words, code=2).splitlines()
    assert "coco/val#11" in first and "no such image" in first and "1 problems" in last


def test_show_draws_every_kind_of_truth(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root, split, options = data_files.make("label_folder", tmp_path / "data")
    given = [word for key, value in options.items() for word in ("--option", f"{key}={json.dumps(value)}")]
    words = ("data", "show", "label_folder", root, split, "--task", "semantic_segmentation", *given)
    assert "semantic_segmentation.png" in _run(capsys, *words, "--out", tmp_path / "seen")
    with Image.open(tmp_path / "seen" / "semantic_segmentation.png") as sheet:
        assert sheet.width > 384


def test_stats_as_text_json_and_charts(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = _run(capsys, "data", "stats", own / "train.jsonl", "--out", own / "seen")
    assert said.startswith("rec\n  3 samples of 1 images\n")
    assert sorted(p.stem for p in (own / "seen").iterdir()) == [
        "stats_caption", "stats_conversation", "stats_depth", "stats_detection", "stats_instance_segmentation",
        "stats_rec", "stats_res", "stats_vqa",
    ]  # fmt: skip
    told = json.loads(_run(capsys, "data", "stats", own / "train.jsonl", "--json"))
    assert told["detection"]["classes"] == {"plate": 1, "cup": 1} and told["rec"]["samples"] == 3
    words = ("data", "stats", "scenes", "", "val", "--task", "rec", "--option", "size=2", "--json")
    assert json.loads(_run(capsys, *words))["rec"]["samples"] == 8


def test_audit_of_a_file_and_of_a_recipe(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(3):
        picture(tmp_path / f"{number}.png", number)
    shutil.copy(tmp_path / "1.png", tmp_path / "other.png")
    for name, images in (("train", ["0.png", "1.png"]), ("val", ["other.png", "2.png"])):
        found = [{"image": i, "objects": {"ref": ["it"], "bbox": [[5, 6, 15, 18]]}} for i in images]
        write_jsonl(tmp_path / f"{name}.jsonl", found)
    protocol = {"task": "rec", "dataset": "jsonl", "root": str(tmp_path), "splits": ["val"], "metric": "rec_accuracy"}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(protocol))
    entry = {"task": "rec", "dataset": "jsonl", "root": str(tmp_path)}
    recipe = {"model": {"base": "tiny:llava"}, "data": {"mixture": [entry]}}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    against = ("--against", f"{tmp_path / 'mine.yaml'}:val")
    said = _run(capsys, "data", "audit", tmp_path / "train.jsonl", *against)
    assert "1 of 2 images are among the 2 of evaluation; 1 of 2 samples show them" in said
    assert "train.jsonl:2" in said and "val.jsonl:1" in said and "0 bits" in said
    told = json.loads(_run(capsys, "data", "audit", tmp_path / "recipe.yaml", *against, "--json"))
    (row,) = told["overlaps"]
    assert (row["entry"], row["suite"]) == ("data.mixture.0 (jsonl/train)", "mine:val")
    assert row["overlaps"][0]["bits"] == 0 and not row["overlaps"][0]["by_name"]


def _mine(folder: Path, *splits: str) -> None:
    """A protocol ``mine.yaml`` over JSONL files in the folder."""
    protocol = {"task": "rec", "dataset": "jsonl", "root": str(folder), "metric": "rec_accuracy"}
    (folder / "mine.yaml").write_text(yaml.safe_dump({**protocol, "splits": list(splits)}))


def _boxes(folder: Path, name: str, images: list[str], *bad: dict[str, Any]) -> None:
    rows = [{"image": i, "objects": {"ref": ["it"], "bbox": [[5, 6, 15, 18]]}} for i in images]
    write_jsonl(folder / f"{name}.jsonl", [*rows, *bad])


def test_audit_counts_pictures_and_tells_what_it_did_not_see(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One picture of ours is three of theirs; bad rows and splits that are not there are told."""
    for number in range(2):
        picture(tmp_path / f"{number}.png", number)
    copies = [f"copy_{n}.png" for n in "abc"]
    for copy in copies:
        shutil.copy(tmp_path / "1.png", tmp_path / copy)
    _boxes(tmp_path, "train", ["0.png", "1.png"], {"image": "0.png", "objects": {"ref": ["it"], "bbox": []}})
    _boxes(tmp_path, "val", copies)
    _mine(tmp_path, "val", "test")
    words = ("data", "audit", tmp_path / "train.jsonl", "--against", tmp_path / "mine.yaml")
    said = _run(capsys, *words)
    assert "mine:val: 1 of 2 images are among the 3 of evaluation; 1 of 2 samples show them" in said
    assert "(rec): 1 bad rows were not looked at" in said
    assert "mine:test: cannot be opened, so nothing was compared with it (" in said and "left out" not in said
    told = json.loads(_run(capsys, *words, "--json"))
    (row,) = told["overlaps"]
    assert (row["shared"], len(row["overlaps"]), row["skipped"]) == (1, 3, 1)
    assert [line.partition(": cannot")[0] for line in told["missing"]] == ["mine:test"]


@pytest.mark.parametrize("given", [(), ("--json",)])
def test_an_audit_that_compares_nothing_fails(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], given: tuple[str, ...]
) -> None:
    picture(tmp_path / "0.png", 0)
    _boxes(tmp_path, "val", ["0.png"])
    _boxes(tmp_path, "train", [], *[{"image": "0.png", "objects": {"ref": ["it"], "bbox": []}}] * 4)
    _mine(tmp_path, "val")
    words = ["data", "audit", str(tmp_path / "train.jsonl"), "--against", str(tmp_path / "mine.yaml"), *given]
    assert cli.main(words) == 2
    assert "train.jsonl: no row can be looked at (got 4 bad ones)" in capsys.readouterr().err
    _mine(tmp_path, "test")
    _boxes(tmp_path, "train", ["0.png"])
    assert cli.main(words) == 2
    out, error = capsys.readouterr()
    assert "mine:test: cannot be opened, so nothing was compared with it" in error and "training" not in error
    assert out == "" and error.rstrip().endswith("mine.yaml: no split can be opened; nothing was compared")


def test_check_says_what_training_leaves_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(2):
        picture(tmp_path / f"{number}.png", number)
    for name, images in (("train", ["0.png", "1.png"]), ("val", ["1.png"])):
        found = [{"image": i, "objects": {"ref": ["it"], "bbox": [[5, 6, 15, 18]]}} for i in images]
        write_jsonl(tmp_path / f"{name}.jsonl", found)
    protocol = {"task": "rec", "dataset": "jsonl", "root": str(tmp_path), "splits": ["val"], "metric": "rec_accuracy"}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(protocol))
    entry = {"task": "rec", "dataset": "jsonl", "root": str(tmp_path)}
    recipe = {"model": {"base": "tiny:llava"}, "data": {"mixture": [entry]}}
    recipe["eval"] = {"protocols": [str(tmp_path / "mine.yaml")]}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    said = _run(capsys, "check", tmp_path / "recipe.yaml")
    assert "1 of 2 samples of data.mixture.0 show images of mine:val; left out" in said and ", 1 samples," in said


def test_a_cache_that_cannot_be_written(
    own: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (own / "file").write_text("in the way")
    monkeypatch.setenv("UFO_TUNE_CACHE", str(own / "file"))
    said = _run(capsys, "data", "stats", own / "train.jsonl", code=2)
    assert "UFO_TUNE_CACHE: " in said and "cannot be written" in said and "Traceback" not in said


def test_a_task_is_found_once_for_all_samples(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Finding a plug-in lists folders: at a hundred thousand samples that took a third of the time."""
    asked: list[str] = []
    find = plugins.find
    monkeypatch.setattr(plugins, "find", lambda kind, name: asked.append(name) or find(kind, name))
    samples = jsonl.open_file(own / "train.jsonl", task="rec")
    assert len(samples) > 1
    for _ in range(5):
        assert list(inspect.sample_problems(samples)) == []
    assert asked.count("rec") <= 1
