"""REFER's ``refs(unc).p`` and ``instances.json`` (lichengunc/refer), pickled as Python 2 did."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

from tests.data_files import SIZE, Call, picture, rectangle, rle, write_json


def instances() -> dict[str, Any]:
    """Two images; a polygon, two polygons of one thing, run lengths."""
    return {
        "categories": [{"id": 1, "name": "cup", "supercategory": "kitchen"}],
        "images": [
            {"id": 9, "file_name": "COCO_train2014_000000000009.jpg", "height": SIZE[0], "width": SIZE[1]},
            {"id": 25, "file_name": "COCO_train2014_000000000025.jpg", "height": SIZE[0], "width": SIZE[1]},
        ],
        "annotations": [
            {"id": 101, "image_id": 9, "category_id": 1, "bbox": [5, 6, 10, 12], "area": 120, "iscrowd": 0,
             "segmentation": [[5, 6, 15, 6, 15, 18, 5, 18]]},
            {"id": 102, "image_id": 9, "category_id": 1, "bbox": [20, 10, 30, 20], "area": 300, "iscrowd": 0,
             "segmentation": [[20, 10, 30, 10, 30, 30, 20, 30], [40, 10, 50, 10, 50, 20, 40, 20]]},
            {"id": 103, "image_id": 25, "category_id": 1, "bbox": [30, 10, 20, 20], "area": 400, "iscrowd": 0,
             "segmentation": rle(rectangle(30, 10, 50, 30))},
        ],
    }  # fmt: skip


def ref(number: int, ann: Any, image: int, split: str, *sents: str) -> dict[str, Any]:
    """One entry of the refs file."""
    ids = [10 * number + k for k in range(len(sents))]
    return {
        "ref_id": number, "ann_id": ann, "category_id": 1, "image_id": image, "split": split, "sent_ids": ids,
        "file_name": f"COCO_train2014_{image:012d}_{number}.jpg",
        "sentences": [
            {"sent_id": i, "sent": s, "raw": s.upper(), "tokens": s.split()} for i, s in zip(ids, sents, strict=True)
        ],
    }  # fmt: skip


def refs() -> list[dict[str, Any]]:
    """Refs of several splits, in no order."""
    return [
        ref(0, 102, 9, "val", "two cups on the right", "right pair"),
        ref(1, 103, 25, "train", "cup"),
        ref(2, 101, 9, "val", "left cup"),
        ref(3, 103, 25, "testA", "the only cup"),
        ref(4, 103, 25, "testB", "cup here"),
    ]


def write(folder: Path, found: list[dict[str, Any]], boxes: dict[str, Any], name: str = "refcoco/refs(unc).p") -> Path:
    """REFER's two files and the images."""
    file = folder / name
    write_json(file.with_name("instances.json"), boxes)
    file.write_bytes(pickle.dumps(found, protocol=2))
    for number, image in enumerate(boxes["images"]):
        picture(folder / "images" / "mscoco" / "images" / "train2014" / str(image["file_name"]), number)
    return folder


def make(folder: Path) -> Call:
    """``refcoco/`` and ``images/mscoco/images/train2014/``."""
    return str(write(folder, refs(), instances())), "val", {}
