"""Tiny files of every dataset, made by code: ``make("coco", folder)`` gives the arguments of its ``load``."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

SIZE = (40, 60)
"""(H, W) of every image here."""
Call = tuple[str, str, dict[str, Any]]
"""Root, split, options."""


def rectangle(x0: int, y0: int, x1: int, y1: int) -> np.ndarray:
    """[H, W] bool: a mask with exactly these bounds."""
    bitmap = np.zeros(SIZE, dtype=bool)
    bitmap[y0:y1, x0:x1] = True
    return bitmap


def rle(bitmap: np.ndarray) -> dict[str, Any]:
    """Run lengths as JSON has them."""
    found = coco_mask.encode(np.asfortranarray(bitmap.astype(np.uint8)))
    return {"size": [int(v) for v in found["size"]], "counts": found["counts"].decode()}


def picture(path: Path, seed: int = 0, size: tuple[int, int] = SIZE) -> Path:
    """A noise image."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def write_jsonl(path: Path, rows: list[Any]) -> Path:
    """One JSON document a line; a text is written as it is."""
    path.write_text("".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in rows), encoding="utf-8")
    return path


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


def _coco(folder: Path) -> Call:
    (folder / "annotations").mkdir()
    (folder / "annotations" / "instances_val.json").write_text(json.dumps(instances()))
    for number, name in enumerate("abc"):
        picture(folder / "val" / f"{name}.png", number)
    return str(folder), "val", {}


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
    ]  # fmt: skip


def _jsonl(folder: Path) -> Call:
    for number, name in enumerate("abc"):
        picture(folder / f"{name}.png", number)
    write_jsonl(folder / "train.jsonl", rows())
    return str(folder), "train", {}


def _scenes(folder: Path) -> Call:
    return "", "val", {"size": 6}


MAKERS: dict[str, Callable[[Path], Call]] = {"coco": _coco, "jsonl": _jsonl, "scenes": _scenes}


def make(name: str, folder: Path) -> Call:
    """Write the tiny files of one dataset."""
    assert name in MAKERS, f"datasets/{name}: add a maker of tiny files to tests/data_files.py"
    return MAKERS[name](folder)
