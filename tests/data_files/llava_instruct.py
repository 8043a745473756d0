"""LLaVA's list of conversations (github.com/haotian-liu/LLaVA, docs/Finetune_Custom_Data.md)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.data_files import Call, picture, write_json


def chat(*texts: str, **more: Any) -> dict[str, Any]:
    """One conversation; human and gpt take turns."""
    turns = [{"from": ("human", "gpt")[i % 2], "value": text} for i, text in enumerate(texts)]
    return {**more, "conversations": turns}


def rows() -> list[dict[str, Any]]:
    """One turn, three turns, text only, an answer that comes first."""
    return [
        chat("<image>\nWhat is it?", "A cup.", id="000000000009", image="coco/train2017/a.png"),
        chat("Is it red?\n<image>", "Yes", "And blue?", "No", "Why <image> so?", "Paint.", id="9", image="b.png"),
        chat("Write <image src> in XML, <image> too.", "Done.", id="sharegpt"),
        {"image": "b.png", "conversations": [{"from": "gpt", "value": "Hi"}, *chat("What?", "A cup")["conversations"]]},
    ]


def make(folder: Path) -> Call:
    """``mix.json`` and its images; conversations without image are left out."""
    picture(folder / "coco" / "train2017" / "a.png", 0)
    picture(folder / "b.png", 1)
    write_json(folder / "mix.json", rows())
    return str(folder), "mix", {"text_only": "drop"}
