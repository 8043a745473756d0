"""docs/publish.md, followed literally, and the code of the card that it leads to."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests import hub_server
from tests.e2e.test_merge import MEND
from tests.e2e.test_own_data import photographs
from tests.unit.conftest import GOOD, point_to
from ufo_tune import cli
from ufo_tune.engine import probe
from ufo_tune.engine.load import base, load

GUIDE = Path(__file__).resolve().parents[2] / "docs" / "publish.md"


def run(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A line of the guide; output goes to a file where it says so."""
    command, _, file = line.partition(" > ")
    words = shlex.split(command)
    if words[0] == "export":
        monkeypatch.setenv(*words[1].split("="))
        return
    assert words[0] == "ufo-tune"
    said = io.StringIO()
    with contextlib.redirect_stdout(said) if file else contextlib.nullcontext():
        assert cli.main(words[1:]) == 0, line
    if file:
        Path(file).write_text(said.getvalue())


def test_every_command_of_the_guide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photographs(tmp_path)
    monkeypatch.chdir(tmp_path)
    shutil.copy("my_masks/images/val/0002.jpg", "photo.jpg")
    for split in ("train", "val"):
        run(f"ufo-tune data convert mask_folder my_masks {split} --task res --out my/{split}.jsonl", monkeypatch)
    run("ufo-tune prepare tiny:llava --out bases/mine", monkeypatch)
    monkeypatch.setenv("DATA", "my")
    run("ufo-tune train own_masks --model.base bases/mine --out runs/mine --train.max_steps 2 --quiet", monkeypatch)
    blocks = re.findall(r"```sh\n(.*?)```", GUIDE.read_text(encoding="utf-8"), flags=re.S)
    lines = [line for block in blocks for line in block.strip().splitlines()]
    assert len(lines) >= 7
    with hub_server.Hub({GOOD: "org"}) as hub:
        point_to(hub, monkeypatch, tmp_path / "cache")
        for line in lines:
            run(line, monkeypatch)
        up = hub.files("org/name")
        for file in (tmp_path / "merged").iterdir():
            assert up[file.name] == file.read_bytes()
        assert json.loads(next((tmp_path / "answers").glob("*.json")).read_text())
        told(up)
        expected, found = (probe.outputs(load(path)) for path in ("merged", "org/name"))
        assert all((expected[name] == found[name]).all() for name in expected)
        assert base("org/name", "llava", {}, {}).codec == load("merged").codec
        assert base("org/name", "llava", {"num_bins": 7}, {}).codec.num_bins == 7  # the recipe's, where it has one
        code = re.findall(r"```python\n(.*?)```", up["README.md"].decode(), flags=re.S)
        assert len(code) == 2
        exec(code[0], {})
        alone(code[1], hub.url, tmp_path / "fresh")


def told(up: dict[str, bytes]) -> None:
    """What a stranger learns from the page, and what not."""
    settings = json.loads(up["ufo_config.json"])
    assert settings["origin"] == {"base": "tiny:llava", "licence": "apache-2.0"}
    trained = settings["trained"]
    assert trained["tasks"] == ["res"] and trained["steps"] == 2 and trained["seconds"] > 0
    assert trained["recipe"]["train"]["max_steps"] == 2 and trained["recipe"]["model"]["base"] == "tiny:llava"
    assert {"torch", "transformers", "peft"} <= trained["versions"].keys()
    card = up["README.md"].decode()
    assert "license: apache-2.0" in card and "measured on the run before it was merged" in card
    # `photographs` draws the same noise twice: training did see the test, and the page says so.
    assert "1 of 1 pictures of this data are among the 1 of evaluation" in card
    assert any(name.startswith("images/own_masks_val_") for name in up)


def alone(code: str, url: str, home: Path) -> None:
    """The card's code in a process where ufo-tune cannot be imported, from the Hub."""
    code = f"{MEND}\n{code}\nassert answer.numel() > 0\n"
    switches = {"HF_ENDPOINT": url, "HF_TOKEN": GOOD, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=os.environ | switches, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
