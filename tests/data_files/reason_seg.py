"""ReasonSeg's pairs of image and JSON (dvlab-research/LISA, "Dataset")."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.data_files import Call, picture, write_json

Corners = list[list[float]]


def rectangle_shape(label: str, x0: float, y0: float, x1: float, y1: float) -> dict[str, Any]:
    """A polygon whose corners are its outermost pixels."""
    return shape(label, [[x0, y0], [x1, y0], [x1, y1], [x0, y1]])


def shape(label: str, points: Corners) -> dict[str, Any]:
    """A shape as LabelMe writes it."""
    return {"label": label, "labels": [label], "shape_type": "polygon", "points": points, "group_id": None, "flags": {}}


def annotation(text: list[str], is_sentence: bool, *shapes: dict[str, Any]) -> dict[str, Any]:
    """One JSON file."""
    return {"text": text, "is_sentence": is_sentence, "shapes": list(shapes)}


def make(folder: Path) -> Call:
    """``val/`` and ``train/`` of two images each."""
    short = annotation(
        ["something to sit on"],
        False,
        rectangle_shape("target", 5, 6, 24.9, 25.2),
        rectangle_shape("ignore", 10, 10, 14, 14),
        shape("flag", [[1, 1], [2, 2]]),
    )
    long = annotation(
        ["What is it that one drinks from?", "From what would one drink?"],
        True,
        rectangle_shape("target", 30, 5, 49, 34),
    )
    for split in ("val", "train"):
        for number, (name, data) in enumerate({"chair": short, "cup": long}.items()):
            picture(folder / split / f"{name}.jpg", number)
            write_json(folder / split / f"{name}.json", data)
    return str(folder), "val", {"sentences": "all"}
