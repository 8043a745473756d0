"""docs/own_data.md, followed literally: every command of the guide runs, from two photographs to an answer."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
from PIL import Image

from tests.data_files import picture, rectangle
from ufo_tune import cli

GUIDE = Path(__file__).resolve().parents[2] / "docs" / "own_data.md"


def commands() -> list[str]:
    blocks = re.findall(r"```sh\n(.*?)```", GUIDE.read_text(encoding="utf-8"), flags=re.S)
    return [line for block in blocks for line in block.strip().splitlines()]


def photographs(folder: Path) -> None:
    """The guide's tree, with noise for photographs."""
    for part, number, phrase in (("train", "0001", "the_red_cup"), ("val", "0002", "the_blue_plate")):
        picture(folder / f"my_masks/images/{part}/{number}.jpg")
        file = folder / f"my_masks/masks/{part}/{number}_{phrase}.png"
        file.parent.mkdir(parents=True)
        Image.fromarray(rectangle(10, 8, 40, 30)).save(file)


def test_every_command_of_the_guide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photographs(tmp_path)
    monkeypatch.chdir(tmp_path)
    lines = commands()
    assert len(lines) >= 11
    for line in lines:
        words = shlex.split(line)
        if words[0] == "export":
            monkeypatch.setenv(*words[1].split("="))
            continue
        assert words[0] == "ufo-tune"
        words = ["2" if word == "500" else word for word in words]  # the guide's steps, for a test's patience
        assert cli.main(words[1:]) == 0, line
    assert (tmp_path / "seen" / "res.png").is_file()
    assert (tmp_path / "scores" / "report.html").is_file()
    answer = json.loads(next((tmp_path / "answers").glob("*.json")).read_text())
    assert answer
