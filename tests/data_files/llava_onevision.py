"""LLaVA-OneVision's single-image conversations: LLaVA's rows, one a line, a file per subset."""

from __future__ import annotations

from pathlib import Path

from tests.data_files import Call, picture, write_json, write_jsonl
from tests.data_files.llava_instruct import chat


def make(folder: Path) -> Call:
    """``train/`` with two files, one of each form, and their images."""
    picture(folder / "a.png", 0)
    picture(folder / "b.gif", 1)
    (folder / "train").mkdir()
    write_jsonl(folder / "train" / "ai2d.jsonl", [chat("What is it?", "A cup.", id="x", image="a.png")])
    more = [chat("<image>\nHow many?", "Two", "Sure?", "Yes", id="x", image="b.gif")]
    write_json(folder / "train" / "vqa.json", more)
    return str(folder), "train", {}
