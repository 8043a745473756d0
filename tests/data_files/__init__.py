"""Tiny native files of every dataset, made by code from the published descriptions of their formats.

``make("coco", folder)`` writes those of one dataset and gives the arguments of its ``load``; the maker is
``tests/data_files/<dataset>.py``. ``scripts/make_fixtures.py`` writes them for people to look at.
"""

from __future__ import annotations

import importlib
import json
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


def write_json(path: Path, value: Any) -> Path:
    """One JSON document, with the folders that it needs."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")
    return path


def make(name: str, folder: Path) -> Call:
    """Write the tiny files of one dataset."""
    try:
        maker = importlib.import_module(f"tests.data_files.{name}")
    except ModuleNotFoundError as error:
        raise AssertionError(f"datasets/{name}: add a maker of tiny files, tests/data_files/{name}.py") from error
    call: Call = maker.make(folder)
    return call
