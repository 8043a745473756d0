"""LVIS v1's annotation file and COCO's folders of images (lvisdataset.org, "Dataset")."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.data_files import SIZE, Call, picture, write_json

URL = "http://images.cocodataset.org/"


def image(number: int, place: str, **lists: list[int]) -> dict[str, Any]:
    """One row of ``images``."""
    found = {"neg_category_ids": [], "not_exhaustive_category_ids": []} | lists
    return {"id": number, "height": SIZE[0], "width": SIZE[1], "coco_url": f"{URL}{place}", **found}


def rows() -> dict[str, Any]:
    """Categories and images out of order; one with both kinds of lists, one without objects."""
    return {
        "info": {"version": "v1.0", "description": "{\"[,]\"} \\u00e9"},
        "categories": [
            {"id": 9, "name": "bow_(weapon)", "frequency": "r", "synset": "bow.n.04", "synonyms": ["bow"], "def": ""},
            {"id": 4, "name": "apple", "frequency": "f", "synset": "apple.n.01", "synonyms": ["apple"], "def": "é"},
            {"id": 6, "name": "wine_bucket", "frequency": "c", "synset": "x.n.01", "synonyms": [], "def": "{"},
        ],
        "annotations": [
            {"id": 1, "image_id": 20, "category_id": 4, "bbox": [5, 6, 10, 12], "area": 120,
             "segmentation": [[5, 6, 15, 6, 15, 18, 5, 18]]},
            {"id": 2, "image_id": 3, "category_id": 9, "bbox": [30, 10, 20, 20], "area": 400,
             "segmentation": [[30, 10, 50, 10, 50, 30, 30, 30]]},
            {"id": 3, "image_id": 20, "category_id": 9, "bbox": [30, 10, 20, 20], "area": 400,
             "segmentation": [[30, 10, 40, 10, 40, 30, 30, 30], [40, 10, 50, 10, 50, 30, 40, 30]]},
        ],
        "images": [
            image(20, "val2017/000000000020.jpg", neg_category_ids=[6]),
            image(3, "train2017/000000000003.jpg", neg_category_ids=[6, 4], not_exhaustive_category_ids=[4]),
            image(21, "train2017/000000000021.jpg", neg_category_ids=[9, 4]),
        ],
    }  # fmt: skip


def make(folder: Path) -> Call:
    """``annotations/lvis_v1_val.json``, ``train2017/``, ``val2017/``."""
    data = rows()
    write_json(folder / "annotations" / "lvis_v1_val.json", data)
    for row in data["images"]:
        picture(folder / row["coco_url"].removeprefix(URL), row["id"])
    return str(folder), "val", {}
