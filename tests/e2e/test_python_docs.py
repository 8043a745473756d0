"""docs/python.md, followed literally: every block of Python runs, one after the other, on a model of all tasks."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import ufo_tune
from tests import tiny
from ufo_tune.plugins import names

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "python.md").read_text(encoding="utf-8")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The page's folder: a random model that says it was trained on everything, and noise for photographs."""
    module = tiny.model("llava", tmp_path)
    module.settings["templates"] = {task: "" for task in names("tasks")}
    small = {"rows": 2, "cols": 2}
    module.settings["task_options"] = {"detection": small, "instance_segmentation": small}
    module.save(tmp_path / "quickstart" / "merged")
    for number, name in enumerate(("photo.jpg", "other.jpg")):
        Image.fromarray(tiny.image(number)).save(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_every_block_of_the_page(here: Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```", PAGE, flags=re.S)
    assert len(blocks) >= 7
    known: dict[str, Any] = {}
    for block in blocks:
        exec(compile(block, "docs/python.md", "exec"), known)
    assert known["result"].masks.shape == (1, 40, 56) and known["result"].masks.dtype == np.bool_
    assert [known[name].sample.text for name in ("ball", "cup")] == ["the red ball", "the cup"]
    assert {path.name for path in here.glob("seen.*")} == {"seen.png", "seen.jpg", "seen.json"}
    assert known["messages"][1] == known["answer"].message and known["recipe"].train.max_steps == 10


def test_the_page_names_every_method_and_task() -> None:
    rows = re.findall(r"^\| `(\w+)\(.*?\| (`[^|]*) \|$", PAGE, flags=re.M)
    assert {task for _, told in rows for task in re.findall(r"`(\w+)`", told)} == set(names("tasks"))
    assert all(callable(getattr(ufo_tune.Model, method)) for method, _ in rows)
    public = {name for name, value in vars(ufo_tune.Model).items() if callable(value) and name[0] != "_"}
    assert {method for method, _ in rows} == public - {"predict"}
