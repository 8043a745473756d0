"""docs/refcoco.md, docs/evaluate.md and docs/extending.md, followed literally on made files.

What a test must do otherwise: the base is the small random one that refcoco.md names for a laptop, steps are few, in
float32 (a process has one precision) and by one process, entries without data are taken out of the recipe as the page
says, and the Hub is on loopback. What needs another package (lmms-eval) is left out.
"""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from tests import hub_server, tiny
from tests.data_files import make
from tests.data_files.refcoco import instances, ref, write
from tests.unit.conftest import GOOD, point_to
from ufo_tune import cli
from ufo_tune.core.types import Answer, Dialogue, Turn
from ufo_tune.engine.trainable import Trainable

DOCS = Path(__file__).resolve().parents[2] / "docs"
FEW = {
    "train.bf16": "false",
    "train.max_steps": 1,
    "train.gradient_accumulation_steps": 1,
    "data.num_workers": 0,
    "eval.protocols": "[]",
}
BASE = "llava-hf/llava-1.5-7b-hf"
REFS = [ref(0, 101, 9, "train", "left cup")]
REFS += [ref(number, 103, 25, split, "the cup") for number, split in enumerate(("val", "testA", "testB"), 1)]


def blocks(page: str, language: str) -> list[str]:
    """The fenced blocks of a page."""
    return re.findall(rf"```{language}\n(.*?)```", (DOCS / page).read_text(encoding="utf-8"), flags=re.S)


def lines(page: str) -> list[str]:
    """Its commands, without what they need around them."""
    found = [line for block in blocks(page, "sh") for line in shlex_lines(block)]
    return [re.sub(r"^accelerate launch (?:--config_file \S+ )?-m ufo_tune", "ufo-tune", line) for line in found]


def shlex_lines(block: str) -> list[str]:
    """Lines without comments."""
    return [shlex.join(words) for line in block.splitlines() if (words := shlex.split(line, comments=True))]


def run(line: str, monkeypatch: pytest.MonkeyPatch, further: tuple[str, ...] = ()) -> None:
    """One command in this process."""
    words = shlex.split(line)
    if words[0] == "export":
        monkeypatch.setenv(*words[1].split("="))
        return
    assert words[0] == "ufo-tune", line
    assert cli.main([*words[1:], *further]) == 0, line


def test_refcoco_from_download_to_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "data" / "refer_seg", REFS, instances())
    Image.fromarray(tiny.image()).save("photo.jpg")
    few = [str(word) for name, value in FEW.items() for word in (f"--{name}", value)]
    with hub_server.Hub({GOOD: "my-name"}) as hub:
        point_to(hub, monkeypatch, tmp_path / "cache")
        for line in lines("refcoco.md"):
            given = line.replace(BASE, "tiny:llava")
            run(given, monkeypatch, tuple(few) if " train " in line and "data" not in line else ())
            if "recipes copy llava15_7b_res" in line:
                only_refcoco(Path("res.yaml"))
        (code,) = blocks("refcoco.md", "python")
        known: dict[str, Any] = {}
        exec(code.replace("model.segment", "seen = model.segment").replace(".show()", ""), known)  # no window here
    assert known["seen"].masks.shape == (1, *Image.open("photo.jpg").size[::-1])
    assert (tmp_path / "seen" / "res.png").is_file() and (tmp_path / "scores" / "report.html").is_file()


def only_refcoco(recipe: Path) -> None:
    """Take out what there is no data for, as the page says."""
    document: dict[str, Any] = yaml.safe_load(recipe.read_text())
    document["data"]["mixture"] = document["data"]["mixture"][:1]
    document["eval"]["protocols"] = ["res_refcoco"]
    recipe.write_text(yaml.safe_dump(document))


def test_evaluating(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "files" / "refer_seg", REFS, instances())
    make("reason_seg", tmp_path / "files" / "reason_seg")
    shutil.copytree("files/reason_seg/val", "files/reason_seg/test")
    tiny.model("llava", tmp_path).save(tmp_path / "runs" / "mine")
    for line in lines("evaluate.md"):
        if "lmms" in line:
            continue
        if "--compare" in line:
            for name in ("a", "b"):
                shutil.copytree("scores", f"runs/{name}/eval")
        run(line.replace("DATA=...", f"DATA={tmp_path / 'files'}").replace("$DATA", "files"), monkeypatch)
    assert (tmp_path / "scores" / "report.html").is_file()


def test_the_dataset_of_the_page_on_extending() -> None:
    code, _ = blocks("extending.md", "python")
    module: dict[str, Any] = {}
    exec(code, module)
    for task in module["TASKS"]:
        sample = module["load"]("", "val", task=task, size=2)[1]
        x0, y0, x1, y1 = (int(v) for v in sample.targets.boxes[0])
        assert sample.image[y0:y1, x0:x1].all() and sample.image.sum() == 255 * 3 * (x1 - x0) * (y1 - y0)


def test_the_objective_of_the_page_on_extending(tmp_path: Path) -> None:
    """As a module of its own beside ours: a term, counted before the pass, and gradients of its layers."""
    _, code = blocks("extending.md", "python")
    module: dict[str, Any] = {}
    exec(code, module)
    model = tiny.model("llava", tmp_path)
    trained = Trainable(model, {"next_token": {}})
    trained.objectives["mine"] = module["Objective"](model.vlm.width, share=0.9)
    asked = Dialogue((Turn("where is the red circle", (Answer("a", phrase="the red circle"),)),))
    (term,) = module["TERMS"]
    for dialogue in (asked, Dialogue((Turn("what is red", (Answer("a"),)),))):
        batch = tiny.batch(model, [dialogue])
        terms = trained(batch)
        assert float(terms[term].count) == float(trained.counts(batch)[term])
        assert (float(terms[term].count) > 0) == (float(terms[term].total) > 0) == (dialogue is asked)
        terms[term].total.backward()
    assert all(p.grad is not None and p.grad.any() for p in trained.objectives.parameters())
