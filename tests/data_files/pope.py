"""POPE's files of one JSON object per line (AoiDragon/POPE, ``output/coco``)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.data_files import Call, picture, write_jsonl

IMAGES = ("COCO_val2014_000000548882.jpg", "COCO_val2014_000000008211.jpg")
THINGS = {"random": ("zebra", "spoon"), "popular": ("person", "car"), "adversarial": ("fork", "helmet")}
"""Of each split, what is not in the images."""


def rows(split: str) -> list[dict[str, Any]]:
    """Two questions about each image: what is there, and what is not."""
    found = []
    for image, there, absent in zip(IMAGES, ("dining table", "motorcycle"), THINGS[split], strict=True):
        for thing, label in ((there, "yes"), (absent, "no")):
            text = f"Is there a {thing} in the image?"
            id = int(image[-10:-4])
            found.append({"question_id": len(found), "image": image, "image_id": id, "text": text, "label": label})
    return found


def make(folder: Path) -> Call:
    """All three files and ``val2014/``."""
    for number, name in enumerate(IMAGES):
        picture(folder / "val2014" / name, number)
    for split in THINGS:
        write_jsonl(folder / f"coco_pope_{split}.json", rows(split))
    return str(folder), "random", {}
