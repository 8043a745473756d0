"""COCO's instances file and images (cocodataset.org, "Data format")."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from tests.data_files import SIZE, Call, picture, rectangle, rle, write_json


def instances() -> dict[str, Any]:
    """A COCO instances file: ids out of order, a polygon, both kinds of run lengths, a crowd, an image without any."""
    bitmap = rectangle(30, 10, 50, 30)
    runs = np.diff(np.flatnonzero(np.diff(np.concatenate([[2], bitmap.T.reshape(-1), [2]]))))  # column by column
    return {
        "categories": [{"id": 7, "name": "plate"}, {"id": 3, "name": "cup"}],
        "images": [
            {"id": 11, "file_name": "b.png", "height": SIZE[0], "width": SIZE[1]},
            {"id": 2, "file_name": "a.png", "height": SIZE[0], "width": SIZE[1]},
            {"id": 12, "file_name": "c.png", "height": SIZE[0], "width": SIZE[1]},
        ],
        "annotations": [
            {"id": 1, "image_id": 2, "category_id": 3, "bbox": [5, 6, 10, 12], "area": 120, "iscrowd": 0,
             "segmentation": [[5, 6, 15, 6, 15, 18, 5, 18]]},
            {"id": 2, "image_id": 2, "category_id": 7, "bbox": [30, 10, 20, 20], "area": 400, "iscrowd": 0,
             "segmentation": {"size": list(SIZE), "counts": runs.tolist()}},
            {"id": 3, "image_id": 11, "category_id": 7, "bbox": [0, 0, 60, 20], "area": 1200, "iscrowd": 1,
             "segmentation": rle(rectangle(0, 0, 60, 20))},
        ],
    }  # fmt: skip


def make(folder: Path) -> Call:
    """``annotations/instances_val.json`` and ``val/``."""
    write_json(folder / "annotations" / "instances_val.json", instances())
    for number, name in enumerate("abc"):
        picture(folder / "val" / f"{name}.png", number)
    return str(folder), "val", {}
