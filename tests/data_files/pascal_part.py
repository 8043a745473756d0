"""PASCAL-Part in VLPart's form, with its boxes that end one pixel too early (tools/pascal_part_mat2json.py)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.data_files import SIZE, Call, picture, rectangle, rle, write_json

PARTS = {0: (4, (5, 6, 15, 18)), 1: (19, (30, 10, 50, 30)), 2: (4, (20, 20, 21, 36))}


def rows() -> dict[str, Any]:
    """Two parts, one a column of pixels wide; one annotation without a mask."""
    return {
        "categories": [
            {"id": 4, "name": "aeroplane:wheel"},
            {"id": 19, "name": "bus:license plate", "abbr": "bus:liplate"},
        ],
        "images": [
            {"id": 2008000003, "file_name": "2008_000003.jpg", "height": SIZE[0], "width": SIZE[1]},
            {"id": 2008000002, "file_name": "2008_000002.jpg", "height": SIZE[0], "width": SIZE[1]},
        ],
        "annotations": [
            {"id": n, "image_id": 2008000003 - n % 2, "category_id": kind, "iscrowd": 0,
             "segmentation": rle(rectangle(*box)), "area": (box[2] - box[0] - 1) * (box[3] - box[1] - 1),
             "bbox": [box[0], box[1], box[2] - box[0] - 1, box[3] - box[1] - 1]}
            for n, (kind, box) in PARTS.items()
        ] + [{"id": 3, "image_id": 2008000003, "category_id": 4, "iscrowd": 0, "segmentation": [], "area": 4,
              "bbox": [1, 1, 2, 2]}],
    }  # fmt: skip


def make(folder: Path) -> Call:
    """``train.json`` and ``VOCdevkit/VOC2010/JPEGImages``."""
    data = rows()
    write_json(folder / "train.json", data)
    for row in data["images"]:
        picture(folder / "VOCdevkit" / "VOC2010" / "JPEGImages" / row["file_name"], row["id"])
    return str(folder), "train", {}
