"""PACO-LVIS v1's annotation file (github.com/facebookresearch/paco, docs/PACO_DATASET.md)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.data_files import SIZE, Call, picture, rectangle, rle, write_json


def rows() -> dict[str, Any]:
    """An object and two of its parts, of which one was looked for in vain in the second image."""
    names = {23: "trash_can", 207: "car_(automobile)", 2000: "car_(automobile):door_handle", 2001: "trash_can:lid"}
    boxes = {1: (207, [5, 6, 25, 26]), 2: (2000, [10, 12, 14, 20])}
    return {
        "images": [
            {"id": 8, "file_name": "train2017/000000000008.jpg", "height": SIZE[0], "width": SIZE[1], "license": 1,
             "neg_category_ids": [23], "not_exhaustive_category_ids": []},
            {"id": 7, "file_name": "val2017/000000000007.jpg", "height": SIZE[0], "width": SIZE[1], "license": 1,
             "neg_category_ids": [2001, 2000], "not_exhaustive_category_ids": []},
        ],
        "annotations": [
            {"id": n, "image_id": 8, "category_id": kind, "bbox": [x0, y0, x1 - x0, y1 - y0],
             "area": (x1 - x0) * (y1 - y0), "segmentation": rle(rectangle(x0, y0, x1, y1)), "obj_ann_id": 1,
             "attribute_ids": [], "dom_color_ids": []}
            for n, (kind, (x0, y0, x1, y1)) in boxes.items()
        ],
        "categories": [
            {"id": n, "name": name, "supercategory": "PART" if ":" in name else "OBJECT", "frequency": "f"}
            for n, name in reversed(names.items())
        ],
        "part_categories": [{"id": 0, "name": "lid", "supercategory": "PART"}],
        "attr_type_to_attr_idxs": {"color": [0, 1], "transparency": []},
    }  # fmt: skip


def make(folder: Path) -> Call:
    """``annotations/paco_lvis_v1_train.json``, ``train2017/``, ``val2017/``."""
    data = rows()
    write_json(folder / "annotations" / "paco_lvis_v1_train.json", data)
    for row in data["images"]:
        picture(folder / row["file_name"], row["id"])
    return str(folder), "train", {}
