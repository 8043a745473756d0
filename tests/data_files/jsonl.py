"""Our own JSONL, with rows of every task."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.data_files import Call, picture, rectangle, rle, write_jsonl
from tests.data_files.depth_folder import depth_map, millimetres


def rows() -> list[dict[str, Any]]:
    """Rows of every task."""
    box, other = [5, 6, 15, 18], [30, 10, 50, 30]
    return [
        {"image": "a.png", "objects": {"ref": ["the red cup", "a plate"], "bbox": [box, other]}},
        {"images": ["a.png"], "objects": {"ref": ["cup"], "bbox": [box], "masks": [rle(rectangle(*box))]}},
        {"image": "b.png", "classes": ["cup", "plate"], "objects": {"ref": ["plate", "cup"], "bbox": [other, box],
         "masks": [[[30, 10, 50, 10, 50, 30, 30, 30]], rle(rectangle(*box))], "crowd": [False, True]}},
        {"image": "c.png", "classes": ["cup", "plate"]},
        {"image": "a.png", "question": "How many cups?", "answer": "one"},
        {"image": "c.png", "depth": "c_depth.png", "depth_scale": 0.002},
        {"image": "b.png", "answer": ["a cup and a plate", "two things"]},
        {"image": "b.png", "messages": [
            {"role": "user", "content": "<image>Where is the cup?"}, {"role": "assistant", "content": "At <bbox>."},
            {"role": "user", "content": "Segment what is at <bbox>."}, {"role": "assistant", "content": "<mask>"}],
         "objects": {"bbox": [box, other, other],
                     "masks": [rle(rectangle(*box)), rle(rectangle(*other)), rle(rectangle(*other))]}},
    ]  # fmt: skip


def make(folder: Path) -> Call:
    """``train.jsonl`` and its images."""
    for number, name in enumerate("abc"):
        picture(folder / f"{name}.png", number)
    depth_map(folder / "c_depth.png", millimetres())
    write_jsonl(folder / "train.jsonl", rows())
    return str(folder), "train", {}
